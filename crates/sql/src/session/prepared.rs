//! Prepared statements: the client's names become the server's, and what the server lacks is made there first.

use std::rc::Rc;

use mainstay_pgwire::backend;
use mainstay_pgwire::frame::{push, push_string, string};

use super::{Session, Step, Unnamed};
use crate::counters::count;
use crate::refusal;
use crate::server::{Reply, ReplyKind};
use crate::sql_text;
use crate::statements::{NOBODY, Statement, Told, What};

impl Session {
    pub(super) fn parse(&mut self, message: &[u8], output: &mut Vec<u8>) -> Result<(), Step> {
        let broken = || Step::Ended(Some(refusal::protocol_violation("Parse without a name and a text")));
        let (name, body) = string(&message[5..]).ok_or_else(broken)?;
        let (text, _) = string(body).ok_or_else(broken)?;
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        server.is_unsynced = true;
        count(&self.pool.counters.client_parses, 1);
        if name.is_empty() {
            count(&self.pool.counters.server_parses, 1);
            let traits = sql_text::traits(text);
            let id = self.worker.statements.next_unnamed();
            server.unnamed = id;
            self.unnamed.id = id;
            self.unnamed.traits = traits;
            self.unnamed.told = Told::default();
            self.unnamed.plans = self.pool.plans.get();
            self.unnamed.message.clear();
            self.unnamed.message.extend_from_slice(message);
            self.note(traits, text);
            let instead = if traits.deallocates { self.deallocate(text, output) } else { None };
            self.reply(ReplyKind::Forward, None);
            match instead {
                Some(text) => push(output, b'P', |out| {
                    out.push(0);
                    push_string(out, &text);
                    out.extend_from_slice(&[0, 0]);
                }),
                None => output.extend_from_slice(message),
            }
            return Ok(());
        }
        // In a failed transaction PostgreSQL is to refuse it itself.
        let is_failed = self.server.as_ref().is_some_and(|server| server.status == backend::FAILED);
        if let Some(known) = self.statements.get(name).map(Rc::clone) {
            // PostgreSQL says itself that there is one of this name.
            if !is_failed {
                self.have(&known, output);
            }
            self.reply(ReplyKind::Forward, None);
            push(output, b'P', |out| {
                push_string(out, &known.name());
                out.extend_from_slice(body);
            });
            return Ok(());
        }
        let statement = self.intern(body);
        self.note(statement.traits, text);
        self.parsing.push_back(name.into());
        let is_there =
            self.server.as_mut().is_some_and(|server| server.statements.touch(statement.id).is_some());
        if is_there && !is_failed {
            self.reply(ReplyKind::AsParseComplete, None);
            push(output, b'C', |out| {
                out.push(b'S');
                push_string(out, NOBODY);
            });
        } else {
            self.replace(&statement, ReplyKind::Named, output);
            statement.push_parse(statement.body(), output);
        }
        self.statements.insert(name.into(), statement);
        Ok(())
    }

    /// Due is an answer to `Parse` or `Close`.
    fn reply(&mut self, kind: ReplyKind, statement: Option<u64>) {
        if let Some(server) = self.server.as_mut() {
            let before = server.expected_ever;
            server.replies.push_back((Reply { kind, statement }, before));
        }
    }

    /// Prepares a statement on the server, for clients that have prepared it before.
    pub(super) fn make(&mut self, statement: &Statement, answer: ReplyKind, output: &mut Vec<u8>) {
        self.replace(statement, answer, output);
        if let Some(server) = self.server.as_mut() {
            server.statements.is_sure(statement.id, |sure| sure.parameters = statement.told.has_parameters());
        }
        statement.push_parse(&statement.body_as_told(), output);
    }

    /// Makes room for a statement that is to be prepared on the server, which closes another one if it has too many.
    fn replace(&mut self, statement: &Statement, answer: ReplyKind, output: &mut Vec<u8>) {
        let most = self.worker.max_prepared_statements();
        let Some(server) = self.server.as_mut() else { return };
        if let Some(oldest) = server.statements.add(statement.id, most) {
            self.reply(ReplyKind::Swallow, None);
            push(output, b'C', |out| {
                out.push(b'S');
                push_string(out, &format!("mainstay_{oldest}"));
            });
        }
        // Whether it is there is known for certain only if no error has ever made the server skip anything.
        self.reply(ReplyKind::Swallow, None);
        push(output, b'C', |out| {
            out.push(b'S');
            push_string(out, &statement.name());
        });
        self.reply(answer, Some(statement.id));
        count(&self.pool.counters.server_parses, 1);
    }

    /// Sees to it that the server has a statement.
    #[inline]
    pub(super) fn have(&mut self, statement: &Statement, output: &mut Vec<u8>) {
        if self.server.as_mut().is_some_and(|server| server.statements.touch(statement.id).is_none()) {
            self.make(statement, ReplyKind::Swallow, output);
        }
    }

    /// Sees to it that the server's unnamed statement is this client's.
    pub(super) fn have_unnamed(&mut self, output: &mut Vec<u8>) {
        let Some(server) = self.server.as_mut() else { return };
        if self.unnamed.id == 0 {
            // The client has none, and is to be told so, whatever another one has left there.
            server.unnamed = 0;
            self.reply(ReplyKind::Swallow, None);
            push(output, b'C', |out| out.extend_from_slice(b"S\0"));
        } else if server.unnamed != self.unnamed.id {
            server.unnamed = self.unnamed.id;
            self.reply(ReplyKind::Swallow, None);
            count(&self.pool.counters.server_parses, 1);
            match self.unnamed.message.get(6..).filter(|_| self.unnamed.told.has_parameters()) {
                Some(body) => push(output, b'P', |out| {
                    out.push(0);
                    out.extend_from_slice(&self.unnamed.told.of(body));
                }),
                None => output.extend_from_slice(&self.unnamed.message),
            }
        }
    }

    /// `behind` is what has come after the message. `Step::Held`: it is to be taken again once the server has answered.
    pub(super) fn bind(
        &mut self,
        message: &[u8],
        total: usize,
        behind: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), Step> {
        let broken = || Step::Ended(Some(refusal::protocol_violation("Bind without its names")));
        let (portal, after) = string(&message[5..]).ok_or_else(broken)?;
        let (name, rest) = string(after).ok_or_else(broken)?;
        if self.is_to_be_refused(name) {
            self.refuse_bind(output);
            return Ok(());
        }
        (self.bound, self.binds_unnamed) = (None, name.is_empty() && portal.is_empty());
        if name.is_empty() {
            self.unnamed_bindable(portal, (rest, behind), output)?;
            self.note_bind();
            self.speaks_prepared(None);
            self.note_unlistened_bound(None);
            let traits = self.unnamed.traits;
            (self.may_commit, self.inspects) =
                (self.may_commit | traits.may_commit, self.inspects | traits.may_leave_state);
            self.changes_meaning |= traits.may_change_meaning;
            self.entry.is_committing.set(traits.commits);
            self.note_unanswered(traits);
            output.extend_from_slice(message);
            return Ok(());
        }
        let Some(statement) = self.statements.get(name).map(Rc::clone) else {
            // What it does is not known.
            self.may_commit = true;
            self.note_bind();
            output.extend_from_slice(message);
            return Ok(());
        };
        let statement = self.bindable(portal, name, statement, (rest, behind), output)?;
        self.note_bind();
        self.speaks_prepared(Some(&statement));
        self.note_unlistened_bound(Some(&statement));
        self.may_commit |= statement.traits.may_commit;
        self.entry.is_committing.set(statement.traits.commits);
        self.inspects |= statement.traits.may_leave_state;
        self.changes_meaning |= statement.traits.may_change_meaning;
        self.note_unanswered(statement.traits);
        let own = statement.name();
        output.push(b'B');
        let length = total - 1 - name.len() + own.len();
        output.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        output.extend_from_slice(portal);
        output.push(0);
        push_string(output, &own);
        output.extend_from_slice(rest);
        Ok(())
    }

    fn note_bind(&mut self) {
        count(&self.pool.counters.binds, 1);
        if let Some(server) = self.server.as_mut() {
            server.is_unsynced = true;
        }
    }

    pub(super) fn describe(&mut self, message: &[u8], output: &mut Vec<u8>) -> Result<(), Step> {
        let broken = || Step::Ended(Some(refusal::protocol_violation("Describe without a name")));
        let (kind, name) = message[5..].split_first().ok_or_else(broken)?;
        let (name, _) = string(name).ok_or_else(broken)?;
        let is_statement = *kind == b'S';
        if let Some(statement) = self.statements.get(name).filter(|_| is_statement).map(Rc::clone) {
            self.have(&statement, output);
            self.bound_plans = statement.plans;
            push(output, b'D', |out| {
                out.push(b'S');
                push_string(out, &statement.name());
            });
            self.expect_description(What::Named(name.into(), statement), true);
            return Ok(());
        }
        let what = match kind {
            b'S' if name.is_empty() => {
                self.have_unnamed(output);
                What::Unnamed(self.unnamed.id)
            }
            b'P' => self.portal_described(name),
            _ => What::Passing,
        };
        self.expect_description(what, is_statement);
        output.extend_from_slice(message);
        Ok(())
    }

    /// The client's statement is forgotten; the server keeps its own for the others.
    pub(super) fn close(&mut self, message: &[u8], output: &mut Vec<u8>) -> Result<(), Step> {
        if let Some(server) = self.server.as_mut() {
            server.is_unsynced = true;
        }
        match self.named(&message[5..]) {
            Some((name, statement)) => {
                self.reply(ReplyKind::Closed, None);
                self.statements.remove(&name);
                self.closing.push_back((name, statement));
                push(output, b'C', |out| {
                    out.push(b'S');
                    push_string(out, NOBODY);
                });
            }
            None => {
                self.reply(ReplyKind::Forward, None);
                if message.get(5..) == Some(b"S\0") {
                    self.unnamed = Unnamed::default();
                    if let Some(server) = self.server.as_mut() {
                        server.unnamed = 0;
                    }
                }
                output.extend_from_slice(message);
            }
        }
        Ok(())
    }

    /// Keeps what a whole `Parse` says, for the server that comes next.
    pub(super) fn remember(&mut self, message: &[u8]) {
        let Some((name, body)) = string(&message[5..]) else { return };
        let statement = self.intern(body);
        if name.is_empty() {
            let (id, told) = (self.worker.statements.next_unnamed(), Told::default());
            let plans = self.pool.plans.get();
            self.unnamed = Unnamed { id, message: message.to_vec(), traits: statement.traits, told, plans };
        } else {
            self.statements.insert(name.into(), statement);
        }
    }

    /// Does what a `Close` says, as far as no server is needed for it.
    pub(super) fn forget(&mut self, message: &[u8]) {
        if let Some((name, _)) = self.named(&message[5..]) {
            self.statements.remove(&name);
        } else if message.get(5..) == Some(b"S\0") {
            self.unnamed = Unnamed::default();
        }
    }

    /// The client's statement that a `Describe` or `Close` names.
    fn named(&self, body: &[u8]) -> Option<(Box<[u8]>, Rc<Statement>)> {
        let (_, name) = body.split_first().filter(|(kind, _)| **kind == b'S')?;
        let (name, _) = string(name)?;
        self.statements.get(name).map(|statement| (name.into(), Rc::clone(statement)))
    }

    /// `DEALLOCATE name` of a statement that was prepared by the protocol: with the server's name for it.
    pub(super) fn deallocate(&mut self, text: &[u8], output: &mut Vec<u8>) -> Option<String> {
        // It would be refused.
        if self.server.as_ref()?.status == backend::FAILED {
            return None;
        }
        let name = sql_text::deallocated(text)?;
        let statement = self.statements.remove(name.as_bytes())?;
        self.have(&statement, output);
        // If it fails the server has it still; then it is closed before it is made anew.
        if let Some(server) = self.server.as_mut() {
            server.statements.remove(statement.id);
        }
        Some(format!("DEALLOCATE {}", statement.name()))
    }
}
