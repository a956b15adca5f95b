//! Reads `postgresql.conf` as PostgreSQL's `guc-file.l` does: with its includes, the last value of a name counting.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::durable::{self, FileError};

/// PostgreSQL's own bound for includes within includes.
const DEPTH: usize = 10;

/// A parameter as a file sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// In lower case.
    pub name: String,
    pub value: String,
    pub file: PathBuf,
    pub line: usize,
}

/// What stands in a file and in those that it includes.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// In the order in which PostgreSQL reads them.
    pub(super) settings: Vec<Setting>,
    /// Lines that PostgreSQL would refuse, as `file:line`.
    pub(super) unreadable: Vec<String>,
}

impl Settings {
    /// Reads `file`; one that is absent sets nothing.
    pub(super) fn read(file: &Path) -> Result<Settings, FileError> {
        let mut settings = Settings::default();
        settings.add(file, 0)?;
        Ok(settings)
    }

    /// The value that counts.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.settings.iter().rev().find(|setting| setting.name == name).map(|setting| setting.value.as_str())
    }

    /// Each name once, with the value that counts.
    pub(super) fn effective(&self) -> Vec<Setting> {
        let mut found: Vec<Setting> = Vec::new();
        for setting in &self.settings {
            found.retain(|earlier| earlier.name != setting.name);
            found.push(setting.clone());
        }
        found
    }

    pub(super) fn add(&mut self, file: &Path, depth: usize) -> Result<(), FileError> {
        let Some(text) = durable::read(file)? else { return Ok(()) };
        for (index, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            let line_number = index + 1;
            match parse(line) {
                Line::Blank => {}
                Line::Unreadable => self.unreadable.push(format!("{}:{line_number}", file.display())),
                Line::Setting(name, value) => match name.as_str() {
                    "include" | "include_if_exists" | "include_dir" if depth >= DEPTH => {
                        self.unreadable.push(format!("{}:{line_number}", file.display()));
                    }
                    "include" | "include_if_exists" => self.add(&beside(file, &value), depth + 1)?,
                    "include_dir" => {
                        for included in configuration_files(&beside(file, &value))? {
                            self.add(&included, depth + 1)?;
                        }
                    }
                    _ => {
                        self.settings.push(Setting { name, value, file: file.to_owned(), line: line_number })
                    }
                },
            }
        }
        Ok(())
    }
}

/// A relative name counts from the directory of the file that it stands in.
fn beside(file: &Path, named: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("/")).join(named)
}

/// What `include_dir` reads: files `*.conf` but hidden ones, by name.
fn configuration_files(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::new("list", directory, error)),
    };
    let is_read = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".conf") && !name.starts_with('.') && path.is_file()
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_read).collect();
    files.sort();
    Ok(files)
}

enum Line {
    Blank,
    Setting(String, String),
    Unreadable,
}

/// `name = value`, `name value`, both with a comment behind.
fn parse(line: &str) -> Line {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Line::Blank;
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_$.".contains(c) || !c.is_ascii();
    let end = line.find(|c| !is_name(c)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return Line::Unreadable;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').map_or(rest, str::trim_start);
    let value = if let Some(quoted) = rest.strip_prefix('\'') {
        unquote(quoted)
    } else {
        let end = rest.find(|c: char| c.is_whitespace() || c == '#').unwrap_or(rest.len());
        let is_empty = end == 0;
        (!is_empty).then(|| (rest[..end].to_owned(), &rest[end..]))
    };
    match value {
        Some((value, behind)) if behind.trim_start().is_empty() || behind.trim_start().starts_with('#') => {
            Line::Setting(name.to_ascii_lowercase(), value)
        }
        _ => Line::Unreadable,
    }
}

/// The text up to the closing quote and what is behind it; `GUC_scanstr` of PostgreSQL: `''` and backslashes.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.char_indices().peekable();
    while let Some((index, c)) = rest.next() {
        match c {
            '\'' if rest.next_if(|(_, next)| *next == '\'').is_some() => value.push('\''),
            '\'' => return Some((value, &text[index + 1..])),
            '\\' => {
                let (_, escaped) = rest.next()?;
                match escaped {
                    'b' => value.push('\u{8}'),
                    'f' => value.push('\u{c}'),
                    'n' => value.push('\n'),
                    'r' => value.push('\r'),
                    't' => value.push('\t'),
                    '0'..='7' => {
                        let mut code = escaped.to_digit(8).unwrap_or_default();
                        for _ in 0..2 {
                            let Some((_, digit)) = rest.next_if(|(_, next)| next.is_digit(8)) else { break };
                            code = code * 8 + digit.to_digit(8).unwrap_or_default();
                        }
                        value.push(char::from_u32(code & 0xFF)?);
                    }
                    other => value.push(other),
                }
            }
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<(String, String)> {
        match parse(line) {
            Line::Setting(name, value) => Some((name, value)),
            _ => None,
        }
    }

    #[test]
    fn lines_are_read_as_postgresql_reads_them() {
        let is = |line: &str, name: &str, value: &str| {
            assert_eq!(read(line), Some((name.to_owned(), value.to_owned())), "{line}");
        };
        is("work_mem = 8MB", "work_mem", "8MB");
        is("Work_Mem 8MB  # because", "work_mem", "8MB");
        is("search_path='\"$user\", public'", "search_path", "\"$user\", public");
        is("a.b = 'it''s \\'x\\' \\101'#c", "a.b", "it's 'x' A");
        is("archive_command = ''", "archive_command", "");
        assert!(matches!(parse("  # work_mem = 8MB"), Line::Blank));
        for bad in ["work_mem =", "= 8MB", "work_mem = '8MB", "work_mem = 8 MB", "a = 'x' y"] {
            assert!(matches!(parse(bad), Line::Unreadable), "{bad}");
        }
    }
}
