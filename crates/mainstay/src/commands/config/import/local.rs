//! What PgBouncer says of single databases and roles.

use anyhow::Result;

use super::ini::Entry;
use super::translate::{Line, Note, Translation, lifetime, mode, number};

type Pairs = [(String, String)];
const MOST: u32 = 1_000_000;

/// A line of `[databases]`. Where databases are is for Mainstay to know; what is otherwise for one gets a table of its own.
pub(super) fn database(found: &mut Translation, entry: &Entry, pairs: &Pairs) -> Result<()> {
    let is_any = entry.name == "*";
    let mut lines: Vec<Line> = Vec::new();
    for (name, value) in pairs {
        let line = match name.as_str() {
            "pool_mode" => Some(("pool_mode".to_owned(), mode(entry, value)?, None)),
            "pool_size" => number(found, entry, "pool_size", value, 1..=10_000)?,
            "reserve_pool" | "reserve_pool_size" => {
                number(found, entry, "reserve_pool_size", value, 0..=MOST)?
            }
            "min_pool_size" | "max_db_connections" | "max_db_client_connections" => {
                number(found, entry, name, value, 0..=MOST)?
            }
            "server_lifetime" => lifetime(found, entry, value)?,
            _ => {
                found.notes.extend(of_connection(entry, name, value));
                None
            }
        };
        lines.extend(line);
    }
    if is_any && !lines.is_empty() {
        found.notes.push(Note::new(
            &entry.place,
            "limits of *".to_owned(),
            "what holds for all databases stands in [sql_proxy] itself.",
            "Set default_pool_size and its like there.",
        ));
    } else if !lines.is_empty() {
        found.databases.insert(entry.name.clone(), lines);
    }
    Ok(())
}

/// What PgBouncer is told of the connection to a database.
fn of_connection(entry: &Entry, name: &str, value: &str) -> Option<Note> {
    let database = &entry.name;
    let note = |setting: String, why: &str, instead: &str| {
        Some(Note::new(&entry.place, format!("{database}: {setting}"), why, instead))
    };
    let plain = format!("{name}={value}");
    match name {
        "dbname" if value == database => None,
        "dbname" => {
            let instead = format!("Let clients connect to {value}, or to {value}@ro for the standbys.");
            note(plain, "a database is reached by its own name.", &instead)
        }
        "host" | "port" | "load_balance_hosts" => note(
            plain,
            "Mainstay knows by itself where the primary and the standbys are.",
            "Nothing is to be done for databases of this cluster; one of another server keeps its PgBouncer.",
        ),
        // Never shown.
        "password" => note(
            "password".to_owned(),
            "no password is kept: the proxy logs in as the client, by what the client has proved.",
            "Take it out of the file, and give the clients the password of the role that they are.",
        ),
        "user" => note(
            plain,
            "the proxy logs in as the role that the client is.",
            "Let clients connect as that role, or grant its rights to theirs.",
        ),
        "auth_user" | "auth_query" | "auth_dbname" => note(
            plain,
            "the member beside the proxy reads roles and their passwords from PostgreSQL itself.",
            "Drop the function and the role that were made for it.",
        ),
        "connect_query" => note(
            name.to_owned(),
            "nothing is executed when a server connection is opened.",
            "Set what it sets by ALTER DATABASE or ALTER ROLE.",
        ),
        "client_encoding" | "datestyle" | "timezone" | "application_name" => {
            let instead = format!("ALTER DATABASE {database} SET {name} = '{}'.", value.replace('\'', "''"));
            note(plain, "clients begin with what PostgreSQL has set for them.", &instead)
        }
        _ => note(
            name.to_owned(),
            "no PgBouncer that Mainstay knows has this.",
            "Look whether it is misspelt.",
        ),
    }
}

/// A line of `[users]`.
pub(super) fn user(found: &mut Translation, entry: &Entry, pairs: &Pairs) -> Result<()> {
    let mut lines: Vec<Line> = Vec::new();
    for (name, value) in pairs {
        let line = match name.as_str() {
            "pool_mode" => Some(("pool_mode".to_owned(), mode(entry, value)?, None)),
            "pool_size" => number(found, entry, "pool_size", value, 1..=10_000)?,
            "reserve_pool_size" | "max_user_connections" | "max_user_client_connections" => {
                number(found, entry, name, value, 0..=MOST)?
            }
            "query_timeout" | "idle_transaction_timeout" | "transaction_timeout" | "client_idle_timeout" => {
                found.notes.push(Note::new(
                    &entry.place,
                    format!("{}: {name}={value}", entry.name),
                    "times hold for all roles.",
                    "Set it in [sql_proxy], or PostgreSQL's own timeouts by ALTER ROLE.",
                ));
                None
            }
            _ => {
                found.notes.push(Note::new(
                    &entry.place,
                    format!("{}: {name}", entry.name),
                    "no PgBouncer that Mainstay knows has this.",
                    "Look whether it is misspelt.",
                ));
                None
            }
        };
        lines.extend(line);
    }
    if !lines.is_empty() {
        found.users.insert(entry.name.clone(), lines);
    }
    Ok(())
}

/// PgBouncer takes a pool that is to keep more than it may have, and Mainstay does not: no more than that is kept.
pub(super) fn keep_minimum_possible(found: &mut Translation) {
    let value = |lines: &[Line], key: &str| {
        lines.iter().find(|(name, _, _)| name == key).and_then(|(_, value, _)| value.parse::<u32>().ok())
    };
    let size = value(&found.lines, "default_pool_size").unwrap_or(20);
    let least = value(&found.lines, "min_pool_size").unwrap_or(0);
    let cap = |lines: &mut Vec<Line>, least: u32, size: u32| {
        if least > size {
            lines.retain(|(name, _, _)| name != "min_pool_size");
            lines.push((
                "min_pool_size".to_owned(),
                size.to_string(),
                Some("no more than the pool may have"),
            ));
        }
    };
    cap(&mut found.lines, least, size);
    let least = least.min(size);
    for lines in found.databases.values_mut() {
        let own = value(lines, "min_pool_size").unwrap_or(least);
        let own_size = value(lines, "pool_size").unwrap_or(size);
        cap(lines, own, own_size);
    }
}
