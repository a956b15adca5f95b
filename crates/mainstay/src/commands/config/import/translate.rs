//! From PgBouncer's entries to the table `[sql_proxy]`, and what does not fit into it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, bail};
use serde::Serialize;

use super::ini::{Entry, Place, pairs};
use super::settings::{self, Fate};
use super::{local, roles};

/// PgBouncer's defaults that are others than Mainstay's: a file without them means these.
const DEFAULTS: [(&str, &str); 3] =
    [("max_client_conn", "100"), ("pool_mode", "session"), ("query_wait_timeout", "120")];
const DEFAULT_PORT: u16 = 6432;
/// Longer ones `[sql_proxy]` takes for a mistake.
const LONGEST_SECONDS: f64 = 30.0 * 86_400.0;

/// Something that could not be carried over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Note {
    pub(super) file: String,
    pub(super) line: usize,
    /// As it stands there, but for secrets.
    pub(super) setting: String,
    pub(super) why: String,
    pub(super) instead: String,
}

impl Note {
    pub(super) fn new(place: &Place, setting: String, why: &str, instead: &str) -> Note {
        let file = place.file.display().to_string();
        Note { file, line: place.line, setting, why: why.to_owned(), instead: instead.to_owned() }
    }
}

/// A line of the table: the key, its value as TOML has it, and where it is from.
pub(super) type Line = (String, String, Option<&'static str>);

#[derive(Debug, Default)]
pub(super) struct Translation {
    pub(super) lines: Vec<Line>,
    /// By the name of the database and of the role.
    pub(super) databases: BTreeMap<String, Vec<Line>>,
    pub(super) users: BTreeMap<String, Vec<Line>>,
    pub(super) notes: Vec<Note>,
}

pub(super) fn translate(entries: &[Entry]) -> Result<Translation> {
    let mut found = Translation::default();
    let globals: Vec<&Entry> = entries.iter().filter(|entry| entry.section == "pgbouncer").collect();
    let named = |name: &str| globals.iter().find(|entry| entry.name == name).copied();
    listen(&mut found, named("listen_addr"), named("listen_port"))?;
    for entry in &globals {
        global(&mut found, entry)?;
    }
    let is = |name: &str, value: &str| named(name).is_some_and(|entry| entry.value == value);
    // With a file of rules of its own it is to be written into them.
    if let Some(mode) = named("client_tls_sslmode").filter(|_| !is("auth_type", "hba"))
        && let Some(rule) = settings::client_tls(&mode.value, is("auth_type", "cert"))
    {
        found.lines.push(("hba".to_owned(), format!("[{rule:?}]"), Some("client_tls_sslmode")));
    }
    for (name, value) in DEFAULTS {
        if named(name).is_none() {
            let value = if name == "max_client_conn" { value.to_owned() } else { default_of(name, value) };
            found.lines.push((name.to_owned(), value, Some("PgBouncer's default")));
        }
    }
    for entry in entries {
        match entry.section {
            "databases" => local::database(&mut found, entry, &pairs(entry)?)?,
            "users" => local::user(&mut found, entry, &pairs(entry)?)?,
            "peers" => found.notes.push(Note::new(
                &entry.place,
                format!("[peers] {}", entry.name),
                settings::PEERS,
                settings::NOTHING,
            )),
            _ => {}
        }
    }
    local::keep_minimum_possible(&mut found);
    Ok(found)
}

fn default_of(name: &str, value: &str) -> String {
    if name == "pool_mode" { format!("{value:?}") } else { format!("\"{value}s\"") }
}

fn global(found: &mut Translation, entry: &Entry) -> Result<()> {
    let name = entry.name.as_str();
    match settings::fate(name) {
        Some(Fate::Number(least, most)) => {
            number(found, entry, name, &entry.value, least..=most)?
                .into_iter()
                .for_each(|line| found.lines.push(line));
        }
        Some(Fate::Time) => {
            time(found, entry, name, &entry.value)?.into_iter().for_each(|line| found.lines.push(line))
        }
        Some(Fate::Gone(why, instead)) => {
            found.notes.push(Note::new(&entry.place, shown(entry), why, instead))
        }
        Some(Fate::Special) => special(found, entry)?,
        None => found.notes.push(Note::new(
            &entry.place,
            shown(entry),
            "no PgBouncer that Mainstay knows has this setting.",
            "Look whether it is misspelt.",
        )),
    }
    Ok(())
}

fn special(found: &mut Translation, entry: &Entry) -> Result<()> {
    let note = |what: Option<(&str, &str)>| {
        what.map(|(why, instead)| Note::new(&entry.place, shown(entry), why, instead))
    };
    match entry.name.as_str() {
        "pool_mode" => found.lines.push(("pool_mode".to_owned(), mode(entry, &entry.value)?, None)),
        "server_lifetime" => {
            let line = lifetime(found, entry, &entry.value)?;
            found.lines.extend(line);
        }
        "auth_type" => found.notes.extend(note(settings::auth_type(&entry.value))),
        "client_tls_ca_file" => {
            found.lines.push(("client_tls_ca_file".to_owned(), format!("{:?}", entry.value), None));
        }
        "auth_file" => found.notes.push(roles::note(entry)),
        "server_reset_query" if !is_usual_reset(&entry.value) => found.notes.push(Note::new(
            &entry.place,
            shown(entry),
            "after a session the proxy sends DISCARD ALL, and between transactions it takes back what a client has set.",
            "Do by hand, at the end of a session, what else this does.",
        )),
        _ => {}
    }
    Ok(())
}

fn is_usual_reset(value: &str) -> bool {
    let value = value.trim_end_matches(';').trim();
    value.is_empty() || value.eq_ignore_ascii_case("discard all")
}

/// PgBouncer takes several addresses and names, and without any it is reached by its Unix socket alone.
fn listen(found: &mut Translation, address: Option<&Entry>, port: Option<&Entry>) -> Result<()> {
    let port = match port {
        None => DEFAULT_PORT,
        Some(entry) => match entry.value.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => bail!("{}: listen_port {:?} is no port; write one of 1 to 65535", entry.place, entry.value),
        },
    };
    let all: Vec<&str> = address
        .map(|entry| entry.value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect())
        .unwrap_or_default();
    let addresses: Vec<Option<IpAddr>> = all.iter().map(|word| one_address(word)).collect();
    let chosen = addresses.iter().flatten().next().copied();
    if let Some(entry) = address.filter(|_| all.len() > 1 || (chosen.is_none() && !all.is_empty())) {
        let (why, instead) = if chosen.is_some() {
            (
                "the proxy listens on one address.",
                "Write \"0.0.0.0\" or \"[::]\" for all, and let the firewall decide.",
            )
        } else {
            ("the proxy asks no DNS, and listens on an IP address.", "Write the machine's address.")
        };
        found.notes.push(Note::new(&entry.place, shown(entry), why, instead));
    }
    let why = (chosen.is_none()).then_some("only this machine: PgBouncer's Unix socket has no counterpart");
    let address = chosen.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let at = |port: u16| format!("\"{}\"", std::net::SocketAddr::from((address, port)));
    found.lines.push(("listen".to_owned(), at(port), why));
    let readers = port.checked_add(1).map_or_else(|| "\"\"".to_owned(), at);
    found.lines.push((
        "listen_readonly".to_owned(),
        readers,
        Some("standbys, which PgBouncer does not know; \"\" for nowhere"),
    ));
    Ok(())
}

fn one_address(word: &str) -> Option<IpAddr> {
    match word {
        "*" => Some(IpAddr::from([0, 0, 0, 0])),
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        other => other.parse().ok(),
    }
}

pub(super) fn mode(entry: &Entry, value: &str) -> Result<String> {
    match value {
        "session" | "transaction" | "statement" => Ok(format!("{value:?}")),
        other => bail!("{}: pool_mode {other:?} is none of session, transaction and statement", entry.place),
    }
}

/// A number; one that the key does not take is told, and left out.
pub(super) fn number(
    found: &mut Translation,
    entry: &Entry,
    key: &str,
    value: &str,
    may_be: std::ops::RangeInclusive<u32>,
) -> Result<Option<Line>> {
    let Ok(number) = value.parse::<i64>() else {
        bail!("{}: {key} {value:?} is no whole number", entry.place);
    };
    if u32::try_from(number).is_ok_and(|number| may_be.contains(&number)) {
        return Ok(Some((key.to_owned(), number.to_string(), None)));
    }
    let why = format!("{key} is between {} and {}.", may_be.start(), may_be.end());
    found.notes.push(Note::new(&entry.place, format!("{key} = {value}"), &why, "Choose such a number."));
    Ok(None)
}

/// PgBouncer has seconds, also broken ones.
pub(super) fn time(found: &mut Translation, entry: &Entry, key: &str, value: &str) -> Result<Option<Line>> {
    let seconds = value.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    let Some(seconds) = seconds else {
        bail!("{}: {key} {value:?} is no time; PgBouncer has seconds, without a unit", entry.place);
    };
    if seconds > LONGEST_SECONDS {
        let why = "30 days are the longest time, and \"0s\" is no limit.";
        found.notes.push(Note::new(&entry.place, format!("{key} = {value}"), why, "Choose one of these."));
        return Ok(None);
    }
    let milliseconds = (seconds * 1000.0).round();
    let text = if milliseconds % 1000.0 == 0.0 {
        format!("\"{}s\"", milliseconds / 1000.0)
    } else {
        format!("\"{milliseconds}ms\"")
    };
    Ok(Some((key.to_owned(), text, None)))
}

/// 0 means there that a connection is used once, and here that it has no limit.
pub(super) fn lifetime(found: &mut Translation, entry: &Entry, value: &str) -> Result<Option<Line>> {
    if value.parse::<f64>() == Ok(0.0) {
        found.notes.push(Note::new(
            &entry.place,
            "server_lifetime = 0".to_owned(),
            "server connections are never used for one client alone.",
            "Write \"1s\" for short ones; \"0s\" would be no limit.",
        ));
        return Ok(None);
    }
    time(found, entry, "server_lifetime", value)
}

pub(super) fn shown(entry: &Entry) -> String {
    format!("{} = {}", entry.name, entry.value)
}
