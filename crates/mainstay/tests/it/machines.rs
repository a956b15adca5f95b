//! Machines as an operator has them: init on one, join on others, each with an address of its own on loopback.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::Value;

use super::{mainstay, stderr, stdout};

/// Machines on loopback, ended and removed at the end, also when the test fails.
pub(super) struct Machines {
    pub(super) directory: PathBuf,
    /// Tests of this process run beside each other.
    site: u8,
    pub(super) running: Vec<(String, Child)>,
}

impl Machines {
    pub(super) fn new(name: &str) -> Machines {
        static SITES: AtomicU8 = AtomicU8::new(0);
        let site = SITES.fetch_add(1, Ordering::Relaxed);
        let directory = Path::new("/var/tmp").join(format!("mainstay-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("made");
        Machines { directory, site, running: Vec::new() }
    }

    pub(super) fn config(&self, name: &str) -> String {
        self.directory.join(format!("{name}.toml")).display().to_string()
    }

    pub(super) fn home(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Tests of other processes may run beside this one: the process says which part of 127.0.0.0/8 is ours.
    pub(super) fn address(&self, number: u8) -> String {
        let ours = std::process::id();
        format!("127.{}.{}.{}", 64 + ours / 250 % 128, ours % 250, self.site * 16 + number)
    }

    pub(super) fn on(&self, name: &str, arguments: &[&str]) -> Output {
        let config = self.config(name);
        let mut all: Vec<&str> = arguments.to_vec();
        all.extend(["--config", &config]);
        mainstay(&all)
    }

    pub(super) fn json(&self, name: &str, arguments: &[&str]) -> Value {
        let output = self.on(name, arguments);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}{}", stdout(&output), stderr(&output)))
    }

    pub(super) fn join(&self, name: &str, number: u8, invitation: &str, more: &[&str]) -> Output {
        let (home, address) = (self.home(name), self.address(number));
        let mut arguments = vec!["join", invitation, "--directory", &home, "--address", &address, "--json"];
        arguments.extend(more);
        self.on(name, &arguments)
    }

    pub(super) fn run(&mut self, name: &str) {
        let home = PathBuf::from(self.home(name));
        let log = fs::File::create(home.join("member-of-the-test.log")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(["run", "--config", &self.config(name)]).env_remove("MAINSTAY_CONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        self.running.push((name.to_owned(), command.spawn().expect("it starts")));
    }

    pub(super) fn members(&self, name: &str) -> Vec<Value> {
        let output = self.on(name, &["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["members"].as_array().cloned().unwrap_or_default()
    }

    /// Whether every one of `names`, and nobody else, is a member that votes, with a standby or primary that streams.
    pub(super) fn are_whole(&self, seen_from: &str, names: &[&str]) -> bool {
        let members = self.members(seen_from);
        let fine = |row: &Value| {
            let serves = matches!(row["role"].as_str(), Some("primary" | "witness"))
                || row["role"] == "standby" && row["sync"] == true;
            serves && row["votes"] == true && names.contains(&row["name"].as_str().unwrap_or_default())
        };
        members.len() == names.len() && members.iter().all(fine)
    }

    /// Everything of one machine dies at once.
    pub(super) fn kill(&mut self, name: &str) {
        let home = PathBuf::from(self.home(name));
        for file in ["guard/guard.pid", "data/postmaster.pid"] {
            let pid = fs::read_to_string(home.join(file)).ok();
            let pid =
                pid.and_then(|text| text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()));
            if let Some(pid) = pid {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
            }
        }
        if let Some(at) = self.running.iter().position(|(running, _)| running == name) {
            let (_, mut child) = self.running.remove(at);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for (_, child) in &self.running {
            let _ = Command::new("kill").arg(child.id().to_string()).stderr(Stdio::null()).status();
        }
        let names: Vec<String> = self.running.iter().map(|(name, _)| name.clone()).collect();
        for (_, child) in &mut self.running {
            let _ = child.wait();
        }
        for name in names {
            self.kill(&name);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub(super) fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}{}", stdout(output), stderr(output));
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
