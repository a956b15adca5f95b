//! Requests to cancel: found by the number that the client was given, sent on to the PostgreSQL that runs its statement. What no
//! client here fits goes once to the proxies of the other members: an address in front of them all leads anywhere.

use std::rc::Rc;
use std::time::Duration;

use mainstay_pgwire::frontend::cancel_request;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tracing::debug;

use crate::dial::{DialError, Place, connect};
use crate::settings::within;
use crate::stream::Connection;
use crate::worker::{ClientEntry, Worker};

/// What a client sends to have its statement cancelled.
#[derive(Debug)]
pub(crate) struct CancelRequest {
    pub(crate) pid: i32,
    pub(crate) secret: Vec<u8>,
    pub(crate) is_forwarded: bool,
    /// Goes with the request, when it has been acted upon.
    _done: oneshot::Sender<()>,
}

/// So many requests wait for other proxies at once; a stranger who makes them up gets no more out of it.
const MOST_FORWARDED: usize = 64;

const FORWARD_PATIENCE: Duration = Duration::from_secs(2);

/// Hands a request to the worker that has the client, and waits until it has been acted upon: a client that goes on when the
/// connection is closed must not have its next statement cancelled.
pub(crate) async fn route(worker: &Worker, pid: i32, secret: &[u8], is_forwarded: bool) {
    let workers = worker.shared.cancels.len();
    let index = usize::try_from(pid).unwrap_or(0) % workers.max(1);
    let (done, is_done) = oneshot::channel();
    if let Some(other) = worker.shared.cancels.get(index) {
        let _ = other.send(CancelRequest { pid, secret: secret.to_vec(), is_forwarded, _done: done });
    }
    let _ = is_done.await;
}

/// Acts upon what comes for this worker's clients, and never returns.
pub(crate) async fn attend(worker: Rc<Worker>, mut requests: UnboundedReceiver<CancelRequest>) {
    let forwarded = Rc::new(());
    while let Some(request) = requests.recv().await {
        if let Some(entry) = worker.to_cancel(&request) {
            cancel(&worker, &entry, request);
        } else if !request.is_forwarded && Rc::strong_count(&forwarded) <= MOST_FORWARDED {
            let (worker, counted) = (Rc::clone(&worker), Rc::clone(&forwarded));
            tokio::task::spawn_local(async move {
                forward(&worker, &request).await;
                drop(counted);
            });
        }
    }
}

/// Of a client of this worker.
fn cancel(worker: &Rc<Worker>, entry: &ClientEntry, request: CancelRequest) {
    entry.is_cancelled.set(true);
    // The wait of a commit for its standbys is not cancelled: it would be a commit that may be lost.
    if entry.is_committing.get() {
        return;
    }
    let backend = entry.backend.borrow().clone();
    if let Some(backend) = backend {
        // Later than this it has missed its statement.
        let patience = worker.settings().cancel_wait_timeout;
        let worker = Rc::clone(worker);
        backend.cancel_begins();
        tokio::task::spawn_local(async move {
            let message = cancel_request(backend.pid, &backend.secret, false);
            within(patience, send(&worker, &backend.place, &message)).await;
            backend.cancel_arrived();
            drop(request);
        });
    }
}

/// To all other proxies: only the one that has the client knows that it does.
async fn forward(worker: &Rc<Worker>, request: &CancelRequest) {
    let message: Rc<[u8]> = cancel_request(request.pid, &request.secret, true).into();
    // A member whose machine is gone must not keep the client waiting that has its answer.
    let limit = worker.settings().cancel_wait_timeout;
    let patience = if limit.is_zero() { FORWARD_PATIENCE } else { limit.min(FORWARD_PATIENCE) };
    let asked = worker.routing.routes().proxies.into_iter().map(|proxy| {
        let (worker, message) = (Rc::clone(worker), Rc::clone(&message));
        tokio::task::spawn_local(async move {
            match within(patience, send(&worker, &Place::Tcp(proxy), &message)).await {
                Some(Ok(())) => {}
                Some(Err(error)) => debug!(%proxy, ?error, "a request to cancel is not passed on"),
                None => debug!(%proxy, "a request to cancel is not passed on in time"),
            }
        })
    });
    let asked: Vec<_> = asked.collect();
    for one in asked {
        let _ = one.await;
    }
}

/// Sends it, and waits until the other side closes the connection: then it has been acted upon.
async fn send(worker: &Worker, place: &Place, message: &[u8]) -> Result<(), DialError> {
    let mut connection = Connection::new(connect(place, worker.server_tls.as_ref()).await?);
    connection.queue(message);
    connection.flush().await?;
    // Nothing comes but the end.
    let _ = connection.take(1).await;
    Ok(())
}
