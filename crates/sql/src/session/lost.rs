//! The server has gone while something was under way: what the client is told, and how it goes on.
//!
//! - Nothing under way: nothing is told, the next statement gets another server.
//! - A transaction in which no commit was sent: it is rolled back for certain. 40001, and the session waits for its `ROLLBACK`.
//! - A `BEGIN` was sent and not answered, and behind it nothing that would end what it begins: the same. One alone has failed, and
//!   leaves nothing to be rolled back.
//! - A commit, or another statement outside of a transaction, was sent and not answered: nobody knows. 08007.
//! - Something in the session that no other server has: if statements can make it there, they are run (`LISTEN`, `PREPARE`); else
//!   57P01, and the session ends.

use std::task::Context;

use mainstay_pgwire::backend::{self, Report};
use mainstay_pgwire::frame::string;

use super::told::Held;
use super::{Session, Step};
use crate::counters::count;
use crate::refusal;
use crate::sql_text::{self, Traits};
use crate::worker::Activity;

/// A transaction that is gone, and that the client has not ended yet.
pub(super) struct Lost {
    report: Report,
    /// What is bound is its end, in messages of the extended protocol, which are answered as PostgreSQL would.
    rolls_back: bool,
    /// It was ended by them. What follows before the `Sync` is of the next transaction.
    is_over: bool,
}

/// What was sent since the last transaction, as far as it tells whether anything can have been committed.
#[derive(Clone, Copy, Default)]
pub(super) struct Unanswered {
    /// Statements; more than two are not counted.
    count: u8,
    /// The first one was a `BEGIN`.
    begins: bool,
    /// It was executed before there was another.
    is_executed: bool,
    /// Another one may end what it begins, or be outside of it.
    ends: bool,
    /// How much the server had answered before.
    answered_ever: u64,
}

impl Session {
    /// Keeps in mind that a statement is executed.
    #[inline]
    pub(super) fn note_unanswered(&mut self, traits: Traits) {
        let sent = &mut self.unanswered;
        if sent.count == 0 {
            sent.begins = traits.begins;
            sent.answered_ever = self.server.as_ref().map_or(0, |server| server.answered_ever);
        }
        sent.ends |= traits.may_commit || traits.rolls_back || (sent.count == 1 && !sent.is_executed);
        sent.count = (sent.count + 1).min(2);
    }

    /// The same of an `Execute`. One that names a portal need not execute what was bound last.
    #[inline]
    pub(super) fn note_executed(&mut self, message: &[u8]) {
        self.unanswered.is_executed = true;
        self.unanswered.ends |= message.get(5) != Some(&0);
    }

    /// `Err` ends the session.
    pub(super) fn server_lost(&mut self, why: &str) -> Result<(), Option<Report>> {
        let Some(server) = self.server.take() else { return Ok(()) };
        self.entry.backend.take();
        count(&self.pool.counters.lost, 1);
        let why = server.backend.why_ended().map_or_else(
            || if why.is_empty() { "it closed the connection".to_owned() } else { why.to_owned() },
            str::to_owned,
        );
        let is_asked = server.is_asked() && !matches!(self.held, Held::Waits { is_first: true, .. });
        // One that has been promoted meanwhile may have written.
        let reads_only = server.backend.reads_only && self.worker.routing.is_standby(&server.backend.member);
        let (is_open, due, is_unsynced) =
            (server.status != backend::IDLE, server.expected.len(), server.is_unsynced);
        let answered_ever = server.answered_ever;
        self.pool.drop_server(&self.worker, server);
        self.drops_rest = true;
        self.closing.clear();
        (self.held, self.bound, self.refused_at) = (Held::default(), None, None);
        for name in self.parsing.drain(..) {
            self.statements.remove(&name);
        }
        let (may_commit, _) = (std::mem::take(&mut self.may_commit), std::mem::take(&mut self.inspects));
        self.entry.is_committing.set(false);
        let sent = std::mem::take(&mut self.unanswered);
        // In the middle of a message nothing can be said any more.
        if self.is_told || std::mem::take(&mut self.passing_back) > 0 {
            return Err(None);
        }
        match self.pin {
            Some(pin) if !pin.is_restorable() => return Err(Some(refusal::session_lost(pin.text()))),
            Some(_) => self.is_restoring = true,
            None => {}
        }
        if self.is_dedicated {
            return Err(Some(refusal::session_lost("a replication connection")));
        }
        if !is_asked && !is_open {
            self.entry.set(Activity::Idle, self.worker.now());
            return Ok(());
        }
        // An error in a BEGIN would have the server skip what stands before the same Sync, and nothing else: behind another one
        // statements may have been executed outside of a transaction.
        let is_begin = !is_open
            && (sent.begins && !sent.ends && !may_commit && sent.answered_ever == answered_ever)
            && due + usize::from(is_unsynced) == 1;
        // A commit that was answered is of an earlier transaction.
        let is_gone = is_open && !(may_commit && is_asked) || is_begin && sent.count > 1;
        // On a standby nothing can have been committed.
        let is_certain = is_gone || is_begin || reads_only;
        let report = if is_certain { refusal::rolled_back(&why) } else { refusal::unknown(&why) };
        self.entry.set(Activity::Idle, self.worker.now());
        let status = if is_gone { backend::FAILED } else { backend::IDLE };
        if is_gone {
            self.lost = Some(Lost { report: report.clone(), rolls_back: false, is_over: false });
        }
        let mut message = Vec::new();
        for _ in 0..due {
            report.push(&mut message);
            backend::push_ready(&mut message, status);
        }
        if is_unsynced {
            report.push(&mut message);
            self.skips = Some(status);
        }
        self.client.queue(&message);
        Ok(())
    }

    /// Whether a message is answered without a server, because the last one took a transaction with it.
    pub(super) fn is_without_server(&mut self, kind: u8) -> bool {
        if self.skips.is_none() && kind != b'S' && self.lost.as_ref().is_some_and(|lost| lost.is_over) {
            self.lost = None;
        }
        self.skips.is_some() || self.lost.is_some()
    }

    /// Answers a message for which there is no server on purpose.
    pub(super) fn without_server(
        &mut self,
        context: &mut Context<'_>,
        kind: u8,
        message: &[u8],
        is_whole: bool,
    ) -> Result<(), Step> {
        if kind == b'X' {
            return Err(Step::Ended(None));
        }
        let mut answer = Vec::new();
        if let Some(status) = self.skips {
            if kind == b'S' {
                self.skips = None;
                backend::push_ready(&mut answer, status);
            }
        } else {
            self.answer_lost(kind, message, is_whole, &mut answer);
        }
        self.client.send(context, &answer).map_err(|_| Step::Ended(None))
    }

    fn answer_lost(&mut self, kind: u8, message: &[u8], is_whole: bool, answer: &mut Vec<u8>) {
        let Some(lost) = self.lost.as_ref() else { return };
        let traits = match kind {
            b'Q' => sql_text::traits(&message[5..]),
            b'P' => string(&message[5..])
                .and_then(|(_, body)| string(body))
                .map(|(text, _)| sql_text::traits(text))
                .unwrap_or_default(),
            b'B' => self.bound(&message[5..]),
            _ => Traits::default(),
        };
        let rolls_back = is_whole && traits.rolls_back;
        match kind {
            b'Q' if rolls_back => {
                backend::push_command_complete(answer, "ROLLBACK");
                backend::push_ready(answer, backend::IDLE);
                self.lost = None;
            }
            b'Q' => {
                lost.report.push(answer);
                let status = if traits.may_commit { backend::IDLE } else { backend::FAILED };
                backend::push_ready(answer, status);
                if traits.may_commit {
                    self.lost = None;
                }
            }
            b'P' if rolls_back => {
                answer.extend_from_slice(b"1\0\0\0\x04");
                self.remember(message);
                self.set_rolls_back(true);
            }
            b'B' if rolls_back => {
                answer.extend_from_slice(b"2\0\0\0\x04");
                self.set_rolls_back(true);
            }
            b'D' if lost.rolls_back => {
                // Of a statement its parameters come first: none.
                let parameters: &[u8] = if message.get(5) == Some(&b'S') { b"t\0\0\0\x06\0\0" } else { b"" };
                answer.extend_from_slice(parameters);
                answer.extend_from_slice(b"n\0\0\0\x04");
            }
            b'C' => {
                self.forget(message);
                answer.extend_from_slice(b"3\0\0\0\x04");
            }
            b'E' if lost.rolls_back => {
                backend::push_command_complete(answer, "ROLLBACK");
                self.lost.iter_mut().for_each(|lost| lost.is_over = true);
            }
            b'S' if lost.is_over => {
                backend::push_ready(answer, backend::IDLE);
                self.lost = None;
            }
            b'S' => {
                backend::push_ready(answer, backend::FAILED);
                self.set_rolls_back(false);
            }
            b'P' | b'B' | b'D' | b'E' => {
                lost.report.push(answer);
                if traits.may_commit {
                    self.lost = None;
                    self.skips = Some(backend::IDLE);
                } else {
                    self.skips = Some(backend::FAILED);
                }
            }
            // Copied data that was on its way.
            _ => {}
        }
    }

    fn set_rolls_back(&mut self, rolls_back: bool) {
        if let Some(lost) = self.lost.as_mut() {
            lost.rolls_back = rolls_back;
        }
    }

    /// What the statement does that a `Bind` names.
    fn bound(&self, body: &[u8]) -> Traits {
        let name = string(body).and_then(|(_, rest)| string(rest)).map(|(name, _)| name);
        match name {
            Some(b"") => self.unnamed.traits,
            Some(name) => self.statements.get(name).map(|statement| statement.traits).unwrap_or_default(),
            None => Traits::default(),
        }
    }

    /// An error was told for the first message in `rest`: it is taken out, and what follows it up to a `Sync` is skipped.
    pub(super) fn refuse_message(&mut self, status: u8) {
        let rest = &self.client.rest;
        if !matches!(rest.first(), Some(b'Q' | b'F')) {
            self.skips = Some(status);
            return;
        }
        let total =
            mainstay_pgwire::frame::header(rest).ok().flatten().map_or(rest.len(), |header| header.total);
        let here = total.min(rest.len());
        (self.passing, self.drops_rest) = (total - here, true);
        self.client.rest.drain(..here);
        self.client.give_back();
        let mut answer = Vec::new();
        backend::push_ready(&mut answer, status);
        self.client.queue(&answer);
    }
}
