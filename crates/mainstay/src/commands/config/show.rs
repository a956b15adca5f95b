//! What is configured, what a member ends up with, what was changed when.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, bail};
use mainstay_core::MemberId;
use mainstay_member::control::{ConfigAnswer, TuneAnswer};
use mainstay_member::status::Status;
use serde::Serialize;

use super::text;
use crate::cli::{SharedOptions, ShowOptions};
use crate::client::Control;
use crate::output::println;
use crate::{configuration, when};

/// One parameter as a member ends up with it.
#[derive(Debug, Serialize)]
struct Effective {
    value: String,
    /// Where it comes from: `default`, `file_defaults`, `shared`, `primary`, `standby`, `member`, `file`, `fixed`.
    from: &'static str,
}

pub(super) async fn show(options: &ShowOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let status = Control::of(&configuration).status().await?;
    let member = options.member.as_ref().unwrap_or(&configuration.me);
    let Some(row) = status.members.iter().find(|row| row.name == *member) else {
        let known: Vec<&str> = status.members.iter().map(|row| row.name.as_str()).collect();
        bail!("there is no member {member}; there are {}", known.join(", "));
    };
    // Only the member itself knows what its own file says.
    let asked = Control::on(&configuration, options.member.as_ref()).get("/v1/config").await;
    let answer: ConfigAnswer = match asked {
        Ok(answer) => answer,
        Err(_) => Control::of(&configuration).get("/v1/config").await?,
    };
    let effective =
        (options.effective || options.member.is_some()).then(|| effective(&answer, &status, member));
    if options.shared.json {
        let mut text = serde_json::json!({
            "serial": answer.serial, "set": answer.set, "member": member, "pending_restart": row.pending_restart,
            "altered": row.altered, "uses": row.configuration,
        });
        if let Some(effective) = &effective {
            text["effective"] = serde_json::to_value(effective)?;
        }
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    match &effective {
        Some(effective) => show_effective(effective, &answer, member),
        None => println!("{}", text::to_toml(&answer.set, answer.serial).trim_end()),
    }
    for row in &status.members {
        show_remarks(row);
    }
    Ok(ExitCode::SUCCESS)
}

fn effective(answer: &ConfigAnswer, status: &Status, member: &MemberId) -> BTreeMap<String, Effective> {
    let is_primary = status.primary.as_ref() == Some(member);
    let set = &answer.set;
    let (role, role_name) = if is_primary { (&set.primary, "primary") } else { (&set.standby, "standby") };
    let none = BTreeMap::new();
    let own = set.members.get(member).unwrap_or(&none);
    let (file, file_defaults) = match *member == answer.member {
        true => (&answer.file, &answer.file_defaults),
        false => (&none, &none),
    };
    let layers = [
        (&answer.defaults, "default"),
        (file_defaults, "file_defaults"),
        (&set.shared, "shared"),
        (role, role_name),
        (own, "member"),
        (file, "file"),
        (&answer.fixed, "fixed"),
    ];
    let mut effective = BTreeMap::new();
    for (values, from) in layers {
        for (name, value) in values {
            effective.insert(name.clone(), Effective { value: value.clone(), from });
        }
    }
    effective
}

fn show_effective(effective: &BTreeMap<String, Effective>, answer: &ConfigAnswer, member: &MemberId) {
    let longest = effective.keys().map(String::len).max().unwrap_or(0);
    for (name, row) in effective {
        println!("{name:longest$} = {} ({})", row.value, row.from);
    }
    if *member != answer.member {
        println!("# without what {member}'s own file says: it does not answer");
    }
}

fn show_remarks(row: &mainstay_member::status::MemberStatus) {
    for pending in &row.pending_restart {
        let wanted = pending.wanted.as_deref().unwrap_or("PostgreSQL's default");
        println!(
            "# {}: {} is {} and is to be {wanted}: waits for {}",
            row.name, pending.name, pending.running, pending.waits_for
        );
    }
    for altered in &row.altered {
        println!(
            "# {}: {} = {} comes from postgresql.auto.conf, not from here",
            row.name, altered.name, altered.value
        );
    }
}

pub(super) async fn history(options: &SharedOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config)?;
    let answer: ConfigAnswer = Control::of(&configuration).get("/v1/config").await?;
    if options.json {
        println!("{}", serde_json::to_string(&answer.history)?);
        return Ok(ExitCode::SUCCESS);
    }
    if answer.history.is_empty() {
        println!("nothing was changed yet");
    }
    let mut before = None;
    for change in &answer.history {
        println!("{} {} by {}", change.serial, when::utc(change.at_unix_ms * 1_000), change.by);
        let empty = Default::default();
        let first = change.serial == 1;
        match before.or(first.then_some(&empty)) {
            Some(before) => {
                text::difference(before, &change.set).iter().for_each(|line| println!("    {line}"))
            }
            None => println!("    (the change before it is no longer kept)"),
        }
        before = Some(&change.set);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn tuned(tuned: &TuneAnswer, json: bool) -> Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string(tuned)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mib = |bytes: u64| bytes / (1024 * 1024);
    println!(
        "# {}: {} MiB of memory, {} cores, a disk of {} MiB",
        tuned.member,
        mib(tuned.memory_bytes),
        tuned.cores,
        mib(tuned.disk_bytes)
    );
    for row in &tuned.parameters {
        let now = row.now.as_deref().unwrap_or("PostgreSQL's default");
        println!("{} = {}  # {}; now {now}", row.name, row.value, row.reason);
    }
    println!("# to set them for {}: mainstay config tune --apply", tuned.member);
    Ok(ExitCode::SUCCESS)
}
