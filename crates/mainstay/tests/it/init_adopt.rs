//! `init --adopt`: a cluster is founded on a server with data, the command may die on the way, and a second machine joins.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::{User, geteuid};
use serde_json::Value;

use super::adopt::Site;
use super::machines::{Machines, succeeded, text};
use super::{stderr, stdout, wait_until};

/// A server that somebody has had for years, stopped at the end.
struct Old {
    data: PathBuf,
    port: u16,
}

impl Old {
    fn start(machines: &Machines) -> Old {
        let old =
            Old { data: machines.directory.join("old"), port: 24_000 + (std::process::id() % 900) as u16 };
        std::fs::create_dir(&old.data).expect("made");
        std::fs::set_permissions(&old.data, std::fs::Permissions::from_mode(0o700)).expect("its own");
        if let Some(user) = User::from_name("postgres").ok().flatten().filter(|_| geteuid().is_root()) {
            chown(&old.data, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may");
        }
        let made = Site::as_postgres("initdb").arg("-D").arg(&old.data).args(["-A", "trust", "-N"]).output();
        assert!(made.expect("initdb runs").status.success());
        let settings = format!(
            "\nport = {}\nlisten_addresses = ''\nunix_socket_directories = '{}'\nwork_mem = '5MB'\n\
             max_connections = 60\nshared_buffers = 24MB\n",
            old.port,
            old.data.display()
        );
        let file = old.data.join("postgresql.conf");
        let text = std::fs::read_to_string(&file).expect("made by initdb") + &settings;
        std::fs::write(&file, text).expect("written");
        let mut start = Site::as_postgres("pg_ctl");
        start.arg("start").arg("-D").arg(&old.data).args(["-w", "-s", "-l"]).arg(old.data.join("old.log"));
        assert!(start.stdout(Stdio::null()).status().expect("pg_ctl runs").success());
        old.sql("CREATE TABLE treasure AS SELECT generate_series(1, 1000) AS n");
        // It stands in postgresql.auto.conf, which an adoption empties.
        old.sql("ALTER SYSTEM SET log_min_duration_statement = '77s'");
        old
    }

    fn sql(&self, statement: &str) {
        let mut command = Site::as_postgres("psql");
        command.args(["-X", "-q", "-d", "postgres", "-h"]).arg(&self.data);
        command.args(["-p", &self.port.to_string(), "-c", statement]);
        assert!(command.status().expect("psql runs").success());
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        // Only if the adoption has not come so far.
        let mut stop = Site::as_postgres("pg_ctl");
        stop.arg("stop").arg("-D").arg(&self.data).args(["-w", "-s", "-m", "fast"]);
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn read(machines: &Machines, member: &str, port: u16, query: &str) -> Option<String> {
    let mut command = Command::new("psql");
    command.args([
        "-XAt",
        "-U",
        "mainstay",
        "-d",
        "postgres",
        "-h",
        &format!("{}/run", machines.home(member)),
    ]);
    let output = command.args(["-p", &port.to_string(), "-c", query]).output().expect("psql runs");
    output.status.success().then(|| stdout(&output).trim().to_owned())
}

/// Whether a program that changes the data directory still runs.
fn has_children(arguments: &[&str]) -> bool {
    let data = arguments.iter().find(|word| word.ends_with("/old")).expect("the data directory");
    let processes = std::fs::read_dir("/proc").expect("there").flatten();
    processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok()).any(|text| {
        let text = String::from_utf8_lossy(&text).replace('\0', " ");
        text.contains(data) && ["pg_ctl", "--single"].iter().any(|program| text.contains(program))
    })
}

/// Killed in the middle, again and again, until one has come to its end.
fn adopt_with_interruptions(machines: &Machines, arguments: &[&str]) {
    for delay_ms in [40, 150, 400, 900, 1_600] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mainstay"))
            .args(arguments)
            .args(["--config", &machines.config("m1")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("it runs");
        // How far it gets is left to chance: wherever it dies, the next one goes on.
        std::thread::sleep(Duration::from_millis(delay_ms));
        let _ = child.kill();
        child.wait().expect("it has ended");
        // Nobody would type faster than what it has begun comes to its end.
        wait_until("its children have ended", || !has_children(arguments));
        if Path::new(&machines.config("m1")).exists() {
            return;
        }
    }
    let made = machines.json("m1", arguments);
    assert!(made["adopted"]["data"].is_string(), "{made}");
}

#[test]
fn a_cluster_is_founded_on_a_server_with_data_and_a_second_machine_joins() {
    let mut machines = Machines::new("found");
    let old = Old::start(&machines);
    let (home, address, data) = (machines.home("m1"), machines.address(1), old.data.display().to_string());
    let init = ["init", "--json", "--cluster", "old", "--directory", &home, "--address", &address, "--adopt"];
    let nowhere = machines.on("m1", &[&init[..], &["/nonexistent", "--yes"]].concat());
    assert!(stderr(&nowhere).contains("/nonexistent is no directory"), "{}", stderr(&nowhere));
    let asked = machines.on("m1", &[&init[..], &[&data]].concat());
    assert!(!asked.status.success() && stderr(&asked).contains("PostgreSQL is stopped now"), "{asked:?}");
    assert!(!Path::new(&home).exists(), "nothing is changed without a word");
    let told = machines.on("m1", &["init", "--directory", &home, "--address", &address, "--adopt", &data]);
    let report = stdout(&told);
    for part in
        ["is restarted once", &format!("listens on {address}:{} alone", old.port), "stays stopped until"]
    {
        assert!(report.contains(part), "{part}: {report}");
    }
    old.sql("INSERT INTO treasure VALUES (1001)");

    adopt_with_interruptions(&machines, &[&init[..], &[&data, "--yes"]].concat());
    let again = machines.on("m1", &[&init[..], &[&data, "--yes"]].concat());
    assert!(stderr(&again).contains("exists already"), "{}", stderr(&again));
    machines.run("m1");
    const COUNT: &str = "SELECT count(*), pg_is_in_recovery() FROM treasure";
    wait_until("m1 is the primary, with its rows", || {
        read(&machines, "m1", old.port, COUNT).as_deref() == Some("1001|f")
    });
    let shows = |member: &str, port: u16, name: &str| {
        read(&machines, member, port, &format!("SHOW {name}")).unwrap_or_default()
    };
    for (name, value) in
        [("work_mem", "5MB"), ("shared_buffers", "24MB"), ("log_min_duration_statement", "77s")]
    {
        assert_eq!(shows("m1", old.port, name), value, "{name}");
    }
    wait_until("its configuration is the record's first", || {
        let history = machines.json("m1", &["config", "history", "--json"]);
        history[0]["by"] == "init at m1" && history[0]["set"]["shared"]["work_mem"] == "5MB"
    });
    let grant = "SELECT pg_has_role('mainstay_replication', 'pg_read_all_stats', 'MEMBER')";
    assert_eq!(read(&machines, "m1", old.port, grant).as_deref(), Some("t"));

    let invited: Value = machines.json("m1", &["member", "invite", "--json"]);
    succeeded(&machines.join("m2", 2, &text(&invited["join"]), &["--no-tune"]));
    machines.run("m2");
    wait_until("m2 has a copy", || read(&machines, "m2", 5432, COUNT).as_deref() == Some("1001|t"));
    let shows = |name: &str| read(&machines, "m2", 5432, &format!("SHOW {name}")).unwrap_or_default();
    // What is the cluster's is the same there; what belongs to the first machine is not.
    assert_eq!((shows("work_mem").as_str(), shows("max_connections").as_str()), ("5MB", "60"));
    assert_eq!(shows("shared_buffers"), "128MB");
    wait_until("m2's copy is synchronous, and nothing waits for a restart", || {
        let members = machines.members("m1");
        members.len() == 2
            && members.iter().all(|row| row["pending_restart"].as_array().is_some_and(Vec::is_empty))
            && members.iter().any(|row| row["name"] == "m2" && row["sync"] == true)
    });
}
