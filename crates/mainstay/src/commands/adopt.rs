//! Taking over a data directory that was there before: the report, and the word of the operator.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use mainstay_member::Configuration;
use mainstay_postgres::adopt::{Consent, DEBIAN_ROOT, Examination, ExamineOptions, Severity, examine};

use crate::output::println;

/// Looks at `data`, which a member in `directory` may take over. Changes nothing.
pub(crate) async fn look(data: &Path, directory: &Path, user: Option<&str>) -> Result<Examination> {
    let options =
        ExamineOptions { data, root: directory, bin_dir: None, user, debian_root: Path::new(DEBIAN_ROOT) };
    Ok(examine(&options).await?)
}

/// The report for people, the worst first.
pub(crate) fn report(seen: &Examination) -> String {
    let mut text = String::new();
    let programs = seen.programs.as_deref().unwrap_or("unknown");
    let _ = writeln!(text, "{}: PostgreSQL {programs}, owned by {}", seen.data.display(), seen.owner);
    for finding in &seen.findings {
        let word = match finding.severity {
            Severity::Obstacle => "STOP",
            Severity::Warning => "warn",
            Severity::Note => "note",
        };
        let _ = writeln!(text, "  {word}  {}", finding.message);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "        → {remedy}");
        }
    }
    text
}

/// The table `[postgresql]` of a member that takes `seen` over.
pub(crate) fn configuration_lines(seen: &Examination) -> String {
    // A JSON string is a basic string of TOML too.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = format!(
        "[postgresql]\ndata_directory = {}\nuser = {}\n",
        quoted(&seen.data.display().to_string()),
        quoted(&seen.owner)
    );
    if !seen.carried.hba.is_empty() {
        text.push_str("hba = [\n");
        for line in &seen.carried.hba {
            let _ = writeln!(text, "    {},", quoted(line));
        }
        text.push_str("]\n");
    }
    if !seen.carried.parameters.is_empty() {
        text.push_str("\n[postgresql.parameters]\n");
    }
    for (name, value) in &seen.carried.parameters {
        let name = if name.contains(['.', '$']) { quoted(name) } else { name.clone() };
        let _ = writeln!(text, "{name} = {}", quoted(value));
    }
    text
}

/// Takes over what `data_directory` of the configuration names, after the report. `yes` agrees to the restart, and to
/// Debian's starting it no more.
pub(crate) async fn adopt(configuration: &Configuration, yes: bool, json: bool) -> Result<()> {
    let postgresql = &configuration.postgresql;
    let seen =
        look(&postgresql.data_directory, &configuration.directory, Some(postgresql.user.as_str())).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&seen)?);
    } else {
        println!("{}", report(&seen).trim_end());
    }
    if seen.is_adopted {
        // An earlier run has done it, and was interrupted before the rest.
        return Ok(());
    }
    if let Some(obstacle) = seen.obstacles().next() {
        let remedy = obstacle.remedy.as_deref().unwrap_or_default();
        bail!("{} cannot be adopted: {} ({remedy})", seen.data.display(), obstacle.message);
    }
    let missing = missing(configuration, &seen);
    if !missing.is_empty() {
        bail!(
            "the configuration lacks what the server runs with: {}; write it as here, or other values of your own:\n{}",
            missing.join(", "),
            configuration_lines(&seen)
        );
    }
    if !yes {
        bail!("nothing is changed without your word: repeat it with --yes");
    }
    mainstay_member::adopt(configuration, Consent { stop: true, disable_start: true }).await?;
    Ok(())
}

/// Parameters that would silently fall back to a default.
fn missing(configuration: &Configuration, seen: &Examination) -> Vec<String> {
    let given = &configuration.postgresql.parameters;
    seen.carried.parameters.keys().filter(|name| !given.contains_key(*name)).cloned().collect()
}
