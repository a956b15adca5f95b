use std::time::Duration;

use mainstay_core::Now;
use mainstay_postgres::write_probe::{Reading, WriteProbe, probed_directories};
use nix::time::{ClockId, clock_gettime};

use crate::server::World;

fn now() -> Now {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
    Now(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

async fn wait(probe: &WriteProbe, what: &str, condition: impl Fn(&Reading) -> bool) -> Reading {
    let deadline = now().plus(Duration::from_secs(20));
    loop {
        let reading = probe.read(now());
        if condition(&reading) {
            return reading;
        }
        assert!(now() < deadline, "no {what}: {reading:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn writes_are_timed_and_a_vanished_directory_is_an_error() {
    let world = World::new();
    let mut member = world.member("m1").await;
    member.initdb().await;
    assert_eq!(probed_directories(&member.layout).unwrap(), [member.layout.data()]);
    let probe = WriteProbe::start(member.layout.data().to_owned()).unwrap();
    let first = wait(&probe, "first write", |reading| reading.finished_at.is_some()).await;
    assert_eq!(first.errno, None);
    assert!(first.took.unwrap() < Duration::from_secs(5) && first.finished_at >= first.started_at);
    assert!(first.free_bytes.unwrap() > 0);
    let later = wait(&probe, "second write", |reading| reading.finished_at > first.finished_at).await;
    assert_eq!(later.waiting(now()), None);
    if let (Some(earlier), Some(later)) = (first.device_completed_at, later.device_completed_at) {
        assert!(later > earlier, "the sync was seen at the device");
    }
    // A server with the file in its directory starts and can be cloned.
    member.start().await;
    member.promote().await;
    let standby = world.standby("m2", &member).await;
    drop(standby);
    member.crash();

    probe.pause();
    let data = member.layout.data();
    std::fs::rename(data, data.with_extension("away")).unwrap();
    probe.resume();
    let gone = wait(&probe, "error", |reading| reading.errno.is_some()).await;
    assert_eq!(gone.errno, Some(nix::libc::ENOENT));
    // An empty mount point is not written into.
    std::fs::create_dir(data).unwrap();
    let seen = gone.finished_at;
    wait(&probe, "error again", |reading| reading.finished_at > seen && reading.errno.is_some()).await;
    assert_eq!(std::fs::read_dir(data).unwrap().count(), 0);
    std::fs::remove_dir(data).unwrap();
    std::fs::rename(data.with_extension("away"), data).unwrap();
    probe.resume();
    wait(&probe, "recovery", |reading| reading.errno.is_none()).await;
}

#[tokio::test]
async fn a_paused_probe_leaves_the_directory_alone() {
    let world = World::new();
    let mut member = world.member("m1").await;
    member.initdb().await;
    let probe = WriteProbe::start(member.layout.data().to_owned()).unwrap();
    wait(&probe, "first write", |reading| reading.finished_at.is_some()).await;
    probe.pause();
    let file = member.layout.data().join("mainstay.probe");
    let paused = wait(&probe, "rest", |reading| reading.finished_at >= reading.started_at).await;
    std::fs::remove_file(&file).unwrap();
    // A second probe shows that time enough has passed for the first to have written.
    let other = WriteProbe::start(world.path().join("m1/state")).unwrap();
    let begun = wait(&other, "first try", |reading| reading.finished_at.is_some()).await;
    wait(&other, "second try", |reading| reading.finished_at > begun.finished_at).await;
    assert_eq!(probe.read(now()).started_at, paused.started_at);
    assert!(!file.exists());
    probe.resume();
    wait(&probe, "write after the pause", |reading| reading.started_at > paused.started_at).await;
}
