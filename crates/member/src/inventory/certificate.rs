//! When a certificate ends. Only this one date is wanted, so it is taken from the DER encoding (RFC 5280, section 4.1) by hand.

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `notAfter` of the first certificate in a PEM text, in seconds since 1970.
pub(super) fn end(pem: &str) -> Option<u64> {
    let begin = pem.find("-----BEGIN CERTIFICATE-----")? + "-----BEGIN CERTIFICATE-----".len();
    let body = &pem[begin..begin + pem[begin..].find("-----END")?];
    end_in_der(&decode(body)?)
}

/// Base64 (RFC 4648), blanks left out.
fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xFF) as u8);
        }
    }
    Some(bytes)
}

/// Serial number, algorithm and issuer stand before the validity; the version only sometimes.
fn end_in_der(der: &[u8]) -> Option<u64> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest, VERSION)?.1;
    }
    for _ in 0..3 {
        rest = element(rest, *rest.first()?)?.1;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_, after) = element(validity, *validity.first()?)?;
    let tag = *after.first()?;
    moment(tag, element(after, tag)?.0)
}

/// The content of an element with this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ 0..=0x7F => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(long - 0x80))?;
            (digits.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    if *found != tag {
        return None;
    }
    rest.split_at_checked(length)
}

/// `YYMMDDHHMMSSZ`, where 50 and more is of the last century, or `YYYYMMDDHHMMSSZ`.
fn moment(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let two = |place: usize| rest.get(place * 2..place * 2 + 2)?.parse::<i64>().ok();
    let (month, day) = (two(0)?, two(1)?);
    let seconds = two(2)? * 3600 + two(3)? * 60 + two(4)?;
    u64::try_from(days(year, month, day) * 86_400 + seconds).ok()
}

/// Days since 1970 in the Gregorian calendar. The year begins in March here, so that a leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn dates_become_seconds() {
        for (tag, text, seconds) in [
            (UTC_TIME, "700101000000Z", 0),
            (UTC_TIME, "000229000000Z", 951_782_400),
            (UTC_TIME, "260101000001Z", 1_767_225_601),
            (GENERALIZED_TIME, "20560301123456Z", 2_719_139_696),
        ] {
            assert_eq!(moment(tag, text.as_bytes()), Some(seconds), "{text}");
        }
        for text in ["", "Z", "2601Z", "260101000000", "26010100000xZ"] {
            assert_eq!(moment(UTC_TIME, text.as_bytes()), None, "{text}");
        }
    }

    /// The authority lives for 30 years, what it issues for less; neither is read from anything but the certificate.
    #[test]
    fn real_certificates_say_when_they_end() {
        let ca = mainstay_net::pki::ClusterCa::create("shop").expect("made");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let year = 31_556_952;
        let left = end(ca.certificate_pem()).expect("a date") - now;
        assert!((29 * year..31 * year).contains(&left), "{left}");
        assert_eq!(end("no certificate"), None);
        let broken = ca.certificate_pem().replacen("MII", "MIB", 1);
        assert_eq!(end(&broken), None);
    }
}
