//! Both sides against each other, against the RFC's example, against PostgreSQL's verifiers and against strangers.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

mod strangers;

const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

/// Section 3 of RFC 7677; the password is "pencil".
const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

/// What PostgreSQL 15 stored for `CREATE ROLE … PASSWORD`.
const OF_POSTGRESQL: [(&str, &str); 6] = [
    (
        "pencil",
        "SCRAM-SHA-256$4096:b9qL14OKFJWXwuL/sIVdHQ==$cUl9Fy/YxleunhL1x01S7TrNZoAY4VwCNCYCXPni+1g=:9SBJs+OlV3krWQiLRILiIVeccZMLARl9+hh063KSwEA=",
    ),
    // A soft hyphen vanishes,
    (
        "I\u{ad}X",
        "SCRAM-SHA-256$4096:F/GIdI8Pqgt1FQ2gmk2cIg==$LhDK7tGyzNOYREfKeyuaSXoU7SCI8Vf6BNBes5i/BAY=:7rXUOFS+2WBrqe2nlOUPPK6X4aYUrk1b5jtFTByg+Gk=",
    ),
    // but not if nothing would be left.
    (
        "\u{ad}",
        "SCRAM-SHA-256$4096:lugfYqtSWZ5earnTr+2ueg==$g/dBsCpM6W7dRP87lRvR0uJ8V/TtcGStkPLNcYKLGGI=:n88knmPnUfXCLqXoXorjrMwXVfrBJl/nzUsFvFRth90=",
    ),
    // A control character is refused by SASLprep,
    (
        "a\u{7}b",
        "SCRAM-SHA-256$4096:kc3ZUFVr3qhtLED1A87fjA==$zq5FZ9HZ6Ty+eq+gQDQTkh2qTgJIxLUmIuRJim/R0TE=:ywVVMuNGY6aud6pD/L+93QyI5giF6LMNkk8B48f4DPo=",
    ),
    // signs with compatible forms become those,
    (
        "\u{aa}\u{2168}",
        "SCRAM-SHA-256$4096:GFoUYmBoLHVPM2AzuwFk9Q==$I2Wrp4X0c26Q2UEgZPv/SxzSFjN5ZPu4wloGQ8j7G+k=:b29n6vr2kJbQWbysmmo+Y4bZ+0dpgYicLaHQvw4FPqM=",
    ),
    // and text in both directions is refused by SASLprep.
    (
        "x\u{627}",
        "SCRAM-SHA-256$4096:EM1VXw3T1EOtDZ66OLszzw==$Hi+8mCOXfr5LRn6PkdadprgoQvTCzQ25DWblg4GzJeI=:za/kWuCqFW+hj8BH5V/8bYJIL5XFP8dlYqGI3+Ino6Q=",
    ),
];

fn of_rfc() -> Verifier {
    Verifier::from_password("pencil", &STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096)
}

/// Few iterations, so that the tests take no time.
fn quick(password: &str) -> Verifier {
    Verifier::from_password(password, b"salt of sixteen.", 2)
}

fn server(verifier: Verifier) -> ServerExchange {
    ServerExchange::new(verifier, Mechanism::ScramSha256, None, SERVER_NONCE)
}

/// A whole login, up to where it fails.
fn login(mut client: ClientExchange, mut server: ServerExchange) -> Result<ClientKey, ScramError> {
    let server_first = server.client_first(&client.client_first())?;
    let client_final = client.server_first(&server_first)?;
    let (server_final, key) = server.client_final(&client_final)?;
    client.server_final(&server_final)?;
    Ok(key)
}

/// What a client sends that uses channel binding, or contradicts itself about it.
fn bound_login(mut server: ServerExchange, header: &str, repeated: &[u8]) -> Result<ClientKey, ScramError> {
    let bare = format!("n=,r={CLIENT_NONCE}");
    let server_first = server.client_first(format!("{header}{bare}").as_bytes())?;
    let without_proof = format!("c={},r={CLIENT_NONCE}{SERVER_NONCE}", STANDARD.encode(repeated));
    let authenticated: [&[u8]; 5] = [bare.as_bytes(), b",", &server_first, b",", without_proof.as_bytes()];
    let key = ClientKey::of_salted(&keys::salted(b"pencil", b"salt of sixteen.", 2));
    let proof = key.proof(&keys::mac(&key.stored(), &authenticated));
    let client_final = format!("{without_proof},p={}", STANDARD.encode(proof));
    server.client_final(client_final.as_bytes()).map(|(_, key)| key)
}

#[test]
fn the_server_answers_as_in_the_rfc() {
    let mut server = server(of_rfc());
    assert_eq!(server.client_first(CLIENT_FIRST.as_bytes()).unwrap(), SERVER_FIRST.as_bytes());
    let (server_final, key) = server.client_final(CLIENT_FINAL.as_bytes()).unwrap();
    assert_eq!(server_final, SERVER_FINAL.as_bytes());
    assert!(of_rfc().accepts(&key));
}

#[test]
fn the_client_speaks_as_in_the_rfc() {
    let mut client = ClientExchange::with_password("pencil", CLIENT_NONCE);
    client.name = "user";
    assert_eq!(client.client_first(), CLIENT_FIRST.as_bytes());
    assert_eq!(client.server_first(SERVER_FIRST.as_bytes()).unwrap(), CLIENT_FINAL.as_bytes());
    client.server_final(SERVER_FINAL.as_bytes()).unwrap();
}

#[test]
fn verifiers_are_those_of_postgresql() {
    for (password, text) in OF_POSTGRESQL {
        let stored = Verifier::parse(text).unwrap();
        assert_eq!(stored.text(), text);
        assert_eq!(
            Verifier::from_password(password, &stored.salt, stored.iterations).text(),
            text,
            "{password:?}"
        );
        login(ClientExchange::with_password(password, CLIENT_NONCE), server(stored)).unwrap();
    }
}

#[test]
fn what_is_no_verifier_is_none() {
    let (_, text) = OF_POSTGRESQL[0];
    let broken = [
        String::new(),
        "md5a3556571e93b0d20722ba62be61e8c2d".to_owned(),
        text.replace("SCRAM-SHA-256$", "SCRAM-SHA-1$"),
        text.replace("4096", "0"),
        text.replace("4096", "-1"),
        text.replace("4096", "+1"),
        text.replace("4096", "99999999999"),
        text.replace("4096", ""),
        text.replace("b9qL14OKFJWXwuL/sIVdHQ==", ""),
        text.replace("b9qL14OKFJWXwuL/sIVdHQ==", "b9qL14OKFJWXwuL/sIVdHQ"),
        text.replace("cUl9Fy", "cUl9"),
        text.replace(":9SBJs", ":\u{e9}SBJs"),
        text.replace(":9SBJs", "$9SBJs"),
        format!("{text}:"),
        format!("{text} "),
    ];
    for broken in broken {
        assert_eq!(Verifier::parse(&broken), None, "{broken}");
    }
}

#[test]
fn the_key_of_one_login_makes_the_next() {
    let key = login(ClientExchange::with_password("pencil", CLIENT_NONCE), server(quick("pencil"))).unwrap();
    let client = ClientExchange::with_key(key.clone(), quick("pencil").server_key, "another");
    assert!(login(client, server(quick("pencil"))).unwrap() == key);

    // Of the new password after a change, the old key is worth nothing.
    assert!(!quick("crayon").accepts(&key));
    let client = ClientExchange::with_key(key, quick("crayon").server_key, "another");
    assert_eq!(login(client, server(quick("crayon"))).unwrap_err(), ScramError::WrongProof);
}

#[test]
fn a_wrong_password_lets_nobody_in() {
    for password in ["", "pencil ", "Pencil", "pencils"] {
        let client = ClientExchange::with_password(password, CLIENT_NONCE);
        assert_eq!(login(client, server(quick("pencil"))).unwrap_err(), ScramError::WrongProof);
    }
    assert_eq!(ScramError::WrongProof.sqlstate(), "28P01");
}

#[test]
fn a_user_that_does_not_exist_looks_like_one_that_does() {
    let stand_in = Verifier::unknown("nobody", b"secret");
    assert_eq!((stand_in.iterations, stand_in.salt.len()), (4096, 16));
    assert_eq!(Verifier::parse(&stand_in.text()).unwrap(), stand_in);
    assert_eq!(Verifier::unknown("nobody", b"secret"), stand_in);
    assert_ne!(Verifier::unknown("anybody", b"secret").salt, stand_in.salt);
    assert_ne!(Verifier::unknown("nobody", b"other").salt, stand_in.salt);

    let client = ClientExchange::with_password("pencil", CLIENT_NONCE);
    assert_eq!(login(client, server(stand_in)).unwrap_err(), ScramError::WrongProof);
}

#[test]
fn a_server_without_the_verifier_is_found_out() {
    let mut verifier = quick("pencil");
    verifier.server_key[31] ^= 1;
    let client = ClientExchange::with_password("pencil", CLIENT_NONCE);
    assert_eq!(login(client, server(verifier)).unwrap_err(), ScramError::WrongSignature);
}

#[test]
fn a_bound_channel_must_be_the_same_on_both_ends() {
    let header = "p=tls-server-end-point,,";
    let bound =
        || ServerExchange::new(quick("pencil"), Mechanism::ScramSha256Plus, Some(vec![7; 32]), SERVER_NONCE);
    let repeated = |data: &[u8]| [header.as_bytes(), data].concat();
    let key = bound_login(bound(), header, &repeated(&[7; 32])).unwrap();
    assert!(quick("pencil").accepts(&key));

    for other in [repeated(&[8; 32]), repeated(&[7; 31]), repeated(&[]), b"n,,".to_vec(), Vec::new()] {
        assert_eq!(bound_login(bound(), header, &other).unwrap_err(), ScramError::BindingDiffers);
    }
    let unique = "p=tls-unique,,";
    assert_eq!(bound_login(bound(), unique, &repeated(&[7; 32])).unwrap_err(), ScramError::BindingType);
    for flag in ["n,,", "y,,"] {
        assert_eq!(bound_login(bound(), flag, flag.as_bytes()).unwrap_err(), ScramError::BindingMissing);
    }
    let unoffered = ServerExchange::new(quick("pencil"), Mechanism::ScramSha256Plus, None, SERVER_NONCE);
    assert_eq!(bound_login(unoffered, header, &repeated(&[])).unwrap_err(), ScramError::NotOffered);
}

#[test]
fn a_downgrade_of_the_channel_is_found_out() {
    let with = |binding| ServerExchange::new(quick("pencil"), Mechanism::ScramSha256, binding, SERVER_NONCE);
    let offered = || with(Some(vec![7; 32]));
    // A client that cannot bind may come over TLS too, and one that can, without TLS.
    bound_login(offered(), "n,,", b"n,,").unwrap();
    bound_login(with(None), "y,,", b"y,,").unwrap();

    assert_eq!(bound_login(offered(), "y,,", b"y,,").unwrap_err(), ScramError::BindingDowngraded);
    // Somebody between made `n` of the client's `y`.
    assert_eq!(bound_login(offered(), "n,,", b"y,,").unwrap_err(), ScramError::BindingDiffers);
    for server in [offered(), with(None)] {
        let header = "p=tls-server-end-point,,";
        assert_eq!(bound_login(server, header, header.as_bytes()).unwrap_err(), ScramError::BindingUnasked);
    }
}

#[test]
fn mechanisms_have_postgresqls_names() {
    for mechanism in [Mechanism::ScramSha256, Mechanism::ScramSha256Plus] {
        assert_eq!(Mechanism::parse(mechanism.name()), Some(mechanism));
    }
    assert_eq!(Mechanism::parse("SCRAM-SHA-256-PLUS"), Some(Mechanism::ScramSha256Plus));
    assert_eq!(Mechanism::parse("scram-sha-256"), None);
    assert_eq!(Mechanism::parse("OAUTHBEARER"), None);
}

#[test]
fn nothing_secret_is_shown() {
    let mut client = ClientExchange::with_password("pencil", CLIENT_NONCE);
    let mut server = server(of_rfc());
    client.server_first(&server.client_first(&client.client_first()).unwrap()).unwrap();
    let key = ClientKey::of_salted(&[1; 32]);
    assert_eq!(format!("{key:?}"), "ClientKey(…)");
    assert_eq!(format!("{:?}", of_rfc()), "Verifier { iterations: 4096, .. }");
    assert_eq!(format!("{server:?}"), "ServerExchange { mechanism: ScramSha256, .. }");
    assert_eq!(format!("{client:?}"), "ClientExchange { answered: true, .. }");
}
