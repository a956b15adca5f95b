//! Work on the local server: each kind of [`Job`] in a file of its own, on a thread that may wait for the disk.
//!
//! Work makes no choices: what follows from its outcome, or its failure, is decided from the facts.

mod found;
mod names;
mod open;
mod rejoin;
mod restart;
mod stream;
mod switchover;

use std::sync::Arc;

use mainstay_core::Epoch;
use mainstay_core::action::Job;
use mainstay_core::sync::SyncSet;
use mainstay_core::view::Scan;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::machinery::{Machinery, WorkError};

/// What a finished piece of work has established.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    Sealed {
        epoch: Epoch,
        scan: Scan,
    },
    Names(SyncSet),
    GateOpen(Epoch),
    Checkpointed(Epoch),
    /// The restart and the turn for which the standby was stopped.
    StoppedFor(u64, u64),
}

/// The end of a piece of work; `None`: it was called off.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) job: Job,
    pub(crate) result: Option<Result<Outcome, WorkError>>,
}

struct Order {
    job: Job,
    cancelled: oneshot::Receiver<()>,
}

/// One thread that does one piece of work at a time.
pub(crate) struct Lane {
    orders: mpsc::UnboundedSender<Order>,
    /// What is under way, and how it is called off.
    current: Option<(Job, Option<oneshot::Sender<()>>)>,
}

impl Lane {
    pub(crate) fn start(
        name: &str,
        machinery: Arc<Machinery>,
        finished: mpsc::UnboundedSender<Finished>,
    ) -> std::io::Result<Lane> {
        let (orders, mut queue) = mpsc::unbounded_channel::<Order>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async move {
                while let Some(Order { job, mut cancelled }) = queue.recv().await {
                    let result = tokio::select! {
                        // Called off, or nobody is there any more.
                        _ = &mut cancelled => None,
                        result = carry_out(&machinery, &job) => Some(result),
                    };
                    log(&job, &result);
                    if finished.send(Finished { job, result }).is_err() {
                        return;
                    }
                }
            });
        })?;
        Ok(Lane { orders, current: None })
    }

    pub(crate) fn current(&self) -> Option<&Job> {
        self.current.as_ref().map(|(job, _)| job)
    }

    /// Does `job`, unless it is being done. Other work is called off first, and `job` has to be asked for again.
    pub(crate) fn want(&mut self, job: &Job) {
        match &mut self.current {
            None => {
                let (cancel, cancelled) = oneshot::channel();
                debug!(%job, "begins");
                self.current = Some((job.clone(), Some(cancel)));
                // The thread ends only with the process.
                let _ = self.orders.send(Order { job: job.clone(), cancelled });
            }
            Some((current, _)) if current == job => {}
            Some(_) => self.call_off(),
        }
    }

    pub(crate) fn call_off(&mut self) {
        if let Some((_, cancel)) = &mut self.current {
            cancel.take();
        }
    }

    pub(crate) fn finished(&mut self) {
        self.current = None;
    }
}

fn log(job: &Job, result: &Option<Result<Outcome, WorkError>>) {
    match result {
        None => debug!(%job, "called off"),
        Some(Ok(_)) => info!("done: {job}"),
        Some(Err(error)) => warn!("failed: {job}: {error}"),
    }
}

async fn carry_out(machinery: &Machinery, job: &Job) -> Result<Outcome, WorkError> {
    match job {
        Job::Initdb => found::initdb(machinery).await,
        Job::Start { .. } => stream::start(machinery).await,
        Job::Seal { epoch } => stream::seal(machinery, *epoch).await,
        Job::Follow { member, epoch } => stream::follow(machinery, member, *epoch).await,
        Job::Open { epoch, timeline, sync } => open::open(machinery, *epoch, *timeline, sync).await,
        Job::OpenGate { epoch } => open::open_gate(machinery, *epoch).await,
        Job::Checkpoint { epoch } => open::checkpoint(machinery, *epoch).await,
        Job::Rewind { member, epoch } => rejoin::rewind(machinery, member, *epoch).await,
        Job::Clone { member, epoch } => rejoin::clone(machinery, member, *epoch).await,
        Job::SetNames { sync, .. } => names::set(machinery, sync).await,
        Job::StopForSwitchover { to, .. } => switchover::stop(machinery, Some(to)).await,
        Job::StopForRestart { id, number } => restart::stop_standby(machinery, *id, *number).await,
        Job::StopInPlace { .. } => restart::stop_in_place(machinery).await,
    }
}
