//! What no other server has ties a session to its server, until the client goes.

use crate::postgres::wait_for;
use crate::proxy::Proxy;
use crate::wire::{Wire, kinds, outcome};

/// Another client, of a pool with one server, gets it only once the first has gone, and finds nothing on it.
fn is_alone(proxy: &Proxy, mut one: Wire, leftovers: &str) {
    let mut two = proxy.client();
    two.simple(leftovers).send();
    one.ok("SELECT 1");
    drop(one);
    let rows = outcome(&two.until_ready()).unwrap();
    assert_eq!(rows, [[Some("0".to_owned())]], "{leftovers}");
}

#[test]
fn a_temporary_table() {
    let proxy = Proxy::new();
    let mut one = proxy.client();
    one.ok("CREATE TEMP TABLE mine AS SELECT 5 AS n");
    assert_eq!(one.one("SELECT n FROM mine"), "5");
    is_alone(&proxy, one, "SELECT count(*) FROM pg_class WHERE relname = 'mine'");
}

#[test]
fn a_cursor_with_hold() {
    let proxy = Proxy::new();
    let mut one = proxy.client();
    one.ok("BEGIN");
    one.ok("DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 3)");
    one.ok("COMMIT");
    assert_eq!(one.one("FETCH c"), "1");
    is_alone(&proxy, one, "SELECT count(*) FROM pg_cursors");
}

#[test]
fn an_advisory_lock() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("SELECT pg_advisory_lock(77001)");
    assert_eq!(two.one("SELECT pg_try_advisory_lock(77001)"), "f");
    assert_eq!(one.one("SELECT pg_advisory_unlock(77001)"), "t");
    assert_eq!(two.one("SELECT pg_try_advisory_lock(77001)"), "t");
    drop(two);
    wait_for("the lock of the client that has gone", || one.one("SELECT pg_try_advisory_lock(77001)") == "t");
}

#[test]
fn listening() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("LISTEN listening");
    two.ok("NOTIFY listening, 'hello'");
    let (kind, body) = one.next().unwrap();
    assert_eq!(kind, b'A');
    assert!(body.windows(5).any(|window| window == b"hello"));
    one.ok("UNLISTEN *");
    two.ok("NOTIFY listening, 'nobody'");
    assert_eq!(kinds(&one.simple("SELECT 1").go()), "TDCZ");
}

/// A notification that came while the proxy asked the server about the session was lost.
#[test]
fn what_comes_while_the_proxy_asks_is_passed_on() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("LISTEN news");
    // The notification waits for the end of the session's own transaction, after which it is asked about.
    let mut found = 0;
    for n in 0..20 {
        one.simple("SET work_mem = '5MB'").send();
        two.ok(&format!("NOTIFY news, '{n}'"));
        found += kinds(&one.until_ready()).matches('A').count();
    }
    one.socket.as_ref().unwrap().set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    while found < 20 {
        let (kind, _) = one.next().expect("a notification");
        found += usize::from(kind == b'A');
    }
}

#[test]
fn a_statement_prepared_by_sql() {
    let proxy = Proxy::new();
    let mut one = proxy.client();
    one.ok("PREPARE mine AS SELECT $1::int + 1");
    assert_eq!(one.one("EXECUTE mine(4)"), "5");
    assert_eq!(one.run("mine", &["6"]).unwrap()[0][0].as_deref(), Some("7"));
    is_alone(&proxy, one, "SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'");
}

#[test]
fn what_is_given_up_sets_the_session_free() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    for (take, give) in [
        ("CREATE TEMP TABLE mine ()", "DROP TABLE mine"),
        ("PREPARE mine AS SELECT 1", "DEALLOCATE mine"),
        ("LISTEN mine", "UNLISTEN mine"),
        ("SELECT pg_advisory_lock(77002)", "SELECT pg_advisory_unlock(77002)"),
        ("CREATE TEMP TABLE mine ()", "DISCARD ALL"),
    ] {
        one.ok(take);
        two.simple("SELECT 2").send();
        one.ok(give);
        assert_eq!(kinds(&two.until_ready()), "TDCZ", "{take}");
    }
}
