//! A server that somebody has had for years becomes the first member of a cluster, with its rows, and another copies it.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use mainstay_core::MemberId;
use mainstay_net::KeyFingerprint;
use mainstay_net::pki::{self, ClusterCa};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use super::{mainstay, stderr, stdout, wait_until};

const MEMBERS: [&str; 2] = ["m1", "m2"];

/// An old server and the members that are to come, gone when the test is over.
pub(super) struct Site {
    directory: PathBuf,
    ports: Vec<u16>,
    members: Vec<Child>,
}

impl Site {
    fn new() -> Site {
        let directory = Path::new("/var/tmp").join(format!("mainstay-adopt-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("made");
        // Below the ephemeral ports, and apart from the demos of the other tests.
        let free = |port: &u16| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).is_ok();
        let first = 25_000 + u16::try_from(std::process::id() % 5_000).expect("small");
        let site = Site { directory, ports: (first..).filter(free).take(7).collect(), members: Vec::new() };
        site.make_old();
        site
    }

    fn old(&self) -> PathBuf {
        self.directory.join("old")
    }

    pub(super) fn as_postgres(program: &str) -> Command {
        let bin = Path::new("/usr/lib/postgresql/15/bin").join(program);
        let mut command = Command::new(bin);
        if let Some(user) = User::from_name("postgres").ok().flatten().filter(|_| geteuid().is_root()) {
            use std::os::unix::process::CommandExt;
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    fn make_old(&self) {
        let data = self.old();
        std::fs::create_dir(&data).expect("made");
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("its own");
        if let Some(user) = User::from_name("postgres").ok().flatten().filter(|_| geteuid().is_root()) {
            chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may");
        }
        let made = Site::as_postgres("initdb").arg("-D").arg(&data).args(["-A", "trust", "-N"]).output();
        assert!(made.expect("initdb runs").status.success());
        let settings = format!(
            "\nport = {}\nlisten_addresses = ''\nunix_socket_directories = '{}'\nwork_mem = '5MB'\nmax_connections = 60\n",
            self.ports[0],
            data.display()
        );
        let file = data.join("postgresql.conf");
        let text = std::fs::read_to_string(&file).expect("made by initdb") + &settings;
        std::fs::write(&file, text).expect("written");
        self.pg_ctl("start");
        self.sql("CREATE TABLE treasure AS SELECT generate_series(1, 1000) AS n");
    }

    fn pg_ctl(&self, verb: &str) -> bool {
        let log = self.old().join("old.log");
        let mut command = Site::as_postgres("pg_ctl");
        command.arg(verb).arg("-D").arg(self.old()).args(["-w", "-s", "-m", "fast"]);
        if verb == "start" {
            command = Site::as_postgres("pg_ctl");
            command.arg("start").arg("-D").arg(self.old()).args(["-w", "-s", "-l"]).arg(log);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("pg_ctl runs").success()
    }

    fn sql(&self, statement: &str) {
        let mut command = Site::as_postgres("psql");
        command.args(["-X", "-q", "-d", "postgres", "-h"]).arg(self.old());
        command.args(["-p", &self.ports[0].to_string(), "-c", statement]);
        assert!(command.status().expect("psql runs").success());
    }

    fn member(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn file(&self, name: &str) -> String {
        self.member(name).join("mainstay.toml").display().to_string()
    }

    /// Keys, passwords and configuration of both members; `first` is the table `[postgresql]` of the first.
    fn write_members(&self, first: &str) {
        let ca = ClusterCa::create("adopted").expect("made");
        let mut tables = String::new();
        for (place, name) in MEMBERS.iter().enumerate() {
            let tls = self.member(name).join("tls");
            std::fs::create_dir_all(&tls).expect("made");
            let own = ca.issue_member(&MemberId::new(name).expect("a name")).expect("issued");
            let server =
                ca.issue_postgres_server(&[*name, "127.0.0.1"], pki::SERVER_LIFETIME).expect("issued");
            pki::write_certificate(&tls.join("ca.pem"), ca.certificate_pem()).expect("written");
            pki::write_certificate(&tls.join("member.pem"), &own.certificate_pem).expect("written");
            pki::write_private_key(&tls.join("member.key"), &own.key_pem).expect("written");
            pki::write_certificate(&tls.join("server.pem"), &server.certificate_pem).expect("written");
            pki::write_private_key(&tls.join("server.key"), &server.key_pem).expect("written");
            for secret in ["replication", "shop"] {
                let password = self.member(name).join(format!("{secret}.password"));
                let mut file = std::fs::OpenOptions::new();
                let mut file = file.write(true).create_new(true).mode(0o600).open(password).expect("new");
                writeln!(file, "{secret}").expect("written");
            }
            let key = KeyFingerprint::of_certificate_pem(&own.certificate_pem).expect("its own");
            let port = |what: usize| self.ports[1 + 3 * place + what];
            tables += &format!(
                "\n[members.{name}]\naddress = \"127.0.0.1:{}\"\npostgres = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\nkey = \"{key}\"\n",
                port(0),
                port(1),
                port(2)
            );
        }
        let second = "[postgresql.parameters]\nmax_connections = 60\n";
        let database = "\n[[database]]\nname = \"shop\"\npassword_file = \"shop.password\"\n";
        for (name, table) in MEMBERS.iter().zip([first, second]) {
            let text = format!("cluster = \"adopted\"\nmember = \"{name}\"\n\n{table}{tables}{database}");
            std::fs::write(self.file(name), text).expect("written");
        }
    }

    fn run(&mut self, name: &str) {
        let log = std::fs::File::create(self.member(name).join("member.log")).expect("made");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(["run", "--config", &self.file(name)]).stdin(Stdio::null()).stderr(log);
        self.members.push(command.spawn().expect("it runs"));
    }

    fn create(&self, arguments: &[&str]) -> Output {
        let file = self.file("m1");
        mainstay(&[&["create", "--config", &file], arguments].concat())
    }

    /// What the application of `[[database]]` reads on a member, by TCP.
    fn application(&self, name: &str, sslmode: &str) -> Output {
        let place = MEMBERS.iter().position(|member| *member == name).expect("a member");
        let authority = self.member(name).join("tls/ca.pem");
        let target = format!(
            "host={name} hostaddr=127.0.0.1 port={} user=shop dbname=shop sslmode={sslmode} sslrootcert={}",
            self.ports[2 + 3 * place],
            authority.display()
        );
        let mut command = Command::new("psql");
        command.args([
            "-X",
            "-A",
            "-t",
            "-w",
            "-d",
            &target,
            "-c",
            "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        ]);
        command.env("PGPASSWORD", "shop").output().expect("psql runs")
    }

    /// What a superuser reads on a member's own server, if it lets us in.
    fn read(&self, name: &str, query: &str) -> Option<String> {
        let place = MEMBERS.iter().position(|member| *member == name).expect("a member");
        let mut command = Command::new("psql");
        command.args(["-X", "-A", "-t", "-U", "mainstay", "-d", "postgres", "-h"]);
        command.arg(self.member(name).join("run")).args(["-p", &self.ports[2 + 3 * place].to_string()]);
        let output = command.args(["-c", query]).output().expect("psql runs");
        output.status.success().then(|| stdout(&output).trim().to_owned())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for member in self.members.iter_mut().rev() {
            let _ = kill(Pid::from_raw(member.id().cast_signed()), Signal::SIGTERM);
            let _ = member.wait();
        }
        // Only if the adoption has not come so far.
        self.pg_ctl("stop");
        if std::thread::panicking() {
            for name in MEMBERS {
                let log = std::fs::read_to_string(self.member(name).join("member.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(30)..].join("\n");
                let _ = writeln!(std::io::stderr(), "{name}:\n{last}");
            }
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn a_running_server_becomes_the_first_member_and_is_copied() {
    let mut site = Site::new();
    let head = format!("[postgresql]\ndata_directory = {:?}\n", site.old());
    site.write_members(&head);

    // The report names what the configuration lacks, and prints it ready to be written.
    let lacking = site.create(&["--adopt"]);
    let said = stderr(&lacking);
    assert!(!lacking.status.success() && said.contains("work_mem = \"5MB\""), "{said}");
    let lines =
        said.split_once("[postgresql]").map(|(_, rest)| rest.trim_end().to_owned()).expect("the table");
    let text = std::fs::read_to_string(site.file("m1")).expect("written");
    std::fs::write(site.file("m1"), text.replacen(&head, &format!("[postgresql]{lines}\n"), 1))
        .expect("written");
    let asked = site.create(&["--adopt"]);
    assert!(stderr(&asked).contains("--yes"), "{}", stderr(&asked));
    assert!(stdout(&asked).contains("is restarted once"), "{}", stdout(&asked));
    site.sql("INSERT INTO treasure VALUES (1001)");

    let adopted = site.create(&["--adopt", "--yes", "--json"]);
    assert!(adopted.status.success(), "{}{}", stdout(&adopted), stderr(&adopted));
    let report: serde_json::Value = serde_json::from_slice(&adopted.stdout).expect("JSON");
    assert_eq!(report["carried"]["parameters"]["max_connections"], "60");
    let other = mainstay(&["create", "--config", &site.file("m2")]);
    assert!(other.status.success(), "{}", stderr(&other));
    site.run("m1");
    site.run("m2");

    const COUNT: &str = "SELECT count(*), pg_is_in_recovery() FROM treasure";
    wait_until("m1 is the primary, with its rows", || site.read("m1", COUNT).as_deref() == Some("1001|f"));
    wait_until("m2 has a copy", || site.read("m2", COUNT).as_deref() == Some("1001|t"));
    wait_until("the application's database is made", || {
        stdout(&site.application("m1", "verify-full")).trim() == "t"
    });
    wait_until("it is on the standby", || site.application("m2", "verify-full").status.success());
    // The old server let everybody in from here, and so does m1 still; m2 has the lines of the database alone.
    let plain = site.application("m2", "disable");
    assert!(stderr(&plain).contains("no encryption"), "{}{}", stdout(&plain), stderr(&plain));
    assert_eq!(site.read("m1", "SHOW work_mem").as_deref(), Some("5MB"));
    wait_until("m2's copy is synchronous", || {
        let names = site.read("m1", "SHOW synchronous_standby_names");
        names.is_some_and(|names| names.contains("ms_m2_"))
    });
}
