//! What members tell each other beside the record: several times a second, and at once when something changes.

use serde::{Deserialize, Serialize};

use crate::roster::Roster;
use crate::status::Gossip;

/// The first byte of a message on the members' channel.
const RAFT: u8 = 0;
const GOSSIP: u8 = 1;
const ROSTER: u8 = 2;

/// A message from another member.
pub(crate) enum Message {
    Raft(Vec<u8>),
    Gossip(Box<Gossip>),
    Roster(NewerRoster),
}

/// The members, told to one whose record knows of fewer: neither does it know who they are, nor could the log come from them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NewerRoster {
    /// The first Raft id that was not given yet.
    pub(crate) ids_given: u64,
    pub(crate) members: Roster,
}

pub(crate) fn raft(bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(RAFT);
    message.extend_from_slice(bytes);
    message
}

/// Reads a message; one that is not understood is of another version, and dropped.
pub(crate) fn read(bytes: &[u8]) -> Option<Message> {
    match bytes.split_first()? {
        (&RAFT, raft) => Some(Message::Raft(raft.to_vec())),
        (&GOSSIP, text) => serde_json::from_slice(text).ok().map(Message::Gossip),
        (&ROSTER, text) => serde_json::from_slice(text).ok().map(Message::Roster),
        _ => None,
    }
}

pub(crate) fn gossip(gossip: &Gossip) -> Vec<u8> {
    json(GOSSIP, gossip)
}

pub(crate) fn roster(newer: &NewerRoster) -> Vec<u8> {
    json(ROSTER, newer)
}

fn json(kind: u8, what: &impl Serialize) -> Vec<u8> {
    let mut message = vec![kind];
    serde_json::to_writer(&mut message, what).expect("it is representable in JSON");
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_another_does_not_know_arrive_with_all_that_is_needed_to_speak_with_them() {
        let row = r#"{"kind":"data","votes":true,"raft_id":4,"address":"127.0.0.1:6432","postgres":null,"key":"k","priority":1}"#;
        let members: Roster = serde_json::from_str(&format!(r#"{{"m4":{row}}}"#)).unwrap();
        let told = roster(&NewerRoster { ids_given: 5, members: members.clone() });
        let Some(Message::Roster(heard)) = read(&told) else { panic!("it is not understood") };
        assert_eq!((heard.ids_given, heard.members), (5, members));
        assert!(read(&[9, 1, 2]).is_none(), "of another version");
    }
}
