//! Every file in `tests/scenarios`, held against what is decided now.
//!
//! `MAINSTAY_BLESS=1` rewrites the expected parts; look at the difference before it is committed.
//! `MAINSTAY_VIEWS=DIR` writes each step as JSON there, which `mainstay decide --view FILE` takes.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use mainstay_core::action::{Action, Job, Kill};
use mainstay_core::election::Unproven;
use mainstay_core::reason::Reason;
use mainstay_core::record::{Command, EndCause};
use serde::de::DeserializeOwned;

use crate::scenario::{self, Played};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

/// Every scenario file with its text, in the order of their names.
fn files() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for group in entries(&directory()) {
        for path in entries(&group) {
            assert_eq!(
                path.extension().and_then(|ending| ending.to_str()),
                Some("scenario"),
                "{}",
                path.display()
            );
            let text = fs::read_to_string(&path).expect("a readable file");
            files.push((path, text));
        }
    }
    assert!(!files.is_empty(), "no scenario was found");
    files
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable directory").path()).collect();
    paths.sort();
    paths
}

fn played(text: &str) -> Result<Played, String> {
    let text = text.to_owned();
    catch_unwind(move || scenario::play(&text)).map_err(|payload| {
        let message = payload.downcast_ref::<String>().cloned();
        message.or(payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

#[test]
fn every_scenario_is_decided_as_it_says() {
    let bless = std::env::var_os("MAINSTAY_BLESS").is_some();
    let views = std::env::var_os("MAINSTAY_VIEWS").map(PathBuf::from);
    let mut wrong = Vec::new();
    for (path, text) in files() {
        let name = path.strip_prefix(directory()).expect("found there").display().to_string();
        match played(&text) {
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(played) => {
                if let Some(views) = &views {
                    let file = views.join(name.replace('/', "-")).with_extension("json");
                    let text = serde_json::to_string_pretty(&played.explanations).expect("views are JSON");
                    fs::write(file, text).expect("MAINSTAY_VIEWS must be a writable directory");
                }
                if played.text != text && bless {
                    fs::write(&path, &played.text).expect("a writable file");
                } else if played.text != text {
                    wrong.push(format!("{name}: decided otherwise\n{}", difference(&text, &played.text)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n(MAINSTAY_BLESS=1 accepts what is decided now)", wrong.join("\n"));
}

/// The lines of each that are not in the other.
fn difference(expected: &str, actual: &str) -> String {
    let only = |these: &str, others: &str, sign: char| {
        let others: BTreeSet<String> = others.lines().map(str::to_owned).collect();
        let lines = these.lines().filter(|line| !others.contains(*line));
        lines.map(|line| format!("  {sign} {line}\n")).collect::<String>()
    };
    only(expected, actual, '-') + &only(actual, expected, '+')
}

#[test]
fn every_scenario_says_why_it_exists_and_expects_something() {
    for (path, text) in files() {
        assert!(text.starts_with("# "), "{}: begin with a line that says why", path.display());
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        let words = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        assert!(words, "{name}: lower-case words with hyphens");
        assert!(text.lines().any(|line| line == "----"), "{}: nothing is decided", path.display());
    }
}

/// The variants of an enum, from serde's own word: a new one is asked for at once.
fn variants<T: DeserializeOwned>(kind: &str) -> BTreeSet<String> {
    let error = serde_json::from_str::<T>("\"?\"").err().expect("no variant is called so").to_string();
    error.split('`').skip(3).step_by(2).map(|name| format!("{kind} {name}")).collect()
}

#[test]
fn every_reason_and_every_action_occurs_in_some_scenario() {
    let seen: BTreeSet<String> =
        files().iter().filter_map(|(_, text)| played(text).ok()).flat_map(|played| played.names).collect();
    let wanted = [
        variants::<Reason>("reason"),
        variants::<Action>("action"),
        variants::<Job>("job"),
        variants::<Kill>("kill"),
        variants::<Unproven>("unproven"),
        variants::<Command>("command"),
        variants::<EndCause>("cause"),
    ];
    assert!(wanted.iter().all(|names| names.len() >= 6), "serde words its errors in another way: {wanted:?}");
    // What an operator asks for, what another action stands for, and what the rules above make impossible.
    let elsewhere = [
        "command create",
        "command request_switchover",
        "command invite",
        "command revoke",
        "command join",
        "command leave",
        "command change_parameters",
        "command request_restart",
        "command grant",
        // A member follows them from the record and its disk; no rule decides on them.
        "command accept_key",
        "command drop_key",
        "cause founded",
        // Nobody proposes it: a new instance begins with it, see `recovery`.
        "cause recovered",
        "unproven unfounded",
        "unproven no_report",
        "unproven other_incarnation",
    ];
    let missing: Vec<&String> = wanted
        .iter()
        .flatten()
        .filter(|name| !seen.contains(*name) && !elsewhere.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "no scenario shows: {missing:?}");
}
