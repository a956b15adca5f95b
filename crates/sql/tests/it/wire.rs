//! A client that speaks the protocol message by message, for what no driver does.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use mainstay_pgwire::backend::{report_field, row};
use mainstay_pgwire::frame::{self, push, push_string, string};
use mainstay_pgwire::scram::ClientExchange;

/// An answer that takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// An error that a server or the proxy has told, or the end of the connection (without a code).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) severity: String,
    pub(crate) code: String,
    pub(crate) text: String,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn of(body: &[u8]) -> Failure {
        let field = |kind| String::from_utf8_lossy(report_field(body, kind).unwrap_or_default()).into_owned();
        Failure { severity: field(b'V'), code: field(b'C'), text: field(b'M'), detail: field(b'D') }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}: {} ({})", self.severity, self.code, self.text, self.detail)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure {
            severity: String::new(),
            code: String::new(),
            text: error.to_string(),
            detail: String::new(),
        }
    }
}

pub(crate) trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

pub(crate) type Message = (u8, Vec<u8>);
pub(crate) type Rows = Vec<Vec<Option<String>>>;

pub(crate) struct Wire {
    pub(crate) stream: Box<dyn ReadWrite>,
    /// The socket below, to change its time limits and to close it.
    pub(crate) socket: Option<TcpStream>,
    out: Vec<u8>,
    /// Messages that were read and not asked for.
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) key: (i32, Vec<u8>),
    /// The status of the last `ReadyForQuery`.
    pub(crate) status: u8,
    pub(crate) notices: Vec<Failure>,
}

/// The first packet.
pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 0, 0, 3, 0, 0];
    for (name, value) in parameters {
        push_string(&mut packet, name);
        push_string(&mut packet, value);
    }
    packet.push(0);
    let length = u32::try_from(packet.len()).unwrap();
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet
}

impl Wire {
    pub(crate) fn over(stream: Box<dyn ReadWrite>, socket: Option<TcpStream>) -> Wire {
        let (out, parameters, notices) = (Vec::new(), Vec::new(), Vec::new());
        Wire { stream, socket, out, parameters, key: (0, Vec::new()), status: b'I', notices }
    }

    pub(crate) fn tcp(port: u16) -> io::Result<Wire> {
        Wire::at((Ipv4Addr::LOCALHOST, port).into())
    }

    pub(crate) fn at(address: SocketAddr) -> io::Result<Wire> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let socket = stream.try_clone()?;
        Ok(Wire::over(Box::new(stream), Some(socket)))
    }

    pub(crate) fn unix(path: &Path, parameters: &[(&str, &str)]) -> Result<Wire, Failure> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut wire = Wire::over(Box::new(stream), None);
        wire.log_in(parameters, "")?;
        Ok(wire)
    }

    /// Logs in, up to the first `ReadyForQuery`.
    pub(crate) fn log_in(&mut self, parameters: &[(&str, &str)], password: &str) -> Result<(), Failure> {
        self.write(&startup(parameters))?;
        let nonce = format!("{:p}{}", self, std::process::id());
        let mut exchange = ClientExchange::with_password(password, &nonce);
        loop {
            let (kind, body) = self.next()?;
            match kind {
                b'E' => return Err(Failure::of(&body)),
                b'R' => {
                    let mut answer = Vec::new();
                    match body[3] {
                        10 => push(&mut answer, b'p', |out| {
                            push_string(out, "SCRAM-SHA-256");
                            let first = exchange.client_first();
                            out.extend_from_slice(&u32::try_from(first.len()).unwrap().to_be_bytes());
                            out.extend_from_slice(&first);
                        }),
                        11 => {
                            let last = exchange.server_first(&body[4..]).expect("the server's first");
                            push(&mut answer, b'p', |out| out.extend_from_slice(&last));
                        }
                        12 => exchange.server_final(&body[4..]).expect("the server's proof"),
                        _ => {}
                    }
                    self.write(&answer)?;
                }
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next message, whatever it is.
    pub(crate) fn next(&mut self) -> io::Result<Message> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let header = frame::header(&head).expect("a frame").expect("a whole header");
        let mut body = vec![0; header.total - 5];
        self.stream.read_exact(&mut body)?;
        match header.kind {
            b'Z' => self.status = body[0],
            b'N' => self.notices.push(Failure::of(&body)),
            b'K' => self.key = (i32::from_be_bytes(body[..4].try_into().unwrap()), body[4..].to_vec()),
            b'S' => {
                let (name, rest) = string(&body).unwrap();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                self.parameters.push((text(name), text(string(rest).unwrap().0)));
            }
            _ => {}
        }
        Ok((header.kind, body))
    }

    /// What was reported last of a parameter.
    pub(crate) fn parameter(&self, wanted: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// Everything up to `ReadyForQuery`, but for parameters and notices; an end of the connection is a last error without a code.
    pub(crate) fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.next() {
                Ok((b'S' | b'N', _)) => {}
                Ok((kind, body)) => {
                    messages.push((kind, body));
                    if kind == b'Z' {
                        return messages;
                    }
                }
                Err(error) => {
                    assert_ne!(
                        error.kind(),
                        io::ErrorKind::WouldBlock,
                        "no answer; so far {}",
                        kinds(&messages)
                    );
                    messages.push((b'!', error.to_string().into_bytes()));
                    return messages;
                }
            }
        }
    }

    pub(crate) fn message(&mut self, kind: u8, write: impl FnOnce(&mut Vec<u8>)) -> &mut Wire {
        push(&mut self.out, kind, write);
        self
    }

    pub(crate) fn parse(&mut self, name: &str, sql: &str) -> &mut Wire {
        self.message(b'P', |out| {
            push_string(out, name);
            push_string(out, sql);
            out.extend_from_slice(&[0, 0]);
        })
    }

    pub(crate) fn bind(&mut self, portal: &str, name: &str, values: &[&str]) -> &mut Wire {
        self.message(b'B', |out| {
            push_string(out, portal);
            push_string(out, name);
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
            for value in values {
                out.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
                out.extend_from_slice(value.as_bytes());
            }
            out.extend_from_slice(&[0, 0]);
        })
    }

    pub(crate) fn describe(&mut self, kind: u8, name: &str) -> &mut Wire {
        self.message(b'D', |out| {
            out.push(kind);
            push_string(out, name);
        })
    }

    pub(crate) fn close(&mut self, kind: u8, name: &str) -> &mut Wire {
        self.message(b'C', |out| {
            out.push(kind);
            push_string(out, name);
        })
    }

    pub(crate) fn execute(&mut self, portal: &str) -> &mut Wire {
        self.message(b'E', |out| {
            push_string(out, portal);
            out.extend_from_slice(&[0; 4]);
        })
    }

    pub(crate) fn sync(&mut self) -> &mut Wire {
        self.message(b'S', |_| {})
    }

    pub(crate) fn flush(&mut self) -> &mut Wire {
        self.message(b'H', |_| {})
    }

    pub(crate) fn copy_data(&mut self, data: &[u8]) -> &mut Wire {
        self.message(b'd', |out| out.extend_from_slice(data))
    }

    pub(crate) fn simple(&mut self, sql: &str) -> &mut Wire {
        self.message(b'Q', |out| push_string(out, sql))
    }

    /// What was appended so far and is not sent.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    pub(crate) fn send(&mut self) -> &mut Wire {
        let out = self.take();
        self.write(&out).unwrap();
        self
    }

    /// Sends what was appended, and reads up to `ReadyForQuery`.
    pub(crate) fn go(&mut self) -> Vec<Message> {
        self.send().until_ready()
    }

    /// A simple query.
    pub(crate) fn query(&mut self, sql: &str) -> Result<Rows, Failure> {
        outcome(&self.simple(sql).go())
    }

    /// Unnamed statement, extended protocol.
    pub(crate) fn extended(&mut self, sql: &str) -> Result<Rows, Failure> {
        outcome(&self.parse("", sql).bind("", "", &[]).execute("").sync().go())
    }

    /// A prepared statement.
    pub(crate) fn run(&mut self, name: &str, values: &[&str]) -> Result<Rows, Failure> {
        outcome(&self.bind("", name, values).execute("").sync().go())
    }

    pub(crate) fn ok(&mut self, sql: &str) -> Rows {
        self.query(sql).unwrap_or_else(|failure| panic!("{sql}: {failure}"))
    }

    /// Rows by the names of their columns.
    pub(crate) fn table(&mut self, sql: &str) -> Vec<std::collections::BTreeMap<String, String>> {
        let messages = self.simple(sql).go();
        let names = columns(&messages);
        let rows = outcome(&messages).unwrap();
        let row = |row: Vec<Option<String>>| {
            names.iter().cloned().zip(row.into_iter().map(Option::unwrap_or_default))
        };
        rows.into_iter().map(|values| row(values).collect()).collect()
    }

    /// The only value.
    pub(crate) fn one(&mut self, sql: &str) -> String {
        let rows = self.ok(sql);
        rows.first().and_then(|row| row.first()?.clone()).unwrap_or_else(|| panic!("{sql}: {rows:?}"))
    }

    pub(crate) fn code(&mut self, sql: &str) -> String {
        code(self.query(sql))
    }
}

/// The SQLSTATE, or `-` if all went well.
pub(crate) fn code<T>(outcome: Result<T, Failure>) -> String {
    outcome.err().map_or_else(|| "-".to_owned(), |failure| failure.code)
}

/// The types of messages, to be compared as one text.
pub(crate) fn kinds(messages: &[Message]) -> String {
    messages.iter().map(|(kind, _)| char::from(*kind)).collect()
}

/// The rows, or the first error.
pub(crate) fn outcome(messages: &[Message]) -> Result<Rows, Failure> {
    let mut rows = Rows::new();
    for (kind, body) in messages {
        match kind {
            b'E' => return Err(Failure::of(body)),
            b'!' => return Err(io::Error::other(String::from_utf8_lossy(body).into_owned()).into()),
            b'D' => {
                let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                rows.push(row(body).expect("a row").into_iter().map(|value| value.map(text)).collect());
            }
            _ => {}
        }
    }
    Ok(rows)
}

/// The names of the columns.
pub(crate) fn columns(messages: &[Message]) -> Vec<String> {
    let (_, body) = messages.iter().find(|(kind, _)| *kind == b'T').expect("a description of rows");
    let mut rest = &body[2..];
    let mut names = Vec::new();
    while let Some((name, after)) = string(rest) {
        names.push(String::from_utf8_lossy(name).into_owned());
        rest = &after[18..];
    }
    names
}

/// The tags of the commands that have ended.
pub(crate) fn tags(messages: &[Message]) -> Vec<String> {
    let tags = messages.iter().filter(|(kind, _)| *kind == b'C');
    tags.map(|(_, body)| String::from_utf8_lossy(string(body).unwrap().0).into_owned()).collect()
}
