use super::*;

const KIND: u8 = b't';

fn file(payloads: &[&[u8]]) -> Vec<u8> {
    let mut file = preamble(KIND, 1);
    for payload in payloads {
        push(&mut file, 0, payload);
    }
    file
}

fn payloads(file: &[u8]) -> Vec<Vec<u8>> {
    scan(file, KIND, 1).expect("readable").payloads.into_iter().map(<[u8]>::to_vec).collect()
}

#[test]
fn frames_come_back() {
    let long = vec![7; 3000];
    let file = file(&[b"one", b"", &long]);
    assert_eq!(payloads(&file), vec![b"one".to_vec(), Vec::new(), long]);
    assert_eq!(scan(&file, KIND, 1).unwrap().torn_bytes, 0);
}

#[test]
fn offsets_continue_where_the_file_ends() {
    let mut whole = file(&[b"one"]);
    let mut appended = Vec::new();
    push(&mut appended, whole.len() as u64, b"two");
    push(&mut appended, whole.len() as u64, b"three");
    whole.extend_from_slice(&appended);
    assert_eq!(payloads(&whole), vec![b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
}

#[test]
fn a_cut_at_any_byte_is_torn() {
    let whole = file(&[b"first", b"second", &[9; 1500]]);
    let second = file(&[b"first"]).len();
    let third = file(&[b"first", b"second"]).len();
    for length in PREAMBLE..whole.len() {
        let read =
            scan(&whole[..length], KIND, 1).unwrap_or_else(|fault| panic!("cut at {length}: {fault:?}"));
        let expected = usize::from(length >= second) + usize::from(length >= third);
        assert_eq!(read.payloads.len(), expected, "cut at {length}");
        let good = [PREAMBLE, second, third][expected];
        assert_eq!(read.torn_bytes, length - good, "cut at {length}");
    }
}

#[test]
fn unwritten_sectors_of_the_last_frame_are_torn() {
    let before = file(&[b"first"]);
    let whole = file(&[b"first", &[9; 3000]]);
    let sectors = whole.len().div_ceil(512);
    // Every pattern of written and unwritten sectors but the complete one.
    for pattern in 0..(1_u32 << sectors) - 1 {
        let mut torn = whole.clone();
        for sector in (0..sectors).filter(|sector| pattern & (1 << sector) == 0) {
            let (from, to) = ((sector * 512).max(before.len()), ((sector + 1) * 512).min(whole.len()));
            torn[from..to].fill(0);
        }
        let read = scan(&torn, KIND, 1).unwrap_or_else(|fault| panic!("pattern {pattern:b}: {fault:?}"));
        assert_eq!(read.payloads.len(), 1, "pattern {pattern:b}");
        assert_eq!(read.torn_bytes, whole.len() - before.len());
    }
}

#[test]
fn a_file_extended_with_zeros_is_torn() {
    let mut whole = file(&[b"first"]);
    let length = whole.len();
    whole.resize(length + 4096, 0);
    let read = scan(&whole, KIND, 1).unwrap();
    assert_eq!((read.payloads.len(), read.torn_bytes), (1, 4096));
}

#[test]
fn a_changed_bit_is_damage_wherever_it_is() {
    let whole = file(&[b"first", b"second", b"third"]);
    for bit in PREAMBLE * 8..whole.len() * 8 {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let fault = scan(&changed, KIND, 1).expect_err("a changed bit went unnoticed");
        assert!(matches!(fault, Fault::Damaged { .. }), "{fault:?}");
    }
}

#[test]
fn a_zeroed_frame_with_good_ones_behind_it_is_damage() {
    let mut whole = file(&[b"first", b"second", b"third"]);
    let (from, to) = (file(&[b"first"]).len(), file(&[b"first", b"second"]).len());
    whole[from..to].fill(0);
    assert_eq!(
        scan(&whole, KIND, 1).unwrap_err(),
        Fault::Damaged { at: from, what: "a damaged record has good ones behind it" }
    );
}

#[test]
fn a_frame_inside_a_torn_payload_is_no_frame() {
    let inner = file(&[b"inner"]).split_off(PREAMBLE);
    let payload: Vec<u8> = [vec![1; 600], inner, vec![1; 600]].concat();
    let whole = file(&[&payload]);
    let read = scan(&whole[..whole.len() - 1], KIND, 1).unwrap();
    assert_eq!(read.payloads.len(), 0);
}

#[test]
fn other_files_and_versions_are_told_apart() {
    assert_eq!(scan(&file(&[b"x"]), KIND, 2).unwrap_err(), Fault::Version(1));
    assert!(matches!(scan(&file(&[b"x"]), b'z', 1).unwrap_err(), Fault::Damaged { at: 0, .. }));
    assert!(matches!(scan(b"mstay", KIND, 1).unwrap_err(), Fault::Damaged { at: 0, .. }));
    assert!(matches!(single(&file(&[b"x", b"y"]), KIND, 1).unwrap_err(), Fault::Damaged { .. }));
    assert_eq!(single(&file(&[b"x"]), KIND, 1).unwrap(), b"x");
}
