//! What a session has set follows it to whichever server it is given, and to nobody else.

use crate::proxy::Proxy;
use crate::wire::{Wire, kinds};

/// Somebody who uses the only server in between.
fn pid(wire: &mut Wire) -> String {
    wire.one("SELECT pg_backend_pid()")
}

#[test]
fn two_clients_share_one_server() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    assert_eq!(pid(&mut one), pid(&mut two));
    one.ok("BEGIN");
    two.simple("SELECT 2").send();
    assert_eq!(one.one("SELECT 1"), "1");
    one.ok("COMMIT");
    assert_eq!(kinds(&two.until_ready()), "TDCZ");
}

#[test]
fn what_is_set_follows_and_does_not_leak() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    for (set, show, value) in [
        ("SET work_mem = '7MB'", "work_mem", "7MB"),
        ("SET search_path = \"$user\", 'a''b', public", "search_path", "\"$user\", \"a'b\", public"),
        ("SET my.tenant = 'it''s \\ 1'", "my.tenant", "it's \\ 1"),
        ("SET ROLE other", "role", "other"),
        ("SET DateStyle = 'German'", "DateStyle", "German, DMY"),
        ("SELECT set_config('statement_timeout', '12345', false)", "statement_timeout", "12345ms"),
        ("SELECT set_config('your.name', 'x', false)", "your.name", "x"),
        ("SET TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE", "TimeZone", "<+02>-02"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "default_transaction_read_only", "on"),
    ] {
        let show = format!("SELECT coalesce(current_setting('{show}', true), '')");
        let before = two.ok(&show);
        one.ok(set);
        for _ in 0..2 {
            assert_eq!(two.ok(&show), before, "{set} has leaked");
            assert_eq!(one.one(&show), value, "{set} is gone");
        }
    }
    one.ok("RESET ROLE");
    one.ok("RESET ALL");
    assert_eq!(two.one("SHOW work_mem"), "4MB");
    assert_eq!(one.one("SHOW work_mem"), "4MB");
    assert_eq!(one.one("SELECT current_user"), "app");
}

#[test]
fn what_is_set_in_a_transaction_is_kept_if_it_commits() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("BEGIN");
    one.ok("SET work_mem = '5MB'");
    one.ok("SET LOCAL TimeZone = 'Asia/Tokyo'");
    assert_eq!(one.one("SHOW TimeZone"), "Asia/Tokyo");
    one.ok("COMMIT");
    two.ok("SELECT 1");
    assert_eq!((one.one("SHOW work_mem"), one.one("SHOW TimeZone")), ("5MB".into(), "UTC".into()));
    one.ok("BEGIN");
    one.ok("SET work_mem = '6MB'");
    one.ok("ROLLBACK");
    two.ok("SELECT 1");
    assert_eq!(one.one("SHOW work_mem"), "5MB");
    assert_eq!(two.one("SHOW work_mem"), "4MB");
}

/// Behind `SET TRANSACTION` `pg_settings` has the isolation as the session's. On a server whose default was another one that client
/// was told that its settings cannot be had.
#[test]
fn the_isolation_of_a_transaction_is_no_setting_of_the_session() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("BEGIN");
    one.ok("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE");
    one.ok("SET work_mem = '5MB'");
    one.ok("COMMIT");
    two.ok("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE");
    for _ in 0..2 {
        assert_eq!(one.one("SHOW transaction_isolation"), "read committed");
        assert_eq!(
            (one.one("SHOW transaction_read_only"), one.one("SHOW work_mem")),
            ("off".into(), "5MB".into())
        );
        assert_eq!(two.one("SHOW transaction_isolation"), "serializable");
    }
}

/// A parameter that a function sets is reported by the server only if it is one of those that clients need to know.
#[test]
fn what_a_function_sets_and_the_server_reports_is_seen() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    two.ok("CREATE OR REPLACE FUNCTION in_tokyo() RETURNS text LANGUAGE plpgsql AS \
            $$ BEGIN SET TimeZone = 'Asia/Tokyo'; RETURN 'x'; END $$");
    one.ok("SELECT in_tokyo()");
    assert_eq!(two.one("SHOW TimeZone"), "UTC");
    assert_eq!(one.one("SHOW TimeZone"), "Asia/Tokyo");
}

#[test]
fn several_statements_at_once_are_looked_into() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("SELECT 1; SET my.tenant = '4'; SET work_mem = '5MB'; SELECT 2");
    assert_eq!(two.one("SELECT coalesce(current_setting('my.tenant', true), '')"), "");
    assert_eq!(two.one("SHOW work_mem"), "4MB");
    assert_eq!(one.one("SHOW my.tenant"), "4");
    one.ok("BEGIN; COMMIT; SET statement_timeout = 7777");
    one.ok("BEGIN; SET LOCAL work_mem = '6MB'; COMMIT");
    assert_eq!(two.one("SHOW statement_timeout"), "0");
    assert_eq!(
        (one.one("SHOW statement_timeout"), one.one("SHOW work_mem")),
        ("7777ms".into(), "5MB".into())
    );
}

/// Neither what another one sets nor what it prepares by SQL takes a statement of the protocol away.
#[test]
fn what_is_cleaned_up_leaves_prepared_statements() {
    let proxy = Proxy::new();
    let mut one = proxy.client();
    one.parse("s", "SELECT 'mine'").sync().go();
    for leaves in ["SET default_transaction_read_only = on", "PREPARE of_sql AS SELECT 2", "SET ROLE other"] {
        let mut two = proxy.client();
        two.ok(leaves);
        drop(two);
        assert_eq!(one.run("s", &[]).unwrap()[0][0].as_deref(), Some("mine"), "{leaves}");
        assert_eq!(one.one("SELECT current_user || current_setting('transaction_read_only')"), "appoff");
    }
    // The name is free again.
    proxy.client().ok("PREPARE of_sql AS SELECT 3");
}

/// Only the beginning of a long text was looked at, so that what stood behind it went to the next client.
#[test]
fn the_end_of_a_long_text_is_not_overlooked() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    let filler = "x".repeat(200_000);
    one.ok(&format!("SELECT length('{filler}'); CREATE TEMP TABLE left_behind (); SET work_mem = '5MB'"));
    assert_eq!(one.one("SELECT count(*) FROM left_behind"), "0");
    drop(one);
    assert_eq!(two.code("SELECT count(*) FROM left_behind"), "42P01");
    assert_eq!(two.one("SHOW work_mem"), "4MB");
}

#[test]
fn another_session_user_stays_with_its_server() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.boss("app"), proxy.boss("app"));
    one.ok("SET SESSION AUTHORIZATION app");
    two.simple("SELECT session_user").send();
    assert_eq!(one.one("SELECT session_user"), "app");
    drop(one);
    assert_eq!(crate::wire::outcome(&two.until_ready()).unwrap()[0][0].as_deref(), Some("boss"));
}

#[test]
fn discard_all_is_what_it_is_without_a_proxy() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("SET work_mem = '5MB'");
    one.parse("s", "SELECT 1").sync().go();
    one.ok("DISCARD ALL");
    two.ok("SELECT 1");
    assert_eq!(one.one("SHOW work_mem"), "4MB");
    assert_eq!(crate::wire::code(one.run("s", &[])), "26000");
    assert_eq!(kinds(&one.parse("s", "SELECT 2").sync().go()), "1Z");
    assert_eq!(one.run("s", &[]).unwrap()[0][0].as_deref(), Some("2"));
}

/// Readers without a standby are at the primary.
#[test]
fn who_asks_for_readers_writes_nothing_by_mistake() {
    let proxy = Proxy::new();
    let mut reader = proxy.try_connect(&[("user", "app"), ("database", "app@ro")], "secret").unwrap();
    assert_eq!(reader.parameter("default_transaction_read_only"), Some("on"));
    assert_eq!(reader.code("CREATE TABLE by_a_reader ()"), "25006");
    reader.ok("SET work_mem = '5MB'");
    assert_eq!(reader.one("SHOW work_mem"), "5MB");
    reader.ok("RESET ALL");
    assert_eq!(reader.code("CREATE TABLE by_a_reader ()"), "25006");
    // On purpose it may, and the next one is none the wiser.
    reader.ok("SET default_transaction_read_only = off");
    reader.ok("CREATE TABLE by_a_reader ()");
    let mut other = proxy.try_connect(&[("user", "app"), ("database", "app@ro")], "secret").unwrap();
    assert_eq!(other.code("DROP TABLE by_a_reader"), "25006");
    reader.ok("DROP TABLE by_a_reader");
    assert_eq!(proxy.client().one("SHOW default_transaction_read_only"), "off");
}
