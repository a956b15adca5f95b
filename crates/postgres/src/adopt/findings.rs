//! What a person should know before the directory is adopted, and what must be done first.

use serde::{Deserialize, Serialize};

use super::{Examination, Facts, is_clean};
use crate::configuration;
use crate::control::ClusterState;
use crate::directory::Adoptable;

/// Below this much free space nothing is begun: a shutdown writes a checkpoint, a start writes WAL.
const FREE_NEEDED_BYTES: u64 = 256 << 20;

/// How much a finding matters, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It stands in the way: `remedy` says what to do first.
    Obstacle,
    /// Somebody may miss it, or must do something as well.
    Warning,
    /// What is so, and what Mainstay will do.
    Note,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub severity: Severity,
    /// A word for scripts.
    pub subject: String,
    pub message: String,
    /// What the operator does, if anything.
    pub remedy: Option<String>,
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, subject: &str, message: impl Into<String>, remedy: Option<String>) {
        self.0.push(Finding { severity, subject: subject.to_owned(), message: message.into(), remedy });
    }

    fn obstacle(&mut self, subject: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Obstacle, subject, message, Some(remedy.into()));
    }

    fn warn(&mut self, subject: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, subject, message, Some(remedy.into()));
    }

    fn note(&mut self, subject: &str, message: impl Into<String>) {
        self.add(Severity::Note, subject, message, None);
    }
}

pub(super) fn all(seen: &Examination, facts: &Facts) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    directory(&mut findings, seen, facts);
    state(&mut findings, seen, facts);
    space(&mut findings, seen);
    supervision(&mut findings, seen);
    clients(&mut findings, seen, facts);
    replication(&mut findings, seen, facts);
    configuration(&mut findings, seen, facts);
    findings.0.sort_by_key(|finding| finding.severity);
    findings.0
}

fn directory(findings: &mut Findings, seen: &Examination, facts: &Facts) {
    let data = seen.data.display();
    match (&facts.files.version_text, seen.major) {
        (None, _) => findings.obstacle(
            "directory",
            format!("{data} has no file PG_VERSION, so it is no data directory of PostgreSQL"),
            "name the directory that `SHOW data_directory` prints",
        ),
        (Some(text), None) => findings.obstacle(
            "version",
            format!("{data} was made by PostgreSQL {text}, which Mainstay does not know"),
            "upgrade it to PostgreSQL 15 or newer first, with pg_upgrade",
        ),
        (Some(_), Some(major)) if major < crate::tools::OLDEST_MAJOR => findings.obstacle(
            "version",
            format!("{data} was made by PostgreSQL {major}; Mainstay needs 15 or newer"),
            "upgrade it first, with pg_upgrade",
        ),
        _ => {}
    }
    if let Some(error) = facts.tools_error.as_ref().filter(|_| seen.major >= Some(crate::tools::OLDEST_MAJOR))
    {
        findings.obstacle("programs", error, "install the complete server package of that version");
    }
    if let Some(error) = &facts.owner_error {
        findings.obstacle("owner", format!("{data}: {error}"), "let the owner and the configured user agree");
    }
    if facts.files.mode & 0o027 != 0 {
        findings.obstacle(
            "permissions",
            format!("{data} has mode {:04o}, which lets others in", facts.files.mode),
            format!("chmod 0700 {data}"),
        );
    }
    match &facts.adoptable {
        Adoptable::New => {}
        Adoptable::Interrupted => {
            findings.note("interrupted", "an earlier adoption was interrupted, and is gone on with");
        }
        Adoptable::Done => findings.obstacle(
            "adopted",
            format!("{data} is this member's already"),
            "start it with `mainstay run`",
        ),
        Adoptable::Refused(why) => findings.obstacle("adopted", format!("{data}: {why}"), "see there"),
    }
    if let Some(error) = &facts.control_error {
        findings.obstacle(
            "control",
            format!("pg_control of {data} cannot be used: {error}"),
            "restore the directory",
        );
    }
}

fn state(findings: &mut Findings, seen: &Examination, facts: &Facts) {
    let ours = facts.adoptable == Adoptable::Interrupted;
    let standby = facts.files.signals.iter().find(|signal| signal.ends_with(".signal"));
    let recovering = facts.control.as_ref().is_some_and(|control| {
        matches!(control.state, ClusterState::ShutDownInRecovery | ClusterState::InArchiveRecovery)
    });
    match standby {
        Some(signal) if !ours => findings.obstacle(
            "standby",
            format!("it has a {signal}: it is a standby, or a restore that is not complete"),
            "adopt the primary instead, or promote this one first (pg_ctl promote)",
        ),
        _ if recovering => findings.obstacle(
            "standby",
            "it was stopped as a standby, or while it was being restored",
            "adopt the primary instead, or start it by its old means and promote it first",
        ),
        _ => {}
    }
    if facts.files.signals.contains(&"backup_label") {
        findings.obstacle(
            "backup",
            "it has a backup_label: it is a copy that was not started yet",
            "start it once by its old means, so that it becomes consistent, and stop it again",
        );
    }
    match (&seen.running, &facts.control) {
        (Some(running), _) => {
            let sessions =
                seen.sql.as_ref().map_or_else(String::new, |sql| format!("; {} sessions end", sql.sessions));
            findings.note(
                "restart",
                format!(
                    "PostgreSQL runs (process {}, port {}) and is restarted once: a fast shutdown, then Mainstay starts it{sessions}",
                    running.pid, running.port
                ),
            );
        }
        (None, Some(control)) if !is_clean(control) && !recovering => findings.warn(
            "crashed",
            "it was not shut down cleanly: PostgreSQL replays its WAL first, before anything else is done",
            "if you would rather look first: start and stop it by its old means",
        ),
        (None, Some(_)) => findings.note("stopped", "it was shut down cleanly"),
        (None, None) => {}
    }
    if let Some(error) = &facts.sql_error {
        findings.note(
            "sql",
            format!("the running server could not be asked about its sessions and roles: {error}"),
        );
    }
    match facts.control.as_ref().map(|control| control.data_checksums) {
        Some(false) => findings.note(
            "checksums",
            "data checksums are off: Mainstay sets wal_log_hints = on, so that pg_rewind works all the same",
        ),
        Some(true) => findings.note("checksums", "data checksums are on"),
        None => {}
    }
}

fn space(findings: &mut Findings, seen: &Examination) {
    let mib = |bytes: u64| bytes >> 20;
    if seen.free_bytes < FREE_NEEDED_BYTES {
        findings.obstacle(
            "disk",
            format!("{} MiB are free beside {}", mib(seen.free_bytes), seen.data.display()),
            format!("free {} MiB at least", mib(FREE_NEEDED_BYTES)),
        );
    }
    findings.note(
        "size",
        format!(
            "{} MiB stay where they are; each standby will copy them, and needs that much room",
            mib(seen.size_bytes)
        ),
    );
    for tablespace in &seen.tablespaces {
        let path = tablespace.path.display();
        findings.warn(
            "tablespace",
            format!("tablespace {} lies in {path}", tablespace.oid),
            format!("make the empty directory {path}, owned by {}, on every other data member", seen.owner),
        );
    }
    if let Some(wal) = &seen.wal_directory {
        findings.warn(
            "wal_directory",
            format!("pg_wal lies in {} and stays there", wal.display()),
            "copies on other members, and a later copy to this one, have it inside of the data directory",
        );
    }
}

fn supervision(findings: &mut Findings, seen: &Examination) {
    if let Some(debian) = seen.debian.as_ref().filter(|debian| debian.starts()) {
        findings.warn(
            "unit",
            format!(
                "Debian starts it as cluster {} {} ({}): Mainstay sets start.conf to `disabled`, if you agree",
                debian.version,
                debian.name,
                debian.unit()
            ),
            format!("or do it yourself: echo disabled > {}", debian.directory.join("start.conf").display()),
        );
    } else if let Some(unit) = &seen.unit {
        findings.warn(
            "unit",
            format!("systemd runs it as {unit}, which must not start it again"),
            format!("systemctl disable {unit}"),
        );
    }
}

fn clients(findings: &mut Findings, seen: &Examination, facts: &Facts) {
    let port = seen.port;
    let socket = seen.running.as_ref().and_then(|running| running.socket_dir.as_ref());
    if let Some(socket) = socket {
        findings.warn(
            "socket",
            format!("its Unix socket moves from {} to `run` in the member's directory", socket.display()),
            format!("applications on this machine that use the socket need the new path, or the address with port {port}"),
        );
    }
    let own_certificate =
        facts.settings.get("ssl_cert_file").filter(|file| !file.contains("ssl-cert-snakeoil"));
    if let Some(file) = own_certificate.filter(|_| facts.settings.get("ssl") == Some("on")) {
        findings.warn(
            "certificate",
            format!("its certificate {file} gives way to one of the cluster's own authority"),
            "clients that verify it (sslmode=verify-ca or verify-full) need that authority as sslrootcert",
        );
    }
    for left in &seen.carried.hba_left {
        findings.warn(
            "hba",
            format!("pg_hba.conf line `{}` is not carried over: {}", left.text, left.reason),
            "add a line to `hba` in mainstay.toml if you need it",
        );
    }
    for line in seen.carried.hba.iter().filter(|line| line.starts_with("host") && line.ends_with(" trust")) {
        findings.warn(
            "trust",
            format!("`{line}` lets anybody from there in without a password"),
            "replace it in mainstay.toml",
        );
    }
}

fn replication(findings: &mut Findings, seen: &Examination, facts: &Facts) {
    for slot in &seen.slots {
        let (name, kind) = (&slot.name, if slot.logical { "logical" } else { "physical" });
        let (message, remedy) = if slot.logical {
            ("stays on this member, and does not survive a failover", "consumers must be able to begin anew")
        } else {
            (
                "stays, and keeps WAL until it is dropped",
                "drop it once its standby is gone: SELECT pg_drop_replication_slot",
            )
        };
        findings.warn("slot", format!("{kind} replication slot {name} {message}"), remedy);
    }
    let prepared = seen.sql.as_ref().map_or(facts.files.prepared as u64, |sql| sql.prepared);
    if prepared > 0 {
        findings.warn(
            "prepared",
            format!("{prepared} prepared transactions are open; they survive the restart, with their locks"),
            "commit or roll them back soon (pg_prepared_xacts)",
        );
    }
    let Some(sql) = &seen.sql else { return };
    if !sql.standbys.is_empty() {
        findings.warn(
            "standbys",
            format!("{} stream from it, and are no members", sql.standbys.join(", ")),
            "they lose their source if they use its old socket, port or roles; `mainstay join` makes members",
        );
    }
    if sql.role_is_taken {
        findings.obstacle(
            "role",
            "there is a role `mainstay` that is no superuser; Mainstay needs the name for its own",
            "ALTER ROLE mainstay RENAME TO another name",
        );
    }
    if !sql.weaker.is_empty() {
        findings.warn(
            "synchronous_commit",
            format!(
                "synchronous_commit is below `on` for {}: their commits can be lost in a failover",
                sql.weaker.join(", ")
            ),
            "ALTER ROLE or ALTER DATABASE … RESET synchronous_commit, unless that is meant",
        );
    }
}

fn configuration(findings: &mut Findings, seen: &Examination, facts: &Facts) {
    for place in &facts.settings.unreadable {
        findings.warn(
            "parameter",
            format!("{place} is no line that PostgreSQL reads"),
            "correct or remove it",
        );
    }
    for left in &seen.carried.parameters_left {
        findings.warn(
            "parameter",
            format!("{} is not carried over: {}", left.text, left.reason),
            "none, unless an application counts on it",
        );
    }
    let carried = &seen.carried.parameters;
    if !carried.is_empty() {
        let names: Vec<&str> = carried.keys().map(String::as_str).collect();
        findings.note("parameters", format!("carried over: {}", names.join(", ")));
    }
    if let Some(libraries) = carried.get("shared_preload_libraries").filter(|libraries| !libraries.is_empty())
    {
        findings.warn(
            "libraries",
            format!("shared_preload_libraries = {libraries:?} is carried over"),
            "install the same packages on every other data member before it joins",
        );
    }
    let reason = configuration::reason_for_protection("wal_log_hints").unwrap_or_default();
    if facts.settings.get("wal_log_hints") != Some("on") {
        findings.note("wal_log_hints", format!("becomes on: {reason}"));
    }
    if facts.settings.get("wal_level") == Some("minimal") {
        findings.note("wal_level", "rises from minimal to replica");
    }
}
