use std::time::Duration;

use mainstay_postgres::session::{Probe, Session, SessionError, fresh_probe};
use nix::sys::signal::Signal;

use crate::server::{LONG, World};

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_stopped_server_is_silent_and_a_dead_one_refuses() {
    let world = World::new();
    let mut member = world.primary("m1").await;
    let server = member.server();
    assert_eq!(fresh_probe(&server, SHORT).await, Probe::Alive);
    let session = Session::connect(&server, LONG, SHORT).await.unwrap();
    session.observe().await.unwrap();
    member.postmaster().signal_all(Signal::SIGSTOP);
    assert_eq!(fresh_probe(&server, SHORT).await, Probe::Silent);
    let error = session.observe().await.unwrap_err();
    assert!(matches!(error, SessionError::Timeout { .. }), "{error}");
    // Also when nobody has accepted connections for so long that their queue is full.
    let mut waiting = Vec::new();
    let socket = server.socket_dir.join(format!(".s.PGSQL.{}", server.port));
    let is_full = loop {
        match tokio::time::timeout(SHORT, tokio::net::UnixStream::connect(&socket)).await {
            Ok(Ok(stream)) => waiting.push(stream),
            Ok(Err(error)) => break error.raw_os_error() == Some(nix::libc::EAGAIN),
            Err(_) => break true,
        }
        assert!(waiting.len() < 20_000);
    };
    assert!(is_full);
    assert_eq!(fresh_probe(&server, SHORT).await, Probe::Silent);
    drop(waiting);
    member.postmaster().signal_all(Signal::SIGCONT);
    member.wait("the server to go on", async |_| fresh_probe(&server, LONG).await == Probe::Alive).await;
    member.crash();
    assert_eq!(fresh_probe(&server, LONG).await, Probe::Refused);
    assert!(!Probe::Refused.is_answer() && !Probe::Silent.is_answer());
}

#[tokio::test]
async fn a_full_server_is_alive() {
    let world = World::new();
    let mut member = world.member("m1").await;
    member.set_parameter("max_connections", "5");
    member.set_parameter("superuser_reserved_connections", "3");
    member.set_parameter("max_wal_senders", "10");
    member.initdb().await;
    member.start().await;
    let mut sessions = Vec::new();
    let probe = loop {
        match Session::connect(&member.server(), LONG, LONG).await {
            Ok(session) => sessions.push(session),
            Err(_) => break fresh_probe(&member.server(), LONG).await,
        }
        assert!(sessions.len() <= 5);
    };
    assert_eq!(probe, Probe::Saturated);
    assert!(probe.is_answer());
}

#[tokio::test]
async fn a_server_that_starts_or_stops_says_so() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let mut standby = world.standby("m2", &primary).await;
    let session = standby.application().await.unwrap();
    // A smart shutdown waits for this session and lets nobody in.
    standby.postmaster().signal(Signal::SIGTERM);
    standby
        .wait("the shutdown to begin", async |member| {
            matches!(fresh_probe(&member.server(), LONG).await, Probe::StartingUp { .. })
        })
        .await;
    let probe = fresh_probe(&standby.server(), LONG).await;
    assert!(
        matches!(&probe, Probe::StartingUp { message } if message.contains("shutting down")),
        "{probe:?}"
    );
    assert!(probe.is_answer());
    drop(session);
    let pid_file = standby.layout.data().join("postmaster.pid");
    standby.wait("the end", async |_| !pid_file.exists()).await;
    standby.crash();

    // A role that is not let in is an answer too.
    let ident = primary.layout.ident_file();
    std::fs::write(ident, "").unwrap();
    primary.reload();
    primary
        .wait("the map to be gone", async |member| {
            matches!(fresh_probe(&member.server(), LONG).await, Probe::Refusing { .. })
        })
        .await;
    assert!(fresh_probe(&primary.server(), LONG).await.is_answer());
}
