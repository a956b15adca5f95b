//! Modules are named for what is in them.

use super::Violation;
use super::source::{code, is_rust};
use crate::workspace::SourceFile;

/// Names that fit anything, and therefore gather everything.
const EMPTY: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];

const REMEDY: &str = "name it for what is in it, or move each item to where it is used";

pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| is_rust(file)) {
        let name = file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        if name == "mod" {
            let what = "a `mod.rs`; name it for its module, beside the directory";
            violations.push(Violation::new(&file.path, 1, what));
        }
        if EMPTY.contains(&name) {
            violations.push(Violation::new(&file.path, 1, format!("a module `{name}`; {REMEDY}")));
        }
        for (index, line) in code(&file.text).lines().enumerate() {
            if let Some(name) = inline_module(line).filter(|name| EMPTY.contains(name)) {
                violations.push(Violation::new(
                    &file.path,
                    index + 1,
                    format!("a module `{name}`; {REMEDY}"),
                ));
            }
        }
    }
    violations
}

fn inline_module(line: &str) -> Option<&str> {
    let before = line.trim().strip_suffix('{')?.trim_end();
    let (visibility, name) = before.rsplit_once("mod ")?;
    (visibility.is_empty() || visibility.starts_with("pub")).then_some(name.trim())
}

#[cfg(test)]
mod tests {
    use super::super::{NONE, file, lines};
    use super::*;

    #[test]
    fn names_that_say_nothing_are_found() {
        for path in ["crates/core/src/a/mod.rs", "crates/core/src/utils.rs", "crates/core/src/manager.rs"] {
            assert_eq!(lines(check(&[file(path, "")])), [1], "{path}");
        }
        assert_eq!(lines(check(&[file("a.rs", "x\npub(crate) mod helpers {\n}\n")])), [2]);
        assert_eq!(lines(check(&[file("crates/core/src/fence.rs", "mod lease {\n}\n")])), NONE);
    }
}
