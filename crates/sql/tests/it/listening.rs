//! `LISTEN` in transaction mode: no server is held for it, and nothing is lost or told twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay_pgwire::frame::string;
use mainstay_sql::Settings;

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Message, Wire, code, outcome};

/// Channel and payload.
fn notification((kind, body): &Message) -> Option<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (channel, rest) = string(body.get(4..)?).filter(|_| *kind == b'A')?;
    Some((text(channel), text(string(rest)?.0)))
}

/// A client whose notifications are kept, also those that come among answers.
struct Listener {
    wire: Wire,
    heard: VecDeque<(String, String)>,
}

impl Listener {
    fn new(proxy: &Proxy) -> Listener {
        Listener { wire: proxy.client(), heard: VecDeque::new() }
    }

    fn keep(&mut self, messages: &[Message]) {
        self.heard.extend(messages.iter().filter_map(notification));
    }

    fn code(&mut self, sql: &str) -> String {
        let messages = self.wire.simple(sql).go();
        self.keep(&messages);
        code(outcome(&messages))
    }

    fn ok(&mut self, sql: &str) {
        assert_eq!(self.code(sql), "-", "{sql}");
    }

    fn next(&mut self) -> (String, String) {
        if let Some(heard) = self.heard.pop_front() {
            return heard;
        }
        let message = self.wire.next().expect("a notification");
        notification(&message).unwrap_or_else(|| panic!("no notification: {message:?}"))
    }

    /// Whether nothing comes for a while.
    fn is_quiet(&mut self) -> bool {
        let set = |wire: &Wire, ms| {
            wire.socket.as_ref().unwrap().set_read_timeout(Some(Duration::from_millis(ms))).unwrap();
        };
        set(&self.wire, 200);
        let is_quiet = self.heard.is_empty() && self.wire.next().is_err();
        set(&self.wire, 20_000);
        is_quiet
    }
}

fn pair(channel: &str, payload: &str) -> (String, String) {
    (channel.to_owned(), payload.to_owned())
}

#[test]
fn more_clients_listen_than_there_are_servers() {
    let proxy = Proxy::new();
    let mut listeners: Vec<Listener> = (0..10).map(|_| Listener::new(&proxy)).collect();
    for (number, listener) in listeners.iter_mut().enumerate() {
        listener.ok(&format!("LISTEN own_{number}; LISTEN \"All\""));
    }
    let mut other = proxy.client();
    other.ok("SELECT pg_notify('own_3', 'x'), pg_notify('All', 'y')");
    assert_eq!(listeners[3].next(), pair("own_3", "x"));
    for listener in &mut listeners {
        assert_eq!(listener.next(), pair("All", "y"));
        listener.ok("SELECT 1");
    }
    // Its own as well, and two of them in their order.
    listeners[0].ok("NOTIFY own_0, '1'");
    listeners[0].ok("NOTIFY own_0, '2'");
    assert_eq!((listeners[0].next(), listeners[0].next()), (pair("own_0", "1"), pair("own_0", "2")));
    drop(listeners);
    assert_eq!(other.one("SELECT 2"), "2");
}

#[test]
fn a_transaction_is_told_when_it_has_ended() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (Listener::new(&proxy), proxy.client());
    one.ok("LISTEN later");
    one.ok("BEGIN");
    two.ok("NOTIFY later, 'now'");
    std::thread::sleep(Duration::from_millis(100));
    one.ok("SELECT 1");
    assert!(one.heard.is_empty());
    one.ok("COMMIT");
    // Before it is said that all is ready, as drivers expect who look only then.
    assert_eq!(one.heard.pop_front(), Some(pair("later", "now")));
}

#[test]
fn what_is_left_is_left_when_that_is_committed() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (Listener::new(&proxy), proxy.client());
    one.ok("LISTEN a; LISTEN b; LISTEN \"C\"");
    let mut round = 0;
    let mut hears = |one: &mut Listener| -> Vec<String> {
        round += 1;
        one.ok(&format!("LISTEN end_{round}"));
        // Behind it what its server has heard and what is heard for it comes from one place, in its order.
        one.ok("SELECT 1");
        two.ok("SELECT pg_notify(channel, '') FROM unnest('{a,b,C}'::text[]) AS channel");
        two.ok(&format!("NOTIFY end_{round}"));
        std::iter::from_fn(|| Some(one.next().0)).take_while(|channel| !channel.starts_with("end")).collect()
    };
    assert_eq!(hears(&mut one), ["a", "b", "C"]);
    one.ok("BEGIN; UNLISTEN a");
    one.ok("ROLLBACK");
    assert_eq!(one.code("UNLISTEN b; SELECT 1/0"), "22012");
    assert_eq!(hears(&mut one), ["a", "b", "C"]);
    one.wire.extended("UNLISTEN a").unwrap();
    one.wire.parse("left", "UNLISTEN \"C\"").sync().go();
    one.wire.run("left", &[]).unwrap();
    assert_eq!(hears(&mut one), ["b"]);
    one.ok("UNLISTEN *; LISTEN a");
    assert_eq!(hears(&mut one), ["a"]);
    one.ok("DISCARD ALL");
    two.ok("SELECT pg_notify(channel, '') FROM unnest('{a,b,C,end_1}'::text[]) AS channel");
    assert!(one.is_quiet());
}

/// While another client notifies all the time.
#[test]
fn nothing_is_lost_or_told_twice_when_a_session_begins_to_listen() {
    let proxy = Proxy::of_size(3);
    let mut warm = proxy.client();
    warm.ok("LISTEN warm");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sender = proxy.client();
            let mut number = 0;
            while !ended.load(Ordering::Relaxed) {
                number += 1;
                sender.ok(&format!("NOTIFY counted, '{number}'"));
            }
        });
        // Also when this thread fails: the other one is waited for.
        let _ended = Ended(&ended);
        for round in 0..30 {
            let mut client = Listener::new(&proxy);
            client.ok("LISTEN counted");
            let first: u32 = client.next().1.parse().unwrap();
            for expected in first + 1..first + 60 {
                let heard = client.next().1;
                assert_eq!(heard, expected.to_string(), "in round {round}, which began with {first}");
            }
        }
    });
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_connection_that_listens_is_made_anew() {
    let proxy = Proxy::of_size(2);
    let (mut one, mut two) = (Listener::new(&proxy), proxy.client());
    one.ok("LISTEN \"again and again\"");
    let mut admin = proxy.postgres.admin();
    let listener = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%LISTEN \"again and again\"%' AND pid <> pg_backend_pid()";
    // Its last words; those of the client's own server are others from then on.
    one.ok("SELECT 1");
    wait_for("the connection that listens", || admin.ok(listener).len() == 1);
    let before = admin.one(listener);
    admin.ok(&format!("SELECT pg_terminate_backend({before})"));
    wait_for("another one", || admin.ok(listener).iter().flatten().flatten().any(|pid| *pid != before));
    wait_for("a notification", || {
        two.ok("NOTIFY \"again and again\"");
        !one.is_quiet()
    });
}

/// Drivers say `LISTEN` again and again, to be sure.
#[test]
fn who_listens_twice_hears_once() {
    let proxy = Proxy::of_size(3);
    let (mut one, mut two) = (Listener::new(&proxy), proxy.client());
    one.ok("LISTEN again");
    one.ok("SELECT 1");
    for n in 0..20 {
        let begun = n % 2 == 0;
        if begun {
            one.wire.simple("LISTEN again").send();
        }
        two.ok(&format!("NOTIFY again, '{n}'"));
        if begun {
            let messages = one.wire.until_ready();
            one.keep(&messages);
        }
    }
    // Tied to its server by something else it hears by both.
    one.ok("CREATE TEMP TABLE tied ()");
    one.ok("LISTEN again");
    two.ok("NOTIFY again, '20'");
    for n in 0..=20 {
        assert_eq!(one.next(), pair("again", &n.to_string()));
    }
    assert!(one.is_quiet());
}

/// As long as nobody can listen for them sessions keep their servers, and not for longer.
#[test]
fn servers_come_back_when_somebody_can_listen() {
    // Of its own, since the role is everybody's.
    let postgres = Arc::new(Postgres::new());
    let proxy = Proxy::with(postgres, Settings { default_pool_size: 3, ..settings() });
    let mut boss = proxy.postgres.admin();
    let (mut one, mut two) = (Listener::new(&proxy), Listener::new(&proxy));
    let mut other = proxy.client();
    // With the servers of the pool the role has all that it may have.
    for client in [&mut one.wire, &mut two.wire, &mut other] {
        client.ok("BEGIN");
    }
    for client in [&mut one.wire, &mut two.wire, &mut other] {
        client.ok("COMMIT");
    }
    boss.ok("ALTER ROLE app CONNECTION LIMIT 0");
    one.ok("LISTEN late");
    two.ok("LISTEN late");
    let linked = "SELECT count(*) FROM pg_stat_activity WHERE query = 'UNLISTEN *' AND usename = 'app'";
    assert_eq!(other.one("SELECT 1"), "1");
    boss.ok("ALTER ROLE app CONNECTION LIMIT -1");
    wait_for("both to hand over", || boss.one(linked).parse::<u32>().unwrap() >= 2);
    other.ok("NOTIFY late, 'x'");
    assert_eq!((one.next(), two.next()), (pair("late", "x"), pair("late", "x")));
}

/// What is passed from one session to another must be in the encoding of both.
#[test]
fn another_encoding_keeps_its_server() {
    let proxy = Proxy::of_size(2);
    let mut one = Listener::new(&proxy);
    one.ok("SET client_encoding = 'LATIN1'");
    one.ok("LISTEN other_encoding");
    proxy.client().ok("SELECT pg_notify('other_encoding', U&'\\00e9')");
    let (kind, body) = one.wire.next().unwrap();
    assert_eq!((kind, &body[4..]), (b'A', &b"other_encoding\0\xe9\0"[..]));
}
