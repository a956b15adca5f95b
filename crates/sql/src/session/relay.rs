//! Bytes from one side to the other, as long as nothing has to be waited for.

use std::rc::Rc;
use std::task::{Context, Poll};

use mainstay_pgwire::backend;

use super::told::Held;
use super::{Session, Step};
use crate::server::Server;
use crate::settings::PoolMode;
use crate::worker::Activity;

/// What a client may send ahead while it waits for a server. More is left in its socket.
const MOST_AHEAD_BYTES: usize = 64 * 1024;

impl Session {
    /// Moves what can be moved now.
    pub(super) fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        let worker = Rc::clone(&self.worker);
        let mut input = worker.input.borrow_mut();
        worker.tick();
        // A socket that has nothing wakes us when it has: it is not asked again until then.
        let (mut client_waits, mut server_waits) = (false, false);
        // The clock is read once for each batch.
        let mut is_now = true;
        loop {
            // What was left when the session had to wait.
            if self.has_backlog && self.may_send(context) {
                self.has_backlog = false;
                if let Err(step) = self.take_client(context, &[]) {
                    return Poll::Ready(step);
                }
            }
            if self.client.is_clogged()
                && let Poll::Ready(Err(_)) = self.client.poll_drain(context)
            {
                return Poll::Ready(Step::Ended(None));
            }
            let mut has_moved = false;
            if let Some(server) = self.server.as_mut() {
                if server.connection.is_clogged()
                    && worker.routing.may_send(&server.backend, self.entry.key.access, worker.now())
                    && let Poll::Ready(Err(error)) = server.connection.poll_drain(context)
                {
                    return Poll::Ready(Step::ServerLost(error.to_string()));
                }
                if !self.client.is_clogged() && !server_waits {
                    match server.connection.poll_read(context, &mut input) {
                        Poll::Ready(Ok(read)) if read > 0 => {
                            has_moved = true;
                            if !is_now {
                                worker.tick();
                            }
                            if let Err(step) = self.take_server(context, &input[..read]) {
                                return Poll::Ready(step);
                            }
                        }
                        Poll::Ready(end) => {
                            let why = end.err().map(|error| error.to_string()).unwrap_or_default();
                            return Poll::Ready(Step::ServerLost(why));
                        }
                        Poll::Pending => server_waits = true,
                    }
                }
            }
            if self.listens(context) && !client_waits {
                let had_server = self.server.is_some();
                match self.client.poll_read(context, &mut input) {
                    Poll::Ready(Ok(read)) if read > 0 => {
                        has_moved = true;
                        if let Err(step) = self.take_client(context, &input[..read]) {
                            return Poll::Ready(step);
                        }
                        // One that comes from the pool was found to have nothing.
                        server_waits |= !had_server;
                    }
                    Poll::Ready(_) => return Poll::Ready(Step::Ended(None)),
                    Poll::Pending => client_waits = true,
                }
            }
            if matches!(self.held, Held::Waits { .. }) && self.read_ahead(context, &mut input).is_ready() {
                return Poll::Ready(Step::Ended(None));
            }
            if !has_moved {
                return self.tell_heard(context);
            }
            // Before anything more is sent to a server, and else when something has come.
            is_now = !client_waits;
            if is_now {
                worker.tick();
            }
        }
    }

    /// Whether anything may be taken from the client: its server takes it, and may still be sent something.
    fn listens(&self, context: &Context<'_>) -> bool {
        self.may_send(context) && self.server.as_ref().is_none_or(|server| !server.connection.is_clogged())
    }

    /// Whether anything may be sent to its server, if it has one.
    fn may_send(&self, context: &Context<'_>) -> bool {
        match &self.server {
            None => true,
            Some(server)
                if self.worker.routing.may_send(
                    &server.backend,
                    self.entry.key.access,
                    self.worker.now(),
                ) =>
            {
                !matches!(self.held, Held::Waits { .. })
            }
            // The lease may have run out. Either it is renewed, or the connection is ended by whoever hears of another primary.
            Some(_) => {
                self.worker.routing.wake_on_news(context.waker());
                false
            }
        }
    }

    /// Reads ahead; `Ready(None)` if the client has gone.
    pub(super) fn read_while_waiting<T>(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let worker = Rc::clone(&self.worker);
        self.read_ahead(context, &mut worker.input.borrow_mut()).map(|()| None)
    }

    /// `Ready` if the client has gone.
    fn read_ahead(&mut self, context: &mut Context<'_>, input: &mut [u8]) -> Poll<()> {
        while self.client.rest.len() < MOST_AHEAD_BYTES {
            match self.client.poll_read(context, input) {
                Poll::Ready(Ok(read)) if read > 0 => self.client.rest.extend_from_slice(&input[..read]),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    /// A server that is idle and has the client's settings already.
    #[inline]
    pub(super) fn link_now(&mut self, context: &mut Context<'_>) -> bool {
        let Some(server) = self.pool.idle_now(&self.worker, &self.wanted, context) else { return false };
        if self.is_ready_made(&server) {
            self.link(server);
            return true;
        }
        self.pool.release(&self.worker, server);
        false
    }

    /// After each `ReadyForQuery`: whether the session lets go of its server.
    #[inline]
    pub(super) fn at_ready(&mut self) -> Result<(), Step> {
        if self.spoken.is_some() {
            self.log_slow();
        }
        let Some(server) = self.server.as_ref() else { return Ok(()) };
        if !server.is_at_rest() {
            return self.at_ready_in_transaction();
        }
        // It waits for the rest of a message that it will throw away.
        if self.passing > 0 {
            return Ok(());
        }
        if self.worker.is_closing.get() {
            return Err(Step::Ended(Some(crate::refusal::shutting_down())));
        }
        if self.inspects && !self.is_dedicated {
            return Err(Step::Inspect);
        }
        self.unlink();
        Ok(())
    }

    fn at_ready_in_transaction(&self) -> Result<(), Step> {
        let is_open = |server: &Server| server.status != backend::IDLE && server.expected.is_empty();
        if !self.server.as_ref().is_some_and(|server| is_open(server)) {
            return Ok(());
        }
        self.entry.set(Activity::InTransaction, self.worker.now());
        if self.pool.settings.get().pool_mode == PoolMode::Statement {
            let report = mainstay_pgwire::backend::Report::fatal(
                "25001",
                "transaction blocks are not allowed in statement pooling mode",
            );
            return Err(Step::Ended(Some(report.hint("Set pool_mode = \"transaction\" in [sql_proxy]."))));
        }
        Ok(())
    }
}
