//! Who may come from where: rules in the form of `pg_hba.conf`, of which the first that fits decides.
//!
//! PostgreSQL itself sees the proxy's address and not the client's, so its own rules cannot tell clients apart by theirs.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::console;
use crate::pool::PoolKey;

/// One line: `hostssl DATABASE USER ADDRESS METHOD [clientcert=…]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HbaRule {
    encryption: Encryption,
    databases: Names,
    users: Names,
    network: Network,
    /// Else the client is refused.
    admits: bool,
    certificate: ClientCert,
}

/// Which certificate a client must show beside its password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientCert {
    Unneeded,
    /// Any of the CA's.
    VerifyCa,
    /// One whose common name is the role's.
    VerifyFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Any,
    Needed,
    Absent,
}

/// Names in a list with commas; no names: all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names(Vec<String>);

/// As many leading bits as count; `None`: every address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network(Option<(IpAddr, u8)>);

impl FromStr for HbaRule {
    type Err = String;
    fn from_str(line: &str) -> Result<HbaRule, String> {
        const FORM: &str =
            "write for example \"hostssl app app 10.0.0.0/24 scram-sha-256\" or \"host all all all reject\"";
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (words, option) = match words[..] {
            [kind, databases, users, address, method] => ([kind, databases, users, address, method], None),
            [kind, databases, users, address, method, option] => {
                ([kind, databases, users, address, method], Some(option))
            }
            _ => return Err(format!("{line:?} has {} words, not 5 or 6; {FORM}", words.len())),
        };
        let [kind, databases, users, address, method] = words;
        let encryption = match kind {
            "host" => Encryption::Any,
            "hostssl" => Encryption::Needed,
            "hostnossl" => Encryption::Absent,
            _ => {
                return Err(format!(
                    "{line:?} begins with {kind:?}, which is none of host, hostssl and hostnossl; {FORM}"
                ));
            }
        };
        let admits = match method {
            "scram-sha-256" => true,
            "reject" => false,
            _ => {
                return Err(format!(
                    "{line:?} has the method {method:?}; the SQL proxy has scram-sha-256 and reject, and a certificate beside a password by clientcert=verify-full; {FORM}"
                ));
            }
        };
        let certificate = match option {
            None => ClientCert::Unneeded,
            Some("clientcert=verify-ca") => ClientCert::VerifyCa,
            Some("clientcert=verify-full") => ClientCert::VerifyFull,
            Some(option) => {
                return Err(format!(
                    "{option:?} in {line:?} is neither clientcert=verify-ca nor clientcert=verify-full"
                ));
            }
        };
        if certificate != ClientCert::Unneeded && (encryption != Encryption::Needed || !admits) {
            return Err(format!("{line:?} asks for a certificate; only hostssl with scram-sha-256 can"));
        }
        let network = network(address).ok_or_else(|| {
            format!("{address:?} in {line:?} is no network; write for example \"10.0.0.0/24\", \"::1/128\" or \"all\"")
        })?;
        Ok(HbaRule {
            encryption,
            databases: names(databases),
            users: names(users),
            network,
            admits,
            certificate,
        })
    }
}

impl TryFrom<String> for HbaRule {
    type Error = String;
    fn try_from(line: String) -> Result<HbaRule, String> {
        line.parse()
    }
}

impl From<HbaRule> for String {
    fn from(rule: HbaRule) -> String {
        rule.to_string()
    }
}

fn names(list: &str) -> Names {
    let all: Vec<String> = list
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.trim_matches('"').to_owned())
        .collect();
    Names(if all.iter().any(|name| name == "all") && !list.contains('"') { Vec::new() } else { all })
}

fn network(text: &str) -> Option<Network> {
    if text == "all" {
        return Some(Network(None));
    }
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
    (bits <= most).then_some(Network(Some((address, bits))))
}

impl fmt::Display for HbaRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.encryption {
            Encryption::Any => "host",
            Encryption::Needed => "hostssl",
            Encryption::Absent => "hostnossl",
        };
        let method = if self.admits { "scram-sha-256" } else { "reject" };
        let option = match self.certificate {
            ClientCert::Unneeded => "",
            ClientCert::VerifyCa => " clientcert=verify-ca",
            ClientCert::VerifyFull => " clientcert=verify-full",
        };
        write!(f, "{kind} {} {} {} {method}{option}", self.databases, self.users, self.network)
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("all"),
            // Nobody's name is the word.
            names if names.iter().any(|name| name == "all") => write!(f, "\"{}\"", names.join("\",\"")),
            names => f.write_str(&names.join(",")),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("all"),
            Some((address, bits)) => write!(f, "{address}/{bits}"),
        }
    }
}

impl Names {
    fn have(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|known| known == name)
    }
}

impl Network {
    fn has(self, address: IpAddr) -> bool {
        let leading = |all: u128, one: u128, width: u32, bits: u8| {
            // A shift by the whole width is none.
            (all ^ one).checked_shr(width - u32::from(bits)).unwrap_or(0) == 0
        };
        // A socket that takes both kinds has IPv4 in the form of IPv6.
        match (self.0, address.to_canonical()) {
            (None, _) => true,
            (Some((IpAddr::V4(all), bits)), IpAddr::V4(one)) => {
                leading(all.to_bits().into(), one.to_bits().into(), 32, bits)
            }
            (Some((IpAddr::V6(all), bits)), IpAddr::V6(one)) => {
                leading(all.to_bits(), one.to_bits(), 128, bits)
            }
            _ => false,
        }
    }
}

impl HbaRule {
    /// Whether a client needs a certificate by it.
    pub fn asks_for_certificate(&self) -> bool {
        self.certificate != ClientCert::Unneeded
    }
}

/// What a client must show beside its password; `None`: it may not come in. Without any rules everybody may, with a password.
pub(crate) fn demands(
    rules: &[HbaRule],
    key: &PoolKey,
    address: Option<IpAddr>,
    is_encrypted: bool,
) -> Option<ClientCert> {
    // The console has two names; a rule about either is one about both.
    let names =
        if console::is_console(&key.database) { console::NAMES.to_vec() } else { vec![&*key.database] };
    let fits = |rule: &&HbaRule| {
        let is_of_kind = match rule.encryption {
            Encryption::Any => true,
            Encryption::Needed => is_encrypted,
            Encryption::Absent => !is_encrypted,
        };
        is_of_kind
            && names.iter().any(|name| rule.databases.have(name))
            && rule.users.have(&key.user)
            && address.map_or(rule.network.0.is_none(), |address| rule.network.has(address))
    };
    if rules.is_empty() {
        return Some(ClientCert::Unneeded);
    }
    rules.iter().find(fits).filter(|rule| rule.admits).map(|rule| rule.certificate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Access;

    fn admitted(rules: &[&str], database: &str, user: &str, address: &str, is_encrypted: bool) -> bool {
        let rules: Vec<HbaRule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let key = PoolKey { database: database.into(), user: user.into(), access: Access::ReadWrite };
        demands(&rules, &key, Some(address.parse().unwrap()), is_encrypted).is_some()
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = [
            "host all boss all reject",
            "hostssl app,shop all 10.1.0.0/16 scram-sha-256",
            "host all all ::1/128 scram-sha-256",
        ];
        for (database, user, address, is_encrypted, wanted) in [
            ("app", "app", "10.1.2.3", true, true),
            ("shop", "app", "::ffff:10.1.2.3", true, true),
            ("app", "app", "10.1.2.3", false, false),
            ("app", "app", "10.2.2.3", true, false),
            ("other", "app", "10.1.2.3", true, false),
            ("app", "boss", "10.1.2.3", true, false),
            ("app", "app", "::1", false, true),
            ("app", "app", "::2", false, false),
        ] {
            assert_eq!(
                admitted(&rules, database, user, address, is_encrypted),
                wanted,
                "{database} {user} {address}"
            );
        }
        let console = [
            "host mainstay all 10.0.0.0/8 scram-sha-256",
            "host mainstay all all reject",
            "host all all all scram-sha-256",
        ];
        assert!(!admitted(&console, "pgbouncer", "boss", "8.8.8.8", true), "it is the console too");
        assert!(admitted(&console, "pgbouncer", "boss", "10.1.1.1", true));
        assert!(admitted(&[], "app", "app", "8.8.8.8", false), "without rules a password is enough");
        assert!(admitted(&["host all all 0.0.0.0/0 scram-sha-256"], "app", "app", "8.8.8.8", false));
    }

    #[test]
    fn what_is_no_rule_is_told_with_an_example() {
        for (line, why) in [
            ("host all all 10.0.0.0/8", "has 4 words, not 5 or 6"),
            ("local all all all scram-sha-256", "none of host, hostssl and hostnossl"),
            ("host all all 10.0.0.0/33 reject", "is no network"),
            ("host all all example.org reject", "is no network"),
            ("host all all all trust", "has scram-sha-256 and reject"),
            ("hostssl all all all cert", "clientcert=verify-full"),
        ] {
            let said = line.parse::<HbaRule>().unwrap_err();
            assert!(said.contains(why) && said.contains("for example"), "{said}");
        }
        for (line, why) in [
            ("host all all all scram-sha-256 clientcert=verify-full", "only hostssl with"),
            ("hostssl all all all reject clientcert=verify-ca", "only hostssl with"),
            ("hostssl all all all scram-sha-256 map=x", "neither clientcert=verify-ca nor"),
        ] {
            let said = line.parse::<HbaRule>().unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn a_rule_is_written_as_it_was_read() {
        for line in [
            "hostssl app,shop all 10.1.0.0/16 scram-sha-256",
            "host \"all\" b ::1/128 reject",
            "hostnossl all all all reject",
            "hostssl all all all scram-sha-256 clientcert=verify-ca",
            "hostssl app app ::/0 scram-sha-256 clientcert=verify-full",
        ] {
            assert_eq!(line.parse::<HbaRule>().unwrap().to_string(), line);
        }
    }
}
