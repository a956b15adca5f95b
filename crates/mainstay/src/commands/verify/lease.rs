//! `lease`: the primary holds it, and renews it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mainstay_member::status::LeaseStatus as Lease;

use super::ground::Ground;
use super::line::Line;
use crate::client;

const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Longer leases are looked at for so long only.
const PATIENCE: Duration = Duration::from_secs(6);
/// A later deadline counts as a renewal from here; less is how finely it is told.
const NOTICEABLE_MS: u64 = 100;

pub(super) async fn run(ground: &Ground) -> Vec<Line> {
    let remedy = "the lease needs a majority of voters: see which are heard with `mainstay status`";
    let line = match renewal(ground).await {
        Ok(words) => Line::ok(words),
        Err(error) => Line::fail(format!("{error:#}"), remedy),
    };
    vec![match ground.primary() {
        Some(primary) => line.of(primary),
        None => line,
    }]
}

/// The deadline moves on by itself: between two looks it must have come later.
async fn renewal(ground: &Ground) -> Result<String> {
    let begun = Instant::now();
    let mut first = None;
    loop {
        match look(ground).await {
            // A busy member may answer late once.
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) | Ok(Lease { remaining_ms: None, .. }) => {}
            Ok(lease @ Lease { remaining_ms: Some(remaining), .. }) => {
                let now = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                let deadline = now + remaining;
                let earlier = *first.get_or_insert(deadline);
                if deadline > earlier + NOTICEABLE_MS {
                    return Ok(format!(
                        "the lease of epoch {} ({} ms) is held and renewed",
                        lease.epoch, lease.length_ms
                    ));
                }
            }
        }
        if begun.elapsed() > PATIENCE {
            match first {
                None => bail!("the holder of the lease does not say how long it lasts: it is not heard"),
                Some(_) => bail!("the lease was not renewed within {} s", PATIENCE.as_secs()),
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn look(ground: &Ground) -> Result<Lease> {
    let status = client::any_status(&ground.configuration).await?;
    let Some(lease) = status.lease else { bail!("nobody holds the lease: {}", status.reason) };
    if status.primary.as_ref() != Some(&lease.holder) {
        bail!("{} holds the lease of epoch {}, but is not the primary yet", lease.holder, lease.epoch);
    }
    Ok(lease)
}
