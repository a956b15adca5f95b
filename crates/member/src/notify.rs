//! What the service manager is told, by the protocol of sd_notify(3): ready, one line of status, alive, stopping.
//!
//! A datagram with `NAME=value` lines to the socket that `NOTIFY_SOCKET` names: too little for a library. Without the
//! variable nothing is told.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use crate::status::Status;

/// How often the line of status may change.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Whether a service manager started this process and waits to be told.
pub fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Says one line of status, as `systemctl status` shows it.
pub fn say(text: &str) {
    if let Some(manager) = Manager::from_environment() {
        manager.tell(&format!("STATUS={}", one_line(text)));
    }
}

/// From now on the member takes part, and says so for as long as its main loop turns.
pub(crate) fn ready(status: watch::Receiver<Arc<Status>>) {
    let Some(manager) = Manager::from_environment() else { return };
    manager.tell("READY=1");
    let watchdog = watchdog_interval(
        std::env::var("WATCHDOG_USEC").ok().as_deref(),
        std::env::var("WATCHDOG_PID").ok().as_deref(),
        std::process::id(),
    );
    tokio::spawn(follow(manager, status, watchdog));
}

/// The member is about to stop PostgreSQL and itself.
pub(crate) fn stopping() {
    if let Some(manager) = Manager::from_environment() {
        manager.tell("STOPPING=1");
    }
}

/// The main loop publishes its status in every turn, at least ten a second. Only a turn that is seen after the last word
/// counts as a sign of life, so that a loop that hangs is silent although this task still runs.
async fn follow(manager: Manager, mut status: watch::Receiver<Arc<Status>>, watchdog: Option<Duration>) {
    let mut told = String::new();
    while status.changed().await.is_ok() {
        let reason = one_line(&status.borrow_and_update().reason);
        let mut words = Vec::new();
        if watchdog.is_some() {
            words.push("WATCHDOG=1".to_owned());
        }
        if reason != told {
            words.push(format!("STATUS={reason}"));
            told = reason;
        }
        if !words.is_empty() {
            manager.tell(&words.join("\n"));
        }
        tokio::time::sleep(watchdog.map_or(STATUS_INTERVAL, |interval| interval.min(STATUS_INTERVAL))).await;
        status.mark_unchanged();
    }
}

/// A third of the time within which a sign of life is wanted, if one is wanted of this process.
fn watchdog_interval(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let usec: u64 = usec?.parse().ok().filter(|usec| *usec > 0)?;
    Some(Duration::from_micros(usec) / 3)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Manager {
    fn from_environment() -> Option<Manager> {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        match Manager::new(&name) {
            Ok(manager) => Some(manager),
            Err(error) => {
                warn!("NOTIFY_SOCKET={} cannot be used: {error}", name.display());
                None
            }
        }
    }

    fn new(name: &OsString) -> io::Result<Manager> {
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not stop the member.
        socket.set_nonblocking(true)?;
        Ok(Manager { socket, address: address(name)? })
    }

    fn tell(&self, words: &str) {
        if let Err(error) = self.socket.send_to_addr(words.as_bytes(), &self.address) {
            warn!("the service manager was not told: {error}");
        }
    }
}

/// `/a/path`, or `@name` for the abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a path nor begins with @")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(name: &str) -> String {
        let listener = UnixDatagram::bind_addr(&address(OsStr::new(name)).expect("a name")).expect("bound");
        Manager::new(&OsString::from(name)).expect("made").tell("READY=1");
        let mut buffer = [0; 64];
        let length = listener.recv(&mut buffer).expect("heard");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn sockets_in_the_file_system_and_abstract_ones_are_told() {
        let path = std::env::temp_dir().join(format!("mainstay-notify-{}", std::process::id()));
        assert_eq!(heard(&path.display().to_string()), "READY=1");
        let _ = std::fs::remove_file(&path);
        assert_eq!(heard(&format!("@mainstay-notify-{}", std::process::id())), "READY=1");
        assert!(address(OsStr::new("relative")).is_err());
    }

    #[test]
    fn a_third_of_the_time_if_it_is_ours() {
        let third = Some(Duration::from_secs(10));
        assert_eq!(watchdog_interval(Some("30000000"), None, 7), third);
        assert_eq!(watchdog_interval(Some("30000000"), Some("7"), 7), third);
        assert_eq!(watchdog_interval(Some("30000000"), Some("8"), 7), None);
        assert_eq!(watchdog_interval(Some("0"), None, 7), None);
        assert_eq!(watchdog_interval(None, None, 7), None);
    }
}
