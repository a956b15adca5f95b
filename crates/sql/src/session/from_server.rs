//! What the server says, on its way to the client.

use std::borrow::Cow;
use std::rc::Rc;
use std::task::Context;

use mainstay_pgwire::backend::report_field;
use mainstay_pgwire::frame;

use super::told::{Held, result_type_changed};
use super::{Session, Step};
use crate::counters::count;
use crate::server::{Expect, Reply, ReplyKind};
use crate::session_settings::Pin;
use crate::statements::What;

/// A message longer than this is passed on in pieces. Shorter ones go as a whole, so that an error can always be told between
/// two of them.
const LONG_BYTES: usize = 64 * 1024;

/// What becomes of a message.
enum Fate {
    Forward,
    Swallow,
    /// Forward these instead.
    Replace(Cow<'static, [u8]>),
}

const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";

impl Session {
    /// Passes on what has come. Whole messages only, but for long ones.
    #[inline]
    pub(super) fn take_server(&mut self, context: &mut Context<'_>, new: &[u8]) -> Result<(), Step> {
        count(&self.pool.counters.sent_bytes, new.len() as u64);
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        let mut joined = std::mem::take(&mut server.connection.rest);
        let bytes = if joined.is_empty() {
            new
        } else {
            joined.extend_from_slice(new);
            &joined
        };
        let worker = Rc::clone(&self.worker);
        let mut output = worker.output.borrow_mut();
        output.clear();
        // Where the run of bytes begins that is forwarded as it is.
        let (mut at, mut run) = (0, 0);
        let (mut outcome, mut is_ready) = (Ok(()), false);
        at += self.passing_back.min(bytes.len());
        self.passing_back -= at;
        while at < bytes.len() {
            let header = match frame::header(&bytes[at..]) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(Step::ServerLost(format!("it broke the protocol: {error}")));
                    break;
                }
            };
            let here = bytes.len() - at;
            // Descriptions are looked at, and PostgreSQL's are never much longer.
            let is_whole = header.total <= LONG_BYTES || matches!(header.kind, b'T' | b't');
            if here < header.total && is_whole {
                break;
            }
            let message = &bytes[at..at + here.min(header.total)];
            let fate = match header.kind {
                b'D' | b'd' | b'2' | b'I' | b's' => Fate::Forward,
                b'T' | b't' | b'n' if self.take_description(header.kind, message) => Fate::Forward,
                b'T' | b't' | b'n' => Fate::Swallow,
                _ => match self.judge(header.kind, message) {
                    Ok(fate) => fate,
                    Err(step) => {
                        output.extend_from_slice(&bytes[run..at]);
                        run = bytes.len();
                        at = run;
                        outcome = Err(step);
                        break;
                    }
                },
            };
            if header.kind == b'Z' {
                is_ready = true;
                run = if self.push_heard(&mut output, &bytes[run..at]) { at } else { run };
            }
            if !matches!(fate, Fate::Forward) {
                output.extend_from_slice(&bytes[run..at]);
                run = at + message.len();
                if let Fate::Replace(instead) = fate {
                    output.extend_from_slice(&instead);
                }
            }
            self.passing_back = header.total - message.len();
            at += message.len();
        }
        let sent = if output.is_empty() {
            self.client.send(context, &bytes[run..at])
        } else {
            output.extend_from_slice(&bytes[run..at]);
            self.client.send(context, &output)
        };
        self.keep(&bytes[at..]);
        outcome?;
        sent.map_err(|_| Step::Ended(None))?;
        if is_ready { self.at_ready() } else { Ok(()) }
    }

    /// Keeps the beginning of a message whose end has not come yet.
    fn keep(&mut self, rest: &[u8]) {
        if let Some(server) = self.server.as_mut()
            && !rest.is_empty()
        {
            server.connection.rest = rest.to_vec();
        }
    }

    /// Looks at a message that says something of the session.
    fn judge(&mut self, kind: u8, message: &[u8]) -> Result<Fate, Step> {
        let Some(server) = self.server.as_mut() else { return Ok(Fate::Forward) };
        let body = message.get(5..).unwrap_or_default();
        match kind {
            b'Z' => {
                server.status = body.first().copied().unwrap_or(server.status);
                let was_due = server.expected.pop_front().is_some();
                server.doubts.ready(was_due, server.expected.is_empty());
                server.copies_in = false;
                server.answered_ever += 1;
                self.undo_skipped();
            }
            b'C' => self.completed(body),
            b'1' | b'3' => {
                return Ok(match server.replies.pop_front() {
                    Some((Reply { kind: ReplyKind::Swallow, .. }, _)) => Fate::Swallow,
                    Some((Reply { kind: ReplyKind::AsParseComplete, .. }, _)) => {
                        self.parsing.pop_front();
                        Fate::Replace(PARSE_COMPLETE.into())
                    }
                    Some((Reply { kind: ReplyKind::Closed, .. }, _)) => {
                        self.closing.pop_front();
                        Fate::Forward
                    }
                    Some((Reply { kind: ReplyKind::Named, .. }, _)) => {
                        self.parsing.pop_front();
                        Fate::Forward
                    }
                    _ => Fate::Forward,
                });
            }
            b'A' => {
                return Ok(if self.is_heard_elsewhere(body) { Fate::Swallow } else { Fate::Forward });
            }
            b'S' => {
                server.note_parameter(body);
                // Functions set parameters too.
                (self.inspects, self.changes_meaning) = (true, true);
            }
            // A commit that was not replicated is none, whatever the primary says after it: a cancel or a shutdown ended its wait.
            b'N' if report_field(body, b'R') == Some(b"SyncRepWaitForLSN") => {
                return Err(Step::ServerLost("the commit was not replicated".to_owned()));
            }
            b'E' => return self.failed(body),
            b'G' => {
                let ended_at = server.doubts.copies_in();
                server.copies_in = ended_at.is_none();
                // PostgreSQL throws away what syncs come before the copied data ends, if the copy was begun by `Execute`.
                while server.expected.front() == Some(&Expect::Sync)
                    && ended_at.is_none_or(|at| server.answered_ever < at)
                {
                    server.expected.pop_front();
                    server.answered_ever += 1;
                }
                server.is_unsynced |= server.expected.is_empty();
            }
            _ => {}
        }
        Ok(Fate::Forward)
    }

    /// What an error has made the server skip is not there. The last is undone first: a name may be there twice.
    fn undo_skipped(&mut self) {
        let Some(server) = self.server.as_mut() else { return };
        self.refused_at = self.refused_at.filter(|at| *at >= server.answered_ever);
        while server.described.front().is_some_and(|(_, before)| *before < server.answered_ever) {
            let due = server.described.pop_front().map(|(due, _)| due.what);
            if let (Some(What::Held(due, _)), Held::Waits { question, .. }) = (due, self.held)
                && due == question
            {
                self.held = Held::Nothing;
            }
        }
        let mut undone = Vec::new();
        while let Some((reply, before)) = server.replies.front().copied()
            && before < server.answered_ever
        {
            server.replies.pop_front();
            server.unnamed = 0;
            reply.statement.inspect(|id| server.statements.remove(*id));
            if matches!(reply.kind, ReplyKind::Named | ReplyKind::AsParseComplete)
                && let Some(name) = self.parsing.pop_front()
            {
                undone.push((name, None));
            }
            if reply.kind == ReplyKind::Closed
                && let Some((name, statement)) = self.closing.pop_front()
            {
                undone.push((name, Some(statement)));
            }
        }
        for (name, statement) in undone.into_iter().rev() {
            match statement {
                Some(statement) => drop(self.statements.insert(name, statement)),
                None => drop(self.statements.remove(&name)),
            }
        }
    }

    /// A command has ended; its tag tells what it may have left in the session.
    fn completed(&mut self, tag: &[u8]) {
        const LEAVE: [&[u8]; 8] = [
            b"SET\0",
            b"RESET\0",
            b"LISTEN\0",
            b"UNLISTEN\0",
            b"PREPARE\0",
            b"DECLARE CURSOR\0",
            b"LOAD\0",
            b"DO\0",
        ];
        // To drop what is the session's own concerns nobody else.
        let is_own = self.inspects || self.pin == Some(Pin::TemporaryTable);
        if tag.starts_with(b"ALTER") || (tag.starts_with(b"DROP") && !is_own) {
            // Statements that were prepared before it would fail once, also for those who prepare them only now.
            self.worker.plans_changed(&self.entry.key.database);
        }
        // It may have given up what ties it to its server.
        self.inspects |= self.pin.is_some() && (tag.starts_with(b"DROP") || tag.starts_with(b"CLOSE"));
        match tag.first() {
            Some(b'S' | b'R' | b'L' | b'U' | b'P' | b'D') => {}
            _ => return,
        }
        let is_all = tag.starts_with(b"DISCARD ALL") || tag.starts_with(b"DEALLOCATE ALL");
        if is_all {
            // But for those that were sent behind it. It takes no unnamed one.
            self.statements.retain(|name, _| self.parsing.contains(name));
            if let Some(server) = self.server.as_mut() {
                server.statements.clear();
            }
        }
        if tag.starts_with(b"DISCARD ALL") {
            self.unlistened = (vec![None], true);
        }
        self.unlistened.1 |= tag == b"UNLISTEN\0";
        if tag.starts_with(b"ROLLBACK") {
            self.unlistened = (Vec::new(), false);
        }
        self.inspects |=
            is_all || LEAVE.contains(&tag) || tag.starts_with(b"DISCARD") || tag.starts_with(b"DEALLOCATE");
    }

    fn failed(&mut self, body: &[u8]) -> Result<Fate, Step> {
        let field = |kind| report_field(body, kind).unwrap_or_default();
        let is_refusal = self.takes_refusal(field(b'C'));
        let Some(server) = self.server.as_mut() else { return Ok(Fate::Forward) };
        // With the whole transaction, or the text that it stands in.
        self.unlistened = (Vec::new(), false);
        server.doubts.failed(server.copies_in);
        server.copies_in = false;
        server.failed_at = Some(server.answered_ever);
        if matches!(self.held, Held::Waits { .. }) && (server.is_skipping() || server.doubts.is_astray) {
            // What was asked is not answered any more.
            self.held = Held::Nothing;
        }
        let is_end = matches!(field(b'V'), b"FATAL" | b"PANIC");
        if is_end && field(b'C').starts_with(b"57P0") && field(b'C') != b"57P05" {
            // It is no answer to what the client has asked: the server is going.
            let why = String::from_utf8_lossy(field(b'M')).into_owned();
            return Err(Step::ServerLost(why));
        }
        self.is_told = is_end;
        if is_refusal {
            return Ok(Fate::Replace(result_type_changed().into()));
        }
        if field(b'C') == b"26000" {
            // Somebody has taken away by SQL what was prepared by the protocol.
            server.statements.clear();
        }
        if field(b'R') == b"RevalidateCachedQuery" || field(b'C') == b"XX000" {
            // A table has changed under prepared statements. If it is a type that was made anew, PostgreSQL calls that an internal
            // error ("cache lookup failed").
            server.unnamed = 0;
            self.plans_changed(self.bound_plans);
        }
        Ok(Fate::Forward)
    }
}
