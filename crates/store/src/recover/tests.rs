use std::sync::atomic::{AtomicU32, Ordering};

use mainstay_consensus::{Disk as _, RestoreError};

use super::*;

/// One text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Text(String);

impl Machine for Text {
    type Output = ();

    fn apply(&mut self, _: u64, data: &[u8]) {
        self.0 = String::from_utf8_lossy(data).into_owned();
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.clone().into_bytes()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.0 = String::from_utf8_lossy(snapshot).into_owned();
        Ok(())
    }
}

/// A member's directory with the consensus directory of one of three, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mainstay-recover-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("made");
        let place = Place(path);
        let identity = Identity { cluster_id: "shop".to_owned(), raft_id: 2 };
        crate::create(&place.consensus(), &identity, &[1, 2, 3], &[]).expect("a new directory");
        place
    }

    fn consensus(&self) -> PathBuf {
        self.0.join("consensus")
    }

    fn hold(&self) -> Result<Held<Text>, RecoverError> {
        hold(&self.consensus(), "shop", Text::default())
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("there");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_directory_is_exchanged_and_the_old_one_kept() {
    let place = Place::new();
    let before = fs::read(place.consensus().join("identity")).expect("there");
    let kept = place.hold().expect("free").begin_anew(1_000, &Text("all".to_owned())).expect("exchanged");
    assert_eq!(place.names(), ["consensus", "consensus.before-recovery-1"]);
    assert_eq!(fs::read(kept.join("identity")).expect("kept"), before);
    let again = place.hold().expect("free");
    assert_eq!((again.machine(), again.uncommitted()), (&Text("all".to_owned()), 0));
    again.begin_anew(2_000, &Text("more".to_owned())).expect("exchanged");
    assert_eq!(place.names().len(), 3, "what was kept is not overwritten");
}

#[test]
fn a_directory_in_use_is_left_alone_and_held_it_is_in_use() {
    let place = Place::new();
    let member = FileDisk::open(&place.consensus()).expect("a member runs");
    assert!(matches!(place.hold(), Err(RecoverError::InUse(_))));
    drop(member);
    let held = place.hold().expect("it has ended");
    let started = FileDisk::open(&place.consensus());
    assert_eq!(started.expect_err("held").kind(), io::ErrorKind::WouldBlock);
    drop(held);
    assert!(
        FileDisk::open(&place.consensus()).expect("free again").read("identity").expect("read").is_some()
    );
}

/// Killed before the exchange: the old one is there, and the next attempt begins from the beginning.
#[test]
fn half_a_new_directory_is_thrown_away() {
    let place = Place::new();
    let half = place.0.join("consensus.new");
    fs::create_dir(&half).expect("made");
    fs::write(half.join("snapshot"), "half").expect("written");
    let before = fs::read(place.consensus().join("identity")).expect("there");
    let held = place.hold().expect("free");
    assert_eq!(fs::read(place.consensus().join("identity")).expect("there"), before);
    held.begin_anew(1_000, &Text("all".to_owned())).expect("exchanged");
    assert_eq!(place.hold().expect("free").machine(), &Text("all".to_owned()));
}

#[test]
fn an_id_that_was_used_changes_nothing() {
    let place = Place::new();
    let before = fs::read(place.consensus().join("identity")).expect("there");
    let refused = place.hold().expect("free").begin_anew(2, &Text("all".to_owned()));
    assert!(matches!(refused, Err(RecoverError::Create { .. })));
    assert_eq!(fs::read(place.consensus().join("identity")).expect("there"), before);
}
