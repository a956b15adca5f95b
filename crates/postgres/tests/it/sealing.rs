use std::time::Duration;

use mainstay_postgres::children::{Child, ChildKind, PostmasterControl};
use mainstay_postgres::seal::{SealError, seal};
use mainstay_postgres::wal_end::wal_end;

use crate::server::{Member, Postmaster, World};

const PATIENCE: Duration = Duration::from_secs(5);

async fn seal_running(standby: &Member) {
    seal(&standby.layout, standby.tools.version(), &standby.settings, Some(standby.postmaster()), PATIENCE)
        .await
        .unwrap();
}

async fn walreceivers(member: &Member) -> usize {
    let children = member.postmaster().children().await.unwrap();
    children.iter().filter(|child| child.kind() == ChildKind::Walreceiver).count()
}

/// A reload alone does nothing here: the startup process does not come to look at it.
#[tokio::test]
async fn a_standby_whose_replay_is_paused_is_sealed_for_good() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let mut standby = world.standby("m2", &primary).await;
    standby.sql().await.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    primary.write_rows(4).await;
    let sent = primary.flush().await;
    standby.wait("the WAL to arrive", async |member| member.observe().await.receive.unwrap() >= sent).await;
    assert_eq!(walreceivers(&standby).await, 1);
    seal_running(&standby).await;
    assert_eq!(walreceivers(&standby).await, 0);
    let received = standby.observe().await.receive;
    assert!(received.unwrap() >= sent, "what had been received is kept");
    assert!(!standby.layout.passfile().exists());

    primary.write_rows(1).await;
    // What was received last may be a part of a record, which is never replayed.
    let replay = standby.observe().await.replay;
    let end = wal_end(&standby.tools, &standby.layout, replay, PATIENCE).await.unwrap().end;
    standby.session().await.resume_replay().await.unwrap();
    standby.wait("replay to reach the end", async |member| member.observe().await.replay == Some(end)).await;
    seal_running(&standby).await;
    assert_eq!(walreceivers(&standby).await, 0);
    assert!(primary.observe().await.walsenders.is_empty());
    assert_eq!(standby.observe().await.receive, received);

    // Sealed also for its next life.
    standby.settings.upstream = None;
    standby.stop().await;
    standby.start().await;
    let observation = standby.observe().await;
    assert!(observation.walreceiver.is_none() && observation.in_recovery);
    standby
        .wait("replay to reach the end again", async |member| member.observe().await.replay == Some(end))
        .await;
}

#[tokio::test]
async fn a_sealed_standby_lets_go_of_its_own_standbys_and_stays_sealed_under_load() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let standby = world.standby("m2", &primary).await;
    let cascaded = world.standby("m3", &standby).await;
    let before = standby.observe().await.walsenders[0].pid;
    let load = tokio::spawn({
        let sql = primary.sql().await;
        async move {
            sql.batch_execute("CREATE TABLE load (t text)").await.unwrap();
            while sql.batch_execute("INSERT INTO load VALUES (repeat('x', 500))").await.is_ok() {}
        }
    });
    let before_load = primary.flush().await;
    cascaded.wait("the load", async |member| member.observe().await.replay.unwrap() > before_load).await;
    seal_running(&standby).await;
    let received = standby.observe().await.receive;
    primary.write_rows(1).await;
    let after = standby.observe().await;
    assert_eq!(after.receive, received);
    assert!(after.walsenders.iter().all(|sender| sender.pid != before), "the old connection was ended");
    load.abort();
}

#[tokio::test]
async fn with_postgresql_down_sealing_is_a_matter_of_files() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let mut standby = world.standby("m2", &primary).await;
    standby.crash();
    seal(&standby.layout, standby.tools.version(), &standby.settings, None::<&Postmaster>, PATIENCE)
        .await
        .unwrap();
    assert!(!standby.layout.passfile().exists());
    let written = std::fs::read_to_string(standby.layout.configuration_file()).unwrap();
    assert!(written.contains("primary_conninfo = ''\n"), "{written}");
    standby.start().await;
    assert!(standby.observe().await.walreceiver.is_none());
}

/// A postmaster whose walreceiver does not go: the seal must say so, never claim success.
struct Stubborn;

impl PostmasterControl for Stubborn {
    type Error = std::io::Error;

    async fn reload(&self) -> std::io::Result<()> {
        Ok(())
    }

    async fn terminate(&self, _pids: &[i32]) -> std::io::Result<()> {
        Ok(())
    }

    async fn children(&self) -> std::io::Result<Vec<Child>> {
        Ok(vec![Child { pid: 7, title: "postgres: walreceiver streaming 0/3000148".to_owned() }])
    }
}

#[tokio::test]
async fn a_walreceiver_that_stays_is_an_error() {
    let world = World::new();
    let member = world.member("m1").await;
    let patience = Duration::from_millis(50);
    let result =
        seal(&member.layout, member.tools.version(), &member.settings, Some(&Stubborn), patience).await;
    assert!(matches!(result, Err(SealError::StillReceiving { pid: 7, .. })), "{result:?}");
}

/// The configuration cannot be written: what counts is that the passfile is gone.
#[tokio::test]
async fn a_standby_is_sealed_on_a_full_disk_too() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let standby = world.standby("m2", &primary).await;
    // Stands in the way of the new file, as ENOSPC would.
    let obstacle = standby.layout.configuration_dir().join("postgresql.conf.mainstay-new");
    std::fs::create_dir(&obstacle).unwrap();
    std::fs::write(obstacle.join("x"), "").unwrap();
    // Walreceivers still come, ten times a second, but none gets in.
    seal_running(&standby).await;
    let received = standby.observe().await.receive;
    primary.write_rows(1).await;
    standby
        .wait("a refused attempt to stream", async |member| member.log().contains("no password supplied"))
        .await;
    assert_eq!(standby.observe().await.receive, received);
}
