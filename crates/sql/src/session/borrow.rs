//! A session's server: waited for, made what the client wants, given back, and made again when it is lost.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use mainstay_pgwire::backend::Report;

use super::Session;
use super::lost::Unanswered;
use crate::pool::Pool;
use crate::refusal;
use crate::server::{AskError, Server};
use crate::session_settings::{self, Pin, SessionSettings};
use crate::settings::PoolMode;
use crate::worker::{Activity, Worker};

impl Session {
    /// Waits for a server for what the client has sent.
    pub(super) async fn obtain(&mut self) -> Result<(), Option<Report>> {
        match self.wait_for_server().await? {
            Ok(()) => Ok(()),
            Err(report) => self.refuse(&report),
        }
    }

    /// Ties the session to another server as it was to the one that is gone. As long as the client asks for nothing it cannot be
    /// told that there is none.
    pub(super) async fn restore(&mut self) -> Result<(), Option<Report>> {
        loop {
            match self.wait_for_server().await? {
                Ok(()) => {}
                Err(report) if report.is_fatal() => return Err(Some(report)),
                Err(_) if self.client.rest.is_empty() => continue,
                // It has asked for something meanwhile.
                Err(_) => return Err(Some(refusal::session_lost(self.pin.map_or("", Pin::text)))),
            }
            let Some(server) = self.server.as_mut() else { continue };
            // On lines of their own: one may end in a comment.
            let outcome = server.ask(&self.restore.join("\n;\n")).await;
            let overheard = std::mem::take(&mut server.overheard);
            match outcome {
                Ok(_) => {
                    self.is_restoring = false;
                    self.client.queue(&overheard);
                    self.entry.set(Activity::Idle, self.worker.tick());
                    return Ok(());
                }
                Err(AskError::Lost(_)) => {
                    self.entry.backend.take();
                    if let Some(server) = self.server.take() {
                        self.pool.drop_server(&self.worker, server);
                    }
                }
                Err(AskError::Refused(_, message)) => {
                    tracing::warn!(message, "what a session had cannot be had again");
                    return Err(Some(refusal::session_lost(self.pin.map_or("", Pin::text))));
                }
            }
        }
    }

    /// Waits for a server, and reads on meanwhile, so that a client that goes is not waited for in vain: then the session ends.
    pub(super) async fn wait_for_server(&mut self) -> Result<Result<(), Report>, Option<Report>> {
        self.entry.set(Activity::Waits, self.worker.now());
        self.has_backlog = true;
        loop {
            let mut given = self.pool.wait(&self.worker);
            let outcome = poll_fn(|context| {
                if let Poll::Ready(outcome) = std::pin::Pin::new(&mut given).poll(context) {
                    return Poll::Ready(Some(outcome));
                }
                // What it has been told already it is to read meanwhile.
                if self.client.is_clogged()
                    && let Poll::Ready(Err(_)) = self.client.poll_drain(context)
                {
                    return Poll::Ready(None);
                }
                self.read_while_waiting(context)
            });
            let outcome = outcome.await;
            let Some(outcome) = outcome else {
                self.pool.leave(&self.worker, given);
                return Err(None);
            };
            // The sender lives as long as its pool.
            let server = match outcome {
                Ok(Ok(server)) => server,
                Ok(Err(report)) => return Ok(Err(report)),
                Err(_) => return Err(Some(refusal::shutting_down())),
            };
            self.worker.tick();
            if self.is_ready_made(&server) {
                self.link(server);
                return Ok(Ok(()));
            }
            match Box::pin(prepare(&self.pool, &self.worker, server, &self.wanted)).await {
                Ok(server) => {
                    self.link(server);
                    return Ok(Ok(()));
                }
                Err(Some(report)) => return Ok(Err(report)),
                Err(None) => {}
            }
        }
    }

    /// Whether a server is what the client wants, as it is.
    #[inline]
    pub(super) fn is_ready_made(&self, server: &Server) -> bool {
        Rc::ptr_eq(&server.current, &self.wanted) || server.current == self.wanted
    }

    pub(super) fn link(&mut self, mut server: Box<Server>) {
        server.current = Rc::clone(&self.wanted);
        *self.entry.backend.borrow_mut() = Some(Rc::clone(&server.backend));
        self.entry.set(Activity::Runs, self.worker.now());
        crate::counters::count(&self.pool.counters.assigned, 1);
        self.server = Some(server);
    }

    /// The transaction has ended: the server is somebody else's, unless something ties it to this session.
    pub(super) fn unlink(&mut self) {
        (self.may_commit, self.changes_meaning) = (false, false);
        if !self.unlistened.0.is_empty() {
            // It was named, and not done.
            self.unlistened = (Vec::new(), false);
        }
        self.entry.is_committing.set(false);
        self.unanswered = Unanswered::default();
        self.entry.set(Activity::Idle, self.worker.now());
        crate::counters::count(&self.pool.counters.transactions, 1);
        if self.pin.is_some() || self.is_dedicated || self.pool.settings.get().pool_mode == PoolMode::Session
        {
            return;
        }
        self.entry.backend.take();
        if let Some(server) = self.server.take() {
            self.pool.release(&self.worker, server);
        }
    }
}

fn settings_refused(sqlstate: &str, message: &str) -> Report {
    const KNOWN: [&str; 3] = ["42501", "42704", "55P02"];
    let code = KNOWN.into_iter().find(|known| *known == sqlstate).unwrap_or("22023");
    Report::error(code, format!("the session's settings cannot be had on this server: {message}"))
        .hint("RESET the parameter, or connect again without it.")
}

/// Makes the server's session what a client wants. `Err(None)`: the server is no good.
pub(super) async fn prepare(
    pool: &Rc<Pool>,
    worker: &Rc<Worker>,
    mut server: Box<Server>,
    wanted: &SessionSettings,
) -> Result<Box<Server>, Option<Report>> {
    let refused = match set(&mut server, wanted).await {
        Ok(()) => return Ok(server),
        Err(AskError::Lost(_)) => None,
        Err(AskError::Refused(sqlstate, message)) => Some(settings_refused(&sqlstate, &message)),
    };
    pool.drop_server(worker, server);
    Err(refused)
}

/// Gives the server the settings that the client wants.
pub(super) async fn set(server: &mut Server, wanted: &SessionSettings) -> Result<(), AskError> {
    if let Some(change) = session_settings::change(&server.current, wanted) {
        server.ask(&change).await?;
        server.current = Rc::clone(wanted);
    }
    Ok(())
}
