//! Whether PostgreSQL is alive, asked on a fresh connection: an old one can go on working when no new one gets in.

use std::io::ErrorKind;
use std::time::Duration;

use nix::libc;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use super::Server;

/// What a fresh connection met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    Alive,
    /// It answers that it is starting up or shutting down (57P03): to be judged by its progress.
    StartingUp {
        message: String,
    },
    /// All connections are taken (53300). It answers, so it is alive.
    Saturated,
    /// It answers with another error, so it is alive, but something is wrong with it.
    Refusing {
        code: String,
        message: String,
    },
    /// Nobody listens on the socket, or hangs up without a word.
    Refused,
    /// No answer in time: stopped, hung, or the machine is overloaded.
    Silent,
}

impl Probe {
    /// Whether the server gave an answer of its protocol, whatever it said.
    pub fn is_answer(&self) -> bool {
        !matches!(self, Probe::Refused | Probe::Silent)
    }
}

/// Connects, authenticates and goes. Takes at most `timeout`.
pub async fn fresh_probe(server: &Server, timeout: Duration) -> Probe {
    let configuration = server.configuration(timeout);
    let error = match tokio::time::timeout(timeout, configuration.connect(NoTls)).await {
        Err(_) => return Probe::Silent,
        // Dropping the pair closes the socket.
        Ok(Ok(_)) => return Probe::Alive,
        Ok(Err(error)) => error,
    };
    if let Some(answer) = error.as_db_error() {
        let message = answer.message().to_owned();
        return match answer.code() {
            code if *code == SqlState::CANNOT_CONNECT_NOW => Probe::StartingUp { message },
            code if *code == SqlState::TOO_MANY_CONNECTIONS => Probe::Saturated,
            code => Probe::Refusing { code: code.code().to_owned(), message },
        };
    }
    match io_error(&error) {
        // The queue of a Unix socket is full: someone listens, but accepts no more.
        Some(io) if io.kind() == ErrorKind::WouldBlock || io.raw_os_error() == Some(libc::EAGAIN) => {
            Probe::Silent
        }
        _ => Probe::Refused,
    }
}

fn io_error(error: &tokio_postgres::Error) -> Option<&std::io::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(found) = cause {
        if let Some(io) = found.downcast_ref() {
            return Some(io);
        }
        cause = found.source();
    }
    None
}
