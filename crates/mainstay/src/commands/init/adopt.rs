//! `init --adopt`: the cluster is founded on the data of a server that is there. Everything is looked at and announced first.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use mainstay_core::record::{Applied, Command, FORMAT, ParameterSet, Record, Values};
use mainstay_member::Configuration;
use mainstay_postgres::adopt::{Consent, Examination, Finding, Severity};

use super::Answers;
use crate::cli::InitOptions;
use crate::commands::adopt;
use crate::output::println;
use crate::setup::Ask;

/// What belongs to a machine and not to the cluster: another one may have less memory, or other disks.
const OF_THE_MACHINE: &[&str] = &[
    "dynamic_shared_memory_type",
    "effective_cache_size",
    "effective_io_concurrency",
    "huge_page_size",
    "huge_pages",
    "maintenance_io_concurrency",
    "max_slot_wal_keep_size",
    "max_wal_size",
    "min_dynamic_shared_memory",
    "random_page_cost",
    "seq_page_cost",
    "shared_buffers",
    "shared_memory_type",
    "temp_tablespaces",
];

/// What a running server has, shared out.
pub(super) struct Carried {
    /// For the whole cluster: the record's first configuration.
    pub(super) shared: Values,
    /// For this machine: `[postgresql.defaults]` of its file.
    pub(super) own: Values,
}

/// Looks at what is to be adopted. Changes nothing.
pub(super) async fn look(options: &InitOptions, data: &Path) -> Result<Examination> {
    let data = std::path::absolute(data)?;
    let directory = std::path::absolute(&options.directory)?;
    if data.starts_with(&directory) && data != directory.join("data") || directory.starts_with(&data) {
        bail!(
            "{} and the member's directory {} must not contain each other; choose another --directory",
            data.display(),
            directory.display()
        );
    }
    if !data.is_dir() {
        bail!("{} is no directory; name the one that `SHOW data_directory` prints", data.display());
    }
    adopt::look(&data, &directory, None).await
}

pub(super) fn carried(seen: &Examination) -> Carried {
    let is_own = |name: &str| OF_THE_MACHINE.contains(&name);
    let (own, shared) = seen.carried.parameters.clone().into_iter().partition(|(name, _)| is_own(name));
    Carried { shared, own }
}

/// Tells what is there and what will be done, and goes on only with the operator's word.
pub(super) fn agree(seen: &Examination, answers: &Answers, options: &InitOptions, ask: &Ask) -> Result<()> {
    let announced = announced(seen, answers);
    if !options.shared.json {
        println!("{}", adopt::report(&announced).trim_end());
    }
    // What an interrupted `init` has adopted is taken as it is.
    let stops = announced.obstacles().find(|_| !seen.is_adopted);
    if let Some(obstacle) = stops {
        let remedy = obstacle.remedy.as_deref().unwrap_or_default();
        bail!("{} cannot be adopted: {} ({remedy})", seen.data.display(), obstacle.message);
    }
    check_size(first_set(&carried(seen)))?;
    let stop = if seen.running.is_some() { "PostgreSQL is stopped now, and " } else { "" };
    let question = format!("{stop}{} becomes {}'s", seen.data.display(), answers.member);
    if !ask.confirm(&question, "adopt", options.yes)? {
        bail!("nothing was changed");
    }
    Ok(())
}

/// Whether the record will take it: tried on an empty one.
fn check_size(set: ParameterSet) -> Result<()> {
    let mut record = Record { format: FORMAT, ..Record::default() };
    let command = Command::ChangeParameters { serial: 0, set, by: String::new(), at_unix_ms: 0 };
    match record.apply(command) {
        Applied::Refused(refusal) => {
            bail!("the configuration of the server does not fit: {refusal}; shorten it")
        }
        Applied::Done | Applied::Already => Ok(()),
    }
}

/// The findings, and what this member changes for clients.
fn announced(seen: &Examination, answers: &Answers) -> Examination {
    let mut seen = seen.clone();
    let mut add = |subject: &str, message: String, remedy: &str| {
        seen.findings.push(Finding {
            severity: Severity::Warning,
            subject: subject.to_owned(),
            message,
            remedy: Some(remedy.to_owned()),
        });
    };
    add(
        "address",
        format!("from now on PostgreSQL listens on {} alone, beside its Unix socket", answers.postgres),
        "applications that use another address or port of this machine, such as localhost, need that one",
    );
    if seen.running.is_some() && !answers.is_to_start {
        add(
            "start",
            "PostgreSQL stays stopped until the member is started".to_owned(),
            "be ready to start it at once, or let --start do it",
        );
    }
    seen.findings.sort_by_key(|finding| finding.severity);
    seen
}

pub(super) fn first_set(carried: &Carried) -> ParameterSet {
    ParameterSet { shared: carried.shared.clone(), ..ParameterSet::default() }
}

/// Stops the server, and makes its directory the member's.
pub(super) async fn take_over(configuration: &Configuration, seen: &Examination) -> Result<()> {
    mainstay_member::found_with(configuration, first_set(&carried(seen)))?;
    if seen.is_adopted {
        return Ok(());
    }
    let consent = Consent { stop: true, disable_start: true };
    mainstay_member::adopt(configuration, consent)
        .await
        .map(|_| ())
        .context("the same command goes on where it was")
}

/// `[postgresql]` of a member that has adopted `seen`, with `more` lines of `pg_hba.conf`.
pub(super) fn table(seen: &Examination, more: &[String]) -> String {
    let mut text = format!(
        "\n[postgresql]\n# The data that was adopted, and the system user that it belongs to.\ndata_directory = {}\nuser = {}\n\
         # Who may connect, as lines of pg_hba.conf, as it was before.\nhba = [\n",
        quoted(&seen.data.display().to_string()),
        quoted(&seen.owner)
    );
    for line in seen.carried.hba.iter().chain(more) {
        let _ = writeln!(text, "    {},", quoted(line));
    }
    text.push_str("]\n");
    text
}

/// What belongs to this machine; the rest stands in the record, for all members.
pub(super) fn defaults(own: &BTreeMap<String, String>) -> String {
    if own.is_empty() {
        return String::new();
    }
    let mut text = "\n# As the adopted server had it, where the cluster's configuration (mainstay config show) says nothing else.\n\
                    [postgresql.defaults]\n"
        .to_owned();
    for (name, value) in own {
        let _ = writeln!(text, "{name} = {}", quoted(value));
    }
    text
}

/// A JSON string is a basic string of TOML too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
