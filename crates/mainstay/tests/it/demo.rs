//! A whole cluster by the commands that the README shows.

use super::{Demo, stderr, stdout, wait_until};

fn role(status: &serde_json::Value, member: &str) -> String {
    let rows = status["members"].as_array().expect("a list of members");
    let row = rows.iter().find(|row| row["name"] == member).expect("the member");
    row["role"].as_str().expect("a role").to_owned()
}

#[test]
fn three_members_survive_a_kill_a_rejoin_and_a_switchover() {
    let demo = Demo::started("three", 3);
    let status = demo.status();
    assert_eq!(role(&status, "m1"), "primary");
    assert_eq!(status["at_risk_bytes"], 0);
    assert_eq!(status["writable"], true);
    for field in ["pid", "guard_pid"] {
        assert!(status["members"][0][field].as_u64().is_some_and(|pid| pid > 1), "{field}: {status}");
    }
    let postgres = &status["members"][0]["postgres"];
    for field in ["pid", "port", "socket_dir", "data_dir", "version"] {
        assert!(!postgres[field].is_null(), "{field}: {postgres}");
    }
    let rw = status["endpoints"]["rw"].as_str().expect("a URL");
    assert!(rw.contains("target_session_attrs=read-write") && rw.matches("127.0.0.1:").count() == 3, "{rw}");

    let killed = demo.run(&["kill", "m1"]);
    assert!(killed.status.success(), "{}{}", stdout(&killed), stderr(&killed));
    assert!(stdout(&killed).contains(" 0 lost, 0 twice."), "{}", stdout(&killed));
    let kept = "The writer kept its connection: 0 errors for new work, ";
    assert!(stdout(&killed).contains(kept), "{}", stdout(&killed));
    let status = demo.status();
    assert_ne!(status["primary"], "m1");
    assert_eq!(role(&status, "m1"), "stopped");

    assert!(demo.run(&["start", "m1"]).status.success());
    wait_until("m1 streams again as a voter", || {
        let status = demo.status();
        role(&status, "m1") == "standby" && status["members"][0]["sync"] == true
    });

    let switched = demo.run(&["switchover", "--to", "m1"]);
    assert!(switched.status.success(), "{}{}", stdout(&switched), stderr(&switched));
    assert_eq!(demo.status()["primary"], "m1");

    let explained = demo.run(&["explain", "--last", "50"]);
    assert!(
        stdout(&explained).contains("PostgreSQL was stopped for a switchover to m1"),
        "{}",
        stdout(&explained)
    );
    decide_again(&demo);
}

/// What `explain --json` prints can be decided again, and comes out the same.
fn decide_again(demo: &Demo) {
    let explained = demo.run(&["explain", "--json"]);
    let file = demo.directory.join("views.json");
    std::fs::write(&file, &explained.stdout).expect("written");
    let decided = super::mainstay(&["decide", "--json", "--view", &file.display().to_string()]);
    let decided: serde_json::Value = serde_json::from_slice(&decided.stdout).expect("JSON");
    let explained: serde_json::Value = serde_json::from_slice(&explained.stdout).expect("JSON");
    let first = |value: &serde_json::Value| value[0]["reasons"].clone();
    assert_eq!(first(&decided), explained[0]["decision"]["reasons"]);
}

#[test]
fn one_member_alone_is_a_cluster_and_keeps_postgresql_when_its_member_restarts() {
    let demo = Demo::started("one", 1);
    overrides_are_taken_back(&demo);
    let before = demo.status();
    let pid = before["members"][0]["pid"].as_u64().expect("a pid");
    // SAFETY-free: the pid is the member's own, just read from its status.
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill");
    assert!(killed.success());
    wait_until("the member is gone", || role(&demo.status_or_null(), "m1") != "primary");
    assert!(demo.run(&["start", "m1"]).status.success());
    wait_until("it is the primary again", || demo.status_or_null()["writable"] == true);
    let after = demo.status();
    assert_eq!(after["epoch"], before["epoch"]);
    assert_eq!(after["members"][0]["postgres"]["pid"], before["members"][0]["postgres"]["pid"]);
    another_lease_is_refused(&demo);
}

/// A holder must not count on a longer lease than the voters wait for.
fn another_lease_is_refused(demo: &Demo) {
    assert!(demo.run(&["stop", "m1"]).status.success());
    let file = demo.configuration("m1");
    let good = std::fs::read_to_string(&file).expect("the configuration");
    std::fs::write(&file, format!("lease = \"10s\"\n{good}")).expect("written");
    let mut command = std::process::Command::new("timeout");
    command.arg("30").arg(env!("CARGO_BIN_EXE_mainstay")).args(["run", "--config"]).arg(&file);
    let output = command.output().expect("timeout, of coreutils");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("lease = 10s, but the cluster was made with 3s"), "{}", stderr(&output));
    std::fs::write(&file, good).expect("written");
}

/// A superuser may have said it; Mainstay says it again, and says so.
fn overrides_are_taken_back(demo: &Demo) {
    let postgres = demo.status()["members"][0]["postgres"].clone();
    let psql = |sql: &[&str]| {
        let mut command = std::process::Command::new("psql");
        command.args(["-XAtq", "-U", "mainstay", "-d", "postgres", "-h"]);
        command.arg(postgres["socket_dir"].as_str().expect("a directory"));
        command.args(["-p", &postgres["port"].to_string()]);
        let output = command.args(sql.iter().flat_map(|one| ["-c", one])).output().expect("psql");
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let path = postgres["data_dir"].as_str().expect("a directory").to_owned() + "/postgresql.auto.conf";
    std::fs::write(path, "fsync = off\nwork_mem = '5MB'\n").expect("written");
    psql(&["SELECT pg_reload_conf()"]);
    wait_until("fsync is on again", || psql(&["SHOW fsync"]).trim() == "on");
    wait_until("the status says so", || {
        demo.status()["warnings"].to_string().contains("postgresql.auto.conf had set fsync")
    });
    assert_eq!(psql(&["SHOW work_mem"]).trim(), "5MB", "what is not Mainstay's stays");
}

impl Demo {
    fn status_or_null(&self) -> serde_json::Value {
        let output = self.run(&["status", "--json"]);
        let nobody = serde_json::json!({ "members": [{ "name": "m1", "role": "unknown" }] });
        serde_json::from_slice(&output.stdout).unwrap_or(nobody)
    }
}
