//! A file that PgBouncer itself takes becomes a table that Mainstay takes, and both mean the same.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{mainstay, stderr, stdout, wait_until};

const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// A directory that is removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("mainstay-import-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("open to PgBouncer");
        Place(path)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
        path.display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// PgBouncer, ended at the end.
struct Bouncer(Child);

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Started in the directory of its file, as its service does.
fn start(file: &str, port: u16) -> Bouncer {
    let mut command = Command::new(PGBOUNCER);
    // Root it does not want to be.
    if stdout_of("id", &["-u"]).trim() == "0" {
        command.args(["-u", "postgres"]);
    }
    command.arg(file).current_dir(Path::new(file).parent().expect("a directory"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let bouncer = Bouncer(command.spawn().expect("PgBouncer can be run"));
    wait_until("PgBouncer listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    bouncer
}

fn stdout_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("it can be run");
    assert!(output.status.success(), "{program} {arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// A command of its console: the first column, and all of each row.
fn show(port: u16, what: &str) -> BTreeMap<String, Vec<String>> {
    let url = format!("host=127.0.0.1 port={port} user=boss dbname=pgbouncer");
    let text = stdout_of("psql", &["-X", "-A", "-t", "-F", "|", &url, "-c", &format!("SHOW {what}")]);
    let rows = text.lines().map(|line| line.split('|').map(str::to_owned).collect::<Vec<_>>());
    rows.map(|row| (row[0].clone(), row)).collect()
}

/// A whole file of a member, with the imported table in it.
fn member(place: &Place, table: &str) -> String {
    place.write("replication.password", "secret-of-the-test\n", 0o600);
    let key = "1".repeat(64);
    let members = format!(
        "cluster = \"site\"\nmember = \"m1\"\n\n{table}\n[members.m1]\naddress = \"127.0.0.1:7400\"\n\
         postgres = \"127.0.0.1:5432\"\nhttp = \"127.0.0.1:7480\"\nkey = \"sha256:{key}\"\n"
    );
    place.write("mainstay.toml", &members, 0o600)
}

#[test]
fn what_pgbouncer_takes_becomes_a_table_that_means_the_same() {
    // The tests need no PgBouncer; without one there is nothing to compare with.
    if !Path::new(PGBOUNCER).exists() {
        return;
    }
    let place = Place::new("bouncer");
    let port =
        TcpListener::bind(("127.0.0.1", 0)).and_then(|taken| taken.local_addr()).expect("a port").port();
    place.write("users.txt", "\"app\" \"hunter2\"\n\"boss\" \"\"\n", 0o644);
    place.write("limits.ini", "max_client_conn = 321\n; of the queue\nquery_wait_timeout = 17\n", 0o644);
    let file = place.write(
        "pgbouncer.ini",
        &format!(
            "[databases]\nshop = host=127.0.0.1 port=1 dbname=shop\nweb-shop = host=127.0.0.1 dbname='other db' password='hunter2'\n\
             \n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
             auth_file = users.txt\nadmin_users = boss\npool_mode = transaction\ndefault_pool_size = 7\n\
             %include limits.ini\nserver_idle_timeout = 55\nserver_lifetime = 1800\nidle_transaction_timeout = 0.5\n\
             server_reset_query = DISCARD ALL\nignore_startup_parameters = extra_float_digits\n\
             application_name_add_host = 1\ntcp_keepalive = 1\n"
        ),
        0o644,
    );
    let _bouncer = start(&file, port);
    let (config, databases) = (show(port, "CONFIG"), show(port, "DATABASES"));
    assert!(databases.contains_key("web-shop"), "{databases:?}");

    let table = place.0.join("sql-proxy.toml");
    let words = ["config", "import", "pgbouncer", &file, "--json", "--output", &table.display().to_string()];
    let output = mainstay(&words);
    assert!(output.status.success(), "{}", stderr(&output));
    let answer: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let toml = answer["toml"].as_str().expect("the table");
    assert_eq!(std::fs::read_to_string(&table).expect("written"), toml);
    assert!(!answer.to_string().contains("hunter2"), "a password is shown: {answer}");
    for (key, quoted) in [
        ("pool_mode", "\"V\""),
        ("default_pool_size", "V"),
        ("max_client_conn", "V"),
        ("query_wait_timeout", "\"Vs\""),
        ("server_idle_timeout", "\"Vs\""),
        ("server_lifetime", "\"Vs\""),
    ] {
        let line = format!("{key} = {}\n", quoted.replace('V', &config[key][1]));
        assert!(toml.contains(&line), "{line:?} is not in\n{toml}");
    }
    assert!(
        toml.contains("idle_transaction_timeout = \"500ms\"")
            && toml.contains(&format!("127.0.0.1:{port}\""))
    );
    let notes: Vec<&str> = answer["not_carried_over"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|note| note["setting"].as_str())
        .collect();
    for note in ["web-shop: dbname=other db", "web-shop: password", "auth_type = trust", "tcp_keepalive = 1"]
    {
        assert!(notes.contains(&note), "{note} is not in {notes:?}");
    }

    let checked = mainstay(&["config", "check", &member(&place, toml)]);
    assert!(checked.status.success(), "{}{}", stdout(&checked), stderr(&checked));
    // Together with what is said behind it, it is still a file.
    let printed = stdout(&mainstay(&["config", "import", "pgbouncer", &file]));
    let checked = mainstay(&["config", "check", &member(&place, &printed)]);
    assert!(checked.status.success(), "{}\n{printed}", stderr(&checked));
    let again = mainstay(&words);
    assert!(stderr(&again).contains("name a file that is not there yet"), "{}", stderr(&again));
}

#[test]
fn what_pgbouncer_would_not_take_is_refused_in_one_line() {
    let place = Place::new("bad");
    let file = place.write("pgbouncer.ini", "[pgbouncer]\nmax_client_conn = many\n", 0o644);
    let output = mainstay(&["config", "import", "pgbouncer", &file]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    assert!(stderr(&output).contains("pgbouncer.ini:2: max_client_conn \"many\" is no whole number"));
    assert_eq!(stderr(&output).trim_end().lines().count(), 1);
}
