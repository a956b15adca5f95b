//! Who comes in, what clients are told then, and what strangers may do.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use mainstay_pgwire::frame::push_string;
use mainstay_sql::Settings;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::postgres::{Postgres, wait_for};
use crate::proxy::{Proxy, settings};
use crate::wire::{Wire, code, startup};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

#[test]
fn a_stranger_is_told_the_same_whatever_is_wrong() {
    let proxy = Proxy::new();
    assert_eq!(proxy.client().one("SELECT current_user || '@' || current_database()"), "app@app");
    for (user, password) in [("app", "wrong"), ("nobody", "secret"), ("expired", "secret"), ("silent", "")] {
        let failure = proxy.try_connect(&[("user", user), ("database", "app")], password).err().unwrap();
        assert_eq!((failure.severity.as_str(), failure.code.as_str()), ("FATAL", "28P01"), "{user}");
        assert_eq!(failure.text, format!("password authentication failed for user \"{user}\""));
        assert_eq!(failure.detail, "");
    }
    let failure = proxy.try_connect(&[("user", "old")], "secret").err().unwrap();
    assert_eq!(failure.code, "28000");
    assert!(failure.text.contains("MD5"), "{failure}");
}

#[test]
fn a_new_role_and_a_new_password_are_known_at_once() {
    let proxy = Proxy::new();
    proxy.client().ok("SELECT 1");
    let mut admin = proxy.postgres.admin();
    admin.ok("DROP ROLE IF EXISTS fresh");
    admin.ok("CREATE ROLE fresh LOGIN PASSWORD 'one'");
    let connect = |password| proxy.try_connect(&[("user", "fresh"), ("database", "app")], password);
    assert_eq!(connect("one").unwrap().one("SELECT current_user"), "fresh");
    admin.ok("ALTER ROLE fresh PASSWORD 'two'");
    // PostgreSQL's connections that are open stay so; the first login with the new password has the roles asked for anew.
    wait_for("the new password to be known", || connect("two").is_ok());
    assert_eq!(code(connect("one")), "28P01");
    drop(proxy);
    wait_for("the role's sessions to end", || admin.query("DROP ROLE fresh").is_ok());
}

#[test]
fn nobody_comes_in_before_the_roles_are_known() {
    let proxy = Proxy::prepared(Postgres::shared(), settings(), |_, member| member.set_roles(false));
    let mut wire = Wire::tcp(proxy.port).unwrap();
    wire.write(&startup(&[("user", "app")])).unwrap();
    wire.socket.as_ref().unwrap().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(wire.next().is_err(), "an answer before anybody knows the roles");
    proxy.member.set_roles(true);
    wait_for("the greeting", || wire.next().is_ok_and(|(kind, _)| kind == b'R'));
}

#[test]
fn a_database_that_does_not_exist_is_named_by_postgresql() {
    let proxy = Proxy::new();
    let failure = proxy.try_connect(&[("user", "app"), ("database", "nowhere")], "secret").err().unwrap();
    assert_eq!((failure.severity.as_str(), failure.code.as_str()), ("FATAL", "3D000"));
    // Which databases there are is for those to know who are let in.
    assert_eq!(code(proxy.try_connect(&[("user", "app"), ("database", "nowhere")], "wrong")), "28P01");
}

/// Whoever may log in could have filled the memory with them.
#[test]
fn databases_that_do_not_exist_are_not_kept() {
    let proxy = Proxy::new();
    for n in 0..20 {
        let nowhere = format!("nowhere {n}");
        assert_eq!(code(proxy.try_connect(&[("user", "app"), ("database", &nowhere)], "secret")), "3D000");
    }
    proxy.client().ok("SELECT 1");
    let mut console = proxy.boss("mainstay");
    wait_for("them to be forgotten", || {
        console.table("SHOW DATABASES").iter().all(|database| !database["name"].starts_with("nowhere"))
    });
    assert!(console.table("SHOW STATS").iter().any(|row| row["database"] == "app"));
}

/// Those who wait are told at once, and PostgreSQL is asked once.
#[test]
fn a_password_that_has_changed_is_no_good_for_new_servers() {
    let postgres = Postgres::shared();
    let proxy = Proxy::with(Arc::clone(&postgres), settings());
    let mut admin = postgres.admin();
    admin.ok("CREATE ROLE rotated LOGIN PASSWORD 'one'");
    let connect = |password| proxy.try_connect(&[("user", "rotated"), ("database", "app")], password);
    let (mut begun, mut late) = (connect("one").unwrap(), [connect("one").unwrap(), connect("one").unwrap()]);
    begun.ok("BEGIN");
    admin.ok("ALTER ROLE rotated PASSWORD 'two'");
    assert_eq!(begun.one("SELECT 1"), "1", "whoever is in stays");
    for late in &mut late {
        late.simple("SELECT 1").send();
    }
    proxy.boss("mainstay").ok("RECONNECT app");
    begun.ok("COMMIT");
    for late in &mut late {
        assert_eq!(code(crate::wire::outcome(&late.until_ready())), "28P01");
    }
    let refused = "FATAL:  password authentication failed for user \"rotated\"";
    assert_eq!(proxy.postgres.log().matches(refused).count(), 1);
    wait_for("the new password to be known", || connect("two").is_ok());
    assert_eq!(connect("two").unwrap().one("SELECT current_user"), "rotated");
    drop(proxy);
    wait_for("the role's sessions to end", || admin.query("DROP ROLE rotated").is_ok());
}

/// It is said in PostgreSQL's words to who is in already.
#[test]
fn a_role_that_may_not_log_in_any_more_gets_no_server() {
    let patience = Duration::from_millis(400);
    let postgres = Postgres::shared();
    let proxy = Proxy::with(Arc::clone(&postgres), Settings { query_wait_timeout: patience, ..settings() });
    let mut admin = postgres.admin();
    admin.ok("CREATE ROLE locked LOGIN PASSWORD 'secret'");
    let connect = || proxy.try_connect(&[("user", "locked"), ("database", "app")], "secret");
    let mut client = connect().unwrap();
    client.ok("SELECT 1");
    admin.ok("ALTER ROLE locked NOLOGIN");
    admin.ok("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'locked'");
    for _ in 0..2 {
        let failure = client.query("SELECT 1").unwrap_err();
        assert_eq!(failure.code, "57P03");
        assert!(failure.detail.contains("is not permitted to log in"), "{failure}");
    }
    // A login that fails has the roles asked for.
    assert!(proxy.try_connect(&[("user", "locked"), ("database", "app")], "wrong").is_err());
    wait_for("the proxy to know", || code(connect()) == "28P01");
    drop(proxy);
    wait_for("the role's sessions to end", || admin.query("DROP ROLE locked").is_ok());
}

#[test]
fn what_the_client_begins_with_is_what_it_has() {
    let proxy = Proxy::new();
    let mut one = proxy.client_with(&[
        ("TimeZone", "Asia/Tokyo"),
        ("application_name", "first's own"),
        ("options", r"-c work_mem=9MB --search-path=a,b -c my.tenant=7"),
    ]);
    let mut two = proxy.client();
    assert_eq!(one.parameter("TimeZone"), Some("Asia/Tokyo"));
    assert_eq!(one.parameter("application_name"), Some("first's own"));
    assert_eq!(two.parameter("TimeZone"), Some("UTC"));
    assert_eq!(two.parameter("application_name"), Some(""));
    for _ in 0..2 {
        assert_eq!(one.one("SHOW work_mem"), "9MB");
        assert_eq!(one.one("SHOW TimeZone"), "Asia/Tokyo");
        assert_eq!(one.one("SHOW search_path"), "a,b");
        assert_eq!(one.one("SHOW my.tenant"), "7");
        assert_eq!(two.one("SHOW work_mem"), "4MB");
        assert_eq!(two.one("SHOW TimeZone"), "UTC");
        assert_eq!(two.one("SHOW application_name"), "");
        assert_eq!(two.one("SELECT coalesce(current_setting('my.tenant', true), '')"), "");
    }
    // It means the same as without a proxy: back to what the session has begun with.
    one.ok("SET TimeZone = 'Europe/Rome'");
    one.ok("RESET TimeZone");
    assert_eq!(one.one("SHOW TimeZone"), "Asia/Tokyo");
    one.ok("DISCARD ALL");
    assert_eq!(one.one("SHOW work_mem"), "9MB");
    // Almost as much as fits into a startup packet.
    let long = "x".repeat(9_500);
    let mut three =
        proxy.client_with(&[("application_name", ""), ("options", &format!("-c my.long={long}"))]);
    assert_eq!((three.one("SHOW my.long"), three.one("SHOW application_name")), (long, String::new()));
    three.ok("SET application_name = 'third'");
    assert_eq!(
        (two.one("SHOW application_name"), three.one("SHOW application_name")),
        ("".into(), "third".into())
    );
    let refused = proxy.try_connect(&[("user", "app"), ("no_such_parameter", "1")], "secret");
    assert_eq!(code(refused), "42704");
    let refused = proxy.try_connect(&[("user", "app"), ("options", "-c work_mem=much")], "secret");
    assert_eq!(code(refused), "22023");
}

/// It came behind the authentication, where libpq takes it for a mistake.
#[test]
fn what_is_not_spoken_of_the_protocol_is_said_before_the_password() {
    let proxy = Proxy::new();
    let first = |port, packet: &[u8]| {
        let mut wire = Wire::tcp(port).unwrap();
        wire.write(packet).unwrap();
        wire.next().unwrap()
    };
    let mut packet = startup(&[("user", "app"), ("database", "app"), ("_pq_.of_tomorrow", "1")]);
    let told = first(proxy.port, &packet);
    assert_eq!(told.0, b'v');
    assert_eq!(told, first(proxy.postgres.port, &packet));
    packet[7] = 9;
    let (kind, body) = first(proxy.port, &packet);
    assert_eq!((kind, &body[..8]), (b'v', &[0, 3, 0, 2, 0, 0, 0, 1][..]), "3.2 and one option");
    assert_eq!(proxy.client_with(&[("_pq_.of_tomorrow", "1")]).one("SELECT 1"), "1");
}

#[test]
fn there_is_no_room_for_more_clients_than_said() {
    let proxy = Proxy::with(Postgres::shared(), Settings { max_client_conn: 2, ..settings() });
    let (_one, two) = (proxy.client(), proxy.client());
    let connect = || proxy.try_connect(&[("user", "app")], "secret");
    let failure = connect().err().unwrap();
    assert_eq!((failure.severity.as_str(), failure.code.as_str()), ("FATAL", "53300"));
    drop(two);
    wait_for("the place of a client that has gone", || connect().is_ok() || proxy.client_is_let_in());
}

impl Proxy {
    fn client_is_let_in(&self) -> bool {
        self.try_connect(&[("user", "app"), ("database", "app")], "secret").is_ok()
    }
}

/// Sends raw bytes to a new connection and returns all that is answered until it ends.
fn answer_to(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let mut wire = Wire::tcp(proxy.port).unwrap();
    let _ = wire.stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = wire.stream.read_to_end(&mut answer);
    answer
}

#[test]
fn what_is_no_startup_packet_ends_the_connection() {
    let proxy = Proxy::new();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 64],
        &[0xff; 64],
        &[0, 0, 0, 7, 0, 3, 0],
        &[0, 0, 0x27, 0x11, 0, 3, 0, 0],
        &[0, 0, 0, 9, 4, 210, 22, 47, 0],
    ] {
        answer_to(&proxy, garbage);
    }
    let mut packet = vec![0, 0, 0, 0, 0, 3, 0, 0];
    push_string(&mut packet, "user");
    packet[3] = packet.len().try_into().unwrap();
    assert!(answer_to(&proxy, &packet).windows(5).any(|window| window == b"08P01"));
    let old = [0, 0, 0, 8, 0, 2, 0, 0];
    assert!(answer_to(&proxy, &old).windows(5).any(|window| window == b"0A000"));
    // After a good packet comes a message that says that it has a gigabyte.
    let mut wire = Wire::tcp(proxy.port).unwrap();
    wire.write(&startup(&[("user", "app")])).unwrap();
    wire.next().unwrap();
    wire.write(&[b'p', 0x3f, 0xff, 0xff, 0xff]).unwrap();
    assert!(wire.next().is_err());
    assert_eq!(proxy.client().one("SELECT 1"), "1");
}

#[test]
fn those_who_say_nothing_or_little_keep_nobody_waiting() {
    let proxy = Proxy::new();
    let _mute: Vec<Wire> = (0..20).map(|_| Wire::tcp(proxy.port).unwrap()).collect();
    let packet = startup(&[("user", "app"), ("database", "app")]);
    let mut slow = Wire::tcp(proxy.port).unwrap();
    for byte in &packet {
        slow.write(&[*byte]).unwrap();
        if *byte == b'a' {
            assert_eq!(proxy.client().one("SELECT 1"), "1");
        }
    }
    assert_eq!(slow.next().unwrap().0, b'R');
}

/// A certificate for `localhost` that is its own authority.
fn certificate(directory: &std::path::Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("server.crt"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("server.key"), made.signing_key.serialize_pem()).unwrap();
}

fn with_certificate() -> Proxy {
    Proxy::prepared(Postgres::shared(), settings(), |paths, _| {
        certificate(paths.certificate.parent().unwrap());
    })
}

/// A handshake on what was a connection without encryption, with the protocols named that the client speaks.
fn encrypted(proxy: &Proxy, mut plain: Wire, protocols: &[&[u8]]) -> Wire {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(proxy.scratch.0.join("server.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    let socket = plain.socket.take().unwrap();
    drop(plain);
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    Wire::over(Box::new(StreamOwned::new(session, socket)), None)
}

#[test]
fn tls_may_begin_without_a_request_for_who_says_that_it_wants_postgresql() {
    let proxy = with_certificate();
    let log_in = |protocols: &[&[u8]]| {
        let mut wire = encrypted(&proxy, Wire::tcp(proxy.port).unwrap(), protocols);
        wire.log_in(&[("user", "app"), ("database", "app")], "secret").map(|()| wire.one("SELECT 1"))
    };
    assert_eq!(log_in(&[b"postgresql"]).as_deref(), Ok("1"));
    for others in [&[][..], &[&b"h2"[..]]] {
        assert_eq!(log_in(others).map_err(|failure| failure.code), Err(String::new()));
    }
    // Without a certificate nobody answers.
    let proxy = Proxy::new();
    assert_eq!(answer_to(&proxy, &[22, 3, 1, 0, 200, 1, 0, 0, 196]), b"");
}

#[test]
fn tls_is_there_with_a_certificate_and_refused_without() {
    let proxy = Proxy::new();
    let mut wire = Wire::tcp(proxy.port).unwrap();
    wire.write(&SSL_REQUEST).unwrap();
    let mut answer = [0];
    wire.stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    wire.log_in(&[("user", "app")], "secret").err();

    let proxy = with_certificate();
    let mut wire = Wire::tcp(proxy.port).unwrap();
    wire.write(&SSL_REQUEST).unwrap();
    wire.stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"S");
    let mut wire = encrypted(&proxy, wire, &[]);
    wire.log_in(&[("user", "app"), ("database", "app")], "secret").unwrap();
    assert_eq!(wire.one("SELECT length(repeat('x', 300000))"), "300000");
    assert_eq!(wire.one("SELECT repeat('x', 300000)").len(), 300_000);
    // Whoever goes without a word of TLS's leaves its server to others.
    wire.ok("BEGIN");
    drop(wire);
    let mut another = proxy.client();
    assert_eq!(another.one("SELECT 1"), "1");
    // What comes together with the request is not encrypted, and may be somebody else's.
    let mut smuggled = SSL_REQUEST.to_vec();
    smuggled.extend(startup(&[("user", "app")]));
    assert_eq!(answer_to(&proxy, &smuggled), b"");
}

#[test]
fn the_unix_socket_is_used_where_there_is_one() {
    let proxy = Proxy::new();
    let directory = proxy.postgres.scratch.0.clone();
    proxy.member.tell(|routes| routes.primary.as_mut().unwrap().socket_dir = Some(directory));
    let mut client = proxy.client();
    wait_for("a connection by the socket", || {
        client.ok("SELECT pg_backend_pid(), inet_client_addr()")[0][1].is_none()
    });
    // More than fits into it, both ways.
    let long = "x".repeat(20_000_000);
    assert_eq!(client.one(&format!("SELECT length('{long}')")), "20000000");
    assert_eq!(client.one("SELECT repeat('x', 20000000)").len(), long.len());
    assert_eq!(client.one("SELECT 1"), "1");
}

#[test]
fn a_rule_decides_before_a_password_is_asked_for() {
    let rules = ["host all boss 127.0.0.0/8 scram-sha-256", "hostssl all all all scram-sha-256"];
    let hba = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let proxy = Proxy::with(Postgres::shared(), Settings { hba, ..settings() });
    let failure = proxy.try_connect(&[("user", "app"), ("database", "app")], "wrong").err().unwrap();
    assert_eq!(failure.code, "28000");
    assert!(failure.text.contains("from 127.0.0.1, without encryption"), "{failure}");
    proxy.boss("mainstay").ok("SHOW VERSION");
}
