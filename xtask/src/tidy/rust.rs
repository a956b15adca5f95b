//! Rules about Rust code: `unsafe`, what must not stay in it, and where text for people is printed.

use super::source::{code, has_word, is_rust, is_test_file, tests_begin};
use super::{Violation, is_of_tidy};
use crate::workspace::SourceFile;

/// It owns the signals and process ids for which std has no call.
const MAY_BE_UNSAFE: &[&str] = &["crates/guard/"];

/// Programs that a person runs. All others speak through `tracing` or their caller.
const MAY_PRINT: &[&str] = &["crates/mainstay/", "crates/lab/", "crates/sim/src/main.rs", "xtask/"];

/// How far above `unsafe` its argument may begin, in lines.
const ARGUMENT_LINES: usize = 16;

pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    files.iter().filter(|file| is_rust(file) && !is_of_tidy(&file.path)).flat_map(check_file).collect()
}

fn check_file(file: &SourceFile) -> Vec<Violation> {
    let code = code(&file.text);
    let tests_begin = if is_test_file(&file.path) { 0 } else { tests_begin(&code) };
    let is_under = |places: &[&str]| places.iter().any(|place| file.path.starts_with(place));
    let raw: Vec<&str> = file.text.lines().collect();
    let mut violations = Vec::new();
    if is_root_of_crate(&file.path) && !file.text.starts_with("//! ") {
        let what = "says nothing about the crate; begin it with a line `//! what it is for`";
        violations.push(Violation::new(&file.path, 1, what));
    }
    for (index, line) in code.lines().enumerate() {
        let number = index + 1;
        let mut broken = |what: &str| violations.push(Violation::new(&file.path, number, what));
        if has_word(line, "unsafe") {
            if !is_under(MAY_BE_UNSAFE) {
                broken("`unsafe` outside guard and net; use a safe crate such as nix, or do it there");
            } else if !has_argument(&raw[..=index]) {
                broken("`unsafe` without its argument; say above it `// SAFETY: why it is sound`");
            }
        }
        if line.contains("#[ignore") {
            broken("a test that never runs; repair or delete it");
        }
        if has_word(line, "dbg!") {
            broken("`dbg!` was left here; delete it");
        }
        let prints = ["println!", "print!", "eprintln!", "eprint!"].iter().any(|word| has_word(line, word));
        if prints && number < tests_begin && !is_under(MAY_PRINT) && !file.path.contains("/examples/") {
            broken("prints, though it is no program of its own; use `tracing`, or return it to the caller");
        }
    }
    violations
}

fn is_root_of_crate(path: &str) -> bool {
    path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs")
}

/// Whether the lines that end in `unsafe` have its argument, without an empty line between.
fn has_argument(lines: &[&str]) -> bool {
    lines
        .iter()
        .rev()
        .take(ARGUMENT_LINES)
        .take_while(|line| !line.trim().is_empty())
        .any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
}

#[cfg(test)]
mod tests {
    use super::super::{NONE, file, lines};
    use super::*;

    fn broken(path: &str, text: &str) -> Vec<usize> {
        lines(check(&[file(path, text)]))
    }

    #[test]
    fn unsafe_has_its_places_and_its_argument() {
        let argued = "// SAFETY: the pointer is ours.\nlet x =\n    unsafe { f() };\n";
        assert_eq!(broken("crates/guard/src/a.rs", argued), NONE);
        assert_eq!(broken("crates/member/src/a.rs", argued), [3]);
        assert_eq!(broken("crates/guard/src/a.rs", "let x = unsafe { f() };\n"), [1]);
        assert_eq!(broken("crates/guard/src/a.rs", "// SAFETY: of another.\n\nunsafe { f() }\n"), [3]);
        assert_eq!(broken("crates/core/src/a.rs", "#![forbid(unsafe_code)]\n// unsafe\n"), NONE);
    }

    #[test]
    fn nothing_of_a_search_for_a_bug_stays() {
        assert_eq!(broken("crates/core/src/a.rs", "dbg!(x);\n\"dbg!\";\n"), [1]);
        assert_eq!(broken("crates/core/tests/it/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}\n"), [2]);
    }

    #[test]
    fn only_programs_and_tests_print() {
        let text = "fn f() { println!(); }\n#[cfg(test)]\nmod tests {\n    fn g() { eprintln!(); }\n}\n";
        assert_eq!(broken("crates/store/src/a.rs", text), [1]);
        assert_eq!(broken("crates/store/src/a/tests.rs", text), NONE);
        assert_eq!(broken("crates/mainstay/src/a.rs", text), NONE);
        assert_eq!(broken("crates/store/examples/a.rs", text), NONE);
    }

    #[test]
    fn a_crate_says_what_it_is_for() {
        assert_eq!(broken("crates/core/src/lib.rs", "pub mod a;\n"), [1]);
        assert_eq!(broken("crates/core/src/lib.rs", "//! The brain.\n"), NONE);
    }
}
