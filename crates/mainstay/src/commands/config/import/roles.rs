//! PgBouncer's list of users: how many there are, and whose password PostgreSQL must be given anew. No secret is shown.

use std::path::Path;

use super::ini::{Entry, quoted};
use super::translate::{Note, shown};

/// What is to be done with the list.
pub(super) fn note(entry: &Entry) -> Note {
    let why = "roles and their passwords are PostgreSQL's own, and no list of them is kept.";
    let beside = entry.place.file.parent().unwrap_or(Path::new("")).join(&entry.value);
    let path = if beside.exists() { beside } else { entry.value.clone().into() };
    let instead = match std::fs::read_to_string(&path) {
        Ok(text) => advice(&text),
        Err(error) => format!(
            "It cannot be read here ({}); look whether every role in it has a SCRAM password in PostgreSQL.",
            error.kind()
        ),
    };
    Note::new(&entry.place, shown(entry), why, &instead)
}

fn advice(text: &str) -> String {
    let users: Vec<(String, Kind)> = text.lines().filter_map(user).collect();
    let of = |kind: Kind| {
        let names = users.iter().filter(|(_, found)| *found == kind).map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    if users.is_empty() {
        return "It is empty: nothing is to be done.".to_owned();
    }
    let (md5, plain) = (of(Kind::Md5), of(Kind::Plain));
    let mut advice =
        format!("It has {} roles; every one of them needs a SCRAM password in PostgreSQL.", users.len());
    if !md5.is_empty() {
        advice.push_str(&format!(
            " Those with an MD5 password, which have none: {md5}; use \\password in psql."
        ));
    }
    if !plain.is_empty() {
        advice.push_str(&format!(" Their passwords stand there in plain text: {plain}; delete the file."));
    }
    advice
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scram,
    Md5,
    Plain,
}

/// `"name" "secret"`, with two quotation marks for one.
fn user(line: &str) -> Option<(String, Kind)> {
    let line = line.trim_start();
    let (name, rest) = quoted(line.strip_prefix('"')?)?;
    let (secret, _) = quoted(rest.trim_start().strip_prefix('"')?)?;
    let is_md5 = secret.strip_prefix("md5").is_some_and(|rest| rest.len() == 32);
    let kind = match secret {
        secret if secret.starts_with("SCRAM-SHA-256$") || secret.is_empty() => Kind::Scram,
        _ if is_md5 => Kind::Md5,
        _ => Kind::Plain,
    };
    Some((name, kind))
}
