//! A proxy in this process, with its member and its PostgreSQL.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use mainstay_sql::{Paths, Settings, Source};

use crate::member::Member;
use crate::postgres::{Postgres, Scratch, free_port, wait_for};
use crate::wire::{Failure, Wire};

/// Dropped in this order: the proxy first.
pub(crate) struct Proxy {
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    pub(crate) port: u16,
    pub(crate) readonly_port: u16,
    pub(crate) member: Member,
    pub(crate) scratch: Scratch,
    pub(crate) postgres: Arc<Postgres>,
}

/// One server connection, so that clients share it.
pub(crate) fn settings() -> Settings {
    Settings {
        default_pool_size: 1,
        workers: 1,
        query_wait_timeout: Duration::from_secs(15),
        ..Settings::default()
    }
}

impl Proxy {
    /// With one server connection, to the PostgreSQL that all share.
    pub(crate) fn new() -> Proxy {
        Proxy::with(Postgres::shared(), settings())
    }

    /// With this many server connections.
    pub(crate) fn of_size(size: u32) -> Proxy {
        Proxy::with(Postgres::shared(), Settings { default_pool_size: size, ..settings() })
    }

    pub(crate) fn with(postgres: Arc<Postgres>, settings: Settings) -> Proxy {
        Proxy::prepared(postgres, settings, |_, _| {})
    }

    /// `prepare` changes files and the member's answers before the proxy begins. Of the addresses that are given the readers' is
    /// taken, if it is one: all else is on loopback.
    pub(crate) fn prepared(
        postgres: Arc<Postgres>,
        mut settings: Settings,
        prepare: impl FnOnce(&Paths, &Member),
    ) -> Proxy {
        let scratch = Scratch::new();
        let member = Member::new(&scratch.0, &postgres);
        let (port, readonly_port) = (free_port(), free_port());
        settings.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let readonly = settings.listen_readonly.map(|address| address.ip());
        let readonly = readonly.filter(|ip| !ip.is_unspecified()).unwrap_or(Ipv4Addr::LOCALHOST.into());
        settings.listen_readonly = Some(SocketAddr::new(readonly, readonly_port));
        let paths = Paths {
            source: Source::Member(member.socket.clone()),
            certificate: scratch.0.join("server.crt"),
            key: scratch.0.join("server.key"),
            authority: scratch.0.join("authority.crt"),
        };
        prepare(&paths, &member);
        let socket = scratch.0.join("operator.sock");
        let operator = Some(UnixListener::bind(&socket).unwrap());
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let end = async {
                let _ = ended.await;
                Ok(())
            };
            mainstay_sql::run_until(&settings, &paths, operator, end).unwrap();
        });
        wait_for("the proxy to listen", || Wire::tcp(port).is_ok());
        let (end, thread) = (Some(end), Some(thread));
        Proxy { end, thread, port, readonly_port, member, scratch, postgres }
    }

    pub(crate) fn try_connect(&self, parameters: &[(&str, &str)], password: &str) -> Result<Wire, Failure> {
        let mut wire = Wire::tcp(self.port)?;
        wire.log_in(parameters, password)?;
        Ok(wire)
    }

    /// A client of the application, with further parameters of the startup packet.
    pub(crate) fn client_with(&self, more: &[(&str, &str)]) -> Wire {
        let mut parameters = vec![("user", "app"), ("database", "app")];
        parameters.extend_from_slice(more);
        self.try_connect(&parameters, "secret").unwrap()
    }

    pub(crate) fn client(&self) -> Wire {
        self.client_with(&[])
    }

    /// What it answers the member.
    pub(crate) fn order(&self, line: &str) -> serde_json::Value {
        let mut stream = UnixStream::connect(self.scratch.0.join("operator.sock")).unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    pub(crate) fn boss(&self, database: &str) -> Wire {
        self.try_connect(&[("user", "boss"), ("database", database)], "boss").unwrap()
    }

    /// There is no primary from now on, and the proxy knows.
    pub(crate) fn lose_primary(&self) {
        self.member.no_primary();
        let mut console = self.boss("mainstay");
        let is_there = |row: &Vec<Option<String>>| row[0].as_deref() == Some("rw");
        wait_for("the proxy to hear of it", || !console.ok("SHOW ROUTES").iter().any(is_there));
    }

    /// Tells the proxy to end, and does not wait for it.
    pub(crate) fn begin_to_close(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.begin_to_close();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}
