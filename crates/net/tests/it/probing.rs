//! Ports that are open, closed, silent, and nowhere.

use std::time::{Duration, Instant};

use mainstay_net::{Reachability, probe};
use tokio::net::{TcpListener, TcpSocket};

use crate::support::{LIMIT, any_port, reserved_port};

#[tokio::test]
async fn open_and_refused_ports_are_told_apart() {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    assert_eq!(probe(listener.local_addr().unwrap(), LIMIT).await, Reachability::Open);
    let (_socket, closed) = reserved_port();
    assert_eq!(probe(closed, LIMIT).await, Reachability::Refused);
}

#[tokio::test]
async fn a_port_that_drops_packets_gives_no_answer() {
    // A listener whose queue is full: Linux drops what comes after, as a firewall does.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(any_port()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let limit = Duration::from_millis(300);
    let mut waiting = Vec::new();
    let deadline = Instant::now() + LIMIT;
    let begin = loop {
        let begin = Instant::now();
        match tokio::time::timeout(limit, tokio::net::TcpStream::connect(address)).await {
            Ok(stream) => waiting.push(stream.unwrap()),
            Err(_) => break Instant::now(),
        }
        assert!(begin < deadline, "the queue is never full");
    };
    assert_eq!(probe(address, limit).await, Reachability::NoAnswer);
    assert!(begin.elapsed() < LIMIT);
}

#[tokio::test]
async fn what_this_machine_cannot_try_is_told_as_such() {
    // A link-local address says nothing without the interface.
    let found = probe("[fe80::1]:7400".parse().unwrap(), LIMIT).await;
    assert!(matches!(found, Reachability::NotTried(_)), "{found:?}");
    assert!(!found.is_open() && !found.to_string().contains('\n'), "{found}");
}
