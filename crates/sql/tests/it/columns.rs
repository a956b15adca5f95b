//! Columns that change under prepared statements: nobody reads a value by what it was told of another one.

use crate::postgres::Postgres;
use crate::proxy::{Proxy, settings};
use crate::wire::{Failure, Wire, code, kinds, outcome};
use mainstay_pgwire::backend::row;
use mainstay_pgwire::frame::push_string;
use mainstay_sql::{PoolMode, Settings};

/// What the client asks once, and relies on later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Statement,
    Portal,
    /// The unnamed statement, and its portal.
    Unnamed,
    UnnamedPortal,
}

impl Asked {
    const ALL: [Asked; 4] = [Asked::Statement, Asked::Portal, Asked::Unnamed, Asked::UnnamedPortal];

    fn name(self) -> &'static str {
        if matches!(self, Asked::Unnamed | Asked::UnnamedPortal) { "" } else { "s" }
    }

    fn prepare(self, client: &mut Wire, sql: &str) {
        client.parse(self.name(), sql);
        let due = match self {
            Asked::Portal | Asked::UnnamedPortal => {
                client.bind("", self.name(), &[]).describe(b'P', "").execute("");
                "12TDCZ"
            }
            Asked::Statement | Asked::Unnamed => {
                client.describe(b'S', self.name());
                "1tTZ"
            }
        };
        assert_eq!(kinds(&client.sync().go()), due, "{self:?}");
    }
}

/// `Bind` with its values in binary, and `Execute`; rows are wanted in binary.
fn binary<'a>(client: &'a mut Wire, name: &str, values: &[&[u8]]) -> &'a mut Wire {
    client.message(b'B', |out| {
        push_string(out, "");
        push_string(out, name);
        out.extend_from_slice(&[0, 1, 0, 1]);
        out.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            out.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            out.extend_from_slice(value);
        }
        out.extend_from_slice(&[0, 1, 0, 1]);
    });
    client.execute("")
}

/// The first value of the first row.
fn value(messages: &[(u8, Vec<u8>)]) -> Result<Vec<u8>, String> {
    if let Err(failure) = outcome(messages) {
        return Err(failure.code);
    }
    let (_, body) = messages.iter().find(|(kind, _)| *kind == b'D').expect("a row");
    Ok(row(body).unwrap()[0].unwrap().to_vec())
}

/// A table whose column becomes one of another type.
struct Table {
    name: String,
    admin: Wire,
    /// Else it would be gone with the last test that uses it.
    _postgres: std::sync::Arc<Postgres>,
}

impl Table {
    fn new(name: &str) -> Table {
        let postgres = Postgres::shared();
        let mut admin = postgres.admin_of("app").unwrap();
        admin.ok(&format!("DROP TABLE IF EXISTS {name}; CREATE TABLE {name} AS SELECT 1::int AS a; GRANT ALL ON {name} TO app"));
        Table { name: name.to_owned(), admin, _postgres: postgres }
    }

    fn alter(&mut self) {
        self.admin.ok(&format!("ALTER TABLE {} ALTER a TYPE real", self.name));
    }

    fn sql(&self) -> String {
        format!("SELECT a FROM {}", self.name)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let _ = self.admin.query(&format!("DROP TABLE {}", self.name));
    }
}

/// What a client is told on a server that has its statement already, and on one that has not.
fn on(client: &mut Wire, mut other: Option<&mut Wire>, table: &mut Table, asked: Asked) {
    asked.prepare(client, &table.sql());
    assert_eq!(value(&binary(client, asked.name(), &[]).sync().go()), Ok(vec![0, 0, 0, 1]), "{asked:?}");
    if let Some(other) = other.as_mut() {
        // The server that was used last is taken.
        other.ok("BEGIN");
        other.ok("SELECT 1");
    }
    table.alter();
    for _ in 0..2 {
        let messages = binary(client, asked.name(), &[]).sync().go();
        assert_eq!(value(&messages), Err("0A000".to_owned()), "{asked:?}");
        assert_eq!(kinds(&messages), "EZ");
        assert_eq!(client.status, b'I');
    }
    // An error, as any: what stands before the `Sync` is skipped, and the transaction has failed.
    client.ok("BEGIN");
    let messages = binary(client, asked.name(), &[]).parse("other", "SELECT 1").sync().go();
    assert_eq!((kinds(&messages).as_str(), client.status), ("EZ", b'E'));
    assert_eq!(client.code("SELECT 1"), "25P02");
    client.ok("ROLLBACK");
    if !asked.name().is_empty() {
        client.close(b'S', asked.name());
        assert_eq!(kinds(&client.sync().go()), "3Z");
    }
    asked.prepare(client, &table.sql());
    assert_eq!(value(&binary(client, asked.name(), &[]).sync().go()), Ok(1f32.to_be_bytes().to_vec()));
    if let Some(other) = other {
        other.ok("ROLLBACK");
    }
}

#[test]
fn a_column_of_another_type_is_refused_as_by_postgresql() {
    for asked in Asked::ALL {
        let mut table = Table::new("retyped_directly");
        let mut direct = Postgres::shared().admin_of("app").unwrap();
        on(&mut direct, None, &mut table, asked);
        let mut table = Table::new("retyped");
        on(&mut Proxy::new().client(), None, &mut table, asked);
    }
}

#[test]
fn it_is_refused_on_another_server_too() {
    for asked in Asked::ALL {
        let mut table = Table::new("retyped_elsewhere");
        let proxy = Proxy::of_size(2);
        let (mut client, mut other) = (proxy.client(), proxy.client());
        on(&mut client, Some(&mut other), &mut table, asked);
    }
}

/// Wrong values were read by all who had prepared the text before the one who has prepared it last.
#[test]
fn whoever_prepares_it_later_has_another_statement() {
    let proxy = Proxy::of_size(2);
    let (mut first, mut second) = (proxy.client(), proxy.client());
    let mut table = Table::new("retyped_between");
    Asked::Statement.prepare(&mut first, &table.sql());
    assert!(value(&binary(&mut first, "s", &[]).sync().go()).is_ok());
    // The second one prepares it where it stands not yet, and is told what it is now.
    first.ok("BEGIN");
    first.ok("SELECT 1");
    table.alter();
    Asked::Statement.prepare(&mut second, &table.sql());
    let real = Ok(1f32.to_be_bytes().to_vec());
    assert_eq!(value(&binary(&mut second, "s", &[]).sync().go()), real);
    first.ok("ROLLBACK");
    // All on one server, then on the other.
    for _ in 0..2 {
        second.ok("BEGIN");
        assert_eq!(value(&binary(&mut first, "s", &[]).sync().go()), Err("0A000".to_owned()));
        assert_eq!(value(&binary(&mut second, "s", &[]).sync().go()), real);
        second.ok("COMMIT");
        first.ok("BEGIN");
        assert_eq!(value(&binary(&mut second, "s", &[]).sync().go()), real);
        first.ok("ROLLBACK");
    }
}

/// The type of `$1` follows from a column; four bytes are both an `integer` and a `real`.
#[test]
fn parameters_keep_the_type_that_was_told() {
    let proxy = Proxy::of_size(2);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let mut table = Table::new("retyped_parameters");
    client.parse("s", &format!("INSERT INTO {} VALUES ($1)", table.name)).describe(b'S', "s").sync();
    assert_eq!(kinds(&client.go()), "1tnZ");
    other.ok("BEGIN");
    other.ok("SELECT 1");
    table.alter();
    assert_eq!(kinds(&binary(&mut client, "s", &[&[0, 0, 0, 7]]).sync().go()), "2CZ");
    other.ok("ROLLBACK");
    assert_eq!(client.one(&format!("SELECT max(a) FROM {}", table.name)), "7");
}

fn taken(other: &mut Wire) {
    other.ok("BEGIN");
    other.ok("SELECT 1");
}

/// Who was told the columns anew had forgotten what its parameters are.
#[test]
fn parameters_keep_their_type_when_columns_are_told_anew() {
    let proxy = Proxy::of_size(2);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let mut table = Table::new("retyped_returning");
    let sql = format!("UPDATE {} SET a = $1 RETURNING a", table.name);
    Asked::Statement.prepare(&mut client, &sql);
    taken(&mut other);
    table.alter();
    for n in [5u8, 6] {
        binary(&mut client, "s", &[&[0, 0, 0, n]]);
        let bound = client.take();
        // Described between the two: libpq's way.
        let (bind, execute) = bound.split_at(bound.len() - 10);
        client.write(bind).unwrap();
        let rest = client.describe(b'P', "").take();
        client.write(&[rest.as_slice(), execute].concat()).unwrap();
        let messages = client.sync().go();
        assert_eq!(kinds(&messages), "2TDCZ", "{:?}", outcome(&messages));
        assert_eq!(value(&messages), Ok(f32::from(n).to_be_bytes().to_vec()));
    }
    other.ok("ROLLBACK");
    assert_eq!(client.one(&format!("SELECT a FROM {}", table.name)), "6");
}

/// Another client's description of the portal says nothing of the parameters.
#[test]
fn parameters_are_not_taken_for_those_of_another_client() {
    let proxy = Proxy::of_size(2);
    let (mut client, mut other, mut third) = (proxy.client(), proxy.client(), proxy.client());
    let mut table = Table::new("retyped_for_three");
    let sql = format!("INSERT INTO {} VALUES ($1)", table.name);
    client.parse("s", &sql).describe(b'S', "s").sync().go();
    taken(&mut other);
    table.alter();
    third.parse("s", &sql).sync().go();
    assert_eq!(kinds(&third.bind("", "s", &["2"]).describe(b'P', "").execute("").sync().go()), "2nCZ");
    assert_eq!(kinds(&binary(&mut client, "s", &[&[0, 0, 0, 7]]).sync().go()), "2CZ");
    other.ok("ROLLBACK");
    assert_eq!(client.one(&format!("SELECT max(a) FROM {}", table.name)), "7");
}

/// PostgreSQL tells another modifier of a portal than of its statement, and another one with other parameters.
#[test]
fn a_modifier_is_no_other_type() {
    let proxy = Proxy::of_size(2);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    client.ok("CREATE TABLE modified AS SELECT 'x'::varchar(7) AS a");
    client.parse("s", "SELECT coalesce($1, a) FROM modified").sync().go();
    let null = |client: &mut Wire| {
        client.message(b'B', |out| out.extend_from_slice(b"\0s\0\0\0\0\x01\xff\xff\xff\xff\0\0"));
    };
    null(&mut client);
    assert_eq!(kinds(&client.describe(b'P', "").execute("").sync().go()), "2TDCZ");
    taken(&mut other);
    null(&mut client);
    assert_eq!(kinds(&client.execute("").sync().go()), "2DCZ");
    assert_eq!(kinds(&client.bind("", "s", &["y"]).execute("").sync().go()), "2DCZ");
    other.ok("ROLLBACK");
    client.ok("DROP TABLE modified");
}

/// Refusals and questions of several statements, sent without waiting for the answers.
#[test]
fn in_a_pipeline_each_is_told_its_own() {
    for batches in [true, false] {
        let proxy = Proxy::of_size(2);
        let (mut client, mut other) = (proxy.client(), proxy.client());
        let mut table = Table::new("retyped_pipeline");
        for (name, sql) in [("s", table.sql()), ("t", "SELECT 't'::text".to_owned())] {
            client.parse(name, &sql).describe(b'S', name).sync().go();
        }
        taken(&mut other);
        table.alter();
        for _ in 0..2 {
            let mut due = Vec::new();
            for name in ["s", "t", "s", "s", "t", "t", "none", "t"] {
                client.bind("", name, &[]).execute("");
                due.push(match name {
                    "s" => Err("0A000".to_owned()),
                    "none" => Err("26000".to_owned()),
                    _ => Ok(b"t".to_vec()),
                });
                if batches {
                    client.sync();
                }
            }
            if !batches {
                client.sync();
                due.truncate(1);
            }
            client.send();
            for due in due {
                assert_eq!(value(&client.until_ready()), due);
            }
        }
        other.ok("ROLLBACK");
    }
}

/// In one batch it is told the columns, and goes on.
#[test]
fn who_is_told_in_the_same_batch_goes_on() {
    let proxy = Proxy::of_size(2);
    let (mut client, mut other, mut third) = (proxy.client(), proxy.client(), proxy.client());
    let mut table = Table::new("retyped_at_once");
    Asked::Statement.prepare(&mut third, &table.sql());
    taken(&mut other);
    table.alter();
    client.parse("s", &table.sql()).describe(b'S', "s").bind("", "s", &[]).execute("").sync();
    assert_eq!(kinds(&client.go()), "1tT2DCZ");
    // Two statements without a name, of which one is described and the other bound.
    client
        .parse("", "SELECT 1")
        .describe(b'S', "")
        .parse("", "SELECT 'text'")
        .bind("", "", &[])
        .execute("")
        .sync();
    assert_eq!(kinds(&client.go()), "1tT12DCZ");
    other.ok("ROLLBACK");
    assert_eq!(
        outcome(&client.bind("", "", &[]).execute("").sync().go()).unwrap()[0][0].as_deref(),
        Some("text")
    );
}

/// Formats for each column rest on what was told of them, also where the portal is described.
#[test]
fn formats_for_each_column_rest_on_what_was_told() {
    let proxy = Proxy::of_size(2);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let mut table = Table::new("widened");
    let sql = format!("SELECT a, * FROM {}", table.name);
    client.parse("s", &sql).describe(b'S', "s").sync().go();
    taken(&mut other);
    table.admin.ok("ALTER TABLE widened ADD b int");
    for _ in 0..2 {
        client.message(b'B', |out| out.extend_from_slice(b"\0s\0\0\0\0\0\0\x02\0\x01\0\x01"));
        let messages = client.describe(b'P', "").execute("").sync().go();
        assert_eq!(code(outcome(&messages)), "0A000");
    }
    other.ok("ROLLBACK");
}

/// Nothing of a long `Bind` that is refused is taken for messages.
#[test]
fn a_long_bind_is_refused_as_a_whole() {
    let proxy = Proxy::of_size(2);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let mut table = Table::new("retyped_long");
    let sql = format!("SELECT a FROM {} WHERE $1 <> ''", table.name);
    Asked::Statement.prepare(&mut client, &sql);
    other.ok("BEGIN");
    other.ok("SELECT 1");
    table.alter();
    let long = vec![b'x'; 300_000];
    for _ in 0..2 {
        let messages = binary(&mut client, "s", &[&long]).sync().go();
        assert_eq!((kinds(&messages).as_str(), value(&messages)), ("EZ", Err("0A000".to_owned())));
        assert_eq!(client.one("SELECT 1"), "1");
    }
    other.ok("ROLLBACK");
}

/// The server waits for a lock when it is asked what the statement is.
#[test]
fn a_client_that_goes_while_its_statement_is_held_leaves_no_trace() {
    let proxy = Proxy::of_size(2);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let mut table = Table::new("retyped_locked");
    Asked::Statement.prepare(&mut client, &table.sql());
    other.ok("BEGIN");
    other.ok("SELECT 1");
    let name = table.name.clone();
    table.admin.ok(&format!("BEGIN; LOCK TABLE {name}"));
    binary(&mut client, "s", &[]).sync().send();
    let mut boss = proxy.boss("mainstay");
    let clients =
        |boss: &mut Wire| boss.table("SHOW CLIENTS").iter().filter(|row| row["user"] == "app").count();
    crate::postgres::wait_for("the server to wait", || {
        Postgres::shared().admin_of("app").unwrap().one("SELECT count(*) FROM pg_locks WHERE NOT granted")
            != "0"
    });
    assert_eq!(clients(&mut boss), 2);
    drop(client);
    crate::postgres::wait_for("the session to end", || clients(&mut boss) == 1);
    table.admin.ok("ROLLBACK");
    other.ok("ROLLBACK");
    assert_eq!(proxy.client().one(&table.sql()), "1");
}

/// Whoever has each portal described, as libpq does, relies on nothing: an alteration is no error for it.
fn described(client: &mut Wire, name: &str) -> Result<usize, Failure> {
    let messages = client.bind("", name, &[]).describe(b'P', "").execute("").sync().go();
    outcome(&messages).map(|rows| rows[0].len())
}

/// A migration logs in as another role than the application.
#[test]
fn an_alteration_by_another_role_hinders_nobody_who_asks() {
    let settings = Settings { workers: 2, default_pool_size: 4, ..settings() };
    let proxy = Proxy::with(Postgres::shared(), settings);
    let mut boss = proxy.boss("app");
    boss.ok(
        "CREATE TABLE migrated (a int); GRANT SELECT ON migrated TO app; INSERT INTO migrated VALUES (1)",
    );
    let mut clients: Vec<Wire> = (0..6).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.parse("s", "SELECT * FROM migrated").sync().go();
        assert_eq!(described(client, "s").unwrap(), 1);
    }
    boss.ok("ALTER TABLE migrated ADD b int");
    // The other thread hears of it a moment later.
    std::thread::sleep(std::time::Duration::from_millis(50));
    for client in &mut clients {
        assert_eq!(described(client, "s").unwrap(), 2);
    }
    boss.ok("DROP TABLE migrated");
}

/// Who prepares a text after a table was altered knows nothing of who has prepared it before.
#[test]
fn a_text_is_prepared_anew_after_an_alteration() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("CREATE TABLE altered (a int)");
    Asked::Statement.prepare(&mut one, "SELECT * FROM altered");
    assert!(one.run("s", &[]).is_ok());
    two.ok("ALTER TABLE altered ADD b int");
    Asked::Statement.prepare(&mut two, "SELECT * FROM altered");
    assert_eq!(code(two.run("s", &[])), "-");
    assert_eq!(code(one.run("s", &[])), "0A000");
    two.ok("DROP TABLE altered");
}

fn stale_plan(proxy: &Proxy, table: &str) {
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok(&format!("DROP TABLE IF EXISTS {table}"));
    one.ok(&format!("CREATE TABLE {table} AS SELECT 1 AS a"));
    one.parse("s", &format!("SELECT * FROM {table}")).sync().go();
    assert_eq!(one.run("s", &[]).unwrap()[0].len(), 1);
    two.parse("s", &format!("SELECT * FROM {table}")).sync().go();
    assert_eq!(two.run("s", &[]).unwrap()[0].len(), 1);
    // Behind the proxy's back; what goes through it is seen.
    proxy.postgres.admin_of("app").unwrap().ok(&format!("ALTER TABLE {table} ADD b int"));
    assert_eq!(code(one.run("s", &[])), "0A000");
    // Prepared anew, or with its columns asked for, it is there.
    assert_eq!(described(&mut one, "s").unwrap(), 2);
    // Whoever else has it is hindered once at most.
    let _ = described(&mut two, "s");
    assert_eq!(described(&mut two, "s").unwrap(), 2);
    one.ok(&format!("DROP TABLE {table}"));
}

#[test]
fn a_plan_that_changed_under_a_statement_is_made_anew_for_who_asks() {
    stale_plan(&Proxy::new(), "changing");
    stale_plan(&Proxy::of_size(2), "changing_of_two");
    let session = Settings { pool_mode: PoolMode::Session, default_pool_size: 2, ..settings() };
    stale_plan(&Proxy::with(Postgres::shared(), session), "changing_of_sessions");
}

/// The same text means another table for each of them (one schema for each customer).
#[test]
fn the_search_path_keeps_statements_apart() {
    let proxy = Proxy::new();
    let mut admin = proxy.boss("app");
    admin.ok("CREATE SCHEMA one; CREATE SCHEMA two; GRANT USAGE ON SCHEMA one, two TO app");
    admin.ok("CREATE TABLE one.apart AS SELECT 1 AS a; CREATE TABLE two.apart AS SELECT '2'::text AS a");
    admin.ok("GRANT SELECT ON one.apart, two.apart TO app");
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("SET search_path = one");
    two.ok("SET search_path = two");
    for client in [&mut one, &mut two] {
        Asked::Statement.prepare(client, "SELECT a FROM apart WHERE a = $1");
    }
    for _ in 0..2 {
        assert_eq!(outcome(&one.bind("", "s", &["1"]).execute("").sync().go()).unwrap().len(), 1);
        assert_eq!(outcome(&two.bind("", "s", &["2"]).execute("").sync().go()).unwrap().len(), 1);
    }
    for (client, schema, key) in [(&mut one, "one", "1"), (&mut two, "two", "2")] {
        client.ok("BEGIN");
        client.ok("RESET search_path");
        client.ok(&format!("SET LOCAL search_path = {schema}"));
        client.parse("t", "SELECT a, a FROM apart WHERE a = $1").describe(b'S', "t").sync();
        assert_eq!(kinds(&client.go()), "1tTZ");
        assert_eq!(outcome(&client.bind("", "t", &[key]).execute("").sync().go()).unwrap().len(), 1);
        client.ok("COMMIT");
    }
    admin.ok("DROP SCHEMA one CASCADE; DROP SCHEMA two CASCADE");
}

/// A constant is read when the statement is prepared.
#[test]
fn the_time_zone_keeps_statements_apart() {
    let proxy = Proxy::new();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    one.ok("SET TimeZone = 'UTC'");
    two.ok("SET TimeZone = 'Asia/Tokyo'");
    let mut found = Vec::new();
    for client in [&mut one, &mut two] {
        client.parse("s", "SELECT extract(epoch FROM '2026-01-01 00:00'::timestamptz)::int").sync().go();
        found.push(client.run("s", &[]).unwrap()[0][0].clone().unwrap());
    }
    assert_eq!(found, ["1767225600", "1767193200"]);
    // Nor is it made for one by the settings of the other, on a server that has it not yet.
    let proxy = Proxy::of_size(2);
    let (mut one, mut two, mut other) = (proxy.client(), proxy.client(), proxy.client());
    let prepare = |client: &mut Wire| {
        client.parse("s", "SELECT extract(epoch FROM '2026-01-01 00:00'::timestamptz)::int").sync().go();
    };
    one.ok("SET TimeZone = 'UTC'");
    prepare(&mut one);
    one.ok("SET TimeZone = 'Asia/Tokyo'");
    taken(&mut other);
    let _ = one.run("s", &[]);
    two.ok("SET TimeZone = 'UTC'");
    prepare(&mut two);
    assert_eq!(two.run("s", &[]).unwrap()[0][0].as_deref(), Some("1767225600"));
    other.ok("ROLLBACK");
}
