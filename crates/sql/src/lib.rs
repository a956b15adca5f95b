//! The SQL proxy: clients keep their connections while PostgreSQL's primary changes behind them.
//!
//! A process of its own, so that neither its faults nor the member's take the other down. Each of its threads (a [`worker`])
//! has its own runtime, listeners, pools and clients; nothing on the way of a statement is shared or locked. A session borrows
//! a server connection for each transaction; every connection carries the epoch of the route by which it was opened, and ends
//! with it.
//!
//! **Invariant:** nothing is sent to a primary past the deadline of the route, which is counted from the moment at which the
//! member was asked.

#![forbid(unsafe_code)]

mod cancel;
mod client;
mod closing;
mod console;
mod counters;
mod crew;
mod dial;
mod doubts;
mod encryption;
mod feed;
mod halts;
mod hba;
mod histogram;
mod listening;
mod login;
mod operator;
mod options;
mod pool;
mod quota;
mod random;
mod redact;
mod refusal;
mod routing;
mod server;
mod session;
mod session_settings;
mod silence;
mod snapshot;
mod source;
mod sql_text;
mod statements;
mod stream;
mod sweep;
mod worker;

pub mod settings;

pub use hba::HbaRule;
pub use settings::{DatabaseSettings, Paths, PoolMode, Settings, UserSettings};
pub use source::{Cluster, Source};

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tracing::{info, warn};

use closing::Closing;
use crew::Crew;
use encryption::Encryption;
use feed::Feed;
use pool::Access;
use worker::{Shared, Worker};

/// Why the proxy does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot listen on {address}: {source}; is another program using the port?")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot begin: {0}")]
    Begin(io::Error),
    #[error("cannot use the certificates of {path}: {source}; `mainstay certificates renew` makes them anew")]
    Certificate { path: String, source: io::Error },
}

const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(10);

/// Asks a member over the network for the routes, once: whether it knows us, and where the others are.
///
/// # Errors
/// It does not answer, or not for us, or the authority cannot be read.
pub async fn ask_once(
    cluster: Cluster,
    authority: &std::path::Path,
) -> io::Result<mainstay_net::routes::Routes> {
    let tls = encryption::dialler(authority)?;
    Feed::new(Source::Cluster(Arc::new(cluster)), Some(tls)).routes_once().await
}

/// Runs the proxy until it is told to end (SIGTERM). It makes its own threads and runtimes. Whoever may open the socket
/// `operator` may ask and order anything.
///
/// # Errors
/// An address cannot be listened on, a certificate cannot be read, or the system has no room for another thread.
pub fn run(settings: &Settings, paths: &Paths, operator: Option<UnixListener>) -> Result<(), RunError> {
    // Each client and each server takes one; what a service is given by default is enough for a thousand.
    raise_descriptors();
    run_until(settings, paths, operator, async {
        signal(SignalKind::terminate())?.recv().await;
        Ok(())
    })
}

/// As many open files as this process may have; without more it goes on with what it has.
fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        warn!(%error, "the number of open files cannot be raised: fewer clients than max_client_conn may fit");
    }
}

/// Runs the proxy until `end` is over.
///
/// # Errors
/// As [`run`], and that of `end`.
pub fn run_until(
    settings: &Settings,
    paths: &Paths,
    operator: Option<UnixListener>,
    end: impl Future<Output = io::Result<()>>,
) -> Result<(), RunError> {
    let workers = settings.worker_threads();
    let listeners = (0..workers).map(|_| Listeners::bind(settings)).collect::<Result<Vec<_>, _>>()?;
    let encryption = encryption(paths, settings)?;
    let (say_routes, told) = watch::channel(None);
    let (say_roles, roles) = watch::channel(None);
    let (say_closing, closing) = watch::channel(Closing::No);
    let (cancels, requests): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
    let (crew, queues) = Crew::new(workers);
    let (say_end, wanted_end) = mpsc::unbounded_channel();
    let shared = Shared {
        settings: Arc::new(settings.clone()),
        told,
        roles,
        ask_roles: Arc::default(),
        clients: Arc::new(AtomicUsize::new(0)),
        client_tls: encryption.clone(),
        server_tls: authority(paths)?,
        secret: random::bytes(),
        cancels: Arc::new(cancels),
        crew,
        source: paths.source.clone(),
        quotas: Arc::default(),
        end: say_end,
    };
    let feed = Feed::new(paths.source.clone(), shared.server_tls.clone());
    let (ask_roles, of_all) = (Arc::clone(&shared.ask_roles), shared.clone());
    let mut threads = Vec::new();
    let queues = requests.into_iter().zip(queues);
    for (index, (listeners, queues)) in listeners.into_iter().zip(queues).enumerate() {
        let (shared, closing) = (shared.clone(), closing.clone());
        let thread = std::thread::Builder::new().name(format!("sql-{index}"));
        let run = move || work(index, shared, listeners, queues, closing);
        threads.push(thread.spawn(run).map_err(RunError::Begin)?);
    }
    drop(closing);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::Begin)?;
    let outcome = runtime.block_on(async {
        info!(listen = %settings.listen, workers, "the SQL proxy serves");
        // To the very end: transactions that are waited for need to know that the lease is renewed.
        let feeds = async {
            tokio::join!(
                feed.routes(say_routes),
                feed.roles(say_roles, ask_roles),
                operator::serve(operator, of_all.clone()),
                renew(encryption),
                reload_on_hangup(&of_all)
            )
        };
        let close = closing::until_closed(end, wanted_end, say_closing);
        tokio::select! {
            _ = feeds => Ok(()),
            outcome = close => outcome,
        }
    });
    for thread in threads {
        if thread.join().is_err() {
            warn!("a thread of the SQL proxy has panicked");
        }
    }
    outcome.map_err(RunError::Begin)
}

/// PostgreSQL's own certificate; without one, clients are not encrypted.
fn encryption(paths: &Paths, settings: &Settings) -> Result<Option<Arc<Encryption>>, RunError> {
    if !paths.certificate.exists() {
        return Ok(None);
    }
    let failed = |source| RunError::Certificate { path: paths.certificate.display().to_string(), source };
    let encryption = Encryption::read(&paths.certificate, &paths.key).map_err(failed)?;
    encryption.set_clients(settings.client_tls_ca_file.as_deref());
    // Those who need no certificate are served without it; it is looked for again.
    if let Err(error) = encryption.renew() {
        warn!(%error, "no client can show a certificate");
    }
    Ok(Some(encryption))
}

fn authority(paths: &Paths) -> Result<Option<Arc<rustls::ClientConfig>>, RunError> {
    if !paths.authority.exists() {
        return Ok(None);
    }
    let failed = |source| RunError::Certificate { path: paths.authority.display().to_string(), source };
    encryption::dialler(&paths.authority).map(Some).map_err(failed)
}

/// SIGHUP has the settings read again, for ever.
async fn reload_on_hangup(shared: &Shared) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        if let Err(why) = operator::reload(shared).await {
            warn!("the settings are as they were: {why}");
        }
    }
}

/// Looks for new certificates, for ever.
async fn renew(encryption: Option<Arc<Encryption>>) {
    loop {
        tokio::time::sleep(CERTIFICATE_INTERVAL).await;
        match encryption.as_ref().map(|encryption| encryption.renew()) {
            Some(Ok(true)) => info!("new certificates are used for clients"),
            Some(Err(error)) => warn!(%error, "new certificates cannot be read; the old ones are used on"),
            _ => {}
        }
    }
}

/// One worker's sockets. All workers listen on the same ports, and the kernel deals clients out.
struct Listeners {
    listening: Vec<(std::net::TcpListener, Access)>,
}

impl Listeners {
    fn bind(settings: &Settings) -> Result<Listeners, RunError> {
        let wanted =
            [(Some(settings.listen), Access::ReadWrite), (settings.listen_readonly, Access::ReadOnly)];
        let wanted = wanted.into_iter().filter_map(|(address, access)| Some((address?, access)));
        let bind = |(address, access)| match listen(address) {
            Ok(listener) => Ok((listener, access)),
            Err(source) => Err(RunError::Listen { address, source }),
        };
        Ok(Listeners { listening: wanted.map(bind).collect::<Result<_, _>>()? })
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    /// How many clients may knock at once; the kernel cuts it to `net.core.somaxconn`.
    const BACKLOG: i32 = 4096;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One thread, until the proxy closes and its clients are gone.
fn work(
    index: usize,
    shared: Shared,
    listeners: Listeners,
    (requests, jobs): (mpsc::UnboundedReceiver<cancel::CancelRequest>, mpsc::UnboundedReceiver<crew::Job>),
    mut closing: watch::Receiver<Closing>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return warn!(%error, "a thread of the SQL proxy cannot begin"),
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let worker = Rc::new(Worker::new(index, shared));
        tokio::task::spawn_local(Rc::clone(&worker).attend());
        tokio::task::spawn_local(cancel::attend(Rc::clone(&worker), requests));
        tokio::task::spawn_local(crew::attend(Rc::clone(&worker), jobs));
        let mut accepting = Vec::new();
        for (listener, access) in listeners.listening {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    accepting.push(tokio::task::spawn_local(accept(Rc::clone(&worker), listener, access)));
                }
                Err(error) => warn!(%error, "a port is not listened on"),
            }
        }
        let _ = closing.wait_for(|closing| *closing > Closing::No).await;
        accepting.iter().for_each(tokio::task::JoinHandle::abort);
        closing::let_go(&worker, &mut closing).await;
    });
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, access: Access) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                drop(tokio::task::spawn_local(login::serve(Rc::clone(&worker), stream, access)))
            }
            // Out of descriptors, most likely: those that end give some back.
            Err(error) => {
                warn!(%error, "a client is not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
