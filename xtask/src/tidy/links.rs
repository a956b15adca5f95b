//! Links between documents lead somewhere.

use super::Violation;
use crate::workspace::SourceFile;
use std::collections::BTreeSet;

pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let mut places = BTreeSet::from([String::new()]);
    for file in files {
        places.extend(file.path.match_indices('/').map(|(index, _)| file.path[..index].to_owned()));
        places.insert(file.path.clone());
    }
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, target) in targets(&file.text) {
            if !resolve(&file.path, &target).is_some_and(|place| places.contains(&place)) {
                let what = format!("the link `{target}` leads nowhere; write a path relative to this file");
                violations.push(Violation::new(&file.path, line, what));
            }
        }
    }
    violations
}

/// The links to other files, with their lines, without what is code.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut targets = Vec::new();
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        // Every second part lies between backticks. One blank in its place keeps `[`a`](b)` a link.
        let prose: Vec<&str> =
            line.split('`').enumerate().map(|(part, text)| if part % 2 == 0 { text } else { " " }).collect();
        let prose = prose.concat();
        let inline = prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        let defined = prose.split_once("]: ").filter(|(name, _)| name.starts_with('['));
        let defined = defined.and_then(|(_, rest)| rest.split_whitespace().next());
        for target in inline.chain(defined) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !path.starts_with("mailto:") {
                targets.push((index + 1, path.to_owned()));
            }
        }
    }
    targets
}

/// The place in the tree that `target` names in the file `from`; none outside of it.
fn resolve(from: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::{NONE, file, lines};
    use super::*;

    fn broken(text: &str) -> Vec<usize> {
        lines(check(&[file("docs/a.md", text), file("docs/adr/b.md", ""), file("README.md", "")]))
    }

    #[test]
    fn links_to_files_and_directories_of_the_tree_are_followed() {
        let fine = "[b](adr/b.md#part), [r](../README.md \"title\"), [`d`](adr/), [top](#a), [self](a.md)\n\
            [web](https://example.org/x)\n`[x](y)`\n```\n[x](y)\n```\n[ref]: adr/b.md\n";
        assert_eq!(broken(fine), NONE);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let bad = "[a](c.md)\n[b](adr/b.md) and ![c](img.png)\n[d](/docs/a.md)\n[e](../../x)\n[f]: gone.md\n";
        assert_eq!(broken(bad), [1, 2, 3, 4, 5]);
    }
}
