//! This member as a voter: it answers renewals from memory, and says for good when a lease has run out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::{Epoch, MemberId};
use mainstay_net::{Detached, Link};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

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
        Question::Expired { epoch } => {
            let grantor = &inner.grantor;
            Reply::RunOut(grantor.says_run_out(epoch) || grantor.expired(clock::now()) == Some(epoch))
        }
        Question::RunOut { epoch } => Reply::RunOut(inner.grantor.says_run_out(epoch)),
    };
    serde_json::to_vec(&reply).expect("a reply is representable in JSON")
}

/// Waits for the lease to run out here and, at the same time, at a majority of the voters; makes that a promise, and then
/// asks the other voters until the epoch has ended.
pub(super) async fn watch_run_out(shared: Shared, promises: Promises) {
    loop {
        let now = clock::now();
        let (expired, wake_at) = {
            let grantor = &shared.borrow().grantor;
            (grantor.expired(now), grantor.wake_at())
        };
        match expired {
            Some(epoch) => {
                if is_agreed(&shared, epoch).await && promise(&shared, &promises, epoch).await {
                    ask_the_others(&shared, epoch).await;
                } else {
                    tokio::time::sleep(QUESTION_INTERVAL).await;
                }
            }
            None => {
                let until = wake_at.map_or(LOOK_INTERVAL, |at| now.until(at));
                tokio::time::sleep(until.clamp(Duration::from_millis(1), LOOK_INTERVAL)).await;
            }
        }
    }
}

/// Whether a majority of the voters finds that it has run out. A voter that is cut off alone goes on answering once it is
/// not: what it promised for good would leave the holder without it for the rest of the epoch.
async fn is_agreed(shared: &Shared, epoch: Epoch) -> bool {
    let mut answers = JoinSet::new();
    let (mut agreed, record) = {
        let inner = shared.borrow();
        if inner.grantor.says_run_out(epoch) {
            return true;
        }
        for (voter, link) in inner.links() {
            answers.spawn_local(async move {
                let answer = ask(&link, Question::Expired { epoch }, QUESTION_INTERVAL * 4).await;
                debug!(%voter, %epoch, ?answer, "asked whether the lease has run out");
                matches!(answer, Some(Reply::RunOut(true))).then_some(voter)
            });
        }
        let own = inner.votes().then(|| inner.me.clone());
        (own.into_iter().collect::<BTreeSet<MemberId>>(), Arc::clone(&inner.record))
    };
    // The holder that does not answer is not waited for.
    while !record.has_majority(|voter| agreed.contains(voter)) {
        match answers.join_next().await {
            Some(answer) => agreed.extend(answer.ok().flatten()),
            None => return false,
        }
    }
    true
}

async fn promise(shared: &Shared, promises: &Promises, epoch: Epoch) -> bool {
    if shared.borrow().grantor.says_run_out(epoch) {
        return true;
    }
    // From here on it is not answered; a renewal that came in meanwhile has won.
    if shared.borrow_mut().grantor.run_out(clock::now()) != Some(epoch) {
        return false;
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
        let (links, serial): (Vec<(MemberId, Link)>, u64) = {
            let mut inner = shared.borrow_mut();
            let over = inner.record.epoch != epoch || inner.record.tenure().is_none();
            if over {
                return;
            }
            if inner.votes() {
                let me = inner.me.clone();
                inner.run_out.insert(me);
            }
            inner.publish();
            (inner.links(), inner.record.membership.serial)
        };
        for (voter, link) in links {
            let shared = shared.clone();
            tokio::task::spawn_local(async move {
                let answer = ask(&link, Question::RunOut { epoch }, QUESTION_INTERVAL * 4).await;
                let mut inner = shared.borrow_mut();
                let same = inner.record.epoch == epoch && inner.record.membership.serial == serial;
                if matches!(answer, Some(Reply::RunOut(true))) && same {
                    inner.run_out.insert(voter);
                    inner.publish();
                }
            });
        }
        tokio::time::sleep(QUESTION_INTERVAL).await;
    }
}

/// Makes durable which change of the voters this member has seen: only then may the lease be said to rest on it.
pub(super) async fn keep_seen(shared: Shared, promises: Promises) {
    loop {
        let (seen, durable) = (shared.borrow().seen, shared.borrow().durable);
        if seen > durable {
            let promises = promises.clone();
            match durably("the note of who votes", move || promises.saw_voters(seen)).await {
                Ok(()) => {
                    let mut inner = shared.borrow_mut();
                    inner.durable = seen;
                    inner.publish();
                }
                Err(error) => warn!(%error, "cannot write down who votes; the old voters are asked still"),
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
