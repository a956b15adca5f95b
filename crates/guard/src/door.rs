//! The guard's socket: who may speak, lines in, lines out. Nothing here ever waits for the other side.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;

use crate::protocol::{Event, Message, Refusal, Role};

/// A member holds two or three connections. More are a fault; the oldest go, so that a new member always gets in.
const MOST_CONNECTIONS: usize = 32;
/// The longest request is an `open` that skips a few thousand timelines, or a `start` with a large environment.
const LONGEST_LINE: usize = 256 * 1024;
/// A reader that leaves this much unread is stuck, and is dropped.
const MOST_UNREAD: usize = 256 * 1024;
/// After an accept that failed for want of something, the listener rests, so that the guard does not spin.
const ACCEPT_REST_NS: u64 = 100_000_000;

pub(crate) type ConnectionId = u64;

#[derive(Debug)]
pub(crate) struct Door {
    listener: UnixListener,
    connections: Vec<Connection>,
    next_id: ConnectionId,
    newest_generation: Option<u64>,
    resting_until_ns: Option<u64>,
}

impl Door {
    /// Listens on `path`. The caller holds the lock of its directory, so what is there is of a dead guard; and that
    /// directory has mode 0700, so nobody gets in before the socket has its own mode.
    pub(crate) fn open(path: &Path) -> io::Result<Door> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let connections = Vec::new();
        Ok(Door { listener, connections, next_id: 0, newest_generation: None, resting_until_ns: None })
    }

    /// Takes in everybody who waits outside.
    pub(crate) fn accept(&mut self, now_ns: u64) {
        if self.resting_until_ns.is_some_and(|until| now_ns < until) {
            return;
        }
        self.resting_until_ns = None;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(_) => {
                    self.resting_until_ns = Some(now_ns + ACCEPT_REST_NS);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: UnixStream) {
        let own = Uid::effective().as_raw();
        let allowed =
            getsockopt(&stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own);
        if !allowed || stream.set_nonblocking(true).is_err() {
            return;
        }
        if self.connections.len() >= MOST_CONNECTIONS {
            let silent = self.connections.iter().position(|connection| connection.greeting.is_none());
            self.connections.remove(silent.unwrap_or(0));
        }
        self.connections.push(Connection::new(self.next_id, stream));
        self.next_id += 1;
    }

    /// Reads once from each connection; answers the complete lines.
    pub(crate) fn receive(&mut self) -> Vec<(ConnectionId, Vec<u8>)> {
        let mut lines = Vec::new();
        for connection in &mut self.connections {
            connection.receive(&mut lines);
        }
        lines
    }

    /// Admits a connection to a generation. A newer one supersedes all older ones; an older one is refused.
    pub(crate) fn greet(&mut self, id: ConnectionId, generation: u64, role: Role) -> Result<(), Refusal> {
        if let Some(newest) = self.newest_generation
            && generation < newest
        {
            return Err(Refusal::OlderGeneration { asked: generation, newest });
        }
        if self.newest_generation != Some(generation) {
            self.newest_generation = Some(generation);
            let farewell = Message::Event(Event::Superseded { generation });
            for connection in self.connections.iter_mut().filter(|connection| connection.greeting.is_some()) {
                connection.send(&farewell);
                connection.closed = true;
            }
        }
        let connection = self.connections.iter_mut().find(|connection| connection.id == id);
        let connection =
            connection.filter(|connection| connection.greeting.is_none()).ok_or(Refusal::Greeting)?;
        connection.greeting = Some(role);
        Ok(())
    }

    pub(crate) fn role(&self, id: ConnectionId) -> Option<Role> {
        self.find(id).and_then(|connection| connection.greeting)
    }

    pub(crate) fn is_open(&self, id: ConnectionId) -> bool {
        self.find(id).is_some_and(|connection| !connection.closed)
    }

    pub(crate) fn send(&mut self, id: ConnectionId, message: &Message) {
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) {
            connection.send(message);
        }
    }

    /// What was sent goes out as far as the other side takes it at once; then the connection ends.
    pub(crate) fn close(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) {
            connection.closed = true;
        }
    }

    pub(crate) fn broadcast(&mut self, event: &Event) {
        let message = Message::Event(event.clone());
        for connection in self.connections.iter_mut().filter(|c| c.greeting == Some(Role::Control)) {
            connection.send(&message);
        }
    }

    /// Writes what waits, and lets go of the closed ones. True: a member's connection is among those that ended.
    pub(crate) fn tidy(&mut self) -> bool {
        for connection in &mut self.connections {
            connection.flush();
        }
        let members_before = self.member_count();
        self.connections.retain(|connection| !connection.closed);
        self.member_count() < members_before
    }

    pub(crate) fn member_count(&self) -> usize {
        self.connections.iter().filter(|connection| connection.greeting == Some(Role::Control)).count()
    }

    pub(crate) fn generation(&self) -> Option<u64> {
        self.newest_generation
    }

    pub(crate) fn wake_at_ns(&self) -> Option<u64> {
        self.resting_until_ns
    }

    /// What to wait on: the listener unless it rests, and each connection with whether it has something to write.
    pub(crate) fn waits(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let listener = self.resting_until_ns.is_none().then(|| (self.listener.as_fd(), false));
        let connections = self.connections.iter().map(|c| (c.stream.as_fd(), !c.unwritten.is_empty()));
        listener.into_iter().chain(connections)
    }

    fn find(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.iter().find(|connection| connection.id == id)
    }
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    stream: UnixStream,
    /// Absent until `hello`.
    greeting: Option<Role>,
    unread: Vec<u8>,
    unwritten: Vec<u8>,
    closed: bool,
}

impl Connection {
    fn new(id: ConnectionId, stream: UnixStream) -> Connection {
        Connection { id, stream, greeting: None, unread: Vec::new(), unwritten: Vec::new(), closed: false }
    }

    fn receive(&mut self, lines: &mut Vec<(ConnectionId, Vec<u8>)>) {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.closed = true,
            Ok(length) => self.unread.extend_from_slice(&chunk[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(_) => self.closed = true,
        }
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = self.unread.drain(..=end).collect();
            line.pop();
            lines.push((self.id, line));
        }
        if self.unread.len() > LONGEST_LINE {
            self.closed = true;
        }
        if self.unread.is_empty() {
            // A long line is rare, and the guard is small.
            self.unread.shrink_to(chunk.len());
        }
    }

    fn send(&mut self, message: &Message) {
        if self.closed {
            return;
        }
        // Our own types have only text keys and no fallible writer, but an answer is not worth a panic here.
        let Ok(line) = serde_json::to_vec(message) else { return };
        self.unwritten.extend_from_slice(&line);
        self.unwritten.push(b'\n');
        self.flush();
        if self.unwritten.len() > MOST_UNREAD {
            self.closed = true;
        }
    }

    fn flush(&mut self) {
        while !self.unwritten.is_empty() {
            match self.stream.write(&self.unwritten) {
                Ok(written) => {
                    self.unwritten.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
