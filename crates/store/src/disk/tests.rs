use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory that is removed when the test ends, also when it fails.
struct TestDirectory(PathBuf);

impl TestDirectory {
    fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("mainstay-disk-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_are_replaced_appended_and_read() {
    let directory = TestDirectory::new();
    FileDisk::create_directory(&directory.0).unwrap();
    FileDisk::create_directory(&directory.0).expect("a second time is fine");
    let mut disk = FileDisk::open(&directory.0).unwrap();
    assert_eq!(disk.read("log").unwrap(), None);
    assert_eq!(disk.append("log", b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
    disk.replace("log", b"one").unwrap();
    disk.append("log", b"+two").unwrap();
    disk.sync("log").unwrap();
    assert_eq!(disk.read("log").unwrap().unwrap(), b"one+two");
    // What is appended after a replacement goes to the new file.
    disk.replace("log", b"new").unwrap();
    disk.append("log", b"+more").unwrap();
    disk.replace("other", b"other").unwrap();
    disk.append("other", b"!").unwrap();
    disk.sync("log").unwrap();
    disk.sync("other").unwrap();
    assert_eq!(disk.read("log").unwrap().unwrap(), b"new+more");
    assert_eq!(disk.read("other").unwrap().unwrap(), b"other!");
    let mut names = disk.list().unwrap();
    names.sort();
    assert_eq!(names, ["log", "other"]);
}

#[test]
fn nobody_else_can_read_it() {
    let directory = TestDirectory::new();
    FileDisk::create_directory(&directory.0).unwrap();
    let mut disk = FileDisk::open(&directory.0).unwrap();
    disk.replace("log", b"x").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory.0), 0o700);
    assert_eq!(mode(&directory.0.join("log")), 0o600);
}

#[test]
fn only_one_holds_a_directory() {
    let directory = TestDirectory::new();
    assert_eq!(FileDisk::open(&directory.0).unwrap_err().kind(), io::ErrorKind::NotFound);
    FileDisk::create_directory(&directory.0).unwrap();
    let first = FileDisk::open(&directory.0).unwrap();
    let error = FileDisk::open(&directory.0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(error.to_string().contains("stop that one first"), "{error}");
    drop(first);
    FileDisk::open(&directory.0).unwrap();
}

#[test]
fn an_unfinished_replacement_is_removed_and_never_seen() {
    let directory = TestDirectory::new();
    FileDisk::create_directory(&directory.0).unwrap();
    fs::write(directory.0.join("log.tmp"), b"half").unwrap();
    let disk = FileDisk::open(&directory.0).unwrap();
    assert!(disk.list().unwrap().is_empty());
    assert!(!directory.0.join("log.tmp").exists());
}

#[test]
fn a_full_disk_is_told_as_such() {
    // The one device of every Linux that is always full.
    let directory = TestDirectory::new();
    FileDisk::create_directory(&directory.0).unwrap();
    let mut disk = FileDisk::open(&directory.0).unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.0.join("log")).unwrap();
    assert_eq!(disk.append("log", b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
}
