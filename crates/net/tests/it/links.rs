//! Links over networks that break.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mainstay_net::Channel;

use crate::support::{
    Cluster, LIMIT, Listener, Network, any_port, member, reserved_port, until_connected, until_error,
};

/// For what is designed to take at most 2 s.
const LOOSE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn messages_arrive_in_order_with_their_sender() {
    let cluster = Cluster::new();
    let mut listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let link = cluster.endpoint("m2").link(member("m1"), listener.address, Channel::Raft);
    let large = vec![7; 16 * 1024 * 1024];
    assert!(link.send(&[&large[..], b"x"].concat()).is_err());
    until_connected(&link, true).await;
    for number in 0..500_u32 {
        link.send(&number.to_be_bytes()).unwrap();
    }
    link.send(&large).unwrap();
    for number in 0..500_u32 {
        assert_eq!(listener.next_message().await, (member("m2"), number.to_be_bytes().to_vec().into()));
    }
    assert_eq!(listener.next_message().await.1, large);
    assert_eq!(link.status().dropped, 0);
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_and_replaced() {
    let cluster = Cluster::new();
    let mut listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let network = Network::before(listener.address).await;
    let m2 = cluster.endpoint("m2");
    let (raft, rpc) = (
        m2.link(member("m1"), network.address, Channel::Raft),
        m2.link(member("m1"), network.address, Channel::Rpc),
    );
    for link in [&raft, &rpc] {
        until_connected(link, true).await;
    }
    network.cut();
    // A call under way is told at the same time as the link.
    let under_way =
        tokio::time::timeout(LOOSE, rpc.call("echo", b"", LIMIT)).await.expect("it fails in time");
    assert_eq!(under_way.unwrap_err(), mainstay_net::CallError::Closed);
    for link in [&raft, &rpc] {
        assert!(until_connected(link, false).await < LOOSE);
        until_error(link, "nothing was received for 1500 ms").await;
    }
    // An attempt into the void ends, too.
    until_error(&raft, "did not answer within").await;

    network.heal();
    let healed = Instant::now();
    for link in [&raft, &rpc] {
        until_connected(link, true).await;
    }
    raft.send(b"again").unwrap();
    assert_eq!(listener.next_message().await.1, "again");
    rpc.call("echo", b"", LIMIT).await.unwrap();
    assert!(healed.elapsed() < LOOSE, "it took {:?}", healed.elapsed());
    // The listener has let go of its half-open ends.
    for _ in 0..2 {
        assert!(listener.next_end().await.unwrap_err().contains("nothing was received"));
    }
}

#[tokio::test]
async fn a_hint_begins_a_hanging_attempt_anew() {
    let cluster = Cluster::new();
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let network = Network::before(listener.address).await;
    network.cut();
    let link = cluster.endpoint("m2").link(member("m1"), network.address, Channel::Raft);
    let begin = Instant::now();
    while network.accepted.load(Ordering::SeqCst) == 0 {
        assert!(begin.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    network.heal();
    link.peer_is_probably_back();
    until_connected(&link, true).await;
    // The first attempt never failed: it was given up.
    assert_eq!(link.status().last_error, None);
    assert_eq!(network.accepted.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_absent_peer_costs_messages_but_no_time() {
    let cluster = Cluster::new();
    let m1 = cluster.endpoint("m1");
    let (_reservation, address) = reserved_port();
    let link = cluster.endpoint("m2").link(member("m1"), address, Channel::Raft);
    until_error(&link, "cannot connect to").await;
    for number in 0..3000_u32 {
        link.send(&number.to_be_bytes()).unwrap();
    }
    assert_eq!(link.status().dropped, 3000 - 1024);

    // Whatever had grown old by then is not sent, but what is sent now is.
    let mut listener = Listener::restart(&m1, address).await;
    until_connected(&link, true).await;
    link.send(b"newest").unwrap();
    loop {
        let (_, message) = listener.next_message().await;
        if message == "newest" {
            break;
        }
        assert!(u32::from_be_bytes(message[..].try_into().unwrap()) >= 3000 - 1024);
    }
}

#[tokio::test]
async fn a_link_follows_its_peer_through_restarts() {
    let cluster = Cluster::new();
    let m1 = cluster.endpoint("m1");
    let (_reservation, address) = reserved_port();
    let mut listener = Listener::start(&m1, address);
    let link = cluster.endpoint("m2").link(member("m1"), address, Channel::Raft);
    for round in 0..3_u8 {
        until_connected(&link, true).await;
        link.send(&[round]).unwrap();
        assert_eq!(listener.next_message().await.1[..], [round]);
        drop(listener);
        until_connected(&link, false).await;
        listener = Listener::restart(&m1, address).await;
    }
}

#[tokio::test]
async fn the_last_handle_closes_the_connection() {
    let cluster = Cluster::new();
    let mut listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let link = cluster.endpoint("m2").link(member("m1"), listener.address, Channel::Raft);
    until_connected(&link, true).await;
    let (second, mut connected) = (link.clone(), link.connected());
    drop(link);
    second.send(b"still here").unwrap();
    assert_eq!(listener.next_message().await.1, "still here");
    drop(second);
    assert_eq!(listener.next_end().await, Ok(()));
    assert!(tokio::time::timeout(LIMIT, connected.wait_for(|now| !now)).await.is_ok());
}
