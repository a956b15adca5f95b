//! One member of the lab: its processes, and starting and ending them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::clock;
use crate::control::{self, Status};
use crate::files::Site;
use crate::network;
use crate::process::{self, Kind, Process};
use crate::supervisor::unit::Unit;
use crate::supervisor::{Service, Supervisor};

/// Processes that were sent SIGKILL go at once, unless a disk holds them.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Member {
    pub site: Site,
    pub namespace: String,
    /// The process started last; kept so that it does not stay a zombie.
    child: Option<Child>,
    /// The unit that it is run by; `None`: it is just started.
    unit: Option<Unit>,
    pub supervisor: Option<Supervisor>,
}

/// Of the package, and tested as it is.
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/mainstay.service");

impl Member {
    pub fn new(site: Site, namespace: String) -> Member {
        Member { site, namespace, child: None, unit: None, supervisor: None }
    }

    pub fn name(&self) -> &str {
        self.site.name.as_str()
    }

    /// Whether the machine has been made a member. A spare one has no configuration file before.
    pub fn is_made(&self) -> bool {
        self.site.configuration_file().exists()
    }

    /// From now on it runs under a supervisor, by the shipped unit, and from its own copy of `binary`.
    pub fn supervise(&mut self, binary: &Path) -> Result<()> {
        self.unit = Some(Unit::read(Path::new(UNIT))?);
        self.install(binary)
    }

    /// Replaces the member's program as a package manager does: by another file under the old name. No two are the same file,
    /// byte for byte.
    pub fn install(&self, binary: &Path) -> Result<()> {
        let program = self.site.program();
        let fresh = program.with_extension("new");
        let install = || -> std::io::Result<()> {
            fs::create_dir_all(program.parent().unwrap_or(Path::new("/")))?;
            fs::copy(binary, &fresh)?;
            // What stands behind the last section of a program is never read.
            writeln!(OpenOptions::new().append(true).open(&fresh)?, "{:?}", clock::now())?;
            fs::rename(&fresh, &program)
        };
        install().with_context(|| format!("cannot install {}", program.display()))
    }

    /// Whether the running member is the program that is installed, and not one that an upgrade has replaced.
    pub fn runs_what_is_installed(&self) -> bool {
        let identity = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
        let running = self.process(Kind::Member).and_then(|process| {
            // The link leads to the very file, also where it has lost its name.
            identity(Path::new(&format!("/proc/{}/exe", process.pid)))
        });
        running.is_some() && running == identity(&self.site.program())
    }

    /// The one explicit act that makes a member.
    pub fn create(&self, binary: &Path) -> Result<()> {
        let mut command = network::inside(&self.namespace, binary);
        command.arg("create").arg("--config").arg(self.site.configuration_file());
        let output =
            command.stdin(Stdio::null()).output().context("cannot run nsenter; install util-linux")?;
        if !output.status.success() {
            bail!("{} was not created: {}", self.name(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// What a service manager would do after a boot.
    pub fn start(&mut self, binary: &Path) -> Result<()> {
        if let Some(running) = self.process(Kind::Member) {
            bail!("{} runs already (process {})", self.name(), running.pid);
        }
        self.reap();
        if let Some(unit) = &self.unit {
            match &self.supervisor {
                Some(supervisor) => supervisor.start_again(),
                None => self.supervisor = Some(Supervisor::start(self.service(unit))?),
            }
            return Ok(());
        }
        let path = self.site.log();
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = network::inside(&self.namespace, binary);
        command.args(["run", "--log-level", "debug", "--config"]).arg(self.site.configuration_file());
        // A group of its own: Ctrl-C in the terminal is for the lab, which takes down everything in order.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/").process_group(0);
        self.child = Some(command.spawn().context("cannot run nsenter; install util-linux")?);
        Ok(())
    }

    fn service(&self, unit: &Unit) -> Service {
        let file = self.site.configuration_file().display().to_string();
        Service {
            unit: unit.clone(),
            program: self.site.program(),
            arguments: ["--log-level", "debug", "--config", &file].map(str::to_owned).to_vec(),
            namespace: self.namespace.clone(),
            notify_socket: self.site.notify_socket(),
            log: self.site.log(),
        }
    }

    fn reap(&mut self) {
        if let Some(child) = &mut self.child {
            // Whether it has ended or not, and how, shows in its log.
            let _ = child.try_wait();
        }
    }

    pub fn processes(&self) -> Vec<Process> {
        process::in_namespace(&self.namespace)
    }

    /// The first process of a kind; for PostgreSQL the postmaster.
    pub fn process(&self, kind: Kind) -> Option<Process> {
        let all = self.processes();
        match kind {
            Kind::Postgres => process::postmaster(&all).cloned(),
            _ => all.into_iter().find(|process| process.kind == kind),
        }
    }

    pub fn pids(&self, wanted: impl Fn(Kind) -> bool) -> Vec<i32> {
        self.processes().iter().filter(|process| wanted(process.kind)).map(|process| process.pid).collect()
    }

    pub fn signal(&self, signal: Signal, wanted: impl Fn(Kind) -> bool) -> Result<usize> {
        let pids = self.pids(wanted);
        let count = pids.len();
        process::signal(pids, signal)?;
        Ok(count)
    }

    /// Kills everything, first those that could still tell the others.
    pub fn kill_all(&mut self) -> Result<()> {
        // Whoever would start it again is gone too.
        self.supervisor = None;
        let begun = clock::now();
        loop {
            let mut all = self.processes();
            if all.is_empty() {
                self.reap();
                return Ok(());
            }
            all.sort_by_key(|process| match process.kind {
                Kind::Member => 0,
                Kind::Guard => 1,
                Kind::SqlProxy | Kind::Vip | Kind::Postgres | Kind::Other => 2,
            });
            process::signal(all.iter().map(|process| process.pid), Signal::SIGKILL)?;
            if clock::now().since(begun) > KILL_PATIENCE {
                bail!("{} processes of {} do not end by SIGKILL", all.len(), self.name());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn status(&self) -> Result<Status> {
        control::status(&self.site.control_socket())
    }
}
