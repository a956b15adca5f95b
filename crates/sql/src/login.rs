//! From a socket to a session: encryption, who it is, and the greeting.

mod scram;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use mainstay_pgwire::backend::{self, Report, Severity};
use mainstay_pgwire::frontend::{Startup, startup};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::encryption::{Encryption, PROTOCOL};
use crate::hba::{self, ClientCert};
use crate::options;
use crate::pool::{Access, Pool, PoolKey};
use crate::quota::{Permit, Scope};
use crate::refusal;
use crate::server::Server;
use crate::session::Session;
use crate::session_settings::SessionSettings;
use crate::settings::within;
use crate::stream::{Connection, Stream};
use crate::worker::{Activity, ClientEntry, Counted, Reported, Worker, access_of};

/// The longest startup packet that PostgreSQL takes (`MAX_STARTUP_PACKET_LENGTH`).
const MOST_STARTUP_BYTES: usize = 10_000;
/// The newest minor version of protocol 3 that is spoken.
const NEWEST_MINOR: u32 = 2;

/// Why a client does not become a session.
enum LoginError {
    /// It is told.
    Told(Report),
    /// It has gone, or was never a client.
    Gone,
}

impl From<io::Error> for LoginError {
    fn from(_: io::Error) -> LoginError {
        LoginError::Gone
    }
}

impl From<Report> for LoginError {
    fn from(report: Report) -> LoginError {
        LoginError::Told(report)
    }
}

/// What the first packet says.
struct Greeting {
    user: Rc<str>,
    database: Rc<str>,
    access: Access,
    minor: u32,
    unknown_options: Vec<String>,
    settings: BTreeMap<Box<str>, Box<str>>,
    replication: Option<Box<str>>,
}

/// Serves one client until it goes.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, access: Access) {
    let _ = stream.set_nodelay(true);
    let settings = worker.settings();
    // A client whose machine is gone does not close its connection, and must not keep its place.
    let _ = crate::dial::watch_over(&stream, settings.client_tcp_user_timeout);
    let most = settings.max_client_conn as usize;
    let counted = Counted::new(&worker.shared.clients, most);
    // In a box, and gone when the session begins: it is ten times as large as that.
    let login = Box::pin(log_in(&worker, stream, access, counted.is_some()));
    let Some(Some(session)) = within(settings.client_login_timeout, login).await else { return };
    session.run().await;
    drop(counted);
}

/// A client that was let in and greeted.
struct Begun {
    entry: Rc<ClientEntry>,
    base: SessionSettings,
    dedicated: Option<Box<Server>>,
    is_console: bool,
}

async fn log_in(worker: &Rc<Worker>, stream: TcpStream, access: Access, has_room: bool) -> Option<Session> {
    let mut arrived = first_packet(worker, stream).await.ok()?;
    match begin(worker, &mut arrived, access, has_room).await {
        Ok(begun) => {
            let Begun { entry, base, dedicated, is_console } = begun;
            Some(Session::new(Rc::clone(worker), arrived.connection, entry, base, dedicated, is_console))
        }
        Err(LoginError::Gone) => None,
        Err(LoginError::Told(mut report)) => {
            report.severity = Severity::Fatal;
            let mut message = Vec::new();
            report.push(&mut message);
            arrived.connection.queue(&message);
            let _ = arrived.connection.flush().await;
            None
        }
    }
}

/// A client that has said its first word.
struct Arrived {
    connection: Connection,
    /// Whole.
    packet: Vec<u8>,
    /// What its login may be bound to: `tls-server-end-point` of the certificate that it was shown.
    binding: Option<Vec<u8>>,
}

/// Answers requests for encryption, up to the startup packet. Who begins with TLS at once, as libpq does since version 17
/// (`sslnegotiation=direct`), says so by its first byte.
async fn first_packet(worker: &Rc<Worker>, stream: TcpStream) -> io::Result<Arrived> {
    /// No packet is so long that it could begin with it.
    const HANDSHAKE: u8 = 22;
    let mut first = [0];
    let is_direct = stream.peek(&mut first).await? == 1 && first[0] == HANDSHAKE;
    let mut connection = Connection::new(Stream::Tcp(stream));
    let mut binding = None;
    if is_direct && let Some(encryption) = &worker.shared.client_tls {
        (connection, binding) = encrypted(encryption, connection).await?;
        // As with PostgreSQL: nobody who takes us for another service is led here.
        if connection.stream.protocol() != Some(PROTOCOL) {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    loop {
        let head = connection.take(4).await?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if !(8..=MOST_STARTUP_BYTES).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut packet = head;
        packet.extend(connection.take(length - 4).await?);
        match startup(&packet) {
            Ok(Startup::Ssl) if !connection.stream.is_encrypted() => {
                // What came together with the request was not encrypted, and is somebody else's.
                if !connection.rest.is_empty() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let encryption = worker.shared.client_tls.as_ref();
                connection.queue(if encryption.is_some() { b"S" } else { b"N" });
                connection.flush().await?;
                if let Some(encryption) = encryption {
                    (connection, binding) = encrypted(encryption, connection).await?;
                }
            }
            Ok(Startup::Ssl | Startup::GssEnc) => {
                connection.queue(b"N");
                connection.flush().await?;
            }
            _ => return Ok(Arrived { connection, packet, binding }),
        }
    }
}

/// The client's handshake, and what its login may be bound to.
async fn encrypted(encryption: &Encryption, plain: Connection) -> io::Result<(Connection, Option<Vec<u8>>)> {
    let Stream::Tcp(stream) = plain.stream else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let acceptor = encryption.acceptor();
    let stream = acceptor.tls.accept(stream).await?;
    Ok((Connection::new(Stream::Accepted(Box::new(stream))), acceptor.binding.clone()))
}

/// The client's pool, if the rules let it come in from where it is.
fn admitted(worker: &Worker, connection: &Connection, greeting: &Greeting) -> Result<PoolKey, Report> {
    let (database, user) = (Rc::clone(&greeting.database), Rc::clone(&greeting.user));
    let key = PoolKey { database, user, access: greeting.access };
    let stream = &connection.stream;
    let (address, is_encrypted) = (stream.peer(), stream.is_encrypted());
    match hba::demands(&worker.settings().hba, &key, address, is_encrypted) {
        None => Err(refusal::not_admitted(&key, address, is_encrypted)),
        Some(ClientCert::Unneeded) => Ok(key),
        Some(demanded) => match stream.client_name() {
            None => Err(refusal::no_client_certificate()),
            Some(name) if demanded == ClientCert::VerifyFull && name != *key.user => {
                Err(refusal::other_client_certificate(&name, &key.user))
            }
            Some(_) => Ok(key),
        },
    }
}

async fn begin(
    worker: &Rc<Worker>,
    arrived: &mut Arrived,
    access: Access,
    has_room: bool,
) -> Result<Begun, LoginError> {
    let Arrived { connection, packet, binding } = arrived;
    let parameters = match startup(packet) {
        Ok(Startup::Startup { minor, parameters }) => (minor, parameters),
        Ok(Startup::Cancel { pid, secret, is_forwarded }) => {
            crate::cancel::route(worker, pid, secret, is_forwarded).await;
            return Err(LoginError::Gone);
        }
        Ok(_) => return Err(LoginError::Gone),
        Err(error) => return Err(Report::fatal(error.sqlstate(), error.to_string()).into()),
    };
    if !has_room {
        return Err(refusal::too_many_clients(worker.settings().max_client_conn as usize).into());
    }
    if worker.is_closing.get() {
        return Err(refusal::shutting_down().into());
    }
    let greeting = Greeting::read(u32::from(parameters.0), &parameters.1, access)?;
    greeting.negotiate(connection);
    let key = admitted(worker, connection, &greeting)?;
    scram::authenticate(worker, connection, &greeting.user, binding.as_deref()).await?;
    let is_console = crate::console::is_console(&greeting.database);
    if is_console {
        crate::console::admit(worker, &greeting.user)?;
    }
    let base = worker.shared_settings(greeting.settings);
    if worker.halts.is_disabled(&key) {
        return Err(refusal::disabled(&key.database).into());
    }
    let pool = worker.pool(&key);
    let room = if is_console { None } else { Some(room(&pool)?) };
    let mut dedicated = None;
    let reported = if is_console {
        Rc::new(crate::console::parameters())
    } else if let Some(replication) = greeting.replication {
        let server = worker.pool(&key).dedicated(worker, Rc::clone(&base), replication).await?;
        let parameters = Rc::new(server.parameters.clone());
        dedicated = Some(server);
        parameters
    } else {
        crate::session::greeting(worker, connection, &key, &base).await?
    };
    crate::counters::count(&pool.counters.logins, 1);
    let now = Instant::now();
    let entry = Rc::new(ClientEntry {
        pid: worker.new_pid(),
        secret: crate::random::bytes(),
        descriptor: connection.stream.descriptor(),
        is_encrypted: connection.stream.is_encrypted(),
        is_walsender: dedicated.is_some(),
        pool,
        _room: room,
        key,
        base: Rc::clone(&base),
        connected: now,
        activity: Cell::new(Activity::Idle),
        since: Cell::new(now),
        transaction_began: Cell::new(now),
        waited: Cell::new(Duration::ZERO),
        is_cancelled: Cell::new(false),
        is_committing: Cell::new(false),
        backend: RefCell::new(None),
        ended: RefCell::new(None),
    });
    connection.queue(&welcome(&reported, &entry));
    connection.flush().await?;
    Ok(Begun { entry, base, dedicated, is_console })
}

/// What a client is told that is let in.
fn welcome(reported: &Reported, entry: &ClientEntry) -> Vec<u8> {
    let mut message = Vec::new();
    backend::push_authentication_ok(&mut message);
    for (name, value) in reported.iter() {
        backend::push_parameter_status(&mut message, name, value);
    }
    backend::push_key(&mut message, entry.pid, &entry.secret);
    backend::push_ready(&mut message, backend::IDLE);
    message
}

/// A place among the clients of its database and its user.
fn room(pool: &Pool) -> Result<Permit, Report> {
    let settings = pool.settings.get();
    let limits =
        [0, settings.max_db_client_connections as usize, settings.max_user_client_connections as usize];
    pool.quota.client(limits).map_err(|scope| match scope {
        Scope::User(_) => refusal::too_many_clients_of("max_user_client_connections", limits[2]),
        _ => refusal::too_many_clients_of("max_db_client_connections", limits[1]),
    })
}

impl Greeting {
    fn read(minor: u32, parameters: &[(&str, &str)], listener: Access) -> Result<Greeting, Report> {
        let mut greeting = Greeting {
            user: "".into(),
            database: "".into(),
            access: listener,
            minor,
            unknown_options: Vec::new(),
            settings: BTreeMap::new(),
            replication: None,
        };
        for (name, value) in parameters {
            match *name {
                "user" => greeting.user = (*value).into(),
                "database" => {
                    let (database, access) = access_of(value, listener);
                    (greeting.database, greeting.access) = (database.into(), access);
                }
                "replication" if !matches!(*value, "false" | "off" | "no" | "0") => {
                    greeting.replication = Some((*value).into());
                }
                "replication" => {}
                "options" => options::read(value, &mut greeting.settings)?,
                name if name.starts_with("_pq_.") => greeting.unknown_options.push(name.to_owned()),
                name => drop(greeting.settings.insert(name.to_ascii_lowercase().into(), (*value).into())),
            }
        }
        if greeting.database.is_empty() {
            greeting.database = Rc::clone(&greeting.user);
        }
        Ok(greeting)
    }

    /// Says what of the protocol it does not get, if it has asked for more than there is. libpq takes this before it is asked for
    /// its password, and no more behind it.
    fn negotiate(&self, connection: &mut Connection) {
        if self.minor > NEWEST_MINOR || !self.unknown_options.is_empty() {
            let unknown: Vec<&str> = self.unknown_options.iter().map(String::as_str).collect();
            let mut message = Vec::new();
            backend::push_negotiate(&mut message, self.minor.min(NEWEST_MINOR), &unknown);
            connection.queue(&message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_s_name_says_where_to() {
        let greeting = Greeting::read(0, &[("user", "u"), ("database", "d@ro")], Access::ReadWrite).unwrap();
        assert_eq!((&*greeting.database, greeting.access), ("d", Access::ReadOnly));
        let greeting = Greeting::read(0, &[("user", "u")], Access::ReadWrite).unwrap();
        assert_eq!((&*greeting.database, greeting.access), ("u", Access::ReadWrite));
    }
}
