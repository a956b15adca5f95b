//! What the member beside the proxy asks and orders.

use mainstay_sql::Settings;

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};

fn two_threads() -> Proxy {
    Proxy::with(Postgres::shared(), Settings { workers: 2, default_pool_size: 4, ..settings() })
}

#[test]
fn the_status_tells_of_pools_and_of_how_long_things_take() {
    let proxy = two_threads();
    let mut clients = [proxy.client(), proxy.client(), proxy.client()];
    for client in &mut clients {
        for _ in 0..20 {
            client.ok("SELECT pg_sleep(0.02)");
        }
        client.ok("BEGIN");
        client.ok("SELECT pg_sleep(0.06)");
        client.ok("COMMIT");
    }
    clients[0].ok("BEGIN");
    let status = proxy.order("STATUS");
    assert_eq!(
        (&status["holds"], &status["primary"], &status["clients"]),
        (&false.into(), &"a".into(), &3.into())
    );
    let pool = &status["pools"][0];
    let values = ["database", "user", "access", "pool_mode"].map(|name| pool[name].as_str().unwrap());
    assert_eq!(values, ["app", "app", "rw", "transaction"]);
    let numbers = ["clients_active", "clients_idle", "servers_active", "transactions", "queries"];
    assert_eq!(numbers.map(|name| pool[name].as_u64().unwrap()), [1, 2, 1, 63, 70]);
    assert!(pool["transactions_per_second"].as_f64().unwrap() > 1.0, "{pool}");
    let times = |what: &str| ["p50_us", "p95_us", "p99_us"].map(|name| pool[what][name].as_u64().unwrap());
    let [half, _, most] = times("query");
    assert!((19_000..40_000).contains(&half) && most >= 57_000, "{half} {most}");
    assert!(times("transaction")[2] >= 57_000);
    assert_eq!(times("wait")[0], 0, "most have waited for nothing: {pool}");
    assert_eq!(pool["query"]["count"], 70);
    let counted: u64 =
        pool["query"]["powers_of_two_us"].as_array().unwrap().iter().map(|it| it.as_u64().unwrap()).sum();
    assert_eq!(counted, 70);
}

#[test]
fn the_status_says_why_writes_wait() {
    let proxy = two_threads();
    proxy.lose_primary();
    let status = proxy.order("STATUS");
    assert_eq!((&status["holds"], &status["reason"]), (&true.into(), &"The primary has failed.".into()));
}

#[test]
fn the_member_passes_orders_on() {
    let proxy = two_threads();
    let mut client = proxy.client();
    assert_eq!(proxy.order("PAUSE app")["done"], "PAUSE");
    client.simple("SELECT 1").send();
    wait_for("the client to wait", || proxy.order("STATUS")["pools"][0]["clients_waiting"] == 1);
    assert_eq!(proxy.order("STATUS")["pools"][0]["paused"], true);
    assert!(proxy.order("PAUSE app")["failed"].as_str().unwrap().contains("paused already; RESUME"));
    assert_eq!(proxy.order("RESUME app")["done"], "RESUME");
    client.until_ready();
    assert_eq!(proxy.order("RECONNECT")["done"], "RECONNECT");
    assert!(proxy.order("SELECT 1")["failed"].as_str().is_some());
}
