//! What real frontends send, and what strangers do.

use super::*;
use proptest::prelude::*;

/// With its length before it.
fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + body.len()).unwrap();
    [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
}

const V3_0: u32 = 196_608;
const V3_2: u32 = 196_610;

fn refused(packet: &[u8]) -> StartupError {
    startup(packet).expect_err("must be refused")
}

#[test]
fn requests_are_told_apart() {
    assert_eq!(startup(&[0, 0, 0, 8, 4, 210, 22, 47]), Ok(Startup::Ssl));
    assert_eq!(startup(&packet(80_877_103, b"")), Ok(Startup::Ssl));
    assert_eq!(startup(&packet(80_877_104, b"")), Ok(Startup::GssEnc));
    for code in [80_877_103, 80_877_104] {
        assert_eq!(refused(&packet(code, b"x")), StartupError::RequestLength { bytes: 9 });
    }
}

#[test]
fn a_cancel_request_has_a_process_and_a_secret() {
    let cancel = packet(80_877_102, &[0xff, 0xff, 0xff, 0xfe, 1, 2, 3, 4]);
    assert_eq!(startup(&cancel), Ok(Startup::Cancel { pid: -2, secret: &[1, 2, 3, 4], is_forwarded: false }));
    let long = packet(80_877_102, &[7; 260]);
    assert_eq!(
        startup(&long),
        Ok(Startup::Cancel { pid: 0x0707_0707, secret: &[7; 256], is_forwarded: false })
    );
    for is_forwarded in [false, true] {
        let written = cancel_request(-7, &[1, 2, 3, 4, 5], is_forwarded);
        assert_eq!(
            startup(&written),
            Ok(Startup::Cancel { pid: -7, secret: &[1, 2, 3, 4, 5], is_forwarded })
        );
    }
    for (body, bytes) in [(0, 0), (3, 0), (4, 0), (7, 3), (261, 257)] {
        assert_eq!(refused(&packet(80_877_102, &vec![7; body])), StartupError::Secret { bytes });
    }
}

#[test]
fn a_startup_keeps_its_parameters_in_order() {
    let body = b"user\0alice\0database\0shop\0options\0\0application_name\0K\xc3\xa4se\0\0";
    let parameters =
        vec![("user", "alice"), ("database", "shop"), ("options", ""), ("application_name", "Käse")];
    for (code, minor) in [(V3_0, 0), (V3_2, 2), (196_608 + 9999, 9999), (0x0003_ffff, 0xffff)] {
        let parameters = parameters.clone();
        assert_eq!(startup(&packet(code, body)), Ok(Startup::Startup { minor, parameters }));
    }
}

#[test]
fn another_protocol_is_refused() {
    let body = b"user\0alice\0\0";
    for (major, minor) in [(2, 0), (4, 0), (0, 0), (1234, 5681)] {
        let code = u32::from(major) << 16 | u32::from(minor);
        assert_eq!(refused(&packet(code, body)), StartupError::Version { major, minor });
    }
    assert_eq!(StartupError::Version { major: 2, minor: 0 }.sqlstate(), "0A000");
    // The beginning of a request over HTTP or TLS is no length.
    assert!(matches!(refused(b"GET / HTTP/1.1\r\n\r\n"), StartupError::Length { .. }));
    assert!(matches!(refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), StartupError::Length { .. }));
}

#[test]
fn a_packet_has_the_length_that_it_says() {
    let whole = packet(V3_0, b"user\0alice\0\0");
    for bytes in 0..8 {
        assert_eq!(refused(&whole[..bytes]), StartupError::TooShort { bytes });
    }
    for bytes in 8..whole.len() {
        assert_eq!(refused(&whole[..bytes]), StartupError::LengthDiffers { said: 20, bytes });
    }
    let longer = [whole.as_slice(), b"\0"].concat();
    assert_eq!(refused(&longer), StartupError::LengthDiffers { said: 20, bytes: 21 });
    for length in [0, 7, 10_001, 0x7fff_ffff, 0xffff_ffff] {
        let mut packet = whole.clone();
        packet[..4].copy_from_slice(&u32::to_be_bytes(length));
        assert_eq!(refused(&packet), StartupError::Length { length });
    }
    let value = "x".repeat(10_000 - 8 - "user\0\0\0".len());
    assert!(startup(&packet(V3_0, format!("user\0{value}\0\0").as_bytes())).is_ok());
    let too_long = packet(V3_0, format!("user\0{value}x\0\0").as_bytes());
    assert_eq!(refused(&too_long), StartupError::Length { length: 10_001 });
}

#[test]
fn the_list_ends_where_the_packet_does() {
    let broken: [&[u8]; 9] = [
        b"",
        b"user",
        b"user\0",
        b"user\0alice",
        b"user\0alice\0",
        b"user\0alice\0database",
        b"user\0alice\0database\0\0",
        b"user\0alice\0\0x",
        b"user\0alice\0\0\0",
    ];
    for body in broken {
        assert_eq!(refused(&packet(V3_0, body)), StartupError::Layout, "{body:?}");
    }
}

#[test]
fn somebody_must_sign_in() {
    for body in [&b"\0"[..], b"database\0shop\0\0", b"user\0\0\0", b"User\0alice\0\0"] {
        assert_eq!(refused(&packet(V3_0, body)), StartupError::NoUser);
    }
    assert_eq!(StartupError::NoUser.sqlstate(), "28000");
}

#[test]
fn a_parameter_stands_there_once() {
    let twice = refused(&packet(V3_0, b"user\0alice\0database\0shop\0user\0bob\0\0"));
    assert_eq!(twice, StartupError::Duplicate { key: "user".to_owned() });
    let key = "\u{1b}".repeat(200);
    let shown = refused(&packet(V3_0, format!("{key}\0\0{key}\0\0\0").as_bytes())).to_string();
    assert!(!shown.contains('\u{1b}') && shown.len() < 500, "{shown}");
}

#[test]
fn what_is_not_utf8_is_refused() {
    assert_eq!(refused(&packet(V3_0, b"user\0al\xe9\0\0")), StartupError::NotUtf8 { position: 1 });
    assert_eq!(refused(&packet(V3_0, b"user\0a\0\xff\0a\0\0")), StartupError::NotUtf8 { position: 2 });
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = startup(&bytes);
    }

    #[test]
    fn no_body_makes_it_panic(
        code in prop_oneof![Just(CANCEL), Just(SSL), Just(GSS_ENC), Just(V3_0), Just(V3_2), any::<u32>()],
        body in proptest::collection::vec(prop_oneof![Just(0_u8), Just(b'u'), any::<u8>()], 0..400),
    ) {
        let _ = startup(&packet(code, &body));
    }

    #[test]
    fn what_is_written_is_read(minor: u16, values in proptest::collection::btree_map("[a-z_.]{1,9}", "[^\0]{0,9}", 0..9)) {
        let mut values = values;
        values.insert("user".to_owned(), "alice".to_owned());
        let mut body: Vec<u8> = values.iter().flat_map(|(key, value)| format!("{key}\0{value}\0").into_bytes()).collect();
        body.push(0);
        let parameters = values.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let packet = packet(V3_0 + u32::from(minor), &body);
        prop_assert_eq!(startup(&packet), Ok(Startup::Startup { minor, parameters }));
    }
}
