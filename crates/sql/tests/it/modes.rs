//! The other pool modes, and more than one thread.

use std::sync::Arc;
use std::time::Duration;

use mainstay_sql::{PoolMode, Settings};

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{code, outcome};

#[test]
fn a_session_keeps_its_server_until_it_ends() {
    let mode = Settings { pool_mode: PoolMode::Session, ..settings() };
    let proxy = Proxy::with(Postgres::shared(), mode);
    let mut one = proxy.client();
    let pid = one.one("SELECT pg_backend_pid()");
    one.ok("SET work_mem = '5MB'");
    one.ok("PREPARE mine AS SELECT 1");
    one.parse("s", "SELECT 1").sync().go();
    let mut two = proxy.client();
    two.simple("SELECT pg_backend_pid(), current_setting('work_mem')").send();
    assert_eq!(one.one("SELECT pg_backend_pid()"), pid);
    drop(one);
    let rows = outcome(&two.until_ready()).unwrap();
    assert_eq!(rows, [[Some(pid), Some("4MB".to_owned())]]);
    assert_eq!(two.one("SELECT count(*) FROM pg_prepared_statements"), "0");
    // It outlives its server all the same.
    let pid = two.one("SELECT pg_backend_pid()");
    proxy.postgres.admin().ok(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
    assert_eq!(two.one("SELECT 1"), "1");
}

#[test]
fn a_transaction_is_refused_where_statements_are_pooled() {
    let mode = Settings { pool_mode: PoolMode::Statement, ..settings() };
    let proxy = Proxy::with(Postgres::shared(), mode);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    assert_eq!(one.one("SELECT 1"), "1");
    one.simple("BEGIN").go();
    let failure = outcome(&one.until_ready()).unwrap_err();
    assert_eq!((failure.severity.as_str(), failure.code.as_str()), ("FATAL", "25001"));
    assert_eq!(two.one("SELECT 1"), "1");
    // What is set follows and does not leak, as in the other modes.
    let mut one = proxy.client();
    one.ok("SET default_transaction_read_only = on");
    assert_eq!(two.one("SHOW default_transaction_read_only"), "off");
    assert_eq!(one.one("SHOW default_transaction_read_only"), "on");
}

#[test]
fn two_threads_serve_as_one_does() {
    let size = Settings { workers: 2, default_pool_size: 4, ..settings() };
    let proxy = Arc::new(Proxy::with(Postgres::shared(), size));
    proxy.client().ok("CREATE TABLE IF NOT EXISTS many (client int, n int)");
    proxy.client().ok("TRUNCATE many");
    let threads: Vec<_> = (0..12)
        .map(|number: i32| {
            let proxy = Arc::clone(&proxy);
            std::thread::spawn(move || {
                let mut client = proxy.client();
                client.ok(&format!("SET my.number = '{number}'"));
                client
                    .parse("s", "INSERT INTO many SELECT current_setting('my.number')::int, $1::int")
                    .sync()
                    .go();
                for n in 0..30 {
                    client.ok("BEGIN");
                    client.run("s", &[&n.to_string()]).unwrap();
                    client.ok(if n % 3 == 0 { "ROLLBACK" } else { "COMMIT" });
                    assert_eq!(client.one("SHOW my.number"), number.to_string());
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut client = proxy.client();
    let counts = client.ok("SELECT count(*) FROM many GROUP BY client");
    assert_eq!(counts, vec![[Some("20".to_owned())]; 12]);
    // The other thread hears of it a moment later, when a statement may be on its way.
    proxy.lose_primary();
    proxy.member.primary(proxy.postgres.route("a"));
    wait_for("the primary of the next epoch", || client.query("SELECT 1").is_ok());
    client.ok("DROP TABLE many");
}

#[test]
fn limits_of_time_are_kept() {
    let short = Duration::from_millis(300);
    let limits = |change: &dyn Fn(&mut Settings)| {
        let mut limits = Settings { default_pool_size: 2, ..settings() };
        change(&mut limits);
        Proxy::with(Postgres::shared(), limits)
    };
    let proxy = limits(&|settings| settings.client_idle_timeout = short);
    let mut client = proxy.client();
    let failure = outcome(&client.until_ready()).unwrap_err();
    assert_eq!(failure.code, "57P01");
    assert!(failure.text.contains("client_idle_timeout"));
    let proxy = limits(&|settings| settings.idle_transaction_timeout = short);
    let mut client = proxy.client();
    client.ok("BEGIN");
    assert_eq!(code(outcome(&client.until_ready())), "57P01");
    let proxy = limits(&|settings| settings.query_timeout = short);
    assert_eq!(proxy.client().code("SELECT pg_sleep(20)"), "57P01");
    let proxy = limits(&|settings| settings.server_idle_timeout = short);
    let mut client = proxy.client();
    let pid = client.one("SELECT pg_backend_pid()");
    let mut admin = proxy.postgres.admin();
    let alive = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    wait_for("the idle server connection to end", || admin.one(&alive) == "0");
    assert_ne!(client.one("SELECT pg_backend_pid()"), pid);
}
