use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
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
        let error = ca.issue_postgres_server(&["db1", bad], SERVER_LIFETIME).err().unwrap();
        assert!(matches!(&error, PkiError::SubjectName(name) if name == bad), "{error}");
    }
    assert!(matches!(
        ca.issue_postgres_server::<&str>(&[], SERVER_LIFETIME).err().unwrap(),
        PkiError::NoSubjectName
    ));
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

#[test]
fn a_key_that_never_travels_gets_its_certificate() {
    let ca = ClusterCa::create("shop").unwrap();
    let m4 = MemberId::new("m4").unwrap();
    let asked = request().unwrap();
    let certificate = ca.sign_member(&m4, &asked.request_pem).unwrap();
    assert!(crate::Identity::from_pem(&certificate, &asked.key_pem).is_ok());
    let facts = CertificateFacts::read(&certificate).unwrap();
    assert_eq!((facts.common_name.as_str(), facts.purpose), ("m4", Purpose::Member));
    let server = ca.sign_postgres_server(&["db4"], SERVER_LIFETIME, &asked.request_pem).unwrap();
    assert_eq!(CertificateFacts::read(&server).unwrap().purpose, Purpose::Server);
    // Years later: the same key, another certificate.
    let again = ca.sign_member(&m4, &request_for_key(&asked.key_pem).unwrap()).unwrap();
    assert_ne!(again, certificate);
    assert_eq!(CertificateFacts::read(&again).unwrap().fingerprint, facts.fingerprint);
}

#[test]
fn of_a_request_only_the_key_is_taken() {
    let ca = ClusterCa::create("shop").unwrap();
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::new(["db1.example.org".to_owned()]).unwrap();
    greedy.distinguished_name.push(DnType::CommonName, "m1");
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let request_pem = greedy.serialize_request(&key).unwrap().pem().unwrap();
    let certificate = ca.sign_member(&MemberId::new("m4").unwrap(), &request_pem).unwrap();
    let facts = CertificateFacts::read(&certificate).unwrap();
    assert_eq!((facts.common_name.as_str(), facts.purpose), ("m4", Purpose::Member));
    assert!(facts.names.is_empty());
}

#[test]
fn a_request_with_a_foreign_signature_or_another_kind_of_key_is_refused() {
    let ca = ClusterCa::create("shop").unwrap();
    let m4 = MemberId::new("m4").unwrap();
    let error = |request_pem: &str| ca.sign_member(&m4, request_pem).unwrap_err();
    assert!(matches!(error(""), PkiError::Request(_)));
    assert!(matches!(
        error("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
        PkiError::Request(_)
    ));
    // One letter within the signature is another one: whoever asks has not shown to hold the key.
    let mut forged = request().unwrap().request_pem.into_bytes();
    let end = forged.windows(5).rposition(|window| window == b"-END ").unwrap();
    let letters = (0..end).rev().filter(|at| forged[*at].is_ascii_alphanumeric());
    let at = letters.take(6).last().unwrap();
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    let error_of_forged = error(&String::from_utf8(forged).unwrap());
    let is_of_signature =
        matches!(error_of_forged, PkiError::Request(rcgen::Error::InvalidCertificationRequestSignature));
    assert!(is_of_signature, "{error_of_forged:?}");
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = CertificateParams::default().serialize_request(&ed25519).unwrap().pem().unwrap();
    assert!(matches!(error(&request), PkiError::RequestKey));
}

/// A pair on disk, and others for the same place.
struct Pair {
    scratch: Scratch,
    ca: ClusterCa,
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn new() -> Pair {
        let (scratch, ca) = (Scratch::new(), ClusterCa::create("shop").unwrap());
        let (certificate, key) = (scratch.0.join("server.crt"), scratch.0.join("server.key"));
        let pair = Pair { scratch, ca, certificate, key };
        let first = pair.another();
        write_private_key(&pair.key, &first.key_pem).unwrap();
        write_certificate(&pair.certificate, &first.certificate_pem).unwrap();
        pair
    }

    fn another(&self) -> Issued {
        self.ca.issue_postgres_server(&["db1"], SERVER_LIFETIME).unwrap()
    }

    fn read(&self) -> (String, String) {
        let read = |path| std::fs::read_to_string(path).unwrap();
        (read(&self.certificate), read(&self.key))
    }

    fn replace(&self, pair: &Issued) -> Result<(), WriteError> {
        replace_pair(&self.certificate, &self.key, pair)
    }

    fn assert_is(&self, pair: &Issued) {
        assert_eq!(self.read(), (pair.certificate_pem.clone(), pair.key_pem.clone()));
        assert_eq!(self.scratch.names(), ["server.crt", "server.key"], "nothing stays behind");
    }
}

#[test]
fn a_renewal_with_the_same_key_changes_one_file_and_keeps_its_mode() {
    let pair = Pair::new();
    let (old, key) = pair.read();
    std::fs::set_permissions(&pair.certificate, std::fs::Permissions::from_mode(0o640)).unwrap();
    let request = request_for_key(&key).unwrap();
    let renewed = pair.ca.sign_postgres_server(&["db1", "db2"], SERVER_LIFETIME, &request).unwrap();
    assert_ne!(old, renewed);
    replace_certificate(&pair.certificate, &renewed).unwrap();
    pair.assert_is(&Issued { certificate_pem: renewed.clone(), key_pem: key.clone() });
    assert_eq!(std::fs::metadata(&pair.certificate).unwrap().mode() & 0o777, 0o640);
    // Whoever reads while it is replaced, over and over, always finds one that goes with the key.
    let fingerprint = KeyFingerprint::of_private_key_pem(&key).unwrap();
    let path = pair.certificate.clone();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for text in [&old, &renewed].into_iter().cycle().take(60) {
                replace_certificate(&pair.certificate, text).unwrap();
            }
        });
        while !writer.is_finished() {
            let found = KeyFingerprint::of_certificate_pem(&std::fs::read_to_string(&path).unwrap());
            assert_eq!(found.unwrap(), fingerprint);
        }
    });
}

#[test]
fn a_new_key_comes_with_its_certificate() {
    let pair = Pair::new();
    let new = pair.another();
    pair.replace(&new).unwrap();
    pair.assert_is(&new);
    assert_eq!(std::fs::metadata(&pair.key).unwrap().mode() & 0o777, 0o600);
    let mixed = Issued { certificate_pem: new.certificate_pem.clone(), key_pem: pair.another().key_pem };
    assert!(matches!(pair.replace(&mixed).unwrap_err(), WriteError::NoPair));
    pair.assert_is(&new);
}

#[test]
fn a_crash_at_any_point_of_changing_the_key_ends_in_a_pair_that_matches() {
    let pair = Pair::new();
    let (old, new) = (pair.read(), pair.another());
    let old = Issued { certificate_pem: old.0, key_pem: old.1 };
    let next_certificate = pair.scratch.0.join("server.crt.next");
    let next_key = pair.scratch.0.join("server.key.next");
    let settle = || settle_pair(&pair.certificate, &pair.key).unwrap();
    // After the key was laid ready.
    write_private_key(&next_key, &new.key_pem).unwrap();
    settle();
    pair.assert_is(&old);
    // After both were.
    write_private_key(&next_key, &new.key_pem).unwrap();
    write_certificate(&next_certificate, &new.certificate_pem).unwrap();
    settle();
    pair.assert_is(&new);
    // After the first rename.
    let newest = pair.another();
    write_private_key(&next_key, &newest.key_pem).unwrap();
    write_certificate(&next_certificate, &newest.certificate_pem).unwrap();
    std::fs::rename(&next_key, &pair.key).unwrap();
    settle();
    pair.assert_is(&newest);
    settle();
    pair.assert_is(&newest);
    // A replacement finishes an earlier one first.
    write_private_key(&next_key, &old.key_pem).unwrap();
    pair.replace(&new).unwrap();
    pair.assert_is(&new);
}
