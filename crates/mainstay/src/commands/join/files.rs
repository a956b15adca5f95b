//! The files of a member that joins.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use mainstay_consensus::Identity;
use mainstay_core::record::{Kind, OnCrash};
use mainstay_member::join::JoinAnswer;
use mainstay_member::roster;
use mainstay_net::KeyFingerprint;
use mainstay_net::pki;
use mainstay_postgres::durable::Access;

use super::Plan;
use crate::commands::init::{own_row, server_names};
use crate::setup;

/// Requests for certificates; the keys stay on this machine.
pub(crate) struct Keys {
    pub(crate) member_request: String,
    pub(crate) server_request: Option<String>,
}

/// Makes the keys, or takes those of an earlier try.
pub(crate) fn keys(directory: &Path, kind: Kind) -> Result<Keys> {
    setup::make_directory(directory, 0o755)?;
    let tls = directory.join("tls");
    setup::make_directory(&tls, 0o700)?;
    let member_request = key(&tls.join("member.key"))?;
    let server_request = match kind {
        Kind::Data => Some(key(&tls.join("server.key"))?),
        Kind::Witness => None,
    };
    Ok(Keys { member_request, server_request })
}

fn key(path: &Path) -> Result<String> {
    if path.exists() {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        return Ok(pki::request_for_key(&text)?);
    }
    let made = pki::request()?;
    pki::write_private_key(path, &made.key_pem)?;
    Ok(made.request_pem)
}

pub(super) fn write(plan: &Plan, answer: &JoinAnswer, config: &Path, names: &[String]) -> Result<()> {
    let directory = &plan.directory;
    let tls = directory.join("tls");
    pki::replace_certificate(&tls.join("ca.pem"), &answer.authority_pem)?;
    pki::replace_certificate(&tls.join("member.pem"), &answer.certificate_pem)?;
    if let Some(certificate) = &answer.server_certificate_pem {
        pki::replace_certificate(&tls.join("server.pem"), certificate)?;
    }
    let secrets = [
        (tls.join("ca.key"), answer.authority_key_pem.as_ref()),
        (directory.join("replication.password"), answer.replication_password.as_ref()),
        (directory.join("app.password"), answer.application.as_ref().map(|login| &login.password)),
    ];
    for (path, secret) in secrets {
        let Some(secret) = secret else { continue };
        if path.exists() {
            std::fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
        }
        setup::write_secret(&path, secret.trim_end())?;
    }
    setup::make_directory(&directory.join("state"), 0o700)?;
    roster::keep(directory, &answer.members, Access { mode: 0o600, owner: None })?;
    let consensus = directory.join("consensus");
    if !consensus.join("identity").exists() {
        let identity = Identity { cluster_id: answer.cluster.clone(), raft_id: answer.raft_id };
        mainstay_store::create(&consensus, &identity, &[], &[])?;
    }
    if let Some(parent) = config.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let text = configuration(plan, answer, names)?;
    std::fs::write(config, text).with_context(|| format!("cannot write {}", config.display()))
}

fn configuration(plan: &Plan, answer: &JoinAnswer, names: &[String]) -> Result<String> {
    let on_crash = match answer.on_crash {
        OnCrash::Failover => "failover",
        OnCrash::Restart => "restart",
    };
    let mut text = format!(
        "# One member of a Mainstay cluster. Written by `mainstay join`; check it with `mainstay config check`.\n\
         cluster = \"{}\"\nmember = \"{}\"\n\
         # Keys, state and data lie below it.\ndirectory = \"{}\"\n\
         # The same on all members.\nlease = \"{}ms\"\non_crash = \"{on_crash}\"\n",
        answer.cluster,
        answer.member,
        plan.directory.display(),
        answer.lease_ms,
    );
    if plan.kind == Kind::Data {
        text.push_str(&server_names(names));
        let lines: Vec<String> = answer.hba.iter().map(|line| toml_text(line)).collect();
        let _ = write!(
            text,
            "\n[postgresql]\n# Who may connect, as lines of pg_hba.conf.\nhba = [{}]\n",
            lines.join(", ")
        );
        if let Some(tuned) = &plan.tuned {
            text.push_str(&tuned.table());
        }
    }
    if let Some(login) = &answer.application {
        let _ = write!(
            text,
            "\n[bootstrap]\ndatabase = {}\nrole = {}\npassword_file = {}\n",
            toml_text(&login.database),
            toml_text(&login.role),
            toml_text(&plan.directory.join("app.password").display().to_string()),
        );
    }
    let key = KeyFingerprint::of_certificate_pem(&answer.certificate_pem)?;
    let mut fields = vec![("address", plan.address.to_string())];
    if plan.kind == Kind::Witness {
        fields.push(("kind", "witness".to_owned()));
    }
    if let Some(postgres) = plan.postgres {
        fields.push(("postgres", postgres.to_string()));
    }
    fields.push(("http", plan.http.to_string()));
    fields.push(("key", key.to_string()));
    text.push_str(&own_row(answer.member.as_str(), &fields));
    Ok(text)
}

/// A basic string of TOML.
fn toml_text(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
