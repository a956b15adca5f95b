//! Rust text without what is not code, so that a rule about code does not stumble over a comment.

use crate::workspace::SourceFile;

/// The code of a file, line by line, with comments and the contents of literals as blanks.
pub(super) fn code(text: &str) -> String {
    let mut scanner = Scanner { rest: text, code: String::with_capacity(text.len()), last: ' ' };
    while !scanner.rest.is_empty() {
        scanner.step();
    }
    scanner.code
}

pub(super) fn is_rust(file: &SourceFile) -> bool {
    file.path.ends_with(".rs")
}

/// Whether the whole file is for tests.
pub(super) fn is_test_file(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

/// The line (from 1) with which the tests at the end of a file begin; past the end if there are none.
pub(super) fn tests_begin(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let opens_module = |line: &&str| line.starts_with("mod ") && line.ends_with('{');
    for (index, line) in lines.iter().enumerate() {
        let next = lines[index + 1..].iter().find(|next| !next.is_empty() && !next.starts_with("#["));
        if *line == "#[cfg(test)]" && next.is_some_and(opens_module) {
            return index + 1;
        }
    }
    lines.len() + 1
}

/// Whether `word` stands in `line` as a word of its own; `word` may end in a mark, as in `dbg!`.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    let is_of_word = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(index, _)| {
        let (before, after) = (&line[..index], &line[index + word.len()..]);
        let goes_on = word.ends_with(is_of_word) && after.starts_with(is_of_word);
        !before.ends_with(is_of_word) && !goes_on
    })
}

struct Scanner<'a> {
    rest: &'a str,
    code: String,
    /// The character before `rest`, which tells a literal's prefix from the end of a name.
    last: char,
}

impl Scanner<'_> {
    fn step(&mut self) {
        if self.rest.starts_with("//") {
            self.blank(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.blank(comment_length(self.rest));
        } else if let Some(length) = self.raw_string_length() {
            self.blank(length);
        } else if self.rest.starts_with('"') {
            self.blank(string_length(self.rest));
        } else if let Some(length) = character_length(self.rest) {
            self.blank(length);
        } else if let Some(character) = self.rest.chars().next() {
            self.code.push(character);
            self.take(character.len_utf8());
        }
    }

    fn blank(&mut self, length: usize) {
        let blanks = self.rest[..length].chars().map(|character| if character == '\n' { '\n' } else { ' ' });
        self.code.extend(blanks);
        self.take(length);
    }

    fn take(&mut self, length: usize) {
        self.last = self.rest[..length].chars().next_back().unwrap_or(self.last);
        self.rest = &self.rest[length..];
    }

    /// `r"…"`, `br#"…"#` and the like.
    fn raw_string_length(&self) -> Option<usize> {
        if self.last.is_alphanumeric() || self.last == '_' {
            return None;
        }
        let marks = self.rest.trim_start_matches(['b', 'c']).strip_prefix('r')?;
        let body = marks.trim_start_matches('#');
        let hashes = marks.len() - body.len();
        let body = body.strip_prefix('"')?;
        let closing = format!("\"{}", "#".repeat(hashes));
        let end = body.find(&closing).map_or(body.len(), |index| index + closing.len());
        Some(self.rest.len() - body.len() + end)
    }
}

/// Block comments nest.
fn comment_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut index = 0;
    while index < text.len() {
        let rest = &text.as_bytes()[index..];
        let step = if rest.starts_with(b"/*") {
            depth += 1;
            2
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            2
        } else {
            1
        };
        index += step;
        if depth == 0 {
            return index;
        }
    }
    text.len()
}

fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// A character literal, and not a lifetime.
fn character_length(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    if let Some(escape) = body.strip_prefix('\\') {
        let first = escape.chars().next()?.len_utf8();
        return Some(2 + first + escape[first..].find('\'')? + 1);
    }
    let length = body.chars().next()?.len_utf8();
    body[length..].starts_with('\'').then_some(length + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        for (text, expected) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            ("f(\"x \\\" y\") + g", "f(        ) + g"),
            ("r#\"a \" b\"# + br\"c\"", "           +      "),
            ("her\"x\"", "her   "),
            ("'\"' + '\\'' + b'x'", "    +      + b   "),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("'\\u{1F600}' x", "            x"),
        ] {
            assert_eq!(code(text), expected, "{text}");
        }
    }

    #[test]
    fn unfinished_text_ends() {
        for text in ["\"abc", "/* abc", "r#\"abc\"", "'\\", "'"] {
            code(text);
        }
    }

    #[test]
    fn words_stand_alone() {
        assert!(has_word("unsafe {", "unsafe") && has_word("(dbg!(1))", "dbg!"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe") && !has_word("my_dbg!(1)", "dbg!"));
    }

    #[test]
    fn tests_begin_at_their_module_only() {
        assert_eq!(tests_begin("a\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(tests_begin("a\n#[cfg(test)]\n#[path = \"x\"]\nmod tests {\n}\n"), 2);
        assert_eq!(tests_begin("#[cfg(test)]\nmod tests;\na\n"), 4);
        assert_eq!(tests_begin("#[cfg(test)]\nfn only_for_tests() {}\na\n"), 4);
    }
}
