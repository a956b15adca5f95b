//! Statements without their literals, for the log.

/// The beginning of a statement: quoted strings and numbers are `?`, comments are left out, blanks are one. Where it is not
/// certain where a string ends, the rest is left out.
pub(crate) fn without_literals(text: &str, most_characters: usize) -> String {
    let mut rest = text;
    let mut shown = String::new();
    while let Some(first) = rest.chars().next() {
        if shown.chars().count() >= most_characters {
            shown.push('…');
            break;
        }
        let word = word(rest);
        let (instead, end) = if first.is_whitespace() {
            (" ", rest.len() - rest.trim_start().len())
        } else if rest.starts_with("--") {
            (" ", rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (" ", comment(rest))
        } else if first == '\'' {
            ("?", string(rest, false))
        } else if matches!(word, "e" | "E" | "b" | "B" | "x" | "X" | "n" | "N") && rest[1..].starts_with('\'')
        {
            ("?", 1 + string(&rest[1..], matches!(word, "e" | "E")))
        } else if first == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |end| end + 2);
            (&rest[..end], end)
        } else if let Some(end) = dollar_quoted(rest) {
            ("?", end)
        } else if first == '$' {
            let digits = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
            (&rest[..=digits], 1 + digits)
        } else if first.is_ascii_digit() {
            ("?", number(rest))
        } else if word.is_empty() {
            (&rest[..first.len_utf8()], first.len_utf8())
        } else {
            (word, word.len())
        };
        if instead != " " || !(shown.is_empty() || shown.ends_with(' ')) {
            shown.push_str(instead);
        }
        rest = &rest[end.clamp(first.len_utf8(), rest.len())..];
    }
    shown.truncate(shown.trim_end().len());
    shown
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// A name or key word at the beginning, if there is one.
fn word(text: &str) -> &str {
    if !text.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return "";
    }
    &text[..text.find(|c| !is_of_word(c)).unwrap_or(text.len())]
}

fn number(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || c == '.' || c == '_')).unwrap_or(text.len())
}

/// Comments may stand in comments.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let step = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The end of a string that begins with a quotation mark. What a backslash means in a plain one is a setting of the session's:
/// where that matters, nothing of the rest is certain.
fn string(text: &str, has_escapes: bool) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if has_escapes => at += 2,
            b'\\' if bytes.get(at + 1) == Some(&b'\'') => return text.len(),
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// The end of a string between `$tag$` and `$tag$`.
fn dollar_quoted(text: &str) -> Option<usize> {
    let tag_end = text.strip_prefix('$')?.find('$')? + 2;
    let tag = &text[..tag_end];
    let name = &tag[1..tag_end - 1];
    if name.starts_with(|c: char| c.is_ascii_digit())
        || !name.chars().all(|c| c.is_alphanumeric() || c == '_')
    {
        return None;
    }
    Some(text[tag_end..].find(tag).map_or(text.len(), |end| tag_end + end + tag.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn literals_are_left_out() {
        for (text, expected) in [
            ("SELECT 1", "SELECT ?"),
            (
                "SELECT  a1,\n\tb FROM t2 WHERE c = 'it''s' AND d > 1.5e3",
                "SELECT a1, b FROM t2 WHERE c = ? AND d > ?",
            ),
            ("ALTER ROLE a PASSWORD 'secret'", "ALTER ROLE a PASSWORD ?"),
            (r"SELECT E'a\'b secret', 'c'", "SELECT ?, ?"),
            (r"SELECT 'a\', 'secret'", "SELECT ?"),
            ("SELECT $1, $2::int, $$secret$$, $x$ $$ secret $x$", "SELECT $1, $2::int, ?, ?"),
            ("SELECT /* secret /* */ secret */ 1 -- secret", "SELECT ?"),
            ("SELECT \"Name 1\", x'ff', 'secret", "SELECT \"Name 1\", ?, ?"),
            ("SELECT 0xff, 1_000", "SELECT ?, ?"),
            ("SELECT 'ä', ä FROM ö", "SELECT ?, ä FROM ö"),
        ] {
            assert_eq!(without_literals(text, 200), expected, "{text}");
        }
        assert_eq!(without_literals("SELECT abc, def", 9), "SELECT abc…");
    }

    proptest! {
        /// Whatever comes, it ends, and no digit comes out that no name or parameter has.
        #[test]
        fn anything_can_be_read(text in "\\PC{0,60}|['\"$a1/*\\\\ -]{0,40}") {
            without_literals(&text, 30);
        }
    }
}
