//! A demo's files: the cluster's own CA, a directory, keys and a configuration for each member.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};
use mainstay_net::KeyFingerprint;
use mainstay_net::pki::{self, ClusterCa};

use super::place::{MemberPlace, Place};
use crate::setup::{random_text, write_secret};

/// The ports of member `place` (1 is the first).
struct Ports {
    postgres: u16,
    member: u16,
    http: u16,
    /// Of the SQL proxy, for clients of the primary and of the standbys.
    sql: u16,
    sql_readonly: u16,
}

fn ports(port_base: u16, place: usize) -> Ports {
    let place = u16::try_from(place).unwrap_or(u16::MAX);
    let port = |offset: u16| port_base + offset + place;
    Ports { postgres: port(0), member: port(20), http: port(40), sql: port(60), sql_readonly: port(80) }
}

/// Fails if any of the demo's ports is taken.
pub(super) fn check_ports(port_base: u16, members: u16) -> Result<()> {
    for place in 1..=usize::from(members) {
        let Ports { postgres, member, http, sql, sql_readonly } = ports(port_base, place);
        for port in [postgres, member, http, sql, sql_readonly] {
            if let Err(error) = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))) {
                bail!("port {port} on 127.0.0.1 cannot be used: {error}; choose another --port-base");
            }
        }
    }
    Ok(())
}

/// Writes everything that the members need, and makes their directories.
pub(super) async fn create(place: &Place, port_base: u16) -> Result<()> {
    let cluster = format!("demo-{}", random_text(6)?);
    let ca = ClusterCa::create(&cluster)?;
    let (replication, application) = (random_text(24)?, random_text(12)?);
    let mut keys = Vec::new();
    for member in &place.members {
        keys.push(write_keys(&ca, member)?);
        write_secret(&member.directory.join("replication.password"), &replication)?;
        write_secret(&member.directory.join("app.password"), &application)?;
    }
    if let Some(first) = place.members.first() {
        pki::write_private_key(&first.directory.join("tls/ca.key"), &ca.key_pem())?;
    }
    for member in &place.members {
        let text = configuration(&cluster, member, &place.members, &keys, port_base);
        let file = member.configuration_file();
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        mainstay_member::create(&member.configuration()?).await?;
    }
    Ok(())
}

fn write_keys(ca: &ClusterCa, member: &MemberPlace) -> Result<KeyFingerprint> {
    let tls = member.directory.join("tls");
    fs::create_dir_all(&tls).with_context(|| format!("cannot make {}", tls.display()))?;
    let own = ca.issue_member(&member.name)?;
    let server =
        ca.issue_postgres_server(&[member.name.as_str(), "localhost", "127.0.0.1"], pki::SERVER_LIFETIME)?;
    pki::write_certificate(&tls.join("ca.pem"), ca.certificate_pem())?;
    pki::write_certificate(&tls.join("member.pem"), &own.certificate_pem)?;
    pki::write_private_key(&tls.join("member.key"), &own.key_pem)?;
    pki::write_certificate(&tls.join("server.pem"), &server.certificate_pem)?;
    pki::write_private_key(&tls.join("server.key"), &server.key_pem)?;
    Ok(KeyFingerprint::of_certificate_pem(&own.certificate_pem)?)
}

fn configuration(
    cluster: &str,
    own: &MemberPlace,
    members: &[MemberPlace],
    keys: &[KeyFingerprint],
    port_base: u16,
) -> String {
    let mut text = format!(
        "# Written by `mainstay demo`.\n\
         cluster = \"{cluster}\"\n\
         member = \"{}\"\n\
         demo = true\n\
         server_names = [\"localhost\"]\n\
         \n\
         [bootstrap]\n\
         database = \"app\"\n\
         role = \"app\"\n\
         password_file = \"app.password\"\n",
        own.name
    );
    for (place, (member, key)) in members.iter().zip(keys).enumerate() {
        let Ports { postgres, member: address, http, .. } = ports(port_base, place + 1);
        let _ = write!(
            text,
            "\n[members.{}]\n\
             address = \"127.0.0.1:{address}\"\n\
             postgres = \"127.0.0.1:{postgres}\"\n\
             http = \"127.0.0.1:{http}\"\n\
             key = \"{key}\"\n",
            member.name
        );
    }
    let own_place = members.iter().position(|member| member.name == own.name).unwrap_or(0) + 1;
    let Ports { sql, sql_readonly, .. } = ports(port_base, own_place);
    let _ = write!(
        text,
        "\n[sql_proxy]\nlisten = \"127.0.0.1:{sql}\"\nlisten_readonly = \"127.0.0.1:{sql_readonly}\"\n"
    );
    text
}
