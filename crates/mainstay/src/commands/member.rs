//! `member`: who belongs to the cluster, and who may join or is to leave; and `leave`, which means this one.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mainstay_core::MemberId;
use mainstay_core::record::Kind;
use mainstay_member::Configuration;
use mainstay_member::control::{InviteAnswer, InviteRequest, LeaveRequest, OpenInvitation, RevokeRequest};
use mainstay_member::status::Status;
use serde_json::json;

use crate::cli::{LeaveOptions, MemberOptions, MemberVerb};
use crate::client::{self, Control};
use crate::configuration;
use crate::output::println;
use crate::setup::Ask;

/// A standby leaves the sync set within seconds; a dead one is given up after five.
const LEAVE_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) async fn run(options: &MemberOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    match &options.verb {
        MemberVerb::List => list(&configuration, options.shared.json).await,
        MemberVerb::Invite { witness, member, valid_hours } => {
            let kind = if *witness { Kind::Witness } else { Kind::Data };
            let request =
                InviteRequest { kind, member: member.clone(), replaces: None, valid_s: valid_hours * 3_600 };
            invite(&configuration, request, options.shared.json).await
        }
        MemberVerb::Revoke { id } => {
            let control = Control::of(&configuration);
            let _: RevokeRequest =
                control.post("/v1/members/revoke", &RevokeRequest { id: id.clone() }).await?;
            if options.shared.json {
                println!("{}", json!({ "revoked": id }));
            } else {
                println!("{id} lets nobody in any more");
            }
            Ok(ExitCode::SUCCESS)
        }
        MemberVerb::Replace { member } => {
            let status = client::any_status(&configuration).await?;
            let row = status.members.iter().find(|row| row.name == *member);
            let kind = row.map_or(Kind::Data, |row| row.kind);
            let request =
                InviteRequest { kind, member: None, replaces: Some(member.clone()), valid_s: 24 * 3_600 };
            invite(&configuration, request, options.shared.json).await
        }
        MemberVerb::Remove { member, yes } => remove(&configuration, member, *yes, options.shared.json).await,
    }
}

/// This machine's member leaves; its data stays where it is.
pub(crate) async fn leave(options: &LeaveOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let me = configuration.me.clone();
    remove(&configuration, &me, options.yes, options.shared.json).await
}

async fn list(configuration: &Configuration, json: bool) -> Result<ExitCode> {
    let status = client::any_status(configuration).await?;
    let invitations: Vec<OpenInvitation> =
        Control::of(configuration).get("/v1/invitations").await.unwrap_or_default();
    if json {
        println!("{}", json!({ "members": status.members, "invitations": invitations }));
        return Ok(ExitCode::SUCCESS);
    }
    println!("member   kind     role       votes  address");
    for row in &status.members {
        let kind = if row.kind == Kind::Witness { "witness" } else { "data" };
        let votes = if row.votes { "yes" } else { "no" };
        let leaving = if row.leaving { "  (leaving)" } else { "" };
        println!("{:<8} {kind:<8} {:<10} {votes:<6} {}{leaving}", row.name, row.role.as_str(), row.address);
    }
    for open in &invitations {
        let kind = if open.kind == Kind::Witness { "a witness" } else { "a data member" };
        let member = open.member.as_ref().map(|name| format!(" named {name}")).unwrap_or_default();
        let replaces = open.replaces.as_ref().map(|old| format!(", replacing {old}")).unwrap_or_default();
        println!("invitation {}: {kind}{member}{replaces}", open.id);
    }
    Ok(ExitCode::SUCCESS)
}

async fn invite(configuration: &Configuration, request: InviteRequest, json: bool) -> Result<ExitCode> {
    let answer: InviteAnswer = Control::of(configuration).post("/v1/members/invite", &request).await?;
    let place = match answer.at {
        std::net::SocketAddr::V6(at) => format!("[{}]:{}", at.ip(), at.port()),
        std::net::SocketAddr::V4(at) => at.to_string(),
    };
    let text = format!("{}@{place}", answer.token);
    if json {
        let value = json!({ "id": answer.id, "join": text, "expires_at_unix_ms": answer.expires_at_unix_ms });
        println!("{value}");
        return Ok(ExitCode::SUCCESS);
    }
    let witness = if request.kind == Kind::Witness { " --witness" } else { "" };
    let hours = request.valid_s / 3_600;
    match &request.replaces {
        Some(old) => println!("On the machine that takes {old}'s place, once and within {hours} hours:"),
        None => println!("On the new machine, once and within {hours} hours:"),
    }
    println!("  mainstay join{witness} {text}");
    if let Some(old) = &request.replaces {
        println!("{old} leaves the cluster as the new member joins; data and votes follow by themselves.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(configuration: &Configuration, member: &MemberId, yes: bool, json: bool) -> Result<ExitCode> {
    let begun = Instant::now();
    let question = format!("{member} leaves the cluster; its data stays on its disk");
    if !Ask::new(false).confirm(&question, member.as_str(), yes)? {
        bail!("nothing was changed");
    }
    let request = LeaveRequest { member: member.clone() };
    let _: LeaveRequest = Control::of(configuration).post("/v1/members/leave", &request).await?;
    wait_gone(configuration, member).await?;
    if json {
        println!("{}", json!({ "removed": member, "milliseconds": begun.elapsed().as_millis() as u64 }));
    } else {
        println!("{member} is no member any more, after {:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok(ExitCode::SUCCESS)
}

async fn wait_gone(configuration: &Configuration, member: &MemberId) -> Result<()> {
    let begun = Instant::now();
    let is_there = |status: &Status| status.members.iter().any(|row| row.name == *member);
    loop {
        match client::any_status(configuration).await {
            Ok(status) if !is_there(&status) => return Ok(()),
            // It is this machine's own, and has ended, and nobody else answers.
            Err(_) if configuration.me == *member => return Ok(()),
            Ok(status) if begun.elapsed() > LEAVE_PATIENCE => bail!(
                "{member} is leaving but still counts after {LEAVE_PATIENCE:?}: {}; it goes by itself once a primary can do without it",
                status.reason
            ),
            Err(error) if begun.elapsed() > LEAVE_PATIENCE => return Err(error),
            _ => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}
