//! `tls-members` and `tls-clients`: what goes over the network is encrypted, and servers prove who they are.

use anyhow::Result;
use mainstay_core::MemberId;
use mainstay_postgres::upstream::parse_application_name;

use super::ground::{CONNECT_PATIENCE, Ground, PURPOSE};
use super::line::Line;
use crate::target::Target;

/// Streams from the primary are encrypted.
pub(super) async fn members(ground: &Ground) -> Vec<Line> {
    let primary = match ground.require_primary() {
        Ok(primary) => primary,
        Err(error) => return vec![Line::skip(format!("{error:#}"))],
    };
    match streams(ground, primary).await {
        Ok(streams) if streams.is_empty() => vec![Line::skip("nobody streams from the primary").of(primary)],
        Ok(streams) => streams.iter().map(stream_line).collect(),
        Err(error) => {
            let remedy = super::replay::unheard(ground, primary);
            vec![Line::fail(format!("the streams cannot be looked at: {error:#}"), remedy).of(primary)]
        }
    }
}

fn stream_line((name, version): &(String, Option<String>)) -> Line {
    let line = match version {
        Some(version) => Line::ok(format!("it streams by {version}")),
        None => Line::fail(
            format!("{name} streams without TLS"),
            "end it: Mainstay's members stream by TLS only, so somebody has changed pg_hba.conf",
        ),
    };
    match parse_application_name(name) {
        Some((member, _)) => line.of(&member),
        None => line,
    }
}

async fn streams(ground: &Ground, primary: &MemberId) -> Result<Vec<(String, Option<String>)>> {
    // What this role may see of the others' streams are its own: every member's.
    let sql = "SELECT r.application_name, CASE WHEN s.ssl THEN s.version END
        FROM pg_stat_replication r JOIN pg_stat_ssl s USING (pid) WHERE r.application_name IS NOT NULL ORDER BY 1";
    let rows = ground.sql(primary).await?.query(sql, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// A client with the cluster's authority is served by every member under its name and its address.
pub(super) async fn clients(ground: &Ground) -> Vec<Line> {
    let mut lines = Vec::new();
    for member in ground.data_members() {
        lines.push(client_line(ground, member).await.of(member));
    }
    lines
}

async fn client_line(ground: &Ground, member: &MemberId) -> Line {
    let target = match client_target(ground, member) {
        Ok(target) => target,
        Err(error) => {
            let remedy = "give the cluster's CA in [tls] authority";
            return Line::fail(format!("{error:#}"), remedy);
        }
    };
    let by_name = version(&target).await;
    let version_by_name = match by_name {
        Ok(version) => version,
        Err(error) => {
            let text = format!("{error:#}");
            let remedy = if text.contains("certificate") || text.contains("Certificate") {
                format!(
                    "issue a server certificate for {member} by the cluster's CA; `mainstay verify --only certificates` has its dates"
                )
            } else {
                super::replay::unheard(ground, member)
            };
            return Line::fail(
                format!("no connection by sslmode=verify-full as {}: {text}", target.user()),
                remedy,
            );
        }
    };
    let row = &ground.roster[member];
    let address = row.postgres.map(|address| address.ip().to_string()).unwrap_or_default();
    let by_address = match target.named(&ground.roster, member, &address) {
        Ok(target) => version(&target).await,
        Err(error) => Err(error),
    };
    match by_address {
        Ok(_) => Line::ok(format!(
            "{version_by_name} as {}; its certificate is good for {member} and {address}",
            target.user()
        )),
        Err(error) => Line::warn(
            format!("{version_by_name} for the name {member}, but not for {address}: {error:#}"),
            format!(
                "clients with sslmode=verify-full that connect to {address} are refused: issue a server certificate that has it"
            ),
        ),
    }
}

/// The application's own login where there is one.
fn client_target(ground: &Ground, member: &MemberId) -> Result<Target> {
    let tls = ground.tls()?;
    match Target::application(&ground.configuration, &ground.roster, member, tls)? {
        Some(target) => Ok(target),
        None => Target::replication(&ground.configuration, &ground.roster, member, tls),
    }
}

async fn version(target: &Target) -> Result<String> {
    let client = target.connect(PURPOSE, CONNECT_PATIENCE).await?;
    let sql = "SELECT coalesce(version, 'no TLS') FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}
