//! The key by which the others know this member, changed while everything goes on.
//!
//! Somebody asks for it once: then a new key lies beside the one that is shown, and every further step follows from what stands
//! in the record and on the disks, so that it is taken up again wherever it was interrupted. The record learns the new key;
//! once every other member has that on its disk, this one shows it; then the record drops the old one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_core::MemberId;
use mainstay_core::record::Member;
use mainstay_net::pki::{self, Issued};
use mainstay_net::{Endpoint, Identity};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::certificates;
use crate::configuration::Configuration;
use crate::machinery::{blocking, failed};

/// The first format of the record that knows of changes of keys.
pub(crate) const KEYS_CHANGE: u32 = 3;
/// Before files that could not be put in place are tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// What `certificates rotate-key` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// The fingerprint of the key that is shown.
    pub shown: String,
    /// Of the one that is going to be.
    pub next: Option<String>,
    /// What the record accepts as this member's.
    pub accepted: Vec<String>,
    /// Who does not know yet what is accepted.
    pub waits_for: Vec<MemberId>,
}

/// What is done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The record is to learn the next key.
    Accept { key: String },
    /// Everybody knows it: it is shown.
    Show,
    /// It is shown: the record is to drop the other one.
    Drop,
}

/// This member's pair and the one that is to take its place.
pub(crate) struct OwnKey {
    endpoint: Endpoint,
    certificate: PathBuf,
    key: PathBuf,
    status: watch::Sender<KeyStatus>,
    /// One key is made, or put in place, at a time.
    files: Mutex<()>,
    showing: AtomicBool,
}

impl OwnKey {
    /// Finds what an earlier process has begun. Reads files, so it is called at the start.
    pub(crate) fn new(endpoint: Endpoint, configuration: &Configuration) -> OwnKey {
        let shown = endpoint.fingerprint().to_string();
        let own = OwnKey {
            endpoint,
            certificate: configuration.tls.certificate.clone(),
            key: configuration.tls.key.clone(),
            status: watch::Sender::new(KeyStatus { shown: shown.clone(), ..KeyStatus::default() }),
            files: Mutex::default(),
            showing: AtomicBool::new(false),
        };
        match own.waiting() {
            Ok((_, identity)) if identity.fingerprint().to_string() != shown => {
                own.status.send_modify(|status| status.next = Some(identity.fingerprint().to_string()));
            }
            // It is shown already, or was never whole.
            _ => own.remove_waiting(),
        }
        own
    }

    pub(crate) fn status(&self) -> KeyStatus {
        self.status.borrow().clone()
    }

    /// What `row`, the record's, asks for next; `waits_for` are members that do not know it yet.
    pub(crate) fn step(&self, row: &Member, waits_for: Vec<MemberId>) -> Option<Step> {
        let status = self.status.borrow().clone();
        let step = step(row, &status, waits_for.is_empty());
        let accepted: Vec<String> = row.keys().map(str::to_owned).collect();
        let waits_for = if row.next_key.is_some() { waits_for } else { Vec::new() };
        if (&status.accepted, &status.waits_for) != (&accepted, &waits_for) {
            self.status.send_modify(|status| (status.accepted, status.waits_for) = (accepted, waits_for));
        }
        step
    }

    /// Makes the next key, unless there is one. Waits for the disk.
    pub(crate) fn make(&self, configuration: &Configuration) -> Result<(), String> {
        let _one = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if self.status.borrow().next.is_some() {
            return Ok(());
        }
        let issued = certificates::load_authority(configuration)?.issue_member(&configuration.me);
        let issued = issued.map_err(|error| failed(error).0)?;
        let identity = identity(&issued)?;
        self.remove_waiting();
        let (certificate, key) = (beside(&self.certificate), beside(&self.key));
        // The certificate last: with it the pair is whole.
        pki::write_private_key(&key, &issued.key_pem).map_err(|error| failed(error).0)?;
        pki::write_certificate(&certificate, &issued.certificate_pem).map_err(|error| failed(error).0)?;
        let next = identity.fingerprint().to_string();
        info!(key = next, "this member is going to show another key");
        self.status.send_modify(|status| status.next = Some(next));
        Ok(())
    }

    /// Shows the next key from now on. It does not wait.
    pub(crate) fn show(self: &Arc<OwnKey>) {
        if self.showing.swap(true, Ordering::Relaxed) {
            return;
        }
        let own = Arc::clone(self);
        tokio::spawn(async move {
            let working = Arc::clone(&own);
            let put = blocking(move || working.put_in_place()).await;
            match put.unwrap_or_else(|error| Err(error.0)) {
                Ok(()) => info!(key = own.status().shown, "this member shows its new key"),
                Err(error) => {
                    warn!("this member's new key is not shown yet: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            own.showing.store(false, Ordering::Relaxed);
        });
    }

    fn put_in_place(&self) -> Result<(), String> {
        let _one = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let (issued, identity) = self.waiting()?;
        pki::replace_pair(&self.certificate, &self.key, &issued).map_err(|error| failed(error).0)?;
        // The other members are about to forget the key before, and what waits here is about to go: this must be there.
        for (path, wanted) in [(&self.certificate, &issued.certificate_pem), (&self.key, &issued.key_pem)] {
            if !fs::read_to_string(path).is_ok_and(|text| text == *wanted) {
                return Err(format!("{} was changed by somebody else meanwhile", path.display()));
            }
        }
        let shown = identity.fingerprint().to_string();
        self.endpoint.show(identity).map_err(|error| failed(error).0)?;
        self.status.send_modify(|status| (status.shown, status.next) = (shown, None));
        self.remove_waiting();
        Ok(())
    }

    /// The pair that waits.
    fn waiting(&self) -> Result<(Issued, Identity), String> {
        let read = |path: &Path| {
            let path = beside(path);
            fs::read_to_string(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        let issued = Issued { certificate_pem: read(&self.certificate)?, key_pem: read(&self.key)? };
        let identity = identity(&issued)?;
        Ok((issued, identity))
    }

    fn remove_waiting(&self) {
        for path in [&self.certificate, &self.key] {
            // What is not there needs no removing; what cannot be removed is overwritten by nothing and refused later.
            let _ = fs::remove_file(beside(path));
        }
    }
}

fn identity(issued: &Issued) -> Result<Identity, String> {
    Identity::from_pem(&issued.certificate_pem, &issued.key_pem).map_err(|error| failed(error).0)
}

/// Where the next one waits.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".rotated");
    PathBuf::from(name)
}

fn step(row: &Member, status: &KeyStatus, everybody_knows: bool) -> Option<Step> {
    if row.next_key.as_ref() == Some(&status.shown) {
        return Some(Step::Drop);
    }
    // A key that the record does not accept is for a person to look at.
    let key = status.next.clone().filter(|_| row.key == status.shown)?;
    if row.next_key.as_ref() != Some(&key) {
        // One that it was going to show before is not there any more, so it never will.
        return Some(Step::Accept { key });
    }
    everybody_knows.then_some(Step::Show)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, next_key: Option<&str>) -> Member {
        let row = serde_json::json!({
            "kind": "witness", "votes": true, "raft_id": 1, "address": "192.0.2.1:7400", "postgres": null, "key": key,
            "priority": 0, "next_key": next_key,
        });
        serde_json::from_value(row).expect("a member")
    }

    fn status(shown: &str, next: Option<&str>) -> KeyStatus {
        KeyStatus { shown: shown.to_owned(), next: next.map(str::to_owned), ..KeyStatus::default() }
    }

    #[test]
    fn each_step_follows_from_what_is_there_also_after_an_interruption() {
        let accept = |key: &str| Some(Step::Accept { key: key.to_owned() });
        let cases = [
            // What the record accepts, what is shown and what waits, whether everybody knows; what is done.
            (("a", None), ("a", None), true, None),
            (("a", None), ("a", Some("b")), true, accept("b")),
            (("a", Some("b")), ("a", Some("b")), false, None),
            (("a", Some("b")), ("a", Some("b")), true, Some(Step::Show)),
            (("a", Some("b")), ("b", None), false, Some(Step::Drop)),
            (("b", None), ("b", None), true, None),
            // The key that was accepted is lost: another one takes its place.
            (("a", Some("b")), ("a", None), true, None),
            (("a", Some("b")), ("a", Some("c")), true, accept("c")),
            // Asked for again before the first change was over.
            (("a", Some("b")), ("b", Some("c")), true, Some(Step::Drop)),
            // Somebody has brought an old key back: nothing is made worse.
            (("b", None), ("a", Some("c")), true, None),
        ];
        for ((key, next_key), (shown, next), everybody_knows, wanted) in cases {
            let done = step(&row(key, next_key), &status(shown, next), everybody_knows);
            assert_eq!(done, wanted, "{key} {next_key:?}, shown {shown}, next {next:?}");
        }
    }
}
