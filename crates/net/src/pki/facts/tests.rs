use super::*;
use crate::pki::{ClusterCa, LONG_LIFETIME, SERVER_LIFETIME};

const DAY: Duration = Duration::from_secs(86_400);

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_was_issued_can_be_read() {
    let ca = ClusterCa::create("shop").unwrap();
    let begin = SystemTime::now();
    let issued = ca.issue_postgres_server(&["DB1.example.org", "10.1.2.3", "fd00:0::17"], 30 * DAY).unwrap();
    let facts = CertificateFacts::read(&issued.certificate_pem).unwrap();
    assert_eq!(facts.names, BTreeSet::from_iter(strings(&["db1.example.org", "10.1.2.3", "fd00::17"])));
    assert_eq!((facts.common_name.as_str(), facts.purpose), ("PostgreSQL", Purpose::Server));
    assert_eq!(facts.issuer, "O=shop, CN=Mainstay cluster CA");
    // 2020-01-01: clients whose clocks are behind accept it.
    assert_eq!(facts.not_before, SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800));
    let life = facts.not_after.duration_since(begin - Duration::from_secs(1)).unwrap();
    assert!(life >= 30 * DAY && life < 31 * DAY, "{life:?}");
    assert_eq!(facts.fingerprint, KeyFingerprint::of_private_key_pem(&issued.key_pem).unwrap());
    assert_eq!(facts.serial.len(), 32);

    let member = ca.issue_member(&mainstay_core::MemberId::new("m1").unwrap()).unwrap();
    let member = CertificateFacts::read(&member.certificate_pem).unwrap();
    assert_eq!((member.common_name.as_str(), member.purpose), ("m1", Purpose::Member));
    assert!(member.names.is_empty());
    let client = CertificateFacts::read(&ca.issue_client("grafana").unwrap().certificate_pem).unwrap();
    assert_eq!((client.common_name.as_str(), client.purpose), ("grafana", Purpose::Client));
    let authority = CertificateFacts::read(ca.certificate_pem()).unwrap();
    assert_eq!(authority.purpose, Purpose::Authority);
    assert_eq!(authority.fingerprint, ca.fingerprint());
}

#[test]
fn what_is_no_certificate_is_told_as_such() {
    assert!(matches!(CertificateFacts::read("").unwrap_err(), FactsError::Pem(_)));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(CertificateFacts::read(garbage).unwrap_err(), FactsError::Certificate(_)));
}

#[test]
fn a_certificate_is_renewed_when_two_thirds_of_its_life_are_over() {
    let ca = ClusterCa::create("shop").unwrap();
    let names = strings(&["db1", "10.1.2.3"]);
    let now = SystemTime::now();
    let mut wanted = Wanted { authority_pem: ca.certificate_pem(), names: &names, lifetime: SERVER_LIFETIME };
    let server = ca.issue_postgres_server(&names, SERVER_LIFETIME).unwrap().certificate_pem;
    let after = |days: u32| needs_renewal(&server, &wanted, now + days * DAY);
    assert_eq!(after(0), None);
    assert_eq!(after(262), None);
    assert!(matches!(after(264), Some(Renewal::Due(left)) if left < 132 * DAY), "{:?}", after(264));
    assert!(matches!(after(394), Some(Renewal::Due(_))));
    assert_eq!(after(396), Some(Renewal::Expired));
    // A clock that is behind renews nothing: the certificate began in 2020.
    assert_eq!(needs_renewal(&server, &wanted, SystemTime::UNIX_EPOCH), None);
    // Whoever shortens the life in the configuration does not wait for the long one to end, nor renews at once.
    wanted.lifetime = 30 * DAY;
    assert_eq!(needs_renewal(&server, &wanted, now + 380 * DAY), None);
    assert!(needs_renewal(&server, &wanted, now + 386 * DAY).is_some());
    // One from an earlier release that lives for long is left alone.
    let old = ca.issue_postgres_server(&names, LONG_LIFETIME).unwrap().certificate_pem;
    wanted.lifetime = SERVER_LIFETIME;
    assert_eq!(needs_renewal(&old, &wanted, now + 1000 * DAY), None);
}

#[test]
fn a_certificate_is_renewed_when_names_or_the_ca_have_changed() {
    let ca = ClusterCa::create("shop").unwrap();
    let now = SystemTime::now();
    let server = ca.issue_postgres_server(&["db1", "FD00::0:17"], SERVER_LIFETIME).unwrap().certificate_pem;
    let due = |authority: &ClusterCa, names: &[&str]| {
        let names = strings(names);
        let wanted =
            Wanted { authority_pem: authority.certificate_pem(), names: &names, lifetime: SERVER_LIFETIME };
        needs_renewal(&server, &wanted, now)
    };
    assert_eq!(due(&ca, &["fd00::17", "DB1", "db1"]), None, "order, case and repetition do not matter");
    let changed = due(&ca, &["db1", "10.0.0.9"]).unwrap();
    assert_eq!(changed.to_string(), "its names have changed; new: 10.0.0.9; no longer: fd00::17");
    // Of the same name, with another key.
    let other = ClusterCa::create("shop").unwrap();
    assert_eq!(due(&other, &["db1", "fd00::17"]), Some(Renewal::OtherAuthority));
    // A second certificate of the same CA, as after its own renewal.
    let again = ClusterCa::load("shop", ca.certificate_pem(), &ca.key_pem()).unwrap();
    assert_eq!(due(&again, &["db1", "fd00::17"]), None);
    let names = strings(&["db1"]);
    let wanted = Wanted { authority_pem: "", names: &names, lifetime: SERVER_LIFETIME };
    assert!(matches!(needs_renewal(&server, &wanted, now), Some(Renewal::AuthorityUnreadable(_))));
    assert!(matches!(needs_renewal("x", &wanted, now), Some(Renewal::Unreadable(_))));
}
