//! What members tell each other beside the record: several times a second, and at once when something changes.

use crate::status::Gossip;

/// The first byte of a message on the members' channel.
const RAFT: u8 = 0;
const GOSSIP: u8 = 1;

/// A message from another member.
pub(crate) enum Message {
    Raft(Vec<u8>),
    Gossip(Box<Gossip>),
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
        _ => None,
    }
}

pub(crate) fn gossip(gossip: &Gossip) -> Vec<u8> {
    let mut message = vec![GOSSIP];
    serde_json::to_writer(&mut message, gossip).expect("gossip is representable in JSON");
    message
}
