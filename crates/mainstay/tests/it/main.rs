//! The program as a user meets it: real commands, real members, and what it says when something is wrong.

mod adopt;
mod anywhere;
mod api;
mod bad_input;
mod certificates;
mod configure;
mod demo;
mod every_command;
mod health;
mod import;
mod init;
mod init_adopt;
mod logs;
mod machines;
mod members;
mod monitoring;
mod operate;
mod recover;
mod reference;
mod sql_proxy;
mod sql_proxy_alone;
mod support;
mod verify;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};

/// Runs the program; it has no terminal and reads nothing.
pub fn mainstay<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    command.args(arguments).env_remove("MAINSTAY_CONFIG").stdin(std::process::Stdio::null());
    command.output().expect("the program can be run")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A demo of its own, stopped and removed at the end, also when the test fails.
pub struct Demo {
    pub directory: PathBuf,
    pub port_base: u16,
}

impl Demo {
    /// A place for a demo; nothing runs yet.
    pub fn place(name: &str) -> Demo {
        static PORTS: AtomicU16 = AtomicU16::new(0);
        // Below the ephemeral ports, and apart from the default demo.
        // Tests of other working copies may run beside these.
        let is_free =
            |base: &u16| (1..=90).all(|port| std::net::TcpListener::bind(("127.0.0.1", base + port)).is_ok());
        let mut bases = std::iter::repeat_with(|| {
            let next = PORTS.fetch_add(1, Ordering::Relaxed) + (std::process::id() % 30) as u16;
            21_000 + next % 30 * 100
        });
        let port_base = bases.find(is_free).expect("there are free ports");
        // PostgreSQL's user must be able to reach it.
        let directory = Path::new("/var/tmp").join(format!("mainstay-test-{}-{name}", std::process::id()));
        Demo { directory, port_base }
    }

    pub fn started(name: &str, members: u16) -> Demo {
        let demo = Demo::place(name);
        let output = demo.start(members);
        assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
        demo
    }

    pub fn start(&self, members: u16) -> Output {
        let (members, port_base) = (members.to_string(), self.port_base.to_string());
        self.run(&["--detach", "--json", "--members", &members, "--port-base", &port_base])
    }

    /// Runs `mainstay demo` on this place.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let directory = self.directory.display().to_string();
        let mut all = vec!["demo", "--dir", &directory];
        all.extend(arguments);
        mainstay(&all)
    }

    pub fn status(&self) -> serde_json::Value {
        let output = self.run(&["status", "--json"]);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}{}", stdout(&output), stderr(&output)))
    }

    pub fn configuration(&self, member: &str) -> PathBuf {
        self.directory.join(member).join("mainstay.toml")
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let output = self.run(&["stop"]);
        if !output.status.success() && self.directory.exists() && !std::thread::panicking() {
            panic!("the demo in {} was not removed: {}", self.directory.display(), stderr(&output));
        }
    }
}

/// Waits until `holds`, at most 60 s; the machine may be busy.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed().as_secs() < 60, "{what} has not happened within 60 s");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
