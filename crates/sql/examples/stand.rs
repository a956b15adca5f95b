//! A PostgreSQL of its own with a SQL proxy before it, for suites of others: prints both ports, and lives until its standard
//! input ends. `cargo xtask compat` runs drivers' suites against both.
//!
//! The first argument is the pool mode, `transaction` (the default) or `session`.

#[allow(dead_code, reason = "tests need more of it")]
#[path = "../tests/it/member.rs"]
mod member;
#[allow(dead_code, reason = "tests need more of it")]
#[path = "../tests/it/postgres.rs"]
mod postgres;
#[allow(dead_code, reason = "tests need more of it")]
#[path = "../tests/it/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "tests need more of it")]
#[path = "../tests/it/wire.rs"]
mod wire;

use std::io::{Read, Write, stdin, stdout};
use std::sync::Arc;
use std::time::Duration;

use mainstay_sql::{PoolMode, Settings};

/// Who suites log in as; passwords are as long as they need to be here.
const ROLES: [&str; 3] = [
    "ALTER ROLE postgres PASSWORD 'postgres'",
    "CREATE ROLE scram_user LOGIN PASSWORD 'password'",
    "CREATE DATABASE suite",
];

fn main() {
    let pool_mode = match std::env::args().nth(1).as_deref() {
        None | Some("transaction") => PoolMode::Transaction,
        Some("session") => PoolMode::Session,
        Some(other) => panic!("there is no pool mode {other:?}; say transaction or session"),
    };
    let postgres = postgres::Postgres::new();
    let mut admin = postgres.admin();
    ROLES.iter().for_each(|statement| drop(admin.ok(statement)));
    let settings = Settings {
        pool_mode,
        default_pool_size: 15,
        workers: 1,
        query_wait_timeout: Duration::from_secs(10),
        ..Settings::default()
    };
    let (port, postgres) = (postgres.port, Arc::new(postgres));
    let proxy = proxy::Proxy::with(Arc::clone(&postgres), settings);
    let mut out = stdout();
    writeln!(out, "{port} {}", proxy.port).and_then(|()| out.flush()).expect("standard output takes it");
    let _ = stdin().read_to_end(&mut Vec::new());
    drop(proxy);
    // Whoever holds it last ends it, which must happen before this process ends.
    postgres::wait_for("the member's threads to end", || Arc::strong_count(&postgres) == 1);
}
