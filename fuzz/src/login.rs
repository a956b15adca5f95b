//! SCRAM on both sides. Whatever a stranger says, it is not let in, and is not taken for the server.

use mainstay_pgwire::scram::{ClientExchange, Mechanism, ServerExchange, Verifier};

use crate::Target;

/// Printable, as an exchange wants it.
const NONCE: &str = "fuzzed";

pub(crate) const SERVER: Target = Target {
    name: "scram-server",
    run: server,
    seeds: || {
        let seed =
            |mode: u8, last: &str| [&[mode, 20], &b"n,,n=,r=abcdefghijkl"[..], last.as_bytes()].concat();
        let proof = "A".repeat(43);
        vec![
            seed(0, &format!("c=biws,r=abcdefghijklfuzzed,p={proof}=")),
            seed(3, &format!("c=eSws,r=abcdefghijklfuzzed,x=1,p={proof}=")),
            b"\x01\x20p=tls-server-end-point,,n=a,r=abc".to_vec(),
        ]
    },
};

/// The first byte chooses mechanism and binding, the second how long the first message is.
fn server(data: &[u8]) {
    let Some((&[mode, length], messages)) = data.split_first_chunk() else { return };
    let mechanism = if mode & 1 == 0 { Mechanism::ScramSha256 } else { Mechanism::ScramSha256Plus };
    let binding = (mode & 2 != 0).then(|| b"binding".to_vec());
    let (first, last) = messages.split_at(usize::from(length).min(messages.len()));
    let verifier = Verifier::unknown("nobody", b"a secret");
    let mut exchange = ServerExchange::new(verifier, mechanism, binding, NONCE);
    match exchange.client_first(first) {
        Ok(answer) => assert!(answer.starts_with(b"r=") && answer.len() < 2000),
        Err(error) => assert!(error.to_string().len() < 1024 && error.sqlstate().len() == 5),
    }
    assert!(exchange.client_final(last).is_err(), "a stranger was let in");
}

pub(crate) const CLIENT: Target = Target {
    name: "scram-client",
    run: client,
    seeds: || {
        let first = b"r=fuzzedABC,s=c2FsdA==,i=1";
        let seed = |last: &[u8]| [&[26], &first[..], last].concat();
        vec![seed(b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), seed(b"e=invalid-proof")]
    },
};

/// The first byte is the length of the first message. The keys are known: deriving them would take most of the time.
fn client(data: &[u8]) {
    let Some((length, messages)) = data.split_first() else { return };
    let (first, last) = messages.split_at(usize::from(*length).min(messages.len()));
    let mut exchange = ClientExchange::with_key(known_key(), [7; 32], NONCE);
    if let Err(error) = exchange.server_first(first) {
        assert!(error.to_string().len() < 1024);
    }
    if let Err(error) = exchange.server_final(last) {
        assert!(error.to_string().len() < 1024);
    } else {
        panic!("a stranger was taken for the server");
    }
}

/// What a real exchange yields.
fn known_key() -> mainstay_pgwire::scram::ClientKey {
    use std::sync::OnceLock;
    static KEY: OnceLock<mainstay_pgwire::scram::ClientKey> = OnceLock::new();
    let make = || {
        let verifier = Verifier::from_password("password", b"salt", 1);
        let mut server = ServerExchange::new(verifier, Mechanism::ScramSha256, None, "server");
        let mut client = ClientExchange::with_password("password", "client");
        let first = server.client_first(&client.client_first()).expect("the first message is good");
        let last = client.server_first(&first).expect("the answer is good");
        server.client_final(&last).expect("the password is right").1
    };
    KEY.get_or_init(make).clone()
}

pub(crate) const VERIFIER: Target = Target {
    name: "verifier",
    run: verifier,
    seeds: || {
        let text = Verifier::from_password("password", b"0123456789abcdef", 2).text();
        vec![text.into_bytes(), b"md5aa0c3f4e8c4cbd8c0a4bb1bd11e1ec67".to_vec()]
    },
};

/// What PostgreSQL stores is read as what it was written from.
fn verifier(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Some(verifier) = Verifier::parse(text) {
        assert!(verifier.iterations > 0);
        assert_eq!(Verifier::parse(&verifier.text()), Some(verifier));
    }
}
