//! One server with its guard in a directory of its own, and all of it gone again when the test is over, however it ends.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mainstay_guard::{
    Armer, ClientError, GuardClient, GuardEvent, Phase, Pid, Refusal, RunAs, SpawnGuard, Start, Status,
    boottime_ns, kill_leftovers, leftovers,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Uid;
use tokio::sync::mpsc::UnboundedReceiver;

pub(crate) const SECOND_NS: u64 = 1_000_000_000;
/// How long anything may take on a loaded machine before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static NEXT_DIRECTORY: AtomicU32 = AtomicU32::new(0);
static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();

pub(crate) struct Fixture {
    root: PathBuf,
    pub(crate) use_cgroup: bool,
    pub(crate) idle_quit_ms: u64,
    clients: Vec<Child>,
    guard_pids: Vec<Pid>,
    cgroup: Option<PathBuf>,
}

/// Renews a lease from a thread of its own, as the member does, until it is stopped.
pub(crate) struct Renewer {
    thread: JoinHandle<()>,
    is_stopped: Arc<AtomicBool>,
    deadline_ns: Arc<AtomicU64>,
}

/// A connected member.
pub(crate) struct Member {
    pub(crate) guard: GuardClient,
    pub(crate) events: UnboundedReceiver<GuardEvent>,
    pub(crate) status: Status,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let root = new_directory("test");
        let fixture = Fixture {
            root,
            use_cgroup: true,
            idle_quit_ms: 60_000,
            clients: Vec::new(),
            guard_pids: Vec::new(),
            cgroup: None,
        };
        run(Command::new("cp").arg("-a").arg(template()).arg(fixture.data()));
        fixture
    }

    pub(crate) fn without_cgroup() -> Fixture {
        let mut fixture = Fixture::new();
        fixture.use_cgroup = false;
        fixture
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.root.join("guard")
    }

    pub(crate) fn server_log(&self) -> PathBuf {
        self.root.join("postgres.log")
    }

    pub(crate) fn guard_log(&self) -> PathBuf {
        self.root.join("guard.log")
    }

    pub(crate) fn spawn_guard(&self) -> SpawnGuard {
        let text = |path: PathBuf| path.to_str().expect("test paths are text").to_owned();
        SpawnGuard {
            program: std::env::current_exe().unwrap(),
            arguments: vec![
                "guard".to_owned(),
                text(self.directory()),
                text(self.data()),
                self.use_cgroup.to_string(),
                self.idle_quit_ms.to_string(),
            ],
            log_file: self.guard_log(),
        }
    }

    pub(crate) async fn connect(&mut self, generation: u64) -> Member {
        self.try_connect(generation).await.unwrap()
    }

    pub(crate) async fn try_connect(&mut self, generation: u64) -> Result<Member, ClientError> {
        let connected =
            GuardClient::connect_or_spawn(&self.directory(), &self.spawn_guard(), generation, PATIENCE).await;
        let (guard, events, status) = connected?;
        self.guard_pids.push(guard.guard_pid());
        self.cgroup = status.cgroup.clone();
        Ok(Member { guard, events, status })
    }

    /// A member whose guard has nothing left from anything.
    pub(crate) async fn member(&mut self, generation: u64) -> Member {
        let member = self.connect(generation).await;
        member.until_phase(Phase::Empty).await;
        member
    }

    /// How the server is started.
    pub(crate) fn start(&self) -> Start {
        let data = self.data().to_str().unwrap().to_owned();
        let mut arguments = vec!["-D".to_owned(), data];
        let settings = [
            ("unix_socket_directories", self.root.to_str().unwrap()),
            ("listen_addresses", ""),
            ("shared_buffers", "32MB"),
            ("hot_standby", "on"),
            ("restart_after_crash", "off"),
            // Only processes are killed here, never a machine; and a crash start syncs the whole directory.
            ("fsync", "off"),
            // A standby that follows nobody looks for more WAL at this pace before it lets anybody in.
            ("wal_retrieve_retry_interval", "100ms"),
            // Below the data directory, so that it goes with it after a kill.
            ("dynamic_shared_memory_type", "mmap"),
        ];
        for (name, value) in settings {
            arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        let environment =
            [("LC_ALL".to_owned(), "C".to_owned()), ("PGMARK".to_owned(), "mark of the test".to_owned())];
        Start {
            program: programs().join("postgres"),
            arguments,
            environment: BTreeMap::from(environment),
            log_file: self.server_log(),
            user: run_as(),
        }
    }

    /// Starts the server and waits until it answers.
    pub(crate) async fn start_server(&self, member: &Member) -> Pid {
        let pid = member.guard.start(self.start()).await.unwrap();
        until("the server answers", || self.query("select 1").as_deref() == Ok("1")).await;
        pid
    }

    /// Starts, arms `epoch` for `seconds`, opens, and waits until the server is writable.
    pub(crate) async fn open_server(&self, member: &Member, epoch: u64, seconds: u64) -> Pid {
        let pid = self.start_server(member).await;
        member.guard.arm(epoch, boottime_ns() + seconds * SECOND_NS).await.unwrap();
        member.guard.open(epoch, Vec::new()).await.unwrap();
        self.until_writable().await;
        pid
    }

    pub(crate) async fn until_writable(&self) {
        until("the server is writable", || self.query("select pg_is_in_recovery()").as_deref() == Ok("f"))
            .await;
    }

    pub(crate) fn query(&self, statement: &str) -> Result<String, String> {
        let output = self.psql(statement).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    fn psql(&self, statement: &str) -> Command {
        let mut psql = Command::new(programs().join("psql"));
        psql.args(["-XAtq", "-U", "postgres", "-d", "postgres", "-h"])
            .arg(&self.root)
            .args(["-c", statement]);
        psql.env("PGCONNECT_TIMEOUT", "5");
        psql
    }

    /// Sessions that never look at anything but their own work for minutes.
    pub(crate) async fn busy_sessions(&mut self, count: usize) {
        for _ in 0..count {
            let mut psql = self.psql("set jit = off; select count(*) from generate_series(1, 1e9) as busy");
            let client = psql.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            self.clients.push(client);
        }
        let question =
            "select count(*) from pg_stat_activity where query like '%as busy%' and pid <> pg_backend_pid()";
        let want = Ok(count.to_string());
        until("all sessions are busy", || self.query(question) == want).await;
    }

    /// Sessions that wait for their client.
    pub(crate) async fn idle_sessions(&mut self, count: usize) {
        for _ in 0..count {
            let mut psql = Command::new(programs().join("psql"));
            psql.args(["-XAtq", "-U", "postgres", "-d", "postgres", "-h"]).arg(&self.root);
            let client =
                psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            self.clients.push(client);
        }
        let question = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";
        let want = Ok(count.to_string());
        until("all sessions are there", || self.query(question) == want).await;
    }

    pub(crate) fn leftovers(&self) -> Vec<Pid> {
        leftovers(&self.data()).unwrap()
    }

    pub(crate) fn server_log_text(&self) -> String {
        fs::read_to_string(self.server_log()).unwrap_or_default()
    }
}

impl Member {
    pub(crate) async fn until_phase(&self, phase: Phase) -> Status {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let status = self.guard.status().await.unwrap();
            if status.phase == phase {
                return status;
            }
            assert!(Instant::now() < give_up, "waited for {phase:?}, still {status:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn event(&mut self) -> GuardEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event in time").expect("the channel lives")
    }

    /// The next event that `wanted` accepts; others are passed over.
    pub(crate) async fn event_where(&mut self, wanted: impl Fn(&GuardEvent) -> bool) -> GuardEvent {
        loop {
            let event = self.event().await;
            if wanted(&event) {
                return event;
            }
        }
    }

    pub(crate) async fn until_empty(&mut self) -> GuardEvent {
        self.event_where(|event| matches!(event, GuardEvent::Empty { .. })).await
    }
}

/// Long enough that a loaded machine does not miss a renewal, short enough to be waited for.
const LEASE_NS: u64 = 3 * SECOND_NS;

impl Renewer {
    /// Armed when it returns.
    pub(crate) fn start(directory: &Path, generation: u64, epoch: u64) -> Renewer {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let deadline_ns = Arc::new(AtomicU64::new(0));
        let (armed, is_armed) = std::sync::mpsc::channel();
        let (directory, stop, deadline) =
            (directory.to_owned(), Arc::clone(&is_stopped), Arc::clone(&deadline_ns));
        let thread = std::thread::spawn(move || {
            block_on(async {
                let mut armer = Armer::connect(&directory, generation).await.unwrap();
                while !stop.load(Ordering::SeqCst) {
                    let standing_ns = armer.arm(epoch, boottime_ns() + LEASE_NS).await.unwrap();
                    deadline.store(standing_ns, Ordering::SeqCst);
                    let _ = armed.send(());
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        });
        is_armed.recv_timeout(PATIENCE).unwrap();
        Renewer { thread, is_stopped, deadline_ns }
    }

    pub(crate) fn deadline_ns(&self) -> u64 {
        self.deadline_ns.load(Ordering::SeqCst)
    }

    /// The last deadline.
    pub(crate) fn stop(self) -> u64 {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.deadline_ns.load(Ordering::SeqCst)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let guard_log = fs::read_to_string(self.guard_log()).unwrap_or_default();
            crate::say(&format!(
                "the server's log:\n{}the guard's log:\n{guard_log}",
                self.server_log_text()
            ));
        }
        for client in &mut self.clients {
            let _ = client.kill();
            let _ = client.wait();
        }
        // Only a guard of this test: by its pid file, which a guard that quits removes, and by its pid in the fixture.
        let pid = fs::read_to_string(self.directory().join("guard.pid"))
            .ok()
            .and_then(|pid| pid.trim().parse().ok());
        if let Some(pid) = pid.filter(|pid| self.guard_pids.contains(pid)) {
            let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
        if self.directory().exists() {
            let _ = kill_leftovers(&self.directory(), &self.data(), PATIENCE);
        }
        remove_shared_memory(&self.data());
        if let Some(cgroup) = &self.cgroup {
            let _ = fs::remove_dir(cgroup);
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A killed server leaves its System V segment, which only the next start in the same directory would remove.
fn remove_shared_memory(data: &Path) {
    let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let segment = file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)).map(str::to_owned);
    if let Some(segment) = segment {
        let _ = Command::new("ipcrm").args(["-m", &segment]).stderr(Stdio::null()).status();
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn signal(pid: Pid, signal: Signal) {
    kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// The one-letter state of a process, or none if it is gone.
pub(crate) fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// All processes below `root`.
pub(crate) fn descendants(root: Pid) -> Vec<Pid> {
    let path = format!("/proc/{root}/task/{root}/children");
    let children: Vec<Pid> = fs::read_to_string(path)
        .unwrap_or_default()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    children.iter().flat_map(|child| std::iter::once(*child).chain(descendants(*child))).collect()
}

pub(crate) fn command_line(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

pub(crate) fn is_gone(pid: Pid) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

pub(crate) fn refusal(error: ClientError) -> Refusal {
    match error {
        ClientError::Refused(refusal) => refusal,
        other => panic!("not a refusal: {other}"),
    }
}

/// PostgreSQL refuses to run as root.
pub(crate) fn run_as() -> Option<RunAs> {
    Uid::effective().is_root().then(|| RunAs::named("postgres").expect("the user postgres exists"))
}

/// The directory of PostgreSQL's programs: `MAINSTAY_TEST_PG_BIN`, or the newest in Debian's place.
fn programs() -> PathBuf {
    if let Some(directory) = std::env::var_os("MAINSTAY_TEST_PG_BIN") {
        return PathBuf::from(directory);
    }
    let versions =
        fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed, or MAINSTAY_TEST_PG_BIN set");
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| entry.ok())
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, programs)| programs.join("postgres").exists())
        .collect();
    versions.sort();
    versions.pop().expect("a version of PostgreSQL is installed").1
}

fn new_directory(kind: &str) -> PathBuf {
    let number = NEXT_DIRECTORY.fetch_add(1, Ordering::Relaxed);
    let root = std::env::temp_dir().join(format!("mainstay-guard-{kind}-{}-{number}", std::process::id()));
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    if let Some(user) = run_as() {
        std::os::unix::fs::chown(&root, Some(user.uid), Some(user.gid)).unwrap();
    }
    root
}

/// A fresh cluster, made once, as a standby that follows nobody.
fn template() -> &'static Path {
    TEMPLATE.get_or_init(|| {
        let data = new_directory("template").join("data");
        let mut initdb = as_postgres(&programs().join("initdb"));
        initdb.args([
            "--auth=trust",
            "--username=postgres",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
        ]);
        run(initdb.arg(&data));
        run(as_postgres(Path::new("touch")).arg(data.join("standby.signal")));
        data
    })
}

/// The last thing the test binary does.
pub(crate) fn remove_template() {
    if let Some(root) = TEMPLATE.get().and_then(|data| data.parent()) {
        let _ = fs::remove_dir_all(root);
    }
}

fn as_postgres(program: &Path) -> Command {
    if run_as().is_none() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program).current_dir("/");
    command
}

fn run(command: &mut Command) {
    let Output { status, stderr, .. } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
}
