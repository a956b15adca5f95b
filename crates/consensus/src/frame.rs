//! Checksummed frames in a file, and the difference between an interrupted write and damage.
//!
//! A file is eight bytes of magic and version, then frames: length (u32), CRC-32 of the payload (u32), CRC-32 of
//! the two and of the frame's offset (u32), payload; all little-endian. The offset is in the check so that a frame
//! that lies inside another one's payload, or at a wrong place, is no frame.
//!
//! **Torn or damaged?** The log is appended one frame at a time and synced before the next append, so a crash
//! can spoil the last frame only. What an interrupted write leaves there is: a file that ends too early, or
//! sectors of the frame that were never written and read as zeros, in any pattern (the file system extends the
//! file before or without the data; it never shows another file's old data). Only that is cut as torn. A
//! bad frame with a good one behind it, or one without a single missing sector, is damage by something else: bytes
//! that were promised may be lost, so the member must not vote with what is left. What stays ambiguous, and is
//! taken for torn: a medium that zeroed a sector of the last, synced frame; a leader that notices tells the member
//! (`Failure::Reverted`).

use std::ops::Range;

/// Magic and version at the beginning of a file.
pub(crate) const PREAMBLE: usize = 8;
const HEADER: usize = 12;
/// The smallest unit that a disk writes as a whole.
const SECTOR: usize = 512;

/// A file's magic: five letters of the project, one of the file; the version follows it.
const MAGIC: &[u8; 5] = b"mstay";

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Written in a format of another version.
    Version(u16),
    /// Damaged at this byte.
    Damaged { at: usize, what: &'static str },
}

/// The frames of a file, and how many bytes of an interrupted write follow them.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    pub(crate) payloads: Vec<&'a [u8]>,
    pub(crate) torn_bytes: usize,
}

/// The beginning of a file of `kind`.
pub(crate) fn preamble(kind: u8, version: u16) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    file.push(kind);
    file.extend_from_slice(&version.to_le_bytes());
    file
}

/// Appends a frame to `buffer`, which will be written at `offset` of its file.
pub(crate) fn push(buffer: &mut Vec<u8>, offset: u64, payload: &[u8]) {
    let offset = offset + buffer.len() as u64;
    let length = u32::try_from(payload.len()).expect("a frame is far below 4 GiB: its parts are bounded");
    let crc = crc32fast::hash(payload);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&crc.to_le_bytes());
    buffer.extend_from_slice(&check(offset, length, crc).to_le_bytes());
    buffer.extend_from_slice(payload);
}

fn check(offset: u64, length: u32, crc: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(&crc.to_le_bytes());
    hasher.finalize()
}

/// Reads a file that is only ever replaced as a whole, with exactly one frame.
pub(crate) fn single(file: &[u8], kind: u8, version: u16) -> Result<&[u8], Fault> {
    check_preamble(file, kind, version)?;
    match frame_at(file, PREAMBLE) {
        Found::Frame(range) if range.end == file.len() => Ok(&file[range]),
        _ => Err(Fault::Damaged { at: PREAMBLE, what: "its checksum does not match" }),
    }
}

/// Reads all frames of a file that is appended to.
pub(crate) fn scan(file: &[u8], kind: u8, version: u16) -> Result<Frames<'_>, Fault> {
    check_preamble(file, kind, version)?;
    let mut payloads = Vec::new();
    let mut at = PREAMBLE;
    while at < file.len() {
        match frame_at(file, at) {
            Found::Frame(range) => {
                at = range.end;
                payloads.push(&file[range]);
            }
            bad => {
                judge(file, at, &bad)?;
                return Ok(Frames { payloads, torn_bytes: file.len() - at });
            }
        }
    }
    Ok(Frames { payloads, torn_bytes: 0 })
}

fn check_preamble(file: &[u8], kind: u8, version: u16) -> Result<(), Fault> {
    if file.len() < PREAMBLE || &file[..MAGIC.len()] != MAGIC || file[MAGIC.len()] != kind {
        return Err(Fault::Damaged { at: 0, what: "it does not begin as such a file does" });
    }
    let found = u16::from_le_bytes([file[6], file[7]]);
    if found == version { Ok(()) } else { Err(Fault::Version(found)) }
}

enum Found {
    /// A good frame with this payload.
    Frame(Range<usize>),
    /// The file ends inside the frame.
    Short,
    /// The header is wrong, so the length is unknown.
    BadHeader,
    /// The payload does not match its checksum.
    BadPayload(Range<usize>),
}

fn frame_at(file: &[u8], at: usize) -> Found {
    let Some(header) = file.get(at..at + HEADER) else { return Found::Short };
    let word = |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    let (length, crc) = (word(0), word(4));
    if word(8) != check(at as u64, length, crc) {
        return Found::BadHeader;
    }
    let range = at + HEADER..at + HEADER + length as usize;
    match file.get(range.clone()) {
        None => Found::Short,
        Some(payload) if crc32fast::hash(payload) == crc => Found::Frame(range),
        Some(_) => Found::BadPayload(range),
    }
}

/// Decides whether the bad frame at `at` is what an interrupted write leaves.
fn judge(file: &[u8], at: usize, bad: &Found) -> Result<(), Fault> {
    if (at + 1..file.len()).any(|next| matches!(frame_at(file, next), Found::Frame(_))) {
        return Err(Fault::Damaged { at, what: "a damaged record has good ones behind it" });
    }
    let interrupted = match bad {
        Found::Frame(_) => false,
        Found::Short => true,
        Found::BadHeader => missing_sector(file, at..at + HEADER, file.len()),
        Found::BadPayload(range) => missing_sector(file, at..range.end, range.end),
    };
    if interrupted {
        return Ok(());
    }
    Err(Fault::Damaged { at, what: "the last record is damaged, and not as an interrupted write leaves it" })
}

/// Whether one of the sectors that `part` touches was not written: it holds only zeros from `part`'s
/// beginning to `end`.
fn missing_sector(file: &[u8], part: Range<usize>, end: usize) -> bool {
    let mut from = part.start;
    while from < part.end {
        let to = ((from / SECTOR + 1) * SECTOR).min(end);
        if file[from..to].iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}

#[cfg(test)]
mod tests;
