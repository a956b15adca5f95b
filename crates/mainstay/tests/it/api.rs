//! The API from another machine: TLS, tokens and certificates, and what is refused to whom.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use super::health::{exchange, exchange_with};
use super::{Demo, mainstay, stderr, stdout};

/// Certificate and key, in files.
type Pair<'a> = (&'a Path, &'a Path);

/// A client that believes the cluster's CA alone, and perhaps shows a certificate.
fn connect(demo: &Demo, pair: Option<Pair<'_>>) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = demo.directory.join("m1/tls/ca.pem");
    roots.add(CertificateDer::from_pem_file(authority).expect("a CA")).expect("taken");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match pair {
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_file(key).expect("a key");
            config.with_client_auth_cert(chain, key).expect("a pair")
        }
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(("127.0.0.1", demo.port_base + 41)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("a client"), stream)
}

/// The code, and the body or the code word of the refusal.
fn judged((code, body): (u16, String)) -> (u16, String) {
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    let refusal = &body["error"];
    if refusal.is_object() {
        assert!(refusal["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
        assert!(refusal["remedy"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
    (code, refusal["code"].as_str().unwrap_or_default().to_owned())
}

fn with_token(demo: &Demo, token: &str, request: &str, body: &str) -> (u16, String) {
    judged(exchange_with(connect(demo, None), request, &format!("Authorization: Bearer {token}\r\n"), body))
}

/// The code of an answer to a `GET` with a token.
pub(crate) fn code_with_token(demo: &Demo, token: &str, path: &str) -> u16 {
    with_token(demo, token, &format!("GET {path}"), "").0
}

fn client(demo: &Demo, words: &[&str]) -> std::process::Output {
    let configuration = demo.configuration("m1").display().to_string();
    mainstay(&[&["client"], words, &["--config", &configuration]].concat())
}

fn succeeded(output: &std::process::Output) {
    assert!(output.status.success(), "{}{}", stdout(output), stderr(output));
}

fn is(code: u16, word: &str) -> (u16, String) {
    (code, word.to_owned())
}

const PAUSE: &str = r#"{"by": "the test", "until_unix_ms": null}"#;

#[test]
fn what_changes_something_needs_tls_and_a_client_that_was_let_in() {
    let demo = Demo::started("api", 1);
    let plain = || TcpStream::connect(("127.0.0.1", demo.port_base + 41)).expect("connected");
    assert_eq!(judged(exchange(plain(), "POST /v1/pause", PAUSE)), is(403, "forbidden"));
    assert_eq!(judged(exchange(plain(), "GET /v1/on/m1/v1/config", "")), is(403, "forbidden"));
    assert_eq!(exchange(plain(), "GET /nothing", "").0, 404);

    // Over TLS what everybody may read, and nothing else without a name.
    assert_eq!(exchange(connect(&demo, None), "GET /primary", "").0, 200);
    assert_eq!(exchange(connect(&demo, None), "GET /v1/status", "").0, 200);
    for request in ["POST /v1/pause", "GET /v1/config", "GET /v1/clients", "POST /v1/status"] {
        assert_eq!(
            judged(exchange(connect(&demo, None), request, PAUSE)),
            is(401, "unauthorized"),
            "{request}"
        );
    }
    assert!(demo.status()["operation"]["pause"].is_null());

    let file = demo.directory.join("ops.token");
    let out = file.display().to_string();
    succeeded(&client(&demo, &["add", "ops", "--out", &out]));
    assert_eq!(std::fs::metadata(&file).expect("written").permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).expect("written").trim().to_owned();
    assert_eq!(with_token(&demo, &token, "GET /v1/config", ""), is(200, ""));
    assert_eq!(with_token(&demo, &token, "POST /v1/pause", PAUSE), is(200, ""));
    assert!(!demo.status()["operation"]["pause"].is_null());
    assert_eq!(with_token(&demo, &token, "POST /v1/on/m1/v1/resume", "null"), is(200, ""));
    assert!(demo.status()["operation"]["pause"].is_null());
    // In plain text it is worth nothing.
    let head = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(judged(exchange_with(plain(), "POST /v1/pause", &head, PAUSE)), is(403, "forbidden"));
    for wrong in [&token[..token.len() - 1], "", "mainstay_00"] {
        assert_eq!(with_token(&demo, wrong, "POST /v1/pause", PAUSE), is(401, "unauthorized"), "{wrong:?}");
    }
    // Clients let nobody in and see no verifiers, however the path is spelt.
    let verifiers = ["/v1/sql/roles", "/v1/on/m1/v1/sql/roles", "/v1/on/m1/v1/sql/%72oles"];
    let clients = ["/v1/clients", "/v1/on/m1/v1/clients", "/v1/on/m1/v1/%63lients"];
    for path in clients.into_iter().chain(verifiers) {
        assert_eq!(with_token(&demo, &token, &format!("GET {path}"), ""), is(403, "forbidden"), "{path}");
    }
    let again = client(&demo, &["add", "ops", "--out", &out]);
    assert!(stderr(&again).contains("exists already") && file.exists(), "{}", stderr(&again));
    let other = demo.directory.join("other.token");
    let taken = client(&demo, &["add", "ops", "--out", &other.display().to_string()]);
    assert!(stderr(&taken).contains("there is a client ops already; remove it first"), "{}", stderr(&taken));
    assert!(!other.exists(), "a token that is worth nothing is not left behind");
    let odd = client(&demo, &["add", "a/b", "--out", &other.display().to_string()]);
    assert!(stderr(&odd).contains("is no name for a client; take 1 to 64"), "{}", stderr(&odd));

    let out = demo.directory.join("deploy");
    succeeded(&client(&demo, &["add", "deploy", "--certificate", "--out", &out.display().to_string()]));
    let (certificate, key) = (demo.directory.join("deploy.pem"), demo.directory.join("deploy.key"));
    let pair = Some((certificate.as_path(), key.as_path()));
    assert_eq!(judged(exchange(connect(&demo, pair), "POST /v1/reload", "null")), is(200, ""));
    // A member's own certificate is the CA's too, and nobody has let it in.
    let members = ["member.pem", "member.key"].map(|file| demo.directory.join("m1/tls").join(file));
    let pair_of_member = Some((members[0].as_path(), members[1].as_path()));
    assert_eq!(judged(exchange(connect(&demo, pair_of_member), "GET /v1/config", "")), is(403, "forbidden"));

    let listed = stdout(&client(&demo, &["list"]));
    assert!(listed.contains("ops") && listed.contains("deploy") && !listed.contains(&token), "{listed}");
    for name in ["ops", "deploy"] {
        succeeded(&client(&demo, &["remove", name]));
    }
    assert_eq!(with_token(&demo, &token, "GET /v1/config", ""), is(401, "unauthorized"));
    assert_eq!(judged(exchange(connect(&demo, pair), "GET /v1/config", "")), is(403, "forbidden"));
    let gone = client(&demo, &["remove", "ops"]);
    assert!(stderr(&gone).contains("there is no client \"ops\"; see them with"), "{}", stderr(&gone));
    let log = std::fs::read_to_string(demo.directory.join("m1/log/member.log")).expect("a log");
    assert!(log.contains("client=\"client ops\"") && !log.contains(&token), "{log}");
}
