//! `init`: the first member of a new cluster. Everything is asked and checked before anything is written.
//!
//! The configuration file comes last: with it the member is there. Until then it stands as a draft in the state directory, and
//! the same command goes on with it, with the keys and secrets that are there already.

mod adopt;
mod answers;
mod files;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use mainstay_member::Configuration;
use mainstay_net::join::Host;
use mainstay_net::{Invitation, JoinToken};
use mainstay_postgres::adopt::Examination;
use serde_json::json;

use crate::cli::InitOptions;
use crate::commands::service;
use crate::configuration;
use crate::output::println;
use crate::setup::{self, Ask};
use crate::tune::Tuned;

pub(crate) use answers::Answers;
pub(crate) use files::{own_row, server_names};

/// How long the first tokens are valid.
const TOKENS_VALID_S: u64 = 24 * 3_600;

pub(crate) async fn run(options: &InitOptions) -> Result<ExitCode> {
    let config = &options.shared.config;
    if config.exists() {
        bail!(
            "{} exists already: this machine has a member; look at it with: mainstay status --config {}",
            config.display(),
            config.display()
        );
    }
    service::check_start(options.start, config)?;
    let ask = Ask::new(options.yes);
    let seen = match &options.adopt {
        Some(data) => Some(adopt::look(options, data).await?),
        None => None,
    };
    let (answers, configuration) = match files::draft(&std::path::absolute(&options.directory)?)? {
        Some(draft) => go_on(options, &draft, seen.as_ref(), &ask)?,
        None => begin(options, seen.as_ref(), &ask)?,
    };
    let ca = files::certificates(&answers)?;
    let tokens = write_tokens(&answers, ca.fingerprint())?;
    if let Some(seen) = &seen {
        adopt::take_over(&configuration, seen).await?;
    }
    if !answers.directory.join("consensus").join("identity").exists() {
        mainstay_member::create(&configuration).await?;
    }
    files::settle(&answers.directory, config)?;
    let started = service::start_if_wanted(options.start, config)?;
    if options.shared.json {
        let value = json!({
            "cluster": answers.cluster, "member": answers.member, "config": config,
            "directory": answers.directory, "tokens": tokens, "started": started,
            "firewall": setup::firewall_lines(&answers.ports()),
            "parameters": answers.tuned.as_ref().map(Tuned::json), "adopted": seen,
        });
        println!("{value}");
        return Ok(ExitCode::SUCCESS);
    }
    report(&answers, config, &tokens, started);
    Ok(ExitCode::SUCCESS)
}

/// Asks, checks, and writes the keys and the draft.
fn begin(options: &InitOptions, seen: Option<&Examination>, ask: &Ask) -> Result<(Answers, Configuration)> {
    let answers = Answers::gather(options, seen, ask)?;
    let directory = &answers.directory;
    files::check_unused(directory, seen.is_some())?;
    let is_served = seen.is_some_and(|seen| {
        seen.running.as_ref().is_some_and(|running| running.port == answers.postgres.port())
    });
    let free = [Some(answers.address), (!is_served).then_some(answers.postgres), Some(answers.http)];
    setup::check_ports(&free.into_iter().flatten().collect::<Vec<_>>())?;
    if let Some(seen) = seen {
        adopt::agree(seen, &answers, options, ask)?;
    }
    let text = files::begin(&answers, seen)?;
    let configuration = configuration::parse(&options.shared.config, &text)?;
    files::write_draft(directory, &text)?;
    Ok((answers, configuration))
}

/// Goes on with what an interrupted command has begun.
fn go_on(
    options: &InitOptions,
    draft: &str,
    seen: Option<&Examination>,
    ask: &Ask,
) -> Result<(Answers, Configuration)> {
    let configuration = configuration::parse(&options.shared.config, draft).with_context(|| {
        format!("what was begun below {} cannot be gone on with", options.directory.display())
    })?;
    let answers = Answers::of(&configuration, options);
    let adopted = &configuration.postgresql.data_directory;
    match seen {
        Some(seen) if seen.data == *adopted => adopt::agree(seen, &answers, options, ask)?,
        None if !adopted.join("PG_VERSION").exists() => {}
        _ => bail!(
            "an init was interrupted that adopts {}; go on with it: mainstay init --adopt {}",
            adopted.display(),
            adopted.display()
        ),
    }
    if !options.shared.json {
        println!("An init of {} that was interrupted is gone on with, as it was begun.", answers.member);
    }
    Ok((answers, configuration))
}

/// The record does not exist yet: the member writes the invitations into it as soon as it leads.
fn write_tokens(answers: &Answers, authority: mainstay_net::KeyFingerprint) -> Result<Vec<String>> {
    let expires_at_unix_ms = setup::unix_ms() + TOKENS_VALID_S * 1_000;
    let (mut texts, mut invitations) = (Vec::new(), Vec::new());
    for _ in 0..answers.tokens {
        let token = JoinToken::create(authority)?;
        invitations.push(mainstay_core::record::Invitation {
            id: token.id(),
            secret_sha256: token.secret_sha256(),
            kind: mainstay_core::record::Kind::Data,
            member: None,
            replaces: None,
            expires_at_unix_ms,
            used_by: None,
        });
        let host = Host::Address(answers.address.ip());
        texts.push(Invitation { token, host, port: answers.address.port() }.text());
    }
    let file = answers.directory.join("state").join(mainstay_member::join::FIRST_INVITATIONS);
    if file.exists() {
        std::fs::remove_file(&file).with_context(|| format!("cannot replace {}", file.display()))?;
    }
    if !invitations.is_empty() {
        setup::write_secret(&file, &serde_json::to_string_pretty(&invitations)?)?;
    }
    Ok(texts)
}

fn report(answers: &Answers, config: &Path, tokens: &[String], started: bool) {
    println!("{} is the first member of the cluster {}.", answers.member, answers.cluster);
    println!("  configuration  {}", config.display());
    println!("  everything else below {}", answers.directory.display());
    if let Some(database) = &answers.database {
        println!(
            "  database {database}, role {}, its password in {}",
            answers.role,
            answers.directory.join("app.password").display()
        );
    }
    if let Some(tuned) = &answers.tuned {
        tuned.print();
    }
    println!("\nOpen these ports to the other members and to your applications (nftables):");
    for line in setup::firewall_lines(&answers.ports()) {
        println!("  {line}");
    }
    if !tokens.is_empty() {
        println!("\nOn each further machine, one line of these, within 24 hours and each once:");
        for token in tokens {
            println!("  mainstay join {token}");
        }
        println!("More tokens, and one for a witness: mainstay member invite [--witness]");
    }
    if !started {
        println!("\nStart this member with: {}", service::how_to_start(config));
    }
}
