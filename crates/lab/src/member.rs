//! One member of the lab: its processes, and starting and ending them.

use std::fs::OpenOptions;
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

/// Processes that were sent SIGKILL go at once, unless a disk holds them.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Member {
    pub site: Site,
    pub namespace: String,
    /// The process started last; kept so that it does not stay a zombie.
    child: Option<Child>,
}

impl Member {
    pub fn new(site: Site, namespace: String) -> Member {
        Member { site, namespace, child: None }
    }

    pub fn name(&self) -> &str {
        self.site.name.as_str()
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
                Kind::Postgres | Kind::Other => 2,
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
