//! One scenario file: what a member sees, step by step, and what it decides.
//!
//! ```text
//! # Why this file exists.
//! given three members            the cluster to begin with (see `Scenario::given`)
//! end crashed                    commands that the record takes, by the shipped `apply`
//! report m2 0/5000000
//! seen by m2                     the view of a member for whom all else is healthy
//! health.disk_full = true        one place in the view, or in `memory.`
//! ----
//! what `mainstay decide` prints for it, with the notation's short words
//!
//! later 1.1 s                    the next step: the same view and memory, but for ...
//! ----
//! ```
//! The part below each `----`, up to an empty line, is rewritten by `MAINSTAY_BLESS=1`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use mainstay_core::decide::{Decision, Memory, decide};
use mainstay_core::record::{Command, EndCause, OnCrash, Record};
use mainstay_core::view::View;
use mainstay_core::{Lsn, Now};
use serde_json::{Value, json};

use crate::cluster::{self, END};
use crate::notation::{self, member};
use crate::path;

const SEPARATOR: &str = "----";
/// The machine runs for a quarter of an hour.
const BEGIN: Now = Now(900_000_000_000);

#[derive(Default)]
pub(crate) struct Scenario {
    record: Record,
    view: Option<View>,
    memory: Memory,
}

/// What came out of one file.
pub(crate) struct Played {
    /// The file with what was decided now.
    pub(crate) text: String,
    /// The names of the reasons and actions that occurred.
    pub(crate) names: BTreeSet<String>,
    /// Each step as `mainstay explain --json` prints it, for `mainstay decide --view`.
    pub(crate) explanations: Vec<Value>,
}

pub(crate) fn play(text: &str) -> Played {
    let mut scenario = Scenario::default();
    let mut played = Played { text: String::new(), names: BTreeSet::new(), explanations: Vec::new() };
    let mut expected = false;
    for line in text.lines() {
        if expected {
            expected = !line.is_empty();
            if !expected {
                played.text.push('\n');
            }
            continue;
        }
        played.text += line;
        played.text.push('\n');
        if line == SEPARATOR {
            played.text += &scenario.decide(&mut played.names, &mut played.explanations);
            expected = true;
        } else if !line.trim().is_empty() && !line.starts_with('#') {
            scenario.line(line);
        }
    }
    played.text.truncate(played.text.trim_end().len());
    played.text.push('\n');
    played
}

impl Scenario {
    fn now(&self) -> Now {
        self.view.as_ref().map_or(BEGIN, |view| view.now)
    }

    fn line(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        if line.split_once(" = ").is_some_and(|(path, _)| !path.contains(' ')) {
            return self.set(line);
        }
        match verb {
            "given" => self.record = given(rest),
            "seen" => {
                let me = member(rest.strip_prefix("by ").expect("seen by MEMBER"));
                self.view = Some(cluster::seen_by(&self.record, &me, self.now()));
                self.memory = Memory::default();
            }
            "later" => {
                let time = notation::duration(rest).expect("later 1.5 s");
                cluster::pass(self.view.as_mut().expect("seen by somebody first"), time);
            }
            _ => self.command(verb, rest),
        }
    }

    /// A command that the record must accept.
    fn command(&mut self, verb: &str, rest: &str) {
        let now = self.now();
        let record = &mut self.record;
        match verb {
            "end" => {
                let cause: EndCause = read(notation::value(rest, now));
                let epoch = record.epoch;
                cluster::apply(record, Command::End { epoch, cause });
            }
            "report" => report(record, rest, now),
            "grant" => cluster::grant(record, &member(rest)),
            "open" => cluster::open(record, if rest.is_empty() { END } else { lsn(rest) }),
            "apply" => cluster::apply(record, read(notation::value(rest, now))),
            other => panic!("no such line: {other} {rest}"),
        }
        if let Some(view) = &mut self.view {
            view.record = Arc::new(self.record.clone());
        }
    }

    /// `path = value`. A place that the view does not have is a mistake of the file.
    fn set(&mut self, line: &str) {
        let now = self.now();
        let (path, value) = line.split_once(" = ").expect("path = value");
        let view = self.view.as_ref().expect("seen by somebody first");
        let mut both = json!({ "view": view, "memory": self.memory });
        let full = if path.starts_with("memory.") { path.to_owned() } else { format!("view.{path}") };
        path::set(&mut both, &full, notation::value(value, now));
        let view: View = read(both["view"].clone());
        let memory: Memory = read(both["memory"].clone());
        let again = json!({ "view": view, "memory": memory });
        assert_eq!(path::without_nulls(&again), path::without_nulls(&both), "not understood: {line}");
        self.record = Record::clone(&view.record);
        (self.view, self.memory) = (Some(view), memory);
    }

    fn decide(&mut self, names: &mut BTreeSet<String>, explanations: &mut Vec<Value>) -> String {
        let view = self.view.as_ref().expect("seen by somebody first");
        let before = self.memory.clone();
        let decision = decide(view, &mut self.memory);
        assert_eq!(decision, decide(view, &mut before.clone()), "the same facts, another decision");
        let because: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
        explanations.push(json!({
            "at_unix_ms": 0, "epoch": view.record.epoch, "because": because,
            "decision": decision, "view": view, "memory": before,
        }));
        names.extend(names_in(&decision));
        let mut text = format!("{} at epoch {}:\n", view.me, view.record.epoch);
        for (sentence, reason) in because.iter().zip(&decision.reasons) {
            assert_ne!(*sentence, format!("{reason:?}"), "a reason without a sentence");
            writeln!(text, "  {sentence}").expect("texts take everything");
        }
        for action in &decision.actions {
            let mut action = json!(action);
            notation::shorten(&mut action);
            writeln!(text, "  -> {action}").expect("texts take everything");
        }
        text
    }
}

fn given(words: &str) -> Record {
    let (cluster, on_crash) = match words.strip_suffix(" that restarts after a crash") {
        Some(cluster) => (cluster, OnCrash::Restart),
        None => (words, OnCrash::Failover),
    };
    match cluster {
        "no record" => Record::default(),
        "a created cluster" => cluster::created(&["m1", "m2", "m3"], on_crash),
        "a founded cluster" => cluster::founded(&["m1", "m2", "m3"], on_crash),
        "one member" => cluster::opened(&["m1"], on_crash),
        "two members and a witness" => cluster::opened(&["m1", "m2", "w3"], on_crash),
        "three members" => cluster::opened(&["m1", "m2", "m3"], on_crash),
        "five members" => cluster::opened(&["m1", "m2", "m3", "m4", "m5"], on_crash),
        other => panic!("no such cluster: {other}"),
    }
}

/// `report MEMBER [LSN] [{JSON that differs}]`.
fn report(record: &mut Record, words: &str, now: Now) {
    let (name, rest) = words.split_once(' ').unwrap_or((words, ""));
    let (end, differs) = match rest.split_once(' ') {
        _ if rest.starts_with('{') => ("", rest),
        Some((end, differs)) => (end, differs),
        None => (rest, ""),
    };
    let end = if end.is_empty() { END } else { lsn(end) };
    let member = member(name);
    let mut report = json!(cluster::whole_report(record, &member, end));
    if !differs.is_empty() {
        let differs = notation::value(differs, now);
        for (path, value) in differs.as_object().expect("an object") {
            path::set(&mut report, path, value.clone());
        }
    }
    cluster::apply(record, Command::Report { member, report: read(report) });
}

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

/// `reason hung`, `action run`, `job seal`, `kill hung`, `cause crashed`, `unproven behind`: what a scenario has shown.
fn names_in(decision: &Decision) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut note = |kind: &str, value: &Value| {
        let name =
            value.as_object().and_then(|fields| fields.keys().next()).map(String::as_str).or(value.as_str());
        names.insert(format!("{kind} {}", name.expect("an enum")));
    };
    for reason in &decision.reasons {
        let reason = json!(reason);
        note("reason", &reason);
        for (kind, path) in [("unproven", "/not_proven/me"), ("job backing off from", "/backing_off/job")] {
            if let Some(value) = reason.pointer(path) {
                note(kind, value);
            }
        }
    }
    for action in &decision.actions {
        let action = json!(action);
        note("action", &action);
        let parts = [
            ("job", "/run"),
            ("job", "/upkeep"),
            ("kill", "/kill/why"),
            ("command", "/propose"),
            ("cause", "/propose/end/cause"),
        ];
        for (kind, path) in parts {
            if let Some(value) = action.pointer(path) {
                note(kind, value);
            }
        }
    }
    names
}
