//! Reading the member's own file again: what can change at once changes, the rest is named.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use mainstay_core::record::Values;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Configure, accept};
use crate::configuration::Configuration;
use crate::machinery::FilePart;
use crate::sql_proxy::operator::{Answer, Operator};

/// Reads the file. The error names file, line and remedy.
pub type Reload = Arc<dyn Fn() -> Result<Configuration, String> + Send + Sync>;

/// What reading the file again has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// In effect as soon as PostgreSQL has read it; what of it takes a restart of PostgreSQL, `status` shows as pending.
    pub changed: Vec<String>,
    /// Parameters among these that only a restart of PostgreSQL changes.
    pub restart_postgresql: Vec<String>,
    /// Keys that were changed in the file and count after a restart of the member.
    pub restart_member: Vec<String>,
}

impl fmt::Display for ReloadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        write!(f, "changed: {}", list(&self.changed))?;
        if !self.restart_postgresql.is_empty() {
            write!(f, "; after a restart of PostgreSQL: {}", list(&self.restart_postgresql))?;
        }
        if !self.restart_member.is_empty() {
            write!(f, "; after a restart of the member: {}", list(&self.restart_member))?;
        }
        Ok(())
    }
}

/// Nothing changes unless all of it can be taken.
pub(super) async fn reload(configure: &Configure, read: &Reload) -> Result<ReloadAnswer, String> {
    let read = Arc::clone(read);
    let new = crate::machinery::blocking(move || read()).await.map_err(|error| error.0)??;
    let machinery = &configure.machinery;
    let (before, after) = (machinery.file_part(), FilePart::of(&new));
    if *before != after {
        accept::try_out(configure, &machinery.accepted().set, &after).await?;
    }
    let mut answer = ReloadAnswer {
        restart_member: other_keys(&machinery.configuration, &new),
        ..ReloadAnswer::default()
    };
    let tables = [
        ("parameters", changed(&before.parameters, &after.parameters)),
        ("defaults", changed(&before.defaults, &after.defaults)),
    ];
    for (table, names) in tables {
        let restart = names.iter().filter(|name| configure.catalogue.takes_restart(name));
        answer.restart_postgresql.extend(restart.map(|name| (*name).clone()));
        answer.changed.extend(names.iter().map(|name| format!("postgresql.{table}.{name}")));
    }
    if before.hba != after.hba {
        answer.changed.push("postgresql.hba".to_owned());
    }
    if *machinery.verify_every.borrow() != new.verify_every {
        answer.changed.push("verify.every".to_owned());
        machinery.verify_every.send_replace(new.verify_every);
    }
    machinery.set_file_part(after);
    reload_proxy(&machinery.configuration, &new, &mut answer).await;
    Ok(answer)
}

/// Tells the SQL proxy of its settings. One that does not run reads them at its start.
async fn reload_proxy(running: &Configuration, new: &Configuration, answer: &mut ReloadAnswer) {
    let (Some(before), Some(wanted)) = (&running.sql_proxy, &new.sql_proxy) else { return };
    let named = |names: Vec<String>| names.into_iter().map(|name| format!("sql_proxy.{name}"));
    match Operator::of(running).order(&format!("RELOAD {}", wanted.settings)).await {
        Ok(Answer::Reloaded { changed, restart }) => {
            answer.changed.extend(named(changed));
            answer.restart_member.extend(named(restart));
        }
        Ok(Answer::Done(what) | Answer::Failed(what)) => {
            warn!(what, "the SQL proxy has not taken its settings");
            answer.restart_member.push("sql_proxy".to_owned());
        }
        Err(error) => {
            warn!(error, "the SQL proxy has not been told of its settings");
            if before != wanted {
                answer.restart_member.push("sql_proxy".to_owned());
            }
        }
    }
}

/// The names that have another value, or one in one of them only.
fn changed<'a>(before: &'a Values, after: &'a Values) -> BTreeSet<&'a String> {
    let names = before.keys().chain(after.keys());
    names.filter(|name| before.get(*name) != after.get(*name)).collect()
}

/// What differs and is read at the start of a member only.
fn other_keys(running: &Configuration, file: &Configuration) -> Vec<String> {
    // Only compared, never shown: passwords are in there.
    let differs = [
        ("cluster", running.cluster != file.cluster),
        ("member", running.me != file.me),
        ("directory", running.directory != file.directory),
        ("lease", running.lease != file.lease),
        ("on_crash", running.on_crash != file.on_crash),
        ("tls", format!("{:?}", running.tls) != format!("{:?}", file.tls)),
        ("bootstrap", format!("{:?}", running.bootstrap) != format!("{:?}", file.bootstrap)),
        ("vip", running.addresses != file.addresses),
        ("sql_proxy", running.sql_proxy.is_some() != file.sql_proxy.is_some()),
        ("members", format!("{:?}", running.members) != format!("{:?}", file.members)),
        ("postgresql.bin_dir", running.postgresql.bin_dir != file.postgresql.bin_dir),
        ("postgresql.data_directory", running.postgresql.data_directory != file.postgresql.data_directory),
        ("postgresql.user", running.postgresql.user != file.postgresql.user),
        (
            "postgresql.replication_password_file",
            running.postgresql.replication_password != file.postgresql.replication_password,
        ),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect()
}
