//! What PostgreSQL's clients make of our certificates, by OpenSSL's verdict.

use std::path::{Path, PathBuf};
use std::process::Command;

use mainstay_net::pki::{ClusterCa, SERVER_LIFETIME, request_for_key, write_certificate, write_private_key};

use crate::support::member;

/// A directory that is removed at the end, also when the test fails.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the OpenSSL command line, and returns whether it was content, and its output.
fn openssl(directory: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn openssl_accepts_each_certificate_for_its_names_and_purpose_only() {
    if Command::new("openssl").arg("version").output().is_err() {
        return;
    }
    let scratch = Scratch(std::env::temp_dir().join(format!("mainstay-openssl-{}", std::process::id())));
    std::fs::create_dir(&scratch.0).unwrap();
    let ca = ClusterCa::create("shop").unwrap();
    let server = ca
        .issue_postgres_server(&["db1.example.org", "db_2", "10.1.2.3", "fd00::17"], SERVER_LIFETIME)
        .unwrap();
    let m1 = ca.issue_member(&member("m1")).unwrap();
    write_certificate(&scratch.0.join("ca.crt"), ca.certificate_pem()).unwrap();
    write_certificate(&scratch.0.join("server.crt"), &server.certificate_pem).unwrap();
    write_private_key(&scratch.0.join("server.key"), &server.key_pem).unwrap();
    let client = ca.issue_client("grafana").unwrap();
    write_certificate(&scratch.0.join("client.crt"), &client.certificate_pem).unwrap();
    let request = request_for_key(&server.key_pem).unwrap();
    let renewed = ca.sign_postgres_server(&["db9"], SERVER_LIFETIME, &request).unwrap();
    write_certificate(&scratch.0.join("renewed.crt"), &renewed).unwrap();
    write_certificate(&scratch.0.join("m1.crt"), &m1.certificate_pem).unwrap();
    write_certificate(&scratch.0.join("other.crt"), ClusterCa::create("shop").unwrap().certificate_pem())
        .unwrap();

    let verify = |ca: &str, more: &[&str]| {
        let arguments = ["verify", "-x509_strict", "-CAfile", ca];
        openssl(&scratch.0, &[&arguments[..], more].concat())
    };
    for good in [
        &["-purpose", "sslserver", "server.crt"][..],
        &["-verify_ip", "10.1.2.3", "server.crt"],
        &["-verify_ip", "fd00::17", "server.crt"],
        &["-verify_hostname", "db1.example.org", "server.crt"],
        &["-verify_hostname", "db_2", "server.crt"],
        &["-purpose", "sslclient", "m1.crt"],
        &["-purpose", "sslserver", "m1.crt"],
        &["-purpose", "sslclient", "client.crt"],
        &["-purpose", "sslserver", "-verify_hostname", "db9", "renewed.crt"],
        // 2020-06-01: a client whose clock is years behind.
        &["-attime", "1590969600", "server.crt"],
    ] {
        let (content, text) = verify("ca.crt", good);
        assert!(content, "{good:?}: {text}");
    }
    for (ca, bad) in [
        ("ca.crt", &["-verify_ip", "10.1.2.4", "server.crt"][..]),
        ("ca.crt", &["-verify_hostname", "db3.example.org", "server.crt"]),
        ("ca.crt", &["-purpose", "sslclient", "server.crt"]),
        ("ca.crt", &["-purpose", "sslserver", "client.crt"]),
        ("ca.crt", &["-verify_hostname", "db1.example.org", "renewed.crt"]),
        ("other.crt", &["server.crt"]),
        ("server.crt", &["m1.crt"]),
    ] {
        let (content, text) = verify(ca, bad);
        assert!(!content, "{bad:?} against {ca}: {text}");
    }
    let (content, text) = openssl(&scratch.0, &["pkey", "-in", "server.key", "-noout", "-text"]);
    assert!(content && text.contains("P-256"), "{text}");
}
