//! Actions, carried out. Each is safe to repeat, and nothing here decides what comes next.

use std::sync::Arc;
use std::time::Duration;

use mainstay_core::action::{Action, Job, Kill};
use mainstay_core::record::{Applied, Command, Phase};
use mainstay_core::view::View;
use mainstay_core::{Epoch, Incarnation, Now};
use tracing::{debug, warn};

use super::{Event, MainLoop};
use crate::machinery::failed;

/// How long a command may take to be applied before it is proposed anew.
const PROPOSAL_PATIENCE: Duration = Duration::from_millis(1_000);
/// A kill that has not ended everything is repeated this often.
const KILL_INTERVAL: Duration = Duration::from_secs(1);
/// How long the sending time of a request for the lease is remembered.
const REQUESTS_KEPT: Duration = Duration::from_secs(60);

impl MainLoop {
    pub(super) fn perform(&mut self, action: &Action, view: &View) {
        match action {
            // The log's own members follow the record's: one that they still count must not vanish from it.
            Action::Propose(Command::Remove { member }) if self.votes_in_the_log(member) => {}
            Action::Propose(command) => self.propose(command.clone()),
            Action::RequestGrant { epoch, incarnation } => self.request_grant(*epoch, *incarnation, view.now),
            Action::ReadRecord => self.read_record(),
            Action::Relinquish { epoch } => {
                self.lease.relinquish(*epoch);
                self.addresses.relinquished(*epoch);
            }
            Action::Kill { why } => self.kill(*why, view.now),
            Action::Run(Job::StopForSwitchover { .. } | Job::StopInPlace { .. })
                if self.upkeep_lane.current().is_some() =>
            {
                // It would open the gate, or change the names, behind the back of what shuts them.
                self.upkeep_lane.call_off();
            }
            Action::Run(job) if self.under_way.stopping_since.is_none() => self.run_lane.want(job),
            Action::Upkeep(job) if self.under_way.stopping_since.is_none() => self.upkeep(job),
            Action::Run(_) | Action::Upkeep(_) => {}
            Action::EndWalsender { pid } => self.end_walsender(*pid),
        }
    }

    fn upkeep(&mut self, job: &Job) {
        if let Job::SetNames { .. } = job
            && self.upkeep_lane.current().is_none()
        {
            // Until it is done several values may be acted on.
            self.facts.names = None;
        }
        self.upkeep_lane.want(job);
    }

    pub(super) fn propose(&mut self, command: Command) {
        if self.under_way.proposals.contains(&command) {
            return;
        }
        self.under_way.proposals.push(command.clone());
        let (proposer, events) = (self.proposer.clone(), self.events.clone());
        tokio::spawn(async move {
            let result =
                proposer.propose(&command, PROPOSAL_PATIENCE).await.map_err(|error| error.to_string());
            let _ = events.send(Event::Proposed(command, result));
        });
    }

    pub(super) fn proposed(&mut self, command: &Command, result: Result<Applied, String>) {
        self.under_way.proposals.retain(|waiting| waiting != command);
        match result {
            Ok(Applied::Done | Applied::Already) => {}
            Ok(Applied::Refused(refusal)) => debug!(%refusal, "the record refused a command"),
            Err(error) => debug!(%error, "a command did not reach the record"),
        }
    }

    /// The deadline of a granted lease counts from here.
    fn request_grant(&mut self, epoch: Epoch, incarnation: Incarnation, now: Now) {
        let me = self.facts.me.clone();
        let asked =
            |command: &Command| matches!(command, Command::Grant { epoch: asked, .. } if *asked == epoch);
        if self.under_way.proposals.iter().any(asked) {
            return;
        }
        let request = now.0;
        self.facts.requests.retain(|_, at| now.since(*at) < REQUESTS_KEPT);
        self.facts.requests.insert(request, now);
        self.propose(Command::Grant { epoch, holder: me, incarnation, request });
    }

    fn read_record(&mut self) {
        if std::mem::replace(&mut self.under_way.reading, true) {
            return;
        }
        let (store, events) = (self.store.clone(), self.events.clone());
        tokio::spawn(async move {
            let event = match store.linearize(PROPOSAL_PATIENCE).await {
                Ok(_) => Event::Confirmed(store.watch().borrow().machine.record.epoch),
                Err(error) => {
                    debug!(%error, "the record is not confirmed");
                    Event::ReadFailed
                }
            };
            let _ = events.send(event);
        });
    }

    fn kill(&mut self, why: Kill, now: Now) {
        if self.under_way.killing_since.is_some_and(|since| now.since(since) < KILL_INTERVAL) {
            return;
        }
        self.under_way.killing_since = Some(now);
        warn!("ending PostgreSQL at once: {why}");
        self.run_lane.call_off();
        self.upkeep_lane.call_off();
        let machinery = Arc::clone(&self.machinery);
        tokio::spawn(async move {
            let killed = match machinery.guard() {
                Ok(guard) => guard.kill().await.map(|_| ()).map_err(failed),
                Err(error) => Err(error),
            };
            if let Err(error) = killed {
                warn!("PostgreSQL was not ended: {error}");
            }
            machinery.read_guard_again();
        });
    }

    fn end_walsender(&self, pid: u32) {
        let machinery = Arc::clone(&self.machinery);
        tokio::spawn(async move {
            let Ok(session) = machinery.session().await else { return };
            if let Err(error) = session.terminate_backends(&[pid.cast_signed()]).await {
                debug!(%error, "a walsender was not ended");
            }
        });
    }

    /// Whoever leads the store of a new cluster writes down who the cluster is.
    pub(super) fn create_cluster(&mut self) {
        if self.facts.record.format == 0 && self.facts.leads {
            self.propose(self.machinery.configuration.create_command());
        }
    }
}

/// Whether something is under way that the next look should not miss.
pub(super) fn is_busy(view: &View) -> bool {
    let open = view.record.phase == Phase::Open;
    let mine = view.record.primary() == Some(&view.me);
    let streams = view.running().is_some_and(|running| running.streaming.is_some());
    match view.running() {
        None => false,
        Some(_) if !open => true,
        Some(_) if mine => !view.gate_open || view.upkeep.is_some(),
        Some(running) => !streams && running.opened.is_none(),
    }
}
