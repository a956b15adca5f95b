//! The database `mainstay`, which is none: what PgBouncer's users know from theirs, of all threads.

pub(crate) mod command;
mod show;

use std::collections::BTreeMap;
use std::rc::Rc;

use mainstay_pgwire::backend::{self, ColumnType, Report};

use crate::refusal;
use crate::server::next_message;
use crate::stream::Connection;
use crate::worker::{Activity, ClientEntry, Worker};
use command::{Command, Interruption};

const DATABASE: &str = "mainstay";
const DATABASE_OF_PGBOUNCER: &str = "pgbouncer";
/// What it is called.
pub(crate) const NAMES: [&str; 2] = [DATABASE, DATABASE_OF_PGBOUNCER];

pub(crate) fn is_console(database: &str) -> bool {
    NAMES.contains(&database)
}

/// Superusers only: it shows who is connected from where, and ends sessions.
pub(crate) fn admit(worker: &Worker, user: &str) -> Result<(), Report> {
    let roles = worker.shared.roles.borrow().clone();
    match roles.as_ref().and_then(|roles| roles.get(user)) {
        Some(role) if role.is_superuser => Ok(()),
        _ => Err(Report::fatal("42501", format!("role \"{user}\" may not use the SQL proxy's console"))
            .hint("Log in as a superuser.")),
    }
}

/// What drivers want to hear before they say anything.
pub(crate) fn parameters() -> BTreeMap<Box<str>, Box<str>> {
    let version = format!("{} (Mainstay)", env!("CARGO_PKG_VERSION"));
    let pairs = [
        ("server_version", version.as_str()),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ];
    pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// Answers simple queries until the client goes.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    entry: &ClientEntry,
    client: &mut Connection,
) -> Option<Report> {
    loop {
        let (kind, body) = next_message(client).await.ok()?;
        let mut answer = Vec::new();
        match kind {
            b'Q' => {
                let text = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(&body)).into_owned();
                entry.is_cancelled.set(false);
                match execute(worker, entry, client, text.trim().trim_end_matches(';').trim_end()).await? {
                    Ok(table) => table.push(&mut answer),
                    Err(report) => report.push(&mut answer),
                }
                backend::push_ready(&mut answer, backend::IDLE);
            }
            b'X' => return None,
            b'S' => backend::push_ready(&mut answer, backend::IDLE),
            _ => return Some(refusal::protocol_violation("the console takes simple queries only")),
        }
        client.queue(&answer);
        client.flush().await.ok()?;
        entry.set(Activity::Idle, worker.tick());
        if worker.is_closing.get() {
            return Some(refusal::shutting_down());
        }
    }
}

/// One value of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(u64),
    Null,
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Number(number as u64)
    }
}

impl From<bool> for Value {
    fn from(is_so: bool) -> Value {
        Value::Number(is_so.into())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// What a command answers: rows, or its tag alone.
struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<Value>>,
    tag: &'static str,
}

impl Table {
    fn done(tag: &'static str) -> Table {
        Table { columns: &[], rows: Vec::new(), tag }
    }

    fn push(&self, out: &mut Vec<u8>) {
        if !self.columns.is_empty() {
            // As the first row has it: monitoring compares numbers as such.
            let kind = |at: usize| match self.rows.first().and_then(|row| row.get(at)) {
                Some(Value::Number(_)) => ColumnType::Number,
                _ => ColumnType::Text,
            };
            let columns: Vec<_> =
                self.columns.iter().enumerate().map(|(at, name)| (*name, kind(at))).collect();
            backend::push_columns(out, &columns);
            for row in &self.rows {
                let texts: Vec<Option<String>> = row.iter().map(text).collect();
                backend::push_row(out, &texts.iter().map(Option::as_deref).collect::<Vec<_>>());
            }
        }
        if self.tag.is_empty() {
            backend::push_empty_query(out);
        } else {
            backend::push_command_complete(out, self.tag);
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null => None,
    }
}

const HELP: &str = "SHOW HELP lists what there is.";

/// `None` if the client has gone meanwhile.
async fn execute(
    worker: &Rc<Worker>,
    entry: &ClientEntry,
    client: &mut Connection,
    text: &str,
) -> Option<Result<Table, Report>> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let Some((verb, operands)) = words.split_first() else { return Some(Ok(Table::done(""))) };
    let verb = verb.to_ascii_uppercase();
    if verb == "SHOW"
        && let [what] = operands
    {
        return Some(show::show(worker, &what.to_ascii_uppercase()).await);
    }
    if verb == "SET" {
        return Some(set(operands));
    }
    let Some(command) = Command::parse(&verb, operands) else {
        let message = format!("the console does not know {text:?}");
        return Some(Err(Report::error("42601", message).hint(HELP)));
    };
    if matches!(command, Command::Shutdown(_)) {
        // It is told that it has been understood before it is sent away like the others.
        entry.set(Activity::Runs, worker.tick());
    }
    let interrupted = async {
        tokio::select! {
            () = client.gone() => Interruption::Gone,
            () = cancelled(entry) => Interruption::Cancelled,
        }
    };
    let outcome = command.execute(&worker.shared, interrupted).await?;
    Some(outcome.map(Table::done))
}

/// Drivers set these at the beginning, and give up if they cannot (pgjdbc). They mean nothing here.
fn set(operands: &[&str]) -> Result<Table, Report> {
    const OF_DRIVERS: [&str; 5] = [
        "extra_float_digits",
        "application_name",
        "client_encoding",
        "datestyle",
        "standard_conforming_strings",
    ];
    let name = operands.first().and_then(|first| first.split('=').next()).unwrap_or_default();
    if OF_DRIVERS.contains(&name.to_ascii_lowercase().as_str()) {
        return Ok(Table::done("SET"));
    }
    let report = Report::error("55P02", format!("{name:?} is not set on the console"));
    Err(report.hint("Change [sql_proxy] in mainstay.toml and say RELOAD; SHOW CONFIG tells what holds."))
}

/// Until somebody asks to cancel what the client does.
async fn cancelled(entry: &ClientEntry) {
    while !entry.is_cancelled.get() {
        tokio::time::sleep(command::LOOK).await;
    }
}
