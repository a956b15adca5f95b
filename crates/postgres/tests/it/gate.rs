use mainstay_postgres::children::{ChildKind, PostmasterControl};
use mainstay_postgres::hba::Gate;
use mainstay_postgres::session::{Probe, fresh_probe};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::server::{LONG, World};

#[tokio::test]
async fn a_shut_gate_refuses_applications_and_admits_mainstay_and_standbys() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let early = primary.application().await.expect("the gate is open");
    primary.set_gate(Gate::Shut);
    primary.reload();
    primary.wait("the gate to shut", async |member| member.application().await.is_err()).await;
    let error = primary.application().await.err().unwrap();
    assert!(error.as_db_error().unwrap().message().contains("rejects connection"), "{error}");
    assert_eq!(fresh_probe(&primary.server(), LONG).await, Probe::Alive);
    // A standby clones and streams through a shut gate.
    let standby = world.standby("m2", &primary).await;
    standby.wait_caught_up(&primary).await;

    // Sessions from before are let be until they are ended.
    early.batch_execute("SELECT 1").await.unwrap();
    let spared: i32 = early.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let session = primary.session().await;
    assert_eq!(session.terminate_application_sessions(&[spared]).await.unwrap(), 0);
    assert_eq!(session.terminate_application_sessions(&[]).await.unwrap(), 1);
    primary.wait("the session to end", async |_| early.batch_execute("SELECT 1").await.is_err()).await;
    session.observe().await.expect("our own session lives");
    assert_eq!(primary.observe().await.walsenders.len(), 1, "and so does replication");

    primary.set_gate(Gate::Open);
    primary.reload();
    primary.wait("the gate to open", async |member| member.application().await.is_ok()).await;
}

/// A connection that is open but has sent nothing yet is not subject to a reload: it must be found and ended.
#[tokio::test]
async fn a_connection_that_has_not_authenticated_is_found_among_the_children() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let mut silent = TcpStream::connect(("127.0.0.1", primary.settings.port)).await.unwrap();
    let unauthenticated = async || {
        let children = primary.postmaster().children().await.unwrap();
        let found = children.into_iter().filter(|child| child.kind() == ChildKind::Unauthenticated);
        found.map(|child| child.pid).collect::<Vec<i32>>()
    };
    primary.wait("the backend", async |_| unauthenticated().await.len() == 1).await;
    let pids = unauthenticated().await;
    primary.postmaster().terminate(&pids).await.unwrap();
    let mut nothing = [0; 1];
    assert_eq!(silent.read(&mut nothing).await.unwrap(), 0, "the connection is closed");
    assert_eq!(fresh_probe(&primary.server(), LONG).await, Probe::Alive);
}
