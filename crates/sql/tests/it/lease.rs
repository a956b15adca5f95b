//! Past the deadline of the route nothing is sent to a primary, though it answers.

use std::time::{Duration, Instant};

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Wire, code, kinds, outcome};
use mainstay_sql::Settings;

const LEASE_MS: u64 = 700;

/// A proxy whose route is good for a short time, and its clients.
fn short_lease() -> Proxy {
    let proxy = Proxy::of_size(2);
    proxy.member.tell(|routes| routes.lease_ms = LEASE_MS);
    proxy
}

/// Waits until the proxy itself says that the lease has run out.
fn run_out(proxy: &Proxy, console: &mut Wire) {
    proxy.member.set_silent(true);
    let began = Instant::now();
    wait_for("the lease to run out", || {
        console.ok("SELECT 1".replace("SELECT 1", "SHOW VERSION").as_str());
        began.elapsed() > Duration::from_millis(LEASE_MS + 300)
    });
}

/// What PostgreSQL has been sent since: its log has every statement.
fn was_sent(postgres: &Postgres, mark: &str) -> bool {
    postgres.log().contains(mark)
}

#[test]
fn nothing_is_sent_past_the_deadline_and_all_goes_on_after_it() {
    let proxy = short_lease();
    let (mut idle, mut open) = (proxy.client(), proxy.client());
    let mut console = proxy.boss("mainstay");
    open.ok("BEGIN");
    idle.ok("SELECT 1");
    run_out(&proxy, &mut console);
    idle.simple("SELECT 'past-deadline-idle'").send();
    open.simple("SELECT 'past-deadline-open'").send();
    idle.socket.as_ref().unwrap().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(idle.next().is_err(), "an answer past the deadline");
    assert!(!was_sent(&proxy.postgres, "past-deadline"));
    idle.socket.as_ref().unwrap().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    proxy.member.set_silent(false);
    assert_eq!(kinds(&idle.until_ready()), "TDCZ");
    assert_eq!(kinds(&open.until_ready()), "TDCZ");
    open.ok("COMMIT");
}

#[test]
fn the_next_primary_ends_what_was_held() {
    let proxy = short_lease();
    let mut open = proxy.client();
    let mut console = proxy.boss("mainstay");
    open.ok("BEGIN");
    run_out(&proxy, &mut console);
    open.simple("COMMIT").send();
    proxy.member.tell(|routes| {
        routes.epoch += 1;
        routes.lease_ms = 60_000;
    });
    proxy.member.set_silent(false);
    // It was not sent, so that it is certain that nothing was committed.
    let messages = open.until_ready();
    assert_eq!((kinds(&messages).as_str(), code(outcome(&messages))), ("EZ", "40001".to_owned()));
    assert_eq!(open.status, b'I');
}

#[test]
fn who_waits_for_the_lease_too_long_is_told() {
    let patience = Duration::from_millis(500);
    let proxy = Proxy::with(Postgres::shared(), Settings { query_wait_timeout: patience, ..settings() });
    proxy.member.tell(|routes| routes.lease_ms = LEASE_MS);
    let mut client = proxy.client();
    let mut console = proxy.boss("mainstay");
    run_out(&proxy, &mut console);
    let failure = client.query("SELECT 1").unwrap_err();
    assert_eq!(failure.code, "57P03");
    assert!(failure.detail.contains("lease"), "{failure}");
    proxy.member.set_silent(false);
    wait_for("the lease", || client.query("SELECT 1").is_ok());
}

#[test]
fn a_transaction_that_is_held_too_long_is_ended() {
    let patience = Duration::from_millis(500);
    let proxy = Proxy::with(Postgres::shared(), Settings { query_wait_timeout: patience, ..settings() });
    proxy.member.tell(|routes| routes.lease_ms = LEASE_MS);
    let mut open = proxy.client();
    let mut console = proxy.boss("mainstay");
    open.ok("BEGIN");
    run_out(&proxy, &mut console);
    open.simple("SELECT 'past-deadline-held'").send();
    let messages = open.until_ready();
    assert_eq!((code(outcome(&messages)), open.status), ("40001".to_owned(), b'E'));
    assert!(!was_sent(&proxy.postgres, "past-deadline-held"));
    proxy.member.set_silent(false);
    open.ok("ROLLBACK");
    wait_for("the lease", || open.query("SELECT 1").is_ok());
}
