//! What clients were told of their statements' columns, held against what a server has.
//!
//! A driver describes a statement once, and reads its rows by that for as long as it has it: in binary a `real` read as an
//! `integer` is a wrong value and no error. PostgreSQL keeps its word by refusing what it would have to answer otherwise ("cached
//! plan must not change result type"). A statement that stands on another server is another one to PostgreSQL, so that here the
//! proxy asks before it binds it there, and refuses in PostgreSQL's words what has changed. Whoever has every portal described
//! (libpq does) relies on nothing, and gets the table as it is now.

use std::rc::Rc;

use mainstay_pgwire::frame::{push, push_string, string};

use super::{Session, Step};
use crate::server::ReplyKind;
use crate::statements::{Columns, Described, NOBODY, Statement, What};

/// What a text means depends on these when it is prepared: its names, and its constants.
const PREPARED_BY: [&str; 10] = [
    "array_nulls",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    "role",
    "search_path",
    "standard_conforming_strings",
    "timezone",
    "transform_null_equals",
    "xmloption",
];

/// Where the session stands with a statement that the server is asked about before it is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Held {
    #[default]
    Nothing,
    /// Its description is due; nothing more is sent to the server before it. `is_first`: nothing of the client's was either.
    Waits { is_first: bool },
    /// It is not what the client was told.
    Differs,
    /// The client's `Bind` was made one that fails, for which the client is told why.
    Refused,
}

/// An error as PostgreSQL's own, by which drivers know that the statement is to be prepared anew.
pub(super) fn result_type_changed() -> Vec<u8> {
    let mut message = Vec::new();
    push(&mut message, b'E', |out| {
        for field in [
            "SERROR",
            "VERROR",
            "C0A000",
            "Mcached plan must not change result type",
            "DThe statement's columns are not those that the client was told when it prepared it.",
            "HPrepare the statement anew.",
            "RRevalidateCachedQuery",
        ] {
            push_string(out, field);
        }
        out.push(0);
    });
    message
}

impl Session {
    /// The client's statement of this text, shared with all for whom it means the same.
    pub(super) fn intern(&self, body: &[u8]) -> Rc<Statement> {
        let mut apart = Vec::new();
        if self.inspects || self.pin.is_some() {
            // What was set in this transaction is not known yet, and what is pinned may be a table that nobody else has.
            apart.extend_from_slice(&self.worker.statements.next_unnamed().to_be_bytes());
        }
        for name in PREPARED_BY {
            if let Some(value) = self.wanted.get(name) {
                push_string(&mut apart, name);
                push_string(&mut apart, value);
            }
        }
        self.worker.statements.intern(body, self.pool.plans.get(), &apart)
    }

    /// `Err` if the client's `Bind` of a named statement has to wait until the server has described it. Else it is the statement
    /// to be bound.
    pub(super) fn bindable(
        &mut self,
        portal: &[u8],
        name: &[u8],
        mut statement: Rc<Statement>,
        behind: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Rc<Statement>, Step> {
        let Some(server) = self.server.as_mut() else { return Ok(statement) };
        let is_current = statement.plans == self.pool.plans.get();
        let known = server.statements.touch(statement.id);
        if known == Some(true) && is_current {
            return Ok(statement);
        }
        if server.is_skipping() {
            return Ok(statement);
        }
        let is_described = is_described(portal, behind);
        if is_described && !is_current {
            statement = self.intern(&statement.body_as_told());
            self.statements.insert(name.into(), Rc::clone(&statement));
        } else if !is_described && known != Some(true) && statement.told.is_relied_on() {
            self.make(&statement, ReplyKind::Swallow, output);
            return Err(self.hold(What::Held(Rc::clone(&statement)), &statement.name(), output));
        }
        self.have(&statement, output);
        // What it is told now it may rely on later.
        self.bound = Some((portal.into(), name.into(), Rc::clone(&statement)));
        Ok(statement)
    }

    /// The same of the unnamed statement.
    pub(super) fn unnamed_bindable(
        &mut self,
        portal: &[u8],
        behind: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), Step> {
        let is_there =
            |server: &crate::server::Server| server.unnamed == self.unnamed.id || server.is_skipping();
        let is_held = self.unnamed.told.is_relied_on()
            && !self.server.as_ref().is_none_or(|server| is_there(server))
            && !is_described(portal, behind);
        self.have_unnamed(output);
        if is_held { Err(self.hold(What::HeldUnnamed, "", output)) } else { Ok(()) }
    }

    /// Asks the server what it has just been given.
    fn hold(&mut self, what: What, name: &str, output: &mut Vec<u8>) -> Step {
        let is_first = self.server.as_ref().is_some_and(|server| server.is_at_rest());
        self.held = Held::Waits { is_first };
        self.expect_description(what, true);
        push(output, b'D', |out| {
            out.push(b'S');
            push_string(out, name);
        });
        push(output, b'H', |_| {});
        Step::Held
    }

    /// A `Describe` goes to the server.
    pub(super) fn expect_description(&mut self, what: What, is_statement: bool) {
        if let Some(server) = self.server.as_mut() {
            server.is_unsynced = true;
            let before = server.expected_ever;
            server.described.push_back((Described { what, is_statement, parameters: None }, before));
        }
    }

    /// What is known of the portal that a `Describe` names.
    pub(super) fn portal_described(&mut self, name: &[u8]) -> What {
        match self.bound.take() {
            Some((portal, name_of, statement)) if *portal == *name => What::Named(name_of, statement),
            _ => What::Passing,
        }
    }

    /// Instead of a `Bind` one that fails, so that PostgreSQL undoes and skips what it would for its own refusal.
    pub(super) fn refuse_bind(&mut self, output: &mut Vec<u8>) {
        self.held = Held::Refused;
        self.drops_rest = true;
        if let Some(server) = self.server.as_mut() {
            server.is_unsynced = true;
        }
        push(output, b'B', |out| {
            out.push(0);
            push_string(out, NOBODY);
            out.extend_from_slice(&[0; 6]);
        });
    }

    /// A part of a description has come. Whether it is the client's.
    pub(super) fn take_description(&mut self, kind: u8, message: &[u8]) -> bool {
        let Some(server) = self.server.as_mut() else { return true };
        let answered = server.answered_ever;
        // The rows of a simple query have a description too.
        let Some((due, _)) = server.described.front_mut().filter(|(_, before)| *before == answered) else {
            return true;
        };
        let is_clients = !due.what.is_held();
        if kind == b't' {
            due.parameters = message.get(5..).map(Into::into);
            return is_clients;
        }
        if due.is_statement && due.parameters.is_none() {
            return true;
        }
        let Some((described, _)) = server.described.pop_front() else { return true };
        match described.what {
            What::Passing => {}
            What::Named(name, statement) => {
                self.tell(&name, &statement, described.parameters.as_deref(), Columns::of(message));
            }
            What::Unnamed => {
                // It is the client's alone; other servers may have it otherwise.
                self.unnamed.told = crate::statements::Told::default();
                self.unnamed.told.tell(described.parameters.as_deref(), Columns::of(message));
                if server.unnamed == self.unnamed.id {
                    self.unnamed.id = self.worker.statements.next_unnamed();
                    server.unnamed = self.unnamed.id;
                }
            }
            What::Held(statement) if statement.told.has(&Columns::of(message)) => {
                server.statements.is_as_told(statement.id);
                self.held = Held::Nothing;
            }
            What::HeldUnnamed if self.unnamed.told.has(&Columns::of(message)) => self.held = Held::Nothing,
            What::Held(statement) => {
                server.statements.remove(statement.id);
                self.differs();
            }
            What::HeldUnnamed => {
                server.unnamed = 0;
                self.differs();
            }
        }
        is_clients
    }

    fn differs(&mut self) {
        self.held = Held::Differs;
        self.worker.plans_changed(&self.entry.key.database);
    }

    /// A client is told what its statement is on this server.
    fn tell(&mut self, name: &[u8], statement: &Rc<Statement>, parameters: Option<&[u8]>, columns: Columns) {
        let is_same = statement.told.tell(parameters, columns.clone());
        let Some(server) = self.server.as_mut() else { return };
        if is_same {
            server.statements.is_as_told(statement.id);
            return;
        }
        // Others were told something else: it is theirs, and this client's is another one.
        server.statements.remove(statement.id);
        self.worker.plans_changed(&self.entry.key.database);
        let own = self.intern(statement.body());
        own.told.tell(parameters, columns);
        if let Some(known) = self.statements.get_mut(name).filter(|known| Rc::ptr_eq(known, statement)) {
            *known = own;
        }
    }
}

/// Whether the next message asks for the portal's description.
fn is_described(portal: &[u8], behind: &[u8]) -> bool {
    const HEAD_BYTES: usize = 6;
    let asks = behind.first() == Some(&b'D') && behind.get(HEAD_BYTES - 1) == Some(&b'P');
    asks && behind.get(HEAD_BYTES..).and_then(string).is_some_and(|(name, _)| name == portal)
}
