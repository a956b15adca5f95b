//! A majority is lost for good: one member goes on alone, grows again, and what comes back of the old ones is kept out.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::machines::{Machines, succeeded, text};
use super::{mainstay, stderr, stdout, wait_until};

impl Machines {
    /// Stops a member as a service manager does.
    fn stop(&mut self, name: &str) {
        let at = self.running.iter().position(|(running, _)| running == name).expect("it runs");
        let (_, mut child) = self.running.remove(at);
        succeeded(&Command::new("kill").arg(child.id().to_string()).output().expect("kill runs"));
        child.wait().expect("its own child");
    }

    fn refused(&self, name: &str, expected: &str) {
        let output = self.on(name, &["recover", "--from-this-member", "--yes"]);
        assert!(!output.status.success(), "{}", stdout(&output));
        let said = stderr(&output);
        assert!(said.contains(expected) && said.trim_end().lines().count() == 1, "{said}");
    }

    fn sql(&self, name: &str, statement: &str) -> String {
        let config = self.config(name);
        let output = mainstay(&["psql", "--config", &config, "--", "-XAtqc", statement]);
        if output.status.success() { stdout(&output).trim().to_owned() } else { stderr(&output) }
    }

    fn is_primary(&self, name: &str) -> bool {
        self.members(name).iter().any(|row| row["name"] == name && row["role"] == "primary")
    }

    fn has_ended(&mut self, name: &str) -> bool {
        let (_, child) = self.running.iter_mut().find(|(running, _)| running == name).expect("it ran");
        child.try_wait().expect("its own child").is_some()
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(Path::new(&self.home(name)).join("member-of-the-test.log")).unwrap_or_default()
    }
}

/// `recover` killed at some moment, then whatever is there is a member's directory: the old one or the new one.
fn killed_in_the_middle(machines: &Machines, name: &str, after: Duration) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    command.args(["recover", "--from-this-member", "--yes", "--json", "--config", &machines.config(name)]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    std::thread::sleep(after);
    let _ = child.kill();
    let _ = child.wait();
    assert!(Path::new(&machines.home(name)).join("consensus/identity").exists());
}

/// Answers the epoch.
fn three_members(machines: &mut Machines) -> u64 {
    let (home, address) = (machines.home("m1"), machines.address(11));
    let made = machines.json(
        "m1",
        &["init", "--yes", "--json", "--cluster", "lost", "--directory", &home, "--address", &address],
    );
    machines.run("m1");
    wait_until("the first member is the primary", || machines.is_primary("m1"));
    let tokens: Vec<String> = made["tokens"].as_array().expect("tokens").iter().map(text).collect();
    for (name, number, token) in [("m2", 12, &tokens[0]), ("m3", 13, &tokens[1])] {
        wait_until("it may join", || machines.join(name, number, token, &[]).status.success());
        machines.run(name);
    }
    wait_until("three members vote and stream", || machines.are_whole("m1", &["m1", "m2", "m3"]));
    machines.sql("m1", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)");
    machines.json("m1", &["status", "--json"])["epoch"].as_u64().expect("an epoch")
}

#[test]
fn one_member_goes_on_alone_and_what_comes_back_of_the_others_is_kept_out() {
    let mut machines = Machines::new("recover");
    let epoch = three_members(&mut machines);

    // While the cluster can go on, nobody goes on alone.
    machines.refused("m3", "Mainstay runs on this machine; stop it first");
    machines.stop("m3");
    machines.refused("m3", "answer, and with this member they are a majority");
    machines.run("m3");
    wait_until("it is back", || machines.are_whole("m1", &["m1", "m2", "m3"]));

    // The primary's machine and another one are gone.
    machines.kill("m1");
    machines.kill("m2");
    wait_until("nobody decides, and it says what can be done", || {
        stderr(&machines.on("m3", &["pause"])).contains("mainstay recover --from-this-member")
    });
    machines.stop("m3");
    let asked = machines.on("m3", &["recover", "--from-this-member"]);
    assert!(
        stderr(&asked).contains("that is not the cluster's name; nothing was changed"),
        "{}",
        stderr(&asked)
    );
    for word in ["m1: ", "m2: ", "not known: what the other members decided", "There is no way back"] {
        assert!(stdout(&asked).contains(word), "{}", stdout(&asked));
    }
    for after in [50, 3_200, 4_000] {
        killed_in_the_middle(&machines, "m3", Duration::from_millis(after));
    }
    let again = machines.on("m3", &["recover", "--from-this-member", "--yes", "--json"]);
    let is_done = stderr(&again).contains("m3 is a majority by itself; nothing has to be recovered");
    if !is_done {
        let recovered: Value = serde_json::from_slice(&again.stdout).expect("JSON");
        assert_eq!(recovered["left_behind"], serde_json::json!(["m1", "m2"]), "{recovered}");
        assert_eq!(recovered["epoch_known"], epoch);
    }
    machines.refused("m3", "m3 is a majority by itself; nothing has to be recovered");

    machines.run("m3");
    wait_until("it is the primary", || machines.is_primary("m3"));
    wait_until("it lets applications in", || machines.sql("m3", "SELECT count(*) FROM kept") == "1");
    machines.sql("m3", "INSERT INTO kept VALUES (2)");
    let status = machines.json("m3", &["status", "--json"]);
    assert!(status["epoch"].as_u64().expect("an epoch") > epoch + 1_000, "{status}");
    assert_eq!(machines.members("m3").len(), 1);

    // Both old ones come back at once: a majority of what was, and each is told before it decides anything.
    let begun = Instant::now();
    machines.run("m1");
    machines.run("m2");
    for name in ["m1", "m2"] {
        wait_until("it has ended by itself", || machines.has_ended(name));
        assert!(machines.log(name).contains("m3 has gone on without this member"), "{}", machines.log(name));
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(machines.sql("m3", "SELECT sum(n) FROM kept"), "3", "nobody else wrote");
    // Not even if it meets nobody: it knows for good.
    machines.running.retain(|(name, _)| name == "m3");
    let alone = machines.on("m1", &["run"]);
    assert!(stderr(&alone).contains("the cluster goes on without this member"), "{}", stderr(&alone));

    let invited = machines.json("m3", &["member", "invite", "--json"]);
    succeeded(&machines.join("m4", 14, &text(&invited["join"]), &["--member", "m4"]));
    machines.run("m4");
    wait_until("a new member streams", || {
        let members = machines.members("m3");
        members.iter().any(|row| row["name"] == "m4" && row["role"] == "standby" && row["sync"] == true)
    });
    assert_eq!(machines.sql("m3", "INSERT INTO kept VALUES (3) RETURNING n"), "3");
}
