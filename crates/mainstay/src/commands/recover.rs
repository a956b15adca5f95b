//! `recover`: this member goes on alone, by an operator's word that the majority is lost for good.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use mainstay_core::record::Loss;
use mainstay_member::Configuration;
use mainstay_member::recover::{self, Prepared};
use serde_json::{Value, json};

use crate::cli::operate::RecoverOptions;
use crate::configuration;
use crate::output::println;

pub(crate) async fn run(options: &RecoverOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config.config)?;
    let me = &configuration.me;
    if !options.json {
        println!("Looking at this machine's data, and calling the other members …");
    }
    let prepared = recover::prepare(&configuration).await?;
    let (told, answer) = (announcement(&configuration, &prepared), summary(&configuration, &prepared));
    if !options.json {
        println!("{told}");
    }
    if !options.yes {
        if options.json {
            bail!("with --json nobody can be asked, and nothing was changed; say --yes");
        }
        ask(&configuration)?;
    }
    let kept = prepared.carry_out().await?;
    if options.json {
        let mut answer = answer;
        answer["kept"] = json!(kept);
        println!("{answer}");
    } else {
        println!(
            "{me} is the only member of {} now; the old consensus is kept in {}",
            configuration.cluster,
            kept.display()
        );
        println!("Start it: systemctl start mainstay");
        println!(
            "Then let new members join: mainstay member invite. What comes back of the old ones is told to stop."
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn announcement(configuration: &Configuration, prepared: &Prepared) -> String {
    let (me, recovery) = (&configuration.me, prepared.recovery());
    let mut lines = vec![format!(
        "{me} would go on as the only member of {}, with its data as it is.",
        configuration.cluster
    )];
    for (name, what) in &prepared.called {
        lines.push(format!("  {name}: {what}"));
    }
    lines.push(recovery.to_string());
    if prepared.uncommitted() > 0 {
        lines.push(format!(
            "taken as agreed, since they may have been: the newest {} entries of the log here.",
            prepared.uncommitted()
        ));
    }
    let names: Vec<&str> = recovery.left_behind.iter().map(|left| left.member.as_str()).collect();
    lines.push(format!(
        "There is no way back. What is left of {} must never run again as it was: see that it cannot, or that it can reach {me}, \
         which tells it to stop. If a member that is left holds more than {me}, recover from that one instead.",
        names.join(" and ")
    ));
    lines.join("\n")
}

fn summary(configuration: &Configuration, prepared: &Prepared) -> Value {
    let recovery = prepared.recovery();
    let (proven, why, missing) = match &recovery.loss {
        Loss::NothingKnown => (true, None, 0),
        Loss::Unproven { why, missing } => (false, Some(why.to_string()), missing.bytes),
    };
    json!({
        "cluster": configuration.cluster,
        "member": configuration.me,
        "epoch_known": recovery.epoch,
        "epoch": recovery.record.epoch,
        "end": recovery.end,
        "nothing_known_lost": proven,
        "why": why,
        "missing_bytes": missing,
        "left_behind": recovery.left_behind.iter().map(|left| &left.member).collect::<Vec<_>>(),
    })
}

/// The cluster's name, typed: nobody types that by habit.
fn ask(configuration: &Configuration) -> Result<()> {
    crate::output::part(&format!("Type the name of the cluster ({}) to go on: ", configuration.cluster));
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    if line.trim() != configuration.cluster {
        bail!("that is not the cluster's name; nothing was changed (scripts give --yes)");
    }
    Ok(())
}
