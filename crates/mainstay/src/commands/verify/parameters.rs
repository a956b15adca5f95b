//! `parameters` and `checksums`: what the bounds and guarantees rest on is in force on every member.

use anyhow::Result;
use mainstay_core::MemberId;
use mainstay_postgres::configuration::fixed_parameters;
use mainstay_postgres::tools::Version;
use tokio_postgres::Client;

use super::ground::Ground;
use super::line::Line;

pub(super) async fn run(ground: &Ground) -> Vec<Line> {
    let mut lines = Vec::new();
    for member in ground.data_members() {
        let line = match look(ground, member).await {
            Ok(line) => line,
            Err(error) => {
                let remedy = super::replay::unheard(ground, member);
                Line::fail(format!("it cannot be asked: {error:#}"), remedy)
            }
        };
        lines.push(line.of(member));
    }
    lines
}

async fn look(ground: &Ground, member: &MemberId) -> Result<Line> {
    let client = ground.sql(member).await?;
    let number = setting(client, "server_version_num").await?.unwrap_or_default();
    let number: u32 = number.parse().unwrap_or(0);
    let version = Version { major: number / 10_000, minor: number % 10_000 };
    let (mut wrong, mut count) = (Vec::new(), 0);
    // What the operating system has for a connection is shown instead of these three.
    let of_connection = |name: &str| name.starts_with("tcp_keepalives") || name == "tcp_user_timeout";
    for (name, wanted) in fixed_parameters(version).filter(|(name, _)| !of_connection(name)) {
        count += 1;
        let found = setting(client, name).await?.unwrap_or_default();
        if found != wanted {
            wrong.push(format!("{name} = {found:?} instead of {wanted:?}"));
        }
    }
    if !wrong.is_empty() {
        return Ok(Line::fail(
            wrong.join(", "),
            "Mainstay sets them back within a second; if not, see the member's log for what overrides them",
        ));
    }
    let sql = "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name";
    let pending = client.query(sql, &[]).await?;
    let pending: Vec<String> = pending.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if !pending.is_empty() {
        return Ok(Line::warn(
            format!("{} take effect with a restart of PostgreSQL", pending.join(", ")),
            "restart that member's PostgreSQL at a quiet time",
        ));
    }
    Ok(Line::ok(format!("fsync and {} other protected parameters are as they must be", count - 1)))
}

async fn setting(client: &Client, name: &str) -> Result<Option<String>> {
    Ok(client.query_one("SELECT current_setting($1, true)", &[&name]).await?.try_get(0)?)
}

pub(super) async fn checksums(ground: &Ground) -> Vec<Line> {
    let mut lines = Vec::new();
    for member in ground.data_members() {
        let found = async { setting(ground.sql(member).await?, "data_checksums").await };
        let line = match found.await {
            Ok(Some(value)) if value == "on" => Line::ok("data pages have checksums"),
            Ok(_) => Line::warn(
                "data pages have no checksums: damage by a disk is not noticed",
                "at a quiet time stop the member and run pg_checksums --enable on its data directory, standbys first",
            ),
            Err(_) => Line::skip("it cannot be asked: see `parameters`"),
        };
        lines.push(line.of(member));
    }
    lines
}
