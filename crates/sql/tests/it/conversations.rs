//! Written conversations (`tests/conversations`), each with PostgreSQL itself and through the proxy: the answers are the same.
//!
//! A line is a message, `read` waits for the answers to those before it, `#` begins another conversation with its name. `-` is
//! the name of what has none. Nobody writes answers down: PostgreSQL knows them. Of errors severity and SQLSTATE are
//! compared, since their words name the server's statements; what comes unasked is left out.

use std::io::ErrorKind;

use crate::proxy::Proxy;
use crate::wire::{Failure, Wire};

const FILES: [(&str, &str); 3] = [
    ("extended.txt", include_str!("../conversations/extended.txt")),
    ("copies.txt", include_str!("../conversations/copies.txt")),
    ("malformed.txt", include_str!("../conversations/malformed.txt")),
];

/// One conversation: where it stands, and its lines.
struct Conversation {
    place: String,
    lines: Vec<(usize, &'static str)>,
}

fn conversations() -> Vec<Conversation> {
    let mut all: Vec<Conversation> = Vec::new();
    for (file, text) in FILES {
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            match (line.strip_prefix("# "), all.last_mut()) {
                (Some(name), _) => {
                    all.push(Conversation { place: format!("{file}:{number} {name}"), lines: Vec::new() });
                }
                (None, _) if line.trim().is_empty() => {}
                (None, Some(last)) => last.lines.push((number, line)),
                (None, None) => panic!("{file}:{number}: a message before the first conversation"),
            }
        }
    }
    all
}

/// Appends what a line says; returns how often it makes the server ready.
fn say(wire: &mut Wire, line: &str) -> Option<usize> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let words: Vec<&str> = rest.split(' ').collect();
    let name = |at: usize| words.get(at).copied().filter(|name| *name != "-").unwrap_or_default();
    let kind = |at: usize| words.get(at).and_then(|kind| kind.bytes().next());
    match verb {
        "query" => drop(wire.simple(rest)),
        "parse" => drop(wire.parse(name(0), rest.split_once(' ').map_or("", |(_, text)| text))),
        "bind" => drop(wire.bind(name(0), name(1), words.get(2..).unwrap_or_default())),
        "describe" => drop(wire.describe(kind(0)?, name(1))),
        "close" => drop(wire.close(kind(0)?, name(1))),
        "execute" => {
            let most: u32 = words.get(1).map_or(Some(0), |most| most.parse().ok())?;
            wire.message(b'E', |out| {
                mainstay_pgwire::frame::push_string(out, name(0));
                out.extend_from_slice(&most.to_be_bytes());
            });
        }
        "copydata" => drop(wire.copy_data(format!("{rest}\n").as_bytes())),
        "copydone" => drop(wire.message(b'c', |_| {})),
        "copyfail" => drop(wire.message(b'f', |out| mainstay_pgwire::frame::push_string(out, rest))),
        "flush" => drop(wire.flush()),
        "sync" => drop(wire.sync()),
        // A type and bytes as they are.
        "raw" => drop(wire.message(kind(0)?, |out| out.extend_from_slice(words[1..].join(" ").as_bytes()))),
        _ => return None,
    }
    Some(usize::from(matches!(verb, "query" | "sync")))
}

/// The answers, up to the last `ReadyForQuery` that is due, or the end.
fn answers(wire: &mut Wire, due: usize) -> Vec<String> {
    let (mut ready, mut told) = (0, Vec::new());
    while ready < due {
        match wire.next() {
            Ok((b'S' | b'N' | b'K' | b'A', _)) => {}
            Ok((b'E', body)) => {
                let failure = Failure::of(&body);
                told.push(format!("E {} {}", failure.severity, failure.code));
            }
            Ok((kind, body)) => {
                ready += usize::from(kind == b'Z');
                told.push(format!("{} {}", char::from(kind), body.escape_ascii()));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer after {told:?}"),
            Err(_) => {
                told.push("the end".to_owned());
                break;
            }
        }
    }
    told
}

fn play(conversation: &Conversation, wire: &mut Wire, mut between: impl FnMut(u8)) -> Vec<Vec<String>> {
    let (mut all, mut due) = (Vec::new(), 0);
    for (number, line) in &conversation.lines {
        if *line == "read" {
            wire.send();
            let told = answers(wire, due);
            let is_over = told.last().is_some_and(|last| last == "the end");
            all.push(told);
            due = 0;
            if is_over {
                break;
            }
            between(wire.status);
            continue;
        }
        due += say(wire, line)
            .unwrap_or_else(|| panic!("{}: line {number}: {line:?} is no message", conversation.place));
    }
    all
}

#[test]
fn the_proxy_answers_as_postgresql_does() {
    // One server for two clients, so that each finds what the other has left.
    let proxy = Proxy::new();
    let mut admin = proxy.postgres.admin_of("app").unwrap();
    admin.ok("CREATE TABLE talk (id int, word text); GRANT ALL ON talk TO app");
    let all = conversations();
    assert!(all.len() > 30, "{}", all.len());
    let mut other = proxy.client();
    for conversation in &all {
        admin.ok("TRUNCATE talk");
        let mut direct = Wire::tcp(proxy.postgres.port).unwrap();
        direct.log_in(&[("user", "app"), ("database", "app")], "secret").unwrap();
        let expected = play(conversation, &mut direct, |_| {});
        drop(direct);
        admin.ok("TRUNCATE talk");
        let mut client = proxy.client();
        let told = play(conversation, &mut client, |status| {
            // The other one would wait for the end of a transaction.
            if status == b'I' {
                other.parse("", "SELECT 'other'").sync().go();
            }
        });
        if conversation.place.starts_with("malformed") {
            // PostgreSQL goes on with some of these clients; the proxy ends them.
            let code = |told: &[Vec<String>]| told[0][0].split(' ').nth(2).map(str::to_owned);
            assert_eq!(code(&told), code(&expected), "{}: {told:?}, not {expected:?}", conversation.place);
        } else {
            assert_eq!(told, expected, "{}", conversation.place);
        }
        drop(client);
        assert_eq!(other.one("SELECT 'still there'"), "still there", "{}", conversation.place);
    }
    admin.ok("DROP TABLE talk");
}
