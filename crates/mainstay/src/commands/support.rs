//! `support`: what somebody who is to help needs to see, in one file, without a secret.
//!
//! Whatever cannot be had is named in the bundle; a cluster that is well needs none.

mod archive;
mod redact;
mod system;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mainstay_member::{Configuration, certificates, roster};
use mainstay_postgres::tools::{RunAs, Tools};
use serde_json::{Value, json};

use crate::cli::logs::SupportOptions;
use crate::client::{self, Control};
use crate::commands::logs::{self, Asked};
use crate::commands::verify;
use crate::output::println;
use crate::{configuration, when};
use archive::Archive;
use redact::Secrets;

/// How far back the logs go.
const LOGS: Duration = Duration::from_secs(24 * 3_600);
/// Of all members together.
const ENTRIES: usize = logs::MOST_ENTRIES;
const DECISIONS: usize = 50;
const VERIFY_PATIENCE: Duration = Duration::from_secs(40);
const PROGRAM_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(options: &SupportOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let now = when::now_ms() / 1_000 * 1_000;
    let name = format!("mainstay-support-{}-{}", configuration.cluster, configuration.me);
    let file = options.output.clone().unwrap_or_else(|| {
        PathBuf::from(format!("{name}-{}.tar.gz", when::utc(now * 1_000).replace(['-', ':'], "")))
    });
    if file.exists() {
        bail!("{} exists already; name another file with --output", file.display());
    }
    let mut bundle = Bundle {
        archive: Archive::new(&name, now / 1_000),
        secrets: Secrets::of(&configuration),
        missing: Vec::new(),
    };
    bundle.gather(&configuration, &options.shared.config).await;
    bundle.add("README.txt", Ok(readme(&configuration, now, &bundle.missing)));
    let Bundle { archive, missing, .. } = bundle;
    let target = file.clone();
    let bytes = tokio::task::spawn_blocking(move || archive.write(&target)).await??;
    if options.shared.json {
        println!("{}", json!({ "file": file, "bytes": bytes, "missing": missing }));
    } else {
        for line in &missing {
            println!("! {line}");
        }
        println!(
            "{} ({} KiB): keys, tokens and passwords are taken out; look into it before you pass it on",
            file.display(),
            bytes.div_ceil(1024)
        );
    }
    Ok(ExitCode::SUCCESS)
}

struct Bundle {
    archive: Archive,
    secrets: Secrets,
    /// What could not be had, and why.
    missing: Vec<String>,
}

impl Bundle {
    fn add(&mut self, name: &str, text: Result<String>) {
        match text {
            Ok(text) => self.archive.add(name, self.secrets.redact(&text).as_bytes()),
            Err(error) => self.missing.push(self.secrets.redact(&format!("{name}: {error:#}"))),
        }
    }

    fn add_json(&mut self, name: &str, value: Result<impl serde::Serialize>) {
        self.add(name, value.and_then(|value| Ok(serde_json::to_string_pretty(&value)?)));
    }

    async fn gather(&mut self, configuration: &Configuration, config: &Path) {
        let control = Control::of(configuration);
        self.add_json("status.json", client::any_status(configuration).await);
        self.add_json("configuration.json", control.get::<Value>("/v1/config").await);
        self.add_json("decisions.json", control.explain(DECISIONS).await);
        self.add_json("members.json", roster::load(configuration).map_err(anyhow::Error::from));
        let told = certificates::status(configuration).map_err(anyhow::Error::msg);
        self.add_json("certificates.json", told);
        self.add("mainstay.toml", read(config));
        if configuration.own_row().postgres.is_some() {
            let generated = configuration.directory.join("postgresql");
            for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
                self.add(name, read(&generated.join(name)));
            }
            self.add("pg_controldata.txt", control_data(configuration).await);
        }
        self.add("system.txt", system::facts(configuration).await);
        let verified =
            tokio::time::timeout(VERIFY_PATIENCE, verify::examine(configuration.clone(), &[])).await;
        let verified = verified.context("not finished in time").and_then(|report| report);
        self.add_json("verify.json", verified);
        self.add_logs(configuration).await;
    }

    async fn add_logs(&mut self, configuration: &Configuration) {
        let asked = Asked::new(configuration.clone(), None, Some(LOGS), Some(ENTRIES));
        let mut asked = match asked {
            Ok(asked) => asked,
            Err(error) => return self.missing.push(format!("logs.txt: {error:#}")),
        };
        let lines = asked.ask().await;
        let text: String = lines.iter().map(|line| format!("{}\n", line.text())).collect();
        self.add("logs.txt", Ok(text));
        let silent = asked.silent().iter().map(|(member, why)| format!("logs of {member}: {why}"));
        let silent: Vec<String> = silent.map(|line| self.secrets.redact(&line)).collect();
        self.missing.extend(silent);
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

async fn control_data(configuration: &Configuration) -> Result<String> {
    let data = &configuration.postgresql.data_directory;
    let major = read(&data.join("PG_VERSION"))?.trim().parse().ok();
    let user = &configuration.postgresql.user;
    let run_as = if nix::unistd::geteuid().is_root() { Some(RunAs::of_user(user)?) } else { None };
    let tools = Tools::find(configuration.postgresql.bin_dir.as_deref(), major, run_as).await?;
    let mut command = tools.command("pg_controldata", Path::new("/"));
    command.arg("-D").arg(data).kill_on_drop(true);
    let output = tokio::time::timeout(PROGRAM_PATIENCE, command.output()).await.context("it hangs")??;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn readme(configuration: &Configuration, now_ms: u64, missing: &[String]) -> String {
    let mut text = format!(
        "Gathered by mainstay {} on member {} of the cluster {}, at {}.\n\n\
         status.json         the cluster as this member sees it\n\
         configuration.json  PostgreSQL's configuration in the record, and this member's part\n\
         decisions.json      the last decisions, with the facts and the record behind them\n\
         members.json        the members as this one keeps them\n\
         certificates.json   for whom this machine's are, and for how long\n\
         mainstay.toml, postgresql.conf, pg_hba.conf, pg_ident.conf, pg_controldata.txt, system.txt: of this machine\n\
         verify.json         the cluster checked from here\n\
         logs.txt            the last day of all members that were reached, by each one's own clock\n\n\
         Passwords, keys and tokens are replaced by {}. Statements and names in the logs are as they are.\n",
        env!("CARGO_PKG_VERSION"),
        configuration.me,
        configuration.cluster,
        when::utc(now_ms * 1_000),
        redact::INSTEAD,
    );
    if !missing.is_empty() {
        text.push_str("\nWhat could not be had:\n");
        missing.iter().for_each(|line| text.push_str(&format!("- {line}\n")));
    }
    text
}
