//! The primary goes away and another takes its place: who notices what.

use std::time::{Duration, Instant};

use mainstay_sql::Settings;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::postgres::{LONG, Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Wire, code, kinds, outcome, tags};

/// How many wait for a server, by what the console says.
fn waiting(console: &mut Wire) -> usize {
    console.table("SHOW CLIENTS").iter().filter(|client| client["state"] == "waiting").count()
}

fn wait_until_waiting(proxy: &Proxy, count: usize) {
    let mut console = proxy.boss("mainstay");
    wait_for("clients to wait", || waiting(&mut console) == count);
}

#[test]
fn clients_wait_for_a_primary() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    proxy.lose_primary();
    one.simple("SELECT 1").send();
    two.parse("", "SELECT 2").bind("", "", &[]).execute("").sync().send();
    wait_until_waiting(&proxy, 2);
    proxy.member.primary(proxy.postgres.route("a"));
    assert_eq!(kinds(&one.until_ready()), "TDCZ");
    assert_eq!(kinds(&two.until_ready()), "12DCZ");
}

#[test]
fn who_waits_too_long_is_told_and_kept() {
    let patience = Duration::from_millis(300);
    let proxy = Proxy::with(Postgres::shared(), Settings { query_wait_timeout: patience, ..settings() });
    let (mut one, mut two) = (proxy.client(), proxy.client());
    proxy.lose_primary();
    let long = format!("SELECT length('{}')", "x".repeat(500_000));
    assert_eq!(one.code(&long), "57P03");
    assert_eq!(one.code("SELECT 1"), "57P03");
    let messages = two.parse("s", "SELECT 1").bind("", "s", &[]).execute("").sync().go();
    assert_eq!((kinds(&messages).as_str(), code(outcome(&messages))), ("EZ", "57P03".to_owned()));
    let failure = proxy.try_connect(&[("user", "app"), ("database", "nowhere")], "secret").err().unwrap();
    assert_eq!((failure.severity.as_str(), failure.code.as_str()), ("FATAL", "57P03"));
    proxy.member.primary(proxy.postgres.route("a"));
    assert_eq!(one.one(&long), "500000");
    assert_eq!(kinds(&two.parse("s", "SELECT 1").bind("", "s", &[]).execute("").sync().go()), "12DCZ");
    // The same words for those for whom there is no room, with another code.
    one.ok("BEGIN");
    assert_eq!(two.code("SELECT 1"), "53300");
    one.ok("ROLLBACK");
    assert_eq!(two.code("SELECT 1"), "-");
}

#[test]
fn who_leaves_while_it_waits_frees_its_place() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("BEGIN");
    two.simple("SELECT 1").send();
    wait_until_waiting(&proxy, 1);
    drop(two);
    wait_until_waiting(&proxy, 0);
    one.ok("COMMIT");
    assert_eq!(proxy.client().one("SELECT 1"), "1");
}

#[test]
fn an_idle_session_does_not_notice() {
    let primary = std::sync::Arc::new(Postgres::new());
    let standby = primary.standby();
    let proxy = Proxy::with(std::sync::Arc::clone(&primary), Settings { default_pool_size: 4, ..settings() });
    let mut clients: Vec<Wire> = (0..4).map(|_| proxy.client()).collect();
    clients[0].ok("CREATE TABLE kept (n int)");
    for (n, client) in clients.iter_mut().enumerate() {
        client.ok(&format!("SET work_mem = '{}MB'", 11 + n));
        client.ok(&format!("SET my.tenant = '{n}'"));
        client.parse("s", "INSERT INTO kept VALUES ($1) RETURNING n").sync().go();
        client.run("s", &[&n.to_string()]).unwrap();
    }
    standby.catch_up(&primary);
    let mut open = proxy.client();
    open.ok("BEGIN");
    open.ok("INSERT INTO kept VALUES (99)");
    primary.crash();
    proxy.lose_primary();
    for (n, client) in clients.iter_mut().enumerate().take(2) {
        client.bind("", "s", &[&(n + 10).to_string()]).execute("").sync().send();
    }
    standby.promote();
    proxy.member.primary(standby.route("b"));
    for client in clients.iter_mut().take(2) {
        assert_eq!(kinds(&client.until_ready()), "2DCZ");
    }
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.one("SHOW work_mem"), format!("{}MB", 11 + n));
        assert_eq!(client.one("SHOW my.tenant"), n.to_string());
        client.run("s", &[&(n + 20).to_string()]).unwrap();
    }
    assert_eq!(open.code("INSERT INTO kept VALUES (98)"), "40001");
    assert_eq!(tags(&open.simple("ROLLBACK").go()), ["ROLLBACK"]);
    assert_eq!(open.one("SELECT count(*) FROM kept"), "10");
    assert_eq!(open.one("SELECT count(*) FROM kept WHERE n > 50"), "0");
}

/// Ends the server's side of a client that is in a transaction.
fn terminate(proxy: &Proxy, pid: &str) {
    assert_eq!(proxy.postgres.admin().one(&format!("SELECT pg_terminate_backend({pid}, 10000)")), "t");
}

fn in_transaction(proxy: &Proxy) -> Wire {
    let mut client = proxy.client();
    client.ok("BEGIN");
    let pid = client.one("SELECT pg_backend_pid()");
    terminate(proxy, &pid);
    client
}

#[test]
fn a_transaction_that_is_gone_is_ended_by_the_client() {
    let proxy = Proxy::of_size(2);
    // Simple.
    let mut client = in_transaction(&proxy);
    for _ in 0..2 {
        let messages = client.simple("SELECT 1").go();
        assert_eq!((code(outcome(&messages)).as_str(), client.status), ("40001", b'E'));
    }
    assert_eq!((tags(&client.simple("ROLLBACK").go()), client.status), (vec!["ROLLBACK".to_owned()], b'I'));
    assert_eq!(client.one("SELECT 1"), "1");
    // COMMIT tells that it was none.
    let mut client = in_transaction(&proxy);
    assert_eq!((client.code("COMMIT"), client.status), ("40001".to_owned(), b'I'));
    assert_eq!(client.one("SELECT 1"), "1");
    // Extended.
    let mut client = in_transaction(&proxy);
    assert_eq!((code(client.extended("SELECT 1")), client.status), ("40001".to_owned(), b'E'));
    assert_eq!(kinds(&client.parse("r", "ROLLBACK").describe(b'S', "r").sync().go()), "1tnZ");
    assert_eq!(client.status, b'E');
    let messages = client.close(b'S', "other").bind("", "r", &[]).describe(b'P', "").execute("").sync().go();
    assert_eq!((kinds(&messages).as_str(), client.status), ("32nCZ", b'I'));
    assert_eq!(tags(&messages), ["ROLLBACK"]);
    // The statement that was prepared meanwhile is there.
    client.ok("BEGIN");
    assert_eq!(tags(&client.bind("", "r", &[]).execute("").sync().go()), ["ROLLBACK"]);
    let mut client = in_transaction(&proxy);
    assert_eq!((code(client.extended("COMMIT")), client.status), ("40001".to_owned(), b'I'));
    assert_eq!(client.one("SELECT 1"), "1");
}

/// What stood behind a `ROLLBACK` in the same batch was answered without being executed.
#[test]
fn what_follows_the_rollback_is_executed() {
    let proxy = Proxy::of_size(2);
    let mut client = in_transaction(&proxy);
    assert_eq!(client.code("SELECT 1"), "40001");
    client.parse("", "ROLLBACK").bind("", "", &[]).execute("");
    client.parse("", "SELECT 7").bind("", "", &[]).execute("").sync();
    let messages = client.go();
    assert_eq!(kinds(&messages), "12C12DCZ");
    assert_eq!(outcome(&messages).unwrap()[0][0].as_deref(), Some("7"));
}

/// A query of several statements had been taken for a commit: the rest of the transaction was executed outside of any.
#[test]
fn several_statements_in_a_transaction_are_no_commit() {
    let proxy = Proxy::of_size(2);
    let mut client = proxy.client();
    client.ok("BEGIN");
    client.ok("SELECT 1; SELECT 2");
    let pid = client.one("SELECT pg_backend_pid()");
    terminate(&proxy, &pid);
    assert_eq!((client.code("SELECT 1"), client.status), ("40001".to_owned(), b'E'));
    client.ok("ROLLBACK");
}

#[test]
fn an_idle_backend_that_is_terminated_is_replaced() {
    let proxy = Proxy::new();
    let mut client = proxy.client();
    for _ in 0..3 {
        let pid = client.one("SELECT pg_backend_pid()");
        terminate(&proxy, &pid);
        assert_ne!(client.one("SELECT pg_backend_pid()"), pid);
    }
}

#[test]
fn a_statement_outside_of_a_transaction_is_unknown() {
    let proxy = Proxy::of_size(2);
    for is_killed in [false, true] {
        // A SIGKILL of one backend has the postmaster end all: a server of its own.
        let proxy =
            if is_killed { &Proxy::with(std::sync::Arc::new(Postgres::new()), settings()) } else { &proxy };
        let mut client = proxy.client();
        let pid = client.one("SELECT pg_backend_pid()");
        client.simple("SELECT pg_sleep(60)").send();
        let running = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'");
        let mut admin = proxy.postgres.admin();
        wait_for("the statement to run", || admin.one(&running) == "1");
        if is_killed {
            kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
        } else {
            terminate(proxy, &pid);
        }
        is_unknown(&mut client);
        assert_eq!(client.one("SELECT 1"), "1");
    }
}

/// A commit that waits for a standby that does not exist.
fn waiting_commit(is_extended: bool) -> (Proxy, Wire, String) {
    let postgres = std::sync::Arc::new(Postgres::new());
    let proxy = Proxy::with(postgres, Settings { default_pool_size: 2, ..settings() });
    let mut client = proxy.client();
    client.ok("CREATE TABLE waited (n int)");
    let mut admin = proxy.postgres.admin();
    admin.ok("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    admin.ok("SELECT pg_reload_conf()");
    wait_for("the reload", || client.one("SHOW synchronous_standby_names") == "nobody");
    // It is the checkpointer that tells the others whether commits wait at all.
    admin.ok("CHECKPOINT");
    client.ok("BEGIN");
    client.ok("INSERT INTO waited VALUES (1)");
    let pid = client.one("SELECT pg_backend_pid()");
    if is_extended {
        client.parse("", "COMMIT").bind("", "", &[]).execute("").sync().send();
    } else {
        client.simple("COMMIT").send();
    }
    let waits = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
    wait_for("the commit to wait", || admin.ok(&waits)[0][0].as_deref() == Some("SyncRep"));
    (proxy, client, pid)
}

/// Ends the server of a statement that sleeps.
fn terminate_sleeping(proxy: &Proxy) {
    let mut admin = proxy.postgres.admin();
    let sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_for("the statement to sleep", || admin.ok(sleeping).len() == 1);
    let pid = admin.one(sleeping);
    terminate(proxy, &pid);
}

/// It was called unknown whether a transaction took effect whose commit nobody had sent.
#[test]
fn a_transaction_that_only_began_is_rolled_back() {
    let proxy = Proxy::with(std::sync::Arc::new(Postgres::new()), settings());
    let mut client = proxy.client();
    client.parse("b", "BEGIN").parse("s", "SELECT pg_sleep(60)").sync().go();
    for is_synced in [true, false] {
        client.bind("", "b", &[]).execute("").bind("", "s", &[]).execute("");
        if is_synced {
            client.sync();
        } else {
            client.flush();
        }
        client.send();
        terminate_sleeping(&proxy);
        if !is_synced {
            client.sync().send();
        }
        let messages = client.until_ready();
        assert_eq!((code(outcome(&messages)).as_str(), client.status), ("40001", b'E'));
        // What was sent ahead must not be executed outside of the transaction that it belongs to.
        let messages = client.bind("", "s", &[]).execute("").sync().go();
        assert_eq!((code(outcome(&messages)).as_str(), client.status), ("40001", b'E'));
        assert_eq!(
            (tags(&client.simple("ROLLBACK").go()), client.status),
            (vec!["ROLLBACK".to_owned()], b'I')
        );
    }
}

/// What is not within the transaction for certain is unknown.
#[test]
fn what_may_stand_outside_of_the_transaction_is_unknown() {
    let proxy = Proxy::with(std::sync::Arc::new(Postgres::new()), settings());
    let mut client = proxy.client();
    client.parse("b", "BEGIN").parse("s", "SELECT pg_sleep(60)").parse("r", "ROLLBACK").sync().go();
    for number in 0..5 {
        match number {
            // It is rolled back, and what sleeps is outside.
            0 => client
                .bind("", "b", &[])
                .execute("")
                .bind("", "r", &[])
                .execute("")
                .bind("", "s", &[])
                .execute(""),
            // The portal is another one's before it is executed.
            1 => client.bind("", "b", &[]).bind("", "s", &[]).execute(""),
            2 => client.bind("", "b", &[]).bind("p", "s", &[]).execute("p").execute(""),
            // The statement is first.
            3 => client.bind("", "s", &[]).execute("").bind("", "b", &[]).execute(""),
            // The begin fails, and has nothing to do with what comes after the next Sync.
            _ => {
                client.parse("", "BEGIN NOTHING").bind("", "", &[]).execute("").sync();
                client.bind("", "s", &[]).execute("")
            }
        };
        client.sync().send();
        if number == 4 {
            assert_eq!(code(outcome(&client.until_ready())), "42601");
        }
        terminate_sleeping(&proxy);
        is_unknown(&mut client);
    }
}

fn is_unknown(client: &mut Wire) {
    let messages = client.until_ready();
    assert!(kinds(&messages).ends_with("EZ"), "{}", kinds(&messages));
    assert_eq!((code(outcome(&messages)).as_str(), client.status), ("08007", b'I'));
}

#[test]
fn a_commit_in_flight_is_unknown() {
    for is_extended in [false, true] {
        let (proxy, mut client, pid) = waiting_commit(is_extended);
        if is_extended {
            kill(Pid::from_raw(proxy.postgres.pid), Signal::SIGQUIT).unwrap();
        } else {
            terminate(&proxy, &pid);
        }
        is_unknown(&mut client);
    }
}

/// PostgreSQL answers `COMMIT` then, though no standby has it: whoever believed that could lose it.
#[test]
fn a_commit_whose_wait_is_cancelled_is_unknown() {
    let (proxy, mut client, pid) = waiting_commit(false);
    // The client itself cannot.
    crate::cancelling::cancel(&proxy, client.key.clone());
    client.socket.as_ref().unwrap().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(client.next().is_err(), "the wait was cancelled");
    client.socket.as_ref().unwrap().set_read_timeout(Some(LONG)).unwrap();
    proxy.postgres.admin().ok(&format!("SELECT pg_cancel_backend({pid})"));
    is_unknown(&mut client);
    assert_eq!(client.one("SELECT 1"), "1");
}

#[test]
fn a_session_with_something_of_its_own_ends() {
    let proxy = Proxy::of_size(2);
    for (sql, what) in [
        ("CREATE TEMP TABLE mine ()", "a temporary table"),
        ("SELECT 1; PREPARE mine AS SELECT 1", "a statement prepared with PREPARE"),
        ("SELECT pg_advisory_lock(77003)", "a session-level advisory lock"),
    ] {
        let mut client = proxy.client();
        client.ok(sql);
        let pid = client.one("SELECT pg_backend_pid()");
        terminate(&proxy, &pid);
        let messages = client.until_ready();
        let failure = outcome(&messages).unwrap_err();
        assert_eq!((failure.severity.as_str(), failure.code.as_str()), ("FATAL", "57P01"));
        assert!(failure.detail.contains(what), "{failure}");
        assert_eq!(kinds(&messages), "E!");
    }
}

/// Logins that hang at a machine that is gone had to time out before its successor was dialled.
#[test]
fn a_primary_that_hangs_is_left_behind() {
    let primary = std::sync::Arc::new(Postgres::new());
    let standby = primary.standby();
    let proxy = Proxy::with(std::sync::Arc::clone(&primary), settings());
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("SET my.tenant = '3'");
    one.ok("BEGIN");
    standby.catch_up(&primary);
    let pid = one.one("SELECT pg_backend_pid()");
    terminate(&proxy, &pid);
    assert_eq!(one.code("ROLLBACK"), "-");
    primary.signal_all(Signal::SIGSTOP);
    two.simple("SELECT 5").send();
    wait_until_waiting(&proxy, 1);
    standby.promote();
    let began = Instant::now();
    proxy.member.primary(standby.route("b"));
    assert_eq!(kinds(&two.until_ready()), "TDCZ");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(one.one("SHOW my.tenant"), "3");
    primary.signal_all(Signal::SIGCONT);
}

#[test]
fn what_an_older_epoch_says_is_not_believed() {
    let proxy = Proxy::new();
    let mut client = proxy.client();
    proxy.member.tell(|routes| routes.epoch = 7);
    let mut console = proxy.boss("mainstay");
    wait_for("the epoch", || console.ok("SHOW ROUTES")[0][5].as_deref() == Some("7"));
    client.ok("SELECT 1");
    let nowhere = Postgres::shared().route("stale");
    proxy.member.tell(|routes| {
        routes.epoch = 6;
        routes.primary = Some(mainstay_net::routes::Route { port: 1, ..nowhere });
    });
    for _ in 0..5 {
        client.ok("SELECT 1");
        assert_eq!(console.ok("SHOW ROUTES")[0][1].as_deref(), Some("a"));
    }
}

/// On a standby nothing can have been committed.
#[test]
fn a_read_that_is_lost_may_be_run_again() {
    let primary = std::sync::Arc::new(Postgres::new());
    let standby = primary.standby();
    let proxy = Proxy::with(std::sync::Arc::clone(&primary), settings());
    proxy.member.tell(|routes| routes.standbys = vec![standby.route("b")]);
    let mut reader = Wire::tcp(proxy.readonly_port).unwrap();
    reader.log_in(&[("user", "app"), ("database", "app")], "secret").unwrap();
    wait_for("the standby", || reader.one("SELECT pg_is_in_recovery()") == "t");
    let pid = reader.one("SELECT pg_backend_pid()");
    reader.simple("SELECT pg_sleep(30)").send();
    let mut admin = standby.admin();
    let sleeps = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
    wait_for("the read to run", || admin.ok(&sleeps)[0][0].as_deref() == Some("PgSleep"));
    admin.ok(&format!("SELECT pg_terminate_backend({pid})"));
    assert_eq!((code(outcome(&reader.until_ready())), reader.status), ("40001".to_owned(), b'I'));
    assert_eq!(reader.one("SELECT 1"), "1");
}

#[test]
fn who_listens_and_what_is_prepared_outlive_their_server() {
    let proxy = Proxy::of_size(2);
    let mut client = proxy.client();
    client.ok("PREPARE twice (int) AS SELECT $1 * 2");
    client.ok("LISTEN \"Mine\"");
    let pid = client.one("SELECT pg_backend_pid()");
    terminate(&proxy, &pid);
    // It asks for nothing, and is told all the same.
    let mut admin = proxy.postgres.admin();
    let listens = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%LISTEN \"Mine\"%' AND pid <> pg_backend_pid() \
                   AND state = 'idle'";
    wait_for("it to listen again", || admin.ok(listens)[0][0].as_deref() == Some("1"));
    let mut other = proxy.client();
    other.ok("NOTIFY \"Mine\", 'after'");
    let (kind, body) = client.next().unwrap();
    assert_eq!((kind, String::from_utf8_lossy(&body[4..]).into_owned()), (b'A', "Mine\0after\0".to_owned()));
    assert_eq!(client.one("EXECUTE twice(21)"), "42");
    assert_ne!(client.one("SELECT pg_backend_pid()"), pid);
    // In a transaction too, which is gone.
    client.ok("BEGIN");
    let pid = client.one("SELECT pg_backend_pid()");
    terminate(&proxy, &pid);
    assert_eq!(client.code("SELECT 1"), "40001");
    client.ok("ROLLBACK");
    assert_eq!(client.one("EXECUTE twice(4)"), "8");
    client.ok("UNLISTEN *");
    client.ok("DEALLOCATE twice");
    assert_eq!(client.one("SELECT count(*) FROM pg_prepared_statements WHERE from_sql"), "0");
}

/// What is left of a message that was begun for the server that is gone is not for the next one.
#[test]
fn the_rest_of_a_message_is_not_for_the_restored_server() {
    let proxy = Proxy::of_size(2);
    let mut client = proxy.client();
    client.ok("LISTEN rest");
    let pid = client.one("SELECT pg_backend_pid()");
    let text = format!("SELECT length('{}')", "x".repeat(600_000));
    let bytes = client.simple(&text).take();
    let (begun, rest) = bytes.split_at(400_000);
    client.write(begun).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    terminate(&proxy, &pid);
    assert_eq!(code(outcome(&client.until_ready())), "08007");
    std::thread::sleep(Duration::from_millis(300));
    client.write(rest).unwrap();
    assert_eq!(client.one("SELECT 1"), "1");
}
