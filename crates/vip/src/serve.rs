//! The process: one thread, which waits for orders, for the clock and for what is said on the segments.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

use crate::clock::now_ns;
use crate::holder::Holder;
use crate::order::{Answer, Order};

/// A line of orders is short; whoever sends more is not our member.
const LONGEST_LINE: usize = 64 << 10;
/// The member reads at once. One that does not is dying.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum ServeError {
    #[error("the member's orders cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("the member sends what is no order: {0}")]
    NoOrder(String),
    #[error("waiting failed: {0}")]
    Wait(#[from] Errno),
}

/// Carries out what comes over `orders`, until its other end is gone and nothing is held any more.
///
/// A member that has died may be back before its lease is over, and another process then holds the addresses.
///
/// # Errors
/// What comes is no order, or the kernel refuses to wait. Nothing is removed then: the kernel does that in time.
pub fn serve(mut holder: Holder, orders: UnixStream) -> Result<(), ServeError> {
    orders.set_nonblocking(true)?;
    let mut stream = Some(orders);
    let mut waiting = Vec::new();
    let mut told: Option<Answer> = None;
    loop {
        let mut ordered = false;
        if let Some(open) = &mut stream {
            let is_open = receive(open, &mut waiting)?;
            for order in orders_in(&mut waiting)? {
                holder.take(order);
                ordered = true;
            }
            if !is_open {
                stream = None;
            }
        }
        let wake_at = holder.turn();
        let answer = holder.answer();
        if let Some(open) = &mut stream
            && (ordered || told.as_ref() != Some(&answer))
        {
            if tell(open, &answer).is_err() {
                stream = None;
            }
            told = Some(answer);
        }
        if stream.is_none() && holder.is_idle() {
            return Ok(());
        }
        wait(&holder, stream.as_ref(), wake_at)?;
    }
}

/// Whether more may come.
fn receive(stream: &mut UnixStream, waiting: &mut Vec<u8>) -> Result<bool, ServeError> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => waiting.extend(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if waiting.len() > LONGEST_LINE {
            return Err(ServeError::NoOrder("a line without an end".to_owned()));
        }
    }
}

fn orders_in(waiting: &mut Vec<u8>) -> Result<Vec<Order>, ServeError> {
    let Some(end) = waiting.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
    let lines: Vec<u8> = waiting.drain(..=end).collect();
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).map_err(|error| ServeError::NoOrder(error.to_string())))
        .collect()
}

fn tell(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WRITE_PATIENCE))?;
    stream.write_all(&line)?;
    stream.set_nonblocking(true)
}

fn wait(holder: &Holder, stream: Option<&UnixStream>, wake_at: u64) -> Result<(), ServeError> {
    let left = Duration::from_nanos(wake_at.saturating_sub(now_ns()));
    // Rounded up, or the last millisecond would be spent turning.
    let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::ZERO);
    let ears = holder.ears();
    let ears = ears.iter().copied().chain(stream.map(AsFd::as_fd));
    let mut ears: Vec<PollFd<'_>> = ears.map(|ear| PollFd::new(ear, PollFlags::POLLIN)).collect();
    match poll(&mut ears, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
