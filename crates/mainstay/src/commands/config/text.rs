//! A set of parameters as TOML for an editor, and the difference between two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use mainstay_core::MemberId;
use mainstay_core::record::{ParameterSet, Values};
use serde::Deserialize;

const HEAD: &str = "\
# PostgreSQL's parameters for the whole cluster. Save and leave to see what would change; an empty set is what there is
# at first. A member's own value goes over its role's, that over the shared one; a member's own file goes over all.
# Lines of pg_hba.conf for applications: hba = [\"hostssl app app 10.0.0.0/8 scram-sha-256\"]
";

pub(super) fn to_toml(set: &ParameterSet, serial: u64) -> String {
    let mut text = format!("{HEAD}# This is configuration {serial}.\n\nhba = [");
    for line in &set.hba {
        let _ = write!(text, "\n    {},", quoted(line));
    }
    text.push_str(if set.hba.is_empty() { "]\n" } else { "\n]\n" });
    let mut table = |name: &str, values: &Values| {
        let _ = writeln!(text, "\n[{name}]");
        for (name, value) in values {
            let key = if name.contains('.') { quoted(name) } else { name.clone() };
            let _ = writeln!(text, "{key} = {}", quoted(value));
        }
    };
    table("shared", &set.shared);
    table("primary", &set.primary);
    table("standby", &set.standby);
    for (member, values) in &set.members {
        table(&format!("members.{member}"), values);
    }
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    hba: Vec<String>,
    #[serde(default)]
    shared: Table,
    #[serde(default)]
    primary: Table,
    #[serde(default)]
    standby: Table,
    #[serde(default)]
    members: BTreeMap<MemberId, Table>,
}

type Table = BTreeMap<String, toml::Value>;

/// Reads what an editor has left; an error has its line, from 1.
pub(super) fn from_toml(text: &str) -> Result<ParameterSet, (Option<usize>, String)> {
    let written: Written = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        (line, error.message().lines().next().unwrap_or_default().to_owned())
    })?;
    let members = written.members.into_iter().map(|(member, table)| Ok((member, values("", table)?)));
    Ok(ParameterSet {
        shared: values("", written.shared)?,
        primary: values("", written.primary)?,
        standby: values("", written.standby)?,
        members: members.collect::<Result<_, (Option<usize>, String)>>()?,
        hba: written.hba,
    })
}

fn values(prefix: &str, table: Table) -> Result<Values, (Option<usize>, String)> {
    let mut read = Values::new();
    for (key, value) in table {
        let name = format!("{prefix}{}", key.to_ascii_lowercase());
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(true) => "on".to_owned(),
            toml::Value::Boolean(false) => "off".to_owned(),
            // `auto_explain.log_min_duration = "1s"` without quotation marks.
            toml::Value::Table(inner) if prefix.is_empty() => {
                read.extend(values(&format!("{name}."), inner.into_iter().collect())?);
                continue;
            }
            _ => return Err((None, format!("{name} must be a text, a number, true or false"))),
        };
        read.insert(name, value);
    }
    Ok(read)
}

/// Lines that begin with `-` and `+`; empty if both are the same.
pub(super) fn difference(before: &ParameterSet, after: &ParameterSet) -> Vec<String> {
    let mut lines = Vec::new();
    let mut compare = |place: &str, before: &Values, after: &Values| {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let (old, new) = (before.get(name), after.get(name));
            if old != new {
                lines.extend(old.map(|value| format!("- {place}{name} = {value}")));
                lines.extend(new.map(|value| format!("+ {place}{name} = {value}")));
            }
        }
    };
    compare("", &before.shared, &after.shared);
    compare("primary: ", &before.primary, &after.primary);
    compare("standby: ", &before.standby, &after.standby);
    let members: BTreeSet<&MemberId> = before.members.keys().chain(after.members.keys()).collect();
    let empty = Values::new();
    for member in members {
        let of = |set: &ParameterSet| set.members.get(member).unwrap_or(&empty).clone();
        compare(&format!("{member}: "), &of(before), &of(after));
    }
    if before.hba != after.hba {
        let gone = before.hba.iter().filter(|line| !after.hba.contains(line));
        lines.extend(gone.map(|line| format!("- hba: {line}")));
        let new: Vec<&String> = after.hba.iter().filter(|line| !before.hba.contains(line)).collect();
        if new.is_empty() && after.hba.len() == before.hba.len() {
            lines.push("+ hba: the same lines in another order".to_owned());
        }
        lines.extend(new.into_iter().map(|line| format!("+ hba: {line}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> ParameterSet {
        let values = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        ParameterSet {
            shared: values("auto_explain.log_min_duration", "1 \"s\""),
            primary: values("work_mem", "8MB"),
            standby: Values::new(),
            members: [(MemberId::new("m1").expect("a name"), values("shared_buffers", "1GB"))].into(),
            hba: vec!["hostssl app app 10.0.0.0/8 scram-sha-256".to_owned()],
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        assert_eq!(from_toml(&to_toml(&set(), 3)), Ok(set()));
        assert_eq!(from_toml(&to_toml(&ParameterSet::default(), 0)), Ok(ParameterSet::default()));
    }

    #[test]
    fn people_write_as_they_like() {
        let set = from_toml("[shared]\nWork_Mem = 4096\njit = false\nauto_explain.log_analyze = true\n")
            .expect("read");
        assert_eq!(set.shared["work_mem"], "4096");
        assert_eq!(set.shared["jit"], "off");
        assert_eq!(set.shared["auto_explain.log_analyze"], "on");
        assert_eq!(from_toml("[shared]\na = 1\n[sharde]\n").unwrap_err().0, Some(3));
    }

    #[test]
    fn differences_name_their_place() {
        let mut after = set();
        after.primary.clear();
        after.shared.insert("jit".to_owned(), "off".to_owned());
        assert_eq!(difference(&set(), &after), ["+ jit = off", "- primary: work_mem = 8MB"]);
        assert!(difference(&after, &after).is_empty());
    }
}
