//! Settings that change while the proxy runs.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_sql::{PoolMode, Settings, UserSettings};

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};

fn begun() -> (Proxy, Settings) {
    let begun = Settings { workers: 2, ..settings() };
    let proxy = Proxy::with(Postgres::shared(), begun.clone());
    (proxy, begun)
}

fn reload(proxy: &Proxy, settings: &Settings) -> serde_json::Value {
    proxy.order(&format!("RELOAD {}", serde_json::to_string(settings).unwrap()))
}

#[test]
fn clients_stay_while_limits_change() {
    let (proxy, before) = begun();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("SET work_mem = '5MB'");
    one.ok("BEGIN");
    two.simple("SELECT 1").send();
    let users = [("boss".to_owned(), UserSettings { pool_size: Some(3), ..UserSettings::default() })];
    let after = Settings {
        default_pool_size: 2,
        idle_transaction_timeout: Duration::from_secs(600),
        listen: "127.0.0.1:1".parse().unwrap(),
        users: BTreeMap::from(users),
        ..before.clone()
    };
    let answer = &reload(&proxy, &after)["reloaded"];
    let changed = serde_json::json!(["default_pool_size", "idle_transaction_timeout", "users"]);
    assert_eq!(answer["changed"], changed);
    assert!(answer["restart"].as_array().unwrap().contains(&"listen".into()), "{answer}");
    // Who waited has room now.
    two.until_ready();
    assert_eq!(one.one("SHOW work_mem"), "5MB");
    one.ok("COMMIT");
    let config = proxy.boss("mainstay").table("SHOW CONFIG");
    let value = |key: &str| config.iter().find(|row| row["key"] == key).unwrap()["value"].clone();
    assert_eq!((&*value("default_pool_size"), &*value("idle_transaction_timeout")), ("2", "600"));
    assert_ne!(value("listen"), "127.0.0.1:1", "what it does not do it does not show");
    // And back: what is too many is let go.
    two.ok("BEGIN");
    one.ok("SELECT 1");
    reload(&proxy, &before);
    let mut console = proxy.boss("mainstay");
    wait_for("one of the two to be let go", || {
        console.table("SHOW SERVERS").iter().filter(|row| row["database"] == "app").count() == 1
    });
    two.ok("COMMIT");
    assert_eq!(one.one("SELECT 1"), "1");
}

#[test]
fn the_mode_of_a_pool_changes_for_those_who_are_there() {
    let (proxy, before) = begun();
    let mut client = proxy.client();
    client.ok("SELECT 1");
    reload(&proxy, &Settings { pool_mode: PoolMode::Session, ..before });
    client.ok("SELECT 1");
    let pools = proxy.boss("mainstay").table("SHOW POOLS");
    let pool = pools.iter().find(|pool| pool["database"] == "app").unwrap();
    assert_eq!((&*pool["pool_mode"], &*pool["sv_active"]), ("session", "1"));
}

#[test]
fn rules_hold_for_those_who_come_later() {
    let (proxy, before) = begun();
    let mut client = proxy.client();
    let connect = || proxy.try_connect(&[("user", "app"), ("database", "app")], "secret");
    let hba = vec!["hostssl all app all scram-sha-256".parse().unwrap()];
    let answer = reload(&proxy, &Settings { hba, ..before.clone() });
    assert_eq!(answer["reloaded"]["changed"], serde_json::json!(["hba"]));
    assert_eq!(connect().err().unwrap().code, "28000");
    assert_eq!(client.one("SELECT 1"), "1");
    reload(&proxy, &before);
    assert!(connect().is_ok());
}

#[test]
fn settings_that_cannot_be_read_change_nothing() {
    let (proxy, before) = begun();
    assert!(proxy.order("RELOAD {}")["failed"].as_str().unwrap().contains("cannot be read"));
    assert_eq!(reload(&proxy, &before)["reloaded"]["changed"], serde_json::json!([]));
    // The console has the member read its file.
    proxy.boss("mainstay").ok("RELOAD");
}
