//! What can be told from the first words of a statement. No grammar: what matters, PostgreSQL is asked afterwards.

/// What the text of a query may do. Where it is not sure, it says yes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// It may end a transaction by committing it.
    pub(crate) may_commit: bool,
    /// It is nothing but that.
    pub(crate) commits: bool,
    /// It ends a transaction by undoing it.
    pub(crate) rolls_back: bool,
    /// It begins a transaction, and does nothing else.
    pub(crate) begins: bool,
    /// It may leave something in the session that its command tag does not tell.
    pub(crate) may_leave_state: bool,
    /// It forgets a statement that was prepared.
    pub(crate) deallocates: bool,
    /// It says something of a parameter with a dot in its name.
    pub(crate) may_set_placeholder: bool,
    /// Behind it other texts may mean something else than before: a schema, a time zone, a role, a temporary table.
    pub(crate) may_change_meaning: bool,
}

/// Words of which one stands in whatever changes what other texts mean (`PREPARED_BY` in `session/told.rs`, in all its forms).
const OF_MEANING: [&[u8]; 15] = [
    b"search_path",
    b"schema",
    b"style",
    b"zone",
    b"role",
    b"authorization",
    b"lc_monetary",
    b"array_nulls",
    b"standard_conforming",
    b"transform_null",
    b"xml",
    b"encoding",
    b"names",
    b"all",
    b"temp",
];

/// Of a text that leaves something in its session, or sets a parameter.
fn changes_meaning(text: &[u8]) -> bool {
    let lower = text.to_ascii_lowercase();
    let stands = |word: &[u8]| {
        memchr::memmem::find_iter(&lower, word).any(|at| {
            // `attempts` and `controller` are none of them.
            let is_letter = |at: Option<&u8>| at.is_some_and(|byte| byte.is_ascii_alphabetic());
            let before = at.checked_sub(1).and_then(|at| lower.get(at));
            !is_letter(before) || word == b"style" || word == b"zone"
        })
    };
    // A parameter's name that does not stand in the text may be any.
    let is_unread = || {
        memchr::memmem::find_iter(&lower, b"set_config").any(|at| {
            let rest = lower[at + b"set_config".len()..].trim_ascii_start();
            rest.strip_prefix(b"(").is_none_or(|rest| !rest.trim_ascii_start().starts_with(b"'"))
        })
    };
    first_word(text).eq_ignore_ascii_case(b"do") || OF_MEANING.iter().any(|word| stands(word)) || is_unread()
}

/// Whether `temp`, `advisory_` or `set_config` stands in the text. The rare letters of them are looked for, since this is asked of
/// every query.
fn leaves_state(text: &[u8]) -> bool {
    let stands_at = |word: &[u8], start: Option<usize>| {
        let found = start.and_then(|start| text.get(start..start + word.len()));
        found.is_some_and(|found| found.eq_ignore_ascii_case(word))
    };
    memchr::memchr3_iter(b'_', b'm', b'M', text).any(|at| match text[at] {
        b'_' => {
            stands_at(b"advisory", at.checked_sub(8))
                || (stands_at(b"set", at.checked_sub(3)) && stands_at(b"config", Some(at + 1)))
        }
        _ => stands_at(b"temp", at.checked_sub(2)),
    })
}

/// Looks at a text.
pub(crate) fn traits(text: &[u8]) -> Traits {
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    let word = first_word(text);
    let several = !is_single(text);
    let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
    let commits = is("commit") || is("end");
    let ends = commits || is("prepare");
    let sets = is("set") || is("reset");
    let may_leave_state = leaves_state(text);
    let may_matter = sets || several || may_leave_state || is("discard") || is("do");
    Traits {
        may_change_meaning: may_matter && changes_meaning(text),
        may_commit: ends || several,
        commits: commits && !several,
        begins: !several && (is("begin") || is("start")),
        rolls_back: !several && (is("rollback") || is("abort")) && !names_savepoint(text),
        may_leave_state,
        deallocates: is("deallocate"),
        may_set_placeholder: (sets || several) && memchr::memchr(b'.', text).is_some(),
    }
}

/// Whether there is one statement in the text for certain: nothing stands behind its first semicolon.
pub(crate) fn is_single(text: &[u8]) -> bool {
    memchr::memchr(b';', text).is_none_or(|at| text[at + 1..].iter().all(|byte| is_blank(*byte)))
}

/// `ROLLBACK TO` goes on with the transaction, and `ROLLBACK PREPARED` has none.
fn names_savepoint(text: &[u8]) -> bool {
    let mut words = text.split(|byte| is_blank(*byte) || *byte == b';').filter(|word| !word.is_empty());
    words.any(|word| word.eq_ignore_ascii_case(b"to") || word.eq_ignore_ascii_case(b"prepared"))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c' | b';')
}

/// The first word that is no comment.
pub(crate) fn first_word(text: &[u8]) -> &[u8] {
    let mut rest = text;
    loop {
        let start = rest.iter().position(|byte| !is_blank(*byte)).unwrap_or(rest.len());
        rest = &rest[start..];
        if rest.starts_with(b"--") {
            // PostgreSQL ends it at either.
            let end = memchr::memchr2(b'\n', b'\r', rest).map_or(rest.len(), |at| at + 1);
            rest = &rest[end..];
        } else if rest.starts_with(b"/*") {
            rest = after_comment(rest);
        } else {
            let end = rest.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(rest.len());
            return &rest[..end];
        }
    }
}

/// Comments nest in PostgreSQL.
fn after_comment(text: &[u8]) -> &[u8] {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        if text[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return &text[at..];
            }
        } else {
            at += 1;
        }
    }
    // Of the text, as all that is returned: callers look where in it they are.
    &text[text.len()..]
}

/// The name in a `DEALLOCATE`, as PostgreSQL understands it; nothing if there is more in the text, or it says `ALL`.
pub(crate) fn deallocated(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text.strip_suffix(&[0]).unwrap_or(text)).ok()?;
    let word = first_word(text.as_bytes());
    let start = word.as_ptr().addr() - text.as_ptr().addr();
    let mut rest = text.get(start + word.len()..)?.trim_start();
    if let Some((word, after)) = rest.split_once(|c: char| c.is_ascii_whitespace())
        && word.eq_ignore_ascii_case("prepare")
    {
        rest = after.trim_start();
    }
    let (name, rest) = match rest.strip_prefix('"') {
        Some(quoted) => quoted_name(quoted)?,
        None => {
            let end = rest.find(|c: char| c == ';' || c.is_ascii_whitespace()).unwrap_or(rest.len());
            let name = rest[..end].to_ascii_lowercase();
            if name == "all" {
                return None;
            }
            (name, &rest[end..])
        }
    };
    rest.bytes().all(is_blank).then_some(name).filter(|name| !name.is_empty())
}

/// The name up to the quotation mark that ends it, and what follows.
fn quoted_name(quoted: &str) -> Option<(String, &str)> {
    // Two quotes are one of the name.
    let doubled = quoted.replace("\"\"", "\0\0");
    let end = doubled.find('"')?;
    Some((doubled[..end].replace("\0\0", "\""), &quoted[end + 1..]))
}

/// What each `UNLISTEN` in a text names, as PostgreSQL understands it; `None` for `*`. What stands in a string or a comment counts
/// as well: whether there was an `UNLISTEN`, the answers tell.
pub(crate) fn unlistened(text: &[u8]) -> Vec<Option<Box<str>>> {
    const WORD: &[u8] = b"unlisten";
    /// PostgreSQL cuts longer names off.
    const MOST_NAME_BYTES: usize = 63;
    let text = String::from_utf8_lossy(text);
    let lower = text.to_ascii_lowercase();
    let places = memchr::memmem::find_iter(lower.as_bytes(), WORD);
    let named = places.filter_map(|at| {
        let rest = text.get(at + WORD.len()..)?.trim_start();
        if rest.starts_with('*') {
            return Some(None);
        }
        let mut name = match rest.strip_prefix('"') {
            Some(quoted) => quoted_name(quoted)?.0,
            None => {
                let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
                rest.split(|c| !is_part(c)).next()?.to_ascii_lowercase()
            }
        };
        while name.len() > MOST_NAME_BYTES {
            name.pop();
        }
        Some(Some(name.into()))
    });
    named.collect()
}

/// Names with a dot that stand after `SET`, `RESET` or in `set_config('`, in lower case.
pub(crate) fn placeholders(text: &[u8]) -> Vec<Box<str>> {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '.' | '"');
    let words: Vec<&str> = text.split(|c: char| !is_part(c)).filter(|word| !word.is_empty()).collect();
    let named = words.windows(2).filter(|pair| {
        matches!(pair[0], "set" | "reset" | "session" | "local") || pair[0].ends_with("set_config")
    });
    let dotted = named.map(|pair| pair[1].replace('"', "")).filter(|name| name.contains('.'));
    dotted.map(Box::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listened_to_any_more_is_named() {
        let named = |text: &str| unlistened(text.as_bytes());
        assert_eq!(named("SELECT 1; UNLISTEN *; RESET ALL"), [None]);
        assert_eq!(named("unlisten  News;UNLISTEN \"a\"\"B\""), [Some("news".into()), Some("a\"B".into())]);
        assert_eq!(named("LISTEN news"), []);
        assert_eq!(named(&format!("UNLISTEN {}", "x".repeat(70))), [Some("x".repeat(63).into())]);
    }

    #[test]
    fn the_first_word_stands_after_blanks_and_comments() {
        assert_eq!(first_word(b" /* a /* b */ */ -- c\n;COMMIT;"), b"COMMIT");
        assert_eq!(first_word(b"/* open"), b"");
        assert_eq!(first_word(b"\0"), b"");
    }

    #[test]
    fn what_may_commit_is_known() {
        assert!(traits(b"commit\0").may_commit);
        assert!(traits(b"-- a\rcommit").may_commit);
        assert!(traits(b"select 1; select 2\0").may_commit);
        assert!(!traits(b"select 1;\0").may_commit);
        assert!(!traits(b"update a set b = 1 where c = 2").may_commit);
    }

    #[test]
    fn a_begin_alone_begins() {
        assert!(traits(b"BEGIN\0").begins && traits(b"start transaction read only;").begins);
        assert!(!traits(b"begin; insert into a values (1)").begins && !traits(b"beginning").begins);
    }

    #[test]
    fn a_rollback_ends_the_transaction_unless_it_names_a_savepoint() {
        assert!(traits(b"rollback;").rolls_back);
        assert!(traits(b" ABORT AND NO CHAIN").rolls_back);
        assert!(!traits(b"rollback to savepoint a").rolls_back);
        assert!(!traits(b"rollback; select 1").rolls_back);
    }

    #[test]
    fn what_leaves_state_is_suspected() {
        assert!(traits(b"CREATE TEMP TABLE a ()").may_leave_state);
        assert!(traits(b"select Pg_Advisory_lock(1)").may_leave_state);
        assert!(traits(b"select SET_CONFIG('a', 'b', false)").may_leave_state);
        assert!(traits(b"select setval('m_temp')").may_leave_state);
        assert!(!traits(b"_config m te mp advisor_y _ set_confi").may_leave_state);
        assert!(!traits(b"select abalance from pgbench_accounts where aid = 1").may_leave_state);
    }

    #[test]
    fn the_name_that_is_deallocated_may_be_quoted() {
        let name = |text: &str| deallocated(text.as_bytes());
        assert_eq!(name("DEALLOCATE A;\0").as_deref(), Some("a"));
        assert_eq!(name("/* x */ deallocate PREPARE \"A \"\" b\" ; ").as_deref(), Some("A \" b"));
        assert_eq!(name("deallocate prepare").as_deref(), Some("prepare"));
        assert_eq!(name("deallocate a; select 1"), None);
        assert_eq!(name("deallocate \"a"), None);
        // Only in quotes is it a name.
        assert_eq!(name("DEALLOCATE All"), None);
        assert_eq!(name("deallocate \"all\"").as_deref(), Some("all"));
        assert_eq!(name("/* open"), None);
    }

    #[test]
    fn placeholders_are_named() {
        assert_eq!(placeholders(b"SET my.tenant = '1'"), [Box::from("my.tenant")]);
        assert_eq!(placeholders(b"select set_config('a.b', $1, false)"), [Box::from("a.b")]);
        assert!(placeholders(b"SET work_mem = 1.5").is_empty());
    }
}
