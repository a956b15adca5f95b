//! Machines that become members: joining, and taking a dead one's place.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Target;
use super::play::{LOOK_INTERVAL, Player};
use crate::{clock, founding, interrupt};

impl Player<'_> {
    pub(super) fn join(&mut self, machine: &Target, refused: Option<&str>) -> Result<()> {
        self.begin_event()?;
        let name = self.one(machine)?;
        let token = founding::next_token(self.cluster)?;
        self.mark = clock::now();
        let outcome = founding::join(self.cluster, &name, &token);
        let took = clock::now().since(self.mark).as_secs_f64();
        match (outcome, refused) {
            (Ok(()), None) => {
                self.figures.push(format!("{name} joined in {took:.1} s"));
                Ok(())
            }
            (Ok(()), Some(text)) => bail!("{name} was let in, and not refused with {text:?}"),
            (Err(error), Some(text)) if format!("{error:#}").contains(text) => self.nothing_is_left_of(&name),
            (Err(error), _) => Err(error),
        }
    }

    /// Who was refused is nobody, and its machine is as free as before.
    fn nothing_is_left_of(&self, name: &str) -> Result<()> {
        let member = self.cluster.member(name)?;
        let directory = &member.site.directory;
        ensure!(!directory.exists(), "{name} was refused and has left {}", directory.display());
        ensure!(member.processes().is_empty(), "{name} was refused and runs");
        let rows = self.cluster.status().context("nobody answers")?.members;
        ensure!(
            rows.iter().all(|row| row.name.as_str() != name),
            "{name} was refused and stands in the record"
        );
        Ok(())
    }

    pub(super) fn replace(&mut self, old: &Target, new: &Target) -> Result<()> {
        self.begin_event()?;
        let (old, new) = (self.one(old)?, self.one(new)?);
        self.mark = clock::now();
        founding::replace(self.cluster, &old, &new)
    }

    pub(super) fn founded(&mut self, within: Duration, most: u32) -> Result<()> {
        let founding = self.cluster.founding.as_ref().context("the cluster was not made by commands")?;
        let (begun, typed, made) = (founding.begun, founding.commands, founding.members);
        let deadline = begun.plus(within.mul_f64(self.slack));
        let cluster = &self.cluster;
        let whole = interrupt::wait_until(deadline, LOOK_INTERVAL, || {
            cluster.status().filter(|status| status.is_whole_with(made))
        })?;
        let took = clock::now().since(begun).as_secs_f64();
        if whole.is_none() {
            let reason = cluster.status().map_or_else(|| "nobody answers".to_owned(), |status| status.reason);
            bail!("{made} machines are not healthy {took:.1} s after `init` began: {reason}");
        }
        self.figures
            .push(format!("{made} machines healthy {took:.1} s after `init` began, by {typed} commands"));
        ensure!(typed <= most, "{typed} commands were typed; {most} are to be enough");
        Ok(())
    }
}
