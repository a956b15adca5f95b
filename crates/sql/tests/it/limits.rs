//! Limits of connections, which are the process's, however many threads there are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mainstay_sql::{DatabaseSettings, PoolMode, Settings, UserSettings};

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Failure, Wire, outcome};

fn proxy(change: impl FnOnce(&mut Settings)) -> Proxy {
    let mut limits = Settings { workers: 3, default_pool_size: 4, ..settings() };
    change(&mut limits);
    Proxy::with(Postgres::shared(), limits)
}

/// Clients in a transaction, each with a server.
fn busy(proxy: &Proxy, count: usize) -> Vec<Wire> {
    let begin = || {
        let mut client = proxy.client();
        client.ok("BEGIN");
        client
    };
    (0..count).map(|_| begin()).collect()
}

fn pool(console: &mut Wire) -> BTreeMap<String, String> {
    console.table("SHOW POOLS").into_iter().find(|pool| pool["database"] == "app").unwrap()
}

fn servers(console: &mut Wire) -> usize {
    let pool = pool(console);
    ["sv_active", "sv_idle"].map(|name| pool[name].parse::<usize>().unwrap()).iter().sum()
}

#[test]
fn a_pool_is_as_large_as_it_may_be_and_no_larger() {
    let proxy = proxy(|limits| limits.query_wait_timeout = Duration::from_secs(2));
    let mut console = proxy.boss("mainstay");
    let mut late = proxy.client();
    // Whichever threads the kernel gives them to.
    let mut clients = busy(&proxy, 4);
    assert_eq!(servers(&mut console), 4);
    let failure = late.query("SELECT 1").unwrap_err();
    assert_eq!(failure.code, "53300");
    assert!(failure.detail.contains("default_pool_size"), "{failure}");
    clients[0].ok("COMMIT");
    // What one thread does not need goes to those that do.
    assert_eq!(late.one("SELECT 1"), "1");
    assert!(servers(&mut console) <= 4);
}

#[test]
fn one_server_serves_the_clients_of_all_threads() {
    let proxy = proxy(|limits| limits.default_pool_size = 1);
    let mut clients: Vec<Wire> = (0..12).map(|_| proxy.client()).collect();
    for round in 0..3 {
        clients.iter_mut().for_each(|client| {
            client.simple("SELECT pg_sleep(0.002)").send();
        });
        for client in &mut clients {
            assert!(outcome(&client.until_ready()).is_ok(), "round {round}");
        }
    }
    assert!(servers(&mut proxy.boss("mainstay")) <= 1);
}

#[test]
fn a_database_and_a_role_have_their_limits() {
    let short = Duration::from_millis(500);
    let told = |proxy: &Proxy| {
        let mut late = proxy.client();
        let busy = busy(proxy, 2);
        (late.query("SELECT 1").unwrap_err(), busy)
    };
    let by_database = proxy(|limits| (limits.max_db_connections, limits.query_wait_timeout) = (2, short));
    assert!(told(&by_database).0.detail.contains("max_db_connections"));
    let by_user = proxy(|limits| (limits.max_user_connections, limits.query_wait_timeout) = (2, short));
    let (failure, _busy) = told(&by_user);
    assert!(failure.detail.contains("max_user_connections"));
    let table = by_user.boss("mainstay").table("SHOW USERS");
    let app = table.iter().find(|user| user["name"] == "app").unwrap();
    assert_eq!((&*app["max_user_connections"], &*app["current_connections"]), ("2", "2"));
}

#[test]
fn an_idle_server_makes_way_for_another_pool_of_its_database() {
    let proxy = proxy(|limits| limits.max_db_connections = 1);
    assert_eq!(proxy.client().one("SELECT 1"), "1");
    let mut boss = proxy.try_connect(&[("user", "boss"), ("database", "app")], "boss").unwrap();
    assert_eq!(boss.one("SELECT current_user"), "boss");
    assert_eq!(proxy.client().one("SELECT current_user"), "app");
}

#[test]
fn clients_are_counted_by_database_and_role() {
    let proxy = proxy(|limits| {
        limits.max_db_client_connections = 3;
        let two = UserSettings { max_user_client_connections: Some(2), ..UserSettings::default() };
        limits.users.insert("app".to_owned(), two);
    });
    let connect = |user: &str, password: &str| -> Result<Wire, Failure> {
        proxy.try_connect(&[("user", user), ("database", "app")], password)
    };
    let mut held = vec![connect("app", "secret").unwrap(), connect("app", "secret").unwrap()];
    let failure = connect("app", "secret").err().unwrap();
    assert_eq!((failure.severity.as_str(), failure.code.as_str()), ("FATAL", "53300"));
    assert!(failure.text.contains("max_user_client_connections"), "{failure}");
    held.push(connect("boss", "boss").unwrap());
    assert!(connect("boss", "boss").err().unwrap().text.contains("max_db_client_connections"));
    held.remove(0);
    wait_for("room for another one", || connect("app", "secret").is_ok());
}

#[test]
fn a_reserve_is_opened_for_those_who_wait_too_long() {
    let proxy = proxy(|limits| {
        (limits.default_pool_size, limits.reserve_pool_size) = (1, 1);
        limits.reserve_pool_timeout = Duration::from_millis(400);
    });
    let _busy = busy(&proxy, 1);
    let begun = Instant::now();
    assert_eq!(proxy.client().one("SELECT 1"), "1");
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(servers(&mut proxy.boss("mainstay")), 2);
}

#[test]
fn some_servers_are_kept_while_there_are_clients() {
    let proxy = proxy(|limits| {
        limits.server_idle_timeout = Duration::from_millis(300);
        let database = DatabaseSettings { min_pool_size: Some(2), ..DatabaseSettings::default() };
        limits.databases.insert("app".to_owned(), database);
    });
    let mut console = proxy.boss("mainstay");
    let client = proxy.client();
    wait_for("the least", || servers(&mut console) == 2);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(servers(&mut console), 2);
    drop(client);
    wait_for("the end of the last", || servers(&mut console) == 0);
}

#[test]
fn databases_and_roles_have_modes_of_their_own() {
    let proxy = proxy(|limits| {
        let own = UserSettings { pool_mode: Some(PoolMode::Session), ..UserSettings::default() };
        limits.users.insert("app".to_owned(), own);
    });
    let mut client = proxy.client();
    client.ok("SELECT 1");
    let mut console = proxy.boss("mainstay");
    let pool = pool(&mut console);
    assert_eq!((&*pool["pool_mode"], &*pool["sv_active"]), ("session", "1"));
}

#[test]
fn a_transaction_that_takes_too_long_is_ended() {
    let proxy = proxy(|limits| limits.transaction_timeout = Duration::from_millis(400));
    let mut client = proxy.client();
    client.ok("BEGIN");
    let begun = Instant::now();
    let ended = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        client.query("SELECT 1").err()
    });
    assert!(ended.unwrap().text.contains("transaction_timeout"));
    assert!(begun.elapsed() >= Duration::from_millis(400));
}

#[test]
fn a_client_that_does_not_say_who_it_is_is_not_waited_for() {
    let proxy = proxy(|limits| limits.client_login_timeout = Duration::from_millis(300));
    let mut silent = Wire::tcp(proxy.port).unwrap();
    let begun = Instant::now();
    assert!(silent.next().is_err());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_role_has_a_pool_and_a_reserve_of_its_own_size() {
    for is_of_role in [true, false] {
        let proxy = proxy(|limits| {
            (limits.reserve_pool_timeout, limits.query_wait_timeout) =
                (Duration::from_millis(200), Duration::from_millis(700));
            let reserve = |is_here: bool| is_here.then_some(1);
            let app = UserSettings {
                pool_size: Some(1),
                reserve_pool_size: reserve(is_of_role),
                ..UserSettings::default()
            };
            limits.users.insert("app".to_owned(), app);
            let app =
                DatabaseSettings { reserve_pool_size: reserve(!is_of_role), ..DatabaseSettings::default() };
            limits.databases.insert("app".to_owned(), app);
        });
        let mut late = proxy.client();
        let begun = Instant::now();
        let _busy = busy(&proxy, 2);
        assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
        assert_eq!(late.code("SELECT 1"), "53300");
        // Nothing of it is another role's, and the console shows which one has said something.
        let mut bosses = [proxy.boss("app"), proxy.boss("app"), proxy.boss("app")];
        bosses.iter_mut().for_each(|boss| drop(boss.ok("BEGIN")));
        let users = proxy.boss("mainstay").table("SHOW USERS");
        let sizes = |name: &str| {
            let user = users.iter().find(|user| user["name"] == name).unwrap();
            [user["pool_size"].clone(), user["reserve_pool_size"].clone()]
        };
        assert_eq!(sizes("app"), ["1", if is_of_role { "1" } else { "" }]);
        assert_eq!(sizes("boss"), ["", ""]);
    }
}

/// Else servers would be opened and closed without end.
#[test]
fn no_more_are_kept_open_than_another_limit_leaves() {
    let least = |change: fn(&mut Settings)| {
        proxy(|limits| {
            limits.min_pool_size = 4;
            change(limits);
        })
    };
    let proxies =
        [least(|limits| limits.max_db_connections = 2), least(|limits| limits.max_user_connections = 2)];
    let clients = proxies.each_ref().map(Proxy::client);
    let mut consoles = proxies.each_ref().map(|proxy| proxy.boss("mainstay"));
    let mut pids = consoles.each_mut().map(|console| {
        move || -> Vec<String> {
            let servers = console.table("SHOW SERVERS");
            let of_app = servers.iter().filter(|server| server["database"] == "app");
            of_app.map(|server| server["remote_pid"].clone()).collect()
        }
    });
    let kept = pids.each_mut().map(|pids| {
        wait_for("as many as may be", || pids().len() == 2);
        pids()
    });
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(pids.each_mut().map(|pids| pids()), kept);
    drop(clients);
}

#[test]
fn a_role_s_limit_is_one_of_all_its_databases() {
    let proxy = proxy(|limits| {
        (limits.max_user_connections, limits.query_wait_timeout) = (2, Duration::from_millis(500));
    });
    let connect = |database| proxy.try_connect(&[("user", "app"), ("database", database)], "secret").unwrap();
    let (mut one, mut two) = (connect("app"), connect("postgres"));
    one.ok("BEGIN");
    two.ok("BEGIN");
    for database in ["app", "postgres"] {
        let failure = connect(database).query("SELECT 1").unwrap_err();
        assert!(failure.detail.contains("max_user_connections"), "{failure}");
    }
    one.ok("COMMIT");
    assert_eq!(connect("postgres").one("SELECT 1"), "1");
}

#[test]
fn neither_the_console_nor_who_fails_to_come_in_takes_a_place() {
    let proxy = proxy(|limits| {
        (limits.max_db_client_connections, limits.max_user_client_connections) = (1, 1);
    });
    let mut console = proxy.boss("mainstay");
    let _another = proxy.boss("mainstay");
    let connect = |user: &str, database: &str, password: &str| {
        proxy.try_connect(&[("user", user), ("database", database)], password)
    };
    for _ in 0..3 {
        assert!(connect("app", "app", "wrong").is_err());
        assert!(connect("app", "nowhere", "secret").is_err());
        assert!(connect("nobody", "app", "secret").is_err());
    }
    let _client = connect("app", "app", "secret").unwrap();
    assert!(connect("boss", "app", "boss").err().unwrap().text.contains("max_db_client_connections"));
    let users = console.table("SHOW USERS");
    assert!(users.iter().all(|user| user["name"] != "nobody"));
    let app = users.iter().find(|user| user["name"] == "app").unwrap();
    assert_eq!((&*app["current_client_connections"], &*app["max_user_client_connections"]), ("1", "1"));
    let databases = console.table("SHOW DATABASES");
    let app = databases.iter().find(|database| database["name"] == "app").unwrap();
    assert_eq!((&*app["current_client_connections"], &*app["max_client_connections"]), ("1", "1"));
}
