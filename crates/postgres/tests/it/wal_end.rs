//! The scan's answer against what the server itself then replays to.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mainstay_core::{Lsn, Timeline};
use mainstay_postgres::control;
use mainstay_postgres::seal::seal;
use mainstay_postgres::session::checkpoint;
use mainstay_postgres::wal_end::{WalEnd, WalEndError, wal_end};

use crate::server::{LONG, Member, World};

const SEGMENT: u64 = 16 << 20;

async fn end_down(member: &Member) -> WalEnd {
    wal_end(&member.tools, &member.layout, None, LONG).await.unwrap()
}

async fn end_running(member: &Member) -> WalEnd {
    let replay = member.observe().await.replay;
    wal_end(&member.tools, &member.layout, replay, LONG).await.unwrap()
}

/// The truth: where a server that is started without a source stops replaying.
async fn replayed_to(member: &mut Member, expected: WalEnd) {
    member.settings.upstream = None;
    member.configure();
    member.start().await;
    member
        .wait("replay to the end", async |member| member.observe().await.replay >= Some(expected.end))
        .await;
    // Whatever lies behind would be replayed within this round trip and the shutdown's.
    member.stop().await;
    let after = control::read(&member.tools, &member.layout).await.unwrap();
    assert!(after.minimum_recovery_end <= expected.end, "{after:?} {expected:?}");
    assert_eq!(end_down(member).await, expected);
}

fn segment(member: &Member, timeline: u32, position: Lsn) -> PathBuf {
    let number = position.0 / SEGMENT;
    member.layout.pg_wal().join(format!("{timeline:08X}{:08X}{:08X}", number / 256, number % 256))
}

/// Where the records of one segment begin, by `pg_waldump`.
fn record_begins(member: &Member, segment: &Path) -> Vec<Lsn> {
    let output = std::process::Command::new(member.tools.path("pg_waldump")).arg(segment).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let begin = |line: &str| line.split_once(" lsn: ")?.1.split_once(',')?.0.parse().ok();
    text.lines().filter_map(begin).collect()
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[tokio::test]
async fn an_idle_standby_ends_where_its_primary_does_running_and_down() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let mut standby = world.standby("m2", &primary).await;
    primary.hold_background_writer().await;
    primary.write_rows(3).await;
    primary.session().await.emit_wal_message().await.unwrap();
    standby.wait_caught_up(&primary).await;
    let end = primary.flush().await;
    let wanted = WalEnd { timeline: Timeline(2), end };
    assert_eq!(end_running(&standby).await, wanted);
    standby.crash();
    assert_eq!(end_down(&standby).await, wanted);
    replayed_to(&mut standby, wanted).await;
}

/// The position behind a segment switch has two notations, with and without the next page's header.
#[tokio::test]
async fn a_segment_switch_ends_at_the_segments_boundary() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let mut standby = world.standby("m2", &primary).await;
    primary.hold_background_writer().await;
    for statement in ["CREATE TABLE t ()", "SELECT pg_switch_wal()"] {
        primary.sql().await.batch_execute(statement).await.unwrap();
    }
    standby.wait_caught_up(&primary).await;
    let end = primary.flush().await;
    assert_eq!(end.0 % SEGMENT, 0, "{end}");
    assert_eq!(end_running(&standby).await.end, end);
    standby.stop().await;
    assert_eq!(end_down(&standby).await.end, end);
    // With the empty next segment, too, and with one that holds older WAL under a new name.
    let next = segment(&standby, 2, end);
    std::fs::write(&next, vec![0; SEGMENT as usize]).unwrap();
    std::os::unix::fs::chown(&next, Some(standby.layout.server_uid()), None).unwrap();
    assert_eq!(end_down(&standby).await.end, end);
    std::fs::copy(segment(&standby, 2, Lsn(end.0 - 1)), &next).unwrap();
    assert_eq!(end_down(&standby).await.end, end);
}

#[tokio::test]
async fn under_load_a_sealed_standbys_end_is_what_it_replays_to() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let mut standby = world.standby("m2", &primary).await;
    let load = tokio::spawn({
        let sql = primary.sql().await;
        async move {
            // Large and small records: the stream is cut inside of one.
            let statement = "CREATE TABLE IF NOT EXISTS load (t text);
                INSERT INTO load SELECT repeat('x', 500 * (g % 40)) FROM generate_series(1, 100) g";
            while sql.batch_execute(statement).await.is_ok() {}
        }
    });
    for _ in 0..5 {
        let before = standby.observe().await.replay;
        standby.wait("more load", async |member| member.observe().await.replay > before).await;
        let control = Some(standby.postmaster());
        seal(&standby.layout, standby.tools.version(), &standby.settings, control, LONG).await.unwrap();
        let observation = standby.observe().await;
        let end = wal_end(&standby.tools, &standby.layout, observation.replay, LONG).await.unwrap();
        assert!(end.end <= observation.receive.unwrap(), "{end:?} {observation:?}");
        standby.wait("replay", async |member| member.observe().await.replay >= Some(end.end)).await;
        assert_eq!(standby.observe().await.replay, Some(end.end));
        assert_eq!(end_running(&standby).await, end);
        standby.stop().await;
        assert_eq!(end_down(&standby).await, end, "the same after a restart");
        mainstay_postgres::upstream::write_passfile(&standby.layout, crate::server::REPLICATION_PASSWORD)
            .unwrap();
        standby.configure();
        standby.start().await;
        standby.wait_streaming().await;
    }
    load.abort();
}

#[tokio::test]
async fn a_killed_primarys_end_covers_all_that_it_acknowledged() {
    let world = World::new();
    let mut primary = world.primary("m1").await;
    primary.write_rows(40).await;
    // Not the flush position: that may lie in the middle of a record which nobody was told of.
    let acknowledged = primary.session().await.emit_wal_message().await.unwrap();
    primary.crash();
    let end = end_down(&primary).await;
    assert!(end.end > acknowledged, "{end:?} {acknowledged}");
    assert_eq!(end.timeline, Timeline(2));
    replayed_to(&mut primary, end).await;
}

#[tokio::test]
async fn torn_and_missing_tails_end_at_the_last_whole_record() {
    let world = World::new();
    let mut primary = world.primary("m1").await;
    checkpoint(&primary.server(), LONG).await.unwrap();
    primary.write_rows(20).await;
    primary.crash();
    let whole = end_down(&primary).await;
    let path = segment(&primary, 2, Lsn(whole.end.0 - 1));
    let backup = std::fs::read(&path).unwrap();
    let offset = whole.end.0 % SEGMENT;
    assert!(offset > 60_000, "the tail is in one segment: {whole:?}");

    let begins = record_begins(&primary, &path);
    // A record that is damaged anywhere is none, and what lies behind it is out of reach.
    let begin_of = |position: u64| *begins.iter().rev().find(|begin| begin.0 % SEGMENT <= position).unwrap();

    // The last bytes were never written.
    overwrite(&path, offset - 20, &[0; 20]);
    assert_eq!(end_down(&primary).await.end, begin_of(offset - 20));
    // The middle of a record is other data: its checksum tells.
    std::fs::write(&path, &backup).unwrap();
    overwrite(&path, offset - 50_000, &[0xAA; 300]);
    assert_eq!(end_down(&primary).await.end, begin_of(offset - 50_000));
    // A page is of an older life of the file.
    std::fs::write(&path, &backup).unwrap();
    let page = (offset - 30_000) / 8192 * 8192;
    overwrite(&path, page, &backup[..8192]);
    let before_page = begin_of(page - 1);
    assert!(begin_of(page + 8000) > before_page, "a record reaches onto the page");
    assert_eq!(end_down(&primary).await.end, before_page);
    // The file was cut off in the middle of a page, and at a page. What is left of the record goes on in no file, so
    // the last one that is whole comes before it.
    for cut in [page + 4000, page] {
        std::fs::write(&path, &backup[..cut as usize]).unwrap();
        assert_eq!(end_down(&primary).await.end, before_page);
    }
    // The whole last file is missing, or was only just created.
    std::fs::remove_file(&path).unwrap();
    let missing = end_down(&primary).await;
    let boundary = whole.end.0 - offset;
    assert!(missing.end.0 <= boundary && missing.end.0 > boundary - 1000, "{missing:?}");
    std::fs::write(&path, vec![0; SEGMENT as usize]).unwrap();
    assert_eq!(end_down(&primary).await, missing);
    std::os::unix::fs::chown(&path, Some(primary.layout.server_uid()), None).unwrap();
    replayed_to(&mut primary, missing).await;

    // Without the first file there is nothing to begin with.
    let redo = control::read(&primary.tools, &primary.layout).await.unwrap().redo;
    std::fs::remove_file(segment(&primary, 2, redo)).unwrap();
    let nothing = wal_end(&primary.tools, &primary.layout, None, LONG).await;
    assert!(matches!(nothing, Err(WalEndError::NoWal { .. })), "{nothing:?}");
}

#[tokio::test]
async fn recycled_segments_ahead_are_not_taken_for_wal() {
    let world = World::new();
    let mut primary = world.primary("m1").await;
    primary.set_parameter("wal_keep_size", "0");
    primary.reload();
    primary.write_rows(70).await;
    checkpoint(&primary.server(), LONG).await.unwrap();
    primary.write_rows(3).await;
    let acknowledged = primary.session().await.emit_wal_message().await.unwrap();
    let ahead = segment(&primary, 2, Lsn(acknowledged.0 + SEGMENT));
    assert!(ahead.exists(), "a segment was recycled");
    primary.crash();
    let end = end_down(&primary).await;
    assert!(end.end > acknowledged && end.end.0 < acknowledged.0 + SEGMENT, "{end:?} {acknowledged}");
    replayed_to(&mut primary, end).await;
}

/// The standby's last checkpoint is on the old timeline, its newest WAL on the new one.
#[tokio::test]
async fn a_timeline_switch_is_followed() {
    let world = World::new();
    let mut primary = world.primary("m1").await;
    let mut candidate = world.standby("m2", &primary).await;
    let mut follower = world.standby("m3", &primary).await;
    primary.hold_background_writer().await;
    primary.write_rows(20).await;
    primary.session().await.emit_wal_message().await.unwrap();
    candidate.wait_caught_up(&primary).await;
    follower.wait_caught_up(&primary).await;
    primary.crash();
    let before = end_running(&follower).await;
    assert_eq!(before.timeline, Timeline(2));

    candidate.promote().await;
    let fork = *candidate.newest_history().last().unwrap();
    assert_eq!(
        (fork.timeline, fork.begin),
        (Timeline(3), before.end),
        "the scan agrees with PostgreSQL's fork"
    );
    candidate.session().await.create_slot("ms_m3").await.unwrap();
    candidate.hold_background_writer().await;
    candidate.write_rows(20).await;
    candidate.session().await.emit_wal_message().await.unwrap();
    let incarnation = match follower.inspect().await {
        mainstay_postgres::directory::DirectoryState::Valid { incarnation, .. } => incarnation,
        other => panic!("{other:?}"),
    };
    follower.follow(&candidate, incarnation);
    follower.reload();
    follower.wait("the new timeline", async |member| member.observe().await.timeline == Timeline(3)).await;
    follower.wait_caught_up(&candidate).await;
    let wanted = WalEnd { timeline: Timeline(3), end: candidate.flush().await };
    assert_eq!(
        control::read(&follower.tools, &follower.layout).await.unwrap().checkpoint_timeline,
        Timeline(2)
    );
    assert_eq!(end_running(&follower).await, wanted);
    follower.crash();
    assert_eq!(end_down(&follower).await, wanted);

    // The promoted member itself, killed: its last checkpoint may be on either side of the fork.
    candidate.crash();
    assert_eq!(end_down(&candidate).await, wanted);
    // A gap on the old timeline ends what can be recovered, whatever lies behind.
    let redo = control::read(&follower.tools, &follower.layout).await.unwrap().redo;
    let middle = segment(&follower, 2, Lsn(redo.0 + SEGMENT));
    assert!(Lsn(redo.0 + SEGMENT).0 / SEGMENT < fork.begin.0 / SEGMENT, "{redo} {fork:?}");
    std::fs::rename(&middle, middle.with_extension("away")).unwrap();
    let gap = end_down(&follower).await;
    assert!(gap.timeline == Timeline(2) && gap.end.0 <= (redo.0 / SEGMENT + 1) * SEGMENT, "{gap:?}");
    std::fs::rename(middle.with_extension("away"), &middle).unwrap();

    // A history without WAL of its timeline changes nothing: the member is still on the old one.
    let alone = WalEnd { timeline: Timeline(2), end: fork.begin };
    std::fs::remove_file(segment(&follower, 3, fork.begin)).unwrap();
    let found = end_down(&follower).await;
    assert_eq!(found, alone);
}
