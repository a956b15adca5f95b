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
use crate::statements::{Columns, Described, NOBODY, Statement, Told, What};
use crate::worker::Activity;

/// What a text means depends on these when it is prepared: its names, and its constants.
const PREPARED_BY: [&str; 12] = [
    "array_nulls",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    "role",
    "search_path",
    "standard_conforming_strings",
    "timezone",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmloption",
];

/// Where the session stands with a statement that the server is asked about before it is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Held {
    #[default]
    Nothing,
    /// The answer to this question is due; nothing more is sent to the server before it. `is_first`: nothing of the client's was
    /// either.
    Waits { question: u64, is_first: bool },
    /// The statement of this number (0: the unnamed one) is not what the client was told.
    Differs(u64),
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
        self.worker.statements.intern(body, self.pool.plans.get(), &self.apart())
    }

    /// What keeps a text that is prepared now from being the same statement as for others.
    fn apart(&self) -> Vec<u8> {
        let mut apart = Vec::new();
        for (name, value) in self.wanted.iter().filter(|(name, _)| PREPARED_BY.contains(&name.as_ref())) {
            push_string(&mut apart, name);
            push_string(&mut apart, value);
        }
        if self.changes_meaning || self.pin.is_some() {
            // What was set in this transaction is not known yet, and what is pinned may be a table that nobody else has.
            apart.extend_from_slice(&self.worker.statements.next_unnamed().to_be_bytes());
        }
        apart
    }

    /// The statement that is to be bound. `Err` if the client's `Bind` has to wait until the server has described it.
    pub(super) fn bindable(
        &mut self,
        portal: &[u8],
        name: &[u8],
        mut statement: Rc<Statement>,
        (rest, behind): (&[u8], &[u8]),
        output: &mut Vec<u8>,
    ) -> Result<Rc<Statement>, Step> {
        let Some(server) = self.server.as_mut() else { return Ok(statement) };
        let is_current = statement.plans == self.pool.plans.get();
        self.bound_plans = statement.plans;
        let known = server.statements.touch(statement.id);
        let has_parameters = known.is_some_and(|sure| sure.parameters || !statement.told.has_parameters());
        let is_sure = has_parameters && known.is_some_and(|sure| sure.columns);
        if is_sure && is_current || server.is_skipping() || self.is_refused() {
            return Ok(statement);
        }
        let is_described = is_described(portal, rest, behind);
        if is_described && !is_current || known.is_none() && statement.apart() != self.apart() {
            statement = self.moved(name, &statement, !is_described);
        }
        let Some(server) = self.server.as_mut() else { return Ok(statement) };
        let known = server.statements.touch(statement.id);
        let told = &statement.told;
        let has_parameters = known.is_some_and(|sure| sure.parameters || !told.has_parameters());
        let has_columns =
            !told.has_columns() || is_described || known.is_some_and(|sure| sure.columns && has_parameters);
        if !has_columns {
            self.make(&statement, ReplyKind::Swallow, output);
            return Err(self.hold(Some(statement), output));
        }
        if !has_parameters {
            self.make(&statement, ReplyKind::Swallow, output);
        }
        // What it is told now it may rely on later.
        self.bound = behind
            .first()
            .is_none_or(|kind| *kind == b'D')
            .then(|| (portal.into(), name.into(), Rc::clone(&statement)));
        Ok(statement)
    }

    /// The client's statement becomes the one that its text is now; as before it is told, if it relies on that.
    fn moved(&mut self, name: &[u8], statement: &Rc<Statement>, keeps_columns: bool) -> Rc<Statement> {
        let body = statement.body_as_told();
        let mut moved = self.intern(&body);
        if keeps_columns && !moved.told.tell_all(&statement.told) {
            let apart = self.worker.statements.next_unnamed().to_be_bytes();
            moved = self.worker.statements.intern(&body, statement.plans, &apart);
            moved.told.tell_all(&statement.told);
        }
        self.statements.insert(name.into(), Rc::clone(&moved));
        moved
    }

    /// The same of the unnamed statement.
    pub(super) fn unnamed_bindable(
        &mut self,
        portal: &[u8],
        (rest, behind): (&[u8], &[u8]),
        output: &mut Vec<u8>,
    ) -> Result<(), Step> {
        self.bound_plans = self.unnamed.plans;
        let id = self.unnamed.id;
        let is_there = self.server.as_ref().is_none_or(|server| server.unnamed == id || server.is_skipping());
        if is_there
            || self.is_refused()
            || !self.unnamed.told.has_columns()
            || is_described(portal, rest, behind)
        {
            self.have_unnamed(output);
            return Ok(());
        }
        self.have_unnamed(output);
        Err(self.hold(None, output))
    }

    /// Asks the server what it has just been given; `None`: the unnamed statement.
    fn hold(&mut self, statement: Option<Rc<Statement>>, output: &mut Vec<u8>) -> Step {
        let is_first = self.server.as_ref().is_some_and(|server| server.is_at_rest());
        if self.server.as_ref().is_some_and(|server| server.doubts.is_astray) {
            // Its answers cannot be told apart.
            self.held = Held::Differs(statement.map_or(0, |statement| statement.id));
            self.has_backlog = true;
            return Step::Held;
        }
        self.questions += 1;
        self.held = Held::Waits { question: self.questions, is_first };
        self.has_backlog = true;
        self.entry.set(Activity::Runs, self.worker.now());
        push(output, b'D', |out| {
            out.push(b'S');
            push_string(out, &statement.as_ref().map(|statement| statement.name()).unwrap_or_default());
        });
        push(output, b'H', |_| {});
        self.expect_description(What::Held(self.questions, statement), true);
        Step::Held
    }

    /// A `Describe` goes to the server.
    pub(super) fn expect_description(&mut self, what: What, is_statement: bool) {
        if let Some(server) = self.server.as_mut() {
            server.is_unsynced = true;
            let before = server.expected_ever;
            if !server.doubts.is_astray {
                server.described.push_back((Described { what, is_statement, parameters: None }, before));
            }
        }
    }

    /// What is known of the portal that a `Describe` names.
    pub(super) fn portal_described(&mut self, name: &[u8]) -> What {
        match self.bound.take() {
            Some((portal, name_of, statement)) if *portal == *name => What::Named(name_of, statement),
            _ if self.binds_unnamed && name.is_empty() => What::Unnamed(self.unnamed.id),
            _ => What::Passing,
        }
    }

    /// Whether the `Bind` that waited is to be refused. What its name stands for may have been told anew meanwhile.
    pub(super) fn is_to_be_refused(&mut self, name: &[u8]) -> bool {
        let Held::Differs(id) = self.held else { return false };
        self.held = Held::Nothing;
        let means = if name.is_empty() { Some(0) } else { self.statements.get(name).map(|own| own.id) };
        means == Some(id)
    }

    /// What is sent now is skipped, since a `Bind` was refused before it and no `Sync` followed.
    fn is_refused(&self) -> bool {
        let now = self.server.as_ref().map(|server| server.expected_ever);
        self.refused_at.is_some() && self.refused_at == now
    }

    /// Instead of a `Bind` one that fails, so that PostgreSQL undoes and skips what it would for its own refusal.
    pub(super) fn refuse_bind(&mut self, output: &mut Vec<u8>) {
        self.drops_rest = true;
        if let Some(server) = self.server.as_mut() {
            server.is_unsynced = true;
            self.refused_at = Some(server.expected_ever);
        }
        push(output, b'B', |out| {
            out.push(0);
            push_string(out, NOBODY);
            out.extend_from_slice(&[0; 6]);
        });
    }

    /// An error has come. Whether it stands for a refusal.
    pub(super) fn takes_refusal(&mut self, sqlstate: &[u8]) -> bool {
        let answered = self.server.as_ref().map(|server| server.answered_ever);
        self.refused_at.is_some() && self.refused_at == answered && {
            self.refused_at = None;
            sqlstate == b"26000"
        }
    }

    /// A part of a description has come. Whether it is the client's.
    pub(super) fn take_description(&mut self, kind: u8, message: &[u8]) -> bool {
        let Some(server) = self.server.as_mut() else { return true };
        let answered = server.answered_ever;
        // The rows of a simple query have a description too.
        let Some((due, _)) = server.described.front_mut().filter(|(_, before)| *before == answered) else {
            return true;
        };
        let is_clients = !matches!(due.what, What::Held(..));
        if kind == b't' {
            due.parameters = message.get(5..).map(Into::into);
            return is_clients;
        }
        if due.is_statement && due.parameters.is_none() {
            return true;
        }
        let Some((described, _)) = server.described.pop_front() else { return true };
        let parameters = described.parameters.as_deref();
        match described.what {
            What::Passing => {}
            What::Named(name, statement) => self.tell(&name, &statement, parameters, Columns::of(message)),
            What::Unnamed(id) if id == self.unnamed.id && id != 0 => self.tell_unnamed(parameters, message),
            What::Unnamed(_) => {}
            What::Held(question, statement) => self.answered(question, statement, Columns::of(message)),
        }
        is_clients
    }

    /// It is the client's alone. Other servers may have it otherwise, so that from now on it is another one.
    fn tell_unnamed(&mut self, parameters: Option<&[u8]>, message: &[u8]) {
        if parameters.is_some() {
            self.unnamed.told = Told::default();
        }
        self.unnamed.told.tell(parameters, Columns::of(message));
        let id = self.worker.statements.next_unnamed();
        if let Some(server) = self.server.as_mut().filter(|server| server.unnamed == self.unnamed.id) {
            server.unnamed = id;
        }
        self.unnamed.id = id;
    }

    /// The server has said what it has. An older question than the one that is waited for concerns nobody.
    fn answered(&mut self, question: u64, statement: Option<Rc<Statement>>, columns: Columns) {
        let is_due = matches!(self.held, Held::Waits { question: due, .. } if due == question);
        let told = statement.as_ref().map_or(&self.unnamed.told, |statement| &statement.told);
        let is_same = told.is(columns);
        let Some(server) = self.server.as_mut() else { return };
        match &statement {
            Some(statement) => server.statements.is_sure(statement.id, |sure| {
                // It was made with the parameters that were told.
                (sure.parameters, sure.columns) = (is_same || sure.parameters, is_same);
            }),
            None if !is_same => server.unnamed = 0,
            None => {}
        }
        if !is_due {
            return;
        }
        self.held = Held::Nothing;
        if !is_same {
            self.held = Held::Differs(statement.as_ref().map_or(0, |statement| statement.id));
            self.plans_changed(statement.map_or(self.unnamed.plans, |statement| statement.plans));
        }
    }

    /// A statement that was prepared after so many changes is stale: so are all that were, unless that is known.
    pub(super) fn plans_changed(&self, plans: u64) {
        if plans == self.pool.plans.get() {
            self.worker.plans_changed(&self.entry.key.database);
        }
    }

    /// A client is told what its statement is on this server.
    fn tell(&mut self, name: &[u8], statement: &Rc<Statement>, parameters: Option<&[u8]>, columns: Columns) {
        let is_same = statement.told.tell(parameters, columns);
        let Some(server) = self.server.as_mut() else { return };
        let has_parameters = is_same && parameters.is_some();
        server.statements.is_sure(statement.id, |sure| {
            (sure.parameters, sure.columns) = (sure.parameters || has_parameters, is_same);
        });
        if is_same {
            return;
        }
        // Others were told something else: it is theirs, and this client's is another one.
        self.plans_changed(statement.plans);
        let own = match parameters {
            Some(_) => self.intern(statement.body()),
            None => self.intern(&statement.body_as_told()),
        };
        own.told.tell(parameters, columns);
        if let Some(known) = self.statements.get_mut(name).filter(|known| Rc::ptr_eq(known, statement)) {
            *known = own;
        }
    }
}

/// Whether the next message asks for the description of the portal that a `Bind` makes, and the `Bind`, of which this is what stands
/// behind its names, says nothing of the columns one by one.
fn is_described(portal: &[u8], rest: &[u8], behind: &[u8]) -> bool {
    const HEAD_BYTES: usize = 6;
    let asks = behind.first() == Some(&b'D') && behind.get(HEAD_BYTES - 1) == Some(&b'P');
    asks && behind.get(HEAD_BYTES..).and_then(string).is_some_and(|(name, _)| name == portal)
        && result_formats(rest).is_some_and(|count| count <= 1)
}

/// How many formats of columns a `Bind` names, of which this is what stands behind its names.
fn result_formats(rest: &[u8]) -> Option<u16> {
    let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
    let after = rest.get(2 + 2 * usize::from(number(rest)?)..)?;
    let mut values = after.get(2..)?;
    for _ in 0..number(after)? {
        let length = i32::from_be_bytes(*values.first_chunk()?);
        // -1: NULL.
        values = values.get(4 + usize::try_from(length).unwrap_or(0)..)?;
    }
    number(values)
}

#[cfg(test)]
mod tests {
    use super::{is_described, result_formats};

    #[test]
    fn formats_stand_behind_all_values() {
        let values = b"\0\x01\0\x01\0\x02\0\0\0\x03abc\xff\xff\xff\xff";
        assert_eq!(result_formats(&[values.as_slice(), b"\0\x02\0\x01\0\0"].concat()), Some(2));
        assert_eq!(result_formats(b"\0\0\0\0\0\x01\0\x01"), Some(1));
        assert_eq!(result_formats(values), None, "it is not whole");
        let behind = b"D\0\0\0\x07Pp\0E";
        assert!(is_described(b"p", b"\0\0\0\0\0\0", behind));
        assert!(!is_described(b"q", b"\0\0\0\0\0\0", behind), "another portal");
        assert!(!is_described(b"p", b"\0\0\0\0\0\x02\0\x01\0\x01", behind), "one for each column");
        assert!(!is_described(b"p", b"\0\0\0\0\0\0", b"D\0\0\0"));
    }
}
