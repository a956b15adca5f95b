use mainstay_core::Timeline;
use mainstay_postgres::Progress;
use mainstay_postgres::directory::{Change, DirectoryError, DirectoryState, Operation};
use mainstay_postgres::rewind::{RewindError, RewindOptions, rewind};
use mainstay_postgres::session::checkpoint;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use crate::server::{LONG, Member, World};

/// A former primary, killed, that committed three transactions which its successor does not have; and the successor.
async fn diverged(world: &World) -> (Member, Member) {
    let (old, new) = promoted_without_checkpoint(world).await;
    let checkpointer = new.session().await.checkpointer().await.unwrap().unwrap().pid;
    kill(Pid::from_raw(checkpointer), Signal::SIGCONT).unwrap();
    checkpoint(&new.server(), LONG).await.unwrap();
    (old, new)
}

async fn promoted_without_checkpoint(world: &World) -> (Member, Member) {
    let mut old = world.primary("m1").await;
    old.write_rows(30).await;
    let mut new = world.standby("m2", &old).await;
    new.wait_caught_up(&old).await;
    // Cut the successor off, then go on alone.
    new.settings.upstream = None;
    new.configure();
    new.reload();
    new.wait("the stream to end", async |member| member.observe().await.walreceiver.is_none()).await;
    let sql = old.sql().await;
    for statement in
        ["CREATE TABLE lost (n int)", "INSERT INTO lost VALUES (1)", "INSERT INTO lost VALUES (2)"]
    {
        sql.batch_execute(statement).await.unwrap();
    }
    old.crash();
    let checkpointer = new.session().await.checkpointer().await.unwrap().unwrap().pid;
    kill(Pid::from_raw(checkpointer), Signal::SIGSTOP).unwrap();
    new.promote().await;
    new.session().await.create_slot("ms_m1").await.unwrap();
    new.sql().await.batch_execute("CREATE TABLE won (n int)").await.unwrap();
    (old, new)
}

async fn options(old: &Member, new: &Member) -> RewindOptions {
    let DirectoryState::Valid { control, .. } = old.inspect().await else { panic!() };
    let fork = *new.newest_history().last().unwrap();
    RewindOptions {
        upstream: new.upstream(),
        common_timeline: Timeline(2),
        fork: fork.begin,
        system_identifier: control.system_identifier,
        stall_timeout: LONG,
    }
}

#[tokio::test]
async fn a_diverged_primary_is_rewound_and_follows() {
    let world = World::new();
    let (mut old, new) = diverged(&world).await;
    let DirectoryState::Valid { incarnation: before, .. } = old.inspect().await else { panic!() };
    let options = options(&old, &new).await;
    let (sender, _receiver) = watch::channel(Progress::default());
    let rewound = rewind(&old.tools, &old.layout, &options, &sender).await.unwrap();
    assert_eq!(rewound.diverged_commits, 3);
    assert_ne!(rewound.incarnation, before);
    // The data is 50 MB; what differs are some pages and the source's WAL.
    let wal_bytes: u64 = std::fs::read_dir(new.layout.pg_wal())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap())
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| metadata.len())
        .sum();
    assert!(
        rewound.moved_bytes > 0 && rewound.moved_bytes < wal_bytes + (8 << 20),
        "{rewound:?} {wal_bytes}"
    );
    let kept = rewound.kept_wal.unwrap().unwrap();
    assert!(kept.join(format!("{:08X}.history", 2)).exists(), "{kept:?}");
    let segments =
        std::fs::read_dir(&kept).unwrap().filter(|entry| entry.as_ref().unwrap().file_name().len() == 24);
    assert_eq!(segments.count(), 1);

    let DirectoryState::Valid { incarnation, .. } = old.inspect().await else { panic!() };
    assert_eq!(incarnation, rewound.incarnation);
    old.follow(&new, incarnation);
    old.start().await;
    old.wait_streaming().await;
    old.wait_caught_up(&new).await;
    let row = old
        .sql()
        .await
        .query_one("SELECT to_regclass('won')::text, to_regclass('lost')::text", &[])
        .await
        .unwrap();
    assert_eq!(
        (row.get::<_, Option<String>>(0).as_deref(), row.get::<_, Option<String>>(1)),
        (Some("won"), None)
    );
}

#[tokio::test]
async fn a_rewind_whose_source_dies_leaves_a_directory_that_is_never_started() {
    let world = World::new();
    let (old, mut new) = diverged(&world).await;
    let options = options(&old, &new).await;
    new.crash();
    let (sender, _receiver) = watch::channel(Progress::default());
    let error = rewind(&old.tools, &old.layout, &options, &sender).await.unwrap_err();
    let RewindError::Tool { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("onnection"), "{source}");
    let DirectoryState::HalfChanged(mark) = old.inspect().await else { panic!("no mark") };
    assert_eq!((mark.operation, mark.source), (Operation::Rewind, Some(new.id.clone())));
    // The next rung is a clone: a second rewind of what may be half rewound is refused.
    let again = Change::begin(&old.tools, &old.layout, Operation::Rewind, None).await.unwrap_err();
    assert!(matches!(again, DirectoryError::NotApplicable { .. }), "{again}");
    Change::begin(&old.tools, &old.layout, Operation::Clone, None).await.unwrap();
}

/// Before its first checkpoint on the new timeline the source looks to pg_rewind as if nothing had diverged.
#[tokio::test]
async fn a_rewind_that_does_nothing_is_no_success() {
    let world = World::new();
    let (old, new) = promoted_without_checkpoint(&world).await;
    let options = options(&old, &new).await;
    let (sender, _receiver) = watch::channel(Progress::default());
    let error = rewind(&old.tools, &old.layout, &options, &sender).await.unwrap_err();
    let RewindError::NothingDone { end, fork } = error else { panic!("{error}") };
    assert!(end > fork && fork == options.fork);
    assert!(matches!(old.inspect().await, DirectoryState::HalfChanged(_)));
}
