//! What passes between the member and the process that holds its addresses: a line of JSON each.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An address that may be held here, by the machine's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub address: IpAddr,
    /// `None`: the one whose network the address belongs to.
    pub interface: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// These addresses may be here until then, and no others.
    Hold {
        epoch: u64,
        /// On `CLOCK_BOOTTIME`, in nanoseconds.
        deadline_ns: u64,
        addresses: Vec<IpAddr>,
        /// Whether the last holder may be alive, so that the network is asked first.
        careful: bool,
    },
    /// Nothing is held under this epoch or an older one, from now on and for good.
    Release { epoch: u64 },
}

/// The answer to an order, and what is said unasked when something has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Nothing is held under this epoch or an older one, nor will it be.
    pub released: u64,
    pub addresses: Vec<AddressState>,
    /// Why orders cannot be carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressState {
    pub address: IpAddr,
    /// Where it is, or would be.
    pub interface: Option<String>,
    pub is_held: bool,
    /// Since when, on `CLOCK_BOOTTIME`.
    #[serde(default)]
    pub since_ns: u64,
    /// The hardware address of another machine that lately said that it has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
