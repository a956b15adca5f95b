use super::*;
use crate::sim_disk::SimDisk;

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: vec![index as u8; 40], ..Entry::default() }
}

fn state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit }
}

fn read(disk: &SimDisk) -> Result<Loaded, Fault> {
    load(&disk.read(FILE).unwrap().unwrap(), 3)
}

/// A log with three synced batches, and its size after each.
fn written() -> (SimDisk, Vec<u64>) {
    let mut disk = SimDisk::new();
    let mut file = LogFile::begin(&mut disk, 3, (1, 1), &state(1, 0, 1), &[]).unwrap();
    let mut sizes = vec![file.bytes()];
    for (hard_state, entries) in [
        (state(2, 3, 1), vec![entry(2, 2), entry(3, 2), entry(4, 2)]),
        (state(3, 1, 2), vec![entry(3, 3)]),
        (state(3, 1, 3), vec![entry(4, 3), entry(5, 3)]),
    ] {
        file.append(&mut disk, &hard_state, &entries).unwrap();
        sizes.push(file.bytes());
    }
    (disk, sizes)
}

#[test]
fn what_was_written_comes_back_with_replaced_entries() {
    let (disk, sizes) = written();
    let loaded = read(&disk).unwrap();
    assert_eq!(loaded.base, (1, 1));
    assert_eq!(loaded.hard_state, state(3, 1, 3));
    assert_eq!(loaded.entries, vec![entry(2, 2), entry(3, 3), entry(4, 3), entry(5, 3)]);
    assert_eq!(disk.read(FILE).unwrap().unwrap().len() as u64, *sizes.last().unwrap());
}

#[test]
fn a_cut_at_any_byte_keeps_every_batch_before_it() {
    let (disk, sizes) = written();
    let whole = disk.read(FILE).unwrap().unwrap();
    let expected = [(state(1, 0, 1), 1), (state(2, 3, 1), 4), (state(3, 1, 2), 3), (state(3, 1, 3), 5)];
    for length in sizes[0]..=sizes[3] {
        let batches = sizes.iter().filter(|size| **size <= length).count() - 1;
        let loaded = load(&whole[..length as usize], 3).unwrap();
        assert_eq!((loaded.hard_state.clone(), loaded.last()), expected[batches], "cut at {length}");
    }
}

#[test]
fn contradictions_are_damage() {
    let cases: [(HardState, Vec<Entry>, &str); 4] = [
        (state(2, 0, 1), vec![entry(3, 2)], "gap"),
        (state(2, 0, 1), vec![entry(2, 2), entry(3, 1)], "terms fall"),
        (state(1, 0, 1), vec![entry(2, 2)], "contradict"),
        (state(2, 0, 9), vec![entry(2, 2)], "contradict"),
    ];
    for (hard_state, entries, why) in cases {
        let mut disk = SimDisk::new();
        LogFile::begin(&mut disk, 3, (1, 1), &hard_state, &entries).unwrap();
        let Err(Fault::Damaged { what, .. }) = read(&disk) else { panic!("{why} went unnoticed") };
        assert!(what.contains(why), "{what}");
    }
    let mut disk = SimDisk::new();
    LogFile::begin(&mut disk, 4, (1, 1), &state(1, 0, 1), &[]).unwrap();
    assert!(matches!(read(&disk), Err(Fault::Damaged { what: "it belongs to another Raft id", .. })));
}

#[test]
fn only_an_untouched_log_is_unused() {
    assert!(is_unused(&unused(3, (1, 1))));
    assert!(!is_unused(b""));
    let mut disk = SimDisk::new();
    LogFile::begin(&mut disk, 3, (1, 1), &state(1, 0, 1), &[]).unwrap();
    assert!(!is_unused(&disk.read(FILE).unwrap().unwrap()));
}
