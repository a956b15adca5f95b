//! PgBouncer's files as PgBouncer reads them: its own dialect of INI, and libpq's pairs inside of a line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// PgBouncer's own limit: deeper ones are a circle.
const MOST_INCLUDES: usize = 10;
const SECTIONS: [&str; 4] = ["pgbouncer", "databases", "users", "peers"];

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    /// 1 is the first.
    pub(super) line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// `name = value` in a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) section: &'static str,
    pub(super) name: String,
    pub(super) value: String,
}

/// Reads a file and what it includes. Of entries with the same name the last one counts.
pub(super) fn read(file: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut section = None;
    read_into(&mut entries, &mut section, file, 0)?;
    let is_last = |(at, entry): &(usize, &Entry)| {
        !entries[at + 1..].iter().any(|later| later.section == entry.section && later.name == entry.name)
    };
    Ok(entries.iter().enumerate().filter(is_last).map(|(_, entry)| entry.clone()).collect())
}

/// An included file goes on in the section of the line that includes it.
fn read_into(
    entries: &mut Vec<Entry>,
    section: &mut Option<&'static str>,
    file: &Path,
    depth: usize,
) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| {
        format!("{} cannot be read; name PgBouncer's own file, pgbouncer.ini", file.display())
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| anyhow::anyhow!("{} is not UTF-8; convert it first", file.display()))?;
    for (line, text) in (1..).zip(text.lines()) {
        let place = Place { file: file.to_owned(), line };
        let text = text.trim();
        if text.is_empty() || text.starts_with(['#', ';']) {
            continue;
        }
        if let Some(named) = text.strip_prefix("%include").filter(|rest| rest.starts_with([' ', '\t'])) {
            if depth == MOST_INCLUDES {
                bail!("{place}: more than {MOST_INCLUDES} files include each other; is it a circle?");
            }
            let included = included(file, named.trim());
            read_into(entries, section, &included, depth + 1)
                .with_context(|| format!("{place}: %include"))?;
            continue;
        }
        if let Some(rest) = text.strip_prefix('[') {
            let Some(name) = rest.strip_suffix(']') else {
                bail!("{place}: the section has no end; write [NAME] alone on the line");
            };
            let known = SECTIONS.iter().find(|known| **known == name);
            let Some(known) = known else {
                bail!("{place}: PgBouncer has no section [{name}]; it has [{}]", SECTIONS.join("], ["));
            };
            *section = Some(known);
            continue;
        }
        let Some(section) = *section else {
            bail!("{place}: this stands in no section; is it PgBouncer's file? Put [pgbouncer] before it");
        };
        let (name, value) = pair(text).with_context(|| place.to_string())?;
        entries.push(Entry { place, section, name, value });
    }
    Ok(())
}

/// PgBouncer looks from where it was started, which was most often the directory of its file.
fn included(from: &Path, named: &str) -> PathBuf {
    let beside = from.parent().unwrap_or(Path::new("")).join(named);
    if beside.exists() { beside } else { PathBuf::from(named) }
}

/// A name may be in double quotes, with two of them for one.
fn pair(text: &str) -> Result<(String, String)> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(name) => quoted(name).context("the name's quotation mark is not closed")?,
        None => {
            let end = text.find(|c: char| !(c.is_alphanumeric() || "_.-*".contains(c))).unwrap_or(text.len());
            (text[..end].to_owned(), &text[end..])
        }
    };
    match rest.trim_start().strip_prefix('=') {
        Some(value) if !name.is_empty() => Ok((name, value.trim().to_owned())),
        _ => bail!("this is no line of the form `name = value`; put other names into double quotes"),
    }
}

/// What stands up to the quotation mark that closes it, two of which are one of the text; and what follows.
pub(super) fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        value.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                value.push('"');
                rest = after;
            }
            None => return Some((value, rest)),
        }
    }
}

/// The pairs of a line of `[databases]` or `[users]`: `host=a password='it''s'`.
pub(super) fn pairs(entry: &Entry) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = entry.value.trim_start();
    while !rest.is_empty() {
        let (name, value, after) = one_pair(rest).with_context(|| {
            // What stands there may be a password.
            format!(
                "{}: {} has something that is not of the form name=value; put a value with blanks into single quotes",
                entry.place, entry.name
            )
        })?;
        pairs.push((name, value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

fn one_pair(text: &str) -> Option<(String, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    let (name, rest) = (name.trim_end(), rest.trim_start());
    if name.is_empty() || name.contains(char::is_whitespace) {
        return None;
    }
    let Some(mut rest) = rest.strip_prefix('\'') else {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        return Some((name.to_owned(), rest[..end].to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    loop {
        let end = rest.find('\'')?;
        value.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None if rest.is_empty() || rest.starts_with(char::is_whitespace) => {
                return Some((name.to_owned(), value, rest));
            }
            None => return None,
        }
    }
}
