//! Clients that replicate: walsenders of their own, beside all pools.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mainstay_sql::Settings;

use crate::postgres::{PROGRAMS, Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Failure, Wire, code, kinds, outcome};

fn walsender(proxy: &Proxy, kind: &str, name: &str) -> Wire {
    proxy.client_with(&[("replication", kind), ("application_name", name), ("options", "-c work_mem=5MB")])
}

#[test]
fn walsenders_are_what_they_are_without_a_proxy() {
    let proxy = Proxy::new();
    let mut other = proxy.client();
    // Nobody else needs the pool's only server less for it.
    other.ok("BEGIN");
    let mut logical = walsender(&proxy, "database", "logical one");
    let mut physical = walsender(&proxy, "yes", "physical one");
    assert_eq!(logical.one("SELECT 1"), "1");
    assert_eq!(physical.code("SELECT 1"), "0A000");
    let mut systems = Vec::new();
    for (client, name) in [(&mut logical, "logical one"), (&mut physical, "physical one")] {
        assert_eq!(client.one("SHOW application_name"), name);
        assert_eq!(client.one("SHOW work_mem"), "5MB");
        systems.push(client.table("IDENTIFY_SYSTEM").remove(0));
    }
    assert_eq!(systems[0]["systemid"], systems[1]["systemid"]);
    assert_eq!((&*systems[0]["dbname"], &*systems[1]["dbname"]), ("app", ""));
    let servers = proxy.boss("mainstay").table("SHOW SERVERS");
    let linked = servers.iter().filter(|server| server["link"] == logical.key.0.to_string());
    assert_eq!(linked.count(), 1);
    other.ok("COMMIT");
    assert_eq!(other.one("SHOW work_mem"), "4MB");
    // A request to cancel went nowhere.
    let mut admin = proxy.postgres.admin();
    logical.simple("SELECT pg_sleep(30)").send();
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'logical one' AND wait_event = 'PgSleep'";
    wait_for("it to sleep", || admin.one(sleeps) == "1");
    crate::cancelling::cancel(&proxy, logical.key.clone());
    assert_eq!(code(outcome(&logical.until_ready())), "57014");
    drop((logical, physical));
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%al one'";
    wait_for("them to go with their clients", || admin.one(left) == "0");
}

#[test]
fn who_may_not_replicate_is_told_by_postgresql() {
    let postgres = Postgres::shared();
    let proxy = Proxy::with(Arc::clone(&postgres), settings());
    postgres.admin().ok("CREATE ROLE plain LOGIN PASSWORD 'secret'");
    for kind in ["database", "true"] {
        let parameters = [("user", "plain"), ("database", "app"), ("replication", kind)];
        assert_eq!(code(proxy.try_connect(&parameters, "secret")), "42501", "{kind}");
    }
    let off = [("user", "plain"), ("database", "app"), ("replication", "off")];
    assert_eq!(proxy.try_connect(&off, "secret").unwrap().one("SELECT 1"), "1");
    drop(proxy);
    let mut admin = postgres.admin();
    wait_for("its sessions to end", || admin.query("DROP ROLE plain").is_ok());
}

/// It stayed with the connection of the former epoch, which is sent nothing any more.
#[test]
fn a_walsender_ends_with_the_route() {
    let proxy = Proxy::new();
    let mut client = walsender(&proxy, "database", "ended");
    client.ok("SELECT 1");
    proxy.lose_primary();
    let messages = client.until_ready();
    assert_eq!((kinds(&messages).as_str(), code(outcome(&messages))), ("E!", "57P01".to_owned()));
    proxy.member.primary(proxy.postgres.route("a"));
    let begin = || proxy.try_connect(&[("user", "app"), ("database", "app"), ("replication", "1")], "secret");
    wait_for("the primary of the next epoch", || begin().is_ok());
    // While all is to be quiet there it does not come in.
    let mut console = proxy.boss("mainstay");
    console.ok("PAUSE app");
    assert_eq!(code(begin()), "57P03");
    console.ok("RESUME app");
    assert!(begin().is_ok());
}

/// What is sent without end was taken for a query that takes too long.
#[test]
fn a_stream_has_no_limit_of_time_and_can_be_ended() {
    let short = Duration::from_millis(200);
    let limits = Settings { query_timeout: short, transaction_timeout: short, ..settings() };
    let proxy = Proxy::with(Postgres::shared(), limits);
    let mut client = walsender(&proxy, "true", "streams");
    let position = client.table("IDENTIFY_SYSTEM").remove(0)["xlogpos"].clone();
    client.simple(&format!("START_REPLICATION PHYSICAL {position}")).send();
    assert_eq!(client.next().unwrap().0, b'W');
    std::thread::sleep(3 * short);
    let mut console = proxy.boss("mainstay");
    let id = client.key.0.to_string();
    assert!(console.table("SHOW CLIENTS").iter().any(|client| client["id"] == id));
    console.ok(&format!("KILL_CLIENT {id}"));
    // What others have written is on its way; in the middle of that nothing can be said.
    let told = std::iter::from_fn(|| client.next().ok()).find(|(kind, _)| *kind == b'E');
    assert!(told.is_none_or(|(_, body)| Failure::of(&body).text.contains("an administrator")));
}

fn conninfo(proxy: &Proxy) -> String {
    format!("host=127.0.0.1 port={} user=app dbname=app", proxy.port)
}

fn program(name: &str, proxy: &Proxy) -> Command {
    let mut command = Command::new(Path::new(PROGRAMS).join(name));
    command.arg("--dbname").arg(conninfo(proxy)).env("PGPASSWORD", "secret").env("LC_ALL", "C");
    command.stdin(Stdio::null());
    command
}

#[test]
fn a_base_backup_and_its_wal_come_through() {
    let proxy = Proxy::new();
    let (backup, wal) = (proxy.scratch.0.join("backup"), proxy.scratch.0.join("wal"));
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(program("pg_basebackup", &proxy).args(["--checkpoint=fast", "--no-sync", "--pgdata"]).arg(&backup));
    assert!(backup.join("PG_VERSION").exists());
    std::fs::create_dir(&wal).unwrap();
    let position = proxy.postgres.admin().one("SELECT pg_current_wal_flush_lsn()");
    run(program("pg_receivewal", &proxy)
        .args(["--no-loop", "--no-sync", "--endpos", &position, "--directory"])
        .arg(&wal));
    assert_eq!(std::fs::read_dir(&wal).unwrap().count(), 1);
}

#[test]
fn changes_come_through_to_a_program_and_a_subscriber() {
    let proxy = Proxy::with(Arc::new(Postgres::new()), settings());
    let mut source = proxy.postgres.admin_of("app").unwrap();
    source.ok("CREATE TABLE followed (n int PRIMARY KEY); GRANT SELECT ON followed TO app");
    source.ok("CREATE PUBLICATION all_of_it FOR TABLE followed");
    source.ok("SELECT pg_create_logical_replication_slot('subscriber', 'pgoutput')");
    source.ok("INSERT INTO followed VALUES (1)");
    let mut child = program("pg_recvlogical", &proxy)
        .args([
            "--slot=program",
            "--create-slot",
            "--start",
            "--plugin=test_decoding",
            "--no-loop",
            "--file=-",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let is_active = "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = 'program'";
    wait_for("the program to listen", || source.one(is_active) == "1");
    source.ok("CREATE DATABASE copy");
    let mut copy = proxy.postgres.admin_of("copy").unwrap();
    copy.ok("CREATE TABLE followed (n int PRIMARY KEY)");
    copy.ok(&format!(
        "CREATE SUBSCRIPTION of_all CONNECTION '{} password=secret' PUBLICATION all_of_it \
         WITH (slot_name = subscriber, create_slot = false)",
        conninfo(&proxy)
    ));
    wait_for("what was there", || copy.one("SELECT count(*) FROM followed") == "1");
    source.ok("INSERT INTO followed VALUES (2)");
    wait_for("what has changed", || copy.one("SELECT count(*) FROM followed") == "2");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let change = lines.map_while(Result::ok).find(|line| line.contains("followed"));
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(change.as_deref(), Some("table public.followed: INSERT: n[integer]:2"));
}
