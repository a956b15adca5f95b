//! Root gives up being root, and keeps two capabilities.

use std::io;

use nix::unistd::{Gid, Uid, User, geteuid, setgid, setgroups, setuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities, set_no_new_privs,
};

/// The user of those who own nothing, where the system does not name one.
const NOBODY: u32 = 65_534;

/// Makes this process one that can change addresses and send raw packets, and nothing else. To be called while it has one
/// thread, as capabilities belong to threads. Answers whether it has both capabilities.
///
/// # Errors
/// The kernel refuses; the process may then be anything in between, and should end.
pub fn keep_network_only() -> io::Result<bool> {
    let wanted = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    if geteuid().is_root() {
        let (user, group) = match User::from_name("nobody")? {
            Some(nobody) => (nobody.uid, nobody.gid),
            None => (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY)),
        };
        set_keep_capabilities(true)?;
        setgroups(&[])?;
        setgid(group)?;
        setuid(user)?;
    }
    let kept = capabilities(None)?.permitted & wanted;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    set_no_new_privs(true)?;
    Ok(kept == wanted)
}
