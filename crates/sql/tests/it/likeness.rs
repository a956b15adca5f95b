//! Random conversations, each with PostgreSQL itself and through the proxy: the answers are the same.
//!
//! Two of them at a time share one server connection. What differs on purpose is left out: parameters and notices, which
//! may come at other places, and the words of errors, which may name a statement.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::time::Duration;

use mainstay_pgwire::frame;

use crate::postgres::{Postgres, wait_for};
use crate::proxy::Proxy;
use crate::wire::{Failure, Message, Wire};

/// `MAINSTAY_LIKENESS` plays more of them, for a person who looks for trouble.
const CONVERSATIONS: u64 = 120;
/// An answer that takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(2);
const END: &str = "the end";

const SIMPLE: &[&str] = &[
    "SELECT 1",
    "",
    ";",
    "-- nothing",
    "SELECT 1; SELECT 'two'",
    "SELECT 1; SELECT 1/0; SELECT 2",
    "BEGIN",
    "/* a /* b */ */ begin",
    "COMMIT",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "BEGIN; SELECT 1",
    "SELECT 1; COMMIT",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "SELECT 1/0",
    "SELEC",
    "SET work_mem = '5MB'",
    "SET LOCAL work_mem = '6MB'",
    "SHOW work_mem",
    "RESET ALL",
    "SET search_path = pg_catalog",
    "SHOW search_path",
    "SET my.own = 'x'",
    "SELECT set_config('my.own', 'y', false)",
    "SELECT coalesce(current_setting('my.own', true), '')",
    "SET TimeZone = 'Asia/Tokyo'",
    "SHOW TimeZone",
    "SET ROLE other",
    "RESET ROLE",
    "SELECT current_user",
    "PREPARE own AS SELECT 4",
    "EXECUTE own",
    "DEALLOCATE s1",
    "DEALLOCATE PREPARE \"s2\"",
    "DEALLOCATE \"all\"",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "DISCARD PLANS",
    "CREATE TEMP TABLE IF NOT EXISTS tt (a int)",
    "INSERT INTO tt VALUES (1)",
    "SELECT count(*) FROM tt",
    "DROP TABLE IF EXISTS tt",
    "INSERT INTO t VALUES (1)",
    "COPY t FROM STDIN",
    "COPY t FROM STDIN; SELECT 5",
    "COPY (SELECT generate_series(1, 3)) TO STDOUT",
    "DECLARE c CURSOR FOR SELECT generate_series(1, 5)",
    "DECLARE h CURSOR WITH HOLD FOR SELECT generate_series(1, 5)",
    "FETCH 2 FROM c",
    "FETCH 2 FROM h",
    "CLOSE ALL",
    "SELECT repeat('x', 70000)",
    "DO $$ BEGIN PERFORM set_config('my.own', 'z', false); END $$",
];

const EXTENDED: &[&str] = &[
    "SELECT 1",
    "SELECT $1::text",
    "SELECT generate_series(1, 4)",
    "",
    "SELECT 1/0",
    "SELECT nothing FROM nowhere",
    "SELECT 1; SELECT 2",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SET work_mem = '7MB'",
    "SHOW work_mem",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "INSERT INTO t VALUES (1) RETURNING 1",
    "COPY t FROM STDIN",
    "COPY (SELECT 1) TO STDOUT",
    "CREATE TEMP TABLE IF NOT EXISTS tt (a int)",
    "PREPARE own AS SELECT 4",
    "SELECT repeat('y', 20000)",
];

const PORTALS: &[&str] = &["", "", "", "p"];

/// Marsaglia's xorshift: the same numbers for a seed everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() >> 11) as usize % most
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// What a client says, from its first message to its last.
///
/// Left out is what the proxy cannot know before it is answered, and no driver does: using a name, or the unnamed statement,
/// behind a `Sync` without having looked whether its `Parse` has failed.
fn conversation(random: &mut Random, wire: &mut Wire, is_patient: bool) -> Vec<u8> {
    let named: &[&str] = if is_patient { &["s1", "s2", "all"] } else { &[""] };
    let mut is_unsynced = false;
    for _ in 0..2 + random.below(30) {
        let choice = random.below(24);
        // After an error PostgreSQL would skip a simple query, of which the proxy knows nothing; no driver sends it then.
        if choice < 5 && std::mem::take(&mut is_unsynced) {
            wire.sync();
        }
        is_unsynced |= (5..16).contains(&choice) || (18..20).contains(&choice);
        match choice {
            0..=4 => wire.simple(random.of(SIMPLE)),
            5..=7 => wire.parse(random.of(named), random.of(EXTENDED)),
            8..=9 if is_patient => wire.bind(random.of(PORTALS), random.of(named), &[]),
            10 if is_patient => wire.bind(random.of(PORTALS), random.of(named), &["a"]),
            11 if is_patient => wire.describe(b'S', random.of(named)),
            8..=11 => wire.flush(),
            12 => wire.describe(b'P', random.of(PORTALS)),
            13 => {
                let (portal, most) = (random.of(PORTALS), random.of(&[0_u8, 0, 1, 2]));
                wire.message(b'E', |out| {
                    out.extend_from_slice(portal.as_bytes());
                    out.extend_from_slice(&[0, 0, 0, 0, most]);
                })
            }
            14 => wire.close(b'S', random.of(named)),
            15 => wire.close(b'P', random.of(PORTALS)),
            16 => wire.flush(),
            17 => wire.copy_data(b"7\n"),
            18 => wire.message(b'c', |_| {}),
            19 => wire.message(b'f', |out| out.extend_from_slice(b"no\0")),
            20..=21 => {
                is_unsynced = false;
                let own = random.of(named);
                let name = random.of(&["", own]);
                wire.parse(name, random.of(EXTENDED))
                    .bind("", name, &[])
                    .describe(b'P', "")
                    .execute("")
                    .sync()
            }
            _ => {
                is_unsynced = false;
                wire.sync()
            }
        };
    }
    // Whatever it is in the middle of, this is its end.
    wire.message(b'f', |out| out.push(0)).sync().simple("ROLLBACK").simple(&format!("SELECT '{END}'"));
    wire.take()
}

/// Says all of it in pieces, and returns what is answered, up to the end.
fn converse(mut wire: Wire, bytes: &[u8], random: &mut Random, is_patient: bool) -> Vec<String> {
    let (mut rest, mut answers, mut copies_in) = (bytes, Vec::new(), false);
    let _ = wire.socket.as_ref().map(|socket| socket.set_read_timeout(Some(PATIENCE)));
    while let Ok(Some(header)) = frame::header(rest) {
        let (message, after) = rest.split_at(header.total);
        rest = after;
        if !say(&mut wire, message, random) {
            break;
        }
        // Within a copy there is no answer to a `Sync`.
        if is_patient && matches!(header.kind, b'Q' | b'S') && !copies_in {
            let last = listen(&mut wire, &mut answers, |(kind, _)| matches!(kind, b'Z' | b'G'));
            if last.is_none() {
                return answers;
            }
            copies_in = last == Some(b'G');
        }
        copies_in &= matches!(header.kind, b'Q' | b'S' | b'd' | b'H');
    }
    if !answers.iter().any(|answer| answer.ends_with(END)) {
        listen(&mut wire, &mut answers, |(kind, body)| *kind == b'D' && body.ends_with(END.as_bytes()));
    }
    let _ = wire.socket.as_ref().map(|socket| socket.shutdown(Shutdown::Both));
    answers
}

fn say(wire: &mut Wire, message: &[u8], random: &mut Random) -> bool {
    let mut rest = message;
    while !rest.is_empty() {
        let longest = random.of(&[7, 64, 4096, 4096]);
        let (piece, after) = rest.split_at((1 + random.below(longest)).min(rest.len()));
        if wire.write(piece).is_err() {
            return false;
        }
        rest = after;
    }
    true
}

/// Takes answers in, up to such a one; its type, unless there is no more.
fn listen(wire: &mut Wire, answers: &mut Vec<String>, is_last: impl Fn(&Message) -> bool) -> Option<u8> {
    loop {
        let message = match wire.next() {
            Ok((b'S' | b'N' | b'A', _)) => continue,
            Ok(message) => message,
            // An end may come as a reset, if something is unread.
            Err(error) => {
                let is_mute = error.kind() == ErrorKind::WouldBlock;
                answers.push(if is_mute { "no answer" } else { "the end of the connection" }.to_owned());
                return None;
            }
        };
        answers.push(shown(&message));
        if is_last(&message) {
            return Some(message.0);
        }
    }
}

fn shown((kind, body): &Message) -> String {
    let kind_shown = char::from(*kind);
    match kind {
        b'E' => {
            let failure = Failure::of(body);
            format!("E {} {}", failure.severity, failure.code)
        }
        // Object ids differ between databases.
        b'T' => format!("T {}", body.len()),
        _ => format!("{kind_shown} {}", String::from_utf8_lossy(&body[..body.len().min(60)]).escape_debug()),
    }
}

#[test]
fn a_conversation_goes_as_without_a_proxy() {
    let postgres = Postgres::new();
    let mut admin = postgres.admin();
    admin.ok("CREATE DATABASE direct OWNER app");
    let (port, postgres) = (postgres.port, std::sync::Arc::new(postgres));
    let proxy = Proxy::with(std::sync::Arc::clone(&postgres), crate::proxy::settings());
    let direct = || {
        let mut wire = Wire::tcp(port).unwrap();
        wire.log_in(&[("user", "app"), ("database", "direct")], "secret").unwrap();
        wire
    };
    direct().ok("CREATE TABLE t (a int)");
    proxy.client().ok("CREATE TABLE t (a int)");
    let more = std::env::var("MAINSTAY_LIKENESS").ok().and_then(|text| text.parse().ok());
    let differences: Vec<String> = std::thread::scope(|scope| {
        let play = |first: u64| {
            let (proxy, direct) = (&proxy, &direct);
            move || {
                let seeds = (first..=more.unwrap_or(CONVERSATIONS)).step_by(2);
                seeds.filter_map(|seed| difference(seed, proxy, direct())).collect::<Vec<_>>()
            }
        };
        let players = [scope.spawn(play(1)), scope.spawn(play(2))];
        players.into_iter().flat_map(|player| player.join().unwrap()).collect()
    });
    drop(proxy);
    // Whoever holds it last ends it, which must not be left to a thread that ends with this process.
    wait_for("the member's threads to end", || std::sync::Arc::strong_count(&postgres) == 1);
    assert!(differences.is_empty(), "{} differ; the first:\n{}", differences.len(), differences.join("\n\n"));
}

fn difference(seed: u64, proxy: &Proxy, direct: Wire) -> Option<String> {
    let random = || Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut client = proxy.client();
    let is_patient = !seed.is_multiple_of(3);
    let bytes = conversation(&mut random(), &mut client, is_patient);
    let expected = converse(direct, &bytes, &mut random(), is_patient);
    let found = converse(client, &bytes, &mut random(), is_patient);
    let at = expected.iter().zip(&found).position(|(one, other)| one != other);
    let at = at.or_else(|| (expected.len() != found.len()).then(|| expected.len().min(found.len())))?;
    let around =
        |answers: &[String]| answers[at.saturating_sub(3)..(at + 4).min(answers.len())].join("\n      ");
    Some(format!(
        "seed {seed}, answer {at}:\n    directly:\n      {}\n    through the proxy:\n      {}\n    said:\n      {}",
        around(&expected),
        around(&found),
        said(&bytes).join("\n      ")
    ))
}

/// The messages of a client, for a person.
fn said(bytes: &[u8]) -> Vec<String> {
    let mut rest = bytes;
    let mut messages = Vec::new();
    while let Ok(Some(header)) = frame::header(rest) {
        let (message, after) = rest.split_at(header.total);
        messages.push(format!(
            "{} {}",
            char::from(header.kind),
            String::from_utf8_lossy(&message[5..]).escape_debug()
        ));
        rest = after;
    }
    messages
}
