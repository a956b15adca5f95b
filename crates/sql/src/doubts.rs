//! When it cannot be known any more how many answers a server owes, since what it skips depends on where it was when an error
//! came. Such a server stays with its client and is nobody else's: a late answer would be taken for another client's.
//!
//! No driver gets there; whoever writes the protocol by hand does.

/// What was sent of which PostgreSQL takes some and throws some away.
#[derive(Default)]
pub(crate) struct Doubts {
    /// The answers cannot be counted any more.
    pub(crate) is_astray: bool,
    /// The end of a copy was sent before its beginning was answered, when so many answers were due in all.
    ended_at: Option<u64>,
    /// `Execute` was sent, and no `Sync` after it.
    has_executed: bool,
    /// `Sync` was sent within a copy: thrown away, unless an error came first.
    has_synced_in_copy: bool,
    /// A simple query was sent behind messages that no `Sync` has ended: skipped, if one of them fails.
    has_mixed: bool,
}

/// What is known of a server when a message is sent to it.
pub(crate) struct Sent {
    pub(crate) copies_in: bool,
    pub(crate) is_unsynced: bool,
    /// Whether any `ReadyForQuery` is due, and how many were ever.
    pub(crate) is_expecting: bool,
    pub(crate) expected_ever: u64,
}

impl Doubts {
    /// The client has sent a message of this type.
    #[inline]
    pub(crate) fn sent(&mut self, kind: u8, at: &Sent) {
        match kind {
            b'd' | b'H' => {}
            b'c' | b'f' if at.copies_in => {}
            b'c' | b'f' if self.has_executed || at.is_expecting => {
                self.is_astray |= self.ended_at.replace(at.expected_ever).is_some();
            }
            // Nothing can have begun a copy: PostgreSQL throws it away.
            b'c' | b'f' => {}
            b'S' => {
                self.has_synced_in_copy |= at.copies_in;
                self.has_executed = false;
            }
            // PostgreSQL ends a copy with an error then, if the copy has not ended with one before.
            _ if at.copies_in => self.is_astray = true,
            b'E' => {
                self.has_executed = true;
                // Which of two began the copy is not known.
                self.is_astray |= self.ended_at.is_some();
            }
            b'Q' | b'F' => {
                self.has_mixed |= at.is_unsynced;
                self.has_executed = false;
            }
            _ => {}
        }
    }

    /// A copy begins. If its end was sent already: how many answers were due then.
    pub(crate) fn copies_in(&mut self) -> Option<u64> {
        self.ended_at.take()
    }

    pub(crate) fn failed(&mut self, copies_in: bool) {
        self.is_astray |= self.has_mixed || (copies_in && self.has_synced_in_copy);
    }

    /// `ReadyForQuery` has come, as one of those that were due, and as the last of them.
    #[inline]
    pub(crate) fn ready(&mut self, was_due: bool, is_last: bool) {
        self.is_astray |= !was_due;
        if is_last {
            *self = Doubts {
                is_astray: self.is_astray,
                has_executed: self.has_executed,
                ended_at: self.ended_at.filter(|_| self.has_executed),
                ..Doubts::default()
            };
        }
    }
}
