//! `mainstay.toml`: read, checked in one step, and turned into what the member is told.
//!
//! Every error is one line that names the file, the line, the key and the remedy; nothing is started on a file that has one.

mod check;
mod raw;
mod suggest;

use std::path::{Path, PathBuf};

use mainstay_member::Configuration;

/// What is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigurationError {
    file: PathBuf,
    /// 1 is the first line; `None` if the whole file is meant.
    line: Option<usize>,
    message: String,
}

impl std::fmt::Display for ConfigurationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

impl std::error::Error for ConfigurationError {}

/// Reads and checks `file`. Relative paths in it count from its own directory.
pub(crate) fn load(file: &Path) -> Result<Configuration, ConfigurationError> {
    let error = |line, message| ConfigurationError { file: file.to_owned(), line, message };
    let text = std::fs::read_to_string(file)
        .map_err(|source| error(None, format!("cannot be read: {source}; name the file with --config")))?;
    parse(file, &text)
}

fn parse(file: &Path, text: &str) -> Result<Configuration, ConfigurationError> {
    let error = |line, message| ConfigurationError { file: file.to_owned(), line, message };
    let raw = raw::parse(text).map_err(|(line, message)| error(line, message))?;
    let base =
        std::path::absolute(file.parent().unwrap_or(Path::new("."))).unwrap_or_else(|_| PathBuf::from("/"));
    check::check(raw, &base).map_err(|problem| {
        let line = problem.span.map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        error(line, problem.message)
    })
}

#[cfg(test)]
mod tests;
