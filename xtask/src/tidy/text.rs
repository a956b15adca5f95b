//! Rules about any text: clean ends, nothing unfinished, and nothing that is true on one machine only.

use super::source::has_word;
use super::{Violation, is_of_tidy};
use crate::workspace::SourceFile;

const UNFINISHED: &[&str] = &["TODO", "FIXME", "XXX"];

/// Directories of a person or of one machine.
const PRIVATE: &[&str] = &["/work/", "/root/", "/home/"];

/// Package indexes and mirrors. Where packages come from is a matter of each machine's own configuration.
const REGISTRIES: &[&str] = &[
    "crates.io-index",
    "index.crates.io",
    "static.crates.io",
    "sparse+http",
    "registry+http",
    "[source.",
    "[registries",
    "replace-with",
    "deb.debian.org",
    "security.debian.org",
];

/// The one source of packages in `Cargo.lock`.
const CRATES_IO: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

/// Packages that `deny.toml` bans, looked for here too because cargo-deny is not everywhere.
const BANNED: &[&str] = &["aws-lc-sys", "aws-lc-rs", "openssl-sys", "native-tls"];

pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    files.iter().flat_map(check_file).collect()
}

fn check_file(file: &SourceFile) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |line: usize, what: String| violations.push(Violation::new(&file.path, line, what));
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        broken(file.text.lines().count(), "no newline at the end; add one".to_owned());
    }
    let is_lock = file.path.ends_with("Cargo.lock");
    for (index, line) in file.text.split('\n').enumerate() {
        let number = index + 1;
        if line.ends_with([' ', '\t', '\r']) {
            broken(number, "white space at the end; delete it".to_owned());
        }
        if file.path.ends_with(".rs") && line.contains('\t') {
            broken(number, "a tab; use blanks, or `\\t` in a literal".to_owned());
        }
        if is_lock {
            locked(line).into_iter().for_each(|what| broken(number, what));
        } else if !is_of_tidy(&file.path) {
            words(line).into_iter().for_each(|what| broken(number, what));
        }
    }
    violations
}

fn locked(line: &str) -> Option<String> {
    if line.starts_with("source = ") && line != CRATES_IO {
        return Some("a package that is not from crates.io; use a released one".to_owned());
    }
    let name = line.strip_prefix("name = \"")?.strip_suffix('"')?;
    BANNED.contains(&name).then(|| format!("`{name}` is banned; switch off the feature that brings it"))
}

fn words(line: &str) -> Vec<String> {
    let unfinished = UNFINISHED.iter().filter(|word| has_word(line, word));
    let private = PRIVATE.iter().filter(|place| is_at_a_root(line, place));
    let registries = REGISTRIES.iter().filter(|registry| line.contains(*registry));
    unfinished
        .map(|word| format!("`{word}`; do it, or write an issue"))
        .chain(
            private.map(|place| format!("`{place}`, a directory of one machine; write a path that any has")),
        )
        .chain(registries.map(|name| format!("`{name}`, a package registry; leave it to each machine")))
        .chain(addresses(line).map(|mail| format!("the address {mail}; use one of example.org")))
        .collect()
}

/// Whether `place` is where a path begins, and not its middle.
fn is_at_a_root(line: &str, place: &str) -> bool {
    let is_of_path = |character: char| character.is_alphanumeric() || "_-.*}~".contains(character);
    line.match_indices(place).any(|(index, _)| !line[..index].ends_with(is_of_path))
}

/// E-mail addresses, but for those of example.org.
fn addresses(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices('@').filter_map(move |(at, _)| {
        let is_local = |character: char| character.is_ascii_alphanumeric() || "._%+-".contains(character);
        let is_domain = |character: char| character.is_ascii_alphanumeric() || ".-".contains(character);
        let begin = line[..at].rfind(|character| !is_local(character)).map_or(0, |index| index + 1);
        let after = &line[at + 1..];
        let length = after.find(|character| !is_domain(character)).unwrap_or(after.len());
        let domain = after[..length].trim_end_matches(['.', '-']);
        let (host, top) = domain.rsplit_once('.')?;
        let is_address = begin < at
            && !host.is_empty()
            && top.len() >= 2
            && top.bytes().all(|byte| byte.is_ascii_alphabetic())
            // An instance of a systemd unit looks the same.
            && !matches!(top, "service" | "socket" | "timer" | "target" | "mount");
        let is_example = domain == "example.org" || domain.ends_with(".example.org");
        (is_address && !is_example).then(|| &line[begin..at + 1 + domain.len()])
    })
}

#[cfg(test)]
mod tests {
    use super::super::{NONE, file, lines};
    use super::*;

    fn broken(path: &str, text: &str) -> Vec<usize> {
        lines(check(&[file(path, text)]))
    }

    #[test]
    fn ends_are_clean() {
        assert_eq!(broken("a.md", "one\ntwo"), [2]);
        assert_eq!(broken("a.md", "one \ntwo\r\n\tthree\n"), [1, 2]);
        assert_eq!(broken("a.rs", "\tone\n"), [1]);
        assert_eq!(broken("a.md", ""), NONE);
    }

    #[test]
    fn nothing_is_left_unfinished() {
        assert_eq!(broken("a.md", "TODO\n// FIXME: x\nXXX\nmktemp XXXXXX\n"), [1, 2, 3]);
    }

    #[test]
    fn nothing_is_of_one_machine() {
        assert_eq!(broken("a.sh", "cd /home/me\n'/root/x'\nsrc=/work/x\n"), [1, 2, 3]);
        assert_eq!(broken("a.md", "the net/work/flow and $HOME/root/x\n"), NONE);
    }

    #[test]
    fn no_registry_is_named() {
        assert_eq!(broken(".cargo/config.toml", "[source.mirror]\n"), [1]);
        assert_eq!(broken("a.md", "https://index.crates.io/x\nhttps://docs.rs/raft\n"), [1]);
    }

    #[test]
    fn addresses_are_of_example_org() {
        assert_eq!(broken("a.md", "someone@company.test\na@b.example.com.\n"), [1, 2]);
        let fine = "ops@example.org, ops@db.example.org, git@host, mainstay@1.service, deny@0.20.2, @a.b\n";
        assert_eq!(broken("a.md", fine), NONE);
    }

    #[test]
    fn packages_come_from_one_place() {
        let of = |source: &str| format!("name = \"x\"\nsource = \"{source}\"\n");
        assert_eq!(broken("Cargo.lock", &of("registry+https://github.com/rust-lang/crates.io-index")), NONE);
        assert_eq!(broken("Cargo.lock", &of("git+https://example.org/x")), [2]);
        assert_eq!(broken("Cargo.lock", "name = \"openssl-sys\"\n"), [1]);
    }
}
