//! Messages that were changed on the way, or that never were any.

use super::*;
use proptest::prelude::*;

/// The state of the RFC's example after the first two messages.
fn begun() -> ServerExchange {
    let mut server = server(of_rfc());
    server.client_first(CLIENT_FIRST.as_bytes()).unwrap();
    server
}

fn client() -> ClientExchange {
    let mut client = ClientExchange::with_password("pencil", CLIENT_NONCE);
    client.name = "user";
    client
}

fn refused_first(message: &str) -> ScramError {
    server(quick("pencil")).client_first(message.as_bytes()).expect_err(message)
}

fn refused_final(message: &str) -> ScramError {
    begun().client_final(message.as_bytes()).map(|_| ()).expect_err(message)
}

fn is_malformed(error: &ScramError) -> bool {
    matches!(error, ScramError::Malformed { .. } | ScramError::Attribute { .. })
}

#[test]
fn the_name_in_the_first_message_does_not_matter() {
    for message in [&b"n,,n=,r=abc"[..], b"n,,n=somebody=2Cwith=3D,r=abc", b"n,,n=\xe9\xff,r=abc,x=\xff,y="] {
        let answer = server(quick("pencil")).client_first(message).unwrap();
        assert!(answer.starts_with(format!("r=abc{SERVER_NONCE},s=").as_bytes()));
    }
}

#[test]
fn a_first_message_must_follow_the_grammar() {
    let malformed = [
        "",
        "n",
        "n,",
        "n,,",
        ",,n=,r=abc",
        "x,,n=,r=abc",
        "N,,n=,r=abc",
        "nn,,n=,r=abc",
        "n ,,n=,r=abc",
        "n,b,n=,r=abc",
        "n,,r=abc",
        "n,,n=",
        "n,,n=,",
        "n,,n,r=abc",
        "n,,n=,r=",
        "n,,n=,r",
        "n,,n=,s=abc",
        "n,,n=,r=a b",
        "n,,n=,r=a\u{e9}",
        "n,,n=,r=abc,",
        "n,,n=,r=abc,x",
        "n,,n=,r=abc,1=2",
        "n,,n=,r=abc,=",
        "n,,n=\0,r=abc",
        "n,,n=,r=abc\0",
    ];
    for message in malformed {
        assert!(is_malformed(&refused_first(message)), "{message:?}");
    }
    assert!(is_malformed(&refused_first(&format!("n,,n=,r={}", "a".repeat(1020)))));
    assert_eq!(refused_first("n,a=other,n=,r=abc"), ScramError::AuthorizationIdentity);
    assert_eq!(refused_first("n,,m=new,n=,r=abc"), ScramError::Extension);
}

#[test]
fn a_final_message_must_follow_the_grammar_and_fit() {
    let [c, r, p] = CLIENT_FINAL.split(',').collect::<Vec<_>>().try_into().unwrap();
    let malformed = [
        String::new(),
        c.to_owned(),
        format!("{c},{r}"),
        format!("{c},{r},"),
        format!("{r},{c},{p}"),
        format!("{c},{p}"),
        format!("{c},{r},p"),
        format!("{c},{r},p="),
        format!("{c},{r},p=AAAA"),
        format!("{c},{r},p=!!!!"),
        format!("{c},{r},{p},"),
        format!("{c},{r},{p},x=y"),
        format!("{c},r=,{p}"),
        format!("{c},{r},1=2,{p}"),
        format!("{c},{r},x={},{p}", "x".repeat(1024)),
    ];
    for message in malformed {
        assert!(is_malformed(&refused_final(&message)), "{message}");
    }
    for channel in ["c=", "c=eSws", "c=biw=", "c=biws="] {
        assert_eq!(refused_final(&format!("{channel},{r},{p}")), ScramError::BindingDiffers);
    }
    let nonce = ScramError::NonceDiffers { message: "client-final-message" };
    for other in [format!("{r}x"), r[..r.len() - 1].to_owned(), format!("r={CLIENT_NONCE}"), "r=x".to_owned()]
    {
        assert_eq!(refused_final(&format!("{c},{other},{p}")), nonce);
    }
    // An extension is ignored, but it is part of what is authenticated.
    assert_eq!(refused_final(&format!("{c},{r},x=y,{p}")), ScramError::WrongProof);
    assert_eq!(refused_final(&CLIENT_FINAL.replace("p=d", "p=e")), ScramError::WrongProof);
}

#[test]
fn a_proof_over_extensions_is_accepted() {
    let mut server = server(quick("pencil"));
    let bare = "n=,r=abc,x=y";
    let server_first = server.client_first(format!("n,,{bare}").as_bytes()).unwrap();
    let without_proof = format!("c=biws,r=abc{SERVER_NONCE},x=y,z=");
    let authenticated: [&[u8]; 5] = [bare.as_bytes(), b",", &server_first, b",", without_proof.as_bytes()];
    let key = ClientKey::of_salted(&keys::salted(b"pencil", b"salt of sixteen.", 2));
    let proof = STANDARD.encode(key.proof(&keys::mac(&key.stored(), &authenticated)));
    let (_, proven) = server.client_final(format!("{without_proof},p={proof}").as_bytes()).unwrap();
    assert!(proven == key);
}

#[test]
fn a_first_answer_must_follow_the_grammar_and_fit() {
    let [r, s, i] = SERVER_FIRST.split(',').collect::<Vec<_>>().try_into().unwrap();
    let malformed = [
        String::new(),
        r.to_owned(),
        format!("{r},{s}"),
        format!("{s},{r},{i}"),
        format!("m=new,{r},{s},{i}"),
        format!("{r},s=!,{i}"),
        format!("{r},{s},i="),
        format!("{r},{s},i=0"),
        format!("{r},{s},i=-1"),
        format!("{r},{s},i=+1"),
        format!("{r},{s},i=01"),
        format!("{r},{s},i=4096 "),
        format!("{r},{s},{i},"),
        format!("{r},{s},{i},x=y"),
        format!("r=,{s},{i}"),
        format!("{r}{},{s},{i}", "x".repeat(2000)),
    ];
    for message in malformed {
        let error = client().server_first(message.as_bytes()).expect_err(&message);
        assert!(is_malformed(&error), "{message}");
    }
    let nonce = ScramError::NonceDiffers { message: "server-first-message" };
    for other in [format!("r={CLIENT_NONCE}"), format!("r=x{CLIENT_NONCE}"), "r=r".to_owned()] {
        assert_eq!(client().server_first(format!("{other},{s},{i}").as_bytes()).unwrap_err(), nonce);
    }
    // Neither may cost any time.
    for many in ["1000001", "4294967296", "99999999999999999999999"] {
        let error = client().server_first(format!("{r},{s},i={many}").as_bytes()).unwrap_err();
        assert_eq!(error, ScramError::TooManyIterations { limit: 1_000_000 });
    }
}

#[test]
fn a_final_answer_must_follow_the_grammar_and_fit() {
    let mut client = client();
    let early = ScramError::OutOfOrder { message: "server-final-message" };
    assert_eq!(client.server_final(SERVER_FINAL.as_bytes()).unwrap_err(), early);
    client.server_first(SERVER_FIRST.as_bytes()).unwrap();
    let refusal = |message: &str| client.server_final(message.as_bytes()).expect_err(message);
    for message in ["", "v", "x=6rri", "v=!", &format!("{SERVER_FINAL},"), &format!("{SERVER_FINAL},x=y")] {
        assert!(is_malformed(&refusal(message)), "{message}");
    }
    for message in ["v=", "v=AAAA", &SERVER_FINAL.replace("v=6", "v=7")] {
        assert_eq!(refusal(message), ScramError::WrongSignature);
    }
    assert_eq!(refusal("e=invalid-proof"), ScramError::Refused { reason: "invalid-proof".to_owned() });
    let unprintable = refusal("e=\u{1b}[2J").to_string();
    assert!(unprintable.contains("printable characters") && !unprintable.contains('\u{1b}'), "{unprintable}");
}

#[test]
fn a_changed_first_message_does_not_fit_its_proof() {
    let changed = [CLIENT_FIRST.replace("user", "other"), format!("{CLIENT_FIRST},x=y")];
    for message in changed {
        let mut server = server(of_rfc());
        server.client_first(message.as_bytes()).unwrap();
        assert_eq!(server.client_final(CLIENT_FINAL.as_bytes()).unwrap_err(), ScramError::WrongProof);
    }
    let changed = [SERVER_FIRST.replace("W22Z", "X22Z"), SERVER_FIRST.replace("4096", "4095")];
    for message in changed {
        let client_final = client().server_first(message.as_bytes()).unwrap();
        assert_eq!(begun().client_final(&client_final).unwrap_err(), ScramError::WrongProof);
    }
}

#[test]
fn each_message_has_its_turn() {
    let early = ScramError::OutOfOrder { message: "client-final-message" };
    assert_eq!(server(of_rfc()).client_final(CLIENT_FINAL.as_bytes()).unwrap_err(), early);
    let twice = ScramError::OutOfOrder { message: "client-first-message" };
    assert_eq!(begun().client_first(CLIENT_FIRST.as_bytes()).unwrap_err(), twice);
    let mut client = client();
    client.server_first(SERVER_FIRST.as_bytes()).unwrap();
    let twice = ScramError::OutOfOrder { message: "server-first-message" };
    assert_eq!(client.server_first(SERVER_FIRST.as_bytes()).unwrap_err(), twice);
}

#[test]
fn a_nonce_that_cannot_be_sent_is_refused() {
    for nonce in ["", "a,b", "a b", "\u{e9}", &"a".repeat(257)] {
        let mut server = ServerExchange::new(quick("pencil"), Mechanism::ScramSha256, None, nonce);
        assert_eq!(server.client_first(CLIENT_FIRST.as_bytes()).unwrap_err(), ScramError::OwnNonce);
        let mut client = ClientExchange::with_password("pencil", nonce);
        assert_eq!(client.server_first(SERVER_FIRST.as_bytes()).unwrap_err(), ScramError::OwnNonce);
    }
}

/// Bytes of which many come some way through the grammar: pieces of real messages and arbitrary ones.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"n,,".to_vec()),
        Just(b"y,,".to_vec()),
        Just(b"p=tls-server-end-point,,".to_vec()),
        Just(b"n=,".to_vec()),
        Just(b"c=biws,".to_vec()),
        Just(format!("r={CLIENT_NONCE}").into_bytes()),
        Just(format!("{SERVER_NONCE},").into_bytes()),
        Just(b"s=W22ZaJ0SNY7soEsUEjb6gQ==,".to_vec()),
        Just(b"i=2".to_vec()),
        Just(b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".to_vec()),
        Just(b"v=".to_vec()),
        Just(b",".to_vec()),
        Just(b"=".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_bytes_make_a_server_panic(first in bytes(), last in bytes(), plus: bool, tls: bool) {
        let mechanism = if plus { Mechanism::ScramSha256Plus } else { Mechanism::ScramSha256 };
        let binding = tls.then(|| vec![7; 32]);
        let mut server = ServerExchange::new(Verifier::unknown("nobody", b"secret"), mechanism, binding, SERVER_NONCE);
        let _ = server.client_first(&first);
        prop_assert!(server.client_final(&last).is_err());
        prop_assert!(begun().client_final(&last).is_err());
    }

    #[test]
    fn no_bytes_make_a_client_panic(first in bytes(), last in bytes()) {
        let mut client = ClientExchange::with_key(ClientKey::of_salted(&[1; 32]), [2; 32], CLIENT_NONCE);
        prop_assert!(client.server_final(&last).is_err());
        let _ = client.server_first(&first);
        prop_assert!(client.server_final(&last).is_err());
        let _ = client.server_first(SERVER_FIRST.as_bytes());
        prop_assert!(client.server_final(&last).is_err());
    }

    #[test]
    fn no_text_makes_the_parser_of_verifiers_panic(text in "(SCRAM-SHA-256)?[$:=A-Za-z0-9é]{0,60}") {
        prop_assert!(Verifier::parse(&text).is_none());
    }

    #[test]
    fn a_verifier_is_what_its_text_says(iterations in 1..=i32::MAX, salt in proptest::collection::vec(any::<u8>(), 1..40),
                                        stored_key: [u8; 32], server_key: [u8; 32]) {
        let verifier = Verifier { iterations: iterations.unsigned_abs(), salt, stored_key, server_key };
        prop_assert_eq!(Verifier::parse(&verifier.text()), Some(verifier));
    }

    #[test]
    fn the_right_password_and_no_other_lets_in(password in "\\PC{0,12}", other in "\\PC{0,12}") {
        let client = |password: &str| ClientExchange::with_password(password, CLIENT_NONCE);
        prop_assert!(login(client(&password), server(quick(&password))).is_ok());
        let same = keys::normalised(&password) == keys::normalised(&other);
        prop_assert_eq!(login(client(&other), server(quick(&password))).is_ok(), same);
    }

    #[test]
    fn one_changed_byte_of_a_final_message_lets_nobody_in(at in 0..CLIENT_FINAL.len(), by in 1..=u8::MAX) {
        let mut message = CLIENT_FINAL.as_bytes().to_vec();
        message[at] ^= by;
        prop_assert!(begun().client_final(&message).is_err());
    }
}
