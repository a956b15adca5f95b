//! A cluster in the lab: built, looked at, and taken down, whatever state it is in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio_postgres::Config;

use crate::control::Status;
use crate::disk::Disk;
use crate::files::{self, Plan};
use crate::founding::{self, Founding};
use crate::heal::Outstanding;
use crate::member::Member;
use crate::network::{self, Index, Network};
use crate::process::Kind;
use crate::shared_memory::Segments;
use crate::{clock, failure, interrupt, leftovers, pgbench, program, sql};

/// initdb and the first clones, on a busy machine.
const READY_PATIENCE: Duration = Duration::from_secs(120);
/// PostgreSQL's clean stop.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Some 30 MB: enough to have work, little enough to be copied in no time.
const PGBENCH_SCALE: u32 = 2;
const SQL_PATIENCE: Duration = Duration::from_secs(20);

/// Every client has a number; there is no index, so that a row that is there twice shows.
const TABLE: &str = "CREATE TABLE lab_writes (client bigint NOT NULL, id bigint NOT NULL)";

/// Everything of one cluster. Dropping it removes it, unless it is to be kept.
#[derive(Debug)]
pub struct Cluster {
    pub plan: Plan,
    pub binary: PathBuf,
    pub members: Vec<Member>,
    pub disks: BTreeMap<u8, Disk>,
    pub outstanding: Outstanding,
    pub segments: Segments,
    /// How it was made, if by commands.
    pub founding: Option<Founding>,
    /// Whether pgbench's tables are there.
    pub has_pgbench: bool,
    /// Leave everything running at the end, for a person to look at.
    pub keep: bool,
    base: PathBuf,
    // Dropped last: a namespace with processes in it would live on without a name.
    pub network: Network,
}

impl Cluster {
    /// Builds a new cluster and waits until every member streams.
    pub fn create(index: Index, binary: &Path, plan: &Plan) -> Result<Cluster> {
        leftovers::clear(index)?;
        let base = leftovers::base(index);
        fs::create_dir_all(&base).with_context(|| format!("cannot make {}", base.display()))?;
        let network = Network::create(index, plan.machines())?;
        let sites = files::sites(plan, &base, |place| index.address(place))?;
        let mut cluster = Cluster {
            plan: plan.clone(),
            binary: binary.to_owned(),
            members: Vec::new(),
            disks: BTreeMap::new(),
            outstanding: Outstanding::default(),
            segments: Segments::default(),
            founding: None,
            has_pgbench: false,
            keep: false,
            base,
            network,
        };
        cluster.create_disks(&sites)?;
        for site in &sites {
            cluster.members.push(Member::new(site.clone(), index.namespace(site.place)));
        }
        if plan.founded {
            founding::found(&mut cluster)?
        } else {
            cluster.make_members(&sites)?
        }
        if let Err(error) = cluster.wait_whole(READY_PATIENCE) {
            let place = failure::keep(&cluster, "new-cluster")?;
            return Err(
                error.context(format!("the new cluster does not become ready; see {}", place.display()))
            );
        }
        let primary = cluster.primary().context("the new cluster has no primary")?;
        sql::query(&sql::application(&primary.site), TABLE, SQL_PATIENCE)?;
        Ok(cluster)
    }

    /// From files that the lab writes.
    fn make_members(&mut self, sites: &[files::Site]) -> Result<()> {
        files::write(&self.name(), &self.plan, sites, &self.network.index().network())?;
        for member in &mut self.members {
            if self.plan.supervised {
                member.supervise(&self.binary)?;
            }
            member.create(&self.binary)?;
            member.start(&self.binary)?;
        }
        Ok(())
    }

    fn create_disks(&mut self, sites: &[files::Site]) -> Result<()> {
        let Some(mib) = self.plan.disk_mib else { return Ok(()) };
        for site in sites.iter().filter(|site| !site.is_witness) {
            let image = self.base.join(format!("{}.img", site.name));
            let mount = site.data_directory.parent().context("the data directory lies on its disk")?;
            self.disks.insert(site.place, Disk::create(&image, mount, mib)?);
        }
        Ok(())
    }

    /// Where everything of this cluster lies.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// What every member that answers says.
    pub fn statuses(&self) -> Vec<Status> {
        std::thread::scope(|scope| {
            let asked: Vec<_> =
                self.members.iter().map(|member| scope.spawn(|| member.status().ok())).collect();
            asked.into_iter().filter_map(|answer| answer.join().ok().flatten()).collect()
        })
    }

    /// The newest word, that of the primary itself if there is one.
    pub fn status(&self) -> Option<Status> {
        newest(self.statuses())
    }

    /// How applications reach `members`: PostgreSQL itself, or the SQL proxies where there are some.
    pub fn ways<'a>(&self, members: impl Iterator<Item = &'a Member>) -> Vec<Config> {
        let name = self.name();
        let way = |member: &Member| match self.plan.sql_proxy {
            true => sql::through_proxy(&member.site, &name),
            false => sql::application(&member.site),
        };
        members.map(way).collect()
    }

    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members.iter().find(|member| member.name() == name).with_context(|| {
            let names: Vec<&str> = self.members.iter().map(Member::name).collect();
            format!("there is no member {name}; there are {}", names.join(", "))
        })
    }

    pub fn member_mut(&mut self, name: &str) -> Result<&mut Member> {
        let found = self.members.iter_mut().find(|member| member.name() == name);
        found.with_context(|| format!("there is no member {name}"))
    }

    pub fn data_members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.site.is_witness && member.is_made())
    }

    /// The member that says that it is the primary and lets applications in.
    pub fn primary(&self) -> Option<&Member> {
        let status = self.status().filter(|status| status.writable)?;
        let name = status.primary?;
        self.members.iter().find(|member| member.site.name == name)
    }

    /// The member that leads the replicated log, if exactly one says so.
    pub fn leader(&self) -> Option<&Member> {
        let leading: Vec<Status> = self.statuses().into_iter().filter(|status| status.leads).collect();
        match leading.as_slice() {
            [one] => self.members.iter().find(|member| member.site.name == one.member),
            _ => None,
        }
    }

    /// Every data member is there and streams, by the word of the primary.
    pub fn is_whole(&self) -> bool {
        self.status()
            .is_some_and(|status| status.is_whole() && Some(&status.member) == status.primary.as_ref())
    }

    pub fn wait_whole(&self, patience: Duration) -> Result<()> {
        let deadline = clock::now().plus(patience);
        let found = interrupt::wait_until(deadline, LOOK_INTERVAL, || self.is_whole().then_some(()))?;
        if found.is_none() {
            let status = self.status();
            let why = status.map_or_else(|| "nobody answers".to_owned(), |status| status.reason);
            bail!("not every member streams within {patience:?}: {why}");
        }
        Ok(())
    }

    pub fn start_member(&mut self, name: &str) -> Result<()> {
        let binary = self.binary.clone();
        self.member_mut(name)?.start(&binary)
    }

    /// Makes pgbench's tables once.
    pub fn prepare_pgbench(&mut self) -> Result<()> {
        if !self.has_pgbench {
            let sites: Vec<&files::Site> = self.data_members().map(|member| &member.site).collect();
            pgbench::initialise(&sites, PGBENCH_SCALE)?;
            self.has_pgbench = true;
        }
        Ok(())
    }

    /// Its name, as operators type it.
    pub fn name(&self) -> String {
        format!("lab-{}", self.network.index().number())
    }

    /// What an operator does on the machine of `member`: the command, to its end.
    pub fn command(&self, member: &str, words: &[&str]) -> Result<String> {
        let member = self.member(member)?;
        let configuration = member.site.configuration_file().display().to_string();
        let (network, binary) = (network::way_inside(&member.namespace), self.binary.display().to_string());
        let program = [network.as_str(), binary.as_str()];
        program::run(network::NSENTER, &[&program, words, &["--config", configuration.as_str()]].concat())
    }

    /// What an operator does: the command, to its end.
    pub fn switch_over(&self, to: &str) -> Result<()> {
        let primary = self.primary().context("there is no primary to switch from")?.name().to_owned();
        self.command(&primary, &["switchover", "--to", to]).map(|_| ())
    }

    /// Ends everything: first as an operator would, so that PostgreSQL tidies up behind itself, then by force.
    fn end(&mut self) -> Result<()> {
        let _ = crate::heal::everything(self);
        for member in &self.members {
            self.segments.remember(&member.namespace);
            match &member.supervisor {
                Some(supervisor) => supervisor.stop(),
                None => drop(member.signal(Signal::SIGTERM, |kind| kind == Kind::Member)?),
            }
        }
        let deadline = clock::now().plus(STOP_PATIENCE);
        while clock::now() < deadline && self.members.iter().any(|member| !member.processes().is_empty()) {
            std::thread::sleep(LOOK_INTERVAL);
            // A guard and its PostgreSQL whose member is gone hear nobody any more.
            if self.members.iter().all(|member| member.process(Kind::Member).is_none()) {
                break;
            }
        }
        for member in &mut self.members {
            member.kill_all()?;
        }
        self.segments.remove();
        Ok(())
    }
}

/// Among what several members say the newest, that of the primary itself before others'.
fn newest(statuses: Vec<Status>) -> Option<Status> {
    statuses.into_iter().max_by_key(|status| (status.epoch, status.primary.as_ref() == Some(&status.member)))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            self.network.keep();
            self.disks.values_mut().for_each(Disk::keep);
            let index = self.network.index().number();
            eprintln!("kept: {}; take it down with: mainstay-lab clean --index {index}", self.base.display());
            return;
        }
        if let Err(error) = self.end() {
            eprintln!("mainstay-lab: {error:#}");
        }
        self.disks.clear();
        if let Err(error) = fs::remove_dir_all(&self.base) {
            eprintln!("mainstay-lab: cannot remove {}: {error}", self.base.display());
        }
    }
}
