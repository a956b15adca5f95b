//! A session's settings: what a client has set, to be had on whichever server it is given next.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::sql_text;

/// Parameters with their values, as PostgreSQL's `set_config` takes them. Names are in lower case. Shared, since nearly all
/// sessions of an application have the same.
pub(crate) type SessionSettings = Rc<BTreeMap<Box<str>, Box<str>>>;

/// What a session holds that no other server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    TemporaryTable,
    HoldableCursor,
    AdvisoryLock,
    Listen,
    SqlPrepared,
    /// Prepared by a text that had other statements in it as well.
    Unrepeatable,
    SessionUser,
    /// It could not be asked.
    Unknown,
}

impl Pin {
    /// Whether another server can be given the same, by statements.
    pub(crate) fn is_restorable(self) -> bool {
        matches!(self, Pin::Listen | Pin::SqlPrepared)
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Pin::TemporaryTable => "a temporary table",
            Pin::HoldableCursor => "a cursor WITH HOLD",
            Pin::AdvisoryLock => "a session-level advisory lock",
            Pin::Listen => "a LISTEN",
            Pin::Unknown => "settings that could not be asked for",
            Pin::SessionUser => "another session user",
            Pin::SqlPrepared | Pin::Unrepeatable => "a statement prepared with PREPARE",
        }
    }
}

/// What a server says of its session.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Inspected {
    pub(crate) settings: BTreeMap<Box<str>, Box<str>>,
    pub(crate) pin: Option<Pin>,
    /// What makes another server the same, if that can be.
    pub(crate) restore: Vec<Box<str>>,
    /// What it listens to.
    pub(crate) channels: Vec<Box<str>>,
}

const LISTEN: &str = "LISTEN ";

/// Rows of [`inspection`] whose first column is none of a parameter.
const PINS: [(&str, Pin); 6] = [
    ("!temp", Pin::TemporaryTable),
    ("!hold", Pin::HoldableCursor),
    ("!lock", Pin::AdvisoryLock),
    ("!listen", Pin::Listen),
    ("!prepare", Pin::SqlPrepared),
    ("!user", Pin::SessionUser),
];

/// Asks PostgreSQL what the session has, instead of guessing it from the statements that were sent: functions set parameters
/// and take locks too. What concerns one transaction only (its isolation) stands there as the session's also behind its end, and
/// cannot be set behind a query. Placeholders of extensions (`my.name`) are not in `pg_settings`, so they are asked for by name.
pub(crate) fn inspection(placeholders: &[Box<str>], user: &str) -> String {
    let mut text = String::from(
        "SELECT name, setting FROM pg_catalog.pg_settings WHERE source IN ('session', 'client') \
         AND name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable') \
         UNION ALL SELECT 'role', pg_catalog.current_setting('role') \
         UNION ALL SELECT '!temp', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_class \
         WHERE relnamespace = pg_catalog.pg_my_temp_schema()) \
         UNION ALL SELECT '!hold', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
         UNION ALL SELECT '!lock', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
         WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) \
         UNION ALL SELECT '!listen', channel FROM pg_catalog.pg_listening_channels() AS channel \
         UNION ALL SELECT '!prepare', statement FROM pg_catalog.pg_prepared_statements WHERE from_sql",
    );
    text.push_str(&format!(" UNION ALL SELECT '!user', '' WHERE session_user <> {}", literal(user)));
    for name in placeholders {
        let name = literal(name);
        text.push_str(&format!(" UNION ALL SELECT {name}, pg_catalog.current_setting({name}, true)"));
    }
    text
}

/// Reads the rows of [`inspection`].
pub(crate) fn inspected(rows: &[Vec<Option<Box<str>>>]) -> Inspected {
    let mut found = Inspected::default();
    for row in rows {
        let [Some(name), value] = row.as_slice() else { continue };
        if let Some((_, pin)) = PINS.iter().find(|(mark, _)| **mark == **name) {
            let (pin, value) = (*pin, value.as_deref().unwrap_or_default());
            match pin {
                Pin::Listen => {
                    found.restore.push(format!("{LISTEN}{}", quoted_identifier(value)).into());
                    found.channels.push(value.into());
                }
                Pin::SqlPrepared if sql_text::is_single(value.as_bytes()) => found.restore.push(value.into()),
                _ => {}
            }
            // Of several what cannot be restored counts. A text with more in it than the PREPARE must not be run again.
            let is_lasting =
                !pin.is_restorable() || pin == Pin::SqlPrepared && !sql_text::is_single(value.as_bytes());
            let pin = if is_lasting && pin.is_restorable() { Pin::Unrepeatable } else { pin };
            found.pin = found.pin.filter(|known| !is_lasting || !known.is_restorable()).or(Some(pin));
        } else if let Some(value) = value.as_ref().filter(|value| **name != *"role" || ***value != *"none") {
            found.settings.insert(name.to_lowercase().into(), value.clone());
        }
    }
    found
}

/// Whether it is one of those that restore what is listened to.
pub(crate) fn is_listen(restore: &str) -> bool {
    restore.starts_with(LISTEN)
}

/// The statement that makes `from` into `to`; nothing if they are the same.
pub(crate) fn change(
    from: &BTreeMap<Box<str>, Box<str>>,
    to: &BTreeMap<Box<str>, Box<str>>,
) -> Option<String> {
    let gone: Vec<&str> = from.keys().filter(|name| !to.contains_key(*name)).map(AsRef::as_ref).collect();
    let set: Vec<(&str, &str)> = to
        .iter()
        .filter(|(name, value)| from.get(*name) != Some(value))
        .map(|(name, value)| (name.as_ref(), value.as_ref()))
        .collect();
    if gone.is_empty() && set.is_empty() {
        return None;
    }
    let mut text = String::new();
    // First: another role may not be allowed to set the rest back.
    if gone.contains(&"role") {
        text.push_str("RESET ROLE;");
    }
    for name in gone.iter().filter(|name| **name != "role") {
        text.push_str(&format!("RESET {};", quoted_parameter(name)));
    }
    // The role last: it may not be allowed to set the others.
    let (role, others): (Vec<_>, Vec<_>) = set.into_iter().partition(|(name, _)| *name == "role");
    for (name, value) in others.into_iter().chain(role) {
        text.push_str(&format!(
            "SELECT pg_catalog.set_config({}, {}, false);",
            literal(name),
            literal(value)
        ));
    }
    Some(text)
}

/// `my.name` is two identifiers.
fn quoted_parameter(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(quoted_identifier).collect();
    parts.join(".")
}

pub(crate) fn quoted_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<Box<str>, Box<str>> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn nothing_is_changed_between_equals() {
        let one = settings(&[("work_mem", "4096")]);
        assert_eq!(change(&one, &one), None);
    }

    #[test]
    fn the_role_is_left_first_and_taken_last() {
        let text = change(&settings(&[("role", "a"), ("x.y", "1")]), &settings(&[("a", "b'\\")])).unwrap();
        assert_eq!(
            text,
            "RESET ROLE;RESET \"x\".\"y\";SELECT pg_catalog.set_config('a',  E'b''\\\\', false);"
        );
        let text = change(&settings(&[]), &settings(&[("role", "a"), ("zone", "b")])).unwrap();
        assert!(text.ends_with("set_config('role', 'a', false);"), "{text}");
    }

    #[test]
    fn rows_become_settings_and_pins() {
        let row = |name: &str, value: &str| vec![Some(name.into()), Some(value.into())];
        let found = inspected(&[row("TimeZone", "UTC"), row("role", "none"), row("!lock", "")]);
        assert_eq!(found.settings, settings(&[("timezone", "UTC")]));
        assert_eq!(found.pin, Some(Pin::AdvisoryLock));
        let found = inspected(&[row("!listen", "a\"b"), row("!prepare", "PREPARE p AS SELECT 1;")]);
        assert_eq!(found.pin, Some(Pin::Listen));
        assert_eq!(found.restore, ["LISTEN \"a\"\"b\"".into(), Box::from("PREPARE p AS SELECT 1;")]);
        let found =
            inspected(&[row("!listen", "a"), row("!prepare", "DELETE FROM a; PREPARE p AS SELECT 1")]);
        assert_eq!(found.pin, Some(Pin::Unrepeatable));
        let found = inspected(&[row("!temp", ""), row("!listen", "a")]);
        assert_eq!(found.pin, Some(Pin::TemporaryTable));
    }
}
