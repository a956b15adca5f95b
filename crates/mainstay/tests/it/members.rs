//! Members as an operator adds, replaces and removes them: init on one machine, join on others, each with an address of its
//! own on loopback.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::{mainstay, stderr, stdout, wait_until};

/// Machines on loopback, ended and removed at the end, also when the test fails.
struct Machines {
    directory: PathBuf,
    running: Vec<(String, Child)>,
}

impl Machines {
    fn new() -> Machines {
        let directory = Path::new("/var/tmp").join(format!("mainstay-members-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("made");
        Machines { directory, running: Vec::new() }
    }

    fn config(&self, name: &str) -> String {
        self.directory.join(format!("{name}.toml")).display().to_string()
    }

    fn home(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Tests of other processes may run beside this one: the process says which part of 127.0.0.0/8 is ours.
    fn address(number: u8) -> String {
        let ours = std::process::id();
        format!("127.{}.{}.{number}", 64 + ours / 250 % 128, ours % 250)
    }

    fn on(&self, name: &str, arguments: &[&str]) -> Output {
        let config = self.config(name);
        let mut all: Vec<&str> = arguments.to_vec();
        all.extend(["--config", &config]);
        mainstay(&all)
    }

    fn json(&self, name: &str, arguments: &[&str]) -> Value {
        let output = self.on(name, arguments);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}{}", stdout(&output), stderr(&output)))
    }

    fn join(&self, name: &str, number: u8, invitation: &str, more: &[&str]) -> Output {
        let (home, address) = (self.home(name), Machines::address(number));
        let mut arguments = vec!["join", invitation, "--directory", &home, "--address", &address, "--json"];
        arguments.extend(more);
        self.on(name, &arguments)
    }

    fn run(&mut self, name: &str) {
        let home = PathBuf::from(self.home(name));
        let log = fs::File::create(home.join("member-of-the-test.log")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(["run", "--config", &self.config(name)]).env_remove("MAINSTAY_CONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        self.running.push((name.to_owned(), command.spawn().expect("it starts")));
    }

    fn members(&self, name: &str) -> Vec<Value> {
        let output = self.on(name, &["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["members"].as_array().cloned().unwrap_or_default()
    }

    /// Whether every one of `names`, and nobody else, is a member that votes, with a standby or primary that streams.
    fn are_whole(&self, seen_from: &str, names: &[&str]) -> bool {
        let members = self.members(seen_from);
        let fine = |row: &Value| {
            let serves = matches!(row["role"].as_str(), Some("primary" | "witness"))
                || row["role"] == "standby" && row["sync"] == true;
            serves && row["votes"] == true && names.contains(&row["name"].as_str().unwrap_or_default())
        };
        members.len() == names.len() && members.iter().all(fine)
    }

    /// Everything of one machine dies at once.
    fn kill(&mut self, name: &str) {
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

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}{}", stdout(output), stderr(output));
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

#[test]
fn a_cluster_grows_from_one_member_is_repaired_and_shrinks() {
    let mut machines = Machines::new();
    let (home, address) = (machines.home("m1"), Machines::address(1));
    let init = ["init", "--yes", "--json", "--cluster", "grows", "--directory", &home, "--address", &address];
    let made = machines.json("m1", &init);
    let again = machines.on("m1", &init);
    assert!(!again.status.success() && stderr(&again).contains("exists already"), "{}", stderr(&again));
    machines.run("m1");
    wait_until("the first member is the primary", || {
        machines.members("m1").first().is_some_and(|row| row["role"] == "primary")
    });
    let postmaster = machines.members("m1")[0]["postgres"]["pid"].clone();
    wait_until("its tokens stand in the record", || {
        machines.json("m1", &["member", "list", "--json"])["invitations"]
            .as_array()
            .is_some_and(|open| open.len() == 2)
    });

    let tokens: Vec<String> = made["tokens"].as_array().expect("tokens").iter().map(text).collect();
    let mistyped = tokens[0].replacen(&tokens[0][3..4], if &tokens[0][3..4] == "z" { "y" } else { "z" }, 1);
    assert!(!machines.join("m2", 2, &mistyped, &[]).status.success());
    succeeded(&machines.join("m2", 2, &tokens[0], &[]));
    machines.run("m2");
    // Two machines come with one token, at the same time.
    let outcomes: Vec<Output> = std::thread::scope(|scope| {
        let machines = &machines;
        let asked = [("m3", 3), ("x3", 4)].map(|(name, number)| {
            let token = &tokens[1];
            scope.spawn(move || machines.join(name, number, token, &[]))
        });
        asked.into_iter().map(|asked| asked.join().expect("no panic")).collect()
    });
    let winners: Vec<usize> = (0..2).filter(|index| outcomes[*index].status.success()).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    let third = ["m3", "x3"][winners[0]];
    machines.run(third);
    wait_until("three members vote and stream", || machines.are_whole("m1", &["m1", "m2", "m3"]));
    assert_eq!(machines.members("m1")[0]["postgres"]["pid"], postmaster, "PostgreSQL was not restarted");

    machines.kill("m2");
    let replaced = machines.json("m1", &["member", "replace", "m2", "--json"]);
    succeeded(&machines.join("m4", 5, &text(&replaced["join"]), &[]));
    machines.run("m4");
    wait_until("the new member has taken the dead one's place", || {
        machines.are_whole("m1", &["m1", "m3", "m4"])
    });

    let invited = machines.json("m1", &["member", "invite", "--witness", "--json"]);
    succeeded(&machines.join("w1", 6, &text(&invited["join"]), &["--witness", "--member", "w1"]));
    machines.run("w1");
    wait_until("the witness votes", || machines.are_whole("m1", &["m1", "m3", "m4", "w1"]));

    let refused = machines.on("m1", &["member", "remove", "m1", "--yes"]);
    assert!(stderr(&refused).contains("switch over to another member first"), "{}", stderr(&refused));
    succeeded(&machines.on("m1", &["member", "remove", "m4", "--yes"]));
    wait_until("the removed member has ended by itself", || {
        let (_, child) = machines.running.iter_mut().find(|(name, _)| name == "m4").expect("it ran");
        child.try_wait().expect("its own child").is_some()
    });
    wait_until("its slot is gone", || {
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'ms_m4'";
        let config = machines.config("m1");
        let output = mainstay(&["psql", "--config", &config, "--", "-XAtc", slots]);
        stdout(&output).trim() == "0"
    });
    succeeded(&machines.on("m4", &["uninstall", "--yes", "--remove-data", "--yes-remove-data"]));
    assert!(
        !Path::new(&machines.config("m4")).exists() && !Path::new(&machines.home("m4")).join("data").exists()
    );
    assert!(machines.are_whole("m1", &["m1", "m3", "w1"]));
}
