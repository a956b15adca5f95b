use super::*;

fn authority() -> KeyFingerprint {
    format!("sha256:{}", "5a".repeat(32)).parse().unwrap()
}

fn known() -> JoinToken {
    JoinToken { id: [1, 2, 3, 4, 5], secret: [7; SECRET], authority: authority() }
}

#[test]
fn text_and_back() {
    for token in [known(), JoinToken::create(authority()).unwrap()] {
        let text = token.text();
        assert_eq!(text.len(), LETTERS);
        assert!(text.bytes().all(|letter| ALPHABET.contains(&letter)), "{text}");
        assert_eq!(text.parse::<JoinToken>().unwrap(), token);
        assert_eq!(format!(" {}\n", text.to_uppercase()).parse::<JoinToken>().unwrap(), token);
    }
    assert_ne!(JoinToken::create(authority()).unwrap(), JoinToken::create(authority()).unwrap());
}

#[test]
fn the_text_of_a_token_stays_as_it_is() {
    // Computed with another program.
    let text =
        "040g40r40m3ge1r70w3ge1r70w3ge1r70w3nmpjtb9d5mpjtb9d5mpjtb9d5mpjtb9d5mpjtb9d5mpjtb9d5mpnxf3kfzm5q";
    assert_eq!(known().text(), text);
    assert_eq!(known().id(), "04106105");
}

#[test]
fn every_single_mistake_is_noticed() {
    let text = known().text();
    for index in 0..LETTERS {
        for letter in ALPHABET {
            let mut wrong = text.clone().into_bytes();
            if wrong[index] == *letter {
                continue;
            }
            wrong[index] = *letter;
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(wrong.parse::<JoinToken>().unwrap_err(), TokenError::Checksum, "{wrong}");
        }
        if index > 0 && text.as_bytes()[index] != text.as_bytes()[index - 1] {
            let mut swapped = text.clone().into_bytes();
            swapped.swap(index - 1, index);
            let swapped = String::from_utf8(swapped).unwrap();
            assert_eq!(swapped.parse::<JoinToken>().unwrap_err(), TokenError::Checksum, "{swapped}");
        }
    }
}

#[test]
fn each_error_says_what_is_wrong_and_shows_no_secret() {
    let text = known().text();
    let error = |text: &str| text.parse::<JoinToken>().unwrap_err();
    assert_eq!(error(""), TokenError::Length(0));
    assert_eq!(error(&text[1..]), TokenError::Length(95));
    assert_eq!(error(&format!("{text}0")), TokenError::Length(97));
    assert_eq!(error(&text.replacen('b', "l", 1)), TokenError::Letter('l', 41));
    assert_eq!(error("ü"), TokenError::Letter('ü', 1));
    let mut newer = vec![2, 9, 9, 9, 9, 9, 9, 9, 9];
    newer.extend(checksum(&newer));
    assert_eq!(error(&encode(&newer)), TokenError::Version(2));
    for wrong in ["", &text[1..], &text.replacen('b', "l", 1), &text.replacen('b', "c", 1)] {
        let message = error(wrong).to_string();
        assert!(!message.contains('\n') && !message.contains(&text[20..30]), "{message}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let token = JoinToken { secret: [0xAB; SECRET], ..known() };
    for shown in [format!("{token:?}"), format!("{token:#?}")] {
        assert!(shown.contains(&token.id()) && !shown.to_lowercase().contains("abab"), "{shown}");
        assert!(!shown.contains("171") && !shown.contains(&encode(&[0xAB; 15])), "{shown}");
    }
}

#[test]
fn the_record_stores_the_sha_256_of_the_secret() {
    let token = JoinToken { secret: *b"0123456789abcdef", ..known() };
    // printf 0123456789abcdef | sha256sum
    let expected = "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f";
    assert_eq!(token.secret_sha256(), expected);
}

#[test]
fn an_invitation_names_its_place() {
    let token = known().text();
    let parsed = |place: &str| {
        let invitation: Invitation = format!("{token}@{place}").parse().unwrap();
        assert_eq!(invitation.token, known());
        assert_eq!(invitation.text().parse::<Invitation>().unwrap(), invitation);
        (invitation.host, invitation.port)
    };
    let ip = |text: &str| Host::Address(text.parse().unwrap());
    assert_eq!(parsed("10.0.0.1"), (ip("10.0.0.1"), 7400));
    assert_eq!(parsed("10.0.0.1:7401"), (ip("10.0.0.1"), 7401));
    assert_eq!(parsed("fd00::1"), (ip("fd00::1"), 7400));
    assert_eq!(parsed("[fd00::1]"), (ip("fd00::1"), 7400));
    assert_eq!(parsed("[fd00::1]:7401"), (ip("fd00::1"), 7401));
    assert_eq!(parsed("DB1.example.org:7401"), (Host::Name("db1.example.org".to_owned()), 7401));
    assert_eq!(parsed("db-1"), (Host::Name("db-1".to_owned()), 7400));
}

#[test]
fn a_wrong_invitation_is_told_its_fault() {
    let token = known().text();
    let error = |text: &str| text.parse::<Invitation>().unwrap_err();
    let at = |place: &str| error(&format!("{token}@{place}"));
    assert_eq!(error(&token), TokenError::NoHost);
    assert_eq!(at(""), TokenError::NoHost);
    assert_eq!(at(":7400"), TokenError::NoHost);
    for host in ["a b", "-", "999.1.1.1", "10.0.0", "db1@db2", "[10.0.0.1]", "[fd00::1", "[fd00::1]7400"] {
        assert!(matches!(at(host), TokenError::Host(_)), "{host}: {:?}", at(host));
    }
    for port in ["", "0", "65536", "+1", "x", "7400:1"] {
        assert_eq!(at(&format!("db1:{port}")), TokenError::Port(port.to_owned()));
    }
    assert_eq!(error("10.0.0.1:7400"), TokenError::Letter('.', 3));
    assert_eq!(error(&format!("{}@db1", token.replacen('b', "c", 1))), TokenError::Checksum);
}
