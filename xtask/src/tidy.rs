//! `cargo xtask tidy`: the house rules that neither the compiler nor clippy knows. It reads and never writes.
//!
//! A violation is one line, `file:line: what; remedy`. Each check is a function of the files' text, so that its
//! tests can show it a bad example.

mod acceptance;
mod crates;
mod decisions;
mod links;
mod lints;
mod names;
mod rust;
mod size;
mod source;
mod text;

use crate::workspace::{SourceFile, Workspace};
use anyhow::{Result, bail};
use std::fmt;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    /// From 1; the file as a whole is its first line.
    line: usize,
    /// What is wrong; how to put it right.
    what: String,
}

impl Violation {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Violation {
        Violation { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.what)
    }
}

type Check = fn(&[SourceFile]) -> Vec<Violation>;

/// The checks that need nothing but the files.
const CHECKS: &[Check] = &[
    acceptance::check,
    decisions::check,
    links::check,
    lints::check,
    names::check,
    rust::check,
    size::check,
    text::check,
];

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let files = workspace.files()?;
    let mut violations: Vec<Violation> = CHECKS.iter().flat_map(|check| check(&files)).collect();
    violations.extend(crates::check(&workspace.metadata));
    let tree = ["tree", "--locked", "--package", "mainstay", "--edges", "normal,build"];
    let format = ["--prefix", "none", "--format", "{p} {f}"];
    violations.extend(crates::check_shipped(&workspace.output(&[&tree[..], &format].concat())?));
    violations.sort();
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => Ok(()),
        1 => bail!("1 house rule is broken (see STYLE.md)"),
        many => bail!("{many} house rules are broken (see STYLE.md)"),
    }
}

/// These files hold the very patterns that they look for, and bad examples.
fn is_of_tidy(path: &str) -> bool {
    path.starts_with("xtask/src/tidy")
}

#[cfg(test)]
const NONE: [usize; 0] = [];

#[cfg(test)]
fn file(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.to_owned(), text: text.to_owned() }
}

#[cfg(test)]
fn lines(violations: Vec<Violation>) -> Vec<usize> {
    violations.into_iter().map(|violation| violation.line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_is_one_line_that_an_editor_can_follow() {
        let violation = Violation::new("a/b.rs", 7, "too long; split it");
        assert_eq!(violation.to_string(), "a/b.rs:7: too long; split it");
    }

    #[test]
    fn the_tree_is_read_without_what_git_and_cargo_make() {
        let files = Workspace::find().unwrap().files().unwrap();
        let has = |path: &str| files.iter().any(|file| file.path == path);
        assert!(has("Cargo.toml") && has("xtask/src/tidy.rs") && has(".cargo/config.toml"));
        assert!(!files.iter().any(|file| file.path.starts_with("target/") || file.path.starts_with(".git/")));
    }
}
