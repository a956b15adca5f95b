//! What clients show and are shown over TLS, by libpq.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use mainstay_sql::Settings;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::postgres::{PROGRAMS, Postgres, Scratch, wait_for};
use crate::proxy::{Proxy, settings};

/// A CA that certifies names.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Writes `NAME.crt` and `NAME.key` for `localhost`, by its name and its address.
    fn certify(&self, directory: &Path, name: &str) {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names.to_vec()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(directory.join(format!("{name}.crt")), certificate.pem()).unwrap();
        let file = directory.join(format!("{name}.key"));
        std::fs::write(&file, key.serialize_pem()).unwrap();
        private(&file);
    }
}

/// Or else libpq does not use it.
fn private(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// What psql answers as the role `app`, with these parameters of libpq's.
fn psql(port: u16, more: &str) -> Result<String, String> {
    let conninfo = format!("host=localhost hostaddr=127.0.0.1 port={port} user=app dbname=app {more}");
    let output = Command::new(Path::new(PROGRAMS).join("psql"))
        .args(["-XAtc", "SELECT current_user", &conninfo])
        .env("PGPASSWORD", "secret")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn with_certificates(authority: &Authority, settings: Settings) -> Proxy {
    Proxy::prepared(Postgres::shared(), settings, |paths, _| {
        authority.certify(paths.certificate.parent().unwrap(), "server");
    })
}

#[test]
fn a_login_can_be_bound_to_its_connection() {
    let (authority, directory) = (Authority::new(), Scratch::new());
    let proxy = with_certificates(&authority, settings());
    let root = directory.0.join("root.crt");
    std::fs::write(&root, &authority.pem).unwrap();
    let verified = format!("sslmode=verify-full sslrootcert={}", root.display());
    for binding in ["require", "prefer", "disable"] {
        let answer = psql(proxy.port, &format!("{verified} channel_binding={binding}"));
        assert_eq!(answer.as_deref(), Ok("app"), "{binding}");
    }
    let refused = psql(proxy.port, "sslmode=disable channel_binding=require").unwrap_err();
    assert!(refused.contains("channel binding"), "{refused}");
}

#[test]
fn a_role_shows_the_certificate_that_its_rule_asks_for() {
    let (authority, other, directory) = (Authority::new(), Authority::new(), Scratch::new());
    let file = directory.0.join("clients.crt");
    std::fs::write(&file, &authority.pem).unwrap();
    authority.certify(&directory.0, "app");
    authority.certify(&directory.0, "somebody");
    other.certify(&directory.0, "stranger");
    let shown = |name: &str| {
        let at = |kind: &str| directory.0.join(format!("{name}.{kind}")).display().to_string();
        format!("sslmode=require sslcert={} sslkey={}", at("crt"), at("key"))
    };
    let ask = |proxy: &Proxy, name: &str| psql(proxy.port, &shown(name));
    let rules = |option: &str| {
        let hba = vec![format!("hostssl all app all scram-sha-256 clientcert={option}").parse().unwrap()];
        Settings { hba, client_tls_ca_file: Some(file.clone()), ..settings() }
    };
    let proxy = with_certificates(&authority, rules("verify-full"));
    assert_eq!(ask(&proxy, "app").as_deref(), Ok("app"));
    let refused = ask(&proxy, "somebody").unwrap_err();
    assert!(refused.contains("certificate authentication failed for user \"app\""), "{refused}");
    assert!(ask(&proxy, "stranger").is_err(), "of another CA");
    let refused = psql(proxy.port, "sslmode=require sslcert=/nowhere").unwrap_err();
    assert!(refused.contains("connection requires a valid client certificate"), "{refused}");
    let refused = psql(proxy.port, "sslmode=disable").unwrap_err();
    assert!(refused.contains("no rule lets user"), "{refused}");

    let proxy = with_certificates(&authority, rules("verify-ca"));
    assert_eq!(ask(&proxy, "somebody").as_deref(), Ok("app"));

    // Whoever needs none is served while the CA cannot be read, and the CA is found when it is there.
    let later = directory.0.join("later.crt");
    let hba = ["hostssl all app all scram-sha-256 clientcert=verify-full", "host all all all scram-sha-256"];
    let hba = hba.map(|rule| rule.parse().unwrap()).to_vec();
    let proxy = with_certificates(
        &authority,
        Settings { hba, client_tls_ca_file: Some(later.clone()), ..settings() },
    );
    assert!(ask(&proxy, "app").is_err());
    proxy.boss("mainstay").ok("SHOW VERSION");
    std::fs::copy(&file, &later).unwrap();
    // Another certificate of the proxy's own is found as well, without a reload.
    other.certify(&proxy.scratch.0, "server");
    wait_for("the CA to be read", || ask(&proxy, "app").is_ok());
    let verified = |authority: &Authority| {
        let root = directory.0.join("root.crt");
        std::fs::write(&root, &authority.pem).unwrap();
        psql(proxy.port, &format!("{} sslmode=verify-full sslrootcert={}", shown("app"), root.display()))
    };
    assert_eq!(verified(&other).as_deref(), Ok("app"));
    assert!(verified(&authority).is_err(), "by the former CA");
}

/// A PostgreSQL that shows a certificate of this CA for its address, and takes nobody without encryption but by its socket.
fn encrypted_postgres(authority: &Authority) -> Postgres {
    let postgres = Postgres::new();
    let data = postgres.scratch.0.join("data");
    authority.certify(&data, "server");
    let owner = std::fs::metadata(&data).unwrap();
    for name in ["server.crt", "server.key"] {
        std::os::unix::fs::chown(data.join(name), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let rules = std::fs::read_to_string(data.join("pg_hba.conf")).unwrap();
    std::fs::write(data.join("pg_hba.conf"), rules.replace("\nhost ", "\nhostssl ")).unwrap();
    let mut admin = postgres.admin();
    admin.ok("ALTER SYSTEM SET ssl = on");
    admin.ok("SELECT pg_reload_conf()");
    wait_for("TLS", || postgres.admin().one("SHOW ssl") == "on");
    postgres
}

#[test]
fn servers_are_reached_by_tls_and_held_to_the_authority() {
    let authority = Authority::new();
    let postgres = Arc::new(encrypted_postgres(&authority));
    let begin = |authority: &Authority, limits: Settings| {
        Proxy::prepared(Arc::clone(&postgres), limits, |paths, _| {
            std::fs::write(&paths.authority, &authority.pem).unwrap();
        })
    };
    let proxy = begin(&authority, settings());
    let mut client = proxy.client();
    let is_encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(client.one(is_encrypted), "t");
    // More than is decrypted at once, both ways.
    let long = "x".repeat(300_000);
    assert_eq!(client.one(&format!("SELECT length('{long}')")), "300000");
    assert_eq!(client.one("SELECT repeat('x', 300000)"), long);
    for kind in ["database", "true"] {
        let mut walsender = proxy.client_with(&[("replication", kind)]);
        assert!(!walsender.ok("IDENTIFY_SYSTEM").is_empty());
    }
    let patience = std::time::Duration::from_millis(300);
    let proxy = begin(&Authority::new(), Settings { query_wait_timeout: patience, ..settings() });
    let failure = proxy.try_connect(&[("user", "app"), ("database", "app")], "secret").err().unwrap();
    assert_eq!(failure.code, "57P03");
    assert!(failure.detail.contains("certificate"), "{failure}");
}
