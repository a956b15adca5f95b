//! `config import pgbouncer`: the table `[sql_proxy]` that does what PgBouncer did, and what has to be done by hand.

mod ini;
mod local;
mod roles;
mod settings;
#[cfg(test)]
mod tests;
mod translate;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cli::ImportOptions;
use crate::output::{line, part, println};
use translate::{Line, Note, Translation};

pub(super) fn pgbouncer(options: &ImportOptions) -> Result<ExitCode> {
    let found = translate::translate(&ini::read(&options.file)?)?;
    let table = render(&found);
    if let Some(output) = &options.output {
        let file = OpenOptions::new().write(true).create_new(true).open(output);
        let written = file.and_then(|mut file| file.write_all(table.as_bytes()));
        written.with_context(|| {
            format!("{} cannot be written; name a file that is not there yet", output.display())
        })?;
    }
    if options.json {
        println!("{}", serde_json::json!({ "toml": table, "not_carried_over": found.notes }));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(output) = &options.output {
        println!(
            "{}: put it into mainstay.toml of every member, look at it with `mainstay config check`, and start the members anew",
            output.display()
        );
        found.notes.iter().for_each(|note| line(format_args!("{}", told(note))));
        return Ok(ExitCode::SUCCESS);
    }
    part(&table);
    // Behind the table, as comments: both together are still a file.
    if !found.notes.is_empty() {
        println!("\n# Not carried over:");
        found.notes.iter().for_each(|note| line(format_args!("# {}", told(note))));
    }
    Ok(ExitCode::SUCCESS)
}

fn told(note: &Note) -> String {
    format!("{}:{}: {}: {} {}", note.file, note.line, note.setting, note.why, note.instead)
}

fn render(found: &Translation) -> String {
    let mut text = "[sql_proxy]\n".to_owned();
    write_lines(&mut text, &found.lines);
    write_tables(&mut text, "databases", &found.databases);
    write_tables(&mut text, "users", &found.users);
    text
}

fn write_tables(text: &mut String, kind: &str, tables: &BTreeMap<String, Vec<Line>>) {
    for (name, lines) in tables {
        let _ = writeln!(text, "\n[sql_proxy.{kind}.{}]", key(name));
        write_lines(text, lines);
    }
}

fn write_lines(text: &mut String, lines: &[Line]) {
    for (name, value, why) in lines {
        let _ = match why {
            Some(why) => writeln!(text, "{name} = {value}  # {why}"),
            None => writeln!(text, "{name} = {value}"),
        };
    }
}

/// As TOML has keys: what is not plain is quoted as JSON does it, whose escapes TOML knows.
fn key(name: &str) -> String {
    let is_plain =
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_plain { name.to_owned() } else { serde_json::Value::from(name).to_string() }
}
