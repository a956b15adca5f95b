//! The word that lets a machine in once, and by which it knows the cluster.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::DnsName;

use crate::fingerprint::KeyFingerprint;

/// The port of members, if none is named.
pub const DEFAULT_PORT: u16 = 7400;

/// Crockford's base 32: lower-case letters and digits without `i`, `l`, `o` and `u`. Read aloud or written down,
/// nothing in it is taken for something else.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The first byte of what the word encodes. All versions end in the checksum of what is before it, and are a multiple
/// of 5 bytes long.
const VERSION: u8 = 1;
const ID: usize = 5;
const SECRET: usize = 16;
const FINGERPRINT: usize = 32;
const CHECKSUM: usize = 6;
/// 60 bytes, which are 96 letters without a bit left over.
const BYTES: usize = 1 + ID + SECRET + FINGERPRINT + CHECKSUM;
const LETTERS: usize = BYTES * 8 / 5;

/// Why a text is no token. None of the messages holds any of it that is secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("a join token has {LETTERS} letters and digits, not {0}: copy the whole word")]
    Length(usize),
    #[error("the join token has {0:?} at position {1}, which occurs in none: copy the word again")]
    Letter(char, usize),
    #[error("the join token is mistyped: its letters do not agree with its checksum; copy the word again")]
    Checksum,
    #[error(
        "the join token is of version {0}, made by another release: run the same release on all machines"
    )]
    Version(u8),
    #[error("where to join is missing: give TOKEN@HOST or TOKEN@HOST:PORT")]
    NoHost,
    #[error("{0:?} is neither an IP address nor a DNS name: give TOKEN@HOST or TOKEN@HOST:PORT")]
    Host(String),
    #[error("{0:?} is not a port: give a number from 1 to 65535 after the colon")]
    Port(String),
    #[error("the operating system gave no random numbers")]
    Random,
}

/// What a member gives to an operator, and the operator to the machine that shall join. Good for one joining: who
/// holds it may become a member, so [`JoinToken::text`] is shown once and stored nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: [u8; ID],
    secret: [u8; SECRET],
    authority: KeyFingerprint,
}

impl JoinToken {
    /// A new token of the cluster whose CA has the key `authority`.
    pub fn create(authority: KeyFingerprint) -> Result<JoinToken, TokenError> {
        let mut token = JoinToken { id: [0; ID], secret: [0; SECRET], authority };
        let random = SystemRandom::new();
        random
            .fill(&mut token.id)
            .and_then(|()| random.fill(&mut token.secret))
            .map_err(|_| TokenError::Random)?;
        Ok(token)
    }

    /// The name of the token, no secret: 8 letters and digits.
    pub fn id(&self) -> String {
        encode(&self.id)
    }

    /// The key of the cluster's CA.
    pub fn authority(&self) -> KeyFingerprint {
        self.authority
    }

    /// What the record stores, in 64 lower-case hexadecimal digits. From 128 random bits nobody finds the way back.
    pub fn secret_sha256(&self) -> String {
        digest(&SHA256, &self.secret).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The whole token as one word, **with its secret**. For the operator's eyes and for the member that is asked.
    pub fn text(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.id);
        bytes.extend(self.secret);
        bytes.extend(self.authority.as_bytes());
        bytes.extend(checksum(&bytes));
        encode(&bytes)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id())
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;
    /// Upper-case letters are taken too, and spaces around the word.
    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        let bytes = decode(text.trim())?;
        let letters = text.trim().len();
        // Every version encodes a multiple of 5 bytes, which are a multiple of 8 letters.
        let Some((content, sum)) = bytes.split_last_chunk::<CHECKSUM>().filter(|_| letters.is_multiple_of(8))
        else {
            return Err(TokenError::Length(letters));
        };
        if checksum(content) != *sum {
            return Err(if letters == LETTERS { TokenError::Checksum } else { TokenError::Length(letters) });
        }
        let Some((&version, content)) = content.split_first() else {
            return Err(TokenError::Length(letters));
        };
        if version != VERSION {
            return Err(TokenError::Version(version));
        }
        let wrong_length = |_| TokenError::Length(letters);
        let content: [u8; ID + SECRET + FINGERPRINT] = content.try_into().map_err(wrong_length)?;
        let (id, rest) = content.split_first_chunk::<ID>().expect("the array is longer");
        let (secret, authority) = rest.split_first_chunk::<SECRET>().expect("the array is longer");
        let authority = <[u8; FINGERPRINT]>::try_from(authority).expect("the array is as long as its parts");
        Ok(JoinToken { id: *id, secret: *secret, authority: KeyFingerprint::from_bytes(authority) })
    }
}

/// It finds mistakes in copying, not forgers, who could compute it.
fn checksum(content: &[u8]) -> [u8; CHECKSUM] {
    let whole = digest(&SHA256, &[b"mainstay join token", content].concat());
    *whole.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(ALPHABET[(bits >> count & 31) as usize]));
        }
    }
    debug_assert_eq!(count % 5, 0, "what is encoded is a multiple of 5 bytes long");
    text
}

/// Bits left over at the end are dropped.
fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut count) = (0_u32, 0);
    for (index, letter) in text.chars().enumerate() {
        let lower = letter.to_ascii_lowercase();
        let value = ALPHABET.iter().position(|known| char::from(*known) == lower);
        let value = value.ok_or(TokenError::Letter(letter, index + 1))?;
        bits = bits << 5 | u32::try_from(value).expect("the alphabet has 32 letters");
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xFF) as u8);
        }
    }
    Ok(bytes)
}

/// Where a member is, as an operator writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    /// A DNS name, which is for the command line to resolve: this crate asks no DNS.
    Name(String),
}

/// `TOKEN@HOST` or `TOKEN@HOST:PORT`: all that a machine needs to join. An IPv6 address with a port stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    pub token: JoinToken,
    pub host: Host,
    pub port: u16,
}

impl Invitation {
    /// The form that is copied, **with the token's secret**.
    pub fn text(&self) -> String {
        let host = match &self.host {
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Host::Address(IpAddr::V4(address)) => address.to_string(),
            Host::Name(name) => name.clone(),
        };
        match self.port {
            DEFAULT_PORT => format!("{}@{host}", self.token.text()),
            port => format!("{}@{host}:{port}", self.token.text()),
        }
    }
}

impl FromStr for Invitation {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Invitation, TokenError> {
        let (token, place) = match text.trim().split_once('@') {
            Some((token, place)) => (token.parse()?, place),
            // Whoever gave the address only, or the token only, is told what is missing.
            None => return Err(JoinToken::from_str(text).err().unwrap_or(TokenError::NoHost)),
        };
        let (host, port) = split_port(place)?;
        if host.is_empty() {
            return Err(TokenError::NoHost);
        }
        let host = match host.parse() {
            Ok(address) => Host::Address(address),
            Err(_) if is_name(host) => Host::Name(host.to_ascii_lowercase()),
            Err(_) => return Err(TokenError::Host(host.to_owned())),
        };
        Ok(Invitation { token, host, port })
    }
}

/// Not what looks like an IPv4 address and is none: no top-level domain is a number.
fn is_name(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    DnsName::try_from(host).is_ok() && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn split_port(place: &str) -> Result<(&str, u16), TokenError> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| TokenError::Host(place.to_owned()))?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(TokenError::Host(host.to_owned()));
        }
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(TokenError::Host(place.to_owned())),
        }
    } else if place.parse::<Ipv6Addr>().is_ok() {
        (place, None)
    } else {
        place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)))
    };
    let Some(port) = port else { return Ok((host, DEFAULT_PORT)) };
    // `parse` alone would take a sign.
    let number = port.parse().ok().filter(|number| *number > 0 && !port.starts_with('+'));
    Ok((host, number.ok_or_else(|| TokenError::Port(port.to_owned()))?))
}

#[cfg(test)]
mod tests;
