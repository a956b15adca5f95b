//! Records, commands and sync sets by number: a state of the model holds numbers, and each command is applied to each
//! record by the shipped code once.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash};
use std::sync::Arc;

use mainstay_core::MemberId;
use mainstay_core::record::{Applied, Command, EndCause, Phase, Record};
use mainstay_core::sync::SyncSet;

use super::mirror::Mirror;
use crate::explore::{Plain, fingerprint};

/// Numbers for values, in the order of first sight.
struct Numbered<T> {
    values: Vec<Arc<T>>,
    numbers: HashMap<Arc<T>, u32>,
    /// Of each value the number of its mirror image, once it was asked for.
    mirrored: Vec<Option<u32>>,
}

impl<T: Hash + Eq> Numbered<T> {
    fn new() -> Numbered<T> {
        Numbered { values: Vec::new(), numbers: HashMap::new(), mirrored: Vec::new() }
    }

    fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let number = u32::try_from(self.values.len()).expect("far fewer than 2^32 records");
        let value = Arc::new(value);
        self.values.push(value.clone());
        self.mirrored.push(None);
        self.numbers.insert(value, number);
        number
    }

    fn get(&self, number: u32) -> &Arc<T> {
        &self.values[number as usize]
    }

    fn mirror(&mut self, number: u32, image: impl Fn(&T) -> T) -> u32 {
        if let Some(known) = self.mirrored[number as usize] {
            return known;
        }
        let value = image(self.get(number));
        let mirrored = self.number(value);
        self.mirrored[number as usize] = Some(mirrored);
        mirrored
    }
}

pub(super) struct Records {
    records: Numbered<Record>,
    commands: Numbered<Command>,
    sets: Numbered<SyncSet>,
    applied: HashMap<u128, u32, BuildHasherDefault<Plain>>,
    mirror: Mirror,
}

impl Records {
    pub(super) fn new(pair: [MemberId; 2]) -> Records {
        Records {
            records: Numbered::new(),
            commands: Numbered::new(),
            sets: Numbered::new(),
            applied: HashMap::default(),
            mirror: Mirror { pair },
        }
    }

    pub(super) fn add(&mut self, record: Record) -> u32 {
        self.records.number(plain(record))
    }

    pub(super) fn record(&self, number: u32) -> &Arc<Record> {
        self.records.get(number)
    }

    pub(super) fn command_number(&mut self, command: Command) -> u32 {
        self.commands.number(command)
    }

    pub(super) fn command(&self, number: u32) -> &Command {
        self.commands.get(number)
    }

    pub(super) fn set_number(&mut self, set: SyncSet) -> u32 {
        self.sets.number(set)
    }

    pub(super) fn set(&self, number: u32) -> &SyncSet {
        self.sets.get(number)
    }

    /// The record after the command; the same number if it changed nothing.
    pub(super) fn apply(&mut self, record: u32, command: u32) -> u32 {
        let key = fingerprint(&(record, command));
        if let Some(after) = self.applied.get(&key) {
            return *after;
        }
        let mut changed = Record::clone(self.record(record));
        let applied = changed.apply(self.command(command).clone());
        let after = if applied == Applied::Done { self.add(changed) } else { record };
        self.applied.insert(key, after);
        after
    }

    pub(super) fn mirrored_record(&mut self, number: u32) -> u32 {
        self.records.mirror(number, |record| self.mirror.record(record))
    }

    pub(super) fn mirror_command(&mut self, number: u32) -> u32 {
        self.commands.mirror(number, |command| self.mirror.command(command))
    }

    pub(super) fn mirror_set(&mut self, number: u32) -> u32 {
        self.sets.mirror(number, |set| self.mirror.set(set))
    }
}

/// Why an epoch ended decides only whom of several the members prefer, and all of them get their turn here; the ledger
/// is read by nobody.
fn plain(mut record: Record) -> Record {
    record.ledger.clear();
    record.last_end = None;
    if let Phase::Ended { cause } = &mut record.phase {
        *cause = EndCause::Crashed;
    }
    record
}
