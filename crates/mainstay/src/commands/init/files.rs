//! What `init` writes: keys, secrets, and the configuration file, short, with a line of why for each part.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mainstay_core::record::Kind;
use mainstay_net::KeyFingerprint;
use mainstay_net::pki::{self, ClusterCa, SERVER_LIFETIME};
use mainstay_postgres::adopt::Examination;
use mainstay_postgres::durable::{self, Access};

use super::{Answers, adopt};
use crate::commands::join;
use crate::setup;

/// The configuration file of an `init` that has not ended.
fn draft_path(directory: &Path) -> PathBuf {
    directory.join("state").join("init.toml")
}

/// What an interrupted `init` has left.
pub(super) fn draft(directory: &Path) -> Result<Option<String>> {
    let text = durable::read(&draft_path(directory))?;
    Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
}

pub(super) fn write_draft(directory: &Path, text: &str) -> Result<()> {
    durable::write(&draft_path(directory), text.as_bytes(), Access { mode: 0o600, owner: None })?;
    Ok(())
}

/// From here on the member is there.
pub(super) fn settle(directory: &Path, config: &Path) -> Result<()> {
    let text = draft(directory)?.context("the draft of the configuration is gone; begin anew")?;
    if let Some(parent) = config.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    durable::write(config, text.as_bytes(), Access { mode: 0o644, owner: None })?;
    let draft = draft_path(directory);
    std::fs::remove_file(&draft).with_context(|| format!("cannot remove {}", draft.display()))
}

/// A directory in which a member lives, or has lived, is left alone.
pub(super) fn check_unused(directory: &Path, adopts: bool) -> Result<()> {
    for name in ["consensus", "tls/ca.pem"] {
        let path = directory.join(name);
        if path.exists() {
            bail!(
                "{} exists already: {} is a member's; choose another --directory, or take that member off with: mainstay uninstall",
                path.display(),
                directory.display()
            );
        }
    }
    let data = directory.join("data");
    let is_empty = std::fs::read_dir(&data).map(|mut entries| entries.next().is_none()).unwrap_or(true);
    if !adopts && !is_empty {
        bail!(
            "{} is not empty; move it away, or take it over with: --adopt {}",
            data.display(),
            data.display()
        );
    }
    Ok(())
}

/// Makes what the configuration names, or takes what an earlier try has made, and writes it.
pub(super) fn begin(answers: &Answers, seen: Option<&Examination>) -> Result<String> {
    let directory = &answers.directory;
    join::keys(directory, Kind::Data)?;
    setup::make_directory(&directory.join("state"), 0o700)?;
    secret(&directory.join("replication.password"), 32)?;
    if answers.database.is_some() {
        secret(&directory.join("app.password"), 20)?;
    }
    let key = directory.join("tls/member.key");
    let key = std::fs::read_to_string(&key).with_context(|| format!("cannot read {}", key.display()))?;
    let key = KeyFingerprint::of_private_key_pem(&key)?;
    Ok(configuration(answers, &key.to_string(), seen))
}

fn secret(path: &Path, length: usize) -> Result<()> {
    if path.exists() { Ok(()) } else { setup::write_secret(path, &setup::random_text(length)?) }
}

/// The cluster's CA, new or of an earlier try, and the certificates of this member.
pub(super) fn certificates(answers: &Answers) -> Result<ClusterCa> {
    let tls = answers.directory.join("tls");
    let (certificate, key) = (tls.join("ca.pem"), tls.join("ca.key"));
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let ca = match key.exists() {
        true => ClusterCa::load(&answers.cluster, &read(&certificate)?, &read(&key)?)?,
        false => {
            let ca = ClusterCa::create(&answers.cluster)?;
            pki::replace_certificate(&certificate, ca.certificate_pem())?;
            pki::write_private_key(&key, &ca.key_pem())?;
            ca
        }
    };
    let keys = join::keys(&answers.directory, Kind::Data)?;
    let own = ca.sign_member(&answers.member, &keys.member_request)?;
    pki::replace_certificate(&tls.join("member.pem"), &own)?;
    if let Some(request) = &keys.server_request {
        let server = ca.sign_postgres_server(&answers.server_names(), SERVER_LIFETIME, request)?;
        pki::replace_certificate(&tls.join("server.pem"), &server)?;
    }
    Ok(ca)
}

fn configuration(answers: &Answers, key: &str, seen: Option<&Examination>) -> String {
    let Answers { cluster, member, directory, address, postgres, http, lease, .. } = answers;
    let mut text = format!(
        "# One member of a Mainstay cluster. Written by `mainstay init`; check it with `mainstay config check`.\n\
         cluster = \"{cluster}\"\n\
         member = \"{member}\"\n\
         # Keys, state and data lie below it.\n\
         directory = \"{}\"\n\
         # How long a primary may go on without a majority; the longest that writes stay away when a machine dies is a\n\
         # little more. The same on all members.\n\
         lease = \"{lease}\"\n",
        directory.display()
    );
    text.push_str(&server_names(&answers.names));
    let lines: Vec<String> =
        answers.allow.iter().map(|network| format!("hostssl all all {network} scram-sha-256")).collect();
    match seen {
        Some(seen) => {
            text.push_str(&adopt::table(seen, &lines));
            text.push_str(&adopt::defaults(&adopt::carried(seen).own));
        }
        None => {
            let lines: Vec<String> = lines.iter().map(|line| format!("\"{line}\"")).collect();
            let _ = write!(
                text,
                "\n[postgresql]\n# Who may connect, as lines of pg_hba.conf: with TLS and a password.\nhba = [{}]\n",
                lines.join(", ")
            );
        }
    }
    if let Some(tuned) = &answers.tuned {
        text.push_str(&tuned.table());
    }
    if let Some(database) = &answers.database {
        let _ = write!(
            text,
            "\n# Made with the first data directory. The password is in the file.\n\
             [bootstrap]\ndatabase = \"{database}\"\nrole = \"{}\"\npassword_file = \"{}\"\n",
            answers.role,
            directory.join("app.password").display()
        );
    }
    text.push_str(&own_row(
        member.as_str(),
        &[
            ("address", address.to_string()),
            ("postgres", postgres.to_string()),
            ("http", http.to_string()),
            ("key", key.to_owned()),
        ],
    ));
    text
}

/// Names that stand in the certificate of this PostgreSQL, beside the member's own and its address.
pub(crate) fn server_names(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!(
        "# Other names and addresses under which clients reach PostgreSQL here.\nserver_names = [{}]\n",
        quoted.join(", ")
    )
}

/// This member's own row; the others are known from the cluster's record.
pub(crate) fn own_row(member: &str, fields: &[(&str, String)]) -> String {
    let mut text = format!(
        "\n# This member: where the others reach it, where PostgreSQL listens, where health checks ask. The other members are\n\
         # known from the cluster's record.\n[members.{member}]\n"
    );
    for (name, value) in fields {
        let _ = writeln!(text, "{name} = \"{value}\"");
    }
    text
}
