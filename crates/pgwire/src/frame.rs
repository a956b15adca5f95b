//! Frames: a type byte, a length that counts itself, and the body.

/// A frame's type and its whole length, the type byte included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: u8,
    pub total: usize,
}

/// What PostgreSQL itself takes at most (`PQ_LARGE_MESSAGE_LIMIT`), and no length of a well-formed frame exceeds.
pub const MOST_BYTES: usize = 0x3fff_ffff;

/// A length that no frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of type {kind:?} says that it has {length} bytes", kind = char::from(*.kind))]
pub struct BadLength {
    pub kind: u8,
    pub length: i32,
}

/// The header at the beginning of `bytes`; `None` if it is not there as a whole.
#[inline]
pub fn header(bytes: &[u8]) -> Result<Option<Header>, BadLength> {
    let Some(&[kind, a, b, c, d]) = bytes.first_chunk() else { return Ok(None) };
    let length = i32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(length) if (4..=MOST_BYTES).contains(&length) => Ok(Some(Header { kind, total: length + 1 })),
        _ => Err(BadLength { kind, length }),
    }
}

/// Appends a frame whose body `write` appends.
#[inline]
pub fn push(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a string with its terminator. A NUL in it would end it early, so what follows one is left out.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.split('\0').next().unwrap_or_default().as_bytes());
    out.push(0);
}

/// The string at the beginning of `bytes`, without its terminator, and what follows it.
#[inline]
pub fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_when_it_is_whole() {
        assert_eq!(header(b"Q\0\0\0"), Ok(None));
        assert_eq!(header(b"Q\0\0\0\x05\0"), Ok(Some(Header { kind: b'Q', total: 6 })));
        assert_eq!(header(b"Q\0\0\0\x03"), Err(BadLength { kind: b'Q', length: 3 }));
        assert_eq!(header(b"Q\xff\xff\xff\xff"), Err(BadLength { kind: b'Q', length: -1 }));
    }

    #[test]
    fn what_is_pushed_is_read() {
        let mut out = Vec::new();
        push(&mut out, b'S', |out| {
            push_string(out, "a");
            push_string(out, "b\0c");
        });
        assert_eq!(out, b"S\0\0\0\x08a\0b\0");
        assert_eq!(string(&out[5..]), Some((&b"a"[..], &b"b\0"[..])));
        assert_eq!(string(b"ab"), None);
    }
}
