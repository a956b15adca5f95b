use mainstay_core::{Lsn, Timeline};
use mainstay_postgres::session::{checkpoint, fresh_setting};

use crate::server::{LONG, World};

#[tokio::test]
async fn slots_are_made_moved_and_dropped_on_both_sides() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let standby = world.standby("m2", &primary).await;
    for member in [&primary, &standby] {
        let session = member.session().await;
        assert!(session.create_slot("ms_m3").await.unwrap());
        assert!(!session.create_slot("ms_m3").await.unwrap(), "it is there");
        let restart = async || {
            let slots = session.observe().await.unwrap().slots;
            slots
                .into_iter()
                .find(|slot| slot.slot_name == "ms_m3")
                .and_then(|slot| slot.restart_lsn)
                .unwrap()
        };
        let reserved = restart().await;
        primary.write_rows(1).await;
        standby.wait_caught_up(&primary).await;
        let target = Lsn(reserved.0 + 1000);
        assert!(session.advance_slot("ms_m3", target).await.unwrap());
        assert_eq!(restart().await, target);
        assert!(!session.advance_slot("ms_m3", reserved).await.unwrap(), "never backwards");
        assert_eq!(restart().await, target);
        // Not past what the server has.
        assert!(session.advance_slot("ms_m3", Lsn(u64::MAX >> 1)).await.unwrap());
        let observation = session.observe().await.unwrap();
        assert!(restart().await <= observation.flush.or(observation.replay).unwrap());
        assert!(!session.advance_slot("ms_other", target).await.unwrap());
        assert!(session.drop_slot("ms_m3").await.unwrap());
        assert!(!session.drop_slot("ms_m3").await.unwrap());
    }
    let in_use = primary.session().await;
    assert!(!in_use.advance_slot("ms_m2", Lsn(u64::MAX >> 1)).await.unwrap(), "its walsender moves it");
    assert!(in_use.drop_slot("ms_m2").await.is_err(), "it is in use");
}

#[tokio::test]
async fn a_message_is_on_disk_when_its_position_is_told() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let session = primary.session().await;
    let before = session.observe().await.unwrap();
    let position = session.emit_wal_message().await.unwrap();
    let after = session.observe().await.unwrap();
    assert!(position > before.insert.unwrap());
    assert!(after.flush.unwrap() >= position, "{after:?} {position}");
    // No voter is there, and it does not wait for one.
    let mut settings = primary.settings.clone();
    settings.synchronous_standby_names = "ANY 1 (\"ms_m2_00000001\")".to_owned();
    mainstay_postgres::configuration::write(&primary.layout, primary.tools.version(), &settings).unwrap();
    primary.reload();
    primary
        .wait("the names", async |member| {
            let shown = fresh_setting(&member.server(), "synchronous_standby_names", LONG).await;
            shown.unwrap() == settings.synchronous_standby_names
        })
        .await;
    session.emit_wal_message().await.unwrap();
    assert_eq!(
        session.observe().await.unwrap().synchronous_standby_names,
        settings.synchronous_standby_names
    );
}

#[tokio::test]
async fn the_smaller_questions_are_answered() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let session = primary.session().await;
    let checkpointer = session.checkpointer().await.unwrap().unwrap();
    assert!(checkpointer.pid > 0);
    primary
        .wait("an idle checkpointer", async |_| {
            let found = session.checkpointer().await.unwrap().unwrap();
            ["CheckpointerMain", "CheckpointWriteDelay"]
                .contains(&found.wait_event.as_deref().unwrap_or_default())
        })
        .await;

    let xid = session.next_xid().await.unwrap();
    primary.sql().await.batch_execute("CREATE TABLE t ()").await.unwrap();
    assert_eq!(session.next_xid().await.unwrap(), xid + 1);

    let oldest = session.oldest_wal().await.unwrap();
    assert_eq!(oldest, Lsn(0x100_0000));
    primary.write_rows(40).await;
    checkpoint(&primary.server(), LONG).await.unwrap();
    let found = mainstay_postgres::control::read(&primary.tools, &primary.layout).await.unwrap();
    assert_eq!(found.checkpoint_timeline, Timeline(2), "the checkpoint was completed");

    session.resume_replay().await.expect("it is nothing to a primary");
    let victim = primary.sql().await;
    let pid: i32 = victim.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    assert_eq!(session.terminate_backends(&[pid]).await.unwrap(), 1);
    primary.wait("the backend to end", async |_| victim.batch_execute("SELECT 1").await.is_err()).await;
}

#[tokio::test]
async fn replay_is_resumed_and_a_promotion_changes_the_observation() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let standby = world.standby("m2", &primary).await;
    let session = standby.session().await;
    standby.sql().await.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    assert!(session.observe().await.unwrap().replay_paused);
    session.resume_replay().await.unwrap();
    assert!(!session.observe().await.unwrap().replay_paused);
    let before = session.observe().await.unwrap();
    standby.promote().await;
    // The same session, with its prepared statement, in the other role.
    let after = session.observe().await.unwrap();
    assert!(before.in_recovery && !after.in_recovery);
    assert_eq!((before.timeline, after.timeline), (Timeline(2), Timeline(3)));
    assert_eq!(before.postmaster_started_at, after.postmaster_started_at);
    assert!(!session.is_closed());
}
