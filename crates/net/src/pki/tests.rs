use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::KeyFingerprint;

/// A directory that is removed at the end, also when the test fails.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mainstay-pki-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn key_and_certificate_have_the_same_fingerprint() {
    let ca = ClusterCa::create("shop").unwrap();
    let first = ca.issue_member(&MemberId::new("m1").unwrap()).unwrap();
    let second = ca.issue_member(&MemberId::new("m1").unwrap()).unwrap();
    let of_certificate = KeyFingerprint::of_certificate_pem(&first.certificate_pem).unwrap();
    assert_eq!(of_certificate, KeyFingerprint::of_private_key_pem(&first.key_pem).unwrap());
    assert_ne!(of_certificate, KeyFingerprint::of_certificate_pem(&second.certificate_pem).unwrap());
}

#[test]
fn a_ca_is_taken_up_only_with_its_own_key_and_cluster() {
    let ca = ClusterCa::create("shop").unwrap();
    let loaded = ClusterCa::load("shop", ca.certificate_pem(), &ca.key_pem()).unwrap();
    assert_eq!(loaded.certificate_pem(), ca.certificate_pem());
    let other = ClusterCa::create("shop").unwrap();
    for (cluster, key) in [("shop", other.key_pem()), ("bank", ca.key_pem())] {
        let error = ClusterCa::load(cluster, ca.certificate_pem(), &key).err().unwrap();
        assert!(matches!(error, PkiError::CaMismatch { .. }), "{error}");
    }
    assert!(matches!(ClusterCa::create(&"x".repeat(65)).err().unwrap(), PkiError::ClusterName(_)));
}

#[test]
fn names_that_no_client_could_match_are_refused() {
    let ca = ClusterCa::create("shop").unwrap();
    for bad in ["", "*.example.org", "a b", "10.0.0.1/24", "dätenbank", "https://db"] {
        let error = ca.issue_postgres_server(&["db1", bad]).err().unwrap();
        assert!(matches!(&error, PkiError::SubjectName(name) if name == bad), "{error}");
    }
    assert!(matches!(ca.issue_postgres_server(&[]).err().unwrap(), PkiError::NoSubjectName));
}

#[test]
fn files_are_written_whole_with_their_mode_and_never_overwritten() {
    let scratch = Scratch::new();
    let key = scratch.0.join("member.key");
    write_private_key(&key, "secret").unwrap();
    write_certificate(&scratch.0.join("member.crt"), "public").unwrap();
    let error = write_private_key(&key, "other").unwrap_err();
    assert!(matches!(error, WriteError::Exists(_)), "{error}");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "secret");
    let mode = |name| std::fs::metadata(scratch.0.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("member.key"), mode("member.crt")), (0o600, 0o644));
    assert_eq!(scratch.names(), ["member.crt", "member.key"], "no draft stays behind");
    let absent = write_private_key(&scratch.0.join("absent/member.key"), "x").unwrap_err();
    assert!(matches!(absent, WriteError::Io { .. }), "{absent}");
}
