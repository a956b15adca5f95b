//! The console, and the listener for readers.

use std::time::Duration;

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Wire, kinds, outcome, tags};

#[test]
fn the_console_shows_and_ends() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("BEGIN");
    for database in ["mainstay", "pgbouncer"] {
        let mut console = proxy.boss(database);
        for what in ["POOLS", "CLIENTS", "SERVERS", "STATS", "DATABASES", "ROUTES", "CONFIG", "VERSION"] {
            assert!(!console.ok(&format!("show {what};")).is_empty(), "{what}");
        }
        let pools = console.ok("SHOW POOLS");
        assert_eq!(pools[0][..3], ["app", "app", "rw"].map(|text| Some(text.to_owned())));
        assert_eq!(pools[0][3].as_deref(), Some("1"), "active clients");
        assert_eq!(console.code("SHOW NOTHING"), "42601");
        assert_eq!(console.code("KILL 999999"), "42704");
        assert_eq!(console.code("SELECT 1"), "42601");
    }
    let mut console = proxy.boss("mainstay");
    let pid = two.one("SELECT pg_backend_pid()");
    assert_eq!(tags(&console.simple("RECONNECT").go()), ["RECONNECT"]);
    assert_ne!(two.one("SELECT pg_backend_pid()"), pid);
    assert_eq!(one.one("SELECT 1"), "1");
    console.ok(&format!("KILL {}", one.key.0));
    let messages = one.until_ready();
    assert_eq!(outcome(&messages).unwrap_err().code, "57P01");
    assert_eq!(kinds(&messages), "E!");
    assert_eq!(two.one("SELECT 1"), "1");
}

#[test]
fn the_console_is_for_superusers() {
    let proxy = Proxy::new();
    let failure = proxy.try_connect(&[("user", "app"), ("database", "mainstay")], "secret").err().unwrap();
    assert_eq!((failure.severity.as_str(), failure.code.as_str()), ("FATAL", "42501"));
}

#[test]
fn readers_are_sent_to_a_standby() {
    let primary = std::sync::Arc::new(Postgres::new());
    let standby = primary.standby();
    let proxy = Proxy::with(std::sync::Arc::clone(&primary), settings());
    let recovery = "SELECT pg_is_in_recovery()";
    let readonly = |database: &str| {
        let mut wire = Wire::tcp(proxy.readonly_port).unwrap();
        wire.log_in(&[("user", "app"), ("database", database)], "secret").map(|()| wire).unwrap()
    };
    // There is no standby yet.
    assert_eq!(readonly("app").one(recovery), "f");
    standby.catch_up(&primary);
    proxy.member.tell(|routes| routes.standbys = vec![standby.route("b")]);
    let mut reader = readonly("app");
    wait_for("the standby", || reader.one(recovery) == "t");
    assert_eq!(reader.code("CREATE TABLE nothing ()"), "25006");
    assert_eq!(proxy.client().one(recovery), "f");
    let mut by_name = proxy.try_connect(&[("user", "app"), ("database", "app@ro")], "secret").unwrap();
    assert_eq!(by_name.one(recovery), "t");
    assert_eq!(readonly("app@rw").one(recovery), "f");
    // Without a primary they read on.
    proxy.lose_primary();
    assert_eq!(reader.one(recovery), "t");
}

/// Readers for whom there is no standby are at the primary, and were sent there past the deadline.
#[test]
fn readers_at_the_primary_are_held_like_writers() {
    let proxy = Proxy::new();
    let mut reader = proxy.try_connect(&[("user", "app"), ("database", "app@ro")], "secret").unwrap();
    reader.ok("BEGIN");
    proxy.member.tell(|routes| routes.lease_ms = 0);
    let mut console = proxy.boss("mainstay");
    console.ok("SHOW ROUTES");
    wait_for("the end of the lease", || {
        let mut other = Wire::tcp(proxy.port).unwrap();
        other.socket.as_ref().unwrap().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        other.log_in(&[("user", "boss"), ("database", "nowhere")], "boss").is_err_and(|it| it.code.is_empty())
    });
    reader.simple("SELECT 1").send();
    reader.socket.as_ref().unwrap().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(reader.next().is_err(), "an answer past the deadline");
}
