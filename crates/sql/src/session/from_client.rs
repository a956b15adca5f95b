//! What the client says, on its way to the server.

use std::rc::Rc;
use std::task::Context;

use mainstay_pgwire::backend::Report;
use mainstay_pgwire::frame::{self, push, push_string};

use super::{Session, Step};
use crate::counters::count;
use crate::refusal;
use crate::server::{Expect, Server};
use crate::sql_text::{self, Traits};
use crate::worker::Activity;

/// As much of a message is waited for, so that its names and the beginning of its text can be looked at.
const LOOKED_AT_BYTES: usize = 16 * 1024;
/// A query up to this length is waited for as a whole: of a longer one it is not known what it does to its session.
const WHOLE_QUERY_BYTES: usize = 256 * 1024;
/// The longest text that can be prepared: it is kept, to be prepared on other servers.
const MOST_PARSE_BYTES: usize = 16 << 20;

impl Session {
    /// Passes on what has come, with what was left before.
    #[inline]
    pub(super) fn take_client(&mut self, context: &mut Context<'_>, new: &[u8]) -> Result<(), Step> {
        let mut joined = std::mem::take(&mut self.client.rest);
        let bytes = if joined.is_empty() {
            new
        } else {
            joined.extend_from_slice(new);
            &joined
        };
        count(&self.pool.counters.received_bytes, new.len() as u64);
        let worker = Rc::clone(&self.worker);
        let mut output = worker.output.borrow_mut();
        output.clear();
        let (mut at, was_passing) = (0, self.passing > 0);
        let outcome = self.walk(context, bytes, &mut at, &mut output);
        if joined.is_empty() {
            self.client.rest = new[at..].to_vec();
        } else {
            joined.drain(..at);
            self.client.rest = joined;
            self.client.give_back();
        }
        if let Some(server) = self.server.as_mut()
            && let Err(error) = server.connection.send(context, &output)
        {
            return Err(Step::ServerLost(error.to_string()));
        }
        drop(output);
        outcome?;
        // The end of a message that a server has refused already.
        if was_passing && self.passing == 0 && self.server.as_ref().is_some_and(|server| server.is_at_rest())
        {
            return self.at_ready();
        }
        Ok(())
    }

    fn walk(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        at: &mut usize,
        output: &mut Vec<u8>,
    ) -> Result<(), Step> {
        while *at < bytes.len() {
            if self.passing > 0 {
                let piece = self.passing.min(bytes.len() - *at);
                if !self.drops_rest && self.skips.is_none() && self.server.is_some() {
                    output.extend_from_slice(&bytes[*at..*at + piece]);
                }
                self.passing -= piece;
                *at += piece;
                continue;
            }
            let header = frame::header(&bytes[*at..])
                .map_err(|error| Step::Ended(Some(refusal::protocol_violation(error))))?;
            let Some(header) = header else { return Ok(()) };
            refuse_long(header)?;
            let here = (bytes.len() - *at).min(header.total);
            let looked_at = if header.kind == b'Q' { WHOLE_QUERY_BYTES } else { LOOKED_AT_BYTES };
            if here < header.total && here < looked_at && header.kind != b'd' {
                return Ok(());
            }
            let message = &bytes[*at..*at + here];
            self.drops_rest = false;
            if self.is_without_server(header.kind) {
                self.drops_rest = true;
                self.without_server(context, header.kind, message, here == header.total)?;
            } else {
                if header.kind == b'P' && here < header.total {
                    if header.total > MOST_PARSE_BYTES {
                        let report = Report::fatal("54000", "the statement is too long to be prepared");
                        return Err(Step::Ended(Some(report.hint("Send its values as parameters."))));
                    }
                    return Ok(());
                }
                if header.kind == b'X' {
                    return Err(Step::Ended(None));
                }
                if self.server.is_none() && matches!(header.kind, b'd' | b'c' | b'f' | b'H') {
                    // PostgreSQL throws away what is left of a copy that has failed, and has nothing to flush.
                    self.drops_rest = true;
                    self.passing = header.total - here;
                    *at += here;
                    continue;
                }
                if self.server.is_none() && !self.link_now(context) {
                    return Err(Step::NeedServer);
                }
                self.translate(header.kind, message, header.total, &bytes[*at + here..], output)?;
            }
            self.passing = header.total - here;
            *at += here;
        }
        Ok(())
    }

    /// Appends what the server is to be sent for a message, of which the beginning may be all that is here.
    #[inline]
    fn translate(
        &mut self,
        kind: u8,
        message: &[u8],
        total: usize,
        behind: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), Step> {
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        server.note_sent(kind);
        match kind {
            b'Q' => {
                let text = &message[5..];
                self.speaks(text);
                self.note_unlistened(text);
                let traits = sql_text::traits(text);
                let instead = if traits.deallocates { self.deallocate(text, output) } else { None };
                self.note(traits, text);
                self.note_unanswered(traits);
                if message.len() < total {
                    // Nobody has read the rest of it.
                    (self.may_commit, self.inspects, self.changes_meaning) = (true, true, true);
                }
                count(&self.pool.counters.queries, 1);
                self.entry.set(Activity::Runs, self.worker.now());
                // A simple query destroys the unnamed statement, whose ever it is.
                self.unnamed.id = 0;
                if let Some(server) = self.server.as_mut() {
                    server.unnamed = 0;
                    server.expect(Expect::Query);
                }
                if let Some(text) = instead {
                    push(output, b'Q', |out| push_string(out, &text));
                    return Ok(());
                }
            }
            b'P' => return self.parse(message, output),
            b'B' => return self.bind(message, total, behind, output),
            b'D' => return self.describe(message, output),
            b'C' => return self.close(message, output),
            b'E' => {
                server.is_unsynced = true;
                self.note_executed(message);
                count(&self.pool.counters.queries, 1);
                self.entry.set(Activity::Runs, self.worker.now());
            }
            b'H' => server.is_unsynced = true,
            // While copied data is taken PostgreSQL throws them away.
            b'S' if server.copies_in => {}
            b'S' => server.expect(Expect::Sync),
            b'd' => {}
            b'c' | b'f' => server.copies_in = false,
            b'F' => {
                server.expect(Expect::Query);
                (self.may_commit, self.inspects, self.changes_meaning) = (true, true, true);
            }
            _ => {
                let what = format!("message of type {:?} is not known", char::from(kind));
                return Err(Step::Ended(Some(refusal::protocol_violation(what))));
            }
        }
        output.extend_from_slice(message);
        Ok(())
    }

    /// Keeps in mind what a statement may do.
    #[inline]
    pub(super) fn note(&mut self, traits: Traits, text: &[u8]) {
        self.may_commit |= traits.may_commit;
        self.entry.is_committing.set(traits.commits);
        self.inspects |= traits.may_leave_state;
        self.changes_meaning |= traits.may_change_meaning;
        if traits.may_set_placeholder || traits.may_leave_state {
            for name in sql_text::placeholders(text) {
                if !self.placeholders.contains(&name) {
                    self.placeholders.push(name);
                }
            }
        }
    }
}

/// PostgreSQL ends the connection upon such a message, which is not only this client's (`PQ_SMALL_MESSAGE_LIMIT`).
#[inline]
fn refuse_long(header: frame::Header) -> Result<(), Step> {
    const MOST_SHORT_BYTES: usize = 10_001;
    if header.total > MOST_SHORT_BYTES
        && matches!(header.kind, b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f')
    {
        let what =
            format!("invalid message length: {} bytes of type {:?}", header.total, char::from(header.kind));
        return Err(Step::Ended(Some(refusal::protocol_violation(what))));
    }
    Ok(())
}

impl Server {
    /// Whether the client has sent what is not answered yet.
    pub(crate) fn is_asked(&self) -> bool {
        !self.expected.is_empty() || self.is_unsynced
    }
}
