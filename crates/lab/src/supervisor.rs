//! A small service manager: it reads a unit file and does what the file says, as far as it matters to a member. systemd itself
//! does not run in the lab.
//!
//! What it does is by systemd.service(5) and systemd.kill(5): readiness and watchdog over a notify socket, SIGABRT to who misses
//! the watchdog, SIGTERM and then SIGKILL to who is to stop, `ExecStopPost` after every end, and a start after it.

pub mod unit;

use std::fs::OpenOptions;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use mainstay_core::Now;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::{clock, network, process};
use unit::{KillMode, Restart, Unit};

/// How often it looks after its process.
const TURN: Duration = Duration::from_millis(5);

/// One service: a unit, and where the lab runs it.
#[derive(Clone, Debug)]
pub struct Service {
    pub unit: Unit,
    /// In place of the program that the unit names.
    pub program: PathBuf,
    /// Behind the arguments of the unit.
    pub arguments: Vec<String>,
    pub namespace: String,
    pub notify_socket: PathBuf,
    pub log: PathBuf,
}

/// What can be seen of a service from outside.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The main process.
    pub main: Option<i32>,
    /// When it last said that it is ready; `None` until it does.
    pub ready_at: Option<Now>,
    /// Its line of status.
    pub status: String,
    /// How each main process ended, in systemd's words: `success`, `watchdog`, `signal` …
    pub ends: Vec<String>,
    /// Neither running nor about to.
    pub dead: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Start,
    Stop,
    /// The machine is gone: nothing is started again.
    Abandon,
}

/// A service under supervision, by a thread of its own.
#[derive(Debug)]
pub struct Supervisor {
    orders: Sender<Order>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts the service.
    pub fn start(service: Service) -> Result<Supervisor> {
        let _ = std::fs::remove_file(&service.notify_socket);
        let socket = UnixDatagram::bind(&service.notify_socket)
            .with_context(|| format!("cannot listen on {}", service.notify_socket.display()))?;
        socket.set_nonblocking(true)?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (orders, received) = channel();
        let keeper = Keeper { service, socket, seen: Arc::clone(&seen), phase: Phase::Dead };
        let thread = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || keeper.keep(&received))?;
        let supervisor = Supervisor { orders, seen, thread: Some(thread) };
        supervisor.order(Order::Start);
        Ok(supervisor)
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn start_again(&self) {
        self.order(Order::Start);
    }

    /// As `systemctl stop`; returns at once.
    pub fn stop(&self) {
        self.order(Order::Stop);
    }

    fn order(&self, order: Order) {
        // A keeper that is gone has been abandoned.
        let _ = self.orders.send(order);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.order(Order::Abandon);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Dead,
    Starting {
        pid: i32,
        since: Now,
    },
    Running {
        pid: i32,
        fed_at: Now,
    },
    /// It was sent a signal to end; SIGKILL follows at the deadline.
    Ending {
        pid: i32,
        deadline: Now,
        why: Why,
        killed: bool,
    },
    Pausing {
        until: Now,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Why {
    Stop,
    Watchdog,
    StartTimeout,
}

impl Phase {
    fn pid(self) -> Option<i32> {
        match self {
            Phase::Starting { pid, .. } | Phase::Running { pid, .. } | Phase::Ending { pid, .. } => Some(pid),
            Phase::Dead | Phase::Pausing { .. } => None,
        }
    }
}

struct Keeper {
    service: Service,
    socket: UnixDatagram,
    seen: Arc<Mutex<Seen>>,
    phase: Phase,
}

impl Keeper {
    fn keep(mut self, orders: &Receiver<Order>) {
        loop {
            match orders.recv_timeout(TURN) {
                Ok(Order::Start) if self.phase.pid().is_none() => self.spawn(),
                Ok(Order::Stop) => self.stop(),
                Ok(Order::Abandon) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Order::Start) | Err(RecvTimeoutError::Timeout) => {}
            }
            self.hear();
            if let Some((pid, status)) = self.phase.pid().and_then(ended) {
                self.after_end(pid, status);
            }
            self.look_at_the_clock();
        }
    }

    fn spawn(&mut self) {
        match self.command().and_then(|mut command| Ok(command.spawn()?)) {
            Ok(child) => {
                let pid = child.id().cast_signed();
                self.phase = Phase::Starting { pid, since: clock::now() };
                self.note(|seen| {
                    (seen.main, seen.ready_at, seen.dead) = (Some(pid), None, false);
                    seen.status.clear();
                });
            }
            Err(error) => self.rest(&format!("cannot start: {error:#}"), false),
        }
    }

    fn command(&self) -> Result<Command> {
        let (service, unit) = (&self.service, &self.service.unit);
        let log = OpenOptions::new().create(true).append(true).open(&service.log)?;
        let mut command = if unit.bounding_set.is_empty() {
            network::inside(&service.namespace, &service.program)
        } else {
            let mut command = network::inside(&service.namespace, std::path::Path::new("/usr/bin/setpriv"));
            command.arg(format!("--bounding-set={}", unit.bounding_set)).arg("--").arg(&service.program);
            command
        };
        command.args(&unit.exec_start[1..]).args(&service.arguments);
        if unit.notifies {
            command.env("NOTIFY_SOCKET", &service.notify_socket);
        }
        if let Some(watchdog) = unit.watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        // A group of its own: Ctrl-C in the terminal is for the lab.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/").process_group(0);
        Ok(command)
    }

    /// Takes in what the service says.
    fn hear(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let now = clock::now();
            for line in String::from_utf8_lossy(&buffer[..length]).lines() {
                match (line, self.phase) {
                    ("READY=1", Phase::Starting { pid, .. }) => {
                        self.phase = Phase::Running { pid, fed_at: now };
                        self.note(|seen| seen.ready_at = Some(now));
                    }
                    ("WATCHDOG=1", Phase::Running { pid, .. }) => {
                        self.phase = Phase::Running { pid, fed_at: now };
                    }
                    (line, _) => {
                        if let Some(status) = line.strip_prefix("STATUS=") {
                            self.note(|seen| seen.status = status.to_owned());
                        }
                    }
                }
            }
        }
    }

    fn stop(&mut self) {
        match self.phase {
            Phase::Starting { pid, .. } | Phase::Running { pid, .. } => {
                self.end(pid, Signal::SIGTERM, Why::Stop, self.service.unit.stop_timeout);
            }
            Phase::Ending { pid, deadline, killed, .. } => {
                self.phase = Phase::Ending { pid, deadline, killed, why: Why::Stop };
            }
            // As systemd does: what was to be started is not, and nothing else is run.
            Phase::Pausing { .. } | Phase::Dead => {
                self.phase = Phase::Dead;
                self.note(|seen| seen.dead = true);
            }
        }
    }

    /// A process that is stopped takes no signal but SIGKILL; so it is continued as well.
    fn end(&mut self, pid: i32, signal: Signal, why: Why, patience: Duration) {
        let others = self.service.unit.kill_mode == KillMode::ControlGroup && signal == Signal::SIGTERM;
        let pids = if others { self.all() } else { vec![pid] };
        let _ = process::signal(pids.iter().copied(), signal);
        let _ = process::signal(pids, Signal::SIGCONT);
        self.phase = Phase::Ending { pid, deadline: clock::now().plus(patience), why, killed: false };
    }

    fn all(&self) -> Vec<i32> {
        process::in_namespace(&self.service.namespace).iter().map(|process| process.pid).collect()
    }

    fn look_at_the_clock(&mut self) {
        let now = clock::now();
        let unit = &self.service.unit;
        match self.phase {
            Phase::Starting { pid, since } if unit.notifies && now.since(since) > unit.start_timeout => {
                self.end(pid, Signal::SIGTERM, Why::StartTimeout, unit.stop_timeout);
            }
            Phase::Running { pid, fed_at }
                if unit.watchdog.is_some_and(|watchdog| now.since(fed_at) > watchdog) =>
            {
                self.end(pid, Signal::SIGABRT, Why::Watchdog, unit.abort_timeout);
            }
            Phase::Ending { pid, deadline, why, killed: false } if now > deadline => {
                let _ = process::signal([pid], Signal::SIGKILL);
                self.phase = Phase::Ending { pid, deadline, why, killed: true };
            }
            Phase::Pausing { until } if now > until => self.spawn(),
            _ => {}
        }
    }

    fn after_end(&mut self, pid: i32, status: WaitStatus) {
        let (why, killed) = match self.phase {
            Phase::Ending { why, killed, .. } => (Some(why), killed),
            _ => (None, false),
        };
        let (code, word) = match status {
            WaitStatus::Exited(_, code) => ("exited", code.to_string()),
            WaitStatus::Signaled(_, signal, dumped) => {
                (if dumped { "dumped" } else { "killed" }, signal.as_str()[3..].to_owned())
            }
            _ => ("exited", String::new()),
        };
        let result = match why {
            Some(Why::Watchdog) => "watchdog",
            Some(Why::StartTimeout) => "timeout",
            Some(Why::Stop) if killed => "timeout",
            _ => self.judge(status),
        };
        // systemd sends its last SIGKILL after every end of the main process.
        if self.service.unit.kill_mode != KillMode::Process {
            let _ = process::signal(self.all().into_iter().filter(|other| *other != pid), Signal::SIGKILL);
        }
        for line in &self.service.unit.exec_stop_post {
            self.run_after(line, [("SERVICE_RESULT", result), ("EXIT_CODE", code), ("EXIT_STATUS", &word)]);
        }
        let again = match self.service.unit.restart {
            Restart::Always => true,
            Restart::OnFailure => result != "success",
            Restart::No => false,
        };
        self.rest(result, again && why != Some(Why::Stop));
    }

    /// Whether an end that nobody asked for was a good one.
    fn judge(&self, status: WaitStatus) -> &'static str {
        match status {
            WaitStatus::Exited(_, code) if self.service.unit.success_codes.contains(&code) => "success",
            WaitStatus::Exited(..) => "exit-code",
            WaitStatus::Signaled(
                _,
                Signal::SIGHUP | Signal::SIGINT | Signal::SIGTERM | Signal::SIGPIPE,
                _,
            ) => "success",
            WaitStatus::Signaled(_, _, true) => "core-dump",
            _ => "signal",
        }
    }

    fn run_after(&self, line: &[String], variables: [(&str, &str); 3]) {
        let log = OpenOptions::new().create(true).append(true).open(&self.service.log);
        let Ok((log, errors)) = log.and_then(|log| Ok((log.try_clone()?, log))) else { return };
        let mut command = network::inside(&self.service.namespace, &self.service.program);
        command.args(&line[1..]).args(configuration(&self.service.arguments)).envs(variables);
        let _ = command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir("/").status();
    }

    fn rest(&mut self, result: &str, again: bool) {
        self.phase = match again {
            true => Phase::Pausing { until: clock::now().plus(self.service.unit.restart_pause) },
            false => Phase::Dead,
        };
        self.note(|seen| {
            (seen.main, seen.ready_at, seen.dead) = (None, None, !again);
            seen.ends.push(result.to_owned());
        });
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What every command of a service needs of its arguments.
fn configuration(arguments: &[String]) -> &[String] {
    let begin = arguments.iter().position(|argument| argument == "--config");
    begin.map_or(&[], |begin| &arguments[begin..(begin + 2).min(arguments.len())])
}

/// How the process ended, if it has. One that is being traced, as by a fault of the lab, shows its stops here too.
fn ended(pid: i32) -> Option<(i32, WaitStatus)> {
    match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
        Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => Some((pid, status)),
        _ => None,
    }
}
