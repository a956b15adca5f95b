//! Calls, their failures, and the lease's thread of its own.

use std::time::{Duration, Instant};

use mainstay_net::{CallError, Channel, Detached, Link};

use crate::support::{Cluster, LIMIT, Listener, any_port, member, until_connected};

/// For calls that are not going to be answered.
const SHORT: Duration = Duration::from_millis(100);

async fn connected(channel: Channel) -> (Listener, Link) {
    let cluster = Cluster::new();
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let link = cluster.endpoint("m2").link(member("m1"), listener.address, channel);
    until_connected(&link, true).await;
    (listener, link)
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    let (_listener, link) = connected(Channel::Rpc).await;
    // The slow one does not hold up the others.
    let slow = link.call("never", b"", LIMIT);
    let quick = async {
        for number in 0..200_u32 {
            let body = number.to_string();
            let answer = link.call("echo", body.as_bytes(), LIMIT).await.unwrap();
            assert_eq!(answer, format!("m2 {number}"));
        }
    };
    tokio::select! {
        answer = slow => panic!("{answer:?}"),
        () = quick => {}
    }
}

#[tokio::test]
async fn refusals_carry_their_reason_on_one_line() {
    let (_listener, link) = connected(Channel::Rpc).await;
    let refused = |reason: &str| Err(CallError::Refused(reason.to_owned()));
    assert_eq!(link.call("no", b"", LIMIT).await, refused("it is not allowed"));
    assert_eq!(link.call("nonsense", b"", LIMIT).await, refused("no method nonsense"));
    let Err(CallError::Refused(reason)) = link.call("large", b"", LIMIT).await else { panic!() };
    assert!(reason.contains("over the limit"), "{reason}");
    let Err(CallError::Refused(reason)) = link.call("echo", &vec![0; 17 * 1024 * 1024], LIMIT).await else {
        panic!()
    };
    assert!(reason.contains("over the limit"), "{reason}");
    assert_eq!(link.call("echo", b"fine", LIMIT).await.unwrap(), "m2 fine");
}

#[tokio::test]
async fn calls_over_the_limit_are_refused_and_the_link_stays_up() {
    let (_listener, link) = connected(Channel::Rpc).await;
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let link = link.clone();
        hanging.spawn(async move { link.call("never", b"", SHORT).await });
    }
    for result in hanging.join_all().await {
        assert_eq!(result, Err(CallError::TimedOut));
    }
    let Err(CallError::Refused(reason)) = link.call("echo", b"", LIMIT).await else { panic!() };
    assert!(reason.contains("too many calls"), "{reason}");
    // Longer than the limit of silence: pings are still answered.
    let mut up = link.connected();
    let lost = tokio::time::timeout(Duration::from_millis(2_500), up.wait_for(|now| !now)).await;
    assert!(lost.is_err(), "{:?}", link.status());
}

#[tokio::test]
async fn calls_fail_at_once_without_a_connection_and_when_it_is_lost() {
    let (listener, link) = connected(Channel::Rpc).await;
    let under_way = tokio::spawn({
        let link = link.clone();
        async move { link.call("never", b"", LIMIT).await }
    });
    // It is on its way when a later one is answered.
    link.call("echo", b"", LIMIT).await.unwrap();
    drop(listener);
    assert_eq!(under_way.await.unwrap(), Err(CallError::Closed));
    until_connected(&link, false).await;
    let begin = Instant::now();
    assert_eq!(link.call("echo", b"", LIMIT).await, Err(CallError::NotConnected));
    assert!(begin.elapsed() < LIMIT / 2);
}

#[tokio::test]
async fn a_frame_on_the_wrong_channel_ends_the_connection() {
    let (mut listener, link) = connected(Channel::Raft).await;
    assert_eq!(link.call("echo", b"", LIMIT).await, Err(CallError::Closed));
    assert!(listener.next_end().await.unwrap_err().contains("no place on this channel"));
}

/// A runtime on a thread of its own.
struct Thread {
    handle: tokio::runtime::Handle,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Thread {
    fn new() -> Thread {
        let (end, ended) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let thread = std::thread::spawn(move || drop(runtime.block_on(ended)));
        Thread { handle, end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

#[tokio::test]
async fn the_lease_is_answered_while_the_listener_s_runtime_is_stuck() {
    let cluster = Cluster::new();
    let (listening, lease) = (Thread::new(), Thread::new());
    let (sender, mut detached) = tokio::sync::mpsc::unbounded_channel::<Detached>();
    lease.handle.spawn(async move {
        while let Some(detached) = detached.recv().await {
            let incoming = detached.attach().unwrap();
            tokio::spawn(incoming.serve_lease(|from, body| format!("{from} {}", body.len()).into_bytes()));
        }
    });
    let server = {
        let _context = listening.handle.enter();
        cluster.endpoint("m1").listen(any_port()).unwrap()
    };
    let address = server.local_address();
    listening.handle.spawn(server.run(move |incoming| {
        let sender = sender.clone();
        async move { sender.send(incoming.detach().unwrap()).unwrap() }
    }));
    let link = cluster.endpoint("m2").link(member("m1"), address, Channel::Lease);
    until_connected(&link, true).await;
    assert_eq!(link.call("", b"abc", LIMIT).await.unwrap(), "m2 3");

    // Blocks the thread until `release` is dropped.
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    listening.handle.spawn(async move {
        let _ = blocked.recv();
    });
    let late = cluster.endpoint("m3").link(member("m1"), address, Channel::Lease);
    // Longer than the limits of silence on both sides.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(6) {
        assert_eq!(link.call("", b"abcd", LIMIT).await.unwrap(), "m2 4");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!late.status().connected, "the listener was not stuck");
    drop(release);
    until_connected(&late, true).await;
    drop(listening);
    // The connection has outlived the runtime that accepted it.
    assert_eq!(link.call("", b"", LIMIT).await.unwrap(), "m2 0");
}
