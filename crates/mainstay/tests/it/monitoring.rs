//! What is shipped for Prometheus and Grafana asks only for what the program exports, and leads to pages that exist.

use std::collections::BTreeSet;

use super::reference::{literals, source};

/// The names that the program exports.
pub(super) fn exported() -> BTreeSet<String> {
    let source = ["metrics.rs", "metrics/sql_proxy.rs"]
        .map(|file| source(&format!("crates/member/src/{file}")))
        .concat();
    literals(&source).into_iter().filter(|text| text.starts_with("mainstay_")).map(str::to_owned).collect()
}

/// The metrics that a PromQL expression asks for.
fn asked(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("mainstay_")).map(str::to_owned).collect()
}

#[track_caller]
fn check_expression(expression: &str, exported: &BTreeSet<String>) {
    let asked = asked(expression);
    assert!(!asked.is_empty(), "{expression} asks for nothing");
    let unknown: Vec<_> = asked.difference(exported).collect();
    assert!(unknown.is_empty(), "{expression} asks for {unknown:?}, which nobody exports");
    for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
        let count = |wanted| expression.chars().filter(|c| *c == wanted).count();
        assert_eq!(count(open), count(close), "{expression}");
    }
    assert_eq!(expression.matches('"').count() % 2, 0, "{expression}");
}

/// One line of the rules: how deep it stands, whether it begins an item of a list, its key and value.
#[derive(Debug)]
struct Line {
    indent: usize,
    item: bool,
    key: String,
    value: String,
}

/// Reads the part of YAML that the rules are written in, strictly: what it takes every reader of YAML takes as the same.
fn yaml(text: &str) -> Vec<Line> {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let mut read: Vec<Line> = Vec::new();
    for line in lines {
        let content = line.trim_start_matches(' ');
        let item = content.starts_with("- ");
        let indent = line.len() - content.len() + if item { 2 } else { 0 };
        let content = content.strip_prefix("- ").unwrap_or(content);
        let (key, value) = content.split_once(':').unwrap_or_else(|| panic!("no key: {line}"));
        assert!(key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        assert!(indent % 2 == 0 && !line.contains('\t') && !line.ends_with(' '), "{line}");
        if let Some(before) = read.last() {
            let deepest = if before.value.is_empty() {
                before.indent + 2 + usize::from(item) * 2
            } else {
                before.indent
            };
            assert!(indent <= deepest, "it stands too deep: {line}");
        }
        let value = match value.strip_prefix(' ') {
            None => String::from(value),
            Some(quoted) if quoted.starts_with('"') => serde_json::from_str(quoted).expect("a quoted text"),
            Some(plain) => {
                let special = plain.contains(": ")
                    || plain.contains(" #")
                    || plain.starts_with(['{', '[', '&', '*', '!', '|', '>', '%', '@', '`', '\'']);
                assert!(!special, "quote it: {line}");
                plain.to_owned()
            }
        };
        read.push(Line { indent, item, key: key.to_owned(), value });
    }
    read
}

/// The lines of each alert.
fn alerts(lines: &[Line]) -> Vec<&[Line]> {
    let begins: Vec<usize> =
        (0..lines.len()).filter(|at| lines[*at].item && lines[*at].key == "alert").collect();
    let ends = begins.iter().skip(1).copied().chain([lines.len()]);
    begins.iter().zip(ends).map(|(begin, end)| &lines[*begin..end]).collect()
}

/// A heading as the book makes an anchor of it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[track_caller]
fn check_page(page: &str) {
    let (file, wanted) = page.split_once('#').unwrap_or((page, ""));
    let text = source(&format!("book/src/{file}"));
    let headings = text.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    assert!(wanted.is_empty() || headings.map(anchor).any(|anchor| anchor == wanted), "{page} is not there");
}

#[test]
fn every_alert_asks_for_what_is_exported_and_names_its_page() {
    let (exported, page) = (exported(), source("book/src/reference/metrics.md"));
    let lines = yaml(&source("packaging/prometheus/mainstay.rules.yml"));
    assert_eq!(
        lines.iter().map(|line| line.key.as_str()).take(3).collect::<Vec<_>>(),
        ["groups", "name", "rules"]
    );
    let alerts = alerts(&lines);
    assert!(alerts.len() >= 12, "{} alerts", alerts.len());
    let mut names = BTreeSet::new();
    for alert in alerts {
        let of = |key: &str| {
            let mut found = alert.iter().filter(|line| line.key == key).map(|line| line.value.as_str());
            let value = found.next().unwrap_or_default();
            assert!(found.next().is_none(), "{key} twice in {alert:?}");
            value
        };
        let name = of("alert");
        assert!(name.starts_with("Mainstay") && names.insert(name), "{name}");
        assert!(page.contains(&format!("`{name}`")), "{name} is not in the book's table");
        check_expression(of("expr"), &exported);
        assert!(["critical", "warning", "info"].contains(&of("severity")), "{name}");
        assert!(
            of("summary").ends_with(['.', '!'])
                && of("summary").matches("{{").count() == of("summary").matches("}}").count(),
            "{name}"
        );
        check_page(of("page"));
        let known = ["alert", "expr", "for", "labels", "severity", "annotations", "summary", "page"];
        assert!(alert.iter().all(|line| known.contains(&line.key.as_str())), "{alert:?}");
    }
}

#[test]
fn the_dashboard_asks_for_what_is_exported() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&source("packaging/grafana/mainstay.json")).expect("JSON");
    let exported = exported();
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{}", panel["title"]);
        let place = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a place"));
        assert!(place[0] + place[2] <= 24 && places.insert((place[1], place[0])), "{}", panel["title"]);
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{}", panel["title"]);
        for target in targets {
            check_expression(target["expr"].as_str().expect("an expression"), &exported);
        }
    }
    assert!(panels.len() >= 10);
    for note in dashboard["annotations"]["list"].as_array().expect("annotations") {
        check_expression(note["expr"].as_str().expect("an expression"), &exported);
    }
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: BTreeSet<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["cluster", "datasource"].into());
}

#[test]
fn the_reader_of_rules_refuses_what_readers_of_yaml_understand_otherwise() {
    for wrong in
        ["groups:\n      - name: a", "key: a: b", "key: a #b", "key: {a}", "key: \"a", "a\tb: c", "no key"]
    {
        assert!(std::panic::catch_unwind(|| yaml(wrong)).is_err(), "{wrong:?}");
    }
    assert_eq!(yaml("groups:\n  - name: a\n    rules:\n      - alert: B\n").len(), 4);
}
