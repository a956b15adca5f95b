//! The log of slow statements.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_sql::Settings;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};

type Line = BTreeMap<String, String>;

/// Keeps what is logged of slow statements, of all tests of this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Line>>>);

struct Fields(Line);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "mainstay_sql::session::slow"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(Line::new());
        event.record(&mut fields);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(fields.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn what_takes_long_is_logged_without_its_values() {
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let limit = Some(Duration::from_millis(100));
    let proxy = Proxy::with(Postgres::shared(), Settings { log_min_duration: limit, ..settings() });
    let mut client = proxy.client();
    let mut other = proxy.client();
    client.ok("SELECT 'quick', pg_sleep(0.001)");
    client.ok("SELECT 'secret', pg_sleep(0.15)");
    client.extended("SELECT /* secret */ pg_sleep(0.15)  AS extended").unwrap();
    client.parse("s", "SELECT pg_sleep(0.1 + $1::text::float8) AS prepared").sync().go();
    other.ok("BEGIN");
    client.bind("", "s", &["0.05"]).execute("").sync().send();
    std::thread::sleep(Duration::from_millis(200));
    other.ok("COMMIT");
    client.until_ready();
    let lines = || log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    wait_for("three lines", || lines().len() >= 3);
    let lines = lines();
    let statements: Vec<&str> = lines.iter().map(|line| &*line["statement"]).collect();
    let prepared = "SELECT pg_sleep(? + $1::text::float8) AS prepared";
    assert_eq!(statements, ["SELECT ?, pg_sleep(?)", "SELECT pg_sleep(?) AS extended", prepared]);
    let own = client.socket.as_ref().unwrap().local_addr().unwrap().to_string();
    assert_eq!((&*lines[0]["database"], &*lines[0]["user"], &lines[0]["client"]), ("app", "app", &own));
    let number = |line: &Line, name: &str| line[name].parse::<f64>().unwrap();
    assert!(number(&lines[0], "duration_ms") >= 150.0 && number(&lines[0], "wait_ms") < 100.0);
    assert!(number(&lines[2], "wait_ms") >= 100.0 && number(&lines[2], "duration_ms") < 1_000.0, "{lines:?}");
}
