//! Where the virtual address is, held against where it should be.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Target;
use super::play::Player;
use crate::addresses::AddressWatch;
use crate::{clock, interrupt};

impl Player<'_> {
    fn address_watch(&self) -> Result<&AddressWatch> {
        self.addresses
            .as_ref()
            .context("there is no virtual address; begin with `clients by the virtual address`")
    }

    pub(super) fn address_at(&mut self, who: &Target, within: Duration) -> Result<()> {
        let name = self.one(who)?;
        let has = |player: &Player<'_>| {
            player.address_watch().is_ok_and(|watch| watch.sightings().holder() == Some(name.as_str()))
        };
        self.wait(within, &format!("{name} has the virtual address"), has)?;
        let since = self.address_watch()?.sightings().since(&name).context("it has gone again")?;
        // It may have been there before the event.
        if since > self.mark {
            self.figures
                .push(format!("address at {name} after {:.2} s", since.since(self.mark).as_secs_f64()));
        }
        Ok(())
    }

    pub(super) fn address_left(&mut self, who: &Target, within: Duration) -> Result<()> {
        let name = self.one(who)?;
        let has_not =
            |player: &Player<'_>| player.address_watch().is_ok_and(|watch| !watch.sightings().has(&name));
        self.wait(within, &format!("{name} has no virtual address any more"), has_not)?;
        let until = self.address_watch()?.sightings().until(&name).context("it never had it")?;
        self.figures
            .push(format!("address gone from {name} after {:.2} s", until.since(self.mark).as_secs_f64()));
        Ok(())
    }

    pub(super) fn address_gap(&mut self, below: Duration) -> Result<()> {
        let below = self.slackened(below);
        interrupt::pause(clock::now().until(self.mark.plus(below)))?;
        let gap = self.address_watch()?.sightings().longest_gap(self.mark, clock::now());
        self.figures.push(format!("no address for {:.2} s", gap.as_secs_f64()));
        ensure!(
            gap < below,
            "nobody had the address for {:.2} s; the bar is {:.2} s",
            gap.as_secs_f64(),
            below.as_secs_f64()
        );
        Ok(())
    }

    pub(super) fn one_address_holder(&mut self) -> Result<()> {
        let sightings = self.address_watch()?.sightings();
        ensure!(sightings.looks > 0, "nobody has looked");
        if let Some(double) = &sightings.double {
            anyhow::bail!("two members had the address at the same time: {double}");
        }
        self.figures.push(format!("one holder in {} looks", sightings.looks));
        Ok(())
    }
}
