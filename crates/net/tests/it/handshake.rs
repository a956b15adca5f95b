//! Who is let in, and who is not.

use mainstay_net::{Channel, Hail, Identity};

use crate::support::{
    Cluster, LIMIT, Listener, any_port, endpoint, member, reserved_port, until_connected, until_error,
};

#[tokio::test]
async fn members_reach_each_other_on_every_channel_and_address_family() {
    let cluster = Cluster::new();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = Listener::start(&cluster.endpoint("m1"), address.parse().unwrap());
        let m2 = cluster.endpoint("m2");
        for channel in [Channel::Raft, Channel::Lease, Channel::Rpc] {
            let link = m2.link(member("m1"), listener.address, channel);
            until_connected(&link, true).await;
        }
    }
}

#[tokio::test]
async fn a_key_from_another_ca_is_refused_by_both_sides() {
    let (cluster, stranger) = (Cluster::new(), Cluster::new());
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    // The stranger knows our fingerprints and names, but not our keys.
    let impostor = endpoint("m2", "shop", stranger.identity("m2"), cluster.fingerprints());
    let link = impostor.link(member("m1"), listener.address, Channel::Raft);
    until_error(&link, "does not accept this member's key").await;
    assert!(!link.status().connected);

    let trap = endpoint("m1", "shop", stranger.identity("m1"), cluster.fingerprints());
    let trap = Listener::start(&trap, any_port());
    let link = cluster.endpoint("m2").link(member("m1"), trap.address, Channel::Raft);
    until_error(&link, "is not that of m1").await;
    assert!(!link.status().connected);
}

#[tokio::test]
async fn the_address_of_another_member_is_not_taken_for_the_one_dialled() {
    let cluster = Cluster::new();
    let m2 = Listener::start(&cluster.endpoint("m2"), any_port());
    let link = cluster.endpoint("m1").link(member("m3"), m2.address, Channel::Rpc);
    until_error(&link, "is not that of m3").await;
    assert!(!link.status().connected);
}

#[tokio::test]
async fn a_member_cannot_claim_to_be_another() {
    let cluster = Cluster::new();
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let liar = endpoint("m3", "shop", cluster.identity("m2"), cluster.fingerprints());
    let link = liar.link(member("m1"), listener.address, Channel::Raft);
    until_error(&link, "its key is that of m2").await;
    assert!(!link.status().connected);
}

#[tokio::test]
async fn members_of_another_cluster_are_sent_away_with_the_reason() {
    let cluster = Cluster::new();
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let other = endpoint("m2", "bank", cluster.identity("m2"), cluster.fingerprints());
    let link = other.link(member("m1"), listener.address, Channel::Raft);
    until_error(&link, r#"m1 belongs to cluster "shop", not "bank""#).await;
}

#[tokio::test]
async fn a_removed_member_is_cut_off_and_stays_out() {
    let cluster = Cluster::new();
    let m1 = cluster.endpoint("m1");
    let mut listener = Listener::start(&m1, any_port());
    let m2 = cluster.endpoint("m2");
    let links =
        [Channel::Raft, Channel::Lease, Channel::Rpc].map(|c| m2.link(member("m1"), listener.address, c));
    let bystander = cluster.endpoint("m3").link(member("m1"), listener.address, Channel::Raft);
    for link in links.iter().chain([&bystander]) {
        until_connected(link, true).await;
    }
    m1.allowlist().replace(cluster.without("m2"));
    for link in &links {
        let took = until_connected(link, false).await;
        assert!(took.as_secs() < 5, "it took {took:?}");
        assert!(listener.next_end().await.unwrap_err().contains("removed"));
        until_error(link, "does not accept this member's key").await;
    }
    assert!(bystander.status().connected);
    m1.allowlist().replace(cluster.fingerprints());
    for link in &links {
        until_connected(link, true).await;
    }
}

#[tokio::test]
async fn a_link_lets_go_of_a_member_that_was_removed_or_changed_its_key() {
    let (cluster, later) = (Cluster::new(), Cluster::new());
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let m2 = cluster.endpoint("m2");
    let link = m2.link(member("m1"), listener.address, Channel::Rpc);
    until_connected(&link, true).await;
    m2.allowlist().replace(cluster.without("m1"));
    until_connected(&link, false).await;
    until_error(&link, "m1 is not in the cluster's record").await;
    m2.allowlist().replace(cluster.fingerprints());
    until_connected(&link, true).await;
    let mut changed = cluster.fingerprints();
    changed.insert(member("m1"), later.identity("m1").fingerprint());
    m2.allowlist().replace(changed);
    until_connected(&link, false).await;
    until_error(&link, "is not that of m1").await;
}

/// A change of a key, from both ends: nobody is refused at any point, and the old key is worth nothing afterwards.
#[tokio::test]
async fn a_member_changes_its_key_while_both_are_accepted() {
    let (cluster, later) = (Cluster::new(), Cluster::new());
    let (m1, m2) = (cluster.endpoint("m1"), cluster.endpoint("m2"));
    let listener = [Listener::start(&m1, any_port()), Listener::start(&m2, any_port())];
    let links = [
        m2.link(member("m1"), listener[0].address, Channel::Rpc),
        m1.link(member("m2"), listener[1].address, Channel::Rpc),
    ];
    for link in &links {
        until_connected(link, true).await;
    }
    let (old, new) = (m1.fingerprint(), later.identity("m1").fingerprint());
    let with = |keys: &[mainstay_net::KeyFingerprint]| {
        let keys: Vec<_> = keys.iter().map(|key| (member("m1"), *key)).collect();
        cluster.without("m1").into_iter().chain(keys).collect::<Vec<_>>()
    };
    m2.allowlist().replace(with(&[old, new]));
    m1.show(later.identity("m1")).unwrap();
    assert_eq!(m1.fingerprint(), new);
    // Connections by the old key go on, and new ones are made by the new key.
    for link in [
        &links[0],
        &links[1],
        &m2.link(member("m1"), listener[0].address, Channel::Rpc),
        &m1.link(member("m2"), listener[1].address, Channel::Rpc),
    ] {
        until_connected(link, true).await;
        assert!(link.status().last_error.is_none(), "{:?}", link.status());
    }
    m2.allowlist().replace(with(&[new]));
    for link in &links {
        // It is up again too soon for anybody to see that it was down; that it has ended once stays written.
        until_error(link, "").await;
        until_connected(link, true).await;
    }
    // Whoever has the old key is a stranger.
    let thief = cluster.endpoint("m1");
    let link = thief.link(member("m2"), listener[1].address, Channel::Rpc);
    until_error(&link, "does not accept").await;
}

#[tokio::test]
async fn the_dates_of_certificates_do_not_matter() {
    let cluster = Cluster::new();
    let mut fingerprints = cluster.fingerprints();
    let mut identities = Vec::new();
    for (name, first_year) in [("m1", 1999), ("m2", 2150)] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(first_year, 1, 1);
        params.not_after = rcgen::date_time_ymd(first_year + 1, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let identity = Identity::from_pem(&certificate.pem(), &key.serialize_pem()).unwrap();
        fingerprints.insert(member(name), identity.fingerprint());
        identities.push(identity);
    }
    let [m1, m2] = <[Identity; 2]>::try_from(identities).unwrap();
    let listener = Listener::start(&endpoint("m1", "shop", m1, fingerprints.clone()), any_port());
    let link = endpoint("m2", "shop", m2, fingerprints).link(member("m1"), listener.address, Channel::Rpc);
    until_connected(&link, true).await;
    link.call("echo", b"", LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_and_a_foreign_address_are_named() {
    let cluster = Cluster::new();
    let m1 = cluster.endpoint("m1");
    let first = m1.listen(any_port()).unwrap();
    let error = m1.listen(first.local_address()).unwrap_err().to_string();
    assert!(error.contains(&first.local_address().to_string()) && error.contains("another port"), "{error}");
    // TEST-NET-1: no machine has it.
    let error = m1.listen("192.0.2.1:7000".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("this machine has no address 192.0.2.1"), "{error}");
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate_is_no_identity() {
    let cluster = Cluster::new();
    let [m1, m2] = ["m1", "m2"].map(|name| &cluster.issued[&member(name)]);
    let error = Identity::from_pem(&m1.certificate_pem, &m2.key_pem).unwrap_err();
    assert!(error.to_string().contains("do not belong together"), "{error}");
    assert!(!format!("{:?}", cluster.identity("m1")).contains("KEY"));
}

/// It is heard for one word, by the key that it knows; and it lets nobody in for that.
#[tokio::test]
async fn a_member_that_was_left_behind_is_told_so_and_stays_out() {
    let cluster = Cluster::new();
    let (m1, m2) = (cluster.endpoint("m1"), cluster.endpoint("m2"));
    let listener = Listener::start(&m1, any_port());
    let mut told = m2.left_behind_by();
    let link = m2.link(member("m1"), listener.address, Channel::Raft);
    until_connected(&link, true).await;
    m1.allowlist().leave_behind([cluster.identity("m2").fingerprint()].into());
    assert!(link.status().connected, "whoever is in the record is no stranger");
    m1.allowlist().replace(cluster.without("m2"));
    let by =
        tokio::time::timeout(LIMIT, told.wait_for(Option::is_some)).await.expect("told").unwrap().clone();
    let by = by.expect("waited for");
    assert_eq!((by.member.as_str(), by.reason.as_str()), ("m1", "m1 has gone on without this member"));
    until_error(&link, "has told this member to stop").await;
    assert_eq!(
        m2.hail(&member("m1"), listener.address).await,
        Hail::Answers,
        "what tells somebody to go lives"
    );
    // Others are only refused.
    let (stranger, mut told) = (cluster.endpoint("m3"), cluster.endpoint("m3").left_behind_by());
    m1.allowlist().replace([(member("m1"), cluster.identity("m1").fingerprint())]);
    let link = stranger.link(member("m1"), listener.address, Channel::Raft);
    until_error(&link, "does not accept this member's key").await;
    assert!(told.borrow_and_update().is_none());
}

#[tokio::test]
async fn who_is_hailed_counts_only_with_its_key() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let m2 = cluster.endpoint("m2");
    let (_socket, nobody) = reserved_port();
    assert!(
        matches!(m2.hail(&member("m1"), nobody).await, Hail::Silent(why) if why.contains("cannot connect"))
    );
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    assert_eq!(m2.hail(&member("m1"), listener.address).await, Hail::Answers);
    // Another machine has the address now.
    let imposter = Listener::start(&other.endpoint("m1"), any_port());
    let hailed = m2.hail(&member("m1"), imposter.address).await;
    assert!(matches!(&hailed, Hail::Silent(why) if why.contains("is not the member")), "{hailed:?}");
    // One that does not know this member any more lives all the same.
    let m1 = cluster.endpoint("m1");
    m1.allowlist().replace(cluster.without("m2"));
    let strict = Listener::start(&m1, any_port());
    assert_eq!(m2.hail(&member("m1"), strict.address).await, Hail::Answers);
}
