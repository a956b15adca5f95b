//! The last entries of what Mainstay, its guard and PostgreSQL have logged on this machine, read from their files.
//!
//! Under a service manager the journal has Mainstay's lines too; the file is there so that every member can be asked by the same
//! command, with and without one. Both are bounded: this reads the ends of the files, and never more than [`CHUNK`] of each.

mod parse;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

/// What is read of one file at a time.
const CHUNK: u64 = 2 << 20;
/// What one answer has at most: it travels as one message.
const MOST_BYTES: usize = 2 << 20;
/// A statement in PostgreSQL's log may be of any length.
const LONGEST_ENTRY: usize = 8 << 10;

/// Who has logged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Mainstay,
    Guard,
    Postgresql,
}

impl Source {
    const ALL: [Source; 3] = [Source::Mainstay, Source::Guard, Source::Postgresql];

    pub fn as_str(self) -> &'static str {
        match self {
            Source::Mainstay => "mainstay",
            Source::Guard => "guard",
            Source::Postgresql => "postgresql",
        }
    }

    fn file(self, directory: &Path) -> PathBuf {
        match self {
            Source::Mainstay => file(directory),
            Source::Guard => directory.join("log/guard.log"),
            Source::Postgresql => directory.join("log/postgresql.log"),
        }
    }
}

/// Where a member writes its own log; at most [`LARGEST_BYTES`], and as much again in the one before, `.1`. In a directory that
/// nobody else may write to: `log/` belongs to PostgreSQL's user.
pub fn file(directory: &Path) -> PathBuf {
    directory.join("state/mainstay.log")
}

/// When a member begins another file.
pub const LARGEST_BYTES: u64 = 8 << 20;

/// Its predecessor.
pub fn before(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// A line, and those that go on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Microseconds since 1970, by the wall clock of the machine that wrote it.
    pub at_unix_us: u64,
    pub source: Source,
    pub text: String,
}

/// How far each file was read: its inode and the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(BTreeMap<Source, (u64, u64)>);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.0.iter().map(|(source, (inode, at))| format!("{}.{inode}.{at}", source.as_str())).collect();
        f.write_str(&parts.join("-"))
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Cursor, String> {
        let read = |part: &str| {
            let mut words = part.split('.');
            let name = words.next()?;
            let source = Source::ALL.into_iter().find(|source| source.as_str() == name)?;
            let (inode, at) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            words.next().is_none().then_some((source, (inode, at)))
        };
        let parts = text.split('-').filter(|part| !part.is_empty());
        let cursor: Option<BTreeMap<_, _>> = parts.map(read).collect();
        cursor.map(Cursor).ok_or_else(|| format!("{text:?} is no cursor that an answer has given"))
    }
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Nothing older.
    pub since_unix_us: u64,
    /// What was answered before: only what was written after it.
    pub after: Option<Cursor>,
    /// At most so many entries, the newest.
    pub last: usize,
}

/// What was found, by time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Logs {
    pub entries: Vec<Entry>,
    /// There are older ones that were asked for, and left out.
    pub left_out: bool,
    /// To go on from here.
    pub cursor: String,
}

/// Reads below a member's `directory`. What cannot be read is an entry that says so.
pub fn read(directory: &Path, wanted: &Wanted) -> Logs {
    let mut logs = Logs::default();
    let mut cursor = wanted.after.clone().unwrap_or_default();
    for source in Source::ALL {
        let path = source.file(directory);
        let from = cursor.0.get(&source).copied().filter(|_| wanted.after.is_some());
        match read_file(&path, from, wanted.after.is_none()) {
            Ok(Some(part)) => {
                cursor.0.insert(source, part.cursor);
                let entries = parse::entries(source, &part.text, part.newest_unix_us);
                let oldest = entries.first().map_or(0, |entry| entry.at_unix_us);
                logs.left_out |= part.is_cut && oldest >= wanted.since_unix_us;
                logs.entries.extend(entries);
            }
            Ok(None) => {}
            Err(error) => logs.entries.push(Entry {
                at_unix_us: crate::clock::unix_ms() * 1_000,
                source,
                text: format!("{} cannot be read: {error}", path.display()),
            }),
        }
    }
    logs.entries.retain(|entry| entry.at_unix_us >= wanted.since_unix_us);
    logs.entries.sort_by_key(|entry| entry.at_unix_us);
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry.text.len();
        bytes <= MOST_BYTES
    };
    let kept = logs.entries.iter().rev().take(wanted.last).take_while(fits).count();
    logs.left_out |= kept < logs.entries.len();
    logs.entries.drain(..logs.entries.len() - kept);
    logs.cursor = cursor.to_string();
    logs
}

/// A part of a file, of whole lines.
struct Part {
    text: String,
    cursor: (u64, u64),
    /// Whether there is more before it.
    is_cut: bool,
    /// When the file was last written.
    newest_unix_us: u64,
}

fn read_file(path: &Path, from: Option<(u64, u64)>, is_first: bool) -> io::Result<Option<Part>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let metadata = file.metadata()?;
    let (inode, length) = (metadata.ino(), metadata.len());
    let newest_unix_us =
        metadata.mtime().unsigned_abs() * 1_000_000 + metadata.mtime_nsec().unsigned_abs() / 1_000;
    let mut text = Vec::new();
    let mut is_cut = false;
    let begin = match from {
        Some((known, at)) if known == inode && at <= length => at,
        // Another file by now, or the same one emptied: what it had beyond is in the one before.
        Some((_, at)) => {
            if let Some(old) = open(&before(path))? {
                let end = old.metadata()?.len();
                let begin = at.max(end.saturating_sub(CHUNK)).min(end);
                part_of(&old, begin, end, &mut text)?;
            }
            0
        }
        None if is_first => {
            let begin = length.saturating_sub(CHUNK);
            is_cut = begin > 0;
            if begin == 0
                && let Some(old) = open(&before(path))?
            {
                let end = old.metadata()?.len();
                let begin = end.saturating_sub(CHUNK - length);
                is_cut = begin > 0;
                part_of(&old, begin, end, &mut text)?;
                if begin > 0 {
                    drop_first_line(&mut text);
                }
            }
            begin
        }
        // It did not exist before.
        None => 0,
    };
    let kept = text.len();
    part_of(&file, begin, length.min(begin + CHUNK), &mut text)?;
    if is_first && begin > 0 {
        drop_first_line(&mut text);
    }
    // A line that is still being written comes with the next answer.
    let whole = text[kept.min(text.len())..].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    // What is longer than all that is read at a time is taken in pieces.
    let whole =
        if whole == 0 && text.len() as u64 >= CHUNK { text.len() - kept.min(text.len()) } else { whole };
    let read = (text.len() - kept.min(text.len())) as u64;
    let unfinished = read - whole as u64;
    let end = length.min(begin + CHUNK) - unfinished;
    text.truncate(kept.min(text.len()) + whole);
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(Some(Part { text, cursor: (inode, end), is_cut, newest_unix_us }))
}

/// Opened as what it is: PostgreSQL's user owns the directory, and must not lead root's reading elsewhere.
fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other("it is no plain file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn part_of(mut file: &File, begin: u64, end: u64, text: &mut Vec<u8>) -> io::Result<()> {
    file.seek(SeekFrom::Start(begin))?;
    file.take(end.saturating_sub(begin)).read_to_end(text)?;
    Ok(())
}

fn drop_first_line(text: &mut Vec<u8>) {
    let end = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
    text.drain(..end);
}

#[cfg(test)]
mod tests;
