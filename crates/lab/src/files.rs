//! The files of a new cluster: its own certificate authority, and for each member a directory with keys and configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mainstay_core::MemberId;
use mainstay_net::KeyFingerprint;
use mainstay_net::pki::{self, ClusterCa};

pub const MEMBER_PORT: u16 = 7400;
pub const POSTGRES_PORT: u16 = 5432;
pub const HTTP_PORT: u16 = 7480;
/// Of the SQL proxies, for clients of the primary.
pub const SQL_PROXY_PORT: u16 = 6432;
/// The role and the database of applications.
pub const APPLICATION: &str = "app";

/// The application's role has a password, as everywhere; inside the lab's network nobody is asked for it.
const PASSWORD_FILE: &str = "app.password";

/// What a cluster is to look like. Equal ones can share a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub data_members: u8,
    pub witnesses: u8,
    /// The size of each data member's own disk; `None`: all on this machine's.
    pub disk_mib: Option<u32>,
    /// As in the configuration file, `"3s"`; `None`: the default.
    pub lease: Option<String>,
    /// PostgreSQL's parameters.
    pub parameters: BTreeMap<String, String>,
    /// Whether members run under the supervisor, by the shipped unit file, and each from a program of its own.
    pub supervised: bool,
    /// Whether it is made by `init` and `join`, as operators make theirs, and not from files that the lab writes.
    pub founded: bool,
    /// Machines that are no members yet.
    pub spares: u8,
    /// Whether every data member runs a SQL proxy, and clients come through these.
    pub sql_proxy: bool,
    /// Whether there is a virtual address, and clients come by it.
    pub vip: bool,
}

impl Plan {
    pub fn new(data_members: u8) -> Plan {
        Plan {
            data_members,
            witnesses: 0,
            disk_mib: None,
            lease: None,
            parameters: BTreeMap::new(),
            supervised: false,
            founded: false,
            spares: 0,
            sql_proxy: false,
            vip: false,
        }
    }

    /// Members and those that may become some.
    pub fn machines(&self) -> u8 {
        self.data_members + self.witnesses + self.spares
    }
}

/// One member as its files know it.
#[derive(Clone, Debug)]
pub struct Site {
    pub name: MemberId,
    /// 1 is the first.
    pub place: u8,
    pub is_witness: bool,
    pub address: Ipv4Addr,
    pub directory: PathBuf,
    pub data_directory: PathBuf,
}

impl Site {
    pub fn configuration_file(&self) -> PathBuf {
        self.directory.join("mainstay.toml")
    }

    pub fn control_socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    pub fn log(&self) -> PathBuf {
        // Beside the directory, which `join` makes.
        self.directory.with_extension("log")
    }

    /// Where a supervised member's own copy of the program is: what an upgrade replaces.
    pub fn program(&self) -> PathBuf {
        self.directory.join("bin/mainstay")
    }

    pub fn notify_socket(&self) -> PathBuf {
        self.directory.join("notify.sock")
    }
}

/// The application's password: the SQL proxies ask for it, wherever the client is.
pub fn application_password(cluster: &str) -> String {
    format!("application-of-{cluster}")
}

/// The lab's virtual address, in the network of the members.
pub fn virtual_address(member: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = member.octets();
    Ipv4Addr::new(a, b, c, 200)
}

/// The machines of `plan` below `base`: m1, m2, …, also for the spare ones, and w1, w2, … for the witnesses.
pub fn sites(plan: &Plan, base: &Path, address: impl Fn(u8) -> Ipv4Addr) -> Result<Vec<Site>> {
    let data = |numbers: RangeInclusive<u8>| numbers.map(|number| (format!("m{number}"), false));
    let witnesses = (1..=plan.witnesses).map(|number| (format!("w{number}"), true));
    let (members, spares) = (1..=plan.data_members, plan.data_members + 1..=plan.data_members + plan.spares);
    let named = (1..).zip(data(members).chain(witnesses).chain(data(spares)));
    named
        .map(|(place, (name, is_witness))| {
            let directory = base.join(&name);
            let data_directory = match plan.disk_mib {
                Some(_) => base.join("disks").join(&name).join("data"),
                None => directory.join("data"),
            };
            Ok(Site {
                name: MemberId::new(&name)?,
                place,
                is_witness,
                address: address(place),
                directory,
                data_directory,
            })
        })
        .collect()
}

/// Writes directories, keys and configuration of every member. `network` is let in without a password.
pub fn write(cluster: &str, plan: &Plan, sites: &[Site], network: &str) -> Result<()> {
    let ca = ClusterCa::create(cluster)?;
    let mut keys = Vec::new();
    for site in sites {
        keys.push(write_keys(&ca, site)?);
        write_secret(&site.directory.join("replication.password"), &format!("replication-of-{cluster}"))?;
        write_secret(&site.directory.join(PASSWORD_FILE), &application_password(cluster))?;
    }
    for site in sites {
        let text = configuration(cluster, plan, site, sites, &keys, network);
        let file = site.configuration_file();
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn write_keys(ca: &ClusterCa, site: &Site) -> Result<KeyFingerprint> {
    let tls = site.directory.join("tls");
    fs::create_dir_all(&tls).with_context(|| format!("cannot make {}", tls.display()))?;
    let own = ca.issue_member(&site.name)?;
    let server =
        ca.issue_postgres_server(&[site.name.as_str(), &site.address.to_string()], pki::SERVER_LIFETIME)?;
    pki::write_certificate(&tls.join("ca.pem"), ca.certificate_pem())?;
    pki::write_certificate(&tls.join("member.pem"), &own.certificate_pem)?;
    pki::write_private_key(&tls.join("member.key"), &own.key_pem)?;
    pki::write_certificate(&tls.join("server.pem"), &server.certificate_pem)?;
    pki::write_private_key(&tls.join("server.key"), &server.key_pem)?;
    Ok(KeyFingerprint::of_certificate_pem(&own.certificate_pem)?)
}

fn write_secret(path: &Path, secret: &str) -> Result<()> {
    use std::io::Write;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{secret}")?;
    Ok(())
}

fn configuration(
    cluster: &str,
    plan: &Plan,
    own: &Site,
    sites: &[Site],
    keys: &[KeyFingerprint],
    network: &str,
) -> String {
    let mut text = format!("cluster = \"{cluster}\"\nmember = \"{}\"\n", own.name);
    if let Some(lease) = &plan.lease {
        let _ = writeln!(text, "lease = \"{lease}\"");
    }
    let _ = write!(
        text,
        "\n[bootstrap]\ndatabase = \"{APPLICATION}\"\nrole = \"{APPLICATION}\"\npassword_file = \"{PASSWORD_FILE}\"\n\
         \n[postgresql]\ndata_directory = \"{}\"\nhba = [\"host all all {network} trust\"]\n",
        own.data_directory.display()
    );
    if !plan.parameters.is_empty() {
        text.push_str("\n[postgresql.parameters]\n");
    }
    for (name, value) in &plan.parameters {
        let _ = writeln!(text, "{name} = \"{value}\"");
    }
    if plan.sql_proxy && !own.is_witness {
        // More than by default, for the bench.
        text.push_str("\n[sql_proxy]\nmax_client_conn = 100000\n");
    }
    if plan.vip && !own.is_witness {
        let _ = write!(text, "\n[[vip]]\naddress = \"{}\"\n", virtual_address(own.address));
    }
    for (site, key) in sites.iter().zip(keys) {
        let address = site.address;
        let kind = if site.is_witness {
            "kind = \"witness\"".to_owned()
        } else {
            format!("postgres = \"{address}:{POSTGRES_PORT}\"")
        };
        let _ = write!(
            text,
            "\n[members.{}]\naddress = \"{address}:{MEMBER_PORT}\"\nhttp = \"{address}:{HTTP_PORT}\"\n{kind}\nkey = \"{key}\"\n",
            site.name
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn witnesses_come_last_and_have_no_postgresql() {
        let plan = Plan { witnesses: 1, disk_mib: Some(400), lease: Some("2s".to_owned()), ..Plan::new(2) };
        let more = Plan { spares: 1, ..plan.clone() };
        let more = super::sites(&more, Path::new("/base"), |place| Ipv4Addr::new(10, 99, 0, place)).unwrap();
        assert_eq!((more[3].name.as_str(), more[3].place), ("m3", 4));
        let sites = sites(&plan, Path::new("/base"), |place| Ipv4Addr::new(10, 99, 0, place)).unwrap();
        let names: Vec<&str> = sites.iter().map(|site| site.name.as_str()).collect();
        assert_eq!(names, ["m1", "m2", "w1"]);
        assert_eq!(sites[1].data_directory, Path::new("/base/disks/m2/data"));
        let keys: Vec<KeyFingerprint> =
            (0..3).map(|n| format!("sha256:{:064x}", n).parse().unwrap()).collect();
        let text = configuration("c", &plan, &sites[0], &sites, &keys, "10.99.0.0/24");
        assert!(text.contains("lease = \"2s\"") && text.contains("[members.w1]"), "{text}");
        assert_eq!(text.matches("postgres = ").count(), 2, "{text}");
        assert_eq!(text.matches("kind = \"witness\"").count(), 1, "{text}");
        let plan = Plan { sql_proxy: true, ..plan };
        let has_proxy =
            |site| configuration("c", &plan, site, &sites, &keys, "10.99.0.0/24").contains("[sql_proxy]");
        assert_eq!([&sites[0], &sites[1], &sites[2]].map(has_proxy), [true, true, false]);
    }
}
