//! Machines that want to join, and those who only say so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mainstay_net::hello::{Hello, kind};
use mainstay_net::join::{self, MAXIMUM_REQUEST};
use mainstay_net::pki::{ClusterCa, SERVER_LIFETIME};
use mainstay_net::{
    Channel, Invitation, JoinError, JoinToken, Joins, KeyFingerprint, Reachability, WrongAuthority,
};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::strangers::{certified, client_config, connect, hear, provider, read_to_end, say};
use crate::support::{
    Cluster, LIMIT, Listener, any_port, endpoint, member, reserved_port, until_connected, until_error,
};

fn authority(ca: &ClusterCa) -> KeyFingerprint {
    KeyFingerprint::of_certificate_pem(ca.certificate_pem()).unwrap()
}

/// m1, which answers like this.
fn listen<H, F>(cluster: &Cluster, handler: H) -> Listener
where
    H: Fn(SocketAddr, Vec<u8>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Vec<u8>, String>> + Send + 'static,
{
    listen_with(cluster, Joins::new(cluster.ca.certificate_pem(), handler))
}

fn listen_with(cluster: &Cluster, joins: Joins) -> Listener {
    let mut server = cluster.endpoint("m1").listen(any_port()).unwrap();
    server.answer_joins(joins).unwrap();
    Listener::run(server)
}

async fn welcome(_: SocketAddr, request: Vec<u8>) -> Result<Vec<u8>, String> {
    Ok([b"welcome, ", &request[..]].concat())
}

async fn ask(cluster: &Cluster, listener: &Listener, request: &[u8]) -> Result<Vec<u8>, JoinError> {
    join::ask(listener.address, authority(&cluster.ca), request, LIMIT).await
}

/// A client without a certificate that offers these protocols.
fn offering(protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = Arc::unwrap_or_clone(client_config(None));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// Proof that members get through.
async fn assert_members_work(cluster: &Cluster, listener: &Listener) {
    let link = cluster.endpoint("m2").link(member("m1"), listener.address, Channel::Rpc);
    until_connected(&link, true).await;
    assert_eq!(link.call("echo", b"x", LIMIT).await.unwrap(), "m2 x");
}

#[tokio::test]
async fn a_machine_with_an_invitation_is_answered() {
    let cluster = Cluster::new();
    let token = JoinToken::create(authority(&cluster.ca)).unwrap();
    let listener = listen(&cluster, |address, request| async move {
        assert!(address.ip().is_loopback() && address.port() != 0);
        welcome(address, request).await
    });
    // As it is copied from one terminal to another.
    let place = format!("{}@{}", token.text(), listener.address);
    let invitation: Invitation = place.parse().unwrap();
    let text = invitation.token.text();
    let answer = join::ask(listener.address, invitation.token.authority(), text.as_bytes(), LIMIT).await;
    assert_eq!(answer.unwrap(), format!("welcome, {text}").as_bytes());
    assert_eq!(ask(&cluster, &listener, b"").await.unwrap(), b"welcome, ");
    let longest = vec![b'x'; MAXIMUM_REQUEST];
    assert_eq!(ask(&cluster, &listener, &longest).await.unwrap().len(), 9 + MAXIMUM_REQUEST);
    assert_members_work(&cluster, &listener).await;
}

#[tokio::test]
async fn a_refusal_brings_its_reason_on_one_line_and_takes_a_moment() {
    let cluster = Cluster::new();
    let listener = listen(&cluster, |_, _| async { Err("the token\nwas used".to_owned()) });
    let begin = Instant::now();
    let error = ask(&cluster, &listener, b"please").await.unwrap_err();
    assert_eq!(error.to_string(), format!("{} refused: the token was used", listener.address));
    assert!(begin.elapsed() >= Duration::from_millis(500), "it took {:?}", begin.elapsed());
}

#[tokio::test]
async fn another_cluster_is_not_asked() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let listener = listen(&cluster, |_, _| async { panic!("the request was sent") });
    let error = join::ask(listener.address, authority(&other.ca), b"secret", LIMIT).await.unwrap_err();
    let (expected, presented) = (authority(&other.ca), authority(&cluster.ca));
    let JoinError::NotThisCluster { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*source, WrongAuthority::Other { expected, presented });
    assert!(error.to_string().contains(&listener.address.to_string()), "{error}");

    // A member that does not answer joins is as strict as ever.
    let deaf = Listener::start(&cluster.endpoint("m1"), any_port());
    let error = ask(&cluster, &deaf, b"secret").await.unwrap_err();
    assert!(matches!(error, JoinError::NotThisCluster { source: WrongAuthority::Missing, .. }), "{error:?}");
}

#[tokio::test]
async fn other_certificates_of_the_ca_cannot_pass_for_a_member() {
    let cluster = Cluster::new();
    let (ca, stranger) = (&cluster.ca, ClusterCa::create("shop").unwrap());
    for (issued, shown) in [
        (ca.issue_postgres_server(&["db1.example.org"], SERVER_LIFETIME).unwrap(), ca),
        (ca.issue_client("reader").unwrap(), ca),
        // It shows the right CA, which has not issued its certificate.
        (stranger.issue_member(&member("m1")).unwrap(), ca),
        (ca.issue_member(&member("m1")).unwrap(), &stranger),
    ] {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(certified(&issued, &issued, Some(shown.certificate_pem())));
        config.alpn_protocols = vec![join::PROTOCOL.to_vec()];
        let trap = TcpListener::bind(any_port()).await.unwrap();
        let address = trap.local_addr().unwrap();
        let asking = tokio::spawn(join::ask(address, authority(ca), b"secret", LIMIT));
        let (stream, _) = trap.accept().await.unwrap();
        assert!(TlsAcceptor::from(Arc::new(config)).accept(stream).await.is_err());
        let error = asking.await.unwrap().unwrap_err();
        assert!(matches!(error, JoinError::NotThisCluster { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_member_whose_certificate_is_from_another_ca_answers_no_joins() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let mut server = cluster.endpoint("m1").listen(any_port()).unwrap();
    let error = server.answer_joins(Joins::new(other.ca.certificate_pem(), welcome)).unwrap_err();
    assert!(error.to_string().contains("do not belong together"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_named() {
    let cluster = Cluster::new();
    let (_socket, closed) = reserved_port();
    let error = join::ask(closed, authority(&cluster.ca), b"", LIMIT).await.unwrap_err();
    assert!(
        matches!(&error, JoinError::Unreachable { address, found: Reachability::Refused } if *address == closed),
        "{error:?}"
    );
    assert!(
        error.to_string().starts_with(&format!("cannot connect to {closed}: connection refused")),
        "{error}"
    );

    // It takes the connection, and says nothing.
    let silent = TcpListener::bind(any_port()).await.unwrap();
    let address = silent.local_addr().unwrap();
    let limit = Duration::from_millis(300);
    let error = join::ask(address, authority(&cluster.ca), b"", limit).await.unwrap_err();
    assert!(matches!(error, JoinError::Tls { .. }), "{error:?}");

    // It speaks, but not TLS.
    let asking = tokio::spawn(join::ask(address, authority(&cluster.ca), b"", LIMIT));
    let (_first, _) = silent.accept().await.unwrap();
    let (mut stream, _) = silent.accept().await.unwrap();
    stream.write_all(b"220 mail.example.org\r\n").await.unwrap();
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, JoinError::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn a_request_over_the_limit_is_neither_sent_nor_read() {
    let cluster = Cluster::new();
    let listener = listen(&cluster, |_, _| async { panic!("the request was handed on") });
    let request = vec![b'x'; MAXIMUM_REQUEST + 1];
    let error = ask(&cluster, &listener, &request).await.unwrap_err();
    assert!(matches!(error, JoinError::TooLong(_)), "{error:?}");
    // Another program sends it all the same.
    let mut stream = connect(listener.address, &offering(&[join::PROTOCOL])).await;
    assert_eq!(say(&mut stream, kind::JOIN_REQUEST, &request).await.unwrap_or(None), None);
    assert_members_work(&cluster, &listener).await;
}

#[tokio::test]
async fn only_those_who_come_to_join_and_for_nothing_else_need_no_key() {
    let cluster = Cluster::new();
    let listener = listen(&cluster, welcome);
    let (join, other) = (join::PROTOCOL, &b"mainstay-join/2"[..]);
    for protocols in [vec![], vec![other], vec![join, other], vec![other, join], vec![b"h2"]] {
        let mut stream = connect(listener.address, &offering(&protocols)).await;
        let error = say(&mut stream, kind::JOIN_REQUEST, b"").await.unwrap_err();
        assert!(error.contains("CertificateRequired"), "{protocols:?}: {error}");
    }
    // And on a join connection nothing but joining is spoken, with a member's key or without.
    let m2 = &cluster.issued[&member("m2")];
    let mut config = Arc::unwrap_or_clone(client_config(Some(certified(m2, m2, None))));
    config.alpn_protocols = vec![join::PROTOCOL.to_vec()];
    for config in [offering(&[join::PROTOCOL]), Arc::new(config)] {
        let mut stream = connect(listener.address, &config).await;
        let hello = Hello::new("shop", &member("m2"), Channel::Rpc).to_json();
        let answer = say(&mut stream, kind::HELLO, &hello).await.unwrap().unwrap();
        assert_eq!(answer.kind, kind::REFUSED, "{answer:?}");
        assert_eq!(hear(&mut stream).await, Ok(None), "the end is clean");
    }
}

#[tokio::test]
async fn two_machines_join_at_the_same_time() {
    let cluster = Cluster::new();
    let both = Arc::new(Barrier::new(2));
    // Neither is answered before the other has asked.
    let listener = listen(&cluster, move |address, request| {
        let both = Arc::clone(&both);
        async move {
            both.wait().await;
            welcome(address, request).await
        }
    });
    let (m4, m5) = tokio::join!(ask(&cluster, &listener, b"m4"), ask(&cluster, &listener, b"m5"));
    assert_eq!((m4.unwrap(), m5.unwrap()), (b"welcome, m4".to_vec(), b"welcome, m5".to_vec()));
}

#[tokio::test]
async fn a_handler_that_panics_or_hangs_ends_only_its_own_connection() {
    let cluster = Cluster::new();
    let joins = Joins::new(cluster.ca.certificate_pem(), |address, request| async move {
        match &request[..] {
            b"panic" => panic!("as the test wants it"),
            b"hang" => std::future::pending().await,
            b"large" => Ok(vec![0; join::MAXIMUM_ANSWER + 1]),
            _ => welcome(address, request).await,
        }
    });
    let listener = listen_with(&cluster, joins.answer_within(Duration::from_millis(300)));
    for (request, reason) in
        [("panic", "its log says why"), ("hang", "no answer within 0.3 s"), ("large", "over the limit")]
    {
        let error = ask(&cluster, &listener, request.as_bytes()).await.unwrap_err();
        assert!(
            matches!(&error, JoinError::Refused { reason: told, .. } if told.contains(reason)),
            "{error:?}"
        );
    }
    assert_eq!(ask(&cluster, &listener, b"m4").await.unwrap(), b"welcome, m4");
    assert_members_work(&cluster, &listener).await;
}

#[tokio::test]
async fn an_answer_that_is_lost_is_told_apart_from_a_refusal() {
    let cluster = Cluster::new();
    let (asked, mut was_asked) = watch::channel(());
    let listener = listen(&cluster, move |_, _| {
        asked.send_replace(());
        std::future::pending()
    });
    was_asked.mark_unchanged();
    let address = listener.address;
    let asking = tokio::spawn(join::ask(address, authority(&cluster.ca), b"m4", LIMIT));
    was_asked.changed().await.unwrap();
    drop(listener);
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, JoinError::NoAnswer { .. }), "{error:?}");
}

#[tokio::test]
async fn strangers_who_dawdle_keep_out_neither_members_nor_machines_that_join() {
    let cluster = Cluster::new();
    let listener = listen(&cluster, welcome);
    let link = cluster.endpoint("m3").link(member("m1"), listener.address, Channel::Rpc);
    until_connected(&link, true).await;
    let begin = Instant::now();
    let mut dawdlers = Vec::new();
    for number in 0..100 {
        let mut stream = connect(listener.address, &offering(&[join::PROTOCOL])).await;
        if number % 2 == 0 {
            // The beginning of a request that never ends.
            stream.write_all(&[0, 0, 1, 0, kind::JOIN_REQUEST, b'{']).await.unwrap();
        }
        dawdlers.push(stream);
    }
    assert_eq!(link.call("echo", b"x", LIMIT).await.unwrap(), "m3 x");
    assert_eq!(ask(&cluster, &listener, b"m4").await.unwrap(), b"welcome, m4");
    assert_members_work(&cluster, &listener).await;
    assert!(link.status().connected);
    for stream in dawdlers {
        assert_eq!(read_to_end(stream).await, b"");
    }
    // The last of them have had their 5 s.
    assert!(begin.elapsed() < LIMIT, "it took {:?}", begin.elapsed());
}

#[tokio::test]
async fn no_more_than_eight_are_answered_at_once() {
    let cluster = Cluster::new();
    let (open, gate) = watch::channel(false);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counting, highest) = (Arc::clone(&now), Arc::clone(&most));
    let listener = listen(&cluster, move |_, request| {
        let (now, most, mut gate) = (Arc::clone(&counting), Arc::clone(&highest), gate.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            gate.wait_for(|open| *open).await.unwrap();
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(request)
        }
    });
    let mut asking = JoinSet::new();
    for _ in 0..8 {
        asking.spawn(join::ask(listener.address, authority(&cluster.ca), b"m4", LIMIT));
    }
    let deadline = Instant::now() + LIMIT;
    while now.load(Ordering::SeqCst) < 8 {
        assert!(Instant::now() < deadline, "eight are not answered at once");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One that does not wait is told that nothing has happened.
    let limit = Duration::from_millis(150);
    let error = join::ask(listener.address, authority(&cluster.ca), b"m5", limit).await.unwrap_err();
    assert!(matches!(error, JoinError::HungUp { .. }), "{error:?}");
    assert_members_work(&cluster, &listener).await;
    // Others come again until there is room for them.
    for _ in 0..4 {
        asking.spawn(join::ask(listener.address, authority(&cluster.ca), b"m4", LIMIT));
    }
    open.send_replace(true);
    for answer in asking.join_all().await {
        assert_eq!(answer.unwrap(), b"m4");
    }
    assert_eq!(most.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn who_joins_is_no_member_before_the_record_says_so() {
    let cluster = Cluster::new();
    let listener = listen(&cluster, welcome);
    let m4 = cluster.ca.issue_member(&member("m4")).unwrap();
    let identity = mainstay_net::Identity::from_pem(&m4.certificate_pem, &m4.key_pem).unwrap();
    let mut fingerprints = cluster.fingerprints();
    fingerprints.insert(member("m4"), identity.fingerprint());
    // A certificate of the CA alone opens nothing.
    let m4 = endpoint("m4", "shop", identity, fingerprints);
    let link = m4.link(member("m1"), listener.address, Channel::Rpc);
    until_error(&link, "does not accept this member's key").await;
}
