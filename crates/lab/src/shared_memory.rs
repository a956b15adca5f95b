//! Shared memory of PostgreSQL servers that the lab kills and whose directories it deletes: remembered while they live,
//! removed when the lab ends.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::process::{self, Kind};
use crate::program::try_run;

/// The segments seen so far.
#[derive(Debug, Default)]
pub struct Segments {
    /// Files in /dev/shm.
    posix: BTreeSet<String>,
    /// Ids of System V segments.
    system_v: BTreeSet<u64>,
}

impl Segments {
    /// Notes what the servers in a namespace have mapped.
    pub fn remember(&mut self, namespace: &str) {
        let all = process::in_namespace(namespace);
        for process in all.iter().filter(|process| process.kind == Kind::Postgres) {
            self.read(&fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap_or_default());
        }
    }

    /// A line is `address perms offset dev inode path`; the inode of a System V segment is its id.
    fn read(&mut self, maps: &str) {
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (inode, path) = (fields.nth(4), fields.next());
            match path {
                Some(path) if path.starts_with("/SYSV") => {
                    self.system_v.extend(inode.and_then(|id| id.parse::<u64>().ok()));
                }
                Some(path) => {
                    let name = path.strip_prefix("/dev/shm/").filter(|name| name.starts_with("PostgreSQL."));
                    self.posix.extend(name.map(str::to_owned));
                }
                None => {}
            }
        }
    }

    /// Removes what is left of them. All of the servers must be dead.
    pub fn remove(&mut self) {
        for name in std::mem::take(&mut self.posix) {
            let _ = fs::remove_file(Path::new("/dev/shm").join(name));
        }
        let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
        for id in std::mem::take(&mut self.system_v) {
            if is_unused(&table, id) {
                try_run("ipcrm", &["-m", &id.to_string()]);
            }
        }
    }
}

/// Whether nobody is attached to the segment: ids are used again, and another server's must not be touched.
fn is_unused(table: &str, id: u64) -> bool {
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).and_then(|field| field.parse().ok()) == Some(id) && fields.get(6) == Some(&"0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_read_from_the_maps_of_a_server() {
        let mut segments = Segments::default();
        segments.read(
            "7f10-7f20 rw-s 00000000 00:01 425996   /SYSV00d8a1f2 (deleted)\n\
             7f30-7f40 rw-s 00000000 00:1a 77       /dev/shm/PostgreSQL.1804289383\n\
             7f50-7f60 r-xp 00000000 fe:00 12       /usr/lib/x.so\n\
             7f70-7f80 rw-p 00000000 00:00 0\n",
        );
        assert_eq!(segments.system_v, BTreeSet::from([425_996]));
        assert_eq!(segments.posix, BTreeSet::from(["PostgreSQL.1804289383".to_owned()]));
    }

    #[test]
    fn a_segment_in_use_is_left() {
        let table = "       key      shmid perms size cpid lpid nattch uid gid\n 1 7 600 56 10 10 0 101 101\n 2 8 600 56 11 11 6 101 101\n";
        assert!(is_unused(table, 7));
        assert!(!is_unused(table, 8) && !is_unused(table, 9));
    }
}
