//! What this member has promised and must still know after a crash: small files, made durable before they are acted on.

use std::io;
use std::path::{Path, PathBuf};

use mainstay_core::view::Upstream;
use mainstay_core::{Epoch, Incarnation, MemberId};
use mainstay_postgres::durable::{self, Access, FileError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A promise that cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum PromiseError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} is damaged: {source}; remove this member and let it join anew")]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("{0} was interrupted")]
    Interrupted(&'static str),
}

impl From<PromiseError> for io::Error {
    fn from(error: PromiseError) -> io::Error {
        io::Error::other(error)
    }
}

/// The promises of one member, in its state directory.
#[derive(Clone, Debug)]
pub(crate) struct Promises {
    directory: PathBuf,
    access: Access,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct EpochFile {
    epoch: Epoch,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeftBehindFile {
    by: MemberId,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct SerialFile {
    serial: u64,
}

/// Which directory follows whom; another directory follows nobody.
#[derive(Debug, Serialize, Deserialize)]
struct UpstreamFile {
    upstream: Upstream,
    incarnation: Incarnation,
}

const SEALED: &str = "sealed.json";
const RUN_OUT: &str = "run-out.json";
const VOTERS: &str = "voters.json";
const UPSTREAM: &str = "upstream.json";
const LEFT_BEHIND: &str = "left-behind.json";

impl Promises {
    pub(crate) fn new(state_directory: &Path, access: Access) -> Promises {
        Promises { directory: state_directory.to_owned(), access }
    }

    /// Never to stream from this epoch or an older one.
    pub(crate) fn sealed(&self) -> Result<Epoch, PromiseError> {
        Ok(self.read::<EpochFile>(SEALED)?.unwrap_or_default().epoch)
    }

    /// Makes durable what an earlier life of this process may have been killed over.
    pub(crate) fn settle(&self) -> Result<(), PromiseError> {
        self.raise(SEALED, Epoch(0))?;
        self.raise(RUN_OUT, Epoch(0))?;
        if self.voters()? > 0 { self.saw_voters(0) } else { Ok(()) }
    }

    pub(crate) fn seal(&self, epoch: Epoch) -> Result<(), PromiseError> {
        self.raise(SEALED, epoch)
    }

    /// Never to answer a renewal of this epoch or an older one.
    pub(crate) fn run_out(&self) -> Result<Epoch, PromiseError> {
        Ok(self.read::<EpochFile>(RUN_OUT)?.unwrap_or_default().epoch)
    }

    pub(crate) fn say_run_out(&self, epoch: Epoch) -> Result<(), PromiseError> {
        self.raise(RUN_OUT, epoch)
    }

    /// The newest change of the voters that this member has seen: by an older record it renews no lease.
    pub(crate) fn voters(&self) -> Result<u64, PromiseError> {
        Ok(self.read::<SerialFile>(VOTERS)?.unwrap_or_default().serial)
    }

    pub(crate) fn saw_voters(&self, serial: u64) -> Result<(), PromiseError> {
        let kept = self.voters()?;
        self.write(VOTERS, &SerialFile { serial: kept.max(serial) })
    }

    pub(crate) fn upstream(
        &self,
        incarnation: Option<Incarnation>,
    ) -> Result<Option<Upstream>, PromiseError> {
        let file = self.read::<UpstreamFile>(UPSTREAM)?;
        Ok(file.filter(|file| Some(file.incarnation) == incarnation).map(|file| file.upstream))
    }

    pub(crate) fn follow(&self, upstream: &Upstream, incarnation: Incarnation) -> Result<(), PromiseError> {
        self.write(UPSTREAM, &UpstreamFile { upstream: upstream.clone(), incarnation })
    }

    pub(crate) fn follow_nobody(&self) -> Result<(), PromiseError> {
        durable::remove(&self.directory.join(UPSTREAM))?;
        Ok(())
    }

    /// Never to take part again: the cluster goes on without this member, as `by` has said.
    pub(crate) fn leave(&self, by: &MemberId) -> Result<(), PromiseError> {
        self.write(LEFT_BEHIND, &LeftBehindFile { by: by.clone() })
    }

    pub(crate) fn left_behind(&self) -> Result<Option<MemberId>, PromiseError> {
        Ok(self.read::<LeftBehindFile>(LEFT_BEHIND)?.map(|file| file.by))
    }

    fn raise(&self, file: &str, epoch: Epoch) -> Result<(), PromiseError> {
        let kept = self.read::<EpochFile>(file)?.unwrap_or_default().epoch;
        // Also what is there already: an earlier attempt may have failed, or been killed, before it was synced.
        self.write(file, &EpochFile { epoch: kept.max(epoch) })
    }

    fn read<T: DeserializeOwned>(&self, file: &str) -> Result<Option<T>, PromiseError> {
        let path = self.directory.join(file);
        match durable::read(&path)? {
            None => Ok(None),
            Some(text) => match serde_json::from_slice(&text) {
                Ok(value) => Ok(Some(value)),
                Err(source) => Err(PromiseError::Damaged { path, source }),
            },
        }
    }

    fn write<T: Serialize>(&self, file: &str, value: &T) -> Result<(), PromiseError> {
        let text = serde_json::to_vec(value).expect("epochs and names are representable in JSON");
        durable::write(&self.directory.join(file), &text, self.access)?;
        Ok(())
    }
}

/// Runs a promise on a thread that may wait for the disk.
pub(crate) async fn durably<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, PromiseError> + Send + 'static,
) -> Result<T, PromiseError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PromiseError::Interrupted(what))?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use mainstay_core::MemberId;

    use super::*;

    /// A state directory of its own, removed when the test is over.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Place {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name =
                format!("mainstay-promise-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).unwrap();
            Place(path)
        }

        /// What a process that starts now finds.
        fn promises(&self) -> Promises {
            Promises::new(&self.0, Access { mode: 0o600, owner: None })
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_promise_survives_a_restart_and_is_never_taken_back() {
        let place = Place::new();
        assert_eq!(place.promises().sealed().unwrap(), Epoch(0));
        place.promises().seal(Epoch(4)).unwrap();
        place.promises().seal(Epoch(3)).unwrap();
        place.promises().say_run_out(Epoch(2)).unwrap();
        place.promises().say_run_out(Epoch(1)).unwrap();
        assert_eq!(place.promises().sealed().unwrap(), Epoch(4));
        assert_eq!(place.promises().run_out().unwrap(), Epoch(2));
    }

    #[test]
    fn a_damaged_promise_is_an_error_and_not_no_promise() {
        let place = Place::new();
        place.promises().seal(Epoch(4)).unwrap();
        for damaged in ["", "{}", "{\"epoch\":", "{\"epoch\":-1}"] {
            std::fs::write(place.0.join(SEALED), damaged).unwrap();
            assert!(matches!(place.promises().sealed(), Err(PromiseError::Damaged { .. })), "{damaged:?}");
            assert!(place.promises().seal(Epoch(5)).is_err(), "nothing is promised on top of it");
        }
    }

    #[test]
    fn whom_to_follow_is_said_of_one_directory_only() {
        let place = Place::new();
        let upstream = Upstream { member: MemberId::new("m1").unwrap(), epoch: Epoch(3) };
        let (this, other) = (Incarnation(0xa2), Incarnation(0xb2));
        place.promises().follow(&upstream, this).unwrap();
        assert_eq!(place.promises().upstream(Some(this)).unwrap(), Some(upstream));
        assert_eq!(place.promises().upstream(Some(other)).unwrap(), None);
        assert_eq!(place.promises().upstream(None).unwrap(), None);
        place.promises().follow_nobody().unwrap();
        place.promises().follow_nobody().unwrap();
        assert_eq!(place.promises().upstream(Some(this)).unwrap(), None);
    }
}
