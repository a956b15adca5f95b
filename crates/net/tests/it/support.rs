//! Clusters, listeners and a breakable network for the tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mainstay_core::MemberId;
use mainstay_net::pki::{ClusterCa, Issued};
use mainstay_net::{
    Allowlist, CallHandler, CallService, Channel, Endpoint, Identity, Incoming, KeyFingerprint, Link, Server,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// Longer than anything here takes, even on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn member(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

pub(crate) fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A port that refuses connections and that nobody else gets; listeners can come and go there.
pub(crate) fn reserved_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(any_port()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Keys of a few members.
pub(crate) struct Cluster {
    pub(crate) ca: ClusterCa,
    pub(crate) issued: BTreeMap<MemberId, Issued>,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let ca = ClusterCa::create("shop").unwrap();
        let names = ["m1", "m2", "m3"].map(member);
        let issued = names.into_iter().map(|name| (name.clone(), ca.issue_member(&name).unwrap())).collect();
        Cluster { ca, issued }
    }

    pub(crate) fn identity(&self, name: &str) -> Identity {
        let issued = &self.issued[&member(name)];
        Identity::from_pem(&issued.certificate_pem, &issued.key_pem).unwrap()
    }

    pub(crate) fn fingerprints(&self) -> BTreeMap<MemberId, KeyFingerprint> {
        self.issued.keys().map(|name| (name.clone(), self.identity(name.as_str()).fingerprint())).collect()
    }

    pub(crate) fn without(&self, name: &str) -> BTreeMap<MemberId, KeyFingerprint> {
        let mut fingerprints = self.fingerprints();
        fingerprints.remove(&member(name)).unwrap();
        fingerprints
    }

    /// A member with an allowlist of its own.
    pub(crate) fn endpoint(&self, name: &str) -> Endpoint {
        endpoint(name, "shop", self.identity(name), self.fingerprints())
    }
}

pub(crate) fn endpoint(
    name: &str,
    cluster: &str,
    identity: Identity,
    fingerprints: BTreeMap<MemberId, KeyFingerprint>,
) -> Endpoint {
    Endpoint::new(member(name), cluster, identity, Allowlist::new(fingerprints)).unwrap()
}

/// Answers `echo`; refuses `no`; never answers `never`; answers `large` with too much.
pub(crate) struct Answers;

impl CallHandler for Answers {
    async fn handle(&self, from: MemberId, method: &str, body: bytes::Bytes) -> Result<Vec<u8>, String> {
        match method {
            "echo" => Ok([from.as_str().as_bytes(), b" ", &body].concat()),
            "no" => Err("it is\nnot allowed".to_owned()),
            "never" => std::future::pending().await,
            "large" => Ok(vec![0; 17 * 1024 * 1024]),
            other => Err(format!("no method {other}")),
        }
    }
}

/// A running listener, ended when dropped.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) messages: mpsc::UnboundedReceiver<(MemberId, bytes::Bytes)>,
    /// What became of each connection that has ended.
    pub(crate) ended: mpsc::UnboundedReceiver<Result<(), String>>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    pub(crate) fn start(endpoint: &Endpoint, address: SocketAddr) -> Listener {
        Listener::run(endpoint.listen(address).unwrap())
    }

    /// At an address that an earlier listener may still be leaving.
    pub(crate) async fn restart(endpoint: &Endpoint, address: SocketAddr) -> Listener {
        let deadline = Instant::now() + LIMIT;
        loop {
            match endpoint.listen(address) {
                Ok(server) => return Listener::run(server),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn run(server: Server) -> Listener {
        let address = server.local_address();
        let (message_sender, messages) = mpsc::unbounded_channel();
        let (end_sender, ended) = mpsc::unbounded_channel();
        let service = CallService::new(Answers, 8);
        let task = tokio::spawn(server.run(move |incoming| {
            let (messages, ended, service) = (message_sender.clone(), end_sender.clone(), service.clone());
            async move {
                let result = serve(incoming, &messages, &service).await;
                let _ = ended.send(result.map_err(|error| error.to_string()));
            }
        }));
        Listener { address, messages, ended, task }
    }

    pub(crate) async fn next_message(&mut self) -> (MemberId, bytes::Bytes) {
        tokio::time::timeout(LIMIT, self.messages.recv()).await.expect("a message comes").unwrap()
    }

    pub(crate) async fn next_end(&mut self) -> Result<(), String> {
        tokio::time::timeout(LIMIT, self.ended.recv()).await.expect("a connection ends").unwrap()
    }
}

async fn serve(
    incoming: Incoming,
    messages: &mpsc::UnboundedSender<(MemberId, bytes::Bytes)>,
    service: &CallService<Answers>,
) -> Result<(), mainstay_net::ConnectionError> {
    let from = incoming.from().clone();
    match incoming.channel() {
        Channel::Raft => {
            incoming.serve_messages(|message| drop(messages.send((from.clone(), message)))).await
        }
        Channel::Lease => {
            incoming.serve_lease(|from, body| [from.as_str().as_bytes(), b" ", body].concat()).await
        }
        Channel::Rpc => incoming.serve_calls(service).await,
    }
}

/// Waits until the link is up or down, and returns how long it took.
pub(crate) async fn until_connected(link: &Link, connected: bool) -> Duration {
    let begin = Instant::now();
    let mut receiver = link.connected();
    let waiting = receiver.wait_for(|now| *now == connected);
    if tokio::time::timeout(LIMIT, waiting).await.is_err() {
        panic!("connected is not {connected}: {:?}", link.status());
    }
    begin.elapsed()
}

/// Waits until the link has failed for a reason that contains `text`.
pub(crate) async fn until_error(link: &Link, text: &str) {
    let deadline = Instant::now() + LIMIT;
    while !link.status().last_error.is_some_and(|error| error.contains(text)) {
        assert!(Instant::now() < deadline, "no error with {text:?}: {:?}", link.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A network between a link and a listener that can lose everything without closing anything.
pub(crate) struct Network {
    pub(crate) address: SocketAddr,
    /// How many connections were made through it.
    pub(crate) accepted: Arc<AtomicUsize>,
    broken: watch::Sender<Broken>,
    task: JoinHandle<()>,
}

/// Connections with a number up to `below` are dead; all of them while `now`.
#[derive(Clone, Copy, Default)]
struct Broken {
    now: bool,
    below: usize,
}

impl Network {
    pub(crate) async fn before(target: SocketAddr) -> Network {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let broken = watch::Sender::new(Broken::default());
        let (count, state) = (Arc::clone(&accepted), broken.clone());
        let task = tokio::spawn(async move {
            let mut carriers = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                let Ok(far) = TcpStream::connect(target).await else { continue };
                let (near_reader, near_writer) = near.into_split();
                let (far_reader, far_writer) = far.into_split();
                carriers.spawn(carry(near_reader, far_writer, number, state.subscribe()));
                carriers.spawn(carry(far_reader, near_writer, number, state.subscribe()));
            }
        });
        Network { address, accepted, broken, task }
    }

    /// From now on bytes vanish.
    pub(crate) fn cut(&self) {
        self.broken.send_modify(|broken| broken.now = true);
    }

    /// New connections work again; the bytes of the old ones are lost for ever.
    pub(crate) fn heal(&self) {
        let below = self.accepted.load(Ordering::SeqCst);
        self.broken.send_replace(Broken { now: false, below });
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    number: usize,
    mut broken: watch::Receiver<Broken>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        // A dead connection waits here until the network is taken down, with both its ends open.
        if broken.wait_for(|broken| !broken.now && number > broken.below).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
