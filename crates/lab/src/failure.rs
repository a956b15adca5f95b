//! What a person needs after a failure: copies of every log and of every member's decisions, and the ends of them at once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::client::GapClient;
use crate::cluster::Cluster;
use crate::control;
use crate::journal;
use crate::member::Member;
use crate::tally::Outcome;

const TAIL_LINES: usize = 25;
const DECISIONS: usize = 200;
const SHOWN_DECISIONS: usize = 12;

/// `lab-failures` in cargo's target directory.
pub fn directory() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")).join("lab-failures")
}

/// Copies what there is below `lab-failures/NAME`, and prints the ends to standard error.
pub fn keep(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let place = directory().join(name);
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    for member in &cluster.members {
        copy(member, &place);
        eprintln!("--- {}: the last lines of its log", member.name());
        eprintln!("{}", journal::tail(&member.site.log(), TAIL_LINES));
        eprintln!("--- {}: explain", member.name());
        match control::explain(&member.site.control_socket(), SHOWN_DECISIONS) {
            Ok(decisions) => {
                for decision in &decisions {
                    eprintln!("epoch {:>3}  {}", decision.epoch, decision.because.join("; "));
                }
            }
            Err(error) => eprintln!("{error:#}"),
        }
    }
    Ok(place)
}

/// What can be copied is; a failure must not hide the one that it is about.
fn copy(member: &Member, place: &Path) {
    let site = &member.site;
    let _ = fs::copy(site.log(), place.join(format!("{}-member.log", site.name)));
    for log in ["guard.log", "postgresql.log"] {
        let _ = fs::copy(site.directory.join("log").join(log), place.join(format!("{}-{log}", site.name)));
    }
    let proxy = site.directory.join("sql-proxy/sql-proxy.log");
    let _ = fs::copy(proxy, place.join(format!("{}-sql-proxy.log", site.name)));
    if let Ok(text) = control::explain_text(&site.control_socket(), DECISIONS) {
        let _ = fs::write(place.join(format!("{}-explain.json", site.name)), text);
    }
    let processes: Vec<String> = member.processes().iter().map(|process| format!("{process:?}")).collect();
    let _ = fs::write(place.join(format!("{}-processes.txt", site.name)), processes.join("\n"));
}

/// What a client saw, a line for each attempt that was not acknowledged, and for each gap.
pub fn history(client: &GapClient) -> String {
    let mut text = String::new();
    let mut last = None;
    for attempt in &client.history().attempts {
        let at = attempt.ended.0 / 1_000_000;
        if attempt.outcome == Outcome::Acknowledged {
            let pause = last.map_or(0, |last: u64| at.saturating_sub(last));
            if pause > 200 {
                text.push_str(&format!("{at} ms: row {} after a pause of {pause} ms\n", attempt.id));
            }
            last = Some(at);
        } else {
            let error = attempt.error.as_deref().unwrap_or_default();
            text.push_str(&format!("{at} ms: row {} {:?}: {error}\n", attempt.id, attempt.outcome));
        }
    }
    text
}
