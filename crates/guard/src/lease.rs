//! What the guard knows of the lease: one armed epoch with its deadline, and the epoch that the server was opened under.
//!
//! Pure: the clock comes in as a number. It lives in memory only, and that is deliberate. A guard that starts anew kills
//! what an earlier one left and knows of no epoch, so nothing can be open that it would have to end; a deadline read back
//! from a disk could only be older than the truth, or, after a reboot, belong to another clock altogether.

use crate::protocol::{ArmedStatus, Refusal};

/// A lease lasts from one second to minutes. A deadline further away than this is a mistake of units or of clocks, and
/// would leave a server without its fence.
const FURTHEST_DEADLINE_NS: u64 = 3_600 * 1_000_000_000;

#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// The newest epoch ever armed; it stays here when it is void, so that it is never armed again.
    armed: Option<Armed>,
    /// Invariant: while this is set, `armed` is of the same epoch.
    opened: Option<u64>,
    last_epoch_opened: Option<u64>,
}

#[derive(Debug)]
struct Armed {
    epoch: u64,
    deadline_ns: u64,
    /// The deadline has passed once. A late grant is void, so nothing makes this false again.
    void: bool,
}

impl Lease {
    /// Takes note of the time. True: a server is open past its deadline, and must be ended now.
    pub(crate) fn expire(&mut self, now_ns: u64) -> bool {
        if let Some(armed) = &mut self.armed
            && armed.deadline_ns <= now_ns
        {
            armed.void = true;
        }
        self.opened.is_some() && self.armed.as_ref().is_none_or(|armed| armed.void)
    }

    /// Arms `epoch`, or moves its deadline forward. Answers the deadline that now stands.
    pub(crate) fn arm(&mut self, epoch: u64, deadline_ns: u64, now_ns: u64) -> Result<u64, Refusal> {
        self.expire(now_ns);
        if let Some(armed) = &self.armed {
            if epoch < armed.epoch {
                return Err(Refusal::OlderEpoch { asked: epoch, newest: armed.epoch });
            }
            if epoch == armed.epoch && armed.void {
                return Err(Refusal::VoidEpoch { epoch });
            }
        }
        if let Some(opened) = self.opened
            && opened != epoch
        {
            return Err(Refusal::OpenedUnderOlder { opened, asked: epoch });
        }
        if deadline_ns <= now_ns {
            return Err(Refusal::DeadlinePassed { deadline_ns, now_ns });
        }
        if deadline_ns - now_ns > FURTHEST_DEADLINE_NS {
            return Err(Refusal::DeadlineTooFar { deadline_ns, now_ns });
        }
        match &mut self.armed {
            Some(armed) if armed.epoch == epoch => {
                armed.deadline_ns = armed.deadline_ns.max(deadline_ns);
                Ok(armed.deadline_ns)
            }
            _ => {
                self.armed = Some(Armed { epoch, deadline_ns, void: false });
                Ok(deadline_ns)
            }
        }
    }

    /// Whether a server may be opened under `epoch` at this moment.
    pub(crate) fn may_open(&mut self, epoch: u64, now_ns: u64) -> Result<(), Refusal> {
        self.expire(now_ns);
        if let Some(opened) = self.opened {
            return Err(Refusal::AlreadyOpened { epoch: opened });
        }
        match &self.armed {
            Some(armed) if armed.epoch == epoch && armed.void => Err(Refusal::VoidEpoch { epoch }),
            Some(armed) if armed.epoch == epoch => match self.last_epoch_opened {
                // Each opening has an epoch of its own, also one after a restart on the same machine.
                Some(last) if last >= epoch => Err(Refusal::AlreadyOpened { epoch: last }),
                _ => Ok(()),
            },
            other => Err(Refusal::NotArmed { asked: epoch, armed: other.as_ref().map(|armed| armed.epoch) }),
        }
    }

    /// From here on the deadline kills. Call it before the first byte that could open the server.
    pub(crate) fn set_opened(&mut self, epoch: u64) {
        self.opened = Some(epoch);
        self.last_epoch_opened = Some(epoch);
    }

    /// Nothing is left of the server.
    pub(crate) fn set_ended(&mut self) {
        self.opened = None;
    }

    /// When the guard has to wake up by itself.
    pub(crate) fn wake_at_ns(&self) -> Option<u64> {
        self.armed.as_ref().filter(|armed| !armed.void).map(|armed| armed.deadline_ns)
    }

    pub(crate) fn armed(&self) -> Option<ArmedStatus> {
        self.armed.as_ref().map(|armed| ArmedStatus {
            epoch: armed.epoch,
            deadline_ns: armed.deadline_ns,
            void: armed.void,
        })
    }

    pub(crate) fn opened(&self) -> Option<u64> {
        self.opened
    }

    pub(crate) fn last_epoch_opened(&self) -> Option<u64> {
        self.last_epoch_opened
    }
}

#[cfg(test)]
mod tests;
