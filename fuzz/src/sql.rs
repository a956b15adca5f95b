//! What the proxy reads out of statements, and the statements that it makes of what it has read.

use std::collections::BTreeMap;

use crate::{Target, options, session_settings, sql_text};

pub(crate) const TEXT: Target = Target {
    name: "sql-text",
    run: text,
    seeds: || {
        let texts = [
            "/* a /* b */ */ -- c\n;COMMIT AND CHAIN; select 1",
            "deallocate prepare \"A \"\" b\" ;",
            "rollback to savepoint a",
            "SET SESSION my.tenant = '1'; select set_config('a.b', $1, false)",
            "CREATE TEMP TABLE a (b text DEFAULT ';')",
        ];
        texts.map(|text| text.as_bytes().to_vec()).into()
    },
};

fn text(data: &[u8]) {
    let word = sql_text::first_word(data);
    assert!(word.iter().all(u8::is_ascii_alphabetic));
    // Blanks and comments before a statement change nothing.
    let later = [b" /* /* */ */-- \n;", data].concat();
    assert_eq!(sql_text::first_word(&later), word);
    let traits = sql_text::traits(data);
    assert!(!(traits.may_commit && traits.rolls_back), "it cannot be both");
    for name in sql_text::placeholders(data) {
        assert!(name.contains('.') && !name.contains('"'));
    }
    if let Some(name) = sql_text::deallocated(data) {
        // Quoted, any name is read as itself, also one that is a keyword.
        let quoted = format!("DEALLOCATE \"{}\"", name.replace('"', "\"\""));
        if !name.contains('\0') {
            assert_eq!(sql_text::deallocated(quoted.as_bytes()), Some(name));
        }
    }
}

pub(crate) const OPTIONS: Target = Target {
    name: "options",
    run: |data| {
        let Ok(text) = str::from_utf8(data) else { return };
        let mut settings = BTreeMap::new();
        match options::read(text, &mut settings) {
            Ok(()) => assert!(settings.keys().all(|name| !name.contains('='))),
            Err(report) => assert!(report.is_fatal()),
        }
    },
    seeds: || vec![br"-c work_mem=9MB --search-path=a,\ b -cx.y=1".to_vec()],
};

pub(crate) const SETTINGS: Target = Target {
    name: "settings",
    run: settings,
    seeds: || vec![b"work_mem\x004MB\0role\0a\0my.\"x\0it's \\ x\0|search_path\0a, b\0".to_vec()],
};

/// Names and values of two sessions: the statement that makes one into the other holds each value as one constant.
fn settings(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    assert_eq!(unquoted(&session_settings::literal(text)).as_deref(), Some(text));
    let read = |text: &str| {
        let words: Vec<&str> = text.split('\0').collect();
        let pairs = words.chunks_exact(2).map(|pair| (Box::from(pair[0]), Box::from(pair[1])));
        pairs.collect::<BTreeMap<Box<str>, Box<str>>>()
    };
    let (from, to) = text.split_once('|').unwrap_or((text, ""));
    let (from, to) = (read(from), read(to));
    assert_eq!(session_settings::change(&from, &to).is_none(), from == to);
}

/// What PostgreSQL reads in a constant, for the two forms that are written.
fn unquoted(literal: &str) -> Option<String> {
    let (body, is_escaped) = match literal.strip_prefix(" E'") {
        Some(body) => (body, true),
        None => (literal.strip_prefix('\'')?, false),
    };
    let mut rest = body.strip_suffix('\'')?.chars();
    let mut text = String::new();
    while let Some(character) = rest.next() {
        match character {
            '\'' if rest.next() == Some('\'') => text.push('\''),
            '\\' if is_escaped && rest.next() == Some('\\') => text.push('\\'),
            '\'' | '\\' => return None,
            other => text.push(other),
        }
    }
    Some(text)
}
