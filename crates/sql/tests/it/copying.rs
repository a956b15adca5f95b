//! Copies, values that are longer than any buffer, and clients that do not read.

use std::io::Read;
use std::time::Duration;

use crate::proxy::Proxy;
use crate::wire::{Wire, code, kinds, outcome, tags};

fn table(client: &mut Wire, name: &str) {
    client.ok(&format!("DROP TABLE IF EXISTS {name}"));
    client.ok(&format!("CREATE TABLE {name} (n int, t text)"));
}

/// Reads up to and with the message that lets the client send its data.
fn copy_begins(client: &mut Wire) {
    loop {
        match client.next().unwrap() {
            (b'G', _) => return,
            (kind, _) => assert!(matches!(kind, b'1' | b'2'), "{}", char::from(kind)),
        }
    }
}

#[test]
fn simple_copies_go_in_and_out() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    table(&mut one, "copied");
    one.simple("COPY copied FROM STDIN").send();
    copy_begins(&mut one);
    let row = format!("1\t{}\n", "x".repeat(3_000_000));
    let messages = one.copy_data(row.as_bytes()).copy_data(b"2\ty\n").message(b'c', |_| {}).go();
    assert_eq!(tags(&messages), ["COPY 2"]);
    assert_eq!(two.one("SELECT sum(length(t)) FROM copied"), "3000001");
    let messages = one.simple("COPY copied TO STDOUT").go();
    assert_eq!(kinds(&messages), "HddcCZ");
    assert_eq!(messages[1].1, row.as_bytes());
    one.simple("COPY copied FROM STDIN").send();
    copy_begins(&mut one);
    let messages = one.copy_data(b"3\tz\n").message(b'f', |out| out.extend_from_slice(b"no\0")).go();
    assert_eq!((kinds(&messages).as_str(), code(outcome(&messages))), ("EZ", "57014".to_owned()));
    assert_eq!(two.one("SELECT count(*) FROM copied"), "2");
    one.ok("DROP TABLE copied");
}

#[test]
fn extended_copies_take_a_sync_early_or_late() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    table(&mut one, "synced");
    for is_early in [true, false] {
        one.parse("", "COPY synced FROM STDIN").bind("", "", &[]).execute("");
        // PostgreSQL throws it away, as it does with those that come before the data has ended.
        if is_early { one.sync() } else { one.flush() }.send();
        copy_begins(&mut one);
        let messages = one.copy_data(b"1\ta\n").sync().message(b'c', |_| {}).sync().go();
        assert_eq!((kinds(&messages).as_str(), tags(&messages)), ("CZ", vec!["COPY 1".to_owned()]));
        assert_eq!(two.one("SELECT count(*) FROM synced"), if is_early { "1" } else { "2" });
        // All in one piece.
        one.parse("", "COPY synced FROM STDIN").bind("", "", &[]).execute("");
        one.copy_data(b"bad\n").message(b'c', |_| {}).sync();
        let messages = one.go();
        assert_eq!((kinds(&messages).as_str(), code(outcome(&messages))), ("12GEZ", "22P02".to_owned()));
    }
    assert_eq!(
        kinds(&one.parse("", "COPY synced TO STDOUT").bind("", "", &[]).execute("").sync().go()),
        "12HddcCZ"
    );
    one.ok("DROP TABLE synced");
}

#[test]
fn a_prepared_copy_works_and_fails_on_any_server() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    table(&mut one, "prepared_copy");
    one.parse("in", "COPY prepared_copy FROM STDIN").parse("out", "COPY prepared_copy TO STDOUT").sync().go();
    for moves in [false, true] {
        if moves {
            two.ok("BEGIN");
        }
        for (row, wanted) in [(&b"1\ta\n"[..], "-"), (b"bad\n", "22P02")] {
            one.bind("", "in", &[]).execute("").sync().send();
            copy_begins(&mut one);
            let messages = one.copy_data(row).message(b'c', |_| {}).sync().go();
            assert_eq!(code(outcome(&messages)), wanted);
        }
        // Whoever waits for the error before it ends its data.
        one.bind("", "in", &[]).execute("").sync().send();
        copy_begins(&mut one);
        one.copy_data(b"bad\n").flush().send();
        assert_eq!(one.next().unwrap().0, b'E');
        assert_eq!(kinds(&one.message(b'c', |_| {}).sync().go()), "Z");
        let messages = one.bind("", "out", &[]).execute("").sync().go();
        assert_eq!(kinds(&messages), if moves { "2HddcCZ" } else { "2HdcCZ" });
    }
    two.ok("COMMIT");
    one.ok("DROP TABLE prepared_copy");
}

/// What is left of a copy that has failed took a server, and kept it.
#[test]
fn a_copy_that_fails_gives_its_server_back() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    table(&mut one, "failing");
    one.simple("COPY failing FROM STDIN").send();
    copy_begins(&mut one);
    one.copy_data(b"not a number\ta\n").send();
    // More data than is looked at, of which the rest comes after the error was told.
    let mut data = one.copy_data(&vec![b'x'; 200_000]).take();
    let rest = data.split_off(100_000);
    one.write(&data).unwrap();
    let messages = one.until_ready();
    assert_eq!(code(outcome(&messages)), "22P02");
    two.simple("SELECT 2").send();
    one.write(&rest).unwrap();
    one.copy_data(&vec![b'y'; 100_000]).message(b'c', |_| {}).send();
    assert_eq!(kinds(&two.until_ready()), "TDCZ");
    assert_eq!(one.one("SELECT 1"), "1");
    one.ok("DROP TABLE failing");
}

#[test]
fn a_server_that_goes_in_the_middle_of_a_copy() {
    let proxy = Proxy::of_size(2);
    let mut one = proxy.client();
    table(&mut one, "cut");
    for is_in_transaction in [false, true] {
        if is_in_transaction {
            one.ok("BEGIN");
        }
        let pid = one.one("SELECT pg_backend_pid()");
        one.simple("COPY cut FROM STDIN").send();
        copy_begins(&mut one);
        one.copy_data(b"1\ta\n").send();
        proxy.postgres.admin().ok(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
        let messages = one.copy_data(b"2\tb\n").message(b'c', |_| {}).go();
        let wanted = if is_in_transaction { ("40001", b'E') } else { ("08007", b'I') };
        assert_eq!((code(outcome(&messages)).as_str(), one.status), wanted);
        if is_in_transaction {
            one.ok("ROLLBACK");
        }
        assert_eq!(one.one("SELECT count(*) FROM cut"), "0");
    }
    one.ok("DROP TABLE cut");
}

#[test]
fn long_values_go_both_ways() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    for length in [65_530, 65_536, 70_000, 1_200_000, 5_000_000] {
        let value = "v".repeat(length);
        assert_eq!(one.one(&format!("SELECT '{value}'")), value);
        one.parse("long", "SELECT $1::text, length($1)").sync().go();
        two.ok("SELECT 1");
        assert_eq!(one.run("long", &[&value]).unwrap(), [[Some(value.clone()), Some(length.to_string())]]);
        let text = format!("SELECT length('{value}')");
        assert_eq!(one.extended(&text).unwrap()[0][0].as_deref(), Some(length.to_string().as_str()));
        one.close(b'S', "long").sync().go();
    }
    let mut one = proxy.client();
    // It is told so, if it still listens: it may find the connection closed while it sends.
    let too_long = one.parse("too long", &"x".repeat(17 << 20)).take();
    let _ = one.write(&too_long);
    assert!(outcome(&one.until_ready()).is_err());
    assert_eq!(two.one("SELECT 1"), "1");
}

/// Bytes of memory that this process uses.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_client_that_does_not_read_fills_no_memory() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    let before = resident();
    let megabytes = 300;
    one.simple(&format!("SELECT repeat('x', 1000000) FROM generate_series(1, {megabytes})")).send();
    for _ in 0..50 {
        two.ok("SELECT 1");
    }
    // The server stands still long before it has sent everything.
    let mut admin = proxy.postgres.admin();
    let writes = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND usename = 'app'";
    crate::postgres::wait_for("the server to stand still", || admin.one(writes) == "1");
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes more");
    let mut chunk = vec![0; 1 << 20];
    let mut left: usize = megabytes * 1_000_000;
    while left > 0 {
        let read = one.stream.read(&mut chunk).unwrap();
        assert!(read > 0);
        left = left.saturating_sub(read);
    }
    one.socket.as_ref().unwrap().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    drop(one);
    assert_eq!(two.one("SELECT 1"), "1");
}

/// A client that sends without end to a server that does not take it is not read any further.
#[test]
fn a_server_that_does_not_read_fills_no_memory() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (proxy.client(), proxy.client());
    let pid = one.one("SELECT pg_backend_pid()");
    one.simple("SELECT pg_sleep(60)").send();
    let mut admin = proxy.postgres.admin();
    let sleeps = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
    crate::postgres::wait_for("the sleep", || admin.ok(&sleeps)[0][0].as_deref() == Some("PgSleep"));
    let before = resident();
    one.socket.as_ref().unwrap().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let query = one.simple(&format!("SELECT length('{}')", "x".repeat(1_000_000))).take();
    let mut sent = 0;
    while sent < 200 && one.write(&query).is_ok() {
        sent += 1;
    }
    assert!(sent < 200, "everything was taken");
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes more");
    assert_eq!(two.one("SELECT 1"), "1");
    admin.ok(&format!("SELECT pg_cancel_backend({pid})"));
}

/// A client that goes in the middle of a message leaves a server behind that waits for the rest of it.
#[test]
fn a_torn_copy_is_nobody_else_s() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    table(&mut one, "torn");
    one.simple("COPY torn FROM STDIN").send();
    copy_begins(&mut one);
    // Refused at its first row; then the beginning of a long message, and no more.
    let mut bytes =
        one.copy_data(b"no number\tx\n").message(b'd', |out| out.extend(vec![b'x'; 100_000])).take();
    bytes.truncate(bytes.len() - 50_000);
    one.write(&bytes).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    drop(one);
    assert_eq!(two.one("SELECT count(*) FROM torn"), "0");
    two.ok("DROP TABLE torn");
}
