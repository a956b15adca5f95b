//! The first thing that a careful person would try: a row written on the primary, read on the standbys, refused there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mainstay_core::MemberId;
use mainstay_member::status::Status;
use tokio_postgres::{Client, NoTls};

/// Replication takes milliseconds; this is for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers what was found, in words.
pub(super) async fn run(status: &Status) -> Result<String> {
    let primary = status.primary.as_ref().context("there is no primary")?;
    let connect = async |member: &MemberId| -> Result<Client> {
        let url =
            status.endpoints.members.get(member).with_context(|| format!("{member} has no PostgreSQL"))?;
        let (client, connection) = tokio_postgres::connect(url, NoTls)
            .await
            .with_context(|| format!("cannot connect to {member}"))?;
        tokio::spawn(connection);
        Ok(client)
    };
    let writer = connect(primary).await?;
    writer
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS demo_check (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
        )
        .await?;
    let row = writer.query_one("INSERT INTO demo_check DEFAULT VALUES RETURNING id", &[]).await?;
    let id: i64 = row.get(0);
    let standbys: Vec<&MemberId> =
        status.endpoints.members.keys().filter(|member| *member != primary).collect();
    for standby in &standbys {
        read_back(&connect(standby).await?, standby, id).await?;
    }
    let Some(refusing) = standbys.first() else { return Ok(format!("row written and read on {primary}")) };
    let refused = connect(refusing).await?.execute("INSERT INTO demo_check DEFAULT VALUES", &[]).await;
    let code = refused.as_ref().err().and_then(|error| error.code()).map(|code| code.code().to_owned());
    // 25006: read_only_sql_transaction.
    if code.as_deref() != Some("25006") {
        bail!("a write on standby {refusing} was not refused as it should be: {refused:?}");
    }
    let names: Vec<&str> = standbys.iter().map(|member| member.as_str()).collect();
    Ok(format!("row written on {primary}, read on {}, refused on {refusing}", names.join(" and ")))
}

async fn read_back(client: &Client, standby: &MemberId, id: i64) -> Result<()> {
    let begun = Instant::now();
    loop {
        // The table itself may not have arrived yet.
        let read = client.query_opt("SELECT 1 FROM demo_check WHERE id = $1", &[&id]).await;
        match read {
            Ok(Some(_)) => return Ok(()),
            Ok(None) | Err(_) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
            Ok(None) => {
                bail!("the row written on the primary did not arrive on {standby} within {PATIENCE:?}")
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read on {standby}")),
        }
    }
}
