//! A `clippy.toml` in a crate replaces the root's and does not add to it, so it must repeat it.

use super::Violation;
use crate::workspace::SourceFile;

const ROOT: &str = "clippy.toml";

pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let Some(root) = files.iter().find(|file| file.path == ROOT) else { return Vec::new() };
    let rules = || root.text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let nested = files.iter().filter(|file| file.path.ends_with("/clippy.toml"));
    nested
        .flat_map(|file| {
            let missing = rules().filter(|rule| !file.text.lines().any(|line| line == *rule));
            missing.map(|rule| {
                Violation::new(&file.path, 1, format!("replaces the root's `{rule}`; repeat that line"))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{NONE, file, lines};
    use super::*;

    #[test]
    fn the_root_is_repeated() {
        let root = file("clippy.toml", "# Why.\na = 1\nb = 2\n");
        assert_eq!(lines(check(&[root, file("crates/core/clippy.toml", "b = 2\n")])), [1]);
        let root = file("clippy.toml", "a = 1\n");
        assert_eq!(lines(check(&[root, file("crates/core/clippy.toml", "a = 1\nb = 2\n")])), NONE);
    }
}
