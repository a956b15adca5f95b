//! `sql`: the SQL proxy of a member.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use mainstay_member::control::sql_status::{SqlOrder, SqlOrderAnswer, SqlOrderRequest};
use mainstay_net::sql_status::{SqlPool, SqlStatus};

use crate::cli::{SqlOrderOptions, SqlStatusOptions, SqlVerb};
use crate::client::Control;
use crate::configuration;
use crate::output::{part, println};

pub(crate) async fn run(verb: &SqlVerb) -> Result<ExitCode> {
    match verb {
        SqlVerb::Status(options) => status(options).await,
        SqlVerb::Pause(options) => {
            order(options, SqlOrder::Pause, "paused; go on with: mainstay sql resume").await
        }
        SqlVerb::Resume(options) => order(options, SqlOrder::Resume, "goes on").await,
        SqlVerb::Reconnect(options) => {
            order(options, SqlOrder::Reconnect, "server connections are opened anew").await
        }
    }
}

async fn order(options: &SqlOrderOptions, order: SqlOrder, done: &str) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let control = Control::on(&configuration, options.member.as_ref());
    let request = SqlOrderRequest { order, database: options.database.clone() };
    let answer: SqlOrderAnswer = control.post("/v1/sql/order", &request).await?;
    if options.shared.json {
        println!("{}", serde_json::to_string(&answer)?);
    } else {
        println!("{}: {done}", options.database.as_deref().unwrap_or("all databases"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(options: &SqlStatusOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let control = Control::on(&configuration, options.member.as_ref());
    let status: SqlStatus = control.get("/v1/sql/status").await?;
    if options.shared.json {
        println!("{}", serde_json::to_string(&status)?);
    } else {
        part(&words(&status));
    }
    Ok(ExitCode::SUCCESS)
}

fn words(status: &SqlStatus) -> String {
    let mut text = String::new();
    let goes = match (&status.primary, status.holds, status.paused) {
        (_, _, true) => "paused: new work waits until `mainstay sql resume`".to_owned(),
        (_, true, _) => format!("holds: writes wait. {}", status.reason),
        (Some(primary), _, _) => format!("serves: writes go to {primary}"),
        (None, ..) => "serves".to_owned(),
    };
    let (clients, most) = (status.clients, status.max_client_conn);
    let _ = writeln!(text, "{goes}\nclients {clients} of {most}, pid {}", status.pid);
    if status.pools.is_empty() {
        text.push_str("No client has connected yet.\n");
        return text;
    }
    let width = |of: fn(&SqlPool) -> String, head: &str| {
        status.pools.iter().map(|pool| of(pool).chars().count()).max().unwrap_or(0).max(head.len())
    };
    let (database, user) = (width(name, "database"), width(|pool| pool.user.clone(), "user"));
    let heads = format!(
        "{:<database$}  {:<user$}  active  idle  waiting  servers    tps      p50      p95      p99  wait p99",
        "database", "user"
    );
    let _ = writeln!(text, "\n{heads}");
    for pool in &status.pools {
        let servers = pool.servers_active + pool.servers_idle + pool.servers_login;
        let halted = match (pool.paused, pool.disabled) {
            (true, _) => "  paused",
            (_, true) => "  disabled",
            _ => "",
        };
        let [half, most, nearly_all, wait] =
            [pool.transaction.p50_us, pool.transaction.p95_us, pool.transaction.p99_us, pool.wait.p99_us]
                .map(time);
        let _ = writeln!(
            text,
            "{:<database$}  {:<user$}  {:>6}  {:>4}  {:>7}  {:>7}  {:>5.0}  {half:>7}  {most:>7}  {nearly_all:>7}  {wait:>8}{halted}",
            name(pool),
            pool.user,
            pool.clients_active,
            pool.clients_idle,
            pool.clients_waiting,
            format!("{servers}/{}", pool.pool_size),
            pool.transactions_per_second,
        );
    }
    text.push_str("\nTransactions and their times are of the last one to two minutes.\n");
    text
}

fn name(pool: &SqlPool) -> String {
    if pool.access == "ro" { format!("{}@ro", pool.database) } else { pool.database.clone() }
}

/// With three figures.
fn time(us: u64) -> String {
    let time = Duration::from_micros(us);
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.2} ms", time.as_secs_f64() * 1e3),
        10_000..100_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        100_000..1_000_000 => format!("{:.0} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_by_people() {
        let mut pool = SqlPool {
            database: "app".to_owned(),
            user: "shop".to_owned(),
            access: "ro".to_owned(),
            pool_size: 20,
            servers_idle: 3,
            transactions_per_second: 812.4,
            ..SqlPool::default()
        };
        pool.transaction.p50_us = 950;
        pool.transaction.p99_us = 12_340;
        let status = SqlStatus { primary: Some("m1".to_owned()), pools: vec![pool], ..SqlStatus::default() };
        let text = words(&status);
        assert!(text.starts_with("serves: writes go to m1\n"), "{text}");
        let row = text.lines().find(|line| line.starts_with("app@ro")).unwrap();
        for word in ["shop", "3/20", "812", "950 µs", "12.3 ms"] {
            assert!(row.contains(word), "{word} in {row}");
        }
        let held =
            SqlStatus { holds: true, reason: "The primary has failed.".to_owned(), ..SqlStatus::default() };
        assert!(words(&held).starts_with("holds: writes wait. The primary has failed.\n"));
    }
}
