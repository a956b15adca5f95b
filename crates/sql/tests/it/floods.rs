//! Crowds of strangers: the proxy stays up, and those who are in are served.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mainstay_sql::Settings;

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Wire, code, startup};

const CONNECTS: usize = 20_000;
const THREADS: usize = 4;

/// What a stranger says before it goes: nothing, half a packet, a whole one, none, a request to cancel, one for encryption.
fn words() -> [Vec<u8>; 6] {
    let packet = startup(&[("user", "app"), ("database", "app")]);
    [
        Vec::new(),
        packet[..packet.len() / 2].to_vec(),
        packet,
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 1, 2, 3, 4],
        vec![0, 0, 0, 8, 4, 210, 22, 47],
    ]
}

#[test]
fn twenty_thousand_connects_keep_nobody_waiting() {
    let proxy = Proxy::with(Postgres::shared(), Settings { max_client_conn: 200, ..settings() });
    let mut client = proxy.client();
    let (words, is_over, port) = (words(), AtomicBool::new(false), proxy.port);
    let slowest = std::thread::scope(|scope| {
        let storm = || {
            for n in 0..CONNECTS / THREADS {
                // A full queue of the kernel is no fault of the proxy's.
                let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let _ = stream.write_all(&words[n % words.len()]);
                // With a reset, so that the system does not run out of ports.
                let _ = nix::sys::socket::setsockopt(
                    &stream,
                    nix::sys::socket::sockopt::Linger,
                    &nix::libc::linger { l_onoff: 1, l_linger: 0 },
                );
            }
        };
        let storms: Vec<_> = (0..THREADS).map(|_| scope.spawn(storm)).collect();
        let served = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                assert_eq!(client.one("SELECT 1"), "1");
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        });
        storms.into_iter().for_each(|storm| storm.join().unwrap());
        is_over.store(true, Ordering::Relaxed);
        served.join().unwrap()
    });
    assert!(slowest < Duration::from_secs(5), "a statement took {slowest:?}");
    wait_for("room for a new client", || {
        proxy.try_connect(&[("user", "app"), ("database", "app")], "secret").is_ok()
    });
}

#[test]
fn wrong_passwords_in_number_keep_nobody_out() {
    let proxy = Proxy::new();
    let mut client = proxy.client();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for user in ["app", "boss", "app", "silent"].iter().cycle().take(40) {
                    assert_eq!(code(proxy.try_connect(&[("user", user)], "wrong")), "28P01");
                }
            });
        }
        for _ in 0..50 {
            assert_eq!(client.one("SELECT 1"), "1");
        }
    });
    assert_eq!(proxy.client().one("SELECT 1"), "1");
}

/// Half of a message, and then nothing: the server stays free for others.
#[test]
fn half_a_message_holds_no_server() {
    let proxy = Proxy::new();
    let halves: Vec<Wire> = (0..10)
        .map(|n| {
            let mut wire = proxy.client();
            let bytes = wire.simple("SELECT 'never finished'").take();
            wire.write(&bytes[..1 + n]).unwrap();
            wire
        })
        .collect();
    assert_eq!(proxy.client().one("SELECT 1"), "1");
    drop(halves);
    assert_eq!(proxy.client().one("SELECT 2"), "2");
}
