//! The console, and the listener for readers.

use std::time::Duration;

use mainstay_sql::{PoolMode, Settings};

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Wire, kinds, outcome, tags};

#[test]
fn the_console_shows_and_ends() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client_with(&[("application_name", "shop")]));
    one.ok("BEGIN");
    for database in ["mainstay", "pgbouncer"] {
        let mut console = proxy.boss(database);
        let all = "POOLS CLIENTS SERVERS SOCKETS STATS STATS_TOTALS STATS_AVERAGES TOTALS DATABASES USERS LISTS MEM STATE \
                   ROUTES CONFIG VERSION HELP";
        for what in all.split(' ') {
            assert!(!console.table(&format!("show {what};")).is_empty(), "{what}");
        }
        let pool = console.table("SHOW POOLS").remove(0);
        let values =
            ["database", "user", "cl_active", "cl_idle", "sv_active", "pool_mode"].map(|name| &*pool[name]);
        assert_eq!(values, ["app", "app", "2", "1", "1", "transaction"]);
        assert_eq!(console.code("SHOW NOTHING"), "42601");
        assert_eq!(console.code("KILL_CLIENT 999999"), "42704");
        assert_eq!(console.code("KILL_CLIENT somebody"), "42704");
        assert_eq!(console.code("KILL_CLIENT"), "42601");
        assert_eq!(console.code("SELECT 1"), "42601");
        assert_eq!(kinds(&console.simple(";").go()), "IZ", "what a driver pings with");
    }
    let mut console = proxy.boss("mainstay");
    let clients = console.table("SHOW CLIENTS");
    let shop = clients.iter().find(|client| client["application_name"] == "shop").unwrap();
    assert_eq!((&*shop["id"], &*shop["state"]), (&*two.key.0.to_string(), "idle"));
    assert_eq!(shop["port"], two.socket.as_ref().unwrap().local_addr().unwrap().port().to_string());
    let begun = clients.iter().find(|client| client["id"] == one.key.0.to_string()).unwrap();
    assert_eq!((&*begun["state"], &*begun["activity"]), ("active", "idle in transaction"));
    let servers = console.table("SHOW SERVERS");
    let linked = servers.iter().find(|server| server["link"] == begun["ptr"]).unwrap();
    assert_eq!((&linked["ptr"], &linked["remote_pid"]), (&begun["link"], &begun["remote_pid"]));
    let pid = two.one("SELECT pg_backend_pid()");
    assert_eq!(tags(&console.simple("RECONNECT").go()), ["RECONNECT"]);
    assert_ne!(two.one("SELECT pg_backend_pid()"), pid);
    assert_eq!(one.one("SELECT 1"), "1");
    console.ok(&format!("KILL_CLIENT {}", one.key.0));
    let messages = one.until_ready();
    assert_eq!(outcome(&messages).unwrap_err().code, "57P01");
    assert_eq!(kinds(&messages), "E!");
    assert_eq!(two.one("SELECT 1"), "1");
}

#[test]
fn the_console_shows_all_threads() {
    let size = Settings { workers: 3, default_pool_size: 6, ..settings() };
    let proxy = Proxy::with(Postgres::shared(), size);
    let mut clients: Vec<Wire> = (0..24).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.one("SELECT 1"), "1"));
    let mut console = proxy.boss("mainstay");
    let shown = console.table("SHOW CLIENTS");
    assert!(clients.iter().all(|client| shown.iter().any(|row| row["id"] == client.key.0.to_string())));
    let pools: Vec<_> =
        console.table("SHOW POOLS").into_iter().filter(|pool| pool["database"] == "app").collect();
    assert_eq!((pools.len(), &*pools[0]["cl_active"], &*pools[0]["pool_size"]), (1, "24", "6"));
    let stats = console.table("SHOW STATS").into_iter().find(|row| row["database"] == "app").unwrap();
    assert_eq!((&*stats["total_xact_count"], &*stats["total_query_count"]), ("24", "24"));
    assert!(stats["total_query_time"].parse::<u64>().unwrap() > 0);
    // Whichever thread has them, all can be ended.
    for client in &mut clients {
        console.ok(&format!("KILL_CLIENT {}", client.key.0));
        assert_eq!(outcome(&client.until_ready()).unwrap_err().code, "57P01");
    }
    wait_for("all to be gone", || {
        console.table("SHOW POOLS").iter().all(|pool| pool["database"] != "app" || pool["cl_active"] == "0")
    });
}

/// pgjdbc sets that by itself, and had no connection then.
#[test]
fn drivers_may_set_what_they_set_everywhere() {
    let proxy = Proxy::new();
    let mut console = proxy.boss("mainstay");
    for set in ["SET extra_float_digits = 3", "set application_name='psql'", "SET client_encoding TO 'UTF8'"]
    {
        assert_eq!(tags(&console.simple(set).go()), ["SET"], "{set}");
    }
    let failure = console.query("SET default_pool_size = 5").unwrap_err();
    assert_eq!(failure.code, "55P02");
    assert!(failure.text.contains("default_pool_size"), "{failure}");
}

#[test]
fn the_console_counts_in_every_mode() {
    let counted = |mode: PoolMode| {
        let proxy = Proxy::with(Postgres::shared(), Settings { pool_mode: mode, ..settings() });
        for _ in 0..4 {
            proxy.client().ok("SELECT 1");
        }
        let mut client = proxy.client();
        for end in ["COMMIT", "ROLLBACK"] {
            for statement in ["BEGIN", "SELECT 1", "SELECT 1", end] {
                client.ok(statement);
            }
        }
        assert!(proxy.try_connect(&[("user", "app"), ("database", "app")], "wrong").is_err());
        let mut console = proxy.boss("mainstay");
        let stats = console.table("SHOW STATS").into_iter().find(|row| row["database"] == "app").unwrap();
        let totals =
            console.table("SHOW STATS_TOTALS").into_iter().find(|row| row["database"] == "app").unwrap();
        let names = ["server_assignment_count", "xact_count", "query_count"];
        for name in names {
            assert_eq!(stats[&format!("total_{name}")], totals[name]);
        }
        assert_eq!(stats["total_client_login_count"], "5");
        names.map(|name| totals[name].parse::<u32>().unwrap())
    };
    assert_eq!(counted(PoolMode::Session), [5, 6, 12]);
    assert_eq!(counted(PoolMode::Transaction), [6, 6, 12]);
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
    let replicates = [("user", "app"), ("database", "app@ro"), ("replication", "database")];
    assert_eq!(proxy.try_connect(&replicates, "secret").unwrap().one(recovery), "t");
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
