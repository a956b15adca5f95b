//! Files that a person can keep in mind.

use super::Violation;
use super::source::{code, is_rust, is_test_file, tests_begin};
use crate::workspace::SourceFile;

const RULE: usize = 400;
const LIMIT: usize = 800;

/// Documents that are of use only while they are short.
const DOCUMENTS: &[(&str, usize)] = &[("ARCHITECTURE.md", 300), ("STYLE.md", 100)];

/// Rust files longer than the rule, each with the reason why it is better whole.
const LONG: &[(&str, &str)] = &[];

pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let mut violations = check_code(files, LONG);
    for file in files {
        let most = DOCUMENTS.iter().find(|(path, _)| *path == file.path);
        if let Some((path, most)) = most.filter(|(_, most)| file.text.lines().count() > *most) {
            violations.push(Violation::new(path, *most + 1, format!("longer than {most} lines; shorten it")));
        }
    }
    violations
}

/// Tests are not counted, but a file of nothing else has the same limit.
fn check_code(files: &[SourceFile], long: &[(&str, &str)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let is_long = |path: &str| long.iter().any(|(name, _)| *name == path);
    for file in files.iter().filter(|file| is_rust(file)) {
        let is_test = is_test_file(&file.path);
        let count = if is_test { file.text.lines().count() } else { tests_begin(&code(&file.text)) - 1 };
        if count > LIMIT {
            let what = format!("{count} lines without its tests, {LIMIT} is the limit; split it");
            violations.push(Violation::new(&file.path, LIMIT + 1, what));
        } else if count > RULE && !is_test && !is_long(&file.path) {
            let what = format!(
                "{count} lines without its tests, {RULE} is the rule; split it, or give the reason in {}",
                "xtask/src/tidy/size.rs"
            );
            violations.push(Violation::new(&file.path, RULE + 1, what));
        } else if count <= RULE && is_long(&file.path) {
            let what = "is not long any more; take it off the list in xtask/src/tidy/size.rs";
            violations.push(Violation::new(&file.path, 1, what));
        }
    }
    for (path, _) in long.iter().filter(|(path, _)| !files.iter().any(|file| file.path == *path)) {
        let what = "does not exist; take it off the list in xtask/src/tidy/size.rs";
        violations.push(Violation::new(path, 1, what));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::{NONE, file, lines};
    use super::*;

    #[test]
    fn long_files_are_found() {
        let of = |path: &str, count: usize| file(path, &"x\n".repeat(count));
        assert_eq!(lines(check(&[of("a.rs", RULE)])), NONE);
        assert_eq!(lines(check(&[of("a.rs", RULE + 1)])), [RULE + 1]);
        assert_eq!(lines(check(&[of("a.rs", LIMIT + 1)])), [LIMIT + 1]);
        assert_eq!(lines(check(&[of("tests/it/a.rs", RULE + 1)])), NONE);
        assert_eq!(lines(check(&[of("tests/it/a.rs", LIMIT + 1)])), [LIMIT + 1]);
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(RULE), "y\n".repeat(LIMIT));
        assert_eq!(lines(check(&[file("a.rs", &tested)])), NONE);
        assert_eq!(lines(check(&[of("STYLE.md", 101)])), [101]);
        assert_eq!(lines(check(&[of("docs/STYLE.md", 101)])), NONE);
    }

    #[test]
    fn the_list_of_exceptions_stays_true() {
        let of = |count: usize| [file("a.rs", &"x\n".repeat(count))];
        let long = [("a.rs", "one table")];
        assert_eq!(lines(check_code(&of(RULE + 1), &long)), NONE);
        assert_eq!(lines(check_code(&of(RULE), &long)), [1]);
        assert_eq!(lines(check_code(&of(LIMIT + 1), &long)), [LIMIT + 1]);
        assert_eq!(lines(check_code(&[], &long)), [1]);
    }
}
