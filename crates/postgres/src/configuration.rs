//! `postgresql.conf`: what the bounds and the guarantees need is fixed, the rest is the operator's.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::durable::{self, FileError};
use crate::layout::Layout;
use crate::tools::Version;
use crate::upstream::{Upstream, is_plain_path};

mod check;
mod hold;
mod parameters;

pub use check::{Catalogue, Known, Problem, check, missing_libraries};
pub use hold::{Held, LEAST_OF_A_STANDBY, hold};
pub(crate) use parameters::sets_the_same;
pub use parameters::{is_managed, reason_for_protection};

/// Why a configuration was not rendered or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("postgresql parameter `{name}` cannot be set: {reason}; remove it")]
    Protected { name: String, reason: &'static str },
    #[error("postgresql parameter `{name}` = {value:?} is refused: {reason}")]
    Value { name: String, value: String, reason: &'static str },
    #[error("{name:?} is no name of a postgresql parameter; remove it")]
    Name { name: String },
    #[error("postgresql parameter `{name}` is given twice, in different spellings; remove one")]
    Duplicate { name: String },
    #[error("postgresql parameter `{name}` has a control character in its value; remove it")]
    ControlCharacter { name: String },
    #[error("the path of {0} is not plain text: choose another directory")]
    Path(&'static str),
    #[error(transparent)]
    File(#[from] FileError),
}

/// What a server's configuration is made of, beside the paths of its [`Layout`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    pub port: u16,
    /// Addresses for clients and other members; empty for the Unix socket alone.
    pub listen_addresses: Vec<String>,
    /// Whether certificate, key and authority of the layout exist. Without TLS no other member can stream.
    pub tls: bool,
    /// `synchronous_standby_names`, as [`names`] renders it.
    pub synchronous_standby_names: String,
    /// Where a standby streams from; `None` for a primary and for a sealed standby.
    pub upstream: Option<StreamFrom>,
    /// The operator's parameters.
    pub parameters: BTreeMap<String, String>,
}

/// A standby's source, and the names under which it streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFrom {
    pub upstream: Upstream,
    pub application_name: String,
    pub slot: String,
}

/// Renders `synchronous_standby_names` for `k` of `voters` (application names); empty for `k` = 0, which is lone mode.
pub fn names(k: usize, voters: &[String]) -> String {
    if k == 0 {
        return String::new();
    }
    let quoted: Vec<String> =
        voters.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    format!("ANY {k} ({})", quoted.join(","))
}

/// What Mainstay sets where nobody else does, by name.
pub fn own_defaults() -> impl Iterator<Item = (&'static str, &'static str)> {
    parameters::defaults()
}

/// What Mainstay sets whatever anybody else says, by name.
pub fn own_fixed(version: Version) -> impl Iterator<Item = (&'static str, &'static str)> {
    parameters::fixed(version)
}

/// Checks the operator's parameters, without rendering anything.
pub fn check_parameters(parameters: &BTreeMap<String, String>) -> Result<(), ConfigurationError> {
    parameters::check(parameters).map(|_| ())
}

/// The parameters that are the same on every member of this version, with their values.
pub fn fixed_parameters(version: Version) -> impl Iterator<Item = (&'static str, &'static str)> {
    parameters::fixed(version)
}

/// Where the part begins that only pieces of work on the server change.
const OWN_PART: &str = "\n# This member\n";

/// Renders `postgresql.conf`. The same settings always give the same text.
pub fn render(
    layout: &Layout,
    version: Version,
    settings: &ServerSettings,
) -> Result<String, ConfigurationError> {
    let mut text = render_parameters(version, &settings.parameters)?;
    text.push_str(OWN_PART);
    for (name, value) in member_parameters(layout, settings)? {
        let _ = writeln!(text, "{name} = {}", quote(&value));
    }
    Ok(text)
}

/// Writes `postgresql.conf` with other parameters of the operator's, durably: whom the server streams from and who acknowledges
/// its commits stays as it stands there. Returns whether it changed; nothing is written where there is no file of ours.
///
/// The file that comes out is compared without the lines of `volatile`, a parameter that alone is no reason to write.
pub fn rewrite_parameters(
    layout: &Layout,
    version: Version,
    parameters: &BTreeMap<String, String>,
    volatile: &str,
) -> Result<bool, ConfigurationError> {
    let path = layout.configuration_file();
    let present = durable::read(&path)?.unwrap_or_default();
    let present = String::from_utf8_lossy(&present);
    let Some((before, own)) = present.split_once(OWN_PART) else { return Ok(false) };
    let wanted = render_parameters(version, parameters)?;
    let plain = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with(volatile));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    if plain(before) == plain(&wanted) {
        return Ok(false);
    }
    let text = format!("{wanted}{OWN_PART}{own}");
    Ok(durable::write(&path, text.as_bytes(), layout.configuration_access())?)
}

fn render_parameters(
    version: Version,
    parameters: &BTreeMap<String, String>,
) -> Result<String, ConfigurationError> {
    let operators = parameters::check(parameters)?;
    let mut text = String::from(
        "# Written by Mainstay at each start and change: edits are lost. Use: mainstay config edit\n",
    );
    let mut section = |title: &str, parameters: &mut dyn Iterator<Item = (String, String)>| {
        let _ = writeln!(text, "\n# {title}");
        for (name, value) in parameters {
            let _ = writeln!(text, "{name} = {}", quote(&value));
        }
    };
    let defaults = parameters::defaults().filter(|(name, _)| !operators.contains_key(*name));
    section("Defaults", &mut defaults.map(|(name, value)| (name.to_owned(), value.to_owned())));
    section("The operator's", &mut operators.clone().into_iter());
    let fixed = parameters::fixed(version);
    section(
        "Protected: bounds and guarantees rest on these",
        &mut fixed.map(|(n, v)| (n.to_owned(), v.to_owned())),
    );
    Ok(text)
}

/// Renders and writes `postgresql.conf`, durably. Returns whether it changed; PostgreSQL reads it at the next reload.
pub fn write(
    layout: &Layout,
    version: Version,
    settings: &ServerSettings,
) -> Result<bool, ConfigurationError> {
    let text = render(layout, version, settings)?;
    Ok(durable::write(&layout.configuration_file(), text.as_bytes(), layout.configuration_access())?)
}

fn member_parameters(
    layout: &Layout,
    settings: &ServerSettings,
) -> Result<Vec<(String, String)>, ConfigurationError> {
    let path = |subject, path: &std::path::Path| match is_plain_path(path) {
        true => Ok(path.display().to_string()),
        false => Err(ConfigurationError::Path(subject)),
    };
    let mut parameters = vec![
        ("data_directory", path("the data directory", layout.data())?),
        ("hba_file", path("pg_hba.conf", &layout.hba_file())?),
        ("ident_file", path("pg_ident.conf", &layout.ident_file())?),
        ("unix_socket_directories", quote_list_item(&path("the socket", &layout.socket_dir())?)),
        ("listen_addresses", settings.listen_addresses.join(",")),
        ("port", settings.port.to_string()),
        ("ssl", if settings.tls { "on" } else { "off" }.to_owned()),
    ];
    if settings.tls {
        parameters.push(("ssl_cert_file", path("the certificate", &layout.certificate())?));
        parameters.push(("ssl_key_file", path("the key", &layout.key())?));
        parameters.push(("ssl_ca_file", path("the authority", &layout.authority())?));
    }
    let (conninfo, slot) = match &settings.upstream {
        Some(from) => {
            (from.upstream.connection_string(layout, &from.application_name, None), from.slot.clone())
        }
        None => (String::new(), String::new()),
    };
    parameters.push(("primary_conninfo", conninfo));
    parameters.push(("primary_slot_name", slot));
    parameters.push(("synchronous_standby_names", settings.synchronous_standby_names.clone()));
    Ok(parameters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// `unix_socket_directories` is a comma-separated list.
fn quote_list_item(item: &str) -> String {
    format!("\"{}\"", item.replace('"', "\"\""))
}

/// Every value is written as a string, which PostgreSQL takes for any type.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests;
