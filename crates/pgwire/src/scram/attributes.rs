//! The grammar of the messages: `letter=value` with commas between (RFC 5802, section 7).

use super::ScramError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// PostgreSQL takes no longer SASL message from a client (`PG_MAX_SASL_MESSAGE_LENGTH`), in bytes.
const CLIENT_MESSAGE_MAX: usize = 1024;

/// libpq takes no longer authentication message from a server, in bytes.
const SERVER_MESSAGE_MAX: usize = 2000;

/// The longest nonce that a caller may bring, in bytes. PostgreSQL's has 24; a client's and a server's fit into one message.
const NONCE_MAX: usize = 256;

/// Reads one message from left to right.
///
/// Bytes and not a `str`: the name of the user, which is ignored, is in whatever encoding the application has.
pub(super) struct Attributes<'a> {
    message: &'static str,
    /// What is not read yet; `None` after the last attribute, which differs from an empty one after a comma.
    rest: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    /// A client's message, which the RFC calls `message`.
    pub(super) fn of_client(message: &'static str, bytes: &'a [u8]) -> Result<Attributes<'a>, ScramError> {
        Attributes::new(message, bytes, CLIENT_MESSAGE_MAX)
    }

    /// A server's message, which the RFC calls `message`.
    pub(super) fn of_server(message: &'static str, bytes: &'a [u8]) -> Result<Attributes<'a>, ScramError> {
        Attributes::new(message, bytes, SERVER_MESSAGE_MAX)
    }

    fn new(message: &'static str, bytes: &'a [u8], max: usize) -> Result<Attributes<'a>, ScramError> {
        let it = Attributes { message, rest: Some(bytes) };
        if bytes.is_empty() {
            return Err(it.malformed("it is empty"));
        }
        if bytes.len() > max {
            return Err(it.malformed("it is too long"));
        }
        if bytes.contains(&0) {
            return Err(it.malformed("it holds a zero byte"));
        }
        Ok(it)
    }

    pub(super) fn malformed(&self, wrong: &'static str) -> ScramError {
        ScramError::Malformed { message: self.message, wrong }
    }

    /// What is not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest.unwrap_or_default()
    }

    /// The bytes up to the next comma, or all that are left.
    pub(super) fn field(&mut self) -> Result<&'a [u8], ScramError> {
        let Some(rest) = self.rest else { return Err(self.malformed("it ends too early")) };
        let mut halves = rest.splitn(2, |byte| *byte == b',');
        let field = halves.next().unwrap_or_default();
        self.rest = halves.next();
        Ok(field)
    }

    /// The value of the attribute that must come now.
    pub(super) fn value(&mut self, letter: u8) -> Result<&'a [u8], ScramError> {
        let missing = ScramError::Attribute { message: self.message, attribute: char::from(letter) };
        match self.rest {
            Some([first, b'=', ..]) if *first == letter => Ok(&self.field()?[2..]),
            _ => Err(missing),
        }
    }

    /// Any attribute with its value.
    pub(super) fn any(&mut self) -> Result<(u8, &'a [u8]), ScramError> {
        match self.field()? {
            [letter, b'=', value @ ..] if letter.is_ascii_alphabetic() => Ok((*letter, value)),
            _ => Err(self.malformed("something in it is not an attribute")),
        }
    }

    /// The value of the attribute that must come now, which is a nonce.
    pub(super) fn nonce(&mut self) -> Result<&'a [u8], ScramError> {
        let nonce = self.value(b'r')?;
        if is_printable(nonce) {
            Ok(nonce)
        } else {
            Err(self.malformed("its nonce is empty or not printable"))
        }
    }

    /// The value of the attribute that must come now, in base64.
    pub(super) fn decoded(&mut self, letter: u8) -> Result<Vec<u8>, ScramError> {
        let value = self.value(letter)?;
        STANDARD.decode(value).map_err(|_| self.malformed("a value is not base64"))
    }

    /// There must be nothing more.
    pub(super) fn end(&self) -> Result<(), ScramError> {
        match self.rest {
            None => Ok(()),
            Some(_) => Err(self.malformed("something follows its end")),
        }
    }
}

/// The characters of a nonce, or of a server's word why it refuses.
fn is_printable(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',')
}

/// Whether the nonce that the caller made can be sent.
pub(super) fn check_own_nonce(nonce: &str) -> Result<(), ScramError> {
    let fits = nonce.len() <= NONCE_MAX && is_printable(nonce.as_bytes());
    if fits { Ok(()) } else { Err(ScramError::OwnNonce) }
}

/// A positive number in decimal, without a sign or leading zeros. One that does not fit is `u32::MAX`, which every limit
/// refuses.
pub(super) fn positive(digits: &[u8]) -> Option<u32> {
    let (first, others) = digits.split_first()?;
    if !(b'1'..=b'9').contains(first) || !others.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        digits
            .iter()
            .fold(0_u32, |sum, digit| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0'))),
    )
}

/// A word of the server, as far as it may stand in a log.
pub(super) fn shown(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if is_printable(bytes) && bytes.len() <= 64 => text.to_owned(),
        _ => "it does not say why in printable characters".to_owned(),
    }
}
