//! The write-ahead logs of all servers, content-addressed.
//!
//! Every record is kept once and names the one before it, so a record stands for all that a directory holds. Two
//! histories with the same timeline number are two branches here, however much PostgreSQL confuses them.

use std::rc::Rc;

use mainstay_core::lineage::{Fork, History};
use mainstay_core::{Lsn, Timeline};

/// A record, and with it everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tip(u32);

/// A timeline as it really is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Branch(u32);

/// How much WAL one file holds. Smaller than PostgreSQL's 16 MiB, so that a run crosses many.
pub(crate) const SEGMENT: u64 = 1 << 18;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A transaction's commit.
    Commit(u32),
    Other,
}

struct Record {
    before: Tip,
    /// Some record further back, so that walking back takes logarithmic time.
    jump: Tip,
    depth: u32,
    end: Lsn,
    branch: Branch,
    kind: Kind,
}

struct Line {
    number: Timeline,
    history: Rc<History>,
}

pub(crate) struct Wal {
    records: Vec<Record>,
    lines: Vec<Line>,
}

/// Where a new cluster's WAL begins.
const FIRST: u64 = 1 << 24;

impl Wal {
    pub(crate) fn new() -> Wal {
        let history = Rc::new(vec![Fork { timeline: Timeline(1), begin: Lsn::ZERO }]);
        let root = Record {
            before: Tip(0),
            jump: Tip(0),
            depth: 0,
            end: Lsn(FIRST),
            branch: Branch(0),
            kind: Kind::Other,
        };
        Wal { records: vec![root], lines: vec![Line { number: Timeline(1), history }] }
    }

    /// What initdb makes.
    pub(crate) fn root(&self) -> Tip {
        Tip(0)
    }

    fn record(&self, tip: Tip) -> &Record {
        &self.records[tip.0 as usize]
    }

    pub(crate) fn append(&mut self, before: Tip, bytes: u64, kind: Kind) -> Tip {
        let branch = self.record(before).branch;
        self.append_to(before, bytes, kind, branch)
    }

    fn append_to(&mut self, before: Tip, bytes: u64, kind: Kind, branch: Branch) -> Tip {
        let tip = Tip(u32::try_from(self.records.len()).expect("a run has fewer records than that"));
        let (depth, end) = (self.record(before).depth + 1, Lsn(self.record(before).end.0 + bytes));
        let jump = self.record(before).jump;
        let (near, far) = (self.record(jump).depth, self.record(self.record(jump).jump).depth);
        // Skew-binary jump pointers: two jumps of the same length are followed by one over both.
        let even = self.record(before).depth - near == near - far;
        let jump = if even { self.record(jump).jump } else { before };
        self.records.push(Record { before, jump, depth, end, branch, kind });
        tip
    }

    /// A promotion: a new timeline that leaves the old one after `before`, with its end-of-recovery record.
    pub(crate) fn promote(&mut self, before: Tip, number: Timeline) -> Tip {
        let mut history = (*self.history(before)).clone();
        history.push(Fork { timeline: number, begin: self.end(before) });
        let branch = Branch(u32::try_from(self.lines.len()).expect("a run has few timelines"));
        self.lines.push(Line { number, history: Rc::new(history) });
        self.append_to(before, 120, Kind::Other, branch)
    }

    pub(crate) fn end(&self, tip: Tip) -> Lsn {
        self.record(tip).end
    }

    fn kind(&self, tip: Tip) -> Kind {
        self.record(tip).kind
    }

    fn before(&self, tip: Tip) -> Tip {
        self.record(tip).before
    }

    pub(crate) fn branch(&self, tip: Tip) -> Branch {
        self.record(tip).branch
    }

    pub(crate) fn timeline(&self, tip: Tip) -> Timeline {
        self.number(self.branch(tip))
    }

    pub(crate) fn number(&self, branch: Branch) -> Timeline {
        self.lines[branch.0 as usize].number
    }

    /// The last commit in what `tip` stands for.
    pub(crate) fn last_commit(&self, tip: Tip) -> Tip {
        let mut tip = tip;
        while tip != self.root() && self.kind(tip) == Kind::Other {
            tip = self.before(tip);
        }
        tip
    }

    pub(crate) fn history(&self, tip: Tip) -> Rc<History> {
        Rc::clone(&self.lines[self.branch(tip).0 as usize].history)
    }

    /// The last record of `tip`'s content that ends at or before `at`.
    pub(crate) fn cut(&self, tip: Tip, at: Lsn) -> Tip {
        let mut tip = tip;
        while self.end(tip) > at && tip != self.root() {
            let jump = self.record(tip).jump;
            tip = if self.end(jump) > at { jump } else { self.record(tip).before };
        }
        tip
    }

    /// The last record that both have.
    pub(crate) fn common(&self, one: Tip, other: Tip) -> Tip {
        let (mut one, mut other) = (one, other);
        while one != other {
            if self.record(one).depth >= self.record(other).depth {
                one = self.before(one);
            } else {
                other = self.before(other);
            }
        }
        one
    }

    /// Whether `whole` holds everything that `part` does.
    pub(crate) fn is_prefix(&self, part: Tip, whole: Tip) -> bool {
        self.cut(whole, self.end(part)) == part
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn cuts_and_prefixes_agree_with_walking_back_one_by_one() {
        let mut random = Random::new(1);
        let mut wal = Wal::new();
        let mut tips = vec![wal.root()];
        for n in 0..400 {
            let before = tips[random.index(tips.len().min(3)) + tips.len().saturating_sub(3)];
            let bytes = random.between(50, 500);
            tips.push(match n % 50 {
                49 => wal.promote(before, Timeline(n)),
                _ => wal.append(before, bytes, Kind::Commit(n)),
            });
        }
        for _ in 0..3_000 {
            let (a, b) = (tips[random.index(tips.len())], tips[random.index(tips.len())]);
            let mut walked = b;
            while wal.end(walked) > wal.end(a) && walked != wal.root() {
                walked = wal.before(walked);
            }
            assert_eq!(wal.cut(b, wal.end(a)), walked);
            assert_eq!(wal.is_prefix(a, b), walked == a);
        }
    }
}
