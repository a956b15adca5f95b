//! Servers that were there before Mainstay, with a set-up of their own, and what becomes of them.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mainstay_postgres::adopt::{
    AdoptError, Adopted, Consent, Examination, ExamineOptions, Severity, TakeOver, adopted_dir, examine,
    take_over,
};
use mainstay_postgres::directory::DirectoryState;
use mainstay_postgres::hba::{self, Gate};
use mainstay_postgres::layout::Layout;
use mainstay_postgres::tools::Tools;
use nix::unistd::geteuid;
use tokio_postgres::{Client, NoTls};

use crate::server::{LONG, Member, Postmaster, REPLICATION_PASSWORD, World, free_port};

const EVERYTHING: Consent = Consent { stop: true, disable_start: true };

/// A cluster in Debian's layout below a directory of the test's.
struct Old {
    tools: Tools,
    etc: PathBuf,
    configuration: PathBuf,
    data: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    port: u16,
    postmaster: Option<Postmaster>,
}

impl Old {
    async fn new(world: &World) -> Old {
        let member = world.member("probe").await;
        let uid = member.layout.server_uid();
        let directory = |name: &str, mode: u32| {
            let path = world.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            chown(&path, Some(uid), None).unwrap();
            path
        };
        let (data, socket) = (directory("old", 0o700), directory("sock", 0o755));
        let configuration = directory("etc/15/main", 0o755);
        let etc = world.path().join("etc");
        directory("etc/15/main/conf.d", 0o755);
        let user = if geteuid().is_root() { "postgres".to_owned() } else { whoami() };
        let mut command = member.tools.command("initdb", Path::new("/"));
        command.arg("-D").arg(&data).args(["-U", &user, "-E", "UTF8", "--locale=C", "--auth=trust", "-N"]);
        let made = command.output().await.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for name in ["pg_hba.conf", "pg_ident.conf", "postgresql.conf"] {
            std::fs::rename(data.join(name), configuration.join(name)).unwrap();
        }
        let port = free_port();
        let text = format!(
            "data_directory = '{}'\nhba_file = '{}'\nlisten_addresses = ''\nport = {port}\n\
             unix_socket_directories = '{}'\nfsync = on\nfull_page_writes = true\nwal_log_hints = off\n\
             cluster_name = '15/main'\nwork_mem = '6MB' # ours\nmax_connections = 42\nmax_wal_senders = 0\n\
             wal_level = minimal\nshared_buffers = 16MB\nautovacuum = off\ninclude_dir = 'conf.d'\n",
            data.display(),
            configuration.join("pg_hba.conf").display(),
            socket.display()
        );
        std::fs::write(configuration.join("postgresql.conf"), text).unwrap();
        std::fs::write(
            configuration.join("conf.d/10-site.conf"),
            "work_mem = 7MB\nlog_min_duration_statement=250\n",
        )
        .unwrap();
        std::fs::write(configuration.join("start.conf"), "# as Debian has it\nauto\n").unwrap();
        let hba = "# who gets in\nlocal  all  all  trust\n\
                   host  app, \"odd db\"  app \\\n  10.0.0.0/8  scram-sha-256 # the application\n\
                   host all all 127.0.0.1/32 trust\nlocal all all peer map=site\n";
        std::fs::write(configuration.join("pg_hba.conf"), hba).unwrap();
        let log = world.path().join("sock/old.log");
        Old { tools: member.tools.clone(), etc, configuration, data, socket, log, port, postmaster: None }
    }

    async fn start(&mut self) -> Client {
        let file = self.configuration.join("postgresql.conf");
        self.postmaster = Some(Postmaster::start_in(&self.tools, &self.data, &file, &self.log));
        let deadline = Instant::now() + LONG;
        loop {
            match self.sql().await {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn sql(&self) -> Result<Client, tokio_postgres::Error> {
        let user = if geteuid().is_root() { "postgres".to_owned() } else { whoami() };
        let mut configuration = tokio_postgres::Config::new();
        configuration.host_path(&self.socket).port(self.port).user(&user).dbname("postgres");
        let (client, connection) = configuration.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn stop(&mut self) {
        let mut command = self.tools.command("pg_ctl", Path::new("/"));
        command.arg("stop").arg("-D").arg(&self.data).args(["-m", "fast", "-w"]);
        assert!(command.output().await.unwrap().status.success());
        self.postmaster = None;
    }

    async fn examine(&self, root: &Path) -> Examination {
        let options =
            ExamineOptions { data: &self.data, root, bin_dir: None, user: None, debian_root: &self.etc };
        examine(&options).await.unwrap()
    }

    /// The member that is to have the data.
    async fn member(&self, world: &World, seen: &Examination) -> Member {
        let base = world.member("m1").await;
        let layout =
            Layout::new(base.layout.root(), Some(&self.data), None, base.layout.run_as().cloned()).unwrap();
        let mut settings = base.settings.clone();
        settings.parameters = seen.carried.parameters.clone();
        Member { id: base.id.clone(), tools: base.tools.clone(), layout, settings, postmaster: None }
    }

    async fn take_over(&self, member: &Member, consent: Consent) -> Result<Adopted, AdoptError> {
        let order = TakeOver {
            tools: &member.tools,
            layout: &member.layout,
            settings: &member.settings,
            hba: &[],
            replication_password: REPLICATION_PASSWORD,
            consent,
            debian_root: &self.etc,
        };
        take_over(&order).await
    }
}

fn whoami() -> String {
    nix::unistd::User::from_uid(geteuid()).unwrap().unwrap().name
}

fn finding<'a>(seen: &'a Examination, subject: &str) -> &'a str {
    let found = seen.findings.iter().find(|finding| finding.subject == subject);
    &found.unwrap_or_else(|| panic!("no finding about {subject}: {:#?}", seen.findings)).message
}

fn obstacle<'a>(seen: &'a Examination, subject: &str) -> &'a str {
    let found = seen.obstacles().find(|finding| finding.subject == subject);
    &found.unwrap_or_else(|| panic!("no obstacle about {subject}: {:#?}", seen.findings)).message
}

/// CREATE TABLESPACE wants a directory of the server's user.
fn tablespace(world: &World, old: &Old) -> PathBuf {
    let path = world.path().join("space");
    std::fs::create_dir(&path).unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&old.data).unwrap());
    chown(&path, Some(uid), None).unwrap();
    path
}

/// What the report says of the server that the first test adopts.
fn check_report(seen: &Examination, old: &Old, space: &Path) {
    assert!(seen.is_adoptable(), "{:#?}", seen.findings);
    let wanted = [
        ("autovacuum", "off"),
        ("log_min_duration_statement", "250"),
        ("max_connections", "42"),
        ("shared_buffers", "16MB"),
        ("statement_timeout", "33s"),
        ("work_mem", "7MB"),
    ];
    let wanted: BTreeMap<String, String> =
        wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(seen.carried.parameters, wanted);
    let left: Vec<&str> = seen.carried.parameters_left.iter().map(|left| left.text.as_str()).collect();
    assert_eq!(
        left,
        [
            "wal_log_hints = \"off\"",
            "cluster_name = \"15/main\"",
            "max_wal_senders = \"0\"",
            "wal_level = \"minimal\""
        ]
    );
    assert_eq!(
        seen.carried.hba,
        [
            "local all all trust",
            "host app,\"odd db\" app 10.0.0.0/8 scram-sha-256",
            "host all all 127.0.0.1/32 trust"
        ]
    );
    assert!(seen.carried.hba_left[0].reason.contains("pg_ident.conf"), "{:?}", seen.carried.hba_left);
    assert_eq!((seen.port, seen.data_checksums), (old.port, Some(false)));
    assert_eq!(seen.tablespaces[0].path, space);
    assert!(finding(seen, "restart").contains("1 sessions end"), "{:?}", finding(seen, "restart"));
    assert!(finding(seen, "unit").contains("postgresql@15-main.service"));
    assert!(finding(seen, "synchronous_commit").contains("below `on`"));
    assert!(finding(seen, "trust").contains("127.0.0.1/32"));
    for subject in ["socket", "tablespace", "checksums", "size", "wal_log_hints"] {
        finding(seen, subject);
    }
}

#[tokio::test]
async fn a_running_server_in_debian_s_layout_is_adopted_with_its_configuration() {
    let world = World::new();
    let mut old = Old::new(&world).await;
    let client = old.start().await;
    let space = tablespace(&world, &old);
    client.batch_execute(&format!("CREATE TABLESPACE s LOCATION '{}'", space.display())).await.unwrap();
    client.batch_execute("CREATE TABLE t TABLESPACE s AS SELECT generate_series(1, 100) AS n").await.unwrap();
    client.batch_execute("ALTER SYSTEM SET statement_timeout = '33s'").await.unwrap();
    client.batch_execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off").await.unwrap();

    let root = world.path().join("m1");
    let seen = old.examine(&root).await;
    assert!(!root.exists(), "nothing is made by a look");
    check_report(&seen, &old, &space);

    let mut member = old.member(&world, &seen).await;
    let refused = old.take_over(&member, Consent::default()).await.unwrap_err();
    assert!(matches!(refused, AdoptError::Running { .. }), "{refused}");
    client.batch_execute("INSERT INTO t VALUES (101)").await.expect("it was not touched");

    let adopted = old.take_over(&member, EVERYTHING).await.unwrap();
    assert_eq!(Some(adopted.system_identifier), seen.system_identifier);
    let start = std::fs::read_to_string(old.configuration.join("start.conf")).unwrap();
    assert!(start.ends_with("\ndisabled\n") && start.contains("auto"), "{start}");
    let DirectoryState::Valid { incarnation, .. } = member.inspect().await else { panic!() };
    assert_eq!(incarnation, adopted.incarnation);
    let kept = std::fs::read_to_string(adopted_dir(&member.layout).join("postgresql.auto.conf")).unwrap();
    assert!(kept.contains("statement_timeout = '33s'"), "{kept}");

    old.postmaster = None;
    member.set_gate(Gate::Open);
    member.start().await;
    member.promote().await;
    let sql = member.sql().await;
    let count: i64 = sql.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(count, 101);
    for (name, wanted) in
        [("work_mem", "7MB"), ("wal_level", "replica"), ("max_wal_senders", "20"), ("wal_log_hints", "on")]
    {
        let value: String = sql.query_one("SELECT current_setting($1)", &[&name]).await.unwrap().get(0);
        assert_eq!(value, wanted, "{name}");
    }
    let again = old.examine(member.layout.root()).await;
    assert!(obstacle(&again, "adopted").contains("already"));
    let elsewhere = old.examine(&world.path().join("m9")).await;
    assert!(obstacle(&elsewhere, "adopted").contains("member of Mainstay"));
}

/// What it holds reaches standbys: the roles, and the WAL from before it was Mainstay's.
#[tokio::test]
async fn a_crashed_server_is_recovered_adopted_and_followed() {
    let world = World::new();
    let mut old = Old::new(&world).await;
    let client = old.start().await;
    client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n").await.unwrap();
    old.postmaster = None;
    let seen = old.examine(&world.path().join("m1")).await;
    assert!(seen.is_adoptable(), "{:#?}", seen.findings);
    assert!(finding(&seen, "crashed").contains("not shut down cleanly"));
    assert_eq!(seen.running, None);
    let mut member = old.member(&world, &seen).await;
    // As the test's other members have it: a standby must not have less than its primary.
    member.settings.parameters.insert("max_wal_senders".to_owned(), "10".to_owned());
    old.take_over(&member, Consent::default()).await.expect("nothing has to be stopped");
    let start = std::fs::read_to_string(old.configuration.join("start.conf")).unwrap();
    assert!(start.ends_with("auto\n"), "nobody has agreed to that: {start}");
    hba::write_hba(&member.layout, Gate::Open, &seen.carried.hba).unwrap();
    member.start().await;
    member.promote().await;
    let standby = world.standby("m2", &member).await;
    standby.wait_caught_up(&member).await;
    let count: i64 = standby.sql().await.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(count, 1000);
}

#[tokio::test]
async fn what_must_not_be_adopted_is_refused_with_the_remedy_and_left_as_it_is() {
    let world = World::new();
    let mut old = Old::new(&world).await;
    let root = world.path().join("m1");
    let with = |name: &str, text: &str| std::fs::write(old.data.join(name), text).unwrap();
    let without = |name: &str| std::fs::remove_file(old.data.join(name)).unwrap();

    with("standby.signal", "");
    assert!(obstacle(&old.examine(&root).await, "standby").contains("standby.signal"));
    without("standby.signal");
    with("backup_label", "");
    assert!(obstacle(&old.examine(&root).await, "backup").contains("backup_label"));
    without("backup_label");
    with("PG_VERSION", "14\n");
    assert!(obstacle(&old.examine(&root).await, "version").contains("PostgreSQL 14"));
    with("PG_VERSION", "99\n");
    assert!(obstacle(&old.examine(&root).await, "programs").contains("PostgreSQL 99"));
    without("PG_VERSION");
    assert!(obstacle(&old.examine(&root).await, "directory").contains("PG_VERSION"));
    with("PG_VERSION", "15\n");
    std::fs::set_permissions(&old.data, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(obstacle(&old.examine(&root).await, "permissions").contains("0755"));
    std::fs::set_permissions(&old.data, std::fs::Permissions::from_mode(0o700)).unwrap();
    if geteuid().is_root() {
        let options = ExamineOptions {
            data: &old.data,
            root: &root,
            bin_dir: None,
            user: Some("nobody"),
            debian_root: &old.etc,
        };
        assert!(obstacle(&examine(&options).await.unwrap(), "owner").contains("postgres"));
    }
    assert!(old.examine(&root).await.is_adoptable());
    // And it is still what it was.
    old.start().await;
    old.stop().await;
}

#[tokio::test]
async fn a_role_of_somebody_else_s_stops_the_adoption_and_the_old_means_start_it_again() {
    let world = World::new();
    let mut old = Old::new(&world).await;
    let root = world.path().join("m1");
    let client = old.start().await;
    client.batch_execute("CREATE ROLE mainstay LOGIN").await.unwrap();
    let seen = old.examine(&root).await;
    assert!(obstacle(&seen, "role").contains("no superuser"));
    let member = old.member(&world, &seen).await;
    let refused = old.take_over(&member, EVERYTHING).await.unwrap_err();
    assert!(refused.to_string().contains("RENAME"), "{refused}");
    client.batch_execute("SELECT 1").await.expect("it was not stopped for that");
    drop(client);
    old.stop().await;
    // Stopped, it shows only when the roles are made.
    let refused = old.take_over(&member, EVERYTHING).await.unwrap_err();
    let AdoptError::Roles { source, .. } = &refused else { panic!("{refused}") };
    assert!(source.to_string().contains("no superuser"), "{source}");
    assert!(matches!(member.inspect().await, DirectoryState::Foreign(_)));
    assert!(!old.data.join("standby.signal").exists() && !old.data.join("mainstay.incarnation").exists());
    let client = old.start().await;
    client.batch_execute("ALTER ROLE mainstay RENAME TO site_mainstay").await.unwrap();
    drop(client);
    old.stop().await;
    old.take_over(&member, EVERYTHING).await.unwrap();
}

/// Called off after ever longer, as by a crash: it is never half ours, and the next attempt goes on.
#[tokio::test]
async fn an_interrupted_adoption_is_gone_on_with() {
    let world = World::new();
    let mut old = Old::new(&world).await;
    let client = old.start().await;
    client.batch_execute("CREATE TABLE t AS SELECT 7 AS n").await.unwrap();
    client.batch_execute("ALTER SYSTEM SET work_mem = '9MB'").await.unwrap();
    drop(client);
    let root = world.path().join("m1");
    let seen = old.examine(&root).await;
    let mut member = old.member(&world, &seen).await;
    let (mut interrupted, mut patience) = (0, Duration::from_millis(2));
    loop {
        let attempt = tokio::time::timeout(patience, old.take_over(&member, EVERYTHING)).await;
        let state = member.inspect().await;
        match attempt {
            Ok(Ok(_)) => break,
            // What the attempt before it had begun on another thread has ended since: there is nothing left to do.
            Ok(Err(AdoptError::Refused { .. })) if matches!(state, DirectoryState::Valid { .. }) => break,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => {}
        }
        match state {
            DirectoryState::Foreign(why) => interrupted += usize::from(why.contains("interrupted")),
            // Complete, and only the answer was not waited for.
            DirectoryState::Valid { .. } => break,
            other => panic!("{other:?}"),
        }
        patience = patience * 11 / 10;
    }
    assert!(interrupted > 0, "the mark was seen");
    old.postmaster = None;
    member.set_gate(Gate::Open);
    member.start().await;
    member.promote().await;
    let n: i32 = member.sql().await.query_one("SELECT n FROM t", &[]).await.unwrap().get(0);
    assert_eq!(n, 7);
    let kept = std::fs::read_to_string(adopted_dir(&member.layout).join("postgresql.auto.conf")).unwrap();
    assert!(kept.contains("work_mem"), "{kept}");
    let obstacle = seen.findings.iter().find(|finding| finding.severity == Severity::Obstacle);
    assert_eq!(obstacle, None);
}
