//! The connection for renewals, and for nothing else.

use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{ClientError, REQUEST_TIMEOUT, open_stream, request_line, timed_out};
use crate::protocol::{Message, PROTOCOL, Reply, Request, Role};

/// A connection to the guard that only arms. It has no task of its own and belongs to whoever renews the lease, on
/// whichever runtime or thread that is; so a renewal waits for nothing but the guard.
#[derive(Debug)]
pub struct Armer {
    stream: BufReader<UnixStream>,
    next_id: u64,
    line: Vec<u8>,
    /// A request was cut off in the middle of its line: what follows would not be understood.
    is_broken: bool,
}

impl Armer {
    /// Connects under the member's own generation, in addition to its [`crate::GuardClient`].
    ///
    /// # Errors
    /// No guard answers, or a newer member owns it.
    pub async fn connect(directory: &Path, generation: u64) -> Result<Armer, ClientError> {
        let (stream, _) = open_stream(directory).await?;
        let mut armer =
            Armer { stream: BufReader::new(stream), next_id: 0, line: Vec::new(), is_broken: false };
        match armer.call("hello", Request::Hello { protocol: PROTOCOL, generation, role: Role::Arm }).await? {
            Reply::Status(_) => Ok(armer),
            _ => Err(ClientError::Answer { request: "hello" }),
        }
    }

    /// Arms `epoch` until `deadline_ns` on `CLOCK_BOOTTIME`, or moves its deadline forward; answers the one that stands.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: the epoch is old or void, or a server of an older one is still there. After
    /// [`ClientError::Timeout`] the next call may be made on the same connection; after [`ClientError::Lost`] not.
    pub async fn arm(&mut self, epoch: u64, deadline_ns: u64) -> Result<u64, ClientError> {
        match self.call("arm", Request::Arm { epoch, deadline_ns }).await? {
            Reply::Armed { deadline_ns } => Ok(deadline_ns),
            _ => Err(ClientError::Answer { request: "arm" }),
        }
    }

    async fn call(&mut self, name: &'static str, request: Request) -> Result<Reply, ClientError> {
        timeout(REQUEST_TIMEOUT, self.exchange(name, request))
            .await
            .unwrap_or_else(|_| Err(timed_out(name, REQUEST_TIMEOUT)))
    }

    async fn exchange(&mut self, name: &'static str, request: Request) -> Result<Reply, ClientError> {
        if self.is_broken {
            return Err(ClientError::Lost);
        }
        self.next_id += 1;
        // Until the line is out as a whole, a caller that goes away leaves the connection useless.
        self.is_broken = true;
        let line = request_line(self.next_id, request);
        self.stream.get_mut().write_all(&line).await.map_err(|_| ClientError::Lost)?;
        self.is_broken = false;
        loop {
            // What was read of a line before a timeout stays in `line`.
            match self.stream.read_until(b'\n', &mut self.line).await {
                Ok(length) if length > 0 && self.line.ends_with(b"\n") => {}
                _ => {
                    self.is_broken = true;
                    return Err(ClientError::Lost);
                }
            }
            let message = serde_json::from_slice(&self.line);
            self.line.clear();
            match message {
                Ok(Message::Reply { id, reply }) if id == self.next_id => return Ok(*reply),
                Ok(Message::Refused { id, refusal }) if id == self.next_id => {
                    return Err(ClientError::Refused(refusal));
                }
                // A late answer to an earlier request, or the farewell that comes before the end of the connection.
                Ok(_) => {}
                Err(_) => return Err(ClientError::Answer { request: name }),
            }
        }
    }
}
