//! Decisions of architecture, `docs/adr/`: named by their day, short, and of one form.

use super::Violation;
use crate::workspace::SourceFile;

const LIMIT: usize = 60;
const PARTS: &[&str] = &["# ", "Status: ", "## Decision"];

pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in files {
        let Some(name) = file.path.strip_prefix("docs/adr/").and_then(|name| name.strip_suffix(".md")) else {
            continue;
        };
        let mut broken = |line: usize, what: String| violations.push(Violation::new(&file.path, line, what));
        if !is_dated(name) {
            broken(1, "a decision's name is its day and title; write YYYY-MM-DD-title.md".to_owned());
        }
        if file.text.lines().count() > LIMIT {
            broken(LIMIT + 1, format!("longer than {LIMIT} lines; shorten it"));
        }
        let mut rest = file.text.lines();
        if let Some(part) = PARTS.iter().find(|part| !rest.any(|line| line.starts_with(**part))) {
            broken(1, format!("no `{part}`, or not in its place; write a title, `Status: `, `## Decision`"));
        }
    }
    violations
}

/// `2026-11-21-title-in-small-letters`
fn is_dated(name: &str) -> bool {
    let Some((day, title)) = name.split_at_checked(10) else { return false };
    let parts: Vec<&str> = day.split('-').collect();
    let within = |text: &str, length: usize, range: std::ops::RangeInclusive<u16>| {
        text.len() == length && text.parse().is_ok_and(|number| range.contains(&number))
    };
    let is_day = matches!(parts[..], [year, month, day]
        if within(year, 4, 2000..=2999) && within(month, 2, 1..=12) && within(day, 2, 1..=31));
    let is_title = |title: &str| {
        !title.is_empty()
            && title.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    is_day && title.strip_prefix('-').is_some_and(is_title)
}

#[cfg(test)]
mod tests {
    use super::super::{NONE, file, lines};
    use super::*;

    const GOOD: &str = "# T\n\nStatus: accepted\n\n## Context\nb\n## Decision\nc\n";

    #[test]
    fn a_decision_has_its_day_and_its_form() {
        assert_eq!(lines(check(&[file("docs/adr/2026-11-21-raft.md", GOOD)])), NONE);
        for name in ["raft", "2026-13-01-raft", "2026-1-21-raft-x", "2026-11-21", "2026-11-21-Raft"] {
            assert_eq!(lines(check(&[file(&format!("docs/adr/{name}.md"), GOOD)])), [1], "{name}");
        }
        let path = "docs/adr/2026-11-21-raft.md";
        assert_eq!(lines(check(&[file(path, &GOOD.replace("Status", "State"))])), [1]);
        assert_eq!(lines(check(&[file(path, &GOOD.replace("# T\n", "T\n"))])), [1]);
        assert_eq!(lines(check(&[file(path, "# T\n\n## Decision\nc\nStatus: late\n")])), [1]);
        assert_eq!(lines(check(&[file(path, &format!("{GOOD}{}", "x\n".repeat(60)))])), [LIMIT + 1]);
    }
}
