//! Requests to cancel: found by the number that the client was given, sent on to the PostgreSQL that runs its statement.

use std::rc::Rc;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::dial::{DialError, connect};
use crate::server::Backend;
use crate::settings::within;
use crate::stream::Connection;
use crate::worker::{CancelRequest, Worker};

/// Hands a request to the worker that has the client.
pub(crate) fn route(worker: &Worker, request: CancelRequest) {
    let workers = worker.shared.cancels.len();
    let index = usize::try_from(request.pid).unwrap_or(0) % workers.max(1);
    if let Some(other) = worker.shared.cancels.get(index) {
        let _ = other.send(request);
    }
}

/// Sends on what comes for this worker's clients, and never returns.
pub(crate) async fn attend(worker: Rc<Worker>, mut requests: UnboundedReceiver<CancelRequest>) {
    while let Some(request) = requests.recv().await {
        let Some(entry) = worker.to_cancel(&request) else { continue };
        entry.is_cancelled.set(true);
        // The wait of a commit for its standbys is not cancelled: it would be a commit that may be lost.
        if entry.is_committing.get() {
            continue;
        }
        let backend = entry.backend.borrow().clone();
        if let Some(backend) = backend {
            // Later than this it has missed its statement.
            let patience = worker.settings().cancel_wait_timeout;
            let worker = Rc::clone(&worker);
            backend.cancel_begins();
            tokio::task::spawn_local(async move {
                within(patience, send(&worker, &backend)).await;
                backend.cancel_arrived();
            });
        }
    }
}

/// Sends it, and waits until PostgreSQL closes the connection: then it has been acted upon.
async fn send(worker: &Worker, backend: &Backend) -> Result<(), DialError> {
    let mut message = Vec::with_capacity(16);
    let length = u32::try_from(12 + backend.secret.len()).unwrap_or(16);
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&80_877_102u32.to_be_bytes());
    message.extend_from_slice(&backend.pid.to_be_bytes());
    message.extend_from_slice(&backend.secret);
    let mut connection = Connection::new(connect(&backend.place, worker.server_tls.as_ref()).await?);
    connection.queue(&message);
    connection.flush().await?;
    // Nothing comes but the end.
    let _ = connection.take(1).await;
    Ok(())
}
