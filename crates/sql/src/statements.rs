//! Prepared statements. Each text has one name on every server, whatever the clients call it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::rc::Rc;

use mainstay_pgwire::frame::{push, push_string, string};

use crate::sql_text::{self, Traits};

/// A statement that some client has prepared.
#[derive(Debug)]
pub(crate) struct Statement {
    /// Its number, never used again; its name on servers is made from it.
    pub(crate) id: u64,
    /// The pool's count of changes when it was prepared.
    pub(crate) plans: u64,
    /// What tells it from others: `plans`, the body, what else its meaning depends on.
    key: Rc<[u8]>,
    /// The body of `Parse` after the name: the text with its terminator, and the types of the parameters.
    body_bytes: usize,
    pub(crate) traits: Traits,
    pub(crate) told: Told,
}

impl Statement {
    pub(crate) fn name(&self) -> String {
        format!("mainstay_{}", self.id)
    }

    pub(crate) fn text(&self) -> &[u8] {
        self.body().split(|byte| *byte == 0).next().unwrap_or_default()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.key[size_of::<u64>()..][..self.body_bytes]
    }

    /// Appends the `Parse` that makes it on a server: of its body as it was first prepared, or as clients were told.
    pub(crate) fn push_parse(&self, body: &[u8], out: &mut Vec<u8>) {
        push(out, b'P', |out| {
            push_string(out, &self.name());
            out.extend_from_slice(body);
        });
    }

    /// Its body, with the parameters' types that clients were told: they send values of these.
    pub(crate) fn body_as_told(&self) -> Vec<u8> {
        self.told.of(self.body())
    }

    /// By what settings it was prepared.
    pub(crate) fn apart(&self) -> &[u8] {
        &self.key[size_of::<u64>() + self.body_bytes..]
    }
}

/// What clients were told of a statement. They read its rows and send its parameters by that, and are not told again.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The body of `ParameterDescription`.
    parameters: OnceCell<Box<[u8]>>,
    columns: OnceCell<Columns>,
}

impl Told {
    /// Whether anybody relies on what columns it has. What returns no rows never does.
    pub(crate) fn has_columns(&self) -> bool {
        self.columns.get().is_some_and(|columns| *columns != Columns::NONE)
    }

    pub(crate) fn has_parameters(&self) -> bool {
        self.parameters.get().is_some()
    }

    /// Whether a server has the same columns.
    pub(crate) fn is(&self, columns: Columns) -> bool {
        self.columns.get().is_none_or(|told| *told == columns)
    }

    /// Takes in what a client is told. False if others were told something else.
    pub(crate) fn tell(&self, parameters: Option<&[u8]>, columns: Columns) -> bool {
        let is_same = parameters.is_none_or(|said| **self.parameters.get_or_init(|| said.into()) == *said);
        *self.columns.get_or_init(|| columns) == columns && is_same
    }

    /// The same of all that was told of another statement.
    pub(crate) fn tell_all(&self, told: &Told) -> bool {
        let parameters = told.parameters.get().map(AsRef::as_ref);
        match told.columns.get() {
            Some(columns) => self.tell(parameters, *columns),
            None => parameters.is_none_or(|said| **self.parameters.get_or_init(|| said.into()) == *said),
        }
    }

    /// The body of a `Parse` with the types that were told.
    pub(crate) fn of(&self, body: &[u8]) -> Vec<u8> {
        let Some(parameters) = self.parameters.get() else { return body.to_vec() };
        let text = body.split_inclusive(|byte| *byte == 0).next().unwrap_or_default();
        [text, parameters].concat()
    }
}

/// The names and types of a result's columns, by a number that others do not have but by one chance in 2^64. Whatever else a
/// `RowDescription` says, a value is read by its type, and PostgreSQL itself says other modifiers of a portal than of its statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Columns(u64);

impl Columns {
    /// There are no rows.
    pub(crate) const NONE: Columns = Columns(0);

    /// Of a whole `RowDescription` or `NoData`.
    pub(crate) fn of(message: &[u8]) -> Columns {
        // Behind a name: table (4 bytes), its column (2), type (4), its length (2), its modifier (4), format (2).
        const FIELD_BYTES: usize = 18;
        if message.first() != Some(&b'T') {
            return Columns::NONE;
        }
        let mut hasher = DefaultHasher::new();
        let mut rest = message.get(7..).unwrap_or_default();
        while let Some((name, after)) = string(rest)
            && let Some((field, next)) = after.split_at_checked(FIELD_BYTES)
        {
            hasher.write(name);
            hasher.write_u8(0);
            hasher.write(&field[6..10]);
            rest = next;
        }
        Columns(hasher.finish() | 1)
    }
}

/// A `Describe` that a server has not answered yet.
pub(crate) struct Described {
    pub(crate) what: What,
    /// Of a statement: its parameters come first.
    pub(crate) is_statement: bool,
    pub(crate) parameters: Option<Box<[u8]>>,
}

pub(crate) enum What {
    /// Nothing depends on it.
    Passing,
    /// The client's statement of that name.
    Named(Box<[u8]>, Rc<Statement>),
    /// Its unnamed statement of that number.
    Unnamed(u64),
    /// The proxy itself has asked, for its question of that number, whether it is as the client was told; `None`: the unnamed one.
    Held(u64, Option<Rc<Statement>>),
}

/// A name that no statement has: closing it does nothing, and is answered; binding it fails.
pub(crate) const NOBODY: &str = "mainstay_nobody";

/// All statements of a worker's clients, each once.
#[derive(Default)]
pub(crate) struct Statements {
    known: RefCell<HashMap<Rc<[u8]>, Rc<Statement>>>,
    next: Cell<u64>,
    prune_at: Cell<usize>,
    next_unnamed: Cell<u64>,
}

impl Statements {
    /// The statement with this body of a `Parse` after the name, prepared after so many changes. `apart` keeps those from one
    /// another that mean something else by the same text.
    pub(crate) fn intern(&self, body: &[u8], plans: u64, apart: &[u8]) -> Rc<Statement> {
        let mut known = self.known.borrow_mut();
        let key = [&plans.to_be_bytes(), body, apart].concat();
        if let Some(statement) = known.get(&*key) {
            return Rc::clone(statement);
        }
        if known.len() >= self.prune_at.get().max(256) {
            known.retain(|_, statement| Rc::strong_count(statement) > 1);
            self.prune_at.set(known.len() * 2);
        }
        self.next.set(self.next.get() + 1);
        let text = body.split(|byte| *byte == 0).next().unwrap_or_default();
        let key: Rc<[u8]> = key.into();
        let statement = Rc::new(Statement {
            id: self.next.get(),
            plans,
            key: Rc::clone(&key),
            body_bytes: body.len(),
            traits: sql_text::traits(text),
            told: Told::default(),
        });
        known.insert(key, Rc::clone(&statement));
        statement
    }

    /// A number that no other unnamed statement has; never 0.
    pub(crate) fn next_unnamed(&self) -> u64 {
        self.next_unnamed.set(self.next_unnamed.get() + 1);
        self.next_unnamed.get()
    }
}

/// Which statements a server has, and which of them was used the longest time ago.
#[derive(Default)]
pub(crate) struct OnServer {
    known: HashMap<u64, Known>,
    uses: u64,
}

#[derive(Clone, Copy)]
struct Known {
    last_use: u64,
    /// What of it is as clients were told.
    sure: Sure,
}

/// What a server's statement has in common with what clients were told of it, for certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sure {
    pub(crate) parameters: bool,
    pub(crate) columns: bool,
}

impl OnServer {
    /// What is sure of a statement, if the server has it. It counts as used now.
    pub(crate) fn touch(&mut self, id: u64) -> Option<Sure> {
        self.uses += 1;
        let known = self.known.get_mut(&id)?;
        known.last_use = self.uses;
        Some(known.sure)
    }

    /// Adds one; returns another that is to be closed if there are more than `most` now.
    pub(crate) fn add(&mut self, id: u64, most: usize) -> Option<u64> {
        self.uses += 1;
        self.known.remove(&id);
        let oldest = if self.known.len() >= most.max(1) {
            self.known.iter().min_by_key(|(_, known)| known.last_use).map(|(id, _)| *id)
        } else {
            None
        };
        if let Some(id) = oldest {
            self.known.remove(&id);
        }
        self.known.insert(id, Known { last_use: self.uses, sure: Sure::default() });
        oldest
    }

    pub(crate) fn is_sure(&mut self, id: u64, sure: impl FnOnce(&mut Sure)) {
        if let Some(known) = self.known.get_mut(&id) {
            sure(&mut known.sure);
        }
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.known.remove(&id);
    }

    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_statement() {
        let statements = Statements::default();
        let one = statements.intern(b"select 1\0\0\0", 1, b"");
        assert!(Rc::ptr_eq(&one, &statements.intern(b"select 1\0\0\0", 1, b"")));
        for (body, plans, apart) in [
            (b"select 2\0\0\0", 1, b"".as_slice()),
            (b"select 1\0\0\0", 2, b""),
            (b"select 1\0\0\0", 1, b"a"),
        ] {
            assert_ne!(one.id, statements.intern(body, plans, apart).id);
        }
        assert_eq!((one.text(), one.body()), (b"select 1".as_slice(), b"select 1\0\0\0".as_slice()));
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let statements = Statements::default();
        let kept = statements.intern(b"kept\0\0\0", 1, b"");
        (0..300).for_each(|n| drop(statements.intern(format!("select {n}\0\0\0").as_bytes(), 1, b"")));
        assert!(statements.known.borrow().len() < 300);
        assert!(Rc::ptr_eq(&kept, &statements.intern(b"kept\0\0\0", 1, b"")));
    }

    #[test]
    fn the_longest_unused_makes_room() {
        let mut server = OnServer::default();
        assert_eq!(server.add(1, 2), None);
        assert_eq!(server.add(2, 2), None);
        assert_eq!(server.touch(1), Some(Sure::default()));
        assert_eq!(server.add(3, 2), Some(2));
        assert_eq!(server.touch(2), None);
        server.is_sure(1, |sure| sure.columns = true);
        assert_eq!(server.touch(1), Some(Sure { parameters: false, columns: true }));
        // Made anew, it takes nobody's place.
        assert_eq!(server.add(1, 2), None);
        assert_eq!(server.touch(1), Some(Sure::default()));
    }

    fn description(name: &str, table: u32, kind: u32, format: u16) -> Vec<u8> {
        let mut message = b"T\0\0\0\0\0\x01".to_vec();
        push_string(&mut message, name);
        for part in [table.to_be_bytes().as_slice(), &[0, 1], &kind.to_be_bytes(), &[0, 4], &[255; 4]] {
            message.extend_from_slice(part);
        }
        message.extend_from_slice(&format.to_be_bytes());
        message
    }

    #[test]
    fn columns_are_names_and_types() {
        let one = Columns::of(&description("a", 1, 23, 0));
        assert_eq!(one, Columns::of(&description("a", 2, 23, 1)), "of another table, in another format");
        assert_ne!(one, Columns::of(&description("a", 1, 700, 0)));
        assert_ne!(one, Columns::of(&description("b", 1, 23, 0)));
        assert_ne!(
            Columns::of(b"T\0\0\0\x06\0\0"),
            Columns::of(b"n\0\0\0\x04"),
            "rows without columns are rows"
        );
    }

    #[test]
    fn what_was_told_first_holds() {
        let told = Told::default();
        let (columns, others) =
            (Columns::of(&description("a", 1, 23, 0)), Columns::of(&description("a", 1, 700, 0)));
        assert!(!told.has_columns() && told.is(others));
        assert!(told.tell(Some(b"\0\x01\0\0\0\x17"), columns));
        assert!(told.has_columns() && told.is(columns) && !told.is(others));
        assert!(!told.tell(None, others));
        assert!(!told.tell(Some(b"\0\0"), columns));
        assert_eq!(told.of(b"select $1\0\0\0"), b"select $1\0\0\x01\0\0\0\x17");
        let (same, other) = (Told::default(), Told::default());
        assert!(other.tell(None, others));
        assert!(same.tell_all(&told) && same.is(columns) && !other.tell_all(&told));
        let silent = Told::default();
        assert!(silent.tell(None, Columns::NONE) && !silent.has_columns(), "nobody reads rows of it");
    }
}
