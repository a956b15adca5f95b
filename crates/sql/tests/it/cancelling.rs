//! A client cancels its own statement, and nobody else's.

use std::time::{Duration, Instant};

use mainstay_sql::Settings;

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Wire, code, outcome};

pub(crate) fn cancel(proxy: &Proxy, key: (i32, Vec<u8>)) {
    let mut packet = u32::try_from(12 + key.1.len()).unwrap().to_be_bytes().to_vec();
    packet.extend_from_slice(&80_877_102u32.to_be_bytes());
    packet.extend_from_slice(&key.0.to_be_bytes());
    packet.extend_from_slice(&key.1);
    let mut wire = Wire::tcp(proxy.port).unwrap();
    wire.write(&packet).unwrap();
    // The proxy closes the connection when it has passed the request on.
    assert!(wire.next().is_err());
}

fn sleeping(proxy: &Proxy) -> Wire {
    let mut client = proxy.client();
    let pid = client.one("SELECT pg_backend_pid()");
    client.simple("SELECT pg_sleep(30)").send();
    let mut admin = proxy.postgres.admin();
    let question = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
    wait_for("the statement to run", || admin.ok(&question)[0][0].as_deref() == Some("PgSleep"));
    client
}

#[test]
fn a_statement_is_cancelled_by_its_client_only() {
    for workers in [1, 2] {
        let proxy = Proxy::with(Postgres::shared(), Settings { workers, default_pool_size: 4, ..settings() });
        let mut client = sleeping(&proxy);
        let (pid, secret) = client.key.clone();
        let wrong: Vec<u8> = secret.iter().map(|byte| byte ^ 1).collect();
        cancel(&proxy, (pid, wrong));
        cancel(&proxy, (pid + 1, secret.clone()));
        cancel(&proxy, (-pid, secret.clone()));
        cancel(&proxy, (pid, [&secret[..], &[0]].concat()));
        client.socket.as_ref().unwrap().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(client.next().is_err(), "somebody else has cancelled it");
        client.socket.as_ref().unwrap().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let began = Instant::now();
        cancel(&proxy, (pid, secret.clone()));
        assert_eq!(code(outcome(&client.until_ready())), "57014");
        assert!(began.elapsed() < Duration::from_secs(10));
        // Nothing runs: nothing happens.
        cancel(&proxy, (pid, secret));
        assert_eq!(client.one("SELECT 1"), "1");
    }
}

/// A request takes no place in the pool, and all may come at once.
#[test]
fn a_full_pool_keeps_no_cancel_waiting() {
    let proxy = Proxy::with(Postgres::shared(), Settings { default_pool_size: 3, ..settings() });
    let mut clients: Vec<Wire> = (0..3).map(|_| sleeping(&proxy)).collect();
    let (began, proxy) = (Instant::now(), &proxy);
    std::thread::scope(|scope| {
        for key in clients.iter().map(|client| client.key.clone()) {
            scope.spawn(move || cancel(proxy, key));
        }
    });
    for client in &mut clients {
        assert_eq!(code(outcome(&client.until_ready())), "57014");
        assert_eq!(client.one("SELECT 1"), "1");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// A request that is still on its way when its statement ends must not hit the next one on the same server.
#[test]
fn a_late_cancel_hits_nobody_else() {
    let proxy = Proxy::with(Postgres::shared(), settings());
    let (mut one, mut two) = (proxy.client(), proxy.client());
    let key = one.key.clone();
    for _ in 0..200 {
        one.simple("SELECT 1").send();
        two.simple("SELECT pg_sleep(0.002)").send();
        cancel(&proxy, key.clone());
        one.until_ready();
        assert_eq!(code(outcome(&two.until_ready())), "-");
    }
}

/// A balancer in front of the proxies does not know which of them has the client.
#[test]
fn a_request_finds_the_proxy_that_has_the_client() {
    let proxy = Proxy::with(Postgres::shared(), Settings { workers: 2, default_pool_size: 4, ..settings() });
    let other = Proxy::with(Postgres::shared(), settings());
    let another = Proxy::with(Postgres::shared(), settings());
    let ports = [proxy.port, other.port, another.port];
    let addresses = ports.map(|port| std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port)));
    for (place, teller) in [&proxy, &other, &another].into_iter().enumerate() {
        let others = addresses.iter().enumerate().filter(|(index, _)| *index != place);
        teller.member.tell(|routes| routes.proxies = others.map(|(_, address)| *address).collect());
    }
    let mut client = sleeping(&proxy);
    let key = client.key.clone();
    // Until the other proxy has heard of it.
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                cancel(&other, key.clone());
            }
        });
        assert_eq!(code(outcome(&client.until_ready())), "57014");
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // One that fits nobody is answered all the same, and goes round no further.
    cancel(&other, (key.0, vec![1, 2, 3, 4]));
    assert_eq!(client.one("SELECT 1"), "1");
}
