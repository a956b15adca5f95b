use std::time::Duration;

use mainstay_core::Timeline;
use mainstay_postgres::Progress;
use mainstay_postgres::clone::{CloneError, clone};
use mainstay_postgres::directory::{DirectoryState, Operation};
use mainstay_postgres::upstream;
use tokio::sync::watch;

use crate::server::{LONG, World};

#[tokio::test]
async fn a_clone_follows_through_tls() {
    let world = World::new();
    let primary = world.primary("m1").await;
    primary.write_rows(8).await;
    let mut standby = world.member("m2").await;
    primary.session().await.create_slot(&upstream::slot_name(&standby.id)).await.unwrap();
    let options = standby.clone_options(&primary).await;
    let (sender, receiver) = watch::channel(Progress::default());
    let incarnation = clone(&standby.tools, &standby.layout, &options, &sender).await.unwrap();
    let progress = *receiver.borrow();
    assert!(progress.done_bytes > 20 << 20 && progress.done_bytes <= progress.total_bytes, "{progress:?}");
    let DirectoryState::Valid { incarnation: found, .. } = standby.inspect().await else { panic!() };
    let DirectoryState::Valid { incarnation: source, .. } = primary.inspect().await else { panic!() };
    assert_eq!(found, incarnation);
    assert_ne!(found, source, "a clone is another voter");

    standby.follow(&primary, incarnation);
    standby.start().await;
    standby.wait_streaming().await;
    standby.wait_caught_up(&primary).await;
    let name = upstream::application_name(&standby.id, incarnation);
    let (above, below) = (primary.observe().await, standby.observe().await);
    assert!(!above.in_recovery && below.in_recovery);
    assert_eq!((above.timeline, below.timeline), (Timeline(2), Timeline(2)));
    assert_eq!(above.system_identifier, below.system_identifier);
    assert!(above.insert.unwrap() >= above.flush.unwrap() && above.replay.is_none());
    let walsender = above.walsenders.iter().find(|sender| sender.application_name == name).unwrap();
    assert_eq!(walsender.slot_name.as_deref(), Some("ms_m2"));
    assert_eq!(walsender.state.as_deref(), Some("streaming"));
    let slot = &above.slots[0];
    assert_eq!((slot.slot_name.as_str(), slot.active_pid), ("ms_m2", Some(walsender.pid)));
    let walreceiver = below.walreceiver.unwrap();
    assert_eq!(walreceiver.received_tli, Some(Timeline(2)));
    assert_eq!(walreceiver.sender_host.as_deref(), Some("m1"));
    assert_eq!(walreceiver.slot_name.as_deref(), Some("ms_m2"));
    assert!(below.replay.unwrap() >= above.flush.unwrap() && !below.replay_paused && below.insert.is_none());
    let encrypted: bool = primary
        .sql()
        .await
        .query_one("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)", &[])
        .await
        .unwrap()
        .get(0);
    assert!(encrypted);
}

#[tokio::test]
async fn a_failed_clone_leaves_the_mark_and_names_the_reason_without_the_password() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let standby = world.member("m2").await;
    let mut options = standby.clone_options(&primary).await;
    let (sender, _receiver) = watch::channel(Progress::default());
    let attempt = async |options| {
        let error = clone(&standby.tools, &standby.layout, options, &sender).await.unwrap_err();
        let DirectoryState::HalfChanged(mark) = standby.inspect().await else { panic!("no mark") };
        assert_eq!((mark.operation, mark.source), (Operation::Clone, Some(primary.id.clone())));
        match error {
            CloneError::Tool { source, .. } | CloneError::Unreachable { source, .. } => source.to_string(),
            other => panic!("{other}"),
        }
    };
    // Nobody made the slot.
    let message = attempt(&options).await;
    assert!(message.contains("ms_m2"), "{message}");

    primary.session().await.create_slot("ms_m2").await.unwrap();
    upstream::write_passfile(&standby.layout, "wrong:password").unwrap();
    let message = attempt(&options).await;
    assert!(message.contains("password authentication failed") && !message.contains("wrong"), "{message}");

    upstream::write_passfile(&standby.layout, crate::server::REPLICATION_PASSWORD).unwrap();
    // The certificate is for m1: another member's name must not do.
    options.upstream.member = standby.id.clone();
    let name_error = clone(&standby.tools, &standby.layout, &options, &sender).await.unwrap_err();
    let CloneError::Unreachable { source, .. } = name_error else { panic!("{name_error}") };
    assert!(source.to_string().contains("does not match host name"), "{source}");

    options.upstream.member = primary.id.clone();
    options.system_identifier += 1;
    let other = clone(&standby.tools, &standby.layout, &options, &sender).await.unwrap_err();
    assert!(matches!(other, CloneError::OtherSystem { .. }), "{other}");
    assert!(matches!(standby.inspect().await, DirectoryState::HalfChanged(_)));

    options.system_identifier -= 1;
    clone(&standby.tools, &standby.layout, &options, &sender).await.unwrap();
    assert!(matches!(standby.inspect().await, DirectoryState::Valid { .. }));
}

#[tokio::test]
async fn a_clone_whose_source_stops_answering_is_given_up_and_one_whose_source_dies_fails() {
    let world = World::new();
    let mut primary = world.primary("m1").await;
    primary.write_rows(200).await;
    let standby = world.member("m2").await;
    primary.session().await.create_slot("ms_m2").await.unwrap();
    let mut options = standby.clone_options(&primary).await;
    options.stall_timeout = Duration::from_millis(1500);
    let (sender, _receiver) = watch::channel(Progress::default());
    let copying = clone(&standby.tools, &standby.layout, &options, &sender);
    let freeze = async {
        let first = standby.layout.data().join("base");
        standby.wait("the first files", async |_| first.exists()).await;
        primary.postmaster().signal_all(nix::sys::signal::Signal::SIGSTOP);
    };
    let (result, ()) = tokio::join!(copying, freeze);
    let CloneError::Tool { source, .. } = result.unwrap_err() else { panic!() };
    assert!(source.to_string().contains("moved no data"), "{source}");
    assert!(matches!(standby.inspect().await, DirectoryState::HalfChanged(_)));
    primary.crash();

    options.stall_timeout = LONG;
    let (sender, _receiver) = watch::channel(Progress::default());
    let result = clone(&standby.tools, &standby.layout, &options, &sender).await;
    assert!(matches!(result, Err(CloneError::Unreachable { .. })));
    assert!(matches!(standby.inspect().await, DirectoryState::HalfChanged(_)));
}

#[tokio::test]
async fn nothing_is_removed_for_a_source_that_cannot_be_had() {
    let world = World::new();
    let mut primary = world.primary("m1").await;
    let mut standby = world.primary("m2").await;
    standby.stop().await;
    let before = standby.inspect().await;
    assert!(matches!(before, DirectoryState::Valid { .. }));
    let mut options = standby.clone_options(&primary).await;
    let (sender, _receiver) = watch::channel(Progress::default());
    options.system_identifier += 1;
    let error = clone(&standby.tools, &standby.layout, &options, &sender).await.unwrap_err();
    assert!(matches!(error, CloneError::OtherSystem { .. }), "{error}");
    assert_eq!(standby.inspect().await, before);
    primary.stop().await;
    let error = clone(&standby.tools, &standby.layout, &options, &sender).await.unwrap_err();
    assert!(matches!(error, CloneError::Unreachable { .. }), "{error}");
    assert_eq!(standby.inspect().await, before);
}
