//! The ids of the proposals that were applied last, so that none is applied twice.
//!
//! A proposer that does not know what became of its proposal (the leader changed, a link dropped it) proposes it
//! again under the same id; and a link may deliver one twice. The memory is part of the replicated state: every
//! member has the same one after the same entry, also after a snapshot, so all skip the same repetitions.

use std::collections::{BTreeSet, VecDeque};

use crate::machine::RestoreError;

/// How many are remembered. A repetition comes within seconds; the record changes some ten times a second.
pub(crate) const REMEMBERED: usize = 1024;
const ID_BYTES: usize = 16;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    order: VecDeque<u128>,
    ids: BTreeSet<u128>,
}

impl Recent {
    /// Remembers `id`; false if it is remembered already.
    pub(crate) fn insert(&mut self, id: u128) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }

    /// The payload of a snapshot: the ids, then the machine's own bytes.
    pub(crate) fn encode(&self, machine: &[u8]) -> Vec<u8> {
        let count = u32::try_from(self.order.len()).expect("at most REMEMBERED");
        let mut bytes = count.to_le_bytes().to_vec();
        for id in &self.order {
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes.extend_from_slice(machine);
        bytes
    }

    /// The inverse of [`Recent::encode`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), RestoreError> {
        let short = || RestoreError("it is too short".to_owned());
        let (count, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let count = u32::from_le_bytes(*count) as usize;
        if count > REMEMBERED || rest.len() < count * ID_BYTES {
            return Err(short());
        }
        let (ids, machine) = rest.split_at(count * ID_BYTES);
        let mut recent = Self::default();
        for id in ids.as_chunks::<ID_BYTES>().0 {
            recent.insert(u128::from_le_bytes(*id));
        }
        Ok((recent, machine))
    }
}
