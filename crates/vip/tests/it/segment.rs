//! Two machines on one segment, as network namespaces: `here`, which is to hold an address, and `there`, which listens.

use std::fs::File;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Segment {
    here: String,
    there: String,
}

impl Segment {
    /// `None` where this machine lets nobody make namespaces; CI's does.
    pub(crate) fn create() -> Option<Segment> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("msvip{}-{number}{side}", std::process::id());
        let segment = Segment { here: name("a"), there: name("b") };
        let (here, there) = (&segment.here, &segment.there);
        ip(&format!("netns add {here}"));
        ip(&format!("netns add {there}"));
        ip(&format!("-n {here} link add eth0 type veth peer name eth0 netns {there}"));
        for (namespace, last) in [(here, 1), (there, 2)] {
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {namespace} addr add 10.98.0.{last}/24 dev eth0"));
            ip(&format!("-n {namespace} -6 addr add fd98::{last}/64 dev eth0 nodad"));
            ip(&format!("-n {namespace} link set eth0 up"));
        }
        Some(segment)
    }

    pub(crate) fn ip_here(&self, words: &str) -> String {
        ip(&format!("-n {} {words}", self.here))
    }

    pub(crate) fn ip_there(&self, words: &str) -> String {
        ip(&format!("-n {} {words}", self.there))
    }

    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let shown = self.ip_here("-o addr show");
        shown.split_whitespace().any(|word| word.split('/').next() == Some(&address.to_string()))
    }

    pub(crate) fn here<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        inside(&self.here, work)
    }

    pub(crate) fn there<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        inside(&self.there, work)
    }
}

/// A namespace belongs to a thread.
fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

impl Drop for Segment {
    fn drop(&mut self) {
        for namespace in [&self.here, &self.there] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
