//! What a frontend sends first: a request for encryption, to cancel, or to start.
//!
//! Source: the PostgreSQL manual, "Message Formats", and `ProcessStartupPacket` in `src/backend/tcop/backend_startup.c`.

use std::collections::BTreeSet;

use crate::frame;

#[cfg(test)]
mod tests;

/// The shortest packet: its length and its code.
const LENGTH_MIN: usize = 8;

/// PostgreSQL's `MAX_STARTUP_PACKET_LENGTH`, in bytes. It bounds what a stranger makes us hold.
const LENGTH_MAX: usize = 10_000;

/// Codes of requests are versions 1234.x, which no protocol has.
const CANCEL: u32 = 80_877_102;
/// Not PostgreSQL's, but between proxies of ours: a cancel request that goes no further.
const FORWARDED_CANCEL: u32 = 80_877_856;
const SSL: u32 = 80_877_103;
const GSS_ENC: u32 = 80_877_104;

/// The version of the protocol whose minor versions can be negotiated.
const MAJOR: u16 = 3;

/// Since protocol 3.2 the secret of a cancel request has 4 to 256 bytes; before, it had 4.
const SECRET_LEN: std::ops::RangeInclusive<usize> = 4..=256;

/// How many characters of a stranger's key an error shows; PostgreSQL's own names have no more.
const SHOWN_MAX: usize = 63;

/// What a frontend sends first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup<'a> {
    /// To go on with TLS, if the answer is `S`.
    Ssl,
    /// To go on with GSSAPI, if the answer is `G`.
    GssEnc,
    /// To cancel what another connection does.
    Cancel {
        /// The process that the backend's `BackendKeyData` named.
        pid: i32,
        /// The secret of the same message, 4 to 256 bytes.
        secret: &'a [u8],
        /// It comes from another proxy, which has not found the connection among its own.
        is_forwarded: bool,
    },
    /// To sign in.
    Startup {
        /// Of version 3. The caller answers one that it does not know with `NegotiateProtocolVersion`.
        minor: u16,
        /// In the order of the packet, each key once, `user` among them and not empty.
        parameters: Vec<(&'a str, &'a str)>,
    },
}

/// Why the first packet is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// Fewer bytes than the length and the code take.
    #[error("the startup packet has {bytes} bytes; the shortest has 8")]
    TooShort {
        /// That there are.
        bytes: usize,
    },
    /// The packet says that it is shorter or longer than a startup packet may be.
    #[error("invalid length of startup packet: {length}; it must be between 8 and 10000")]
    Length {
        /// That the packet says.
        length: u32,
    },
    /// The packet does not have the length that it says.
    #[error("the startup packet says that it has {said} bytes, and has {bytes}")]
    LengthDiffers {
        /// That the packet says.
        said: usize,
        /// That there are.
        bytes: usize,
    },
    /// A request for encryption that is longer than its code.
    #[error("a request for encryption has 8 bytes, and this one {bytes}")]
    RequestLength {
        /// That there are.
        bytes: usize,
    },
    /// A cancel request whose secret is too short or too long.
    #[error("the secret of a cancel request has 4 to 256 bytes, and this one {bytes}")]
    Secret {
        /// Of the secret.
        bytes: usize,
    },
    /// Another major version, or a request that does not exist.
    #[error("unsupported frontend protocol {major}.{minor}: only 3.x is spoken")]
    Version {
        /// The upper half of the code.
        major: u16,
        /// The lower half of the code.
        minor: u16,
    },
    /// A key or value has no end, or the list of them has none, or something follows it.
    #[error("invalid startup packet layout: the list of parameters does not end where the packet does")]
    Layout,
    /// A key or value is not UTF-8.
    #[error("parameter {position} of the startup packet is not UTF-8")]
    NotUtf8 {
        /// Counted from one.
        position: usize,
    },
    /// A key stands there twice. PostgreSQL would take the last one: if anybody on the way took the first, one user would be
    /// authenticated and another one served.
    #[error("the startup packet names the parameter {key:?} twice")]
    Duplicate {
        /// The beginning of it.
        key: String,
    },
    /// Nobody can sign in without a name.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
}

impl StartupError {
    /// The SQLSTATE with which PostgreSQL refuses the same.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            // feature_not_supported
            StartupError::Version { .. } => "0A000",
            // invalid_authorization_specification
            StartupError::NoUser => "28000",
            // protocol_violation
            _ => "08P01",
        }
    }
}

/// Reads the first packet of a frontend. `packet` is the whole one, with its length.
///
/// # Errors
/// What is wrong with it; PostgreSQL ends the connection then, and answers only if it knows the protocol.
pub fn startup(packet: &[u8]) -> Result<Startup<'_>, StartupError> {
    let bytes = packet.len();
    let Some((head, body)) = packet.split_first_chunk::<LENGTH_MIN>() else {
        return Err(StartupError::TooShort { bytes });
    };
    let [a, b, c, d, e, f, g, h] = *head;
    let length = u32::from_be_bytes([a, b, c, d]);
    let said = usize::try_from(length).unwrap_or(usize::MAX);
    if !(LENGTH_MIN..=LENGTH_MAX).contains(&said) {
        return Err(StartupError::Length { length });
    }
    if said != bytes {
        return Err(StartupError::LengthDiffers { said, bytes });
    }
    match u32::from_be_bytes([e, f, g, h]) {
        SSL | GSS_ENC if !body.is_empty() => Err(StartupError::RequestLength { bytes }),
        SSL => Ok(Startup::Ssl),
        GSS_ENC => Ok(Startup::GssEnc),
        CANCEL => cancel(body, false),
        FORWARDED_CANCEL => cancel(body, true),
        _ => {
            let [major, minor] = [u16::from_be_bytes([e, f]), u16::from_be_bytes([g, h])];
            if major != MAJOR {
                return Err(StartupError::Version { major, minor });
            }
            Ok(Startup::Startup { minor, parameters: parameters(body)? })
        }
    }
}

/// A cancel request as a whole. `secret` has 4 to 256 bytes.
pub fn cancel_request(pid: i32, secret: &[u8], is_forwarded: bool) -> Vec<u8> {
    let code = if is_forwarded { FORWARDED_CANCEL } else { CANCEL };
    let length = u32::try_from(LENGTH_MIN + 4 + secret.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), &code.to_be_bytes(), &pid.to_be_bytes(), secret].concat()
}

fn cancel(body: &[u8], is_forwarded: bool) -> Result<Startup<'_>, StartupError> {
    let Some((pid, secret)) = body.split_first_chunk() else { return Err(StartupError::Secret { bytes: 0 }) };
    if !SECRET_LEN.contains(&secret.len()) {
        return Err(StartupError::Secret { bytes: secret.len() });
    }
    Ok(Startup::Cancel { pid: i32::from_be_bytes(*pid), secret, is_forwarded })
}

/// Keys and values, each ended by a zero, and a zero after the last.
fn parameters(body: &[u8]) -> Result<Vec<(&str, &str)>, StartupError> {
    let mut parameters = Vec::new();
    let mut keys = BTreeSet::new();
    let mut rest = body;
    loop {
        match rest {
            [0] => break,
            [] | [0, ..] => return Err(StartupError::Layout),
            _ => {}
        }
        let mut word = || {
            let (word, after) = rest.split_at(rest.iter().position(|byte| *byte == 0)?);
            rest = &after[1..];
            Some(word)
        };
        let (Some(key), Some(value)) = (word(), word()) else { return Err(StartupError::Layout) };
        let (Ok(key), Ok(value)) = (str::from_utf8(key), str::from_utf8(value)) else {
            return Err(StartupError::NotUtf8 { position: parameters.len() + 1 });
        };
        if !keys.insert(key) {
            return Err(StartupError::Duplicate { key: key.chars().take(SHOWN_MAX).collect() });
        }
        parameters.push((key, value));
    }
    if !parameters.iter().any(|(key, value)| *key == "user" && !value.is_empty()) {
        return Err(StartupError::NoUser);
    }
    Ok(parameters)
}

/// The mechanism and the data of a `SASLInitialResponse`; `None` if the message is none.
pub fn sasl_initial(kind: u8, body: &[u8]) -> Option<(&str, &[u8])> {
    let (name, rest) = frame::string(body).filter(|_| kind == b'p')?;
    let (_, data) = rest.split_first_chunk::<4>()?;
    Some((str::from_utf8(name).ok()?, data))
}
