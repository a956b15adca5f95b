use super::*;

const SEGMENT: u64 = 16 << 20;

fn stretch() -> Stretch {
    Stretch {
        directory: PathBuf::new(),
        timeline: Timeline(1),
        segment_bytes: SEGMENT,
        begin: Lsn(0),
        end: Lsn(0),
    }
}

fn after(last_record: u64, end: Option<u64>) -> Option<ScanEnd> {
    Some(ScanEnd::After { last_record: Lsn(last_record), end: end.map(Lsn) })
}

/// Each message but the last two was seen from PostgreSQL 15; 16 words the first one anew.
#[test]
fn messages_about_the_end_are_understood() {
    let read = |message: &str| interpret(&format!("pg_waldump: error: {message}\n"));
    assert_eq!(
        read("error in WAL record at 0/6344810: invalid record length at 0/6344838: wanted 24, got 0"),
        after(0x634_4810, Some(0x634_4838))
    );
    assert_eq!(
        read(
            "error in WAL record at 0/63443A0: incorrect resource manager data checksum in record at 0/63445D8"
        ),
        after(0x634_43A0, Some(0x634_45D8))
    );
    assert_eq!(
        read(
            "error in WAL record at 0/4FFFC78: unexpected pageaddr 0/2000000 in log segment 000000010000000000000005, offset 0"
        ),
        after(0x4FF_FC78, None)
    );
    assert_eq!(read("could not find a valid record after 0/6344838"), Some(ScanEnd::Nothing));
    let zeros = "WAL segment size must be a power of two between 1 MB and 1 GB, but the WAL file \"x\" header specifies 0 bytes";
    assert_eq!(read(zeros), Some(ScanEnd::Nothing));
    assert_eq!(read("could not open directory \"x\": Permission denied"), None);
    assert_eq!(
        read("error in WAL record at 0/10: record with incorrect prev-link 0/8 at 1/20"),
        after(0x10, Some(0x1_0000_0020))
    );
    assert_eq!(
        read("error in WAL record at 0/10: invalid record length at 0/28: expected at least 24, got 0"),
        after(0x10, Some(0x28))
    );
}

#[test]
fn a_position_that_is_not_the_next_record_is_not_taken_for_the_end() {
    let read =
        |message: &str| interpret(&format!("pg_waldump: error: error in WAL record at 0/4000: {message}"));
    assert_eq!(read("there is no contrecord flag at 0/6000"), after(0x4000, None));
    assert_eq!(read("invalid contrecord length 5 (expected 900) at 0/6000"), after(0x4000, None));
    assert_eq!(read("invalid record length at 0/28: wanted 24, got 0"), after(0x4000, None));
}

#[test]
fn records_are_read_and_end_behind_their_pages_headers() {
    let line = "rmgr: Heap        len (rec/tot):    563/   563, tx:        726, lsn: 0/04FFFC78, prev 0/04FFFA40, desc: INSERT off 12 flags 0x00, blkref #0: rel 1663/5/16384 blk 6943";
    let record = parse_record(line).unwrap();
    assert_eq!(record, Record { begin: Lsn(0x4FF_FC78), total_bytes: 563, is_switch: false });
    let end = |begin, total_bytes| {
        stretch().record_end(Record { begin: Lsn(begin), total_bytes, is_switch: false })
    };
    assert_eq!(end(0x4FF_FC78, 563), Lsn(0x4FF_FEB0));
    // 563 bytes from 0x4FFFEB0: 336 on this page, 227 behind the long header of the next segment.
    assert_eq!(end(0x4FF_FEB0, 563), Lsn(0x500_0000 + 40 + 232));
    assert_eq!(end(0x100_4000 - 8, 8), Lsn(0x100_4000));
    assert_eq!(end(0x100_4000 - 8, 8 + 8168 + 8), Lsn(0x100_6000 + 24 + 8));
    let switch = "rmgr: XLOG        len (rec/tot):     24/    24, tx:          0, lsn: 0/0589B5E0, prev 0/0589B5B8, desc: SWITCH ";
    assert_eq!(stretch().record_end(parse_record(switch).unwrap()), Lsn(0x600_0000));
    assert_eq!(parse_record("first record is after 0/4000000, at 0/4000018, skipping over 24 bytes"), None);
}

#[test]
fn a_page_boundary_has_one_form() {
    let form = |position| stretch().normal_form(Lsn(position)).0;
    assert_eq!(form(0x600_0028), 0x600_0000);
    assert_eq!(form(0x600_2018), 0x600_2000);
    assert_eq!(form(0x600_2028), 0x600_2028);
    assert_eq!(form(0x600_0018), 0x600_0018);
    assert_eq!(form(0x600_2000), 0x600_2000);
}

#[test]
fn segments_have_postgresqls_names() {
    assert_eq!(segment_name(Timeline(1), 3, SEGMENT), "000000010000000000000003");
    assert_eq!(segment_name(Timeline(0x1A), 0x1_02, SEGMENT), "0000001A0000000100000002");
    assert_eq!(segment_name(Timeline(1), 5, 1 << 30), "000000010000000100000001");
}
