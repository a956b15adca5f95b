//! `verify` and `drill` on a real cluster: good, then broken in one way after the other.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use serde_json::Value;

use super::health::exchange;
use super::{Demo, mainstay, stderr, stdout, wait_until};

/// The lines of a report that have this outcome.
fn lines<'a>(report: &'a Value, outcome: &str) -> Vec<&'a Value> {
    let lines = report["lines"].as_array().expect("a list of lines");
    lines.iter().filter(|line| line["outcome"] == outcome).collect()
}

fn parse(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}{}", stdout(output), stderr(output)))
}

/// Runs `verify` as on the machine of `member`.
fn verify(demo: &Demo, member: &str, only: &str) -> (Option<i32>, Value) {
    let file = demo.configuration(member).display().to_string();
    let mut arguments = vec!["verify", "--json", "--config", &file];
    if !only.is_empty() {
        arguments.extend(["--only", only]);
    }
    let output = mainstay(&arguments);
    (output.status.code(), parse(&output))
}

/// Asserts that this check fails about `member`, with the finding and the remedy.
#[track_caller]
fn assert_fails(result: &(Option<i32>, Value), check: &str, member: &str, finding: &str, remedy: &str) {
    let (code, report) = result;
    let failed = lines(report, "fail");
    let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let found = failed.iter().any(|line| {
        line["check"] == check
            && line["member"] == member
            && text(line, "finding").contains(finding)
            && text(line, "remedy").contains(remedy)
    });
    assert!(found, "no failure of {check} about {member} with {finding:?} and {remedy:?}: {report:#}");
    assert_eq!((*code, &report["ok"]), (Some(1), &Value::Bool(false)));
}

/// A statement of Mainstay's superuser on one member.
fn psql(demo: &Demo, member: &str, database: &str, sql: &str) -> String {
    let status = demo.status();
    let rows = status["members"].as_array().expect("members");
    let row = rows.iter().find(|row| row["name"] == member).expect("the member");
    let postgres = &row["postgres"];
    let mut command = std::process::Command::new("psql");
    command.args(["-XAtq", "-U", "mainstay", "-d", database, "-c", sql, "-h"]);
    command.arg(postgres["socket_dir"].as_str().expect("a directory"));
    let output = command.args(["-p", &postgres["port"].to_string()]).output().expect("psql");
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).trim().to_owned()
}

fn is_whole(demo: &Demo) -> bool {
    let status = demo.status();
    let members = status["members"].as_array().expect("members");
    let standbys = members.iter().filter(|row| row["role"] == "standby" && row["sync"] == true);
    status["writable"] == true && standbys.count() == 2
}

#[test]
fn a_good_cluster_is_verified_and_a_broken_one_is_not() {
    let demo = Demo::started("verify", 3);
    passes_from_everywhere(&demo);
    keys_that_others_may_read(&demo);
    replay_that_is_paused(&demo);
    a_foreign_authority(&demo);
    drills(&demo);
    a_standby_that_is_stopped(&demo);
    without_a_majority(&demo);
}

fn passes_from_everywhere(demo: &Demo) {
    for member in ["m1", "m2"] {
        // On a busy machine a single answer may come late.
        let mut report = Value::Null;
        wait_until("verify passes", || {
            report = verify(demo, member, "").1;
            report["ok"] == true
        });
        assert!(lines(&report, "fail").is_empty() && lines(&report, "ok").len() > 25, "{report:#}");
        let skipped: Vec<_> = lines(&report, "skip").iter().map(|line| line["check"].clone()).collect();
        assert_eq!(skipped, ["backups"], "{report:#}");
        assert!(report["milliseconds"].as_u64().is_some_and(|ms| ms < 30_000), "{report:#}");
    }
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'mainstay_verify%'";
    for database in ["postgres", "app"] {
        assert_eq!(psql(demo, "m1", database, left), "0", "{database}");
    }
}

fn keys_that_others_may_read(demo: &Demo) {
    let key = demo.directory.join("m1/tls/member.key");
    let set = |mode| {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("the mode is set");
    };
    set(0o644);
    let result = verify(demo, "m1", "files");
    set(0o600);
    assert_fails(&result, "files", "m1", "has mode 0644", &format!("chmod go-rwx {}", key.display()));
    assert_eq!(verify(demo, "m1", "files").0, Some(0));
}

fn replay_that_is_paused(demo: &Demo) {
    psql(demo, "m2", "postgres", "SELECT pg_wal_replay_pause()");
    let result = verify(demo, "m1", "replay,read");
    psql(demo, "m2", "postgres", "SELECT pg_wal_replay_resume()");
    assert_fails(&result, "replay", "m2", "replay is paused", "SELECT pg_wal_replay_resume()");
    assert_fails(&result, "read", "m2", "has not arrived", "SELECT pg_wal_replay_resume()");
}

/// Another authority has not signed the servers' certificates.
fn a_foreign_authority(demo: &Demo) {
    let foreign = mainstay_net::pki::ClusterCa::create("foreign").expect("an authority");
    std::fs::write(demo.directory.join("m1/foreign.pem"), foreign.certificate_pem()).expect("written");
    let text = std::fs::read_to_string(demo.configuration("m1")).expect("the configuration");
    let file = demo.directory.join("m1/foreign.toml");
    std::fs::write(&file, format!("{text}\n[tls]\nauthority = \"foreign.pem\"\n")).expect("written");
    let file = file.display().to_string();
    let output = mainstay(&["verify", "--json", "--only", "tls-clients", "--config", &file]);
    let result = (output.status.code(), parse(&output));
    assert_fails(
        &result,
        "tls-clients",
        "m2",
        "invalid peer certificate",
        "issue a server certificate for m2",
    );
}

fn drills(demo: &Demo) {
    let file = |member| demo.configuration(member).display().to_string();
    let refused = |arguments: &[&str], expected: &str| {
        let output = mainstay(&[&["drill"], arguments, &["--yes", "--config", &file("m1")]].concat());
        let said = stderr(&output);
        assert!(output.status.code() == Some(1) && said.contains(expected), "{arguments:?}: {said}");
    };
    wait_until("the cluster is whole", || is_whole(demo));
    refused(&["cut", "--member", "m1"], "run this on another member's machine");
    refused(
        &["cut", "--member", "m2", "--for", "2s"],
        "a cut that is over before the lease is shows nothing",
    );
    // The members of a demo share a machine.
    refused(&["cut", "--member", "m2"], "which is this machine: there is no network to cut");
    for arguments in [["kill", "--member", "m2"].as_slice(), &["freeze", "--member", "m3", "--for", "2s"]] {
        wait_until("the cluster is whole", || is_whole(demo));
        // m1 asks the other member, as on another machine, and measures.
        let more = ["--goal", "30s", "--yes", "--json", "--config", &file("m1")];
        let output = mainstay(&[&["drill"], arguments, &more].concat());
        let report = parse(&output);
        assert_eq!((output.status.code(), &report["lost"]), (Some(0), &Value::from(0)), "{report:#}");
        assert_eq!(
            (&report["member"], &report["primary"]),
            (&arguments[2].into(), &"m1".into()),
            "{report:#}"
        );
    }
    wait_until("the cluster is whole", || is_whole(demo));
    let unasked = mainstay(&["drill", "kill", "--config", &file("m1")]);
    assert!(stderr(&unasked).contains("that is not the cluster's name"), "{}", stderr(&unasked));
    assert_eq!(demo.status()["primary"], "m1");

    for fault in ["kill", "freeze", "switchover"] {
        wait_until("the cluster is whole", || is_whole(demo));
        let output = demo.run(&["drill", fault, "--goal", "30s", "--json"]);
        let report = parse(&output);
        assert_eq!(output.status.code(), Some(0), "{report:#}");
        assert_eq!((&report["lost"], &report["twice"]), (&Value::from(0), &Value::from(0)), "{report:#}");
        assert!(report["rows"].as_u64().is_some_and(|rows| rows > 20), "{report:#}");
        assert!(report["epoch"].as_u64() > report["epoch_before"].as_u64(), "{report:#}");
    }
    wait_until("the cluster is whole", || is_whole(demo));
    let goal = demo.run(&["drill", "switchover", "--goal", "1ms", "--json"]);
    assert_eq!(goal.status.code(), Some(1), "a goal that is missed: {}", stdout(&goal));
    wait_until("the cluster is whole", || is_whole(demo));
    let primary = demo.status()["primary"].as_str().expect("a primary").to_owned();
    let left = "SELECT count(*) FROM pg_class WHERE relname = 'mainstay_drill'";
    assert_eq!(psql(demo, &primary, "app", left), "0");
}

fn a_standby_that_is_stopped(demo: &Demo) {
    let primary = demo.status()["primary"].as_str().expect("a primary").to_owned();
    let standby = ["m2", "m3"].into_iter().find(|name| *name != primary).expect("a standby");
    assert!(demo.run(&["stop", standby]).status.success());
    wait_until("it is taken out of the sync set", || {
        demo.status()["members"]
            .as_array()
            .expect("members")
            .iter()
            .any(|row| row["name"] == standby && row["sync"] == false)
    });
    let result = verify(demo, &primary, "ports,sync,consensus,refused,write");
    assert_fails(&result, "ports", standby, "connection refused", "a firewall refuses: let");
    assert_fails(&result, "sync", standby, "does not stream", "see that its machine is up");
    assert_fails(&result, "consensus", standby, "does not hear this voter", "mainstay run");
    assert_fails(&result, "refused", standby, "no write can be tried", "is not heard");
    assert_eq!(lines(&result.1, "ok").iter().filter(|line| line["check"] == "write").count(), 1);
    let refused = demo.run(&["drill", "kill"]);
    assert!(stderr(&refused).contains("the cluster is not whole, so no drill now"), "{}", stderr(&refused));
}

fn without_a_majority(demo: &Demo) {
    let status = demo.status();
    let primary = status["primary"].as_str().expect("a primary").to_owned();
    assert!(demo.run(&["stop", &primary]).status.success());
    let members = status["members"].as_array().expect("members");
    let last = members.iter().find(|row| row["role"] == "standby").expect("one is left");
    let last = last["name"].as_str().expect("a name");
    let (code, report) = verify(demo, last, "");
    assert_eq!(code, Some(1));
    assert!(report["milliseconds"].as_u64().is_some_and(|ms| ms < 30_000), "{report:#}");
    assert!(lines(&report, "fail").iter().any(|line| line["check"] == "write" || line["check"] == "lease"));
}

/// What the control socket of m1 answers.
fn asked(demo: &Demo, path: &str) -> Value {
    let socket = std::os::unix::net::UnixStream::connect(demo.directory.join("m1/control.sock"));
    let (code, body) = exchange(socket.expect("connected"), &format!("GET {path}"), "");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// A minute is the shortest schedule, so this is waited for in minutes.
fn wait_for_a_run(demo: &Demo, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = std::time::Instant::now();
    loop {
        let status = demo.status();
        if holds(&status["verified"]) {
            return status["verified"].clone();
        }
        assert!(begun.elapsed().as_secs() < 240, "{what} has not happened within 240 s: {status:#}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

#[test]
fn the_primary_verifies_on_a_schedule_and_says_what_fails_and_when_all_is_well_again() {
    let demo = Demo::started("verify-every", 1);
    let file = demo.configuration("m1");
    let reload = |text: &str| {
        std::fs::write(&file, text).expect("written");
        let output = mainstay(&["reload", "--config", &file.display().to_string()]);
        assert!(stdout(&output).contains("verify.every"), "{}{}", stdout(&output), stderr(&output));
    };
    let metrics = || {
        let stream = std::net::TcpStream::connect(("127.0.0.1", demo.port_base + 41)).expect("connected");
        exchange(stream, "GET /metrics", "").1
    };
    let log = |part: &str| {
        let log = std::fs::read_to_string(demo.directory.join("m1/log/member.log")).expect("a log");
        log.lines().filter(|line| line.contains(part)).count()
    };
    // Whoever asks for a report and is gone gets none: its standard input has ended.
    let config = file.display().to_string();
    let unasked = mainstay(&["verify", "--json", "--ends-with-input", "--config", &config]);
    assert_eq!((unasked.status.code(), stdout(&unasked).as_str()), (Some(1), ""), "{}", stderr(&unasked));
    assert_eq!(asked(&demo, "/v1/verify"), serde_json::json!({ "every_ms": null, "last": null }));

    let key = demo.directory.join("m1/tls/member.key");
    let set = |mode| {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("the mode is set");
    };
    set(0o644);
    let text = std::fs::read_to_string(&file).expect("the configuration");
    reload(&format!("{text}\n[verify]\nevery = \"1m\"\n"));
    let failed = wait_for_a_run(&demo, "a run", Value::is_object);
    assert_eq!((&failed["ok"], &failed["failed"]), (&Value::Bool(false), &serde_json::json!(["files m1"])));
    let shown = stdout(&mainstay(&["status", "--config", &config]));
    assert!(shown.contains("1 failed (files m1); see: mainstay verify"), "{shown}");
    let answer = asked(&demo, "/v1/verify");
    assert_eq!((&answer["every_ms"], &answer["last"]["ok"]), (&Value::from(60_000), &Value::Bool(false)));
    assert!(lines(&answer["last"]["report"], "ok").len() > 5, "{answer:#}");
    assert_eq!(answer["last"]["failed"][0]["remedy"], format!("run: chmod go-rwx {}", key.display()));
    assert!(metrics().contains("\nmainstay_verify_ok 0\n"), "{}", metrics());
    assert!(metrics().contains("\nmainstay_verify_failed_checks 1\n"), "{}", metrics());

    set(0o600);
    wait_for_a_run(&demo, "a run without a failure", |verified| verified["ok"] == true);
    assert!(metrics().contains("\nmainstay_verify_ok 1\n"), "{}", metrics());
    assert_eq!((log("verify: files m1 fails: "), log("verify: every check is well again")), (1, 1));
    reload(&text);
    wait_until("nothing is shown any more", || demo.status()["verified"].is_null());
    assert!(!metrics().contains("mainstay_verify"), "{}", metrics());
}

/// What a drill starts beside a frozen process, for when the drill itself is killed.
#[test]
fn a_process_that_a_drill_has_frozen_goes_on_by_itself() {
    let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().expect("sleep, of coreutils");
    let pid = sleeper.id().to_string();
    let stat = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let rest = stat.rsplit_once(") ").expect("a name in parentheses").1.to_owned();
        rest.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    // SAFETY-free: it is this test's own child.
    let stopped = std::process::Command::new("kill").args(["-STOP", &pid]).status().expect("kill");
    assert!(stopped.success());
    wait_until("it stands still", || stat()[0] == "T");
    let started = stat()[19].clone();
    let another = mainstay(&["thaw", "--pid", &pid, "--started", "1", "--after-ms", "0"]);
    assert!(another.status.success() && stat()[0] == "T", "another process of that id is left alone");
    let thawed = mainstay(&["thaw", "--pid", &pid, "--started", &started, "--after-ms", "100"]);
    assert!(thawed.status.success());
    wait_until("it goes on", || stat()[0] == "S");
    sleeper.kill().expect("it ends");
    sleeper.wait().expect("it has ended");
}

#[test]
fn checks_are_listed_and_unknown_ones_are_a_wrong_argument() {
    let listed = mainstay(&["verify", "--list"]);
    assert!(listed.status.success() && stdout(&listed).contains("tls-clients"), "{}", stdout(&listed));
    let unknown = mainstay(&["verify", "--only", "tsl"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        stderr(&unknown).contains("there is no such check; there are: consensus"),
        "{}",
        stderr(&unknown)
    );
}
