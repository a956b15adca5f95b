//! The simulated disk keeps what is synced, and really loses what is not.

use std::collections::BTreeSet;

use mainstay_consensus::Disk;
use mainstay_consensus::sim_disk::SimDisk;

fn outcomes(change: impl Fn(&mut SimDisk), file: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..300)
        .map(|seed| {
            let mut disk = SimDisk::new();
            disk.replace("file", b"old").unwrap();
            change(&mut disk);
            disk.crash(seed);
            disk.read(file).unwrap()
        })
        .collect()
}

#[test]
fn synced_bytes_survive_and_others_only_sometimes() {
    let synced = |disk: &mut SimDisk| {
        disk.append("file", b"+synced").unwrap();
        disk.sync("file").unwrap();
    };
    assert_eq!(outcomes(synced, "file"), [Some(b"old+synced".to_vec())].into());

    let long = vec![9; 2000];
    let lost = outcomes(|disk| disk.append("file", &long).unwrap(), "file");
    assert!(lost.iter().all(|bytes| bytes.as_ref().is_some_and(|bytes| bytes.starts_with(b"old"))));
    let bodies: Vec<&[u8]> = lost.iter().flatten().map(|bytes| &bytes[3..]).collect();
    assert!(bodies.iter().any(|body| body.is_empty()) || bodies.iter().any(|body| body.len() < 50));
    assert!(bodies.iter().any(|body| body.len() > 600 && body.iter().all(|byte| *byte == 9)), "a prefix");
    assert!(bodies.iter().any(|body| body.windows(600).any(|part| part[0] == 0 && part[599] == 9)), "a hole");
}

#[test]
fn an_interrupted_replacement_is_old_or_new() {
    let cut = |disk: &mut SimDisk| {
        disk.lose_power_after(0);
        disk.replace("file", b"new").expect_err("no power");
        disk.replace("other", b"new").expect_err("no power");
    };
    assert_eq!(outcomes(cut, "file"), [Some(b"old".to_vec()), Some(b"new".to_vec())].into());
    assert_eq!(outcomes(cut, "other"), [None, Some(b"new".to_vec())].into());
}

#[test]
fn a_sync_that_failed_or_lied_does_not_keep_anything() {
    let failed = |disk: &mut SimDisk| {
        disk.append("file", b"+failed").unwrap();
        disk.fail_syncs(1);
        disk.sync("file").expect_err("fails");
        assert_eq!(disk.read("file").unwrap().unwrap(), b"old+failed", "still reads as written");
        disk.sync("file").expect("a later sync succeeds");
    };
    assert_eq!(outcomes(failed, "file"), [Some(b"old".to_vec())].into());
    let lied = |disk: &mut SimDisk| {
        disk.set_sync_lies(true);
        disk.append("file", b"+").unwrap();
        disk.sync("file").unwrap();
    };
    assert_eq!(
        outcomes(lied, "file"),
        [Some(b"old".to_vec()), Some(b"old+".to_vec()), Some(b"old\0".to_vec())].into()
    );
}

#[test]
fn a_full_disk_takes_a_part() {
    let mut disk = SimDisk::new();
    disk.replace("file", b"old").unwrap();
    disk.set_capacity(Some(5));
    let error = disk.append("file", b"12345").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(disk.read("file").unwrap().unwrap(), b"old12");
    assert_eq!(disk.replace("file", b"123456").unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}
