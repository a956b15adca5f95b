//! PostgreSQL's certificate: another name, and another one while a session runs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Output, Stdio};

use super::{Demo, mainstay, stderr, stdout, wait_until};

/// psql by a name that no resolver knows, believing only the cluster's CA.
fn psql(demo: &Demo, name: &str) -> Command {
    let password = std::fs::read_to_string(demo.directory.join("m1/app.password")).expect("written");
    let mut command = Command::new("psql");
    let port = demo.port_base + 1;
    command.args(["-X", "-A", "-t", "-q", "-d"]).arg(format!("postgres://app@{name}:{port}/app"));
    command.env("PGPASSWORD", password.trim());
    command.env("PGHOSTADDR", "127.0.0.1").env("PGSSLMODE", "verify-full");
    command.env("PGSSLROOTCERT", demo.directory.join("m1/tls/ca.pem")).env("PGCONNECT_TIMEOUT", "10");
    command
}

fn connect(demo: &Demo, name: &str) -> Output {
    psql(demo, name).args(["-c", "SELECT pg_postmaster_start_time()"]).output().expect("psql runs")
}

fn certificates(demo: &Demo, verb: &str) -> serde_json::Value {
    let output = mainstay(&[
        "certificates",
        verb,
        "--json",
        "--config",
        &demo.configuration("m1").display().to_string(),
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What the members' port of m1 shows: the fingerprint of its key.
fn key_of_file(demo: &Demo) -> String {
    let pem = std::fs::read_to_string(demo.directory.join("m1/tls/member.key")).expect("a key");
    mainstay_net::KeyFingerprint::of_private_key_pem(&pem).expect("a key").to_string()
}

fn are_all_heard(demo: &Demo) -> bool {
    let status = demo.status();
    let rows = status["members"].as_array().expect("members").clone();
    let serves =
        |row: &serde_json::Value| row["role"] == "primary" || row["role"] == "standby" && row["sync"] == true;
    status["writable"] == true && rows.len() == 3 && rows.iter().all(serves)
}

#[test]
fn a_member_s_own_key_is_changed_while_it_is_the_primary_and_waits_for_everybody() {
    let demo = Demo::started("rotate-key", 3);
    let config = demo.configuration("m1").display().to_string();
    let rotate = || mainstay(&["certificates", "rotate-key", "--json", "--config", &config]);
    wait_until("the cluster is whole", || are_all_heard(&demo));
    let (first, epoch) = (key_of_file(&demo), demo.status()["epoch"].clone());
    let mut done = rotate();
    wait_until("every member reads the format", || {
        if !stderr(&done).contains("upgrade all members") {
            return true;
        }
        done = rotate();
        false
    });
    assert!(done.status.success(), "{}{}", stdout(&done), stderr(&done));
    let second = key_of_file(&demo);
    let told: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!((&told["shown"], &told["accepted"]), (&second.clone().into(), &vec![second.clone()].into()));
    assert_ne!(first, second);
    wait_until("all are heard by the new key", || are_all_heard(&demo));
    assert_eq!(demo.status()["epoch"], epoch, "nobody has failed over");

    // Somebody who is away would not know the new key when it comes back.
    assert!(demo.run(&["stop", "m3"]).status.success());
    let waits = rotate();
    assert!(stderr(&waits).contains("m3 did not say that its new key is known there"), "{}", stderr(&waits));
    assert_eq!(key_of_file(&demo), second, "the old key is shown as long");
    // The member is ended in the middle of it, and goes on where it was.
    for verb in ["stop", "start"] {
        let done = demo.run(&[verb, "m1"]);
        assert!(done.status.success(), "{}{}", stdout(&done), stderr(&done));
    }
    let started = demo.run(&["start", "m3"]);
    assert!(started.status.success(), "{}{}", stdout(&started), stderr(&started));
    wait_until("the third key is shown", || key_of_file(&demo) != second);
    wait_until("all are heard by the third key", || are_all_heard(&demo));
    let again = rotate();
    assert!(again.status.success(), "{}{}", stdout(&again), stderr(&again));
    assert!(!demo.directory.join("m1/tls/member.key.rotated").exists(), "no key lies about");
}

#[test]
fn a_new_name_and_a_forced_renewal_cost_no_session_and_no_failover() {
    let demo = Demo::started("certificates", 1);
    let refused = connect(&demo, "db.example.org");
    assert!(stderr(&refused).contains("does not match host name"), "{}", stderr(&refused));
    let shown = certificates(&demo, "show");
    assert_eq!(
        (&shown["has_authority_key"], &shown["certificates"][0]["renewal"]),
        (&true.into(), &().into())
    );

    let file = demo.configuration("m1");
    let text = std::fs::read_to_string(&file).expect("written");
    let named =
        text.replace("server_names = [\"localhost\"]", "server_names = [\"localhost\", \"db.example.org\"]");
    assert_ne!(text, named);
    std::fs::write(&file, named).expect("written");
    assert!(
        stdout(&mainstay(&["certificates", "show", "--config", &file.display().to_string()]))
            .contains("new: db.example.org")
    );
    for verb in ["stop", "start"] {
        let done = demo.run(&[verb, "m1"]);
        assert!(done.status.success(), "{}{}", stdout(&done), stderr(&done));
    }
    wait_until("the certificate has the new name", || connect(&demo, "db.example.org").status.success());

    let mut session = psql(&demo, "db.example.org")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("psql runs");
    let mut input = session.stdin.take().expect("piped");
    let mut answers = BufReader::new(session.stdout.take().expect("piped")).lines();
    let mut ask = |question: &str| {
        writeln!(input, "{question};").expect("psql reads");
        answers.next().expect("an answer").expect("text")
    };
    let backend = ask("SELECT pg_backend_pid()");
    let (started, epoch) = (stdout(&connect(&demo, "db.example.org")), demo.status()["epoch"].clone());
    let before = std::fs::read(demo.directory.join("m1/postgresql/server.crt")).expect("installed");
    let renewed = certificates(&demo, "renew");
    assert!(renewed["days_left"].as_u64().is_some_and(|days| days > 390), "{renewed}");
    let after = std::fs::read(demo.directory.join("m1/postgresql/server.crt")).expect("installed");
    assert_ne!(before, after);
    assert_eq!(ask("SELECT pg_backend_pid()"), backend, "the session goes on");
    assert_eq!(stdout(&connect(&demo, "db.example.org")), started, "PostgreSQL was not restarted");
    assert_eq!(demo.status()["epoch"], epoch, "nobody has failed over");
    drop(input);
    session.wait().expect("it ends with its input");

    // Without the key of the CA it says so.
    std::fs::remove_file(demo.directory.join("m1/tls/ca.key")).expect("there was one");
    let output = mainstay(&["certificates", "renew", "--config", &file.display().to_string()]);
    assert!(!output.status.success() && stderr(&output).contains("ca.key"), "{}", stderr(&output));
}
