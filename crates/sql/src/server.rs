//! A connection to PostgreSQL.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use mainstay_pgwire::backend::{self, report_field};
use mainstay_pgwire::frame;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::doubts::{Doubts, Sent};
use crate::session_settings::SessionSettings;
use crate::statements::{Described, OnServer};
use crate::stream::Connection;

/// Who answers at a connection, for those who do not hold it: what must end it, cancel in it or show it.
pub(crate) struct Backend {
    pub(crate) member: String,
    /// A standby's: what was lost with it has changed nothing.
    pub(crate) reads_only: bool,
    /// The epoch of the route that it was dialled by; it is worth nothing in another one.
    pub(crate) epoch: u64,
    pub(crate) place: crate::dial::Place,
    pub(crate) pid: i32,
    pub(crate) secret: Box<[u8]>,
    pub(crate) descriptor: RawFd,
    pub(crate) opened: Instant,
    /// Why it was ended, if by us.
    ended: Cell<Option<&'static str>>,
    is_retired: Cell<bool>,
    cancels: Cell<u32>,
    cancelled: Notify,
    /// Its place among those that there may be.
    pub(crate) permit: Cell<Option<crate::quota::Permit>>,
}

impl Backend {
    pub(crate) fn new(
        member: String,
        reads_only: bool,
        epoch: u64,
        place: crate::dial::Place,
        key: (i32, Box<[u8]>),
        descriptor: RawFd,
    ) -> Rc<Backend> {
        let (pid, secret) = key;
        Rc::new(Backend {
            member,
            reads_only,
            epoch,
            place,
            pid,
            secret,
            descriptor,
            ended: Cell::new(None),
            is_retired: Cell::new(false),
            permit: Cell::new(None),
            opened: Instant::now(),
            cancels: Cell::new(0),
            cancelled: Notify::new(),
        })
    }

    /// A request to cancel is on its way to it, until [`Backend::cancel_arrived`].
    pub(crate) fn cancel_begins(&self) {
        self.cancels.set(self.cancels.get() + 1);
    }

    pub(crate) fn cancel_arrived(&self) {
        self.cancels.set(self.cancels.get().saturating_sub(1));
        self.cancelled.notify_waiters();
    }

    /// Whether a request to cancel may still hit whatever it runs next.
    #[inline]
    pub(crate) fn is_being_cancelled(&self) -> bool {
        self.cancels.get() > 0
    }

    /// Until no request to cancel is on its way any more.
    pub(crate) async fn settled(&self) {
        while self.is_being_cancelled() {
            self.cancelled.notified().await;
        }
    }

    /// Ends the connection: whoever holds it reads its end, and is told why.
    pub(crate) fn end(&self, why: &'static str) {
        if self.ended.replace(Some(why)).is_none() {
            shut(self.descriptor);
        }
    }

    /// Not to be given to anybody again.
    pub(crate) fn retire(&self) {
        self.is_retired.set(true);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.is_retired.get()
    }

    pub(crate) fn why_ended(&self) -> Option<&'static str> {
        self.ended.get()
    }
}

/// Lets both sides of a socket read its end, without closing it under those who hold it.
pub(crate) fn shut(descriptor: RawFd) {
    // A descriptor is only kept by those whose entry is taken out before the socket is closed.
    let _ = nix::sys::socket::shutdown(descriptor, nix::sys::socket::Shutdown::Both);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// A simple query or a function call.
    Query,
    Sync,
}

/// What is to become of a `ParseComplete` or `CloseComplete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) kind: ReplyKind,
    /// The statement that is there if the answer comes.
    pub(crate) statement: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyKind {
    Forward,
    /// To a client's `Parse` with a name, which is free again if no answer comes.
    Named,
    /// To a client's `Close` of a statement, which is there still if no answer comes.
    Closed,
    /// The proxy itself has asked.
    Swallow,
    /// The client has prepared what is there already.
    AsParseComplete,
}

pub(crate) struct Server {
    pub(crate) connection: Connection,
    pub(crate) backend: Rc<Backend>,
    /// What it reports (`ParameterStatus`).
    pub(crate) parameters: BTreeMap<Box<str>, Box<str>>,
    /// What its session begins with, and what `RESET ALL` makes of it.
    pub(crate) base: SessionSettings,
    pub(crate) current: SessionSettings,
    pub(crate) statements: OnServer,
    /// Whose unnamed statement it has.
    pub(crate) unnamed: u64,
    pub(crate) status: u8,
    /// What will be answered by `ReadyForQuery`, in order.
    pub(crate) expected: VecDeque<Expect>,
    /// The answers to `Parse` and `Close` that are due, each with how many of `expected` were sent before it.
    pub(crate) replies: VecDeque<(Reply, u64)>,
    /// The answers to `Describe` that are due, in the same way.
    pub(crate) described: VecDeque<(Described, u64)>,
    pub(crate) expected_ever: u64,
    pub(crate) answered_ever: u64,
    /// Something was sent that no `Sync` has followed yet.
    pub(crate) is_unsynced: bool,
    pub(crate) copies_in: bool,
    /// How much was answered when it reported an error last.
    pub(crate) failed_at: Option<u64>,
    pub(crate) doubts: Doubts,
    /// Notifications that came among the answers to the proxy's own questions.
    pub(crate) overheard: Vec<u8>,
    pub(crate) opened: Instant,
    pub(crate) released: Cell<Instant>,
}

/// Why the proxy's own question has no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    Lost(io::Error),
    /// The server's error: its SQLSTATE and message.
    Refused(String, String),
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> AskError {
        AskError::Lost(error)
    }
}

pub(crate) type Rows = Vec<Vec<Option<Box<str>>>>;

impl Server {
    pub(crate) fn new(connection: Connection, backend: Rc<Backend>, base: SessionSettings) -> Server {
        let now = Instant::now();
        Server {
            connection,
            backend,
            parameters: BTreeMap::new(),
            current: Rc::clone(&base),
            base,
            statements: OnServer::default(),
            unnamed: 0,
            status: backend::IDLE,
            expected: VecDeque::new(),
            replies: VecDeque::new(),
            described: VecDeque::new(),
            failed_at: None,
            expected_ever: 0,
            answered_ever: 0,
            is_unsynced: false,
            copies_in: false,
            doubts: Doubts::default(),
            overheard: Vec::new(),
            opened: now,
            released: Cell::new(now),
        }
    }

    /// Whether nothing is under way: it can be given to somebody else.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.status == backend::IDLE
            && self.expected.is_empty()
            && !self.is_unsynced
            && !self.copies_in
            && !self.doubts.is_astray
    }

    /// Whether it throws away what it is sent, up to a `Sync`.
    pub(crate) fn is_skipping(&self) -> bool {
        self.failed_at == Some(self.expected_ever)
    }

    pub(crate) fn expect(&mut self, what: Expect) {
        self.expected.push_back(what);
        self.expected_ever += 1;
        self.is_unsynced = false;
    }

    /// The client's next message goes to it.
    #[inline]
    pub(crate) fn note_sent(&mut self, kind: u8) {
        let at = Sent {
            copies_in: self.copies_in,
            is_unsynced: self.is_unsynced,
            is_expecting: !self.expected.is_empty(),
            expected_ever: self.expected_ever,
        };
        self.doubts.sent(kind, &at);
    }

    /// Whether an idle connection is still good. What PostgreSQL says unasked (a parameter after a reload) is taken in.
    pub(crate) fn is_alive(&mut self, context: &mut Context<'_>) -> bool {
        // The hot path: nothing has come.
        if self.connection.poll_readable(context).is_pending() {
            return true;
        }
        let mut chunk = [0; 1024];
        loop {
            match self.connection.poll_read(context, &mut chunk) {
                Poll::Pending => return true,
                Poll::Ready(Ok(read)) if read > 0 => {
                    self.connection.rest.extend_from_slice(&chunk[..read]);
                    if !self.take_unasked() {
                        return false;
                    }
                }
                Poll::Ready(_) => return false,
            }
        }
    }

    /// Takes in what stands in `rest`; false if it says that the session ends.
    fn take_unasked(&mut self) -> bool {
        let mut at = 0;
        let rest = std::mem::take(&mut self.connection.rest);
        while let Ok(Some(header)) = frame::header(&rest[at..]) {
            let Some(message) = rest.get(at..at + header.total) else { break };
            match header.kind {
                b'S' => self.note_parameter(&message[5..]),
                b'N' | b'A' => {}
                _ => return false,
            }
            at += header.total;
        }
        self.connection.rest = rest[at..].to_vec();
        self.connection.give_back();
        true
    }

    pub(crate) fn note_parameter(&mut self, body: &[u8]) {
        self.parameters.extend(parameter(body));
    }

    /// Runs statements of the proxy's own, while nothing else is under way. Returns all rows.
    pub(crate) async fn ask(&mut self, sql: &str) -> Result<Rows, AskError> {
        let mut message = Vec::with_capacity(sql.len() + 6);
        frame::push(&mut message, b'Q', |out| frame::push_string(out, sql));
        self.connection.queue(&message);
        self.connection.flush().await?;
        // A simple query destroys it.
        self.unnamed = 0;
        let (mut rows, mut refused) = (Rows::new(), None);
        loop {
            let (kind, body) = self.next_message().await?;
            match kind {
                b'S' => self.note_parameter(&body),
                b'A' => frame::push(&mut self.overheard, kind, |out| out.extend_from_slice(&body)),
                b'D' => {
                    let values = backend::row(&body).unwrap_or_default();
                    let text = |value: &[u8]| Box::from(String::from_utf8_lossy(value).as_ref());
                    rows.push(values.into_iter().map(|value| value.map(text)).collect());
                }
                b'E' => {
                    let text = |kind| {
                        String::from_utf8_lossy(report_field(&body, kind).unwrap_or_default()).into_owned()
                    };
                    refused = Some((text(b'C'), text(b'M')));
                }
                b'Z' => {
                    self.status = body.first().copied().unwrap_or(backend::IDLE);
                    return match refused {
                        None => Ok(rows),
                        Some((sqlstate, message)) => Err(AskError::Refused(sqlstate, message)),
                    };
                }
                _ => {}
            }
        }
    }

    /// The next message: its type and its body.
    pub(crate) async fn next_message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        next_message(&mut self.connection).await
    }
}

/// Name and value of a `ParameterStatus`.
pub(crate) fn parameter(body: &[u8]) -> Option<(Box<str>, Box<str>)> {
    let (name, value) = backend::parameter_status(body)?;
    let text = |bytes: &[u8]| Box::from(String::from_utf8_lossy(bytes).as_ref());
    Some((text(name), text(value)))
}

/// No message that a proxy reads as a whole is longer: reports, parameters, rows of its own questions.
const MOST_OWN_BYTES: usize = 1 << 20;

/// Reads one message as a whole.
pub(crate) async fn next_message(connection: &mut Connection) -> io::Result<(u8, Vec<u8>)> {
    next_message_of(connection, MOST_OWN_BYTES).await
}

/// The same, of a stranger, who is not given more memory than that.
pub(crate) async fn next_message_of(connection: &mut Connection, most: usize) -> io::Result<(u8, Vec<u8>)> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let head = connection.take(5).await?;
    let header = frame::header(&head).map_err(|error| invalid(error.to_string()))?;
    let header = header.ok_or(io::ErrorKind::UnexpectedEof)?;
    if header.total > most {
        return Err(invalid(format!("a message of {} bytes where a short one is due", header.total)));
    }
    let body = connection.take(header.total - 5).await?;
    Ok((header.kind, body))
}
