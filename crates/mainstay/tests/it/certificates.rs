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
