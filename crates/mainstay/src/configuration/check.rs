//! From what was typed to what is meant, with every relation checked and its reason given.

mod hooks;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_core::MemberId;
use mainstay_core::record::{Kind, OnCrash};
use mainstay_member::configuration::{Bootstrap, Configuration, MemberRow, Postgresql, Tls};
use mainstay_net::KeyFingerprint;
use mainstay_sql::Settings;
use toml::Spanned;

use super::raw;

mod databases;
mod sql_proxy;
mod vip;

/// A problem and where it stands.
pub(super) struct Problem {
    pub(super) span: Option<Range<usize>>,
    pub(super) message: String,
}

type Checked<T> = Result<T, Problem>;

fn at<V>(value: &Spanned<V>, message: String) -> Problem {
    Problem { span: Some(value.span()), message }
}

fn whole_file(message: &str) -> Problem {
    Problem { span: None, message: message.to_owned() }
}

/// What a SQL proxy without a member is told.
pub(super) fn check_proxy_alone(file: &raw::ProxyFile) -> Checked<Settings> {
    sql_proxy::check_table(&file.sql_proxy, None, Settings::default())
}

/// What the member is told, and beside it what its SQL proxy is.
pub(super) fn check(file: raw::File, base: &Path) -> Checked<(Configuration, Option<Settings>)> {
    let me = name(&file.member)?;
    let directory = match &file.directory {
        Some(directory) => base.join(directory.get_ref()),
        None => base.to_owned(),
    };
    let members = members(&file.members)?;
    let own = members.get(&me).ok_or_else(|| {
        let known: Vec<&str> = members.keys().map(MemberId::as_str).collect();
        at(
            &file.member,
            format!("member \"{me}\" has no table [members.{me}]; there are: {}", known.join(", ")),
        )
    })?;
    let settings = sql_proxy::check(file.sql_proxy.as_ref(), own)?;
    // A witness that has joined lists itself alone.
    if members.len() > 1 && !members.values().any(|row| row.kind == Kind::Data) {
        return Err(whole_file("no member is of kind \"data\"; at least one must run PostgreSQL"));
    }
    let cluster = cluster(&file.cluster)?;
    let databases = databases::check(&file.databases, base)?;
    let first = databases::first(&databases, &file, base)?;
    let is_witness = members.get(&me).is_some_and(|row| row.kind == Kind::Witness);
    let mut postgresql = postgresql(&file.postgresql, base, &directory, is_witness)?;
    databases::add_hba_lines(&mut postgresql.hba, &databases, file.postgresql.hba.is_some());
    let lease = lease(file.lease.as_ref())?;
    let configuration = Configuration {
        cluster,
        addresses: vip::check(&file.vips, &members, is_witness, lease)?,
        tls: tls(file.tls.as_ref(), base, &directory),
        postgresql,
        bootstrap: first,
        databases,
        server_names: server_names(&file.server_names)?,
        lease,
        on_crash: on_crash(file.on_crash.as_ref())?,
        hooks: hooks::check(&file.hooks)?,
        // Where the file is, knows who has read it.
        file: PathBuf::new(),
        sql_proxy: None,
        verify_every: verify_every(file.verify.every.as_ref())?,
        show_password: file.demo,
        me,
        directory,
        members,
    };
    Ok((configuration, settings))
}

fn name(value: &Spanned<String>) -> Checked<MemberId> {
    MemberId::new(value.get_ref()).map_err(|error| at(value, error.to_string()))
}

/// DNS names and addresses that PostgreSQL's certificate is for.
fn server_names(names: &[Spanned<String>]) -> Checked<Vec<String>> {
    let check = |name: &Spanned<String>| match mainstay_net::pki::check_server_name(name.get_ref()) {
        Ok(()) => Ok(name.get_ref().clone()),
        Err(error) => {
            Err(at(name, format!("server_names: {error}; wildcards are not for certificates of members")))
        }
    };
    names.iter().map(check).collect()
}

fn cluster(value: &Spanned<String>) -> Checked<String> {
    let name = value.get_ref();
    let valid = (1..=64).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if valid {
        return Ok(name.clone());
    }
    Err(at(value, format!("cluster {name:?} is not 1 to 64 letters, digits, '-', '_' or '.'")))
}

fn lease(value: Option<&Spanned<String>>) -> Checked<Duration> {
    let Some(value) = value else { return Ok(Duration::from_secs(3)) };
    let lease = duration(value)?;
    if (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&lease) {
        return Ok(lease);
    }
    let why = "shorter ones run out while a busy machine is merely slow, longer ones leave the site down for as long";
    Err(at(value, format!("lease {:?} is not between \"1s\" and \"1h\": {why}", value.get_ref())))
}

/// How often the primary verifies the cluster.
fn verify_every(value: Option<&Spanned<String>>) -> Checked<Option<Duration>> {
    let Some(value) = value else { return Ok(None) };
    let every = duration(value)?;
    if (Duration::from_secs(60)..=Duration::from_secs(31 * 24 * 3600)).contains(&every) {
        return Ok(Some(every));
    }
    let why = "one run takes up to 30 s and writes a row; leave the key out to run none";
    Err(at(value, format!("verify.every {:?} is not between \"1m\" and \"744h\": {why}", value.get_ref())))
}

/// A length of time with its unit: `"500ms"`, `"3s"`, `"2m"`, `"1h"`.
fn duration(value: &Spanned<String>) -> Checked<Duration> {
    super::length_of_time(value.get_ref()).map_err(|message| at(value, message))
}

fn on_crash(value: Option<&Spanned<String>>) -> Checked<OnCrash> {
    match value.map(|value| (value, value.get_ref().as_str())) {
        None | Some((_, "failover")) => Ok(OnCrash::Failover),
        Some((_, "restart")) => Ok(OnCrash::Restart),
        Some((value, other)) => {
            Err(at(value, format!("on_crash {other:?} is neither \"failover\" nor \"restart\"")))
        }
    }
}

fn tls(raw: Option<&raw::Tls>, base: &Path, directory: &Path) -> Tls {
    let path = |pick: fn(&raw::Tls) -> &Option<Spanned<String>>, default: &str| {
        raw.and_then(|raw| pick(raw).as_ref())
            .map_or_else(|| directory.join("tls").join(default), |value| base.join(value.get_ref()))
    };
    Tls {
        authority: path(|tls| &tls.authority, "ca.pem"),
        certificate: path(|tls| &tls.certificate, "member.pem"),
        key: path(|tls| &tls.key, "member.key"),
        server_certificate: path(|tls| &tls.server_certificate, "server.pem"),
        server_key: path(|tls| &tls.server_key, "server.key"),
    }
}

fn postgresql(raw: &raw::Postgresql, base: &Path, directory: &Path, is_witness: bool) -> Checked<Postgresql> {
    let path = |value: &Option<Spanned<String>>| value.as_ref().map(|value| base.join(value.get_ref()));
    let default_hba = || vec!["host all all all scram-sha-256".to_owned()];
    for line in raw.hba.iter().flatten() {
        mainstay_postgres::hba::check_line(line.get_ref()).map_err(|message| at(line, message))?;
    }
    let hba = raw.hba.as_ref().map(|lines| lines.iter().map(|line| line.get_ref().clone()).collect());
    let password_file = path(&raw.replication_password_file);
    Ok(Postgresql {
        bin_dir: path(&raw.bin_dir),
        data_directory: path(&raw.data_directory).unwrap_or_else(|| directory.join("data")),
        user: raw.user.as_ref().map_or_else(|| "postgres".to_owned(), |user| user.get_ref().clone()),
        hba: hba.unwrap_or_else(default_hba),
        parameters: parameters("parameters", &raw.parameters)?,
        defaults: parameters("defaults", &raw.defaults)?,
        replication_password: match (&raw.replication_password_file, password_file) {
            (Some(value), Some(file)) => password(value, &file)?,
            // Nothing streams from a witness, or to it.
            _ if is_witness => String::new(),
            _ => {
                let file = directory.join("replication.password");
                password_of(&file).map_err(|message| whole_file(&message))?
            }
        },
    })
}

/// A table of PostgreSQL's parameters.
fn parameters(
    table: &str,
    raw: &BTreeMap<String, Spanned<toml::Value>>,
) -> Checked<BTreeMap<String, String>> {
    let mut parameters = BTreeMap::new();
    for (key, value) in raw {
        parameters.insert(key.to_ascii_lowercase(), parameter(table, key, value)?);
    }
    if let Err(error) = mainstay_postgres::configuration::check_parameters(&parameters) {
        let message = error.to_string();
        let named = |key: &str| message.contains(&format!("`{}`", key.to_ascii_lowercase()));
        let span = raw.iter().find(|(key, _)| named(key)).map(|(_, value)| value.span());
        return Err(Problem { span, message });
    }
    Ok(parameters)
}

fn parameter(table: &str, key: &str, value: &Spanned<toml::Value>) -> Checked<String> {
    match value.get_ref() {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(true) => Ok("on".to_owned()),
        toml::Value::Boolean(false) => Ok("off".to_owned()),
        _ => Err(at(value, format!("postgresql.{table}.{key} must be a text, a number, true or false"))),
    }
}

fn password(value: &Spanned<String>, file: &Path) -> Checked<String> {
    password_of(file).map_err(|message| at(value, message))
}

/// The first line of a file that only its owner may read.
fn password_of(file: &Path) -> Result<String, String> {
    use std::os::unix::fs::PermissionsExt;
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("the password file {shown} cannot be read: {error}"))?;
    let mode = std::fs::metadata(file).map(|meta| meta.permissions().mode()).unwrap_or(0);
    if mode & 0o077 != 0 {
        return Err(format!("the password file {shown} is readable by others; run: chmod 600 {shown}"));
    }
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("the password file {shown} is empty")),
    }
}

fn bootstrap(raw: &raw::Bootstrap, base: &Path) -> Checked<Bootstrap> {
    let password = match &raw.password_file {
        Some(value) => Some(password(value, &base.join(value.get_ref()))?),
        None => None,
    };
    if let (Some(database), None) = (&raw.database, &raw.role) {
        return Err(at(
            database,
            "bootstrap.database needs bootstrap.role: the role that owns it".to_owned(),
        ));
    }
    let text = |value: &Option<Spanned<String>>| value.as_ref().map(|value| value.get_ref().clone());
    Ok(Bootstrap { database: text(&raw.database), role: text(&raw.role), password })
}

fn members(raw: &BTreeMap<String, Spanned<raw::MemberTable>>) -> Checked<BTreeMap<MemberId, MemberRow>> {
    if raw.is_empty() {
        return Err(whole_file("there is no [members.NAME] table; every member of the cluster needs one"));
    }
    let mut taken: BTreeMap<SocketAddr, String> = BTreeMap::new();
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    let mut members = BTreeMap::new();
    for (name, table) in raw {
        let id = MemberId::new(name).map_err(|error| at(table, error.to_string()))?;
        let row = table.get_ref();
        let kind = kind(row.kind.as_ref())?;
        let address = address(&row.address, &mut taken, name)?;
        let http = address_of(&row.http, &mut taken, name)?;
        let postgres = match (&row.postgres, kind) {
            (Some(value), Kind::Data) => Some(address_of(value, &mut taken, name)?),
            (None, Kind::Witness) => None,
            (Some(value), Kind::Witness) => {
                return Err(at(value, format!("witness {name} runs no PostgreSQL; remove \"postgres\"")));
            }
            (None, Kind::Data) => {
                return Err(at(
                    table,
                    format!("data member {name} needs \"postgres\", for example \"10.0.0.1:5432\""),
                ));
            }
        };
        let key: KeyFingerprint = row.key.get_ref().parse().map_err(|_| {
            at(&row.key, "key is not a fingerprint of the form \"sha256:<64 hexadecimal digits>\"".to_owned())
        })?;
        if let Some(other) = keys.insert(key.to_string(), name.clone()) {
            return Err(at(
                &row.key,
                format!("{name} has the same key as {other}; every member needs its own"),
            ));
        }
        let priority = row.priority.unwrap_or(100);
        members.insert(id, MemberRow { kind, address, postgres, http, key: key.to_string(), priority });
    }
    Ok(members)
}

fn kind(value: Option<&Spanned<String>>) -> Checked<Kind> {
    match value.map(|value| (value, value.get_ref().as_str())) {
        None | Some((_, "data")) => Ok(Kind::Data),
        Some((_, "witness")) => Ok(Kind::Witness),
        Some((value, other)) => Err(at(value, format!("kind {other:?} is neither \"data\" nor \"witness\""))),
    }
}

/// An address that others dial must be one that can be dialled.
fn address(
    value: &Spanned<String>,
    taken: &mut BTreeMap<SocketAddr, String>,
    name: &str,
) -> Checked<SocketAddr> {
    let address = address_of(value, taken, name)?;
    if address.ip().is_unspecified() {
        return Err(at(
            value,
            format!("{address} is no address that the other members can reach; name this machine's own"),
        ));
    }
    Ok(address)
}

fn address_of(
    value: &Spanned<String>,
    taken: &mut BTreeMap<SocketAddr, String>,
    name: &str,
) -> Checked<SocketAddr> {
    let text = value.get_ref();
    let address: SocketAddr = text.parse().map_err(|_| {
        at(value, format!("{text:?} is not an IP address with a port, such as \"10.0.0.1:7400\" (names are not looked up, so that DNS cannot delay a failover)"))
    })?;
    if address.port() == 0 {
        return Err(at(value, format!("{text:?} needs a port between 1 and 65535")));
    }
    match taken.insert(address, name.to_owned()) {
        Some(other) if other == name => Err(at(value, format!("{name} uses {address} twice"))),
        Some(other) => Err(at(value, format!("{name} has the same address {address} as {other}"))),
        None => Ok(address),
    }
}
