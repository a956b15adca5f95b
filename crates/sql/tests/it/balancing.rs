//! Readers are dealt out among the standbys.

use std::collections::BTreeMap;

use mainstay_sql::Settings;

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::Wire;

fn reader(proxy: &Proxy) -> Wire {
    let mut reader = proxy.try_connect(&[("user", "app"), ("database", "app@ro")], "secret").unwrap();
    reader.ok("BEGIN");
    reader
}

/// Server connections of readers, by member.
fn by_member(console: &mut Wire) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for server in console.table("SHOW SERVERS").iter().filter(|server| server["database"] == "app@ro") {
        *counts.entry(server["member"].clone()).or_default() += 1;
    }
    counts
}

#[test]
fn the_standby_with_the_fewest_is_next() {
    let size = Settings { default_pool_size: 20, ..settings() };
    let proxy = Proxy::with(Postgres::shared(), size);
    let mut console = proxy.boss("mainstay");
    let tell = |members: &[&str]| {
        // Where they are does not matter: the same server has all their names.
        let standbys: Vec<_> = members.iter().map(|member| proxy.postgres.route(member)).collect();
        proxy.member.tell(|routes| routes.standbys = standbys);
    };
    let known = |console: &mut Wire, count: usize| {
        wait_for("the standbys", || console.table("SHOW ROUTES").len() == 1 + count);
    };
    tell(&["b", "c"]);
    known(&mut console, 2);
    let mut readers: Vec<Wire> = (0..6).map(|_| reader(&proxy)).collect();
    assert_eq!(by_member(&mut console), [("b".to_owned(), 3), ("c".to_owned(), 3)].into());
    // One is lost: whoever was there is told, and comes back to the other.
    tell(&["c"]);
    known(&mut console, 1);
    let lost = readers.iter_mut().map(|reader| reader.query("SELECT 1")).filter(Result::is_err).count();
    assert_eq!(lost, 3);
    drop(readers);
    let mut readers: Vec<Wire> = (0..4).map(|_| reader(&proxy)).collect();
    wait_for("the others to go", || by_member(&mut console) == [("c".to_owned(), 4)].into());
    // It comes back and is next, until both have as many.
    tell(&["b", "c"]);
    known(&mut console, 2);
    readers.extend((0..4).map(|_| reader(&proxy)));
    let counts = by_member(&mut console);
    assert_eq!((counts["b"], counts["c"]), (4, 4));
    assert!(readers.iter_mut().all(|reader| reader.query("SELECT 1").is_ok()));
}
