//! `docs/acceptance.md`: what was asked for, each with the test that proves it.
//!
//! Rows are `| ID | words | proof |`. A proof is one or more names in backticks, `path::to::test` or the name of a
//! scenario file, or `later: why`.

use super::Violation;
use super::source::{has_word, is_rust};
use crate::workspace::SourceFile;
use std::collections::BTreeSet;

const PATH: &str = "docs/acceptance.md";

pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let Some(file) = files.iter().find(|file| file.path == PATH) else { return Vec::new() };
    let mut violations = Vec::new();
    let mut ids = BTreeSet::new();
    let lines: Vec<&str> = file.text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let is_head = lines.get(index + 1).is_some_and(|next| is_rule(next));
        if !line.trim_start().starts_with('|') || is_rule(line) || is_head {
            continue;
        }
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let mut broken = |what: String| violations.push(Violation::new(PATH, index + 1, what));
        let [id, words, .., proof] = cells[..] else {
            broken("not a row; write | ID | words | proof |".to_owned());
            continue;
        };
        if !is_id(id) {
            broken(format!("`{id}` is no ID; write letters and a number, as F12"));
        } else if !ids.insert(id.to_owned()) {
            broken(format!("`{id}` stands twice; give each row an ID of its own"));
        }
        if words.is_empty() {
            broken("no words; say what is asked for".to_owned());
        }
        problems(proof, files).into_iter().for_each(&mut broken);
    }
    violations
}

/// The line between a table's head and its rows.
fn is_rule(line: &str) -> bool {
    let line = line.trim();
    line.starts_with('|') && line.contains('-') && line.chars().all(|character| "|-: ".contains(character))
}

fn is_id(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.ends_with(|last: char| last.is_ascii_digit() || last.is_ascii_lowercase())
        && text.contains(|character: char| character.is_ascii_digit())
        && text.chars().all(|character| character.is_ascii_alphanumeric() || "-.".contains(character))
}

fn problems(proof: &str, files: &[SourceFile]) -> Vec<String> {
    if let Some(why) = proof.strip_prefix("later:") {
        return if why.trim().is_empty() {
            vec!["later, but not why; say why".to_owned()]
        } else {
            Vec::new()
        };
    }
    let names: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
    if names.is_empty() {
        return vec!["no proof; name a test in backticks, or write `later: why`".to_owned()];
    }
    let missing = names.into_iter().filter(|name| !exists(name, files));
    missing.map(|name| format!("there is no test or scenario `{name}`; name one that is there")).collect()
}

/// A scenario by the name of its file; a test by its function, in a file that its path leads to.
fn exists(name: &str, files: &[SourceFile]) -> bool {
    let mut path: Vec<&str> = name.split("::").collect();
    let Some(function) = path.pop() else { return false };
    let is_scenario = |file: &SourceFile| {
        path.is_empty()
            && file.path.contains("scenario")
            && file.path.rsplit('/').next().and_then(|file| file.split('.').next()) == Some(name)
    };
    let has_test = |file: &SourceFile| {
        let declares = |line: &str| {
            line.find(&format!("fn {function}(")).is_some_and(|index| {
                let before = line[..index].trim();
                before.is_empty()
                    || before.split(' ').all(|word| matches!(word, "pub" | "async" | "pub(crate)"))
            })
        };
        is_rust(file) && file.text.lines().any(declares) && path.iter().all(|part| leads_to(part, file))
    };
    files.iter().any(|file| is_scenario(file) || has_test(file))
}

/// Whether a part of a test's path is a crate, a directory, a file, or a module written in place.
fn leads_to(part: &str, file: &SourceFile) -> bool {
    let name = part.trim_start_matches("mainstay_").replace('_', "-");
    let is_place = file.path.trim_end_matches(".rs").split('/').any(|place| place == part || place == name);
    is_place
        || (part == "mainstay" && file.path.starts_with("crates/mainstay/"))
        || file.text.lines().any(|line| has_word(line, "mod") && has_word(line, part))
}

#[cfg(test)]
mod tests {
    use super::super::{NONE, file, lines};
    use super::*;

    fn broken(rows: &str) -> Vec<usize> {
        let table = format!("# Acceptance\n\n| ID | what | proof |\n|---|:--|---|\n{rows}\n");
        lines(check(&[
            file(PATH, &table),
            file(
                "crates/guard/src/lease.rs",
                "#[cfg(test)]\nmod tests {\n    #[test]\n    fn late_is_void() {}\n}\n",
            ),
            file("crates/guard/tests/it/deadline.rs", "async fn kills_busy(x: &X) {}\n"),
            file("crates/lab/scenarios/host_loss.scenario", "cut m1\n"),
            file("docs/host_gain.md", ""),
        ]))
    }

    #[test]
    fn proofs_that_exist_are_accepted() {
        assert_eq!(broken("| F1 | a | `late_is_void` |"), NONE);
        assert_eq!(broken("| F1 | a | `mainstay_guard::lease::tests::late_is_void`, `host_loss` |"), NONE);
        assert_eq!(broken("| F1.2 | a | more | `guard::deadline::kills_busy` |"), NONE);
        assert_eq!(broken("| L-1 | a | later: it needs the proxy |"), NONE);
    }

    #[test]
    fn rows_without_an_id_words_or_a_proof_are_found() {
        assert_eq!(broken("| F1 | a | `late_is_void` |\n| F1 | a | `late_is_void` |"), [6]);
        for row in
            ["|  | a | `host_loss` |", "| F | a | `host_loss` |", "| F1 |  | `host_loss` |", "| F1 | a |"]
        {
            assert_eq!(broken(row), [5], "{row}");
        }
        for proof in
            ["", "by hand", "later:", "`no_such_test`", "`host_gain`", "`other::late_is_void`", "`is_void`"]
        {
            assert_eq!(broken(&format!("| F1 | a | {proof} |")), [5], "{proof}");
        }
    }
}
