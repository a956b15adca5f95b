//! Prepared statements: one server's names, many clients' names, and replies that must not get out of step.

use crate::proxy::Proxy;
use crate::wire::{Failure, code, kinds, outcome, tags};

fn value(rows: Result<Vec<Vec<Option<String>>>, Failure>) -> String {
    rows.unwrap()[0][0].clone().unwrap()
}

#[test]
fn one_name_is_another_statement_for_another_client() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    assert_eq!(kinds(&one.parse("s", "SELECT 'one' || $1").sync().go()), "1Z");
    assert_eq!(kinds(&two.parse("s", "SELECT 'two' || $1").sync().go()), "1Z");
    for _ in 0..2 {
        assert_eq!(value(one.run("s", &["!"])), "one!");
        assert_eq!(value(two.run("s", &["!"])), "two!");
    }
    assert_eq!(kinds(&one.describe(b'S', "s").sync().go()), "tTZ");
}

#[test]
fn a_statement_is_there_on_another_server() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.parse("s", "SELECT $1 || pg_backend_pid()").sync().go();
    one.parse("", "SELECT 'unnamed' || pg_backend_pid()").sync().go();
    let first = value(one.run("s", &["pid "]));
    // The first server is taken, so that the other one is used.
    two.ok("BEGIN");
    let taken = two.one("SELECT 'pid ' || pg_backend_pid()");
    let second = value(one.run("s", &["pid "]));
    assert_ne!(second, taken);
    assert!(taken == first || second == first);
    let unnamed = value(outcome(&one.bind("", "", &[]).execute("").sync().go()));
    assert!(unnamed.starts_with("unnamed"));
    assert_eq!(kinds(&one.describe(b'S', "s").bind("", "s", &["a"]).execute("").sync().go()), "tT2DCZ");
}

/// Any simple query on the server, also the proxy's own, had destroyed it.
#[test]
fn the_unnamed_statement_outlives_other_clients_queries() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.parse("", "SELECT 'mine'").sync().go();
    two.ok("SELECT 1");
    assert_eq!(value(outcome(&one.bind("", "", &[]).execute("").sync().go())), "mine");
    two.ok("SET work_mem = '5MB'");
    assert_eq!(value(outcome(&one.bind("", "", &[]).execute("").sync().go())), "mine");
    two.parse("", "SELECT 'not yours'").sync().go();
    assert_eq!(kinds(&one.describe(b'S', "").sync().go()), "tTZ");
    assert_eq!(value(outcome(&one.bind("", "", &[]).execute("").sync().go())), "mine");
}

/// A `Parse` that an error has skipped had been counted as done: another client's statement was bound instead.
#[test]
fn an_unnamed_statement_that_was_skipped_is_nobody_else_s() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    two.parse("", "SELECT 'not yours'").sync().go();
    one.bind("", "none", &[]).parse("", "SELECT 'mine'").sync();
    assert_eq!(kinds(&one.go()), "EZ");
    let outcome = outcome(&one.bind("", "", &[]).execute("").sync().go());
    assert!(outcome.is_err() || value(outcome.clone()) == "mine", "{outcome:?}");
}

#[test]
fn closed_and_deallocated_statements_are_gone() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    for close in [0, 1, 2, 3] {
        one.parse("Some \"name", "SELECT 1").sync().go();
        two.parse("Some \"name", "SELECT 1").sync().go();
        match close {
            0 => assert_eq!(kinds(&one.close(b'S', "Some \"name").sync().go()), "3Z"),
            1 => assert_eq!(tags(&one.simple("DEALLOCATE \"Some \"\"name\"").go()), ["DEALLOCATE"]),
            2 => drop(one.extended("DEALLOCATE PREPARE \"Some \"\"name\";").unwrap()),
            _ => drop(one.ok("DEALLOCATE ALL")),
        }
        assert_eq!(code(one.run("Some \"name", &[])), "26000", "{close}");
        assert_eq!(value(two.run("Some \"name", &[])), "1");
        two.close(b'S', "Some \"name").sync().go();
    }
    assert_eq!(one.code("DEALLOCATE nothing"), "26000");
    assert_eq!(kinds(&one.close(b'S', "nothing").sync().go()), "3Z");
}

/// What was prepared behind it, before it was answered, had gone with the rest.
#[test]
fn discard_all_takes_what_stands_before_it() {
    let proxy = Proxy::new();
    let mut one = proxy.client();
    one.parse("before", "SELECT 0").sync().go();
    one.parse("", "DISCARD ALL").bind("", "", &[]).execute("").sync().flush();
    one.parse("s", "SELECT 1").parse("", "SELECT pg_sleep(0.1), 2").sync().send();
    assert_eq!(kinds(&one.until_ready()), "12CZ");
    assert_eq!(kinds(&one.until_ready()), "11Z");
    assert_eq!(value(one.run("s", &[])), "1");
    assert_eq!(code(one.run("", &[])), "-");
    assert_eq!(code(one.run("before", &[])), "26000");
}

/// The server's own count of statements got wrong, and `Parse` failed with 42P05 for ever.
#[test]
fn a_deallocate_that_fails_does_no_harm() {
    let proxy = Proxy::new();
    let mut one = proxy.client();
    one.parse("s", "SELECT 'again'").sync().go();
    one.ok("BEGIN");
    assert_eq!(one.code("SELECT 1/0"), "22012");
    assert_eq!(one.code("DEALLOCATE s"), "25P02");
    one.ok("ROLLBACK");
    assert_eq!(kinds(&one.parse("t", "SELECT 'again'").sync().go()), "1Z");
    assert_eq!(value(one.run("t", &[])), "again");
}

#[test]
fn a_name_in_use_is_refused() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.parse("s", "SELECT 1").sync().go();
    assert_eq!(code(outcome(&one.parse("s", "SELECT 2").sync().go())), "42P05");
    two.ok("SELECT 1");
    assert_eq!(value(one.run("s", &[])), "1");
}

/// PostgreSQL has no statement if its `Parse` has failed, so that its name can be used.
#[test]
fn the_name_of_a_statement_that_failed_is_free() {
    let proxy = Proxy::new();
    let mut one = proxy.client();
    assert_eq!(code(outcome(&one.parse("s", "SELEKT 1").sync().go())), "42601");
    assert_eq!(code(one.run("s", &[])), "26000");
    assert_eq!(kinds(&one.parse("s", "SELECT 1").sync().go()), "1Z");
    assert_eq!(value(one.run("s", &[])), "1");
    // A Close is skipped as well, and the statement is there still.
    one.bind("", "none", &[]).close(b'S', "s").sync();
    assert_eq!(kinds(&one.go()), "EZ");
    assert_eq!(value(one.run("s", &[])), "1");
    // Skipped, since something before it has failed.
    one.bind("", "none", &[]).parse("t", "SELECT 2").sync();
    assert_eq!(kinds(&one.go()), "EZ");
    assert_eq!(code(one.run("t", &[])), "26000");
    assert_eq!(kinds(&one.parse("t", "SELECT 3").sync().go()), "1Z");
    assert_eq!(value(one.run("t", &[])), "3");
}

#[test]
fn more_statements_than_a_server_keeps() {
    let proxy = Proxy::new();
    let mut one = proxy.client();
    for n in 0..250 {
        one.parse(&format!("s{n}"), &format!("SELECT {n}")).sync();
    }
    one.send();
    for _ in 0..250 {
        assert_eq!(kinds(&one.until_ready()), "1Z");
    }
    for n in [0, 249, 3, 100, 0] {
        assert_eq!(value(one.run(&format!("s{n}"), &[])), n.to_string());
    }
    assert!(one.one("SELECT count(*) FROM pg_prepared_statements").parse::<u32>().unwrap() <= 200);
    // What the proxy closes in between is answered to nobody, and what the client closes is.
    let messages =
        one.parse("new", "SELECT 'new'").close(b'S', "s249").bind("", "new", &[]).execute("").sync().go();
    assert_eq!(kinds(&messages), "132DCZ");
    one.close(b'S', "new").parse("s249", "SELECT 249").sync().go();
    // An error before it has the server skip what the proxy puts in between: closing the oldest, preparing another.
    one.bind("", "none", &[]).bind("", "s5", &[]).execute("").sync();
    assert_eq!(kinds(&one.go()), "EZ");
    for n in 0..250 {
        assert_eq!(value(one.run(&format!("s{n}"), &[])), n.to_string());
    }
}

#[test]
fn replies_stay_in_step_when_a_pipeline_fails_in_the_middle() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    for name in ["a", "b", "bad"] {
        let sql = if name == "bad" { "SELECT 1 / $1::int" } else { "SELECT $1::int" };
        one.parse(name, sql).sync().go();
    }
    // On a server that has none of them.
    two.ok("BEGIN");
    two.ok("SELECT 1");
    one.ok("SELECT 1");
    for _ in 0..3 {
        one.bind("", "a", &["1"]).execute("").bind("", "bad", &["0"]).execute("");
        one.bind("", "b", &["2"]).execute("").parse("c", "SELECT 1").close(b'S', "c").sync();
        one.bind("", "b", &["3"]).execute("").sync();
        one.parse("c", "SELECT 4").bind("", "c", &[]).execute("").close(b'S', "c").sync();
        let messages = one.go();
        assert_eq!(kinds(&messages), "2DCEZ");
        assert_eq!(kinds(&one.until_ready()), "2DCZ");
        assert_eq!(kinds(&one.until_ready()), "12DC3Z");
    }
}

#[test]
fn flush_without_sync_is_answered() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.parse("s", "SELECT 5").describe(b'S', "s").flush().send();
    let messages: Vec<_> = (0..3).map(|_| one.next().unwrap()).collect();
    assert_eq!(kinds(&messages), "1tT");
    two.simple("SELECT 1").send();
    one.bind("", "s", &[]).execute("").flush().send();
    let messages: Vec<_> = (0..3).map(|_| one.next().unwrap()).collect();
    assert_eq!(kinds(&messages), "2DC");
    assert_eq!(kinds(&one.sync().go()), "Z");
    assert_eq!(kinds(&two.until_ready()), "TDCZ");
}

/// `Flush` and the leftovers of a copy need no server, and must not take one.
#[test]
fn a_flush_alone_takes_no_server() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.flush().copy_data(b"late").message(b'c', |_| {}).send();
    assert_eq!(one.one("SELECT 1"), "1");
    one.flush().copy_data(b"late").send();
    assert_eq!(two.one("SELECT 2"), "2");
    assert_eq!(two.one("SELECT 2"), "2");
}

/// Of a statement that another client has prepared the type was dropped: every client of that text was told "cache lookup failed",
/// for as long as the server had it (asyncpg's tests make the same types again and again).
#[test]
fn a_type_that_is_made_anew_is_found() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    let make = "DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('a', 'b')";
    one.ok(make);
    one.parse("s", "SELECT $1::mood").sync().go();
    assert_eq!(one.run("s", &["a"]).unwrap()[0][0].as_deref(), Some("a"));
    one.ok(make);
    // One client may hear of it.
    let _ = two.parse("t", "SELECT $1::mood").bind("", "t", &["b"]).execute("").sync().go();
    two.close(b'S', "t").parse("t", "SELECT $1::mood").sync().go();
    assert_eq!(two.run("t", &["b"]).unwrap()[0][0].as_deref(), Some("b"));
    one.ok("DROP TYPE mood");
}

#[test]
fn a_driver_works() {
    let proxy = Proxy::of_size(2);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut configuration = tokio_postgres::Config::new();
        configuration.host("127.0.0.1").port(proxy.port).user("app").password("secret").dbname("app");
        let connect = async || {
            let (client, connection) = configuration.connect(tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            client
        };
        let (mut one, two) = (connect().await, connect().await);
        let statement = one.prepare("SELECT $1::int4 + 1").await.unwrap();
        for n in 0..20 {
            two.query_one("SELECT 1", &[]).await.unwrap();
            let transaction = one.transaction().await.unwrap();
            let row = transaction.query_one(&statement, &[&n]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), n + 1);
            transaction.commit().await.unwrap();
        }
        let pipelined = (0..50).map(|n| two.query_one("SELECT $1::text", &[&"x"]).then_value(n));
        for found in pipelined {
            found.await;
        }
    });
}

/// A query that is already on its way before the one ahead of it is answered.
trait ThenValue: Future<Output = Result<tokio_postgres::Row, tokio_postgres::Error>> + Sized {
    async fn then_value(self, n: i32) {
        assert_eq!(self.await.unwrap().get::<_, &str>(0), "x", "{n}");
    }
}

impl<T: Future<Output = Result<tokio_postgres::Row, tokio_postgres::Error>>> ThenValue for T {}

/// PostgreSQL ends the connection that a longer message comes by, and that is a server's.
#[test]
fn a_name_may_be_as_long_as_postgresql_takes_it() {
    let proxy = Proxy::new();
    let mut one = proxy.client();
    let name = "a".repeat(9_000);
    let messages = one.parse(&name, "SELECT $1::text").describe(b'S', &name).sync().go();
    assert_eq!(kinds(&messages), "1tTZ", "{:?}", outcome(&messages));
    assert_eq!(value(one.run(&name, &["abc"])), "abc");
    assert_eq!(kinds(&one.close(b'S', &name).sync().go()), "3Z");
    assert_eq!(code(one.run(&name, &["abc"])), "26000");
    let pid = one.one("SELECT pg_backend_pid()");
    assert_eq!(code(outcome(&one.describe(b'S', &"a".repeat(20_000)).sync().go())), "08P01");
    assert_eq!(proxy.client().one("SELECT pg_backend_pid()"), pid);
}

/// The settings that the client wants are made on the server in between.
#[test]
fn what_is_long_is_prepared_on_a_server_with_other_settings() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("SET work_mem = '5MB'");
    let long = "1".repeat(100_000);
    for bytes in [8_000, 16_379, 16_380, 40_000, 100_000] {
        two.ok("SELECT 1");
        let text = &long[..bytes];
        let sql = format!("SELECT '{text}' || $1 || current_setting('work_mem')");
        one.parse("s", &sql).bind("", "s", &[text]).execute("").close(b'S', "s").sync();
        let messages = one.go();
        assert_eq!(kinds(&messages), "12DC3Z", "{bytes}");
        assert_eq!(value(outcome(&messages)).len(), 2 * bytes + 3);
    }
    assert_eq!(two.one("SHOW work_mem"), "4MB");
}

#[test]
fn the_console_counts_what_is_prepared_and_bound() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.parse("a", "SELECT 1").sync().go();
    for _ in 0..3 {
        one.run("a", &[]).unwrap();
    }
    two.ok("BEGIN");
    two.ok("SELECT 2");
    // It is made on the other server, and found on this one.
    one.run("a", &[]).unwrap();
    two.parse("b", "SELECT 1").sync().go();
    two.run("b", &[]).unwrap();
    let stats = proxy.boss("mainstay").table("SHOW STATS");
    let stats = stats.iter().find(|row| row["database"] == "app").unwrap();
    let counts = ["total_client_parse_count", "total_server_parse_count", "total_bind_count"]
        .map(|name| &*stats[name]);
    assert_eq!(counts, ["2", "2", "5"]);
}
