//! Clients that send ahead, within copies and behind errors: what they are answered is theirs, and nobody else's.

use std::time::Duration;

use crate::proxy::Proxy;
use crate::wire::{code, kinds, outcome};

/// pgx sends a whole copy without waiting for the answer to its beginning: the server was never given back, and a `Sync` after it
/// was not counted.
#[test]
fn a_copy_that_is_sent_at_once_gives_its_server_back() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("CREATE TABLE ahead_1 (n int)");
    one.simple("COPY ahead_1 FROM STDIN").copy_data(b"1\n").message(b'c', |_| {});
    assert_eq!(kinds(&one.go()), "GCZ");
    assert_eq!(two.one("SELECT 2"), "2");
    assert_eq!(one.extended("SELECT 3").unwrap()[0][0].as_deref(), Some("3"));
    assert_eq!(two.one("SELECT 4"), "4");
}

/// The second `Sync` was taken for one that PostgreSQL throws away, so the server was given back with an answer under way, which
/// came to the next client.
#[test]
fn an_answer_that_is_under_way_goes_to_nobody_else() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("CREATE TABLE ahead_2 (n int)");
    one.parse("", "COPY ahead_2 FROM STDIN").bind("", "", &[]).execute("").sync();
    one.message(b'f', |out| out.push(0)).sync();
    one.simple("SELECT 'a'").simple("SELECT pg_sleep(0.3), 'one'");
    assert_eq!(kinds(&one.go()), "12GEZ");
    let waiting = std::thread::spawn(move || two.one("SELECT 'two'"));
    assert_eq!(kinds(&one.until_ready()), "TDCZ");
    assert_eq!(kinds(&one.until_ready()), "TDCZ");
    drop(one);
    assert_eq!(waiting.join().unwrap(), "two");
}

/// Data that cannot be read ends a copy, and the `Sync` behind it is answered, of which the proxy knew nothing.
#[test]
fn a_copy_that_is_broken_off_leads_nobody_astray() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("CREATE TABLE ahead_3 (n int)");
    one.parse("", "COPY ahead_3 FROM STDIN").bind("", "", &[]).execute("").sync().send();
    while one.next().unwrap().0 != b'G' {}
    one.copy_data(b"bad\n").sync().simple("SELECT pg_sleep(0.3), 'one'");
    assert_eq!(kinds(&one.go()), "EZ");
    let waiting = std::thread::spawn(move || two.one("SELECT 'two'"));
    assert_eq!(kinds(&one.until_ready()), "TDCZ");
    drop(one);
    assert_eq!(waiting.join().unwrap(), "two");
}

/// What an error skips was undone from its beginning, so that the second `Parse` of a name took the first with it.
#[test]
fn what_is_skipped_is_undone_from_its_end() {
    let proxy = Proxy::new();
    let mut one = proxy.client();
    one.parse("s", "SELECT 'first'").bind("", "missing", &[]);
    one.close(b'S', "s").close(b'S', "s").parse("s", "SELECT 'second'").sync();
    assert_eq!(kinds(&one.go()), "1EZ");
    assert_eq!(one.run("s", &[]).unwrap()[0][0].as_deref(), Some("first"));
    assert_eq!(code(outcome(&one.parse("s", "SELECT 1").sync().go())), "42P05");
}

/// PostgreSQL refuses it there, and the statement stays.
#[test]
fn a_statement_is_not_deallocated_in_a_failed_transaction() {
    let proxy = Proxy::new();
    let mut one = proxy.client();
    one.parse("s", "SELECT 1").sync().go();
    one.ok("BEGIN");
    assert_eq!(one.code("SELECT 1/0"), "22012");
    assert_eq!(one.code("DEALLOCATE s"), "25P02");
    one.ok("ROLLBACK");
    assert_eq!(one.run("s", &[]).unwrap()[0][0].as_deref(), Some("1"));
}

/// Messages that a `Flush` follows are a batch like any other once their `Sync` has come.
#[test]
fn a_flush_is_no_reason_to_keep_a_server() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.parse("", "SELECT 1").flush().send();
    assert_eq!(one.next().unwrap().0, b'1');
    one.bind("", "", &[]).execute("").sync();
    assert_eq!(kinds(&one.go()), "2DCZ");
    two.socket.as_ref().unwrap().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(two.one("SELECT 2"), "2");
}
