//! `versions`: all members run the same Mainstay and the same PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_member::status::MemberStatus;

use super::ground::Ground;
use super::line::Line;

pub(super) async fn run(ground: &Ground) -> Vec<Line> {
    let postgres = |row: &MemberStatus| row.postgres.as_ref().map(|postgres| postgres.version.clone());
    vec![one(ground, "Mainstay", |row| row.version.clone()), one(ground, "PostgreSQL", postgres)]
}

fn one(ground: &Ground, what: &str, version: impl Fn(&MemberStatus) -> Option<String>) -> Line {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for member in ground.roster.keys() {
        if let Some(version) = ground.row(member).and_then(&version) {
            found.entry(version).or_default().push(member.to_string());
        }
    }
    let words: Vec<String> =
        found.iter().map(|(version, members)| format!("{version} on {}", members.join(", "))).collect();
    let words = format!("{what} {}", words.join("; "));
    let majors: BTreeSet<&str> =
        found.keys().map(|version| version.split('.').next().unwrap_or(version)).collect();
    match found.len() {
        0 => Line::skip(format!("no member says which {what} it runs")),
        1 => Line::ok(words),
        _ if what == "PostgreSQL" && majors.len() > 1 => Line::fail(
            words,
            "standbys replicate only from the same major version: install it on all members",
        ),
        _ => Line::warn(words, "upgrade the others; mixed versions are for the time of an upgrade only"),
    }
}
