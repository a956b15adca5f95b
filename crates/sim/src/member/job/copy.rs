//! Changes of the data directory: initdb, clone, rewind. Marked while they last.

use mainstay_core::{Incarnation, Lsn, MemberId};

use crate::disk::Content;
use crate::event::Life;
use crate::member::lane::Next;
use crate::mutant::ShellMutant;
use crate::postgres::Stage;
use crate::queue::MS;
use crate::world::World;

impl World {
    pub(super) fn initdb_step(&mut self, machine: usize, step: u8) -> Next {
        match step {
            0 => self.mark(machine, "initdb"),
            1 => {
                self.machines[machine].data.content = None;
                Next::Go(self.random.span_ms(100, 600))
            }
            2 => {
                let (root, incarnation) = (self.wal.root(), self.new_incarnation());
                let system_identifier = self.random.next();
                let content = Content::new(incarnation, system_identifier, root, self.wal.branch(root));
                self.machines[machine].data.content = Some(content);
                Next::Go(5 * MS)
            }
            _ => self.unmark(machine),
        }
    }

    pub(crate) fn new_incarnation(&mut self) -> Incarnation {
        Incarnation(u32::try_from(self.random.below(1 << 32)).expect("below 2^32"))
    }

    fn mark(&mut self, machine: usize, operation: &'static str) -> Next {
        let next = self.write(machine, |files| files.mark = Some(operation));
        if matches!(next, Next::Go(_)) {
            self.member(machine).view.scan = None;
            self.refresh_directory(machine);
        }
        next
    }

    fn unmark(&mut self, machine: usize) -> Next {
        match self.write(machine, |files| files.mark = None) {
            Next::Go(_) => {
                self.refresh_directory(machine);
                Next::Done
            }
            other => other,
        }
    }

    /// The primary to copy from, if it can be reached; its life, so that a copy from two servers is noticed.
    fn source(&self, machine: usize, member: &MemberId) -> Option<(usize, Life)> {
        let source = self.machine_of(member)?;
        let live = self.machines[source].live_server()?;
        let serves = live.stage == Stage::Primary && live.postmaster;
        (serves && self.network.connects(machine, source)).then_some((source, live.life))
    }

    pub(super) fn clone_step(&mut self, machine: usize, lane: usize, step: u8, member: &MemberId) -> Next {
        match step {
            // Nothing is touched before the source was reached.
            0 if self.source(machine, member).is_none() => Next::Fail(format!("{member} cannot be reached")),
            0 => {
                if self.waited(machine, lane) == 0 {
                    self.check_clone_is_needed(machine, member);
                }
                self.end_server(machine, lane)
            }
            1 => self.mark(machine, "clone"),
            2 => {
                let next = self.write(machine, |files| (files.upstream, files.conninfo) = (None, None));
                if matches!(next, Next::Go(_)) {
                    self.member(machine).view.upstream = None;
                    self.machines[machine].data.content = None;
                    self.refresh_directory(machine);
                }
                next
            }
            3 => {
                let Some((source, life)) = self.source(machine, member) else {
                    return Next::Fail(format!("{member} cannot be reached"));
                };
                self.member(machine).lanes[lane].noted = u64::from(life);
                // What a copy that is broken off leaves behind.
                let content = self.content(source);
                let (system_identifier, durable, incarnation) =
                    (content.system_identifier, content.durable, content.incarnation);
                let root = self.wal.root();
                let some = self.wal.cut(durable, Lsn(self.wal.end(durable).0 / 2 + self.wal.end(root).0 / 2));
                let mut half = Content::new(incarnation, system_identifier, some, self.wal.branch(some));
                half.garbage = true;
                self.machines[machine].data.content = Some(half);
                Next::Go(self.random.span_ms(200, 3_000))
            }
            4 => {
                let noted = self.member(machine).lanes[lane].noted;
                let source = self.source(machine, member).filter(|(_, life)| u64::from(*life) == noted);
                let disk = &self.machines[machine].disk;
                if disk.stalled_since.is_some() {
                    return Next::Stay(50 * MS);
                }
                let Some((source, _)) = source.filter(|_| !disk.full) else {
                    return Next::Fail(format!("the copy from {member} broke off"));
                };
                self.take_copy(machine, source);
                // A base backup has the history file of its own timeline only.
                let tip = self.content(machine).durable;
                let newest = self.wal.timeline(tip);
                self.content(machine).histories.retain(|number| *number == newest);
                Next::Go(5 * MS)
            }
            5 => {
                if !self.mutated(ShellMutant::IncarnationKept) {
                    let incarnation = self.new_incarnation();
                    self.content(machine).incarnation = incarnation;
                }
                Next::Go(MS)
            }
            _ => self.unmark(machine),
        }
    }

    fn take_copy(&mut self, machine: usize, source: usize) {
        let own = self.content(machine).incarnation;
        let theirs = self.content(source);
        let (tip, system_identifier, control, kept_from) =
            (theirs.durable, theirs.system_identifier, theirs.control, theirs.kept_from);
        let histories = theirs.histories.clone();
        let mut content = Content::new(own, system_identifier, tip, control);
        content.kept_from = kept_from;
        content.histories = histories;
        self.machines[machine].data.content = Some(content);
    }

    pub(super) fn rewind_step(&mut self, machine: usize, lane: usize, step: u8, member: &MemberId) -> Next {
        match step {
            0 => self.end_server(machine, lane),
            1 if self.mutated(ShellMutant::RewindUnmarked) => Next::Go(MS),
            1 => self.mark(machine, "rewind"),
            2 => {
                let next = self.write(machine, |files| (files.upstream, files.conninfo) = (None, None));
                if matches!(next, Next::Go(_)) {
                    self.member(machine).view.upstream = None;
                }
                next
            }
            3 => self.begin_rewind(machine, lane, member),
            4 => {
                let noted = self.member(machine).lanes[lane].noted;
                let source = self.source(machine, member).filter(|(_, life)| u64::from(*life) == noted);
                let disk = &self.machines[machine].disk;
                if disk.stalled_since.is_some() {
                    return Next::Stay(50 * MS);
                }
                let Some((source, _)) = source.filter(|_| !disk.full) else {
                    return Next::Fail(format!("the rewind from {member} broke off"));
                };
                self.take_copy(machine, source);
                Next::Go(5 * MS)
            }
            5 => {
                let incarnation = self.new_incarnation();
                self.content(machine).incarnation = incarnation;
                Next::Go(MS)
            }
            _ => {
                let next = self.unmark(machine);
                self.member(machine).view.scan = None;
                next
            }
        }
    }

    /// What `pg_rewind` looks at: timeline numbers, the source's as of its last checkpoint.
    fn begin_rewind(&mut self, machine: usize, lane: usize, member: &MemberId) -> Next {
        let Some((source, life)) = self.source(machine, member) else {
            return Next::Fail(format!("{member} cannot be reached"));
        };
        self.member(machine).lanes[lane].noted = u64::from(life);
        let ours = self.content(machine).written;
        let theirs = self.content(source).durable;
        let control = self.content(source).control;
        if self.wal.timeline(ours) == self.wal.number(control) {
            // "no rewind required".
            return Next::To(5, 20 * MS);
        }
        let histories = (self.wal.history(ours), self.wal.history(theirs));
        let common = histories.0.iter().zip(histories.1.iter()).take_while(|(a, b)| a == b).count();
        let leaves = histories.1.get(common).map_or(self.wal.end(theirs), |fork| fork.begin);
        if common == 0 || self.content(machine).kept_from > leaves {
            return Next::Fail("the WAL from before the fork is gone".to_owned());
        }
        if self.content(machine).garbage {
            return Next::Fail("the directory cannot be read".to_owned());
        }
        // Half-way it has the source's history and WAL already, and old pages.
        let content = self.content(machine);
        (content.written, content.durable, content.garbage) = (theirs, theirs, true);
        Next::Go(self.random.span_ms(50, 1_000))
    }
}
