//! What a new client is told of its server.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use mainstay_pgwire::backend::Report;

use super::prepare;
use crate::pool::PoolKey;
use crate::refusal;
use crate::session_settings::SessionSettings;
use crate::stream::Connection;
use crate::worker::{Reported, Worker};

/// What a client with these settings is told of its server. The first one of its kind needs a server for that, the others
/// are told the same.
pub(crate) async fn greeting(
    worker: &Rc<Worker>,
    connection: &mut Connection,
    key: &PoolKey,
    base: &SessionSettings,
) -> Result<Reported, Report> {
    let pool = worker.pool(key);
    loop {
        if let Some(known) = worker.greeting(key, base) {
            return Ok(known);
        }
        let mut given = pool.wait(worker);
        let outcome = poll_fn(|context| {
            if let Poll::Ready(outcome) = std::pin::Pin::new(&mut given).poll(context) {
                return Poll::Ready(Some(outcome));
            }
            let mut chunk = [0; 256];
            match connection.poll_read(context, &mut chunk) {
                // It says nothing while it waits to be greeted; one that does is told of it by whoever reads next.
                Poll::Ready(Ok(read)) if read > 0 => {
                    connection.rest.extend_from_slice(&chunk[..read]);
                    Poll::Pending
                }
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        let Some(outcome) = outcome.await else {
            pool.leave(worker, given);
            return Err(refusal::killed("the client has gone"));
        };
        let server = match outcome {
            Ok(server) => server?,
            Err(_) => return Err(refusal::shutting_down()),
        };
        match prepare(&pool, worker, server, base).await {
            Ok(server) => {
                worker.keep_greeting(key, base, server.parameters.clone());
                pool.release(worker, server);
            }
            Err(Some(report)) => return Err(report),
            Err(None) => {}
        }
    }
}
