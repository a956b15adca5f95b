//! Prepared statements. Each text has one name on every server, whatever the clients call it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use mainstay_pgwire::frame::{push, push_string};

use crate::sql_text::{self, Traits};

/// A statement that some client has prepared.
#[derive(Debug)]
pub(crate) struct Statement {
    /// Its number, never used again; its name on servers is made from it.
    pub(crate) id: u64,
    /// The body of `Parse` after the name: the text with its terminator, and the types of the parameters.
    body: Box<[u8]>,
    pub(crate) traits: Traits,
}

impl Statement {
    pub(crate) fn name(&self) -> String {
        format!("mainstay_{}", self.id)
    }

    pub(crate) fn text(&self) -> &[u8] {
        self.body.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Appends the `Parse` that makes it on a server.
    pub(crate) fn push_parse(&self, out: &mut Vec<u8>) {
        push(out, b'P', |out| {
            push_string(out, &self.name());
            out.extend_from_slice(&self.body);
        });
    }
}

/// A name that no statement has: closing it does nothing, and is answered.
pub(crate) const NOBODY: &str = "mainstay_nobody";

/// All statements of a worker's clients, each once.
#[derive(Default)]
pub(crate) struct Statements {
    known: RefCell<HashMap<Box<[u8]>, Rc<Statement>>>,
    next: std::cell::Cell<u64>,
    prune_at: std::cell::Cell<usize>,
}

impl Statements {
    /// The statement with this body of a `Parse` after the name.
    pub(crate) fn intern(&self, body: &[u8]) -> Rc<Statement> {
        let mut known = self.known.borrow_mut();
        if let Some(statement) = known.get(body) {
            return Rc::clone(statement);
        }
        if known.len() >= self.prune_at.get().max(256) {
            known.retain(|_, statement| Rc::strong_count(statement) > 1);
            self.prune_at.set(known.len() * 2);
        }
        self.next.set(self.next.get() + 1);
        let text = body.split(|byte| *byte == 0).next().unwrap_or_default();
        let statement =
            Rc::new(Statement { id: self.next.get(), body: body.into(), traits: sql_text::traits(text) });
        known.insert(body.into(), Rc::clone(&statement));
        statement
    }
}

/// Which statements a server has, and which of them was used the longest time ago.
#[derive(Default)]
pub(crate) struct OnServer {
    last_use: HashMap<u64, u64>,
    uses: u64,
}

impl OnServer {
    /// Whether the server has it. It counts as used now.
    pub(crate) fn touch(&mut self, id: u64) -> bool {
        self.uses += 1;
        match self.last_use.get_mut(&id) {
            Some(last) => {
                *last = self.uses;
                true
            }
            None => false,
        }
    }

    /// Adds one; returns another that is to be closed if there are more than `most` now.
    pub(crate) fn add(&mut self, id: u64, most: usize) -> Option<u64> {
        self.uses += 1;
        let oldest = if self.last_use.len() >= most.max(1) {
            self.last_use.iter().min_by_key(|(_, last)| **last).map(|(id, _)| *id)
        } else {
            None
        };
        if let Some(id) = oldest {
            self.last_use.remove(&id);
        }
        self.last_use.insert(id, self.uses);
        oldest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.last_use.is_empty()
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.last_use.remove(&id);
    }

    pub(crate) fn clear(&mut self) {
        self.last_use.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_statement() {
        let statements = Statements::default();
        let one = statements.intern(b"select 1\0\0\0");
        assert!(Rc::ptr_eq(&one, &statements.intern(b"select 1\0\0\0")));
        assert_ne!(one.id, statements.intern(b"select 2\0\0\0").id);
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let statements = Statements::default();
        let kept = statements.intern(b"kept\0\0\0");
        (0..300).for_each(|n| drop(statements.intern(format!("select {n}\0\0\0").as_bytes())));
        assert!(statements.known.borrow().len() < 300);
        assert!(Rc::ptr_eq(&kept, &statements.intern(b"kept\0\0\0")));
    }

    #[test]
    fn the_longest_unused_makes_room() {
        let mut server = OnServer::default();
        assert_eq!(server.add(1, 2), None);
        assert_eq!(server.add(2, 2), None);
        assert!(server.touch(1));
        assert_eq!(server.add(3, 2), Some(2));
        assert!(!server.touch(2));
    }
}
