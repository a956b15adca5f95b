//! The processes of the primary's PostgreSQL, each with what it last read of the names.

use std::fmt;

use super::{Proof, STANDBYS, Set};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Process {
    Postmaster,
    Checkpointer,
    Walsender(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Processes {
    /// What was written last.
    file: Set,
    postmaster: Set,
    /// What the checkpointer has told the backends: that there are names at all, and commits wait.
    waits: bool,
    /// The walsender of each standby that is connected: of how many it waits for the flush, 0 if it is not among the names
    /// itself. Nothing else of the names makes a difference to it.
    walsenders: [Option<u8>; STANDBYS],
}

/// What the walsender of `standby` makes of `names`.
fn read(names: Set, standby: usize) -> u8 {
    if names.has(standby) { names.k } else { 0 }
}

impl Processes {
    pub(super) fn new(names: Set, standbys: u8) -> Processes {
        let walsenders =
            std::array::from_fn(|standby| (standby < usize::from(standbys)).then(|| read(names, standby)));
        Processes { file: names, postmaster: names, waits: names.k > 0, walsenders }
    }

    /// The postmaster reads them at any time after that, or at once.
    pub(super) fn write(&mut self, names: Set, postmaster_lags: bool) {
        self.file = names;
        if !postmaster_lags {
            self.postmaster = names;
        }
    }

    /// A new walsender has what the postmaster has.
    pub(super) fn connect(&mut self, standby: usize) {
        self.walsenders[standby] = Some(read(self.postmaster, standby));
    }

    /// Whether it was connected.
    pub(super) fn disconnect(&mut self, standby: usize) -> bool {
        self.walsenders[standby].take().is_some()
    }

    /// Every way in which one process reads what was written.
    pub(super) fn readings(self) -> impl Iterator<Item = (Process, Processes)> {
        let file = self.file;
        let postmaster = (Process::Postmaster, Processes { postmaster: file, ..self });
        let checkpointer = (Process::Checkpointer, Processes { waits: file.k > 0, ..self });
        let walsenders = (0..STANDBYS).filter(move |standby| self.walsenders[*standby].is_some());
        let walsenders = walsenders.map(move |standby| {
            let mut after = self;
            after.walsenders[standby] = Some(read(file, standby));
            (Process::Walsender(standby), after)
        });
        [postmaster, checkpointer].into_iter().chain(walsenders).filter(move |(_, after)| *after != self)
    }

    /// Whether the proof finds that everything acts on `names`.
    pub(super) fn act_on(self, names: Set, proof: Proof) -> bool {
        let connection = self.postmaster == names;
        if names.k == 0 {
            // Whoever still waits for more is safe.
            return connection;
        }
        let moved = |(standby, own): (usize, &Option<u8>)| own.is_none_or(|k| k == read(names, standby));
        let walsenders = self.walsenders.iter().enumerate().all(moved);
        match proof {
            Proof::NewConnection => connection,
            Proof::WithoutCheckpointer => connection && walsenders,
            Proof::Full | Proof::WithoutFlush => connection && walsenders && self.waits,
        }
    }

    /// Each standby that counts, and how many its walsender waits for. Who counts is what each walsender last read of
    /// itself.
    fn counted(self) -> impl Iterator<Item = (usize, u8)> {
        let walsenders = self.walsenders.into_iter().enumerate();
        walsenders.filter_map(|(standby, k)| Some((standby, k.filter(|k| *k > 0)?)))
    }

    /// What somebody acts on now, or may read any time later.
    pub(super) fn acted_on(self) -> impl Iterator<Item = Set> {
        let none = (!self.waits).then(Set::default);
        let voters = self.counted().fold(0, |bits, (standby, _)| bits | (1 << standby));
        let mixed = self.counted().map(move |(_, k)| Set { voters, k });
        [self.file, self.postmaster].into_iter().chain(none).chain(mixed)
    }

    /// Up to where commits are acknowledged: by each walsender that counts, what as many as it waits for have flushed of
    /// all that count; everything, if nobody waits.
    pub(super) fn acknowledged(self, flushed: &[u8; STANDBYS], inserted: u8) -> u8 {
        if !self.waits {
            return inserted;
        }
        let mut positions: Vec<u8> = self.counted().map(|(standby, _)| flushed[standby]).collect();
        positions.sort_unstable_by(|one, other| other.cmp(one));
        let fewest = self.counted().map(|(_, k)| k).min();
        fewest.and_then(|k| positions.get(usize::from(k) - 1)).copied().unwrap_or(0)
    }

    pub(super) fn renamed(self, renaming: &[usize; STANDBYS], set: impl Fn(Set) -> Set) -> Processes {
        let mut walsenders = [None; STANDBYS];
        for (at, place) in renaming.iter().enumerate() {
            walsenders[*place] = self.walsenders[at];
        }
        Processes { file: set(self.file), postmaster: set(self.postmaster), walsenders, ..self }
    }
}

impl fmt::Display for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "written {}, postmaster {}, waits {}, walsenders", self.file, self.postmaster, self.waits)?;
        self.walsenders.iter().zip(["b", "c", "d"]).try_for_each(|(own, name)| match own {
            Some(k) => write!(f, " {name}: {k}"),
            None => Ok(()),
        })
    }
}
