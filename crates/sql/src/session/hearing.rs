//! What a session hears that listens (`LISTEN`), and that it leaves it again.

use std::task::{Context, Poll};

use super::{Session, Step};
use crate::listening::{Listening, notification};
use crate::pool::Access;
use crate::refusal;
use crate::server::AskError;
use crate::session_settings::{self, Pin};
use crate::settings::PoolMode;
use crate::sql_text;
use crate::statements::Statement;

impl Session {
    /// Has the pool listen in place of the session's server, if that is of use.
    pub(super) async fn hand_over_channels(&mut self, channels: &[Box<str>]) -> Result<(), AskError> {
        let is_pooled = !self.is_dedicated && self.pool.settings.get().pool_mode == PoolMode::Transaction;
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        // One that keeps its server anyhow hears by it; and on a standby nobody can listen.
        let is_restorable = self.pin.is_some_and(Pin::is_restorable);
        if !is_pooled || !is_restorable || self.entry.key.access != Access::ReadWrite {
            return Ok(());
        }
        let subscription = self.listening.get_or_insert_default();
        self.tried = self.pool.listening.generation();
        if Listening::take_over(&self.pool, &self.worker, subscription, server, channels).await? {
            self.restore.retain(|statement| !session_settings::is_listen(statement));
            self.pin = Some(Pin::SqlPrepared).filter(|_| !self.restore.is_empty());
        }
        Ok(())
    }

    /// Appends what stands before it and what has come during the transaction that ends now, which PostgreSQL tells before it says
    /// that it is ready. False, and nothing, if nothing has come.
    #[inline]
    pub(super) fn push_heard(&self, output: &mut Vec<u8>, before: &[u8]) -> bool {
        let is_at_rest = self.server.as_ref().is_some_and(|server| server.is_at_rest());
        let Some(subscription) = self.listening.as_ref().filter(|_| is_at_rest) else { return false };
        let heard = subscription.take();
        if heard.is_empty() {
            return false;
        }
        output.extend_from_slice(before);
        output.extend_from_slice(&heard);
        true
    }

    /// Tells the client what has come, unless it is in the middle of something.
    #[inline]
    pub(super) fn tell_heard(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        let Some(subscription) = &self.listening else { return Poll::Pending };
        if subscription.has_overflowed() {
            let report = refusal::killed("the client does not read its notifications");
            return Poll::Ready(Step::Ended(Some(report)));
        }
        let is_at_rest = self.server.as_ref().is_none_or(|server| server.is_at_rest())
            && self.passing_back == 0
            && self.lost.is_none()
            && self.skips.is_none();
        subscription.wake_later(context.waker());
        if self.pin == Some(Pin::Listen) && is_at_rest {
            // It keeps its server only until there is somebody who listens for it.
            if self.pool.listening.generation() > self.tried {
                return Poll::Ready(Step::Inspect);
            }
            Listening::wake_when_there(&self.pool, &self.worker, context.waker());
        }
        if !is_at_rest || self.client.is_clogged() {
            return Poll::Pending;
        }
        match self.client.send(context, &subscription.take()) {
            Ok(()) => Poll::Pending,
            Err(_) => Poll::Ready(Step::Ended(None)),
        }
    }

    /// Whether a notification comes from elsewhere as well.
    pub(super) fn is_heard_elsewhere(&self, body: &[u8]) -> bool {
        let Some(subscription) = &self.listening else { return false };
        notification(body).is_some_and(|(channel, _)| subscription.hears(channel))
    }

    /// Keeps in mind what a statement leaves if it is done.
    pub(super) fn note_unlistened(&mut self, text: &[u8]) {
        if self.listening.is_some() {
            self.unlistened.0.extend(sql_text::unlistened(text));
        }
    }

    /// The same of a statement that was prepared; `None`: the unnamed one.
    pub(super) fn note_unlistened_bound(&mut self, statement: Option<&Statement>) {
        if self.listening.is_some() {
            let left = sql_text::unlistened(self.text_of(statement));
            self.unlistened.0.extend(left);
        }
    }

    /// A transaction has ended, and what it has left is left.
    pub(super) fn leave_channels(&mut self) {
        let (left, is_done) = std::mem::take(&mut self.unlistened);
        let Some(subscription) = self.listening.as_ref().filter(|_| is_done && !left.is_empty()) else {
            return;
        };
        subscription
            .leave(|channel| left.iter().any(|name| name.as_deref().is_none_or(|name| name == channel)));
        if subscription.is_empty() {
            self.listening = None;
        }
        self.pool.listening.recount();
    }
}
