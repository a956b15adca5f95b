//! `decide`: what the core says to a view, offline.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result};
use mainstay_core::decide::{Decision, Memory, decide};
use mainstay_core::view::View;
use mainstay_member::explain::Explanation;
use serde::Deserialize;

use crate::cli::DecideOptions;
use crate::output::println;

/// What the file may hold: one view, or the output of `explain --json`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Explanations(Vec<Explanation>),
    Explanation(Box<Explanation>),
    View(Box<View>),
}

pub(crate) fn run(options: &DecideOptions) -> Result<ExitCode> {
    let shown = options.view.display();
    let mut text = String::new();
    if options.view.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(&options.view).with_context(|| format!("cannot read {shown}"))?;
    }
    let input: Input = serde_json::from_str(&text)
        .with_context(|| format!("{shown} holds neither a view nor what `mainstay explain --json` prints"))?;
    let views: Vec<(View, Memory)> = match input {
        Input::Explanations(list) => {
            list.into_iter().map(|item| (View::clone(&item.view), item.memory)).collect()
        }
        Input::Explanation(item) => vec![(View::clone(&item.view), item.memory)],
        Input::View(view) => vec![(*view, Memory::default())],
    };
    let decisions: Vec<Decision> =
        views.iter().map(|(view, memory)| decide(view, &mut memory.clone())).collect();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&decisions)?);
        return Ok(ExitCode::SUCCESS);
    }
    for ((view, _), decision) in views.iter().zip(&decisions) {
        println!("{} at epoch {}:", view.me, view.record.epoch);
        for reason in &decision.reasons {
            println!("  {reason}");
        }
        for action in &decision.actions {
            println!("  -> {}", serde_json::to_string(action)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}
