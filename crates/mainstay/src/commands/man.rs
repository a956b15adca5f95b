//! `man`: a manual page for each command, for the package.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::builder::Resettable;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::cli::{Cli, ManOptions};

pub(crate) fn run(options: &ManOptions) -> Result<ExitCode> {
    let directory = &options.dir;
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    // Gives each command its full name.
    command.build();
    write(&command, directory)?;
    Ok(ExitCode::SUCCESS)
}

/// The page of a command, and of all below it that are not hidden.
fn write(command: &Command, directory: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = directory.join(format!("{name}.1"));
    let page = page(command).with_context(|| format!("cannot write the manual page of {name}"))?;
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
        .try_for_each(|inner| write(inner, directory))
}

/// What stands below the options in `--help` is set as it is there, examples under a heading of their own.
fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let notes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (notes, examples) = notes.split_once("Example: ").unwrap_or((&notes, ""));
    let mut page = Vec::new();
    Man::new(command.clone().after_help(Resettable::Reset)).manual("Mainstay").render(&mut page)?;
    let mut rest = Roff::new();
    for (heading, text) in [("NOTES", notes), ("EXAMPLES", examples)] {
        if text.trim().is_empty() {
            continue;
        }
        rest.control("SH", [heading]).control("nf", []);
        for line in text.lines() {
            rest.text([roman(line.trim())]);
        }
        rest.control("fi", []);
    }
    rest.to_writer(&mut page)?;
    Ok(page)
}
