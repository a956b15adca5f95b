//! One cgroup (version 2) around the server, so that one write ends all of it. See cgroups(7); `cgroup.kill` is in Linux 5.14.
//!
//! It needs no controller, so a version 2 hierarchy that is mounted beside version 1 does as well.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the cgroup of the guard in `directory`, or takes the one that an earlier guard left. None: there is no usable
    /// version 2 hierarchy here, and the server is ended process by process.
    pub(crate) fn create(directory: &Path) -> Option<Cgroup> {
        let path = path_for(directory)?;
        let made = match fs::create_dir(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(_) => return None,
        };
        let cgroup = Cgroup { path };
        if cgroup.can_kill() {
            return Some(cgroup);
        }
        if made {
            cgroup.remove();
        }
        None
    }

    /// The cgroup that a guard in `directory`, started from this process's own cgroup, has left.
    pub(crate) fn existing(directory: &Path) -> Option<Cgroup> {
        let cgroup = Cgroup { path: path_for(directory)? };
        cgroup.can_kill().then_some(cgroup)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// For a child to write `0` to and so join.
    pub(crate) fn open_members(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))
    }

    /// SIGKILL to every member, and to whatever they fork at the same time.
    pub(crate) fn kill(&self) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.kill")).and_then(|mut file| {
            use std::io::Write;
            file.write_all(b"1")
        })
    }

    /// Whether a living process is in it. A cgroup that is gone has none.
    pub(crate) fn is_populated(&self) -> io::Result<bool> {
        match fs::read_to_string(self.path.join("cgroup.events")) {
            Ok(events) => Ok(!events.lines().any(|line| line == "populated 0")),
            Err(error) if crate::process::is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes it if it is empty. One that stays behind costs nothing and is taken over by the next guard.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir(&self.path);
    }

    fn can_kill(&self) -> bool {
        ["cgroup.kill", "cgroup.procs", "cgroup.events"].iter().all(|file| self.path.join(file).exists())
    }
}

/// Below this process's own cgroup, so that whoever ends that one (a unit's stop) ends the server too.
fn path_for(directory: &Path) -> Option<PathBuf> {
    let own = own_path()?;
    let directory = directory.canonicalize().ok()?;
    Some(own.join(format!("mainstay-{:016x}", fnv1a_64(directory.as_os_str().as_bytes()))))
}

fn own_path() -> Option<PathBuf> {
    let memberships = fs::read("/proc/self/cgroup").ok()?;
    let own = memberships.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::/"))?;
    let own = OsString::from_vec(own.to_vec());
    let mounts = fs::read("/proc/self/mounts").ok()?;
    let me = std::process::id().to_string();
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let mount_point = unescape(fields.nth(1)?);
        if fields.next()? != b"cgroup2" {
            return None;
        }
        let path = mount_point.join(&own);
        // Only a part of the hierarchy may be mounted there: believe the path when it lists this process.
        let members = fs::read_to_string(path.join("cgroup.procs")).ok()?;
        members.lines().any(|pid| pid == me).then_some(path)
    })
}

/// The kernel writes space, tab, newline and backslash in a mount point as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                bytes.push(digits.iter().fold(0_u8, |value, digit| (value << 3) | (digit - b'0')));
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// FNV-1a: the name must be the same in every release and on every machine, which the standard hasher does not promise.
fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable() {
        // Test vectors of the FNV reference implementation.
        assert_eq!(fnv1a_64(b""), 0xcbf29ce484222325);
        assert_eq!(fnv1a_64(b"foobar"), 0x85944171f73967e8);
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(br"/a\040b\134c"), PathBuf::from(r"/a b\c"));
        assert_eq!(unescape(br"/a\04"), PathBuf::from(r"/a\04"));
    }
}
