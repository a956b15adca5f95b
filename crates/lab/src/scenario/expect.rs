//! What must be so: each expectation waits as long as it is given, and says what it found instead.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mainstay_core::Now;
use mainstay_core::reason::Reason;

use super::play::{LOOK_INTERVAL, PAUSE, Player};
use super::{Expectation, Target};
use crate::journal::{self, Rung};
use crate::pgbench::Pgbench;
use crate::process::Kind;
use crate::supervisor::Seen;
use crate::tally::Outcome;
use crate::{check, clock, control, endpoints, interrupt, sql};

/// How long a late recovery is waited for, so that a failure tells how late.
const GRACE: Duration = Duration::from_secs(60);
const CHANGE_PATIENCE: Duration = Duration::from_secs(60);
const SQL_PATIENCE: Duration = Duration::from_secs(10);
/// How many decisions are looked through: all that a member keeps.
const DECISIONS: usize = 200;

impl Player<'_> {
    pub(super) fn expect(&mut self, expectation: &Expectation) -> Result<()> {
        use Expectation as E;
        match expectation {
            E::WriteGap { below } => self.write_gap(self.mark, *below, "gap"),
            E::TotalGap { below } => {
                let since = self.before.as_ref().context("nothing has happened yet")?.at;
                self.write_gap(since, *below, "gap in all")
            }
            E::PrimaryChanged(changed) => self.primary_changed(*changed),
            E::PrimaryIs { target, is } => self.primary_is(target, *is),
            E::EpochChanged(changed) => self.epoch_changed(*changed),
            E::Epochs { most } => self.epochs(*most),
            E::Founded { within, commands } => self.founded(*within, *commands),
            E::OnePrimaryEndpoint => self.one_primary_endpoint(),
            E::Streaming { who, within } => self.streaming(who, *within),
            E::Writes { within } => self.writes(*within),
            E::NoWrites { duration } => self.no_writes(*duration),
            E::Fenced => self.fenced(),
            E::LocalSilent => self.local_silent(),
            E::SamePostgres { on } => self.same_postgres(on),
            E::Ready { of, within } => self.ready(of, *within),
            E::Ended { of, how, within } => self.ended(of, how, *within),
            E::NothingRuns { on } => {
                let name = self.one(on)?;
                let left = self.cluster.member(&name)?.processes();
                ensure!(left.is_empty(), "{} processes of {name} are left: {left:?}", left.len());
                Ok(())
            }
            E::NoErrors => self.no_errors(),
            E::OnlyErrors { codes } => self.only_errors(codes),
            E::ConnectionsKept => self.connections_kept(),
            E::SqlProxyRuns { of, within } => self.sql_proxy_runs(of, *within),
            E::AddressAt { who, within } => self.address_at(who, *within),
            E::AddressLeft { who, within } => self.address_left(who, *within),
            E::AddressGap { below } => self.address_gap(*below),
            E::OneAddressHolder => self.one_address_holder(),
            E::Alone { within } => {
                let what = "commits are acknowledged by the primary alone";
                self.wait(*within, what, |player| {
                    player.cluster.status().is_some_and(|status| status.is_alone())
                })
            }
            E::AtRisk => self.wait(Duration::from_secs(5), "what is at risk is shown", |player| {
                player.cluster.status().is_some_and(|status| status.is_alone() && status.at_risk_bytes > 0)
            }),
            E::Explain { on, text, within } => self.explained(on.as_ref(), text, *within),
            E::Log { of, text, within } => {
                let name = self.one(of)?;
                self.wait(*within, &format!("the log of {name} says {text:?}"), |player| {
                    player.log_of(&name).is_ok_and(|log| log.contains(text.as_str()))
                })
            }
            E::Rung { of, rungs } => self.rung(of, rungs),
            E::Answer { on, statement, answer } => self.answer(on, statement, answer),
            E::NothingLost => self.rows(false),
            E::SomeLost => self.rows(true),
        }
    }

    pub(super) fn slackened(&self, duration: Duration) -> Duration {
        duration.mul_f64(self.slack)
    }

    /// Waits, counted from the last event, until `is_so`.
    pub(super) fn wait(&self, within: Duration, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = self.mark.plus(self.slackened(within));
        let found = interrupt::wait_until(deadline, LOOK_INTERVAL, || is_so(self).then_some(()))?;
        if found.is_none() {
            let now =
                self.cluster.status().map_or_else(|| "nobody answers".to_owned(), |status| status.reason);
            bail!("not within {within:?}: {what}; now: {now}");
        }
        Ok(())
    }

    /// The outage is looked at for as long as it may last, and then until it is over.
    fn write_gap(&mut self, since: Now, below: Duration, name: &str) -> Result<()> {
        let below = self.slackened(below);
        interrupt::pause(clock::now().until(self.mark.plus(below)))?;
        let client = &self.client;
        let deadline = clock::now().plus(GRACE);
        let back = interrupt::wait_until(deadline, LOOK_INTERVAL, || {
            let newest = client.history().newest_acknowledged()?;
            (clock::now().since(newest) < PAUSE).then_some(())
        })?;
        let newest = client.history().attempts.last().and_then(|attempt| attempt.error.clone());
        if back.is_none() {
            bail!("writes have not come back; the client says: {}", newest.unwrap_or_default());
        }
        let gap = client.history().longest_gap(since).context("the client has written nothing")?;
        self.figures.push(format!("{name} {:.2} s", gap.length().as_secs_f64()));
        ensure!(
            gap.length() < below,
            "nobody could write for {:.2} s, from {:.2} s after the event on; the bar is {:.2} s",
            gap.length().as_secs_f64(),
            gap.begin.since(self.mark).as_secs_f64(),
            below.as_secs_f64()
        );
        Ok(())
    }

    fn primary_changed(&mut self, changed: bool) -> Result<()> {
        let before = self.last.0.clone();
        if changed {
            return self.wait(
                CHANGE_PATIENCE,
                &format!("another member than {before} is the primary"),
                |player| player.cluster.primary().is_some_and(|member| member.name() != before),
            );
        }
        let now = self.one(&Target::Primary)?;
        ensure!(now == before, "the primary has moved from {before} to {now}");
        Ok(())
    }

    fn primary_is(&mut self, target: &Target, is: bool) -> Result<()> {
        let (wanted, now) = (self.one(target)?, self.one(&Target::Primary)?);
        ensure!((wanted == now) == is, "the primary is {now}");
        Ok(())
    }

    fn epoch_changed(&mut self, changed: bool) -> Result<()> {
        let before = self.last.1;
        let epoch = |player: &Self| player.cluster.status().map(|status| status.epoch);
        if changed {
            let newer = |player: &Self| epoch(player).is_some_and(|epoch| epoch > before);
            return self.wait(CHANGE_PATIENCE, &format!("an epoch after {before}"), newer);
        }
        let now = epoch(self).context("nobody answers")?;
        ensure!(now == before, "the epoch was {before} and is {now}: there was a failover");
        Ok(())
    }

    fn epochs(&mut self, most: u64) -> Result<()> {
        let before = self.before.as_ref().context("nothing has happened yet")?.epoch;
        let now = self.cluster.status().context("nobody answers")?.epoch;
        self.figures.push(format!("{} epochs", now - before));
        ensure!(now - before <= most, "{} epochs were granted; at most {most} are reasonable", now - before);
        Ok(())
    }

    fn streaming(&mut self, who: &Target, within: Duration) -> Result<()> {
        match who {
            Target::All => self.wait(within, "every member streams", |player| player.cluster.is_whole())?,
            one => {
                for name in self.all(std::slice::from_ref(one))? {
                    let member = self.cluster.member(&name)?.site.name.clone();
                    self.wait(within, &format!("{name} streams"), |player| {
                        player.cluster.status().is_some_and(|status| status.streams(&member))
                    })?;
                }
            }
        }
        self.figures
            .push(format!("{who} streaming after {:.1} s", clock::now().since(self.mark).as_secs_f64()));
        Ok(())
    }

    fn writes(&mut self, within: Duration) -> Result<()> {
        let asked = clock::now();
        self.wait(within, "writes are acknowledged", |player| {
            player.client.history().newest_acknowledged().is_some_and(|newest| newest > asked)
        })?;
        self.figures.push(format!("writes after {:.1} s", clock::now().since(self.mark).as_secs_f64()));
        Ok(())
    }

    fn no_writes(&mut self, duration: Duration) -> Result<()> {
        let begun = clock::now();
        interrupt::pause(duration)?;
        let newest = self.client.history().newest_acknowledged();
        ensure!(
            newest.is_none_or(|newest| newest < begun),
            "a write was acknowledged although nobody may be able to"
        );
        Ok(())
    }

    /// When the first member decided to promote under a newer epoch than that of the last event.
    fn next_promotion(&self) -> Result<Now> {
        let before = self.last.1;
        let mut times = Vec::new();
        for member in self.cluster.data_members() {
            let decisions = control::explain(&member.site.control_socket(), DECISIONS).unwrap_or_default();
            let opening = decisions.iter().filter(|explanation| {
                explanation
                    .decision
                    .reasons
                    .iter()
                    .any(|reason| matches!(reason, Reason::Opening { epoch, .. } if epoch.0 > before))
            });
            times.extend(opening.map(|explanation| explanation.view.now));
        }
        times
            .into_iter()
            .min()
            .with_context(|| format!("no member explains a promotion after epoch {before}"))
    }

    fn fenced(&mut self) -> Result<()> {
        let promotion = self.next_promotion()?;
        let watch = self.watch.as_ref().context("there was no primary to watch")?;
        let look = watch.look_at(promotion).context("the old server was not watched by then")?;
        ensure!(
            look.alive.is_empty(),
            "{} processes of the old PostgreSQL on {} were left when the next was promoted (process, state): {:?}",
            look.alive.len(),
            watch.member,
            look.alive
        );
        if let Some(gone) = watch.gone_at() {
            let ahead = promotion.since(gone).as_secs_f64();
            self.figures.push(format!("old server gone {ahead:.2} s before the promotion"));
        }
        Ok(())
    }

    fn one_primary_endpoint(&mut self) -> Result<()> {
        let watched = self.endpoints.as_ref().context("write `watch /primary` before the event")?;
        let (denied, taken) =
            endpoints::handover(&watched.series(), &self.last.0).map_err(anyhow::Error::msg)?;
        let after = |at: Now| at.since(self.mark).as_secs_f64();
        self.figures.push(format!(
            "/primary: 503 after {:.2} s, the next 200 after {:.2} s",
            after(denied),
            after(taken)
        ));
        Ok(())
    }

    fn local_silent(&mut self) -> Result<()> {
        let promotion = self.next_promotion()?;
        let local = self.local.as_ref().context("there is no client on a member's own node")?;
        let history = local.history();
        let late = history.acknowledged().filter(|attempt| attempt.ended > promotion).count();
        let on_old = history.acknowledged().count();
        ensure!(on_old > 0, "the client on the old primary's node has never written");
        ensure!(late == 0, "the cut-off primary acknowledged {late} commits after the next one was promoted");
        Ok(())
    }

    fn same_postgres(&mut self, on: &Target) -> Result<()> {
        let name = self.one(on)?;
        let before = self.before.as_ref().and_then(|before| before.postmasters.get(&name).copied());
        let now = self.cluster.member(&name)?.process(Kind::Postgres).map(|process| process.pid);
        ensure!(
            before.is_some() && before == now,
            "PostgreSQL on {name} was process {before:?} and is {now:?}"
        );
        Ok(())
    }

    fn seen(&self, name: &str) -> Result<Seen> {
        let supervisor = self.cluster.member(name)?.supervisor.as_ref();
        Ok(supervisor
            .with_context(|| format!("{name} is not supervised; write `cluster N supervised`"))?
            .seen())
    }

    fn ready(&mut self, of: &Target, within: Duration) -> Result<()> {
        let name = self.one(of)?;
        self.seen(&name)?;
        let is_ready = |player: &Self| {
            let ready_at = player.seen(&name).ok().and_then(|seen| seen.ready_at);
            ready_at.filter(|at| *at > player.mark)
        };
        self.wait(within, &format!("the service of {name} is ready"), |player| is_ready(player).is_some())?;
        if let Some(at) = is_ready(self) {
            self.figures.push(format!("{name} ready after {:.2} s", at.since(self.mark).as_secs_f64()));
        }
        Ok(())
    }

    fn ended(&mut self, of: &Target, how: &str, within: Duration) -> Result<()> {
        let name = self.one(of)?;
        self.seen(&name)?;
        self.wait(
            within,
            &format!("the service of {name} has ended by {how:?} and is up again"),
            |player| {
                player.seen(&name).is_ok_and(|seen| {
                    seen.ends.last().is_some_and(|end| end == how)
                        && seen.ready_at.is_some_and(|at| at > player.mark)
                })
            },
        )?;
        self.figures
            .push(format!("{name} up again after {:.1} s", clock::now().since(self.mark).as_secs_f64()));
        Ok(())
    }

    fn no_errors(&mut self) -> Result<()> {
        let since = self.before.as_ref().context("nothing has happened yet")?.at;
        let history = self.client.history();
        let after = history.attempts.iter().filter(|attempt| attempt.ended > since);
        let wrong: Vec<_> = after.filter(|attempt| attempt.outcome != Outcome::Acknowledged).collect();
        let first = wrong.first().and_then(|attempt| attempt.error.clone()).unwrap_or_default();
        ensure!(wrong.is_empty(), "{} writes failed; the first: {first}", wrong.len());
        let errors = self.pgbench.as_ref().map_or_else(Vec::new, Pgbench::complaints);
        let first = errors.first().cloned().unwrap_or_default();
        ensure!(errors.is_empty(), "pgbench's clients met {} errors; the first: {first}", errors.len());
        self.figures.push("no client saw an error".to_owned());
        Ok(())
    }

    fn explained(&mut self, on: Option<&Target>, text: &str, within: Duration) -> Result<()> {
        let only = on.map(|target| self.one(target)).transpose()?;
        self.wait(within, &format!("`explain` says {text:?}"), |player| {
            let members = player.cluster.data_members();
            members.filter(|member| only.as_deref().is_none_or(|name| name == member.name())).any(|member| {
                let decisions =
                    control::explain(&member.site.control_socket(), DECISIONS).unwrap_or_default();
                let newer = decisions.iter().filter(|explanation| explanation.view.now >= player.mark);
                newer.flat_map(|explanation| &explanation.because).any(|sentence| sentence.contains(text))
            })
        })
    }

    /// What a member has logged since the story began.
    fn log_of(&self, name: &str) -> Result<String> {
        let before = self.before.as_ref().and_then(|before| before.logs.get(name).copied());
        Ok(journal::since(&self.cluster.member(name)?.site.log(), before.unwrap_or(0)))
    }

    fn rung(&mut self, of: &Target, rungs: &[Rung]) -> Result<()> {
        let name = self.one(of)?;
        let found =
            journal::rejoin(&self.log_of(&name)?).with_context(|| format!("{name} has not come back"))?;
        self.figures.push(format!("{name} by {found}"));
        ensure!(rungs.contains(&found.rung), "{name} came back by {found}");
        Ok(())
    }

    fn answer(&mut self, on: &Target, statement: &str, answer: &str) -> Result<()> {
        let name = self.one(on)?;
        let site = &self.cluster.member(&name)?.site;
        let rows = sql::query(&sql::administration(site), statement, SQL_PATIENCE)?;
        let found = rows.iter().map(|row| row.join("|")).collect::<Vec<_>>().join("\n");
        ensure!(found == answer, "{name} answers {found:?} to {statement:?} instead of {answer:?}");
        Ok(())
    }

    /// The end: everybody stops, every member comes back, and the books are checked.
    fn rows(&mut self, some_lost: bool) -> Result<()> {
        self.pgbench = None;
        let history = self.client.stop();
        self.cluster.wait_whole(GRACE)?;
        let verdict = check::rows(self.cluster, self.client.number, &history)?;
        self.figures.push(verdict.to_string());
        ensure!(verdict.acknowledged > 0, "the client has written nothing");
        ensure!(
            verdict.duplicated.is_empty() && verdict.lost.is_empty() != some_lost,
            "{verdict}; lost: {:?}; duplicated: {:?}",
            verdict.lost,
            verdict.duplicated
        );
        if let Some(local) = &mut self.local {
            let (number, history) = (local.number, local.stop());
            let verdict = check::rows(self.cluster, number, &history)?;
            self.figures.push(format!("on the old primary's node: {verdict}"));
            ensure!(verdict.is_good(), "on the old primary's node: {verdict}; lost: {:?}", verdict.lost);
        }
        check::same_everywhere(self.cluster)
    }
}
