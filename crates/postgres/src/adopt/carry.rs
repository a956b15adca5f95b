//! What of the old configuration becomes the operator's parameters and `hba` lines, and what cannot, with the reason.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::settings::{Setting, Settings};
use crate::configuration;
use crate::durable::{self, FileError};
use crate::hba;

/// What cannot be carried over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// `work_mem = 8MB`, or the line of `pg_hba.conf`.
    pub text: String,
    pub reason: String,
}

/// The old configuration in Mainstay's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Carried {
    /// For `[postgresql.parameters]`.
    pub parameters: BTreeMap<String, String>,
    /// Parameters that Mainstay sets itself, or must refuse.
    pub parameters_left: Vec<Left>,
    /// For `hba` of `[postgresql]`, in their order.
    pub hba: Vec<String>,
    pub hba_left: Vec<Left>,
}

/// Which parameters say where things are: Mainstay has its own places, and nobody misses these.
const PLACES: &[&str] = &[
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "port",
    "unix_socket_directories",
];

impl Carried {
    pub(super) fn parameters(&mut self, settings: &Settings) {
        for Setting { name, value, .. } in settings.effective() {
            if PLACES.contains(&name.as_str()) || configuration::sets_the_same(&name, &value) {
                continue;
            }
            let one = BTreeMap::from([(name.clone(), value.clone())]);
            match configuration::check_parameters(&one) {
                Ok(()) => drop(self.parameters.insert(name, value)),
                Err(error) => {
                    let reason = configuration::reason_for_protection(&name)
                        .map_or_else(|| error.to_string(), str::to_owned);
                    self.parameters_left.push(Left { text: format!("{name} = {value:?}"), reason });
                }
            }
        }
    }

    /// Reads `pg_hba.conf`.
    pub(super) fn hba(&mut self, file: &Path) -> Result<(), FileError> {
        let text = durable::read(file)?.unwrap_or_default();
        for line in whole_lines(&String::from_utf8_lossy(&text)) {
            let fields = match hba::fields(&line) {
                Ok(fields) if fields.is_empty() => continue,
                Ok(fields) => fields,
                Err(why) => {
                    self.hba_left.push(Left { text: line, reason: why.to_owned() });
                    continue;
                }
            };
            let line = fields.join(" ");
            match reason_against(&fields).or_else(|| hba::check_line(&line).err()) {
                None => self.hba.push(line),
                Some(reason) => self.hba_left.push(Left { text: line, reason }),
            }
        }
        Ok(())
    }
}

fn reason_against(fields: &[String]) -> Option<String> {
    let names_file = |field: &String| field.split(',').any(|name| name.starts_with('@'));
    let users = fields.get(2).map_or("", String::as_str);
    if fields[0].starts_with("include") {
        Some("includes are not followed: write the lines themselves".to_owned())
    } else if fields.iter().take(3).any(names_file) {
        Some("names from another file are not read: write the names themselves".to_owned())
    } else if fields.iter().any(|field| field.starts_with("map=")) {
        Some("its map stands in pg_ident.conf, which Mainstay writes: write a line without a map".to_owned())
    } else if users.split(',').any(|user| user.trim_matches('"').starts_with("mainstay")) {
        Some("lines for Mainstay's own roles are Mainstay's".to_owned())
    } else {
        None
    }
}

/// Lines, with those that a backslash continues put together.
fn whole_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut continues = false;
    for line in text.lines() {
        let (part, more) = match line.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some(last) if continues => last.push_str(part),
            _ => lines.push(part.to_owned()),
        }
        continues = more;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continued_lines_are_one() {
        assert_eq!(whole_lines("a \\\nb\nc"), ["a b", "c"]);
    }

    #[test]
    fn what_rests_on_other_files_is_left_with_the_reason() {
        let fields = |line: &str| hba::fields(line).unwrap();
        assert!(reason_against(&fields("local all all peer map=x")).unwrap().contains("pg_ident.conf"));
        assert!(reason_against(&fields("host @dbs all all md5")).unwrap().contains("another file"));
        assert!(reason_against(&fields("include x.conf")).unwrap().contains("include"));
        assert_eq!(reason_against(&fields("local all all peer")), None);
    }
}
