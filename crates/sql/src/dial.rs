//! Opens connections to PostgreSQL, and logs in as a client did, with the key that its own login has shown.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mainstay_net::routes::Route;
use mainstay_pgwire::backend::{Report, Severity, report_field};
use mainstay_pgwire::frame::{self, push_string};
use mainstay_pgwire::scram::{ClientExchange, ClientKey};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::server::{Backend, Server, next_message, parameter};
use crate::session_settings::SessionSettings;
use crate::settings::within;
use crate::stream::{Connection, LocalSocket, Stream};

/// Where a PostgreSQL listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Place {
    /// The Unix socket where there is one: it costs half of what TCP does.
    pub(crate) fn of(route: &Route) -> Place {
        match &route.socket_dir {
            Some(directory) => Place::Unix(directory.join(format!(".s.PGSQL.{}", route.port))),
            None => Place::Tcp(SocketAddr::new(route.host, route.port)),
        }
    }
}

/// What proves that a client is who it says, to PostgreSQL as it did to us.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) client_key: ClientKey,
    pub(crate) server_key: [u8; 32],
    /// The verifier that the keys belong to: after a change of the password they are worth nothing.
    pub(crate) verifier: Arc<str>,
}

/// Who logs in, and to what.
pub(crate) struct Login {
    pub(crate) user: Rc<str>,
    pub(crate) database: Rc<str>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) base: SessionSettings,
    /// Whether it is a standby's.
    pub(crate) reads_only: bool,
    /// For who has asked for readers: without a standby they are at the primary, where nothing is to be written by mistake.
    pub(crate) for_readers: bool,
    /// The value of the parameter `replication`, for a walsender.
    pub(crate) replication: Option<Box<str>>,
    /// Longer than this it must not take; zero for as long as it likes.
    pub(crate) patience: Duration,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum DialError {
    /// Nobody there, not yet or no more: worth another attempt.
    Unreachable(String),
    /// PostgreSQL does not want this login; trying again does not help.
    Refused(Report),
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> DialError {
        DialError::Unreachable(error.to_string())
    }
}

/// Connects and logs in.
pub(crate) async fn dial(
    route: &Route,
    epoch: u64,
    login: &Login,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Server, DialError> {
    let patience = login.patience;
    match within(patience, attempt(route, epoch, login, tls)).await {
        Some(outcome) => outcome,
        None => Err(DialError::Unreachable(format!("{} does not answer within {patience:?}", route.member))),
    }
}

/// Connects, without a login.
pub(crate) async fn connect(place: &Place, tls: Option<&Arc<ClientConfig>>) -> Result<Stream, DialError> {
    match place {
        Place::Unix(path) => Ok(Stream::Unix(LocalSocket::connect(path).await?)),
        Place::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            watch_over(&stream, SERVER_SILENCE)?;
            encrypted(stream, *address, tls).await
        }
    }
}

/// A PostgreSQL whose kernel is silent for so long is gone, or the way to it: whoever waits for its answer is told so.
pub(crate) const SERVER_SILENCE: Duration = Duration::from_secs(10);

/// Lets the kernel ask the other side now and then whether it is there, so that it ends the connection if it is not. Who has
/// something to acknowledge is looked after by [`crate::silence`]. Zero leaves all of that to the kernel's own settings.
pub(crate) fn watch_over(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    /// Within `silence`: half of it quiet, then probes.
    const PROBES: u32 = 5;
    /// The kernel counts in whole seconds.
    const LEAST: Duration = Duration::from_secs(1);
    if silence.is_zero() {
        return Ok(());
    }
    let probe = (silence / (2 * PROBES)).max(LEAST);
    let keepalive = socket2::TcpKeepalive::new().with_time((silence / 2).max(LEAST));
    let keepalive = keepalive.with_interval(probe).with_retries(PROBES);
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    if crate::silence::can_be_asked() { Ok(()) } else { socket.set_tcp_user_timeout(Some(silence)) }
}

async fn attempt(
    route: &Route,
    epoch: u64,
    login: &Login,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Server, DialError> {
    let place = Place::of(route);
    let stream = connect(&place, tls).await?;
    let descriptor = stream.descriptor();
    let mut connection = Connection::new(stream);
    connection.queue(&startup(login));
    connection.flush().await?;
    authenticate(&mut connection, login).await?;
    let mut parameters = BTreeMap::new();
    let mut key: (i32, Box<[u8]>) = (0, Box::default());
    loop {
        let (kind, body) = next_message(&mut connection).await?;
        match kind {
            b'S' => parameters.extend(parameter(&body)),
            b'K' => {
                if let Some((pid, secret)) = body.split_first_chunk::<4>() {
                    key = (i32::from_be_bytes(*pid), secret.into());
                }
            }
            b'E' => return Err(refused(&body, &route.member)),
            b'Z' => break,
            _ => {}
        }
    }
    let backend = Backend::new(route.member.clone(), login.reads_only, epoch, place, key, descriptor);
    let mut server = Server::new(connection, backend, Rc::clone(&login.base));
    server.parameters = parameters;
    Ok(server)
}

/// Asks for TLS; without a configuration for it, or with a server that has none, the stream stays as it is.
async fn encrypted(
    mut stream: TcpStream,
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Stream, DialError> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// `SSLRequest`: its length and its code.
    const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let Some(config) = tls else { return Ok(Stream::Tcp(stream)) };
    stream.write_all(&REQUEST).await?;
    match stream.read_u8().await? {
        b'S' => {
            let name = ServerName::from(address.ip());
            let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
            Ok(Stream::Dialled(Box::new(stream)))
        }
        _ => Err(DialError::Unreachable(format!("PostgreSQL at {address} offers no TLS"))),
    }
}

/// What sessions of readers begin with, and go back to when it is reset.
pub(crate) const FOR_READERS: (&str, &str) = ("default_transaction_read_only", "on");

fn startup(login: &Login) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend_from_slice(&(3u32 << 16).to_be_bytes());
    let mut pair = |name: &str, value: &str| {
        push_string(&mut message, name);
        push_string(&mut message, value);
    };
    pair("user", &login.user);
    pair("database", &login.database);
    if login.for_readers {
        let (name, value) = FOR_READERS;
        pair(name, value);
    }
    login.replication.as_deref().inspect(|value| pair("replication", value));
    for (name, value) in login.base.iter() {
        pair(name, value);
    }
    message.push(0);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&length.to_be_bytes());
    message
}

async fn authenticate(connection: &mut Connection, login: &Login) -> Result<(), DialError> {
    let mut exchange: Option<ClientExchange> = None;
    let own_fault = |what: String| {
        DialError::Refused(
            Report::fatal("28000", what)
                .hint("Let pg_hba.conf ask for scram-sha-256 where the SQL proxy connects from."),
        )
    };
    loop {
        let (kind, body) = next_message(connection).await?;
        let code = match (kind, body.first_chunk::<4>()) {
            (b'E', _) => return Err(refused(&body, "PostgreSQL")),
            (b'R', Some(code)) => u32::from_be_bytes(*code),
            _ => continue,
        };
        let data = body.get(4..).unwrap_or_default();
        let failed = |error: mainstay_pgwire::scram::ScramError| {
            DialError::Unreachable(format!("PostgreSQL's side of SCRAM: {error}"))
        };
        let mut answer = Vec::new();
        match code {
            0 => return Ok(()),
            10 => {
                let credentials = login.credentials.as_ref().ok_or_else(|| {
                    own_fault(format!(
                        "PostgreSQL asks {:?} for a password that the SQL proxy has not seen",
                        login.user
                    ))
                })?;
                let nonce = crate::random::nonce();
                let begun =
                    ClientExchange::with_key(credentials.client_key.clone(), credentials.server_key, &nonce);
                let first = begun.client_first();
                frame::push(&mut answer, b'p', |out| {
                    push_string(out, "SCRAM-SHA-256");
                    out.extend_from_slice(&u32::try_from(first.len()).unwrap_or(0).to_be_bytes());
                    out.extend_from_slice(&first);
                });
                exchange = Some(begun);
            }
            11 => {
                let begun = exchange.as_mut().ok_or_else(out_of_order)?;
                let last = begun.server_first(data).map_err(failed)?;
                frame::push(&mut answer, b'p', |out| out.extend_from_slice(&last));
            }
            12 => exchange.as_ref().ok_or_else(out_of_order)?.server_final(data).map_err(failed)?,
            3 | 5 => {
                return Err(own_fault(
                    "PostgreSQL asks for a password in another form than SCRAM".to_owned(),
                ));
            }
            _ => return Err(own_fault(format!("PostgreSQL asks for authentication of kind {code}"))),
        }
        connection.queue(&answer);
        connection.flush().await?;
    }
}

fn out_of_order() -> DialError {
    DialError::Unreachable("PostgreSQL answers SCRAM out of order".to_owned())
}

/// Codes after which another attempt may succeed: the server starts or stops, is full, or its gate is shut.
const PASSING: [&str; 6] = ["57P01", "57P02", "57P03", "53300", "28000", "55000"];

fn refused(body: &[u8], member: &str) -> DialError {
    let text = |kind| String::from_utf8_lossy(report_field(body, kind).unwrap_or_default()).into_owned();
    let (sqlstate, message) = (text(b'C'), text(b'M'));
    if PASSING.contains(&sqlstate.as_str()) {
        return DialError::Unreachable(format!("{member}: {message} ({sqlstate})"));
    }
    /// Those that PostgreSQL has for a login; the rest is told as what it most likely is.
    const KNOWN: [&str; 6] = ["28P01", "3D000", "42501", "22023", "42704", "0A000"];
    let sqlstate = KNOWN.into_iter().find(|known| *known == sqlstate).unwrap_or("08004");
    let report = Report { severity: Severity::Fatal, sqlstate, message, detail: None, hint: None };
    DialError::Refused(report)
}
