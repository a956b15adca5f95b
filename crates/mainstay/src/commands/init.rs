//! `init`: the first member of a new cluster. Everything is asked and checked before anything is written.

mod answers;
mod files;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use mainstay_net::join::Host;
use mainstay_net::pki::{self, ClusterCa};
use mainstay_net::{Invitation, JoinToken, KeyFingerprint};
use serde_json::json;

use crate::cli::InitOptions;
use crate::commands::service;
use crate::configuration;
use crate::output::println;
use crate::setup::{self, Ask};

pub(crate) use answers::Answers;
pub(crate) use files::own_row;

/// How long the first tokens are valid.
const TOKENS_VALID_S: u64 = 24 * 3_600;

pub(crate) async fn run(options: &InitOptions) -> Result<ExitCode> {
    let config = &options.config.config;
    if config.exists() {
        bail!(
            "{} exists already: this machine has a member; look at it with: mainstay status --config {}",
            config.display(),
            config.display()
        );
    }
    let ask = Ask::new(options.yes);
    let answers = Answers::gather(options, &ask)?;
    setup::check_ports(&[answers.address, answers.postgres, answers.http])?;
    let tokens = write(&answers, config).await?;
    let configuration = configuration::load(config)?;
    mainstay_member::create(&configuration).await?;
    let started = service::start_if_wanted(options.start, config)?;
    if options.json {
        let value = json!({
            "cluster": answers.cluster, "member": answers.member, "config": config,
            "directory": answers.directory, "tokens": tokens, "started": started,
            "firewall": setup::firewall_lines(&answers.ports()),
        });
        println!("{value}");
        return Ok(ExitCode::SUCCESS);
    }
    report(&answers, config, &tokens, started);
    Ok(ExitCode::SUCCESS)
}

/// Keys, secrets and the configuration file, which comes last: with it the member is there.
async fn write(answers: &Answers, config: &Path) -> Result<Vec<String>> {
    let directory = &answers.directory;
    setup::make_directory(directory, 0o755)?;
    let tls = directory.join("tls");
    setup::make_directory(&tls, 0o700)?;
    let ca = ClusterCa::create(&answers.cluster)?;
    let own = ca.issue_member(&answers.member)?;
    let names = answers.server_names();
    let server = ca.issue_postgres_server(&names, pki::SERVER_LIFETIME)?;
    pki::write_certificate(&tls.join("ca.pem"), ca.certificate_pem())?;
    pki::write_private_key(&tls.join("ca.key"), &ca.key_pem())?;
    pki::write_certificate(&tls.join("member.pem"), &own.certificate_pem)?;
    pki::write_private_key(&tls.join("member.key"), &own.key_pem)?;
    pki::write_certificate(&tls.join("server.pem"), &server.certificate_pem)?;
    pki::write_private_key(&tls.join("server.key"), &server.key_pem)?;
    setup::write_secret(&directory.join("replication.password"), &setup::random_text(32)?)?;
    if answers.database.is_some() {
        setup::write_secret(&directory.join("app.password"), &setup::random_text(20)?)?;
    }
    let tokens = write_tokens(answers, &ca)?;
    let key = KeyFingerprint::of_certificate_pem(&own.certificate_pem)?;
    if let Some(parent) = config.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let text = files::configuration(answers, &key.to_string());
    std::fs::write(config, text).with_context(|| format!("cannot write {}", config.display()))?;
    Ok(tokens)
}

/// The record does not exist yet: the member writes the invitations into it as soon as it leads.
fn write_tokens(answers: &Answers, ca: &ClusterCa) -> Result<Vec<String>> {
    let expires_at_unix_ms = setup::unix_ms() + TOKENS_VALID_S * 1_000;
    let (mut texts, mut invitations) = (Vec::new(), Vec::new());
    for _ in 0..answers.tokens {
        let token = JoinToken::create(ca.fingerprint())?;
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
    if !invitations.is_empty() {
        let state = answers.directory.join("state");
        setup::make_directory(&state, 0o700)?;
        let text = serde_json::to_string_pretty(&invitations)?;
        setup::write_secret(&state.join(mainstay_member::join::FIRST_INVITATIONS), &text)?;
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
