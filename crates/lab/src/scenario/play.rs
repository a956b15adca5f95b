//! Playing a scenario on a cluster: events, and what is remembered about the moment before them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mainstay_core::Now;

use super::proxied::{gap_servers, pgbench_servers, through};
use super::{Action, Scenario, Target};
use crate::addresses::AddressWatch;
use crate::client::GapClient;
use crate::cluster::Cluster;
use crate::endpoints::Endpoints;
use crate::fencing::Watch;
use crate::pgbench::Pgbench;
use crate::process::Kind;
use crate::{clock, failure, fault, heal, interrupt, journal, service, sql};

/// Before the first event the client must have been writing for so long without a pause.
const BASELINE: Duration = Duration::from_secs(1);
const BASELINE_PATIENCE: Duration = Duration::from_secs(60);
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// A pause in acknowledgements that is no outage; pgbench and three servers share the machine with the client.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
const SQL_PATIENCE: Duration = Duration::from_secs(10);
const LEADER_PATIENCE: Duration = Duration::from_secs(10);

/// Why a story went otherwise than it should.
#[derive(Debug)]
pub struct Broken {
    pub path: String,
    pub line: usize,
    pub error: anyhow::Error,
    /// What the client saw until then.
    pub client: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {:#}", self.path, self.line, self.error)
    }
}

/// What was so before the first event: `old` and the standbys keep their meaning through the story.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) primary: String,
    pub(super) standbys: Vec<String>,
    pub(super) epoch: u64,
    /// Postmasters by member.
    pub(super) postmasters: BTreeMap<String, i32>,
    /// How long each log was.
    pub(super) logs: BTreeMap<String, u64>,
    pub(super) at: Now,
}

/// A story under way.
pub struct Player<'a> {
    pub(super) cluster: &'a mut Cluster,
    /// Times may be longer by this factor on a machine that is busy with other things. Never safety.
    pub(super) slack: f64,
    pub(super) client: GapClient,
    pub(super) local: Option<GapClient>,
    pub(super) pgbench: Option<Pgbench>,
    pub(super) before: Option<Before>,
    /// Primary and epoch before the last event that can change them.
    pub(super) last: (String, u64),
    pub(super) watch: Option<Watch>,
    pub(super) endpoints: Option<Endpoints>,
    /// Who has the virtual address, if there is one.
    pub(super) addresses: Option<AddressWatch>,
    /// When the last event was.
    pub(super) mark: Now,
    /// What was measured, in words.
    pub(super) figures: Vec<String>,
}

/// Plays all of it; answers what was measured.
pub fn play(cluster: &mut Cluster, scenario: &Scenario, slack: f64) -> Result<Vec<String>, Broken> {
    let mut figures = Vec::new();
    for _ in 0..scenario.repeat {
        let broken = |line: usize, error: anyhow::Error, client: String| Broken {
            path: scenario.path.clone(),
            line,
            error,
            client,
        };
        let mut player = Player::new(cluster, slack).map_err(|error| broken(0, error, String::new()))?;
        for step in &scenario.steps {
            player
                .act(&step.action)
                .map_err(|error| broken(step.line, error, failure::history(&player.client)))?;
        }
        figures.append(&mut player.figures);
    }
    Ok(figures)
}

impl<'a> Player<'a> {
    fn new(cluster: &'a mut Cluster, slack: f64) -> Result<Player<'a>> {
        let now = clock::now();
        let servers = gap_servers(cluster);
        let number = i64::try_from(now.0).unwrap_or(i64::MAX);
        let client = GapClient::start(number, servers, through(cluster), None)?;
        let addresses = if cluster.plan.vip { Some(AddressWatch::start(cluster)?) } else { None };
        Ok(Player {
            cluster,
            slack,
            client,
            local: None,
            pgbench: None,
            before: None,
            last: (String::new(), 0),
            watch: None,
            endpoints: None,
            addresses,
            mark: now,
            figures: Vec::new(),
        })
    }

    fn act(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::LoadPgbench(load) => {
                self.cluster.prepare_pgbench()?;
                self.pgbench = Some(Pgbench::start(pgbench_servers(self.cluster), load)?);
                Ok(())
            }
            Action::LocalClient { on } => {
                let member = self.cluster.member(&self.one(on)?)?;
                let number = self.client.number + 1;
                let servers = self.cluster.ways(std::iter::once(member));
                let through = through(self.cluster);
                self.local = Some(GapClient::start(number, servers, through, Some(&member.namespace))?);
                Ok(())
            }
            Action::ArrangeLeader { on_primary } => self.arrange_leader(*on_primary),
            Action::Fault { fault, targets } => {
                self.begin_event()?;
                let targets = self.all(targets)?;
                self.mark = clock::now();
                fault::perform(self.cluster, *fault, &targets)
            }
            Action::ClosePort { port, of, from } => {
                self.begin_event()?;
                let (of, from) = (self.one(of)?, self.one(from)?);
                self.mark = clock::now();
                fault::close_port(self.cluster, *port, &of, &from)
            }
            Action::Heal { fault: None } => {
                self.mark = clock::now();
                heal::everything(self.cluster)
            }
            Action::Heal { fault: Some(fault) } => {
                self.mark = clock::now();
                heal::only(self.cluster, *fault)
            }
            Action::Start { targets } => {
                self.mark = clock::now();
                let named = if targets.is_empty() { self.dead() } else { self.all(targets)? };
                named.iter().try_for_each(|name| self.cluster.start_member(name))
            }
            Action::Switchover { to } => {
                self.begin_event()?;
                let to = self.one(to)?;
                self.mark = clock::now();
                self.cluster.switch_over(&to)
            }
            Action::Join { machine, refused } => self.join(machine, refused.as_deref()),
            Action::Replace { old, new } => self.replace(old, new),
            Action::WatchPrimary => {
                self.endpoints = Some(Endpoints::watch(self.cluster.data_members())?);
                Ok(())
            }
            Action::Service { verb, targets } => {
                self.begin_event()?;
                let targets = self.all(targets)?;
                self.mark = clock::now();
                targets.iter().try_for_each(|name| service::perform(self.cluster, *verb, name))
            }
            Action::Command { on, line, refused } => self.command(on.as_ref(), line, refused.as_deref()),
            Action::Sql { on, statement, may_fail } => {
                let site = self.cluster.member(&self.one(on)?)?.site.clone();
                let answer = sql::query(&sql::administration(&site), statement, SQL_PATIENCE);
                if *may_fail { Ok(()) } else { answer.map(|_| ()) }
            }
            Action::Wait { duration } => interrupt::pause(*duration),
            Action::Expect(expectation) => self.expect(expectation),
        }
    }

    /// What an operator types, on the machine of `on` or of any member that lives.
    fn command(&mut self, on: Option<&Target>, line: &str, refused: Option<&str>) -> Result<()> {
        self.begin_event()?;
        let words: Vec<String> = line.split(' ').map(|word| self.filled_in(word)).collect::<Result<_>>()?;
        let through = match on {
            Some(on) => self.one(on)?,
            None => {
                let lives = |member: &&crate::member::Member| member.process(Kind::Member).is_some();
                self.cluster.members.iter().find(lives).context("no member lives")?.name().to_owned()
            }
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.mark = clock::now();
        match (self.cluster.command(&through, &words), refused) {
            (Ok(_), None) => Ok(()),
            (Err(error), Some(text)) if format!("{error:#}").contains(text) => Ok(()),
            (Ok(_), Some(text)) => bail!("it was carried out, and not refused with {text:?}"),
            (Err(error), _) => Err(error),
        }
    }

    /// `{standby}` becomes the name of the first standby.
    fn filled_in(&self, word: &str) -> Result<String> {
        match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
            Some(target) => self.one(&super::parse::target(target).map_err(anyhow::Error::msg)?),
            None => Ok(word.replace("CLUSTER", &self.cluster.name())),
        }
    }

    /// What every fault and switchover begins with: a baseline, and a look at who is who.
    pub(super) fn begin_event(&mut self) -> Result<()> {
        if self.before.is_none() {
            let deadline = clock::now().plus(BASELINE_PATIENCE);
            let client = &self.client;
            let steady = interrupt::wait_until(deadline, LOOK_INTERVAL, || {
                let now = clock::now();
                let since = client.history().steady_since(now, PAUSE)?;
                (now.since(since) >= BASELINE).then_some(())
            })?;
            steady.context("the client does not get to write before the first event")?;
        }
        let status = self.cluster.status().context("nobody answers")?;
        let primary = status.primary.as_ref().filter(|_| status.writable).map(ToString::to_string);
        if let Some(primary) = &primary {
            self.last = (primary.clone(), status.epoch);
            // The server that is being watched goes on being watched through further faults.
            if self.watch.as_ref().is_none_or(|watch| watch.member != *primary) {
                self.watch = Watch::start(self.cluster.member(primary)?).ok();
            }
        }
        if self.before.is_none() {
            let primary = primary.context("there is no primary before the first event")?;
            self.before = Some(self.look_before(primary, status.epoch));
        }
        Ok(())
    }

    fn look_before(&self, primary: String, epoch: u64) -> Before {
        let members = || self.cluster.data_members();
        let postmaster = |member: &crate::member::Member| {
            member.process(Kind::Postgres).map(|process| (member.name().to_owned(), process.pid))
        };
        Before {
            standbys: members()
                .map(|member| member.name().to_owned())
                .filter(|name| *name != primary)
                .collect(),
            primary,
            epoch,
            postmasters: members().filter_map(postmaster).collect(),
            logs: members()
                .map(|member| (member.name().to_owned(), journal::length(&member.site.log())))
                .collect(),
            at: clock::now(),
        }
    }

    pub(super) fn all(&self, targets: &[Target]) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for target in targets {
            match target {
                Target::All => {
                    names.extend(self.cluster.members.iter().map(|member| member.name().to_owned()))
                }
                Target::Standbys => names.extend(self.standbys()?),
                one => names.push(self.one(one)?),
            }
        }
        Ok(names)
    }

    fn dead(&self) -> Vec<String> {
        let is_dead = |member: &&crate::member::Member| member.process(Kind::Member).is_none();
        self.cluster.members.iter().filter(is_dead).map(|member| member.name().to_owned()).collect()
    }

    /// The standbys of the story's beginning, or those of now if it has not begun.
    fn standbys(&self) -> Result<Vec<String>> {
        if let Some(before) = &self.before {
            return Ok(before.standbys.clone());
        }
        let primary = self.cluster.primary().context("there is no primary")?.name().to_owned();
        let all = self.cluster.data_members().map(|member| member.name().to_owned());
        Ok(all.filter(|name| *name != primary).collect())
    }

    pub(super) fn one(&self, target: &Target) -> Result<String> {
        match target {
            Target::Primary => Ok(self.cluster.primary().context("there is no primary")?.name().to_owned()),
            Target::Old => match &self.before {
                Some(before) => Ok(before.primary.clone()),
                None => self.one(&Target::Primary),
            },
            Target::Standby(number) => {
                let standbys = self.standbys()?;
                standbys.get(number - 1).cloned().with_context(|| format!("there is no {target}"))
            }
            Target::Leader => {
                let deadline = clock::now().plus(LEADER_PATIENCE);
                let leader = interrupt::wait_until(deadline, LOOK_INTERVAL, || {
                    self.cluster.leader().map(|member| member.name().to_owned())
                })?;
                leader.context("nobody leads the replicated log")
            }
            Target::Named(name) => self.cluster.member(name).map(|member| member.name().to_owned()),
            Target::All | Target::Standbys => bail!("`{target}` is not one member"),
        }
    }

    /// The primary moves, not the leader: that is what an operator can ask for.
    fn arrange_leader(&mut self, on_primary: bool) -> Result<()> {
        for _ in 0..5 {
            let (leader, primary) = (self.one(&Target::Leader)?, self.one(&Target::Primary)?);
            if (leader == primary) == on_primary {
                return Ok(());
            }
            let other = |member: &&crate::member::Member| member.name() != primary;
            let to = match on_primary {
                true => leader,
                false => {
                    self.cluster.data_members().find(other).context("there is no standby")?.name().to_owned()
                }
            };
            self.cluster.switch_over(&to)?;
            self.cluster.wait_whole(Duration::from_secs(60))?;
        }
        bail!("the leader could not be arranged to be {} the primary", if on_primary { "on" } else { "off" })
    }
}
