//! Clients whose machine vanishes: nobody closes their connections.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mainstay_sql::Settings;
use nix::sched::{CloneFlags, unshare};

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Wire, kinds};

const SILENCE: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce() + Send>;

/// A machine at the other end of a cable: a thread in a network namespace without a name, which goes with it and its sockets.
struct Machine {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Our end of the cable.
    cable: String,
    near: Ipv4Addr,
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdin(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Machine {
    /// `None` for who may not make namespaces.
    fn new() -> Option<Machine> {
        let pid = std::process::id();
        let [_, _, high, low] = (pid << 2).to_be_bytes();
        let (near, far) = (Ipv4Addr::new(10, 98, high, low | 1), Ipv4Addr::new(10, 98, high, low | 2));
        let (jobs, given) = mpsc::channel::<Job>();
        let thread = std::thread::spawn(move || given.into_iter().for_each(|job| job()));
        let cable = format!("mssql{pid}");
        let machine = Machine { jobs: Some(jobs), thread: Some(thread), cable: cable.clone(), near };
        let is_made = machine.run(move || {
            unshare(CloneFlags::CLONE_NEWNET).is_ok()
                && ip(&format!("link add eth0 type veth peer name {cable} netns {pid}"))
                && ip(&format!("addr add {far}/30 dev eth0"))
                && ip("link set eth0 up")
        });
        let cable = &machine.cable;
        let is_plugged =
            is_made && ip(&format!("addr add {near}/30 dev {cable}")) && ip(&format!("link set {cable} up"));
        is_plugged.then_some(machine)
    }

    /// Does something there.
    fn run<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        let (say, said) = mpsc::channel();
        let job: Job = Box::new(move || drop(say.send(what())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        said.recv().unwrap()
    }

    fn client(&self, proxy: &Proxy) -> Wire {
        let address = SocketAddr::from((self.near, proxy.readonly_port));
        let mut wire = self.run(move || Wire::at(address).unwrap());
        wire.log_in(&[("user", "app"), ("database", "app@rw")], "secret").unwrap();
        wire
    }

    /// Nothing comes from there any more, and nothing arrives.
    fn vanish(&self) {
        assert!(self.run(|| ip("link set eth0 down")));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.jobs.take());
        ip(&format!("link del {}", self.cable));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn proxy(machine: &Machine) -> Proxy {
    let settings = Settings {
        default_pool_size: 3,
        client_tcp_user_timeout: SILENCE,
        listen_readonly: Some(SocketAddr::new(IpAddr::V4(machine.near), 1)),
        ..settings()
    };
    Proxy::with(Postgres::shared(), settings)
}

#[test]
fn who_vanishes_keeps_neither_its_server_nor_its_place() {
    let Some(machine) = Machine::new() else { return };
    let proxy = proxy(&machine);
    let mut far = [(); 4].map(|()| machine.client(&proxy));
    let [begun, asks, reads_nothing, _idle] = &mut far;
    begun.ok("BEGIN");
    // Its answer is never acknowledged.
    asks.simple("SELECT pg_sleep(0.3)").send();
    reads_nothing.simple("SELECT repeat('x', 100000) FROM generate_series(1, 300)").send();
    let mut console = proxy.boss("mainstay");
    let clients = |console: &mut Wire| {
        console.table("SHOW CLIENTS").iter().filter(|client| client["database"] == "app").count()
    };
    wait_for("all servers to be taken", || {
        console.table("SHOW POOLS").iter().any(|pool| pool["database"] == "app" && pool["sv_active"] == "3")
    });
    assert_eq!(clients(&mut console), 4);
    machine.vanish();
    let vanished = Instant::now();
    let mut near = [(); 3].map(|()| proxy.client());
    for client in &mut near {
        client.ok("BEGIN");
    }
    wait_for("all places to be free", || clients(&mut console) == 3);
    assert!(vanished.elapsed() < Duration::from_secs(10), "{:?}", vanished.elapsed());
}

/// `TCP_USER_TIMEOUT` takes a client that reads nothing for one that is gone.
#[test]
fn who_reads_slowly_has_not_vanished() {
    let limits = Settings { default_pool_size: 2, client_tcp_user_timeout: SILENCE, ..settings() };
    let proxy = Proxy::with(Postgres::shared(), limits);
    // More than there is room for on the way, and less.
    let rows = [300, 20];
    let mut slow = rows.map(|rows| {
        let mut client = proxy.client();
        client.simple(&format!("SELECT repeat('x', 100000) FROM generate_series(1, {rows})")).send();
        client
    });
    std::thread::sleep(SILENCE + SILENCE * 3 / 2);
    for (client, rows) in slow.iter_mut().zip(rows) {
        assert_eq!(kinds(&client.until_ready()).matches('D').count(), rows);
        assert_eq!(client.one("SELECT 1"), "1");
    }
}
