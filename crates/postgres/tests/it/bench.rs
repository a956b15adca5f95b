//! How long the steps of a failover take. The numbers are printed (`--nocapture`); the limits are wide, for a busy
//! machine: they catch a step that waits for a poll or a retry somewhere.

use std::time::{Duration, Instant};

use mainstay_postgres::Progress;
use mainstay_postgres::seal::seal;
use mainstay_postgres::session::{Probe, fresh_probe};
use mainstay_postgres::upstream;
use mainstay_postgres::wal_end::wal_end;

use crate::server::{LONG, World};

/// Median and worst of the durations.
fn report(what: &str, mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    let (median, worst) = (durations[durations.len() / 2], *durations.last().unwrap());
    let count = durations.len();
    // The test's own output: there is no subscriber for tracing here.
    #[allow(clippy::print_stdout)]
    {
        println!("{what}: median {median:.1?}, worst {worst:.1?} of {count}");
    }
    median
}

#[tokio::test]
async fn the_steps_of_a_failover_are_quick() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let mut standby = world.standby("m2", &primary).await;
    primary.write_rows(20).await;
    let load = tokio::spawn({
        let sql = primary.sql().await;
        async move {
            sql.batch_execute("CREATE TABLE load (t text)").await.unwrap();
            while sql.batch_execute("INSERT INTO load VALUES (repeat('x', 500))").await.is_ok() {}
        }
    });
    let session = standby.session().await;
    let (mut observing, mut probing, mut sealing, mut scanning) = (vec![], vec![], vec![], vec![]);
    for _ in 0..30 {
        let start = Instant::now();
        session.observe().await.unwrap();
        observing.push(start.elapsed());
        let start = Instant::now();
        assert_eq!(fresh_probe(&standby.server(), LONG).await, Probe::Alive);
        probing.push(start.elapsed());
    }
    for _ in 0..10 {
        let start = Instant::now();
        let control = Some(standby.postmaster());
        seal(&standby.layout, standby.tools.version(), &standby.settings, control, LONG).await.unwrap();
        sealing.push(start.elapsed());
        let replay = session.observe().await.unwrap().replay;
        let start = Instant::now();
        wal_end(&standby.tools, &standby.layout, replay, LONG).await.unwrap();
        scanning.push(start.elapsed());
        upstream::write_passfile(&standby.layout, crate::server::REPLICATION_PASSWORD).unwrap();
        standby.configure();
        standby.reload();
        standby.wait_streaming().await;
    }
    load.abort();
    standby.crash();
    let mut cold = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        wal_end(&standby.tools, &standby.layout, None, LONG).await.unwrap();
        cold.push(start.elapsed());
    }
    let limit = Duration::from_millis(500);
    assert!(report("observe", observing) < limit);
    assert!(report("fresh_probe", probing) < limit);
    assert!(report("seal", sealing) < limit);
    assert!(report("wal_end, running", scanning) < limit);
    assert!(report("wal_end, down, some 30 MB", cold) < limit * 4);
    let (progress, _receiver) = tokio::sync::watch::channel(Progress::default());
    let options = standby.clone_options(&primary).await;
    let start = Instant::now();
    mainstay_postgres::clone::clone(&standby.tools, &standby.layout, &options, &progress).await.unwrap();
    report("clone of some 60 MB", vec![start.elapsed()]);
}
