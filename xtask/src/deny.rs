//! `cargo deny`: banned crates, licences and sources, by `deny.toml`.

use crate::ci::Running;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

const VERSION: &str = "0.20.2";

/// Without cargo-deny, and without a way to install it, the step is passed over with a word; `tidy` checks the
/// banned names and the sources in `Cargo.lock` in any case.
pub(crate) fn run(workspace: &Workspace, running: &mut Running) -> Result<()> {
    let Some(program) = installed(workspace).or_else(|| install(workspace, running)) else {
        println!(
            "deny: passed over, since cargo-deny {VERSION} cannot be installed here (target/cargo-deny.log)"
        );
        return Ok(());
    };
    // The offline check wants the crates of every platform.
    running.run(&mut workspace.cargo(&["fetch", "--locked", "--quiet"]))?;
    let mut check = Command::new(program);
    check.current_dir(&workspace.root);
    running.run(check.args(["--offline", "--locked", "check", "bans", "licenses", "sources"]))
}

fn installed(workspace: &Workspace) -> Option<PathBuf> {
    let own = workspace.target.join("tools/bin/cargo-deny");
    let found = std::env::var_os("PATH")?;
    let all = std::iter::once(own).chain(std::env::split_paths(&found).map(|path| path.join("cargo-deny")));
    all.into_iter().find(|path| path.is_file())
}

/// Unoptimised, which halves the minutes that it takes and costs the check a second.
fn install(workspace: &Workspace, running: &mut Running) -> Option<PathBuf> {
    println!("deny: installing cargo-deny {VERSION} into target/tools, once");
    let (tools, build) = (workspace.target.join("tools"), workspace.target.join("tools/build"));
    let outcome = (|| -> Result<()> {
        std::fs::create_dir_all(&tools)?;
        let log = File::create(workspace.target.join("cargo-deny.log"))?;
        let mut command = workspace.cargo(&["install", "--locked", "--debug"]);
        command
            .arg(format!("cargo-deny@{VERSION}"))
            .arg("--root")
            .arg(&tools)
            .arg("--target-dir")
            .arg(&build);
        running.run_into(&mut command, &log).context("the installation failed")
    })();
    let _ = std::fs::remove_dir_all(&build);
    outcome.ok().map(|()| tools.join("bin/cargo-deny"))
}
