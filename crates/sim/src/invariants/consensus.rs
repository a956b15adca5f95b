//! The replicas agree: one leader per term, and at each index the same entry with the same outcome.

use std::hash::{DefaultHasher, Hash, Hasher};

use mainstay_core::record::{Applied, Command};

use crate::world::World;

fn hash(value: impl Hash) -> u64 {
    // With its fixed keys, so that two runs agree.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl World {
    pub(crate) fn observe_leader(&mut self, machine: usize) {
        let Some(term) = self.machines[machine].member.as_ref().and_then(|member| member.leads()) else {
            return;
        };
        let other = *self.observer.leaders.entry(term).or_insert(machine);
        if other != machine {
            self.violated("consensus", || format!("machines {other} and {machine} lead in term {term}"));
        }
    }

    pub(super) fn check_same_entry(&mut self, index: u64, command: &Command, result: &Applied) {
        let refused = matches!(result, Applied::Refused(_));
        let hash = hash((command, *result == Applied::Done, refused));
        let other = *self.observer.entries.entry(index).or_insert(hash);
        if other != hash {
            self.violated("consensus", || format!("two members applied different entries at {index}"));
        }
    }

    pub(super) fn check_same_record(&mut self, machine: usize) {
        let Some(member) = &self.machines[machine].member else { return };
        let Some(raft) = &member.raft else { return };
        let (index, hash) = (raft.status().applied, hash(&*raft.machine().record));
        let other = *self.observer.records.entry(index).or_insert(hash);
        if other != hash {
            self.violated("consensus", || format!("two members hold different records after entry {index}"));
        }
    }
}
