//! The files that open a standby: placeholders for timeline numbers to skip, and the promote file itself.
//!
//! They are made with the file-system identity of PostgreSQL's user: so they belong to it, and nothing that this user may
//! have put in its directory leads the guard to write elsewhere with root's rights.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::protocol::{Refusal, RunAs};

/// PostgreSQL's name for it since version 12, `PROMOTE_SIGNAL_FILE`.
const PROMOTE: &str = "promote";
/// Made in time, so that only a rename is left for the moment of opening.
const STAGED: &str = "promote.mainstay";

/// A server that is started without this file opens itself.
pub(crate) fn require_standby_signal(data_directory: &Path) -> Result<(), Refusal> {
    let path = data_directory.join("standby.signal");
    match fs::symlink_metadata(&path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Refusal::NoStandbySignal { path }),
        Err(error) => Err(refuse("look for", path, &error)),
    }
}

/// Writes an empty history file for each timeline number that the server shall skip, and syncs them. One that is there
/// already and empty is taken as it is.
pub(crate) fn write_history_dummies(
    data_directory: &Path,
    names: &[String],
    user: Option<&RunAs>,
) -> Result<(), Refusal> {
    if let Some(name) = names.iter().find(|name| !is_history_name(name)) {
        return Err(Refusal::HistoryName { name: name.clone() });
    }
    if names.is_empty() {
        return Ok(());
    }
    let wal = data_directory.join("pg_wal");
    let _identity =
        Identity::take(user).map_err(|error| refuse("act as PostgreSQL's user in", wal.clone(), &error))?;
    for name in names {
        let path = wal.join(name);
        let file = create(&path, libc::O_NOFOLLOW).map_err(|error| refuse("create", path.clone(), &error))?;
        let length = file.metadata().map_err(|error| refuse("look at", path.clone(), &error))?.len();
        if length > 0 {
            return Err(Refusal::HistoryExists { path });
        }
        file.sync_all().map_err(|error| refuse("sync", path, &error))?;
    }
    File::open(&wal).and_then(|wal| wal.sync_all()).map_err(|error| refuse("sync", wal, &error))
}

/// A promote file under another name.
#[derive(Debug)]
pub(crate) struct StagedPromotion<'a> {
    data_directory: &'a Path,
    user: Option<&'a RunAs>,
}

impl<'a> StagedPromotion<'a> {
    pub(crate) fn write(
        data_directory: &'a Path,
        user: Option<&'a RunAs>,
    ) -> Result<StagedPromotion<'a>, Refusal> {
        let path = data_directory.join(STAGED);
        let write = || -> io::Result<()> {
            let _identity = Identity::take(user)?;
            create(&path, libc::O_NOFOLLOW | libc::O_TRUNC).map(|_| ())
        };
        write().map_err(|error| refuse("create", path.clone(), &error))?;
        Ok(StagedPromotion { data_directory, user })
    }

    /// The one step that opens: any SIGUSR1 that the postmaster gets for another reason makes it look for this file.
    pub(crate) fn publish(&self) -> Result<(), Refusal> {
        let path = self.data_directory.join(PROMOTE);
        let rename = || -> io::Result<()> {
            let _identity = Identity::take(self.user)?;
            fs::rename(self.data_directory.join(STAGED), &path)
        };
        rename().map_err(|error| refuse("create", path.clone(), &error))
    }

    /// Takes both names away. One that stays is harmless: the postmaster removes an old promote file when it starts.
    pub(crate) fn withdraw(&self) {
        let remove = || -> io::Result<()> {
            let _identity = Identity::take(self.user)?;
            let _ = fs::remove_file(self.data_directory.join(PROMOTE));
            fs::remove_file(self.data_directory.join(STAGED))
        };
        let _ = remove();
    }
}

fn create(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

fn refuse(step: &str, path: PathBuf, error: &io::Error) -> Refusal {
    Refusal::File { step: step.to_owned(), path, error: error.to_string() }
}

/// `XXXXXXXX.history`, `TLHistoryFileName` in PostgreSQL.
fn is_history_name(name: &str) -> bool {
    name.strip_suffix(".history").is_some_and(|number| {
        number.len() == 8 && number.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'))
    })
}

/// Accesses files as another user until it is dropped. Per thread, and signals still come as root's; see setfsuid(2).
struct Identity {
    before: Option<(Uid, Gid)>,
}

impl Identity {
    fn take(user: Option<&RunAs>) -> io::Result<Identity> {
        let Some(user) = user else { return Ok(Identity { before: None }) };
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        // The group first, while there is still the right to change it.
        let identity = Identity { before: Some((Uid::effective(), Gid::effective())) };
        setfsgid(gid);
        setfsuid(uid);
        // The calls report no errors; an impossible id changes nothing and answers the present one.
        let nobody = u32::MAX;
        if setfsuid(Uid::from_raw(nobody)) == uid && setfsgid(Gid::from_raw(nobody)) == gid {
            Ok(identity)
        } else {
            Err(Errno::EPERM.into())
        }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.before {
            setfsuid(uid);
            setfsgid(gid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_histories_are_written() {
        assert!(is_history_name("0000000A.history"));
        for name in
            ["0000000a.history", "00000001.history.tmp", "../00001.history", "00000001", "000000001.history"]
        {
            assert!(!is_history_name(name), "{name}");
        }
    }
}
