//! A client that speaks the protocol message by message: what is sent together, and when it is waited for, is chosen here.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mainstay_core::Now;
use mainstay_pgwire::backend::{self, report_field};
use mainstay_pgwire::frame::{self, push, push_string, string};
use mainstay_pgwire::scram::ClientExchange;

use super::form::{Form, Statement};
use crate::clock;
use crate::files::{APPLICATION, SQL_PROXY_PORT};

const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// Longer than a proxy lets its clients wait: it must say something itself.
const ANSWER_PATIENCE: Duration = Duration::from_secs(40);

/// What a server or proxy has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// Everything up to a `ReadyForQuery`, or to the end of the connection.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) at: Now,
    pub(super) failure: Option<Failure>,
    /// Why the connection ended, if it did.
    pub(super) end: Option<String>,
    pub(super) tags: Vec<String>,
    /// The first value of each row.
    pub(super) values: Vec<String>,
    /// The transaction status; of an ended connection the last one.
    pub(super) status: u8,
}

pub(super) struct Wire {
    stream: BufReader<TcpStream>,
    form: Form,
    status: u8,
}

impl Wire {
    /// Logs in at the SQL proxy there, and prepares what the form needs.
    pub(super) fn connect(address: Ipv4Addr, form: Form, password: &str) -> Result<Wire> {
        let address = SocketAddr::from((address, SQL_PROXY_PORT));
        let stream = TcpStream::connect_timeout(&address, CONNECT_PATIENCE)
            .with_context(|| format!("the SQL proxy at {address} takes no connection"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
        let mut wire = Wire { stream: BufReader::new(stream), form, status: backend::IDLE };
        wire.log_in(password)?;
        if form == Form::Prepared {
            let mut out = Vec::new();
            Statement::ALL
                .iter()
                .for_each(|statement| push_parse(&mut out, statement.name(), statement.text()));
            push(&mut out, b'S', |_| {});
            wire.stream.get_mut().write_all(&out)?;
            if let Some(failure) = wire.receive().failure {
                bail!("cannot prepare: {failure}");
            }
        }
        Ok(wire)
    }

    fn log_in(&mut self, password: &str) -> Result<()> {
        self.stream.get_mut().write_all(&startup())?;
        let nonce = format!("{:p}{}", self, clock::now().0);
        let mut exchange = ClientExchange::with_password(password, &nonce);
        loop {
            let (kind, body) = self.next()?;
            match kind {
                b'E' => bail!("refused: {}", failure(&body)),
                b'R' => {
                    let answer = authenticate(&mut exchange, &body)?;
                    self.stream.get_mut().write_all(&answer)?;
                }
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    /// Sends units at once: each is what stands before one `Sync`, or one simple query.
    pub(super) fn send(&mut self, units: &[&[Statement]]) -> io::Result<()> {
        let mut out = Vec::new();
        for unit in units {
            unit.iter().for_each(|statement| self.push(&mut out, *statement));
            if self.form != Form::Simple {
                push(&mut out, b'S', |_| {});
            }
        }
        self.stream.get_mut().write_all(&out)
    }

    fn push(&self, out: &mut Vec<u8>, statement: Statement) {
        let name = if self.form == Form::Prepared { statement.name() } else { "" };
        match self.form {
            Form::Simple => return push(out, b'Q', |out| push_string(out, &statement.with_value())),
            Form::Extended | Form::Pipelined => push_parse(out, name, statement.text()),
            Form::Prepared => {}
        }
        push(out, b'B', |out| {
            out.push(0);
            push_string(out, name);
            out.extend_from_slice(&[0, 0]);
            match statement.value() {
                Some(value) => {
                    let value = value.to_string();
                    out.extend_from_slice(&[0, 1]);
                    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_be_bytes());
                    out.extend_from_slice(value.as_bytes());
                }
                None => out.extend_from_slice(&[0, 0]),
            }
            out.extend_from_slice(&[0, 0]);
        });
        push(out, b'D', |out| out.extend_from_slice(b"P\0"));
        push(out, b'E', |out| out.extend_from_slice(&[0; 5]));
    }

    /// Reads the answer to one unit.
    pub(super) fn receive(&mut self) -> Answer {
        let (mut tags, mut values, mut said) = (Vec::new(), Vec::new(), None);
        let end = loop {
            match self.next() {
                Ok((b'Z', body)) => {
                    self.status = body.first().copied().unwrap_or(self.status);
                    break None;
                }
                Ok((b'E', body)) => said = said.or(Some(failure(&body))),
                Ok((b'C', body)) => tags.extend(string(&body).map(|(tag, _)| text(tag))),
                Ok((b'D', body)) => {
                    let row = backend::row(&body).unwrap_or_default();
                    values.extend(row.first().copied().flatten().map(text));
                }
                Ok(_) => {}
                Err(error) => break Some(error.to_string()),
            }
        };
        Answer { at: clock::now(), failure: said, end, tags, values, status: self.status }
    }

    /// A simple query, whatever the form is.
    pub(super) fn query(&mut self, text: &str) -> Result<()> {
        let mut out = Vec::new();
        push(&mut out, b'Q', |out| push_string(out, text));
        self.stream.get_mut().write_all(&out)?;
        let answer = self.receive();
        match (answer.failure, answer.end) {
            (None, None) => Ok(()),
            (Some(failure), _) => bail!("{text}: {failure}"),
            (None, Some(end)) => bail!("{text}: {end}"),
        }
    }

    fn next(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let header = frame::header(&head).map_err(io::Error::other)?;
        let total = header.map_or(5, |header| header.total);
        let mut body = vec![0; total - 5];
        self.stream.read_exact(&mut body)?;
        Ok((head[0], body))
    }
}

fn startup() -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 0, 0, 3, 0, 0];
    for (name, value) in [("user", APPLICATION), ("database", APPLICATION)] {
        push_string(&mut packet, name);
        push_string(&mut packet, value);
    }
    packet.push(0);
    let length = u32::try_from(packet.len()).unwrap_or(0);
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet
}

fn authenticate(exchange: &mut ClientExchange, body: &[u8]) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    match body.get(3) {
        Some(10) => push(&mut answer, b'p', |out| {
            push_string(out, "SCRAM-SHA-256");
            let first = exchange.client_first();
            out.extend_from_slice(&u32::try_from(first.len()).unwrap_or(0).to_be_bytes());
            out.extend_from_slice(&first);
        }),
        Some(11) => {
            let last = exchange.server_first(&body[4..])?;
            push(&mut answer, b'p', |out| out.extend_from_slice(&last));
        }
        Some(12) => exchange.server_final(&body[4..])?,
        _ => {}
    }
    Ok(answer)
}

fn push_parse(out: &mut Vec<u8>, name: &str, sql: &str) {
    push(out, b'P', |out| {
        push_string(out, name);
        push_string(out, sql);
        out.extend_from_slice(&[0, 0]);
    });
}

fn failure(body: &[u8]) -> Failure {
    let field = |kind| text(report_field(body, kind).unwrap_or_default());
    Failure { code: field(b'C'), text: format!("{} {}", field(b'M'), field(b'D')).trim().to_owned() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
