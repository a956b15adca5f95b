//! What load balancers ask: 200 or 503, each with a line that says why; 400 for a question that is not understood.
//!
//! The paths are those that configurations written for Patroni ask for. An answer is made when it is asked for, from the
//! clock, the lease's own thread and the guard's word, so that it stays true when the main loop, whose status it also
//! reads, hangs: **`/primary` never says 200 past the deadline of the lease.**

mod lag;
mod verdict;

use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Seen;
use super::routes::Routes;
use crate::clock;
use verdict::{Moment, judge};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Holds the lease and lets applications in.
    Primary,
    /// Streams.
    Replica,
    /// Streams, and every acknowledged commit is on its disk.
    Sync,
    /// Streams, and counts towards acknowledging commits, maybe as one of several.
    Quorum,
    /// Streams, and does not count.
    Async,
    ReadOnly,
    ReadOnlySync,
    ReadOnlyQuorum,
    /// PostgreSQL serves, or, on a witness, the member works.
    Health,
    /// As `ReadOnly`, and a witness is ready too.
    Readiness,
    /// The main loop turns.
    Liveness,
}

/// Every path, and whether it takes `lag`.
const QUESTIONS: [(&str, Question, bool); 17] = [
    ("/", Question::Primary, false),
    ("/primary", Question::Primary, false),
    ("/master", Question::Primary, false),
    ("/leader", Question::Primary, false),
    ("/read-write", Question::Primary, false),
    ("/replica", Question::Replica, true),
    ("/read-only", Question::ReadOnly, true),
    ("/sync", Question::Sync, true),
    ("/synchronous", Question::Sync, true),
    ("/quorum", Question::Quorum, true),
    ("/async", Question::Async, true),
    ("/asynchronous", Question::Async, true),
    ("/read-only-sync", Question::ReadOnlySync, true),
    ("/read-only-quorum", Question::ReadOnlyQuorum, true),
    ("/health", Question::Health, false),
    ("/readiness", Question::Readiness, true),
    ("/liveness", Question::Liveness, false),
];

pub(super) fn routes() -> Routes<Seen> {
    QUESTIONS.into_iter().fold(Routes::new(), |routes, (path, question, takes_lag)| {
        routes.asked(
            path,
            async move |State(seen): State<Seen>, Query(query): Query<Vec<(String, String)>>| {
                answer(question, takes_lag, &seen, &query)
            },
        )
    })
}

fn answer(question: Question, takes_lag: bool, seen: &Seen, query: &[(String, String)]) -> Response {
    let (code, why) = match lag::read(query, takes_lag) {
        Err(why) => (StatusCode::BAD_REQUEST, why),
        Ok(lag) => {
            let verdict = judge(question, lag, &Moment::of(seen));
            let code = if verdict.holds { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (code, verdict.why)
        }
    };
    (code, format!("{why}\n")).into_response()
}

/// What `/primary` and `/liveness` would answer now.
pub(super) fn is_primary_and_live(seen: &Seen) -> (bool, bool) {
    let moment = Moment::of(seen);
    (judge(Question::Primary, None, &moment).holds, judge(Question::Liveness, None, &moment).holds)
}

/// What `/primary` would answer now, and why not.
pub(super) fn is_primary(seen: &Seen) -> Result<(), String> {
    let verdict = judge(Question::Primary, None, &Moment::of(seen));
    if verdict.holds { Ok(()) } else { Err(verdict.why) }
}

impl Moment {
    fn of(seen: &Seen) -> Moment {
        // The clock is read last: what is taken from it is never older than what it is compared with.
        let status = seen.status.borrow().clone();
        let lease = seen.lease.borrow().held;
        let opened = seen.guard.borrow().status.as_ref().and_then(|status| status.opened);
        let record = seen.record.borrow().clone();
        let sync = record.sync().filter(|_| record.is_open()).cloned().unwrap_or_default();
        let now = clock::now();
        let silent = seen.heartbeat.age(now);
        let hangs = silent > seen.lease_length.max(Duration::from_secs(1));
        Moment { now, status, lease, opened, sync, hangs_for: hangs.then_some(silent) }
    }
}

#[cfg(test)]
mod tests;
