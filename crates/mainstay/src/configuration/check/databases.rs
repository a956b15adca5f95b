//! `[[database]]`: what applications need.

use std::net::IpAddr;
use std::path::Path;

use mainstay_member::configuration::Bootstrap;
use mainstay_postgres::application::{self, Access, WantedDatabase, WantedRole};
use toml::Spanned;

use super::{Checked, at, bootstrap, password};
use crate::configuration::raw;

pub(super) fn check(raw: &[Spanned<raw::Database>], base: &Path) -> Checked<Vec<WantedDatabase>> {
    let mut wanted = Vec::new();
    for table in raw {
        wanted.push(database(table.get_ref(), base)?);
        // Each is held against those before it, so that the error has its place.
        application::check(&wanted).map_err(|error| at(&table.get_ref().name, error.to_string()))?;
    }
    Ok(wanted)
}

fn database(raw: &raw::Database, base: &Path) -> Checked<WantedDatabase> {
    let text = |value: &Option<Spanned<String>>| value.as_ref().map(|value| value.get_ref().clone());
    let roles = raw.roles.iter().map(|role| {
        let access = match role.access.get_ref().as_str() {
            "readonly" => Access::ReadOnly,
            "readwrite" => Access::ReadWrite,
            other => {
                let message = format!("access {other:?} is neither \"readonly\" nor \"readwrite\"");
                return Err(at(&role.access, message));
            }
        };
        let name = role.name.get_ref().clone();
        Ok((WantedRole { name, password: password_of(&role.password_file, base)? }, access))
    });
    let networks = raw.networks.iter().flatten().map(network).collect::<Checked<Vec<String>>>()?;
    Ok(WantedDatabase {
        name: raw.name.get_ref().clone(),
        owner: WantedRole {
            name: text(&raw.owner).unwrap_or_else(|| raw.name.get_ref().clone()),
            password: password_of(&raw.password_file, base)?,
        },
        extensions: raw.extensions.iter().map(|name| name.get_ref().clone()).collect(),
        encoding: text(&raw.encoding),
        locale: text(&raw.locale),
        roles: roles.collect::<Checked<_>>()?,
        networks: if raw.networks.is_some() { networks } else { vec!["all".to_owned()] },
    })
}

fn password_of(file: &Option<Spanned<String>>, base: &Path) -> Checked<Option<String>> {
    file.as_ref().map(|value| password(value, &base.join(value.get_ref()))).transpose()
}

/// An address with the length of its prefix, or one of PostgreSQL's words.
fn network(value: &Spanned<String>) -> Checked<String> {
    let text = value.get_ref();
    let is_word = ["all", "samehost", "samenet"].contains(&text.as_str());
    let is_network = text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if is_word || is_network {
        return Ok(text.clone());
    }
    Err(at(
        value,
        format!("{text:?} is no network; write for example \"10.0.0.0/24\", \"10.0.0.7/32\" or \"all\""),
    ))
}

/// What the very first data directory gets: the first `[[database]]`, or what `[bootstrap]` says.
pub(super) fn first(databases: &[WantedDatabase], file: &raw::File, base: &Path) -> Checked<Bootstrap> {
    let given = &file.bootstrap;
    let some = [&given.database, &given.role, &given.password_file].into_iter().flatten().next();
    match (databases.first(), some) {
        (Some(_), Some(value)) => {
            Err(at(value, "[bootstrap] and [[database]] say the same thing; keep [[database]]".to_owned()))
        }
        (Some(first), None) => Ok(Bootstrap {
            database: Some(first.name.clone()),
            role: Some(first.owner.name.clone()),
            password: first.owner.password.clone(),
        }),
        (None, _) => bootstrap(given, base),
    }
}

/// The lines of the databases come behind the operator's own. With databases and no lines, theirs are all there are.
pub(super) fn add_hba_lines(lines: &mut Vec<String>, databases: &[WantedDatabase], has_own: bool) {
    if databases.is_empty() {
        return;
    }
    if !has_own {
        lines.clear();
    }
    lines.extend(application::hba_lines(databases));
}
