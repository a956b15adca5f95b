//! The first words on a connection: who calls, for which cluster, and what the connection is for.
//!
//! The caller sends a [`Hello`]; the listener answers with a welcome or with a refusal that says why.
//! Only then does anything else follow.

use std::fmt;

use mainstay_core::MemberId;
use serde::{Deserialize, Serialize};

/// The version of everything that is said on a connection.
pub const PROTOCOL: u32 = 1;

/// Nothing in a hello or its answer comes near this; longer is not a member.
pub(crate) const MAXIMUM_HELLO: usize = 4096;

/// Kinds of frames.
pub mod kind {
    /// The caller's first frame: a hello in JSON.
    pub const HELLO: u8 = 1;
    /// The listener's answer: come in. No payload.
    pub const WELCOME: u8 = 2;
    /// The listener's answer: stay out. The reason, for people.
    pub const REFUSED: u8 = 3;
    /// Asks for a PONG, on every channel: silence is how a broken network is noticed. No payload.
    pub const PING: u8 = 4;
    pub const PONG: u8 = 5;
    /// One message that wants no answer, on the raft channel.
    pub const MESSAGE: u8 = 6;
    /// A call: its number (8 bytes), the length of its method (1 byte), the method, the body.
    pub const CALL: u8 = 7;
    /// The number of a call, and its result.
    pub const ANSWER: u8 = 8;
    /// The number of a call, and why there is no result, for people.
    pub const FAILURE: u8 = 9;
    /// A machine's request to join, on join connections only; answered by JOIN_ANSWER or REFUSED.
    pub const JOIN_REQUEST: u8 = 10;
    pub const JOIN_ANSWER: u8 = 11;
    /// The listener's answer to a member that the cluster has gone on without: stop. The reason, for people.
    pub const LEFT_BEHIND: u8 = 12;
}

/// What a connection is for. Each channel has connections of its own, so that a large answer on one
/// never delays a renewal on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// Raft's messages and other state that is only worth sending fresh; no answers.
    Raft,
    /// Renewals of the lease: calls answered from memory.
    Lease,
    /// All other calls.
    Rpc,
}

impl Channel {
    const ALL: [Channel; 3] = [Channel::Raft, Channel::Lease, Channel::Rpc];

    pub fn as_str(self) -> &'static str {
        match self {
            Channel::Raft => "raft",
            Channel::Lease => "lease",
            Channel::Rpc => "rpc",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the caller says. The words are checked one by one, so that each wrong one gets its own refusal.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    pub cluster: String,
    pub from: String,
    pub channel: String,
}

impl Hello {
    pub fn new(cluster: &str, from: &MemberId, channel: Channel) -> Hello {
        Hello {
            protocol: PROTOCOL,
            cluster: cluster.to_owned(),
            from: from.to_string(),
            channel: channel.to_string(),
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("three strings and a number have a JSON form")
    }

    /// Judges a caller's first frame.
    ///
    /// `named_by_key` is the member whose key TLS has proven, `listener` and `cluster` are ours.
    pub(crate) fn check(
        payload: &[u8],
        named_by_key: &MemberId,
        listener: &MemberId,
        cluster: &str,
    ) -> Result<Channel, Refusal> {
        /// Another version may spell everything else differently.
        #[derive(Deserialize)]
        struct Version {
            protocol: u32,
        }
        let version: Version = serde_json::from_slice(payload).map_err(|_| Refusal::Unreadable)?;
        if version.protocol != PROTOCOL {
            return Err(Refusal::Protocol { listener: listener.clone(), theirs: version.protocol });
        }
        let hello: Hello = serde_json::from_slice(payload).map_err(|_| Refusal::Unreadable)?;
        if hello.cluster != cluster {
            return Err(Refusal::Cluster {
                listener: listener.clone(),
                ours: cluster.to_owned(),
                theirs: hello.cluster,
            });
        }
        if hello.from != named_by_key.as_str() {
            return Err(Refusal::From { claimed: hello.from, named_by_key: named_by_key.clone() });
        }
        let channel = Channel::ALL.into_iter().find(|channel| channel.as_str() == hello.channel);
        channel.ok_or(Refusal::Channel { listener: listener.clone(), asked: hello.channel })
    }
}

/// Why a member with a valid key is sent away. The text goes to the caller, whose operator reads it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the first frame is not a hello")]
    Unreadable,
    #[error("{listener} speaks protocol {PROTOCOL}, not {theirs}: run the same release on all members")]
    Protocol { listener: MemberId, theirs: u32 },
    #[error(
        "{listener} belongs to cluster {ours:?}, not {theirs:?}: correct the address or the cluster's name"
    )]
    Cluster { listener: MemberId, ours: String, theirs: String },
    #[error(
        "the caller says it is {claimed:?}, but its key is that of {named_by_key}: give each member its own key"
    )]
    From { claimed: String, named_by_key: MemberId },
    #[error("{listener} has no channel {asked:?}: run the same release on all members")]
    Channel { listener: MemberId, asked: String },
    #[error(
        "{listener} has {limit} connections of this member already: look for a second copy of it, or a loop"
    )]
    TooMany { listener: MemberId, limit: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(payload: &[u8]) -> Result<Channel, Refusal> {
        let (m1, m2) = (MemberId::new("m1").unwrap(), MemberId::new("m2").unwrap());
        Hello::check(payload, &m2, &m1, "shop")
    }

    #[test]
    fn a_proper_hello_names_its_channel() {
        let m2 = MemberId::new("m2").unwrap();
        for channel in Channel::ALL {
            assert_eq!(check(&Hello::new("shop", &m2, channel).to_json()), Ok(channel));
            assert_eq!(serde_json::to_string(&channel).unwrap(), format!("\"{channel}\""));
        }
    }

    #[test]
    fn each_wrong_word_has_its_own_refusal() {
        let refusal = |text: &str| check(text.as_bytes()).unwrap_err();
        assert_eq!(refusal("GET / HTTP/1.1"), Refusal::Unreadable);
        assert_eq!(refusal(r#"{"protocol": 1}"#), Refusal::Unreadable);
        assert!(matches!(refusal(r#"{"protocol": 2, "shape": "new"}"#), Refusal::Protocol { theirs: 2, .. }));
        let hello = |cluster, from, channel| {
            format!(r#"{{"protocol":1,"cluster":"{cluster}","from":"{from}","channel":"{channel}"}}"#)
        };
        assert!(matches!(refusal(&hello("bank", "m2", "rpc")), Refusal::Cluster { .. }));
        assert!(matches!(refusal(&hello("shop", "m3", "rpc")), Refusal::From { .. }));
        assert!(matches!(refusal(&hello("shop", "m2", "mail")), Refusal::Channel { .. }));
        assert_eq!(check(hello("shop", "m2", "rpc").as_bytes()), Ok(Channel::Rpc));
    }
}
