//! A member with its own directory, certificates and PostgreSQL, gone without a trace when dropped.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mainstay_core::lineage::History;
use mainstay_core::{Incarnation, Lsn, MemberId};
use mainstay_postgres::children::{Child, PostmasterControl};
use mainstay_postgres::clone::CloneOptions;
use mainstay_postgres::configuration::{self, ServerSettings, StreamFrom};
use mainstay_postgres::control;
use mainstay_postgres::directory::{self, DirectoryState};
use mainstay_postgres::hba::{self, Gate};
use mainstay_postgres::history;
use mainstay_postgres::initdb::{Application, InitdbOptions, Initialized, initdb};
use mainstay_postgres::layout::Layout;
use mainstay_postgres::session::{Observation, Probe, Server, Session, fresh_probe};
use mainstay_postgres::tools::{RunAs, Tools};
use mainstay_postgres::upstream::{self, Upstream};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tokio::sync::{Mutex, OnceCell};
use tokio_postgres::{Client, NoTls};

pub(crate) const REPLICATION_PASSWORD: &str = "repl:pass\\word";
pub(crate) const APPLICATION_PASSWORD: &str = "application";
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A directory below the system's temporary one, removed at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mainstay-pg-{}-{count}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn openssl(arguments: &[&str], directory: &Path) {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A scratch directory with a certificate authority.
pub(crate) struct World {
    scratch: Scratch,
    template: OnceCell<Arc<Template>>,
}

/// A new cluster that tests copy, since initdb takes long. It lives as long as any test uses it.
struct Template {
    layout: Layout,
    _world: World,
}

impl Template {
    async fn get() -> Arc<Template> {
        static TEMPLATE: Mutex<Weak<Template>> = Mutex::const_new(Weak::new());
        let mut known = TEMPLATE.lock().await;
        if let Some(template) = known.upgrade() {
            return template;
        }
        let world = World::new();
        let mut member = world.member("template").await;
        member.initdb().await;
        let template = Arc::new(Template { layout: member.layout.clone(), _world: world });
        *known = Arc::downgrade(&template);
        template
    }
}

impl World {
    pub(crate) fn new() -> World {
        let scratch = Scratch::new();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let mut arguments = vec!["req", "-x509", "-days", "2", "-subj", "/CN=authority"];
        arguments.extend(key);
        arguments.extend(["-keyout", "authority.key", "-out", "authority.crt"]);
        openssl(&arguments, &scratch.0);
        World { scratch, template: OnceCell::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.scratch.0
    }

    fn make_certificate(&self, member: &str, layout: &Layout) {
        let extensions = format!("subjectAltName=DNS:{member}");
        std::fs::write(self.path().join(format!("{member}.ext")), extensions).unwrap();
        let (subject, key, request) =
            (format!("/CN={member}"), format!("{member}.key"), format!("{member}.csr"));
        let (certificate, extension_file) = (format!("{member}.crt"), format!("{member}.ext"));
        let curve = "ec_paramgen_curve:prime256v1";
        openssl(
            &[
                "req", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-subj", &subject, "-keyout", &key,
                "-out", &request,
            ],
            self.path(),
        );
        openssl(
            &[
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                &request,
                "-CA",
                "authority.crt",
                "-CAkey",
                "authority.key",
                "-CAcreateserial",
                "-extfile",
                &extension_file,
                "-out",
                &certificate,
            ],
            self.path(),
        );
        for (from, to) in [
            (key.as_str(), layout.key()),
            (certificate.as_str(), layout.certificate()),
            ("authority.crt", layout.authority()),
        ] {
            let contents = std::fs::read(self.path().join(from)).unwrap();
            mainstay_postgres::durable::write(&to, &contents, layout.configuration_access()).unwrap();
        }
    }

    /// A member without data: directories, certificates and configuration.
    pub(crate) async fn member(&self, name: &str) -> Member {
        let run_as = geteuid().is_root().then(|| RunAs::of_user("postgres").unwrap());
        let tools = Tools::find(None, None, run_as.clone()).await.unwrap();
        let layout = Layout::new(&self.path().join(name), None, None, run_as).unwrap();
        let port = free_port();
        layout.create(port).unwrap();
        layout.create(port).unwrap();
        self.make_certificate(name, &layout);
        let settings = ServerSettings {
            port,
            listen_addresses: vec!["127.0.0.1".to_owned()],
            tls: true,
            synchronous_standby_names: String::new(),
            upstream: None,
            parameters: BTreeMap::from([
                ("shared_buffers".to_owned(), "16MB".to_owned()),
                ("autovacuum".to_owned(), "off".to_owned()),
                // Nothing but the tests themselves writes WAL.
                ("checkpoint_timeout".to_owned(), "1h".to_owned()),
                ("max_wal_senders".to_owned(), "10".to_owned()),
            ]),
        };
        let id = MemberId::new(name).unwrap();
        let member = Member { id, tools, layout, settings, postmaster: None };
        member.configure();
        member.set_gate(Gate::Open);
        hba::write_ident(&member.layout).unwrap();
        upstream::write_passfile(&member.layout, REPLICATION_PASSWORD).unwrap();
        member
    }

    /// A member that is primary of a new cluster.
    pub(crate) async fn primary(&self, name: &str) -> Member {
        let mut member = self.member(name).await;
        let template = self.template.get_or_init(Template::get).await;
        for (from, to) in [
            (template.layout.data(), member.layout.data()),
            (&template.layout.state_dir(), &member.layout.state_dir()),
        ] {
            let status =
                Command::new("cp").args(["-a", "--reflink=auto", "-T"]).args([from, to]).status().unwrap();
            assert!(status.success());
        }
        member.start().await;
        member.promote().await;
        member
    }

    /// A member that streams from `source`.
    pub(crate) async fn standby(&self, name: &str, source: &Member) -> Member {
        let mut member = self.member(name).await;
        member.clone_from(source).await;
        member.start().await;
        member.wait_streaming().await;
        member
    }
}

/// A port that nobody listens on, below those that the kernel gives to outgoing connections: a server that is started
/// again must find its port free.
pub(crate) fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 15_000..32_000;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = std::process::id() * 101 + COUNT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(PORTS.start + step % (PORTS.end - PORTS.start)).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) tools: Tools,
    pub(crate) layout: Layout,
    pub(crate) settings: ServerSettings,
    pub(crate) postmaster: Option<Postmaster>,
}

impl Member {
    pub(crate) fn configure(&self) {
        configuration::write(&self.layout, self.tools.version(), &self.settings).unwrap();
    }

    pub(crate) fn set_gate(&self, gate: Gate) {
        hba::write_hba(&self.layout, gate, &[]).unwrap();
    }

    pub(crate) fn set_parameter(&mut self, name: &str, value: &str) {
        self.settings.parameters.insert(name.to_owned(), value.to_owned());
        self.configure();
    }

    pub(crate) fn server(&self) -> Server {
        Server::new(&self.layout, self.settings.port)
    }

    pub(crate) fn upstream(&self) -> Upstream {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Upstream { member: self.id.clone(), address, port: self.settings.port }
    }

    pub(crate) async fn initdb(&mut self) -> Initialized {
        let application = Application {
            role: "app".to_owned(),
            password: APPLICATION_PASSWORD.to_owned(),
            database: "app".to_owned(),
        };
        let options = InitdbOptions {
            replication_password: REPLICATION_PASSWORD.to_owned(),
            application: Some(application),
        };
        initdb(&self.tools, &self.layout, &options).await.unwrap()
    }

    pub(crate) async fn clone_options(&self, source: &Member) -> CloneOptions {
        CloneOptions {
            upstream: source.upstream(),
            slot: upstream::slot_name(&self.id),
            system_identifier: control::read(&source.tools, &source.layout).await.unwrap().system_identifier,
            stall_timeout: LONG,
        }
    }

    /// Clones, and is configured to follow.
    pub(crate) async fn clone_from(&mut self, source: &Member) -> Incarnation {
        source.session().await.create_slot(&upstream::slot_name(&self.id)).await.unwrap();
        let options = self.clone_options(source).await;
        let (progress, _) = tokio::sync::watch::channel(Default::default());
        let cloned = mainstay_postgres::clone::clone(&self.tools, &self.layout, &options, &progress).await;
        self.follow(source, cloned.unwrap())
    }

    pub(crate) fn follow(&mut self, source: &Member, incarnation: Incarnation) -> Incarnation {
        self.settings.upstream = Some(StreamFrom {
            upstream: source.upstream(),
            application_name: upstream::application_name(&self.id, incarnation),
            slot: upstream::slot_name(&self.id),
        });
        self.configure();
        incarnation
    }

    pub(crate) async fn inspect(&self) -> DirectoryState {
        directory::inspect(&self.tools, &self.layout).await.unwrap()
    }

    /// Starts PostgreSQL as the guard would, and waits until it lets sessions in.
    pub(crate) async fn start(&mut self) {
        self.launch();
        self.wait("the server to be ready", async |member| {
            fresh_probe(&member.server(), LONG).await == Probe::Alive
        })
        .await;
    }

    pub(crate) fn launch(&mut self) {
        directory::prepare_start(&self.layout).unwrap();
        self.postmaster = Some(Postmaster::start(&self.tools, &self.layout));
    }

    pub(crate) fn postmaster(&self) -> &Postmaster {
        self.postmaster.as_ref().expect("the server was started")
    }

    pub(crate) fn reload(&self) {
        self.postmaster().signal(Signal::SIGHUP);
    }

    /// Ends PostgreSQL by SIGKILL of all its processes at once.
    pub(crate) fn crash(&mut self) {
        self.postmaster = None;
    }

    /// Fast shutdown, to its end.
    pub(crate) async fn stop(&mut self) {
        self.postmaster().signal(Signal::SIGINT);
        let pid_file = self.layout.data().join("postmaster.pid");
        self.wait("the server to stop", async |_| !pid_file.exists()).await;
        self.postmaster = None;
    }

    pub(crate) async fn promote(&self) {
        let file = self.layout.data().join("promote");
        mainstay_postgres::durable::write(&file, b"", self.layout.server_access()).unwrap();
        self.postmaster().signal(Signal::SIGUSR1);
        self.wait("the promotion", async |member| {
            member.try_observe().await.is_some_and(|observation| !observation.in_recovery)
        })
        .await;
    }

    pub(crate) async fn session(&self) -> Session {
        Session::connect(&self.server(), LONG, LONG).await.unwrap()
    }

    pub(crate) async fn observe(&self) -> Observation {
        self.session().await.observe().await.unwrap()
    }

    pub(crate) async fn try_observe(&self) -> Option<Observation> {
        Session::connect(&self.server(), LONG, LONG).await.ok()?.observe().await.ok()
    }

    pub(crate) async fn wait_streaming(&self) {
        self.wait("streaming", async |member| {
            let observation = member.try_observe().await;
            observation
                .and_then(|found| found.walreceiver)
                .is_some_and(|receiver| receiver.status == "streaming")
        })
        .await;
    }

    /// Waits until the standby has replayed all that the primary has written.
    pub(crate) async fn wait_caught_up(&self, primary: &Member) {
        let target = primary.observe().await.flush.unwrap();
        self.wait("the standby to catch up", async |member| member.observe().await.replay.unwrap() >= target)
            .await;
    }

    /// Waits on a condition of this member; fails with the server's log if it does not come true.
    pub(crate) async fn wait(&self, what: &str, condition: impl AsyncFn(&Member) -> bool) {
        let deadline = Instant::now() + LONG;
        while !condition(self).await {
            assert!(
                Instant::now() < deadline,
                "{} waited in vain for {what}; its log:\n{}",
                self.id,
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.layout.log_file()).unwrap_or_default()
    }

    /// A superuser's connection for whatever the test wants to do.
    pub(crate) async fn sql(&self) -> Client {
        let mut configuration = tokio_postgres::Config::new();
        configuration.host_path(self.layout.socket_dir()).port(self.settings.port);
        configuration.user("mainstay").dbname("postgres");
        let (client, connection) = configuration.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The application's connection, by TCP and password.
    pub(crate) async fn application(&self) -> Result<Client, tokio_postgres::Error> {
        let mut configuration = tokio_postgres::Config::new();
        configuration.host("127.0.0.1").port(self.settings.port).user("app").dbname("app");
        let (client, connection) = configuration.password(APPLICATION_PASSWORD).connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Writes about `megabytes` of WAL in rows of half a kilobyte.
    pub(crate) async fn write_rows(&self, megabytes: u32) {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS filler (t text);
             INSERT INTO filler SELECT repeat('x', 500) FROM generate_series(1, {megabytes} * 1800)"
        );
        self.sql().await.batch_execute(&sql).await.unwrap();
    }

    /// The history of the newest timeline on disk.
    pub(crate) fn newest_history(&self) -> History {
        history::all(&self.layout.pg_wal()).unwrap().remove(0)
    }

    /// From now on only the test itself writes WAL: the background writer logs the running transactions at times. The checkpoint
    /// that follows a promotion is awaited first, since after it even a reader may write a page's image (`wal_log_hints`).
    pub(crate) async fn hold_background_writer(&self) {
        mainstay_postgres::session::checkpoint(&self.server(), LONG).await.unwrap();
        let children = self.postmaster().children().await.unwrap();
        let writer = children.iter().find(|child| child.title.contains("background writer")).unwrap();
        kill(Pid::from_raw(writer.pid), Signal::SIGSTOP).unwrap();
    }

    pub(crate) async fn flush(&self) -> Lsn {
        self.observe().await.flush.unwrap()
    }
}

/// A server that this test started. Dropped, it is killed with all its processes.
pub(crate) struct Postmaster {
    child: tokio::process::Child,
    pub(crate) pid: i32,
    data: PathBuf,
    /// For the test that the library clears it.
    pub(crate) leaves_shared_memory: bool,
}

impl Postmaster {
    fn start(tools: &Tools, layout: &Layout) -> Postmaster {
        Postmaster::start_in(tools, layout.data(), &layout.configuration_file(), &layout.log_file())
    }

    /// Starts any server: what Mainstay has nothing to do with yet.
    pub(crate) fn start_in(tools: &Tools, data: &Path, configuration: &Path, log: &Path) -> Postmaster {
        let mut command = tools.command("postgres", Path::new("/"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        command.arg("-D").arg(data);
        command.arg("-c").arg(format!("config_file={}", configuration.display()));
        command.stdout(Stdio::from(log.try_clone().unwrap())).stderr(Stdio::from(log));
        let child = command.spawn().unwrap();
        let pid = child.id().unwrap().try_into().unwrap();
        Postmaster { child, pid, data: data.to_owned(), leaves_shared_memory: false }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap();
    }

    /// Sends a signal to every process of the server.
    pub(crate) fn signal_all(&self, signal: Signal) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// The server's processes: PostgreSQL changes into its directory.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let Ok(wanted) = std::fs::metadata(&self.data) else { return vec![self.pid] };
        let is_ours = |pid: &i32| {
            let is_in_data = std::fs::metadata(format!("/proc/{pid}/cwd"))
                .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()));
            is_in_data && stat(*pid).is_some_and(|(state, _)| state != "Z")
        };
        pids().filter(is_ours).collect()
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        let segments = shared_memory_files(self.pid);
        self.signal_all(Signal::SIGSTOP);
        let deadline = Instant::now() + LONG;
        loop {
            self.signal_all(Signal::SIGKILL);
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            let _ = self.child.try_wait();
            if self.processes().is_empty() || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if !self.leaves_shared_memory {
            segments.iter().for_each(|segment| drop(std::fs::remove_file(segment)));
            if let Some(id) = system_v_segment(&self.data) {
                let _ = Command::new("ipcrm").args(["-m", &id]).stderr(Stdio::null()).status();
            }
        }
    }
}

/// The id of the server's System V segment, from its pid file.
pub(crate) fn system_v_segment(data: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    text.lines().nth(6)?.split_whitespace().nth(1).map(str::to_owned)
}

/// The POSIX segments of a server: what its postmaster has mapped, and what the control segment among that lists.
pub(crate) fn shared_memory_files(pid: i32) -> Vec<PathBuf> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mapped =
        maps.lines().filter_map(|line| Some(PathBuf::from(&line[line.find("/dev/shm/PostgreSQL.")?..])));
    let mut files: Vec<PathBuf> = mapped.collect();
    for control in files.clone() {
        let bytes = std::fs::read(control).unwrap_or_default();
        let handles = bytes.get(16..).unwrap_or_default().chunks(32);
        let names = handles.filter_map(|item| Some(u32::from_ne_bytes(item.get(..4)?.try_into().ok()?)));
        files.extend(names.map(|handle| PathBuf::from(format!("/dev/shm/PostgreSQL.{handle}"))));
    }
    files.retain(|file| file.exists());
    files.sort();
    files.dedup();
    files
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// State and parent of a process.
fn stat(pid: i32) -> Option<(String, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

impl PostmasterControl for Postmaster {
    type Error = nix::Error;

    async fn reload(&self) -> Result<(), nix::Error> {
        kill(Pid::from_raw(self.pid), Signal::SIGHUP)
    }

    async fn terminate(&self, pids: &[i32]) -> Result<(), nix::Error> {
        for pid in pids {
            match kill(Pid::from_raw(*pid), Signal::SIGTERM) {
                Err(nix::Error::ESRCH) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn children(&self) -> Result<Vec<Child>, nix::Error> {
        let is_child = |pid: &i32| stat(*pid).is_some_and(|(_, parent)| parent == self.pid);
        let read = |pid: i32| {
            let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let title = String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned();
            Some(Child { pid, title })
        };
        Ok(pids().filter(is_child).filter_map(read).collect())
    }
}
