//! Clients that do not follow the rules, made by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mainstay_net::frame::{self, Frame, FrameReader, MAXIMUM_PAYLOAD};
use mainstay_net::hello::{Hello, kind};
use mainstay_net::pki::Issued;
use mainstay_net::{Channel, Link};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{Cluster, LIMIT, Listener, any_port, member, until_connected, until_error};

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Believes every server.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate of one with the key of another, or of the same; and perhaps that of a CA.
pub(crate) fn certified(
    certificate: &Issued,
    key: &Issued,
    authority_pem: Option<&str>,
) -> Arc<SingleCertAndKey> {
    let chain = [Some(&certificate.certificate_pem[..]), authority_pem].into_iter().flatten();
    let chain = chain.map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect();
    let key = PrivateKeyDer::from_pem_slice(key.key_pem.as_bytes()).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)))
}

pub(crate) fn client_config(client: Option<Arc<SingleCertAndKey>>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    Arc::new(match client {
        Some(client) => builder.with_client_cert_resolver(client),
        None => builder.with_no_client_auth(),
    })
}

pub(crate) async fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await.unwrap()
}

/// Says something, and returns the listener's answer.
pub(crate) async fn say(
    stream: &mut TlsStream<TcpStream>,
    kind: u8,
    payload: &[u8],
) -> Result<Option<Frame>, String> {
    let mut bytes = BytesMut::new();
    frame::append(&mut bytes, kind, &[payload]).unwrap();
    if stream.write_all(&bytes).await.is_ok() {
        let _ = stream.flush().await;
    }
    hear(stream).await
}

pub(crate) async fn hear(stream: &mut TlsStream<TcpStream>) -> Result<Option<Frame>, String> {
    FrameReader::new(MAXIMUM_PAYLOAD).read(stream, LIMIT).await.map_err(|error| match error {
        frame::FrameError::Io(error) => error.to_string(),
        error => error.to_string(),
    })
}

/// A client with m2's key that has said hello.
async fn welcome(listener: &Listener, cluster: &Cluster, channel: Channel) -> TlsStream<TcpStream> {
    let m2 = &cluster.issued[&member("m2")];
    let mut stream = connect(listener.address, &client_config(Some(certified(m2, m2, None)))).await;
    let hello = Hello::new("shop", &member("m2"), channel).to_json();
    assert_eq!(say(&mut stream, kind::HELLO, &hello).await.unwrap().unwrap().kind, kind::WELCOME);
    stream
}

pub(crate) async fn read_to_end(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    bytes
}

/// Proof that the listener still serves its members.
async fn assert_alive(cluster: &Cluster, listener: &Listener) {
    let link: Link = cluster.endpoint("m3").link(member("m1"), listener.address, Channel::Rpc);
    until_connected(&link, true).await;
    assert_eq!(link.call("echo", b"alive", LIMIT).await.unwrap(), "m3 alive");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let cluster = Cluster::new();
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let mut stream = connect(listener.address, &client_config(None)).await;
    let hello = Hello::new("shop", &member("m2"), Channel::Raft).to_json();
    let error = say(&mut stream, kind::HELLO, &hello).await.unwrap_err();
    assert!(error.contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn a_certificate_without_its_key_proves_nothing() {
    let cluster = Cluster::new();
    let [m1, m2, m3] = ["m1", "m2", "m3"].map(|name| &cluster.issued[&member(name)]);
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    // m3 shows the certificate of m2, which is no secret.
    let mut stream = connect(listener.address, &client_config(Some(certified(m2, m3, None)))).await;
    let hello = Hello::new("shop", &member("m2"), Channel::Raft).to_json();
    let error = say(&mut stream, kind::HELLO, &hello).await.unwrap_err();
    assert!(error.contains("DecryptError"), "{error}");

    // And m3 listens with the certificate of m1.
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(certified(m1, m3, None));
    let trap = TcpListener::bind(any_port()).await.unwrap();
    let link = cluster.endpoint("m2").link(member("m1"), trap.local_addr().unwrap(), Channel::Raft);
    let (stream, _) = trap.accept().await.unwrap();
    assert!(TlsAcceptor::from(Arc::new(config)).accept(stream).await.is_err());
    until_error(&link, "BadSignature").await;
}

#[tokio::test]
async fn nothing_can_be_resumed() {
    let cluster = Cluster::new();
    let mut listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let m2 = &cluster.issued[&member("m2")];
    // It remembers sessions, and would use a ticket.
    let config = client_config(Some(certified(m2, m2, None)));
    for _ in 0..2 {
        let mut stream = connect(listener.address, &config).await;
        let hello = Hello::new("shop", &member("m2"), Channel::Raft).to_json();
        say(&mut stream, kind::HELLO, &hello).await.unwrap();
        assert_eq!(say(&mut stream, kind::PING, b"").await.unwrap().unwrap().kind, kind::PONG);
        let session = stream.get_ref().1;
        assert_eq!(
            (session.handshake_kind(), session.tls13_tickets_received()),
            (Some(HandshakeKind::Full), 0)
        );
        stream.shutdown().await.unwrap();
        assert_eq!(listener.next_end().await, Ok(()), "a close is no error");
    }
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let cluster = Cluster::new();
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let mut hello = vec![0x03, 0x03];
    hello.extend([7; 32]); // random
    hello.extend([0, 0, 2, 0xC0, 0x2B, 1, 0]); // no session, ECDHE-ECDSA-AES128-GCM-SHA256, no compression
    let groups = [0x00, 0x0A, 0, 4, 0, 2, 0, 23]; // P-256
    let schemes = [0x00, 0x0D, 0, 4, 0, 2, 4, 3]; // ECDSA with P-256 and SHA-256
    hello.extend([0, 16]);
    hello.extend([groups, schemes].concat());
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![0x16, 0x03, 0x01, 0, length + 4, 0x01, 0, 0, length];
    record.extend(hello);
    let mut stream = TcpStream::connect(listener.address).await.unwrap();
    stream.write_all(&record).await.unwrap();
    // A fatal alert: protocol_version.
    assert_eq!(read_to_end(stream).await, [0x15, 0x03, 0x03, 0, 2, 2, 70]);
    assert_alive(&cluster, &listener).await;
}

#[tokio::test]
async fn garbage_is_cut_off() {
    let cluster = Cluster::new();
    let mut listener = Listener::start(&cluster.endpoint("m1"), any_port());
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0xFF; 64]] {
        let mut stream = TcpStream::connect(listener.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let begin = Instant::now();
        assert!(read_to_end(stream).await.len() <= 7, "no more than an alert comes back");
        assert!(begin.elapsed() < Duration::from_secs(3));
    }
    // Garbage from a member, within TLS and frames.
    let mut stream = welcome(&listener, &cluster, Channel::Rpc).await;
    assert_eq!(say(&mut stream, kind::CALL, &[1, 2, 3]).await.unwrap_or(None), None);
    assert!(listener.next_end().await.unwrap_err().contains("cannot be read"));
    assert_alive(&cluster, &listener).await;
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_the_connection() {
    let cluster = Cluster::new();
    let mut listener = Listener::start(&cluster.endpoint("m1"), any_port());
    for channel in [Channel::Raft, Channel::Lease, Channel::Rpc] {
        let mut stream = welcome(&listener, &cluster, channel).await;
        let length = u32::try_from(MAXIMUM_PAYLOAD + 1).unwrap();
        stream.write_all(&[&length.to_be_bytes()[..], &[kind::MESSAGE]].concat()).await.unwrap();
        assert!(listener.next_end().await.unwrap_err().contains("over the limit"));
        read_to_end(stream).await;
    }
    // Before the hello is accepted, the limit is lower.
    let m2 = &cluster.issued[&member("m2")];
    let mut stream = connect(listener.address, &client_config(Some(certified(m2, m2, None)))).await;
    assert_eq!(say(&mut stream, kind::HELLO, &[b' '; 5000]).await.unwrap_or(None), None);
    assert_alive(&cluster, &listener).await;
}

#[tokio::test]
async fn a_wrong_hello_gets_a_reason() {
    let cluster = Cluster::new();
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let m2 = &cluster.issued[&member("m2")];
    let config = client_config(Some(certified(m2, m2, None)));
    let valid = Hello::new("shop", &member("m2"), Channel::Raft).to_json();
    let newer = br#"{"protocol": 2}"#;
    let mail = br#"{"protocol": 1, "cluster": "shop", "from": "m2", "channel": "mail"}"#;
    for (kind, payload, reason) in [
        (kind::CALL, &valid[..], "the first frame is not a hello"),
        (kind::HELLO, b"hi", "the first frame is not a hello"),
        (kind::HELLO, newer, "m1 speaks protocol 1, not 2"),
        (kind::HELLO, mail, "m1 has no channel \"mail\""),
    ] {
        let mut stream = connect(listener.address, &config).await;
        let answer = say(&mut stream, kind, payload).await.unwrap().unwrap();
        assert_eq!(answer.kind, kind::REFUSED);
        assert!(String::from_utf8_lossy(&answer.payload).contains(reason), "{answer:?}");
        assert_eq!(hear(&mut stream).await, Ok(None), "the end is clean");
    }
}

#[tokio::test]
async fn those_who_dawdle_are_cut_off_and_lock_nobody_out() {
    let cluster = Cluster::new();
    let listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let begin = Instant::now();
    let mut dawdlers = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(listener.address).await.unwrap();
        // The beginning of a TLS record that never ends.
        stream.write_all(&[0x16, 0x03, 0x01, 0x02]).await.unwrap();
        dawdlers.push(stream);
    }
    // The oldest one has made room for the newest, sooner than its time was over.
    read_to_end(dawdlers.remove(0)).await;
    assert!(begin.elapsed() < Duration::from_secs(3), "it took {:?}", begin.elapsed());
    assert_alive(&cluster, &listener).await;
    for stream in dawdlers {
        read_to_end(stream).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());

    // A member that shows its key, and then says nothing.
    let m2 = &cluster.issued[&member("m2")];
    let stream = connect(listener.address, &client_config(Some(certified(m2, m2, None)))).await;
    assert_eq!(read_to_end(stream).await, b"");
}

#[tokio::test]
async fn the_connections_of_a_member_are_limited_in_number() {
    let cluster = Cluster::new();
    let mut listener = Listener::start(&cluster.endpoint("m1"), any_port());
    let mut streams = Vec::new();
    for _ in 0..32 {
        streams.push(welcome(&listener, &cluster, Channel::Raft).await);
    }
    let link = cluster.endpoint("m2").link(member("m1"), listener.address, Channel::Raft);
    until_error(&link, "m1 has 32 connections of this member already").await;
    // Another member has its own limit.
    assert_alive(&cluster, &listener).await;
    drop(streams);
    until_connected(&link, true).await;
    link.send(b"in").unwrap();
    assert_eq!(listener.next_message().await, (member("m2"), "in".into()));
}
