//! Measures three members on this machine: real directories below the given one, TCP over loopback between them.
//!
//! `cargo run --release -p mainstay-store --example commit_latency -- DIRECTORY [PROPOSALS]`
//!
//! Prints the time from a proposal to its answer, at the leader and at a follower, and the processor time of an idle
//! member.
#![allow(clippy::print_stdout, reason = "it is there to print")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mainstay_consensus::{Identity, Outgoing, Role};
use mainstay_store::contract::Journal;
use mainstay_store::{RaftOptions, RaftStore, create, start};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(20);
type Failed = Box<dyn std::error::Error>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("which directory?")?);
    let proposals: usize = arguments.next().map_or(Ok(2000), |count| count.parse())?;
    let stores = cluster(&directory).await?;
    let leader = leader(&stores).await;
    let follower = leader % 3 + 1;
    for (name, raft_id) in [("leader", leader), ("follower", follower)] {
        let mut times = Vec::new();
        for _ in 0..proposals {
            let begun = Instant::now();
            stores[&raft_id].propose(vec![b'x'; 200], PATIENCE).await?;
            times.push(begun.elapsed());
        }
        times.sort();
        let at = |part: usize| times[(times.len() * part / 1000).min(times.len() - 1)];
        println!("{name}: median {:?}, p99 {:?}, worst {:?} of {proposals}", at(500), at(990), at(1000));
    }
    let begun = Instant::now();
    for _ in 0..100 {
        stores[&follower].linearize(PATIENCE).await?;
    }
    println!("confirmed read at a follower: mean {:?} of 100", begun.elapsed() / 100);
    let before = processor_time()?;
    tokio::time::sleep(IDLE).await;
    let spent = processor_time()?.saturating_sub(before);
    println!(
        "idle: {:.3} % of a core per member, links included",
        100.0 * spent.as_secs_f64() / IDLE.as_secs_f64() / 3.0
    );
    Ok(())
}

async fn cluster(directory: &std::path::Path) -> Result<BTreeMap<u64, RaftStore<Journal>>, Failed> {
    let mut stores = BTreeMap::new();
    let mut listeners = BTreeMap::new();
    let mut queues = Vec::new();
    for raft_id in 1..=3_u64 {
        let path = directory.join(raft_id.to_string());
        let identity = Identity { cluster_id: "measured".to_owned(), raft_id };
        create(&path, &identity, &[1, 2, 3], &[])?;
        let (store, outgoing) = start(RaftOptions::new(path, identity.cluster_id), Journal::default())?;
        stores.insert(raft_id, store);
        queues.push((raft_id, outgoing));
        listeners.insert(raft_id, TcpListener::bind("127.0.0.1:0").await?);
    }
    for (from, outgoing) in queues {
        let mut links = BTreeMap::new();
        for (to, listener) in listeners.iter().filter(|(to, _)| **to != from) {
            let sender = TcpStream::connect(listener.local_addr()?).await?;
            let (receiver, _) = listener.accept().await?;
            sender.set_nodelay(true)?;
            tokio::spawn(receive(receiver, from, stores[to].clone()));
            links.insert(*to, sender);
        }
        tokio::spawn(send(outgoing, links));
    }
    Ok(stores)
}

async fn send(mut outgoing: mpsc::Receiver<Outgoing>, mut links: BTreeMap<u64, TcpStream>) {
    while let Some(message) = outgoing.recv().await {
        let mut frame = u32::try_from(message.bytes.len()).unwrap_or(0).to_be_bytes().to_vec();
        frame.extend_from_slice(&message.bytes);
        if let Some(link) = links.get_mut(&message.to)
            && link.write_all(&frame).await.is_err()
        {
            return;
        }
    }
}

async fn receive(mut link: TcpStream, from: u64, store: RaftStore<Journal>) {
    while let Ok(length) = link.read_u32().await {
        let mut bytes = vec![0; length as usize];
        if link.read_exact(&mut bytes).await.is_err() {
            return;
        }
        store.step(from, bytes);
    }
}

async fn leader(stores: &BTreeMap<u64, RaftStore<Journal>>) -> u64 {
    loop {
        for (raft_id, store) in stores {
            if store.watch().borrow().status.role == Role::Leader {
                return *raft_id;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn processor_time() -> Result<Duration, Failed> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(microseconds)?))
}
