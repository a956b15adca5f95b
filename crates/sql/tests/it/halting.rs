//! `PAUSE` and its kin.

use std::time::Duration;

use mainstay_sql::Settings;

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Wire, kinds, outcome, tags};

fn paused(console: &mut Wire, database: &str) -> String {
    let rows = console.table("SHOW DATABASES");
    rows.into_iter().find(|row| row["name"] == database).unwrap().remove("paused").unwrap()
}

fn two_threads() -> Proxy {
    Proxy::with(Postgres::shared(), Settings { workers: 2, default_pool_size: 4, ..settings() })
}

#[test]
fn a_pause_lets_transactions_end_and_new_work_wait() {
    let proxy = two_threads();
    let (mut busy, mut other) = (proxy.client(), proxy.client());
    busy.ok("BEGIN");
    let mut console = proxy.boss("mainstay");
    console.simple("PAUSE app").send();
    let mut second = proxy.boss("mainstay");
    wait_for("the pause", || paused(&mut second, "app") == "1");
    assert_eq!(second.code("PAUSE app"), "55000");
    other.simple("SELECT 1").send();
    // The transaction under way is not waited for in vain.
    assert_eq!(busy.one("SELECT 2"), "2");
    busy.ok("COMMIT");
    assert_eq!(tags(&console.until_ready()), ["PAUSE"]);
    assert!(second.table("SHOW SERVERS").iter().all(|server| server["database"] != "app"));
    // Clients that come now wait too.
    std::thread::scope(|scope| {
        let comes = scope.spawn(|| proxy.client().one("SELECT 3"));
        wait_for("one to wait", || {
            second
                .table("SHOW POOLS")
                .iter()
                .any(|pool| pool["database"] == "app" && pool["cl_waiting"] != "0")
        });
        // Whoever has paused it may go.
        drop(console);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(paused(&mut second, "app"), "1");
        second.ok("RESUME app");
        assert_eq!(comes.join().unwrap(), "3");
    });
    assert_eq!(outcome(&other.until_ready()).unwrap(), [[Some("1".to_owned())]]);
    assert_eq!(second.code("RESUME"), "55000");
}

#[test]
fn a_pause_that_nobody_waits_for_is_taken_back() {
    let proxy = two_threads();
    let mut busy = proxy.client();
    busy.ok("BEGIN");
    let mut second = proxy.boss("mainstay");
    let mut console = proxy.boss("mainstay");
    console.simple("PAUSE").send();
    wait_for("the pause", || paused(&mut second, "app") == "1");
    drop(console);
    wait_for("its end", || paused(&mut second, "app") == "0");
    // The same if it is cancelled.
    let mut console = proxy.boss("mainstay");
    console.simple("PAUSE").send();
    wait_for("the pause", || paused(&mut second, "app") == "1");
    crate::cancelling::cancel(&proxy, console.key.clone());
    assert_eq!(outcome(&console.until_ready()).unwrap_err().code, "57014");
    assert_eq!(paused(&mut second, "app"), "0");
    busy.ok("COMMIT");
}

#[test]
fn who_waits_too_long_is_told_of_the_pause() {
    let patience = Duration::from_millis(300);
    let proxy = Proxy::with(Postgres::shared(), Settings { query_wait_timeout: patience, ..settings() });
    let mut client = proxy.client();
    let mut console = proxy.boss("mainstay");
    console.ok("PAUSE");
    assert_eq!(console.table("SHOW STATE")[1]["value"], "yes");
    let failure = client.query("SELECT 1").unwrap_err();
    assert_eq!(failure.code, "57P03");
    assert!(failure.text.contains("paused"), "{failure}");
    console.ok("RESUME");
    assert_eq!(client.one("SELECT 1"), "1");
}

#[test]
fn a_disabled_database_takes_no_new_clients() {
    let proxy = two_threads();
    let mut client = proxy.client();
    let mut console = proxy.boss("mainstay");
    console.ok("DISABLE app");
    let failure = proxy.try_connect(&[("user", "app"), ("database", "app")], "secret").err().unwrap();
    assert_eq!((failure.severity.as_str(), failure.code.as_str()), ("FATAL", "55000"));
    assert_eq!(client.one("SELECT 1"), "1");
    console.ok("ENABLE app");
    assert_eq!(proxy.client().one("SELECT 1"), "1");
    assert_eq!(console.code("DISABLE"), "42601");
}

#[test]
fn a_kill_ends_all_and_lets_newcomers_wait() {
    let proxy = two_threads();
    let (mut idle, mut busy) = (proxy.client(), proxy.client());
    busy.ok("BEGIN");
    let mut console = proxy.boss("mainstay");
    console.ok("KILL app");
    for client in [&mut idle, &mut busy] {
        assert_eq!(kinds(&client.until_ready()), "E!");
    }
    wait_for("the servers to go", || {
        console.table("SHOW SERVERS").iter().all(|server| server["database"] != "app")
    });
    std::thread::scope(|scope| {
        let comes = scope.spawn(|| proxy.client().one("SELECT 3"));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!comes.is_finished());
        console.ok("RESUME app");
        assert_eq!(comes.join().unwrap(), "3");
    });
    // Of all databases, and not of the console.
    let mut clients = [proxy.client(), proxy.boss("postgres")];
    console.ok("KILL");
    clients.iter_mut().for_each(|client| assert_eq!(kinds(&client.until_ready()), "E!"));
    console.ok("RESUME");
}

#[test]
fn it_can_be_waited_until_old_servers_are_closed() {
    let proxy = two_threads();
    let mut busy = proxy.client();
    busy.ok("BEGIN");
    let mut console = proxy.boss("mainstay");
    console.ok("WAIT_CLOSE");
    console.ok("RECONNECT app");
    let mut second = proxy.boss("mainstay");
    assert!(second.table("SHOW SERVERS").iter().any(|server| server["close_needed"] == "1"));
    console.simple("WAIT_CLOSE app").send();
    assert_eq!(busy.one("SELECT 1"), "1");
    busy.ok("COMMIT");
    assert_eq!(tags(&console.until_ready()), ["WAIT_CLOSE"]);
    assert!(second.table("SHOW SERVERS").iter().all(|server| server["close_needed"] == "0"));
}

#[test]
fn an_end_waits_for_what_it_is_told_to_wait_for() {
    let proxy = two_threads();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("BEGIN");
    let mut console = proxy.boss("mainstay");
    console.ok("SHUTDOWN WAIT_FOR_CLIENTS");
    wait_for("nobody to be let in", || Wire::tcp(proxy.port).is_err());
    assert_eq!(two.one("SELECT 1"), "1");
    console.ok("SHUTDOWN WAIT_FOR_SERVERS");
    assert_eq!(outcome(&two.until_ready()).unwrap_err().code, "57P01");
    assert_eq!(one.one("SELECT 1"), "1");
    assert!(!proxy.is_closed());
    one.ok("COMMIT");
    wait_for("its end", || proxy.is_closed());
}

/// Nobody will get a server any more.
#[test]
fn an_end_tells_those_who_wait_for_a_server() {
    let proxy = Proxy::new();
    let (mut begun, mut waits) = (proxy.client(), proxy.client());
    begun.ok("BEGIN");
    waits.simple("SELECT 1").send();
    let mut console = proxy.boss("mainstay");
    wait_for("it to wait", || {
        console.table("SHOW CLIENTS").iter().any(|client| client["state"] == "waiting")
    });
    console.ok("SHUTDOWN WAIT_FOR_SERVERS");
    assert_eq!(outcome(&waits.until_ready()).unwrap_err().code, "57P01");
    assert_eq!(begun.one("SELECT 1"), "1");
    begun.ok("COMMIT");
    wait_for("its end", || proxy.is_closed());
}

#[test]
fn it_ends_when_an_administrator_says_so() {
    let proxy = two_threads();
    let mut client = proxy.client();
    proxy.boss("mainstay").ok("SHUTDOWN");
    assert_eq!(outcome(&client.until_ready()).unwrap_err().code, "57P01");
    wait_for("its end", || proxy.is_closed());
}
