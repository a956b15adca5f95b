//! The end of the proxy, and what it waits for.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::worker::Worker;

/// Clients whose transactions do not end are not waited for longer than this.
const DRAIN: Duration = Duration::from_secs(5);

const LOOK: Duration = Duration::from_millis(10);

/// Whether the proxy ends, and how. Each is more pressing than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Closing {
    No,
    /// Until all clients have gone by themselves.
    WhenClientsGone,
    /// Until their transactions have ended.
    WhenServersFree,
    /// The same, for a short while.
    Soon,
}

/// Tells the workers when `end` is over, or an administrator wants it, and waits until all of them are through.
pub(crate) async fn until_closed(
    end: impl Future<Output = io::Result<()>>,
    mut wanted: mpsc::UnboundedReceiver<Closing>,
    say: watch::Sender<Closing>,
) -> io::Result<()> {
    let mut end = std::pin::pin!(end);
    let mut outcome = None;
    loop {
        tokio::select! {
            ended = &mut end, if outcome.is_none() => {
                outcome = Some(ended);
                say.send_if_modified(|closing| press(closing, Closing::Soon));
            }
            Some(how) = wanted.recv() => {
                info!(?how, "an administrator ends the SQL proxy");
                say.send_if_modified(|closing| press(closing, how));
            }
            () = say.closed() => return outcome.unwrap_or(Ok(())),
        }
    }
}

/// What was asked for first counts, unless the other is more pressing.
fn press(closing: &mut Closing, how: Closing) -> bool {
    let presses = how > *closing;
    *closing = how.max(*closing);
    presses
}

/// Waits for a worker's clients, as long as they are to be waited for.
pub(crate) async fn let_go(worker: &Rc<Worker>, closing: &mut watch::Receiver<Closing>) {
    // Of all workers: whoever looks at the console of one sees to the clients of the others.
    let all_gone = async {
        while worker.shared.crew.ask(|worker| worker.client_count(false)).await.iter().sum::<usize>() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    let gone = async {
        while worker.client_count(true) > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = all_gone => {}
        _ = closing.wait_for(|closing| *closing > Closing::WhenClientsGone) => {}
    }
    worker.close();
    tokio::select! {
        () = gone => {}
        () = async {
            let _ = closing.wait_for(|closing| *closing == Closing::Soon).await;
            tokio::time::sleep(DRAIN).await;
        } => {}
    }
}
