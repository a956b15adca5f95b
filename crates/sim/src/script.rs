//! Sequences of faults that chance hardly finds: each is what one rule is there for.
//!
//! A script waits for what it needs; where a seed does not get there it does nothing more, and the run ends as any other.

mod forced;
mod lease;
mod promotion;
mod rejoin;

use std::time::Duration;

use mainstay_core::Epoch;
use mainstay_core::record::Phase;

use crate::fault::Fault;
use crate::queue::{SECOND, Time};
use crate::world::World;

/// A sequence of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Script {
    /// A primary is lost for good before anyone has its timeline.
    LostBeforeAttached,
    /// The holder of a grant is promoted by hand in the instant before its guard would do it.
    PromotedByHandUnderGrant,
    /// A sealed standby is promoted by hand before the next primary is open.
    PromotedByHandWhenSealed,
    /// Voters say that a lease has run out; one is started anew, and the holder, with a new guard, reaches it first.
    RenewedAfterRunOut,
    /// The same with the guard that knows better.
    RenewedAtOldGuard,
    /// An epoch ends while a standby is still being told to follow its primary, which goes on in secret.
    EndedWhileFollowing,
    /// A voter diverges, then the primary's directory is lost.
    VoterDiverges,
    /// A standby that was away for several promotions comes back to a primary that is a copy itself.
    BackToCopy,
    /// The only voter left lags behind when its companion and then the primary are lost.
    LaggardLeftAlone,
    /// The only voter with the newest commits is replaced by an older state, then the primary is lost.
    VoterRestored,
    /// A grant reaches its holder when its time is over, and nobody hears the holder.
    GrantHeldUp,
    /// A grant that came too late is given back, and that is written down late.
    EndHeldUp,
    /// Changes of the sync set arrive late, and again.
    ChangesComeLate,
    /// A member dies in the middle of a rewind.
    KilledInRewind,
    /// A member dies between promising whom to follow and telling PostgreSQL.
    KilledBeforeTelling,
    /// A standby is cut off for longer than a minute.
    LongCut,
    /// An operator accepts a loss for a member, whose directory is replaced by an older one before it is promoted.
    ForcedThenRestored,
    /// An operator accepts a loss for a member, and its promotion fails.
    ForcedOnce,
}

impl Script {
    pub const ALL: &[Script] = &[
        Script::LostBeforeAttached,
        Script::PromotedByHandUnderGrant,
        Script::PromotedByHandWhenSealed,
        Script::RenewedAfterRunOut,
        Script::RenewedAtOldGuard,
        Script::EndedWhileFollowing,
        Script::VoterDiverges,
        Script::BackToCopy,
        Script::LaggardLeftAlone,
        Script::VoterRestored,
        Script::GrantHeldUp,
        Script::EndHeldUp,
        Script::ChangesComeLate,
        Script::KilledInRewind,
        Script::KilledBeforeTelling,
        Script::LongCut,
        Script::ForcedThenRestored,
        Script::ForcedOnce,
    ];

    /// Its name, as it is written on the command line.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// The script of that name.
    pub fn by_name(name: &str) -> Option<Script> {
        Script::ALL.iter().copied().find(|script| script.name() == name)
    }

    pub(crate) fn lease(self) -> Duration {
        match self {
            Script::EndedWhileFollowing
            | Script::LaggardLeftAlone
            | Script::VoterRestored
            | Script::ForcedThenRestored
            | Script::ForcedOnce => Duration::from_secs(1),
            _ => Duration::from_secs(3),
        }
    }

    pub(crate) fn play(self, world: &mut World) {
        let Some(primary) = world.primary() else { return };
        let played = match self {
            Script::LostBeforeAttached => world.lost_before_attached(primary),
            Script::PromotedByHandUnderGrant => world.promoted_by_hand_under_grant(primary),
            Script::PromotedByHandWhenSealed => world.promoted_by_hand_when_sealed(primary),
            Script::RenewedAfterRunOut => world.renewed_after_run_out(primary, true),
            Script::RenewedAtOldGuard => world.renewed_after_run_out(primary, false),
            Script::EndedWhileFollowing => world.ended_while_following(primary),
            Script::VoterDiverges => world.voter_diverges(primary),
            Script::BackToCopy => world.back_to_copy(primary),
            Script::LaggardLeftAlone => world.laggard_left_alone(primary),
            Script::VoterRestored => world.voter_restored(primary),
            Script::GrantHeldUp => world.grant_held_up(primary),
            Script::EndHeldUp => world.end_held_up(primary),
            Script::ChangesComeLate => world.changes_come_late(primary),
            Script::KilledInRewind => world.killed_in_rewind(primary),
            Script::KilledBeforeTelling => world.killed_before_telling(primary),
            Script::LongCut => world.long_cut(primary),
            Script::ForcedThenRestored => world.forced_then_restored(primary),
            Script::ForcedOnce => world.forced_once(primary),
        };
        world.observer.played = played.is_some();
        if played.is_none() {
            world.note(primary, || "the script was not played to its end".to_owned());
        }
    }
}

/// Goes on only if it came to that.
fn reached(came: bool) -> Option<()> {
    came.then_some(())
}

impl World {
    /// The two machines beside `machine`.
    fn others(&self, machine: usize) -> (usize, usize) {
        ((machine + 1) % 3, (machine + 2) % 3)
    }

    fn run_for(&mut self, time: Time) {
        self.run_until(self.now + time);
    }

    fn epoch(&self) -> Epoch {
        self.observer.record.epoch
    }

    /// The machine of the newest tenure once the record is past `epoch` and `open`, or only granted.
    fn run_to_tenure(&mut self, epoch: Epoch, open: bool, limit: Time) -> Option<usize> {
        let wanted = if open { Phase::Open } else { Phase::Granted };
        reached(self.run_to(limit, |world| {
            world.observer.record.epoch > epoch && world.observer.record.phase == wanted
        }))?;
        let holder = self.observer.record.tenure()?.holder.clone();
        self.machine_of(&holder)
    }

    /// Every link of `machine`, in both directions.
    fn cut_off(&mut self, machine: usize, cut: bool) {
        for other in (0..self.network.nodes()).filter(|other| *other != machine) {
            self.link(machine, other, cut);
        }
    }

    fn link(&mut self, one: usize, other: usize, cut: bool) {
        for (from, to) in [(one, other), (other, one)] {
            self.fault(if cut { Fault::Cut { from, to } } else { Fault::Join { from, to } });
        }
    }

    /// The cluster becomes whole again.
    fn run_to_whole(&mut self) -> Option<()> {
        reached(self.run_while(60 * SECOND, |world| world.is_whole()))
    }
}
