//! What the cells have shown: a line for each while they are played, and the table at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::play::Outcome;
use super::record::Role;
use crate::suite;

/// Says how a cell went as soon as that is known.
pub(super) fn tell(outcome: &Outcome, out: Option<&Path>) -> Result<()> {
    let violations = outcome.violations();
    let word = if violations.is_empty() { "ok" } else { "FAILED" };
    let (fault, form) = (outcome.cell.fault.word(), outcome.cell.form.word());
    eprintln!("{word:<7} {fault:<18} {form:<10} {:>5.1} s", outcome.took.as_secs_f64());
    violations.iter().for_each(|violation| eprintln!("        {violation}"));
    match out {
        Some(path) => suite::append(path, &json(outcome)),
        None => Ok(()),
    }
}

/// The table, or all of it as JSON.
pub(super) fn print(outcomes: &[Outcome], is_json: bool, took: Duration) {
    let failed = outcomes.iter().filter(|outcome| !outcome.violations().is_empty()).count();
    if is_json {
        let cells: Vec<Value> = outcomes.iter().map(json).collect();
        println!("{}", json!({ "cells": cells, "failed": failed, "seconds": took.as_secs_f64() }));
        return;
    }
    println!(
        "| fault | protocol | sessions | what they were told | new primary after | told after that | acknowledged | rolled back | unknown (there) | |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for outcome in outcomes {
        let verdict = &outcome.verdict;
        let word = if outcome.violations().is_empty() {
            "ok".to_owned()
        } else {
            format!("{} violations", outcome.violations().len())
        };
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} ({}) | {word} |",
            outcome.cell.fault.word(),
            outcome.cell.form.word(),
            outcome.sessions,
            codes(outcome),
            outcome
                .stands_after
                .map_or_else(|| "-".to_owned(), |after| format!("{:.2} s", after.as_secs_f64())),
            verdict.latest.map_or_else(|| "-".to_owned(), |late| format!("{} ms", late.as_millis())),
            verdict.acknowledged,
            verdict.absent,
            verdict.unknown,
            verdict.unknown_and_there,
        );
    }
    println!("\n{} cells, {failed} failed, in {:.0} s", outcomes.len(), took.as_secs_f64());
}

/// How often which code was told, over all roles; successes are left out.
fn codes(outcome: &Outcome) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for ((_, code), count) in &outcome.verdict.told {
        *counts.entry(code).or_default() += count;
    }
    let shown =
        counts.iter().filter(|(code, _)| **code != "-").map(|(code, count)| format!("{count} × {code}"));
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { "no errors".to_owned() } else { shown.join(", ") }
}

fn json(outcome: &Outcome) -> Value {
    let verdict = &outcome.verdict;
    let of_role = |role: Role| {
        let told = verdict.told.iter().filter(|((of, _), _)| *of == role);
        told.map(|((_, code), count)| (code.clone(), json!(count))).collect::<serde_json::Map<_, _>>()
    };
    let told: serde_json::Map<String, Value> =
        Role::ALL.iter().map(|role| (role.words().to_owned(), Value::Object(of_role(*role)))).collect();
    json!({
        "fault": outcome.cell.fault.word(),
        "protocol": outcome.cell.form.word(),
        "sessions": outcome.sessions,
        "told": told,
        "new_primary_after_seconds": outcome.stands_after.map(|after| after.as_secs_f64()),
        "told_after_seconds": verdict.latest.map(|late| late.as_secs_f64()),
        "acknowledged": verdict.acknowledged,
        "rolled_back": verdict.absent,
        "unknown": verdict.unknown,
        "unknown_and_there": verdict.unknown_and_there,
        "violations": outcome.violations(),
        "seconds": outcome.took.as_secs_f64(),
    })
}
