//! `mainstay.toml`: read, checked in one step, and turned into what the member is told.
//!
//! Every error is one line that names the file, the line, the key and the remedy; nothing is started on a file that has one.

mod check;
mod raw;
mod suggest;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_member::Configuration;
use mainstay_member::configuration::SqlProxy;
use mainstay_sql::Settings;

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
    load_with_proxy(file).map(|(configuration, _)| configuration)
}

/// As [`load`], with what the member's SQL proxy is told; `None`: there is to be none.
pub(crate) fn load_with_proxy(file: &Path) -> Result<(Configuration, Option<Settings>), ConfigurationError> {
    let text = std::fs::read_to_string(file).map_err(|source| cannot_read(file, &source))?;
    parse_with_proxy(file, &text)
}

/// The settings of a SQL proxy that runs alone: a file with the table `[sql_proxy]` and nothing else.
pub(crate) fn load_proxy_alone(file: &Path) -> Result<Settings, ConfigurationError> {
    let text = std::fs::read_to_string(file).map_err(|source| cannot_read(file, &source))?;
    let error = |line, message| ConfigurationError { file: file.to_owned(), line, message };
    let raw = raw::parse_proxy_alone(&text).map_err(|(line, message)| error(line, message))?;
    check::check_proxy_alone(&raw)
        .map_err(|problem| error(line_of(&text, problem.span.as_ref()), problem.message))
}

fn line_of(text: &str, span: Option<&std::ops::Range<usize>>) -> Option<usize> {
    span.map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count())
}

fn cannot_read(file: &Path, source: &std::io::Error) -> ConfigurationError {
    let message = format!("cannot be read: {source}; name the file with --config");
    ConfigurationError { file: file.to_owned(), line: None, message }
}

/// A length of time with its unit, as the file and the command line have it: `500ms`, `3s`, `2m`, `1h`.
pub(crate) fn length_of_time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: Option<u64> = text[..digits].parse().ok();
    let unit_ms = match &text[digits..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" | "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let ms = number.zip(unit_ms).and_then(|(number, unit)| number.checked_mul(unit));
    ms.map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is not a length of time; write for example \"3s\" or \"500ms\""))
}

/// Checks `text` as if it stood in `file`.
pub(crate) fn parse(file: &Path, text: &str) -> Result<Configuration, ConfigurationError> {
    parse_with_proxy(file, text).map(|(configuration, _)| configuration)
}

fn parse_with_proxy(
    file: &Path,
    text: &str,
) -> Result<(Configuration, Option<Settings>), ConfigurationError> {
    let error = |line, message| ConfigurationError { file: file.to_owned(), line, message };
    let raw = raw::parse(text).map_err(|(line, message)| error(line, message))?;
    let base =
        std::path::absolute(file.parent().unwrap_or(Path::new("."))).unwrap_or_else(|_| PathBuf::from("/"));
    let (mut configuration, settings) = check::check(raw, &base)
        .map_err(|problem| error(line_of(text, problem.span.as_ref()), problem.message))?;
    configuration.file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    configuration.sql_proxy = settings.as_ref().map(|settings| SqlProxy {
        settings: serde_json::to_string(settings).unwrap_or_default(),
        identity: settings.identity(),
        listen: settings.listen,
        listen_readonly: settings.listen_readonly,
    });
    Ok((configuration, settings))
}

#[cfg(test)]
mod tests;
