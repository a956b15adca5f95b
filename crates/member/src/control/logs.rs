//! What was logged on this machine.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::input::Parameters;
use super::{Control, Refuse};
use crate::logs::{self, Logs, Wanted};
use crate::machinery::blocking;

/// The most entries in one answer.
pub const MOST_LOG_ENTRIES: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    #[serde(default)]
    since_unix_us: u64,
    after: Option<String>,
    last: Option<usize>,
}

pub(super) async fn logs(
    State(control): State<Control>,
    Parameters(query): Parameters<Query>,
) -> Result<Json<Logs>, Refuse> {
    let after = query.after.map(|after| after.parse()).transpose().map_err(Refuse::bad_input)?;
    let last = query.last.unwrap_or(100);
    if last > MOST_LOG_ENTRIES {
        return Err(Refuse::bad_input(format!("at most {MOST_LOG_ENTRIES} entries are answered")));
    }
    let wanted = Wanted { since_unix_us: query.since_unix_us, after, last };
    let directory = control.configuration.directory.clone();
    let logs = blocking(move || logs::read(&directory, &wanted)).await;
    logs.map(Json).map_err(|error| Refuse::failed(error.0))
}
