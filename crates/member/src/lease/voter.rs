//! This member as a voter: it answers renewals from memory, and says for good when a lease has run out.

use std::time::Duration;

use mainstay_core::{Epoch, MemberId};
use mainstay_net::{Detached, Link};
use tracing::{debug, error, info};

use super::{QUESTION_INTERVAL, Question, Reply, Shared, ask};
use crate::clock;
use crate::promise::{Promises, durably};

/// Looked at at least so often, whatever the clocks of timers do while a machine sleeps.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Serves one peer's connection, straight from the reading task.
pub(super) fn serve(shared: Shared, incoming: Detached) {
    tokio::task::spawn_local(async move {
        let incoming = match incoming.attach() {
            Ok(incoming) => incoming,
            Err(error) => return debug!(%error, "a lease connection was lost on its way"),
        };
        let from = incoming.from().clone();
        if let Err(error) = incoming.serve_lease(|_, question| answer(&shared, question)).await {
            debug!(%from, %error, "a lease connection ended");
        }
    });
}

fn answer(shared: &Shared, question: &[u8]) -> Vec<u8> {
    let Ok(question) = serde_json::from_slice::<Question>(question) else { return Vec::new() };
    let mut inner = shared.borrow_mut();
    let reply = match question {
        Question::Renew { epoch } => Reply::Renewal(inner.grantor.renew(clock::now(), epoch)),
        Question::RunOut { epoch } => Reply::RunOut(inner.grantor.says_run_out(epoch)),
    };
    serde_json::to_vec(&reply).expect("a reply is representable in JSON")
}

/// Waits for the lease to run out here, makes that a promise, and then asks the other voters until the epoch has ended.
pub(super) async fn watch_run_out(shared: Shared, promises: Promises) {
    loop {
        let now = clock::now();
        let (run_out, wake_at) = {
            let mut inner = shared.borrow_mut();
            (inner.grantor.run_out(now), inner.grantor.wake_at())
        };
        match run_out {
            Some(epoch) => {
                if promise(&shared, &promises, epoch).await {
                    ask_the_others(&shared, epoch).await;
                } else {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
            }
            None => {
                let until = wake_at.map_or(LOOK_INTERVAL, |at| now.until(at));
                tokio::time::sleep(until.clamp(Duration::from_millis(1), LOOK_INTERVAL)).await;
            }
        }
    }
}

async fn promise(shared: &Shared, promises: &Promises, epoch: Epoch) -> bool {
    if shared.borrow().grantor.says_run_out(epoch) {
        return true;
    }
    let promises = promises.clone();
    match durably("the promise that a lease has run out", move || promises.say_run_out(epoch)).await {
        Ok(()) => {
            shared.borrow_mut().grantor.promise(epoch);
            info!(%epoch, "the lease has run out here");
            true
        }
        Err(error) => {
            error!(%epoch, %error, "cannot promise that the lease has run out; this voter stays silent");
            false
        }
    }
}

async fn ask_the_others(shared: &Shared, epoch: Epoch) {
    loop {
        let links: Vec<(MemberId, Link)> = {
            let mut inner = shared.borrow_mut();
            let over = inner.record.epoch != epoch || inner.record.tenure().is_none();
            if over {
                return;
            }
            let me = inner.me.clone();
            if inner.record.voters().any(|voter| *voter == me) {
                inner.run_out.insert(me);
            }
            inner.publish();
            inner.links.iter().map(|(voter, link)| (voter.clone(), link.clone())).collect()
        };
        for (voter, link) in links {
            let shared = shared.clone();
            tokio::task::spawn_local(async move {
                let answer = ask(&link, Question::RunOut { epoch }, QUESTION_INTERVAL * 4).await;
                let mut inner = shared.borrow_mut();
                if matches!(answer, Some(Reply::RunOut(true))) && inner.record.epoch == epoch {
                    inner.run_out.insert(voter);
                    inner.publish();
                }
            });
        }
        tokio::time::sleep(QUESTION_INTERVAL).await;
    }
}
