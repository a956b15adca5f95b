//! What takes too long, and servers that come to nothing.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mainstay_sql::{DatabaseSettings, Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Wire, code, kinds, outcome};

const SHORT: Duration = Duration::from_millis(300);

fn is_alive(admin: &mut Wire, pid: &str) -> bool {
    admin.one(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")) == "1"
}

/// Only the next one who used it had it closed.
#[test]
fn an_old_server_is_closed_also_while_nobody_uses_it() {
    let old = DatabaseSettings { server_lifetime: Some(SHORT), ..DatabaseSettings::default() };
    let databases = [("app".to_owned(), old)].into();
    let proxy = Proxy::with(Postgres::shared(), Settings { databases, ..settings() });
    let (mut client, mut admin) = (proxy.client(), proxy.postgres.admin());
    client.ok("BEGIN");
    let pid = client.one("SELECT pg_backend_pid()");
    std::thread::sleep(2 * SHORT);
    assert_eq!(client.one("SELECT pg_backend_pid()"), pid);
    client.ok("COMMIT");
    wait_for("its end", || !is_alive(&mut admin, &pid));
    let pid = client.one("SELECT pg_backend_pid()");
    wait_for("the end of the next one", || !is_alive(&mut admin, &pid));
    assert_eq!(client.one("SELECT 1"), "1");
}

/// Its machine answers, and PostgreSQL does not.
#[test]
fn a_server_that_does_not_let_us_in_is_not_waited_for() {
    let limits = Settings { server_connect_timeout: SHORT, query_wait_timeout: 3 * SHORT, ..settings() };
    let proxy = Proxy::with(Postgres::shared(), limits);
    let (mut client, mut console) = (proxy.client(), proxy.boss("mainstay"));
    let deaf = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut route = proxy.postgres.route("deaf");
    route.port = deaf.local_addr().unwrap().port();
    proxy.member.primary(route);
    wait_for("the route", || console.ok("SHOW ROUTES")[0][1].as_deref() == Some("deaf"));
    let failure = client.query("SELECT 1").unwrap_err();
    assert_eq!(failure.code, "57P03");
    assert!(failure.detail.contains("deaf does not answer within 300ms"), "{failure}");
    proxy.member.primary(proxy.postgres.route("a"));
    wait_for("the other one", || client.query("SELECT 1").is_ok());
}

/// A way to PostgreSQL that takes its time. What is there goes on and nothing new is taken any further, once it is told so.
struct Bottleneck {
    port: u16,
    is_shut: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    held: Arc<Mutex<Vec<TcpStream>>>,
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, latency: Duration) {
    let mut bytes = [0; 4096];
    while let Ok(read) = from.read(&mut bytes)
        && read > 0
    {
        std::thread::sleep(latency);
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

impl Bottleneck {
    fn new(postgres: u16, latency: Duration) -> io::Result<Bottleneck> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let (is_shut, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let held = Arc::new(Mutex::new(Vec::new()));
        let (is_shut_now, is_over_now, keep) =
            (Arc::clone(&is_shut), Arc::clone(&is_over), Arc::clone(&held));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_over_now.load(Ordering::Relaxed) {
                    return;
                }
                if is_shut_now.load(Ordering::Relaxed) {
                    keep.lock().unwrap().push(stream);
                    continue;
                }
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, postgres)) else { continue };
                let (back, forth) = (server.try_clone().unwrap(), stream.try_clone().unwrap());
                std::thread::spawn(move || pass_on(forth, server, latency));
                std::thread::spawn(move || pass_on(back, stream, latency));
            }
        });
        Ok(Bottleneck { port, is_shut, is_over, held })
    }

    /// On the proxy's way to its PostgreSQL.
    fn before(proxy: &Proxy, latency: Duration) -> Bottleneck {
        let way = Bottleneck::new(proxy.postgres.port, latency).unwrap();
        let mut route = proxy.postgres.route("narrow");
        route.port = way.port;
        proxy.member.primary(route);
        let mut console = proxy.boss("mainstay");
        wait_for("the route", || console.ok("SHOW ROUTES")[0][1].as_deref() == Some("narrow"));
        way
    }
}

impl Drop for Bottleneck {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

#[test]
fn a_request_to_cancel_that_does_not_arrive_is_given_up() {
    let limits = Settings { cancel_wait_timeout: SHORT, ..settings() };
    let proxy = Proxy::with(Postgres::shared(), limits);
    let way = Bottleneck::before(&proxy, Duration::ZERO);
    let (mut client, mut console) = (proxy.client(), proxy.boss("mainstay"));
    client.ok("SELECT 1");
    client.simple("SELECT pg_sleep(1)").send();
    wait_for("it to run", || console.table("SHOW CLIENTS").iter().any(|it| it["activity"] == "active"));
    way.is_shut.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    crate::cancelling::cancel(&proxy, client.key.clone());
    assert!((SHORT..3 * SHORT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // Nothing has happened to the statement, nor to who has its server next.
    assert_eq!(kinds(&client.until_ready()), "TDCZ");
    assert_eq!(way.held.lock().unwrap().len(), 1);
    assert_eq!(proxy.client().one("SELECT 2"), "2");
}

/// What is sent ahead waits for no answer, also on a server that has to be given the statements before. (One that was described to
/// the client is asked for there first.)
#[test]
fn a_pipeline_takes_as_long_as_one_statement() {
    let latency = Duration::from_millis(50);
    let proxy = Proxy::of_size(2);
    let _way = Bottleneck::before(&proxy, latency);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    client.ok("SELECT 1");
    for is_new in [true, false] {
        let begun = Instant::now();
        for n in 0..10 {
            let name = format!("s{n}");
            if is_new {
                client.parse(&name, &format!("SELECT {n}"));
            }
            client.bind("", &name, &[]).execute("").sync();
        }
        client.send();
        for n in 0..10 {
            assert_eq!(outcome(&client.until_ready()).unwrap()[0][0], Some(n.to_string()));
        }
        assert!(begun.elapsed() < 10 * latency, "{:?}", begun.elapsed());
        // The next time on a server that has none of them.
        other.ok("BEGIN");
        other.ok("SELECT 1");
        client.ok("SELECT 1");
    }
}

/// One process of PostgreSQL crashes, and all are started anew: it is away, and its address is the same.
#[test]
fn a_postgresql_that_starts_anew_is_waited_for() {
    let three = Settings { default_pool_size: 3, ..settings() };
    let proxy = Proxy::with(Arc::new(Postgres::new()), three);
    let (mut idle, mut begun, mut runs) = (proxy.client(), proxy.client(), proxy.client());
    idle.ok("SET work_mem = '5MB'");
    begun.ok("BEGIN");
    runs.simple("SELECT pg_sleep(30)").send();
    let mut admin = proxy.postgres.admin();
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_for("it to run", || admin.one(sleeps) == "1");
    let pid = begun.one("SELECT pg_backend_pid()").parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert_eq!(code(outcome(&runs.until_ready())), "08007");
    assert_eq!(begun.code("SELECT 1"), "40001");
    begun.ok("ROLLBACK");
    assert_eq!(idle.one("SHOW work_mem"), "5MB");
    for client in [&mut begun, &mut runs] {
        assert_eq!(client.one("SELECT 1"), "1");
    }
}
