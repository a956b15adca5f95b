//! Virtual addresses in the status.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mainstay_core::MemberId;
use serde::{Deserialize, Serialize};

/// A virtual address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    pub address: IpAddr,
    /// Whose holder has it: `primary`.
    pub follows: String,
    /// Who has it; `null`: nobody, as far as this member hears.
    pub member: Option<MemberId>,
    pub interface: Option<String>,
    /// For how long, in milliseconds.
    pub held_ms: Option<u64>,
    /// For how long nobody had it before that, as the holder has seen it, in milliseconds; `null` if it does not know.
    pub gap_ms: Option<u64>,
    /// The hardware address of another machine that says that it has it too.
    pub claimed_by: Option<String>,
    /// Members that cannot hold it, each with the reason.
    pub errors: BTreeMap<MemberId, String>,
}

/// A virtual address as one member tells the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnAddress {
    pub(crate) address: IpAddr,
    pub(crate) interface: Option<String>,
    pub(crate) is_held: bool,
    #[serde(default)]
    pub(crate) held_ms: Option<u64>,
    #[serde(default)]
    pub(crate) gap_ms: Option<u64>,
    #[serde(default)]
    pub(crate) claimed_by: Option<String>,
    #[serde(default)]
    pub(crate) error: Option<String>,
}
