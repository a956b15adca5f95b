//! Judging a configuration before it gets into the record, or out of it into PostgreSQL's files.

use std::collections::BTreeSet;

use mainstay_core::record::{ParameterSet, Record, Values};
use mainstay_postgres::configuration::{self, LEAST_OF_A_STANDBY, Problem, check};
use mainstay_postgres::hba;
use serde::{Deserialize, Serialize};

use super::Configure;
use crate::machinery::{Accepted, FilePart, failed, merged};

/// What a change would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Parameters that only a restart of PostgreSQL changes.
    pub restart: Vec<String>,
    /// In which order, where there is one.
    pub plan: Vec<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Whether this member's PostgreSQL takes `set` together with `file`, in either role.
pub(super) async fn try_out(
    configure: &Configure,
    set: &ParameterSet,
    file: &FilePart,
) -> Result<(), String> {
    let machinery = &configure.machinery;
    if machinery.tools().is_err() {
        return Ok(());
    }
    let accepted = Accepted { serial: 0, set: set.clone() };
    let mut tried: BTreeSet<Values> = BTreeSet::new();
    for is_primary in [true, false] {
        let parameters = merged(&accepted, file, machinery.me(), is_primary);
        if tried.insert(parameters.clone()) {
            try_parameters(configure, parameters).await.map_err(|problem| failed(problem).0)?;
        }
    }
    for line in file.hba.iter().chain(&set.hba) {
        hba::check_line(line)?;
    }
    Ok(())
}

async fn try_parameters(configure: &Configure, parameters: Values) -> Result<(), Problem> {
    let machinery = &configure.machinery;
    let preloaded = parameters.get("shared_preload_libraries").cloned();
    let settings = machinery.server_settings(String::new(), None, parameters);
    let Ok(tools) = machinery.tools() else { return Ok(()) };
    check(tools, &machinery.layout, &settings, &configure.catalogue).await?;
    // Where no server answers nobody knows where its libraries are; the start will tell.
    if let Some(preloaded) = preloaded
        && let Ok(session) = machinery.session().await
        && let Ok(directory) = session.library_directory().await
    {
        configuration::missing_libraries(&preloaded, &directory)?;
    }
    Ok(())
}

/// Judges a set that somebody wants in the record. An error is a sentence; nothing was changed.
pub(crate) async fn judge(
    configure: &Configure,
    record: &Record,
    set: &ParameterSet,
) -> Result<Judged, String> {
    let machinery = &configure.machinery;
    if machinery.tools().is_err() {
        return Err("a witness has no PostgreSQL that could check this; ask a member with data".to_owned());
    }
    for values in layers(set) {
        if let Some(name) = values.keys().find(|name| **name != name.to_ascii_lowercase()) {
            return Err(format!("write the name of parameter {name} in lower case"));
        }
        configuration::check_parameters(values).map_err(|error| error.to_string())?;
    }
    for (role, values) in [("primary", &set.primary), ("standby", &set.standby)] {
        if let Some(name) = values.keys().find(|name| configure.catalogue.takes_restart(name)) {
            return Err(format!(
                "`{name}` cannot be set for the {role} alone: a member changes its role without a restart, and this one takes one; \
                 set it for all or for a member"
            ));
        }
    }
    let file = machinery.file_part();
    try_out(configure, set, &file).await?;
    // Values for other members are tried without their own files, which are not here.
    for values in set.members.iter().filter(|(member, _)| *member != machinery.me()).map(|(_, values)| values)
    {
        let mut parameters = set.shared.clone();
        parameters.extend(values.clone());
        try_parameters(configure, parameters).await.map_err(|problem| failed(problem).0)?;
    }
    Ok(judged(configure, &record.parameters.set, set, &file))
}

fn layers(set: &ParameterSet) -> impl Iterator<Item = &Values> {
    [&set.shared, &set.primary, &set.standby].into_iter().chain(set.members.values())
}

/// Names whose values differ anywhere.
fn changed(before: &ParameterSet, after: &ParameterSet) -> BTreeSet<String> {
    let differs = |name: &&String| {
        let of =
            |set: &ParameterSet| layers(set).map(|values| values.get(*name).cloned()).collect::<Vec<_>>();
        of(before) != of(after)
    };
    layers(before).chain(layers(after)).flat_map(Values::keys).filter(differs).cloned().collect()
}

fn judged(configure: &Configure, before: &ParameterSet, after: &ParameterSet, file: &FilePart) -> Judged {
    let changed = changed(before, after);
    let catalogue = &configure.catalogue;
    let mut judged = Judged {
        restart: changed.iter().filter(|name| catalogue.takes_restart(name)).cloned().collect(),
        ..Judged::default()
    };
    let value = |set: &ParameterSet, name: &str| {
        set.shared.get(name).and_then(|value| value.trim().parse::<u64>().ok())
    };
    for (name, default) in LEAST_OF_A_STANDBY.iter().filter(|(name, _)| changed.contains(*name)) {
        let own = configuration::own_defaults().find(|(own, _)| own == name);
        let default = own.and_then(|(_, value)| value.parse().ok()).unwrap_or(*default);
        let (old, new) = (value(before, name).unwrap_or(default), value(after, name).unwrap_or(default));
        if new < old {
            judged.plan.push(format!(
                "{name} is lowered from {old} to {new}: the primary first, where it is; each standby once it has replayed that"
            ));
        } else if new > old {
            judged
                .plan
                .push(format!("{name} is raised from {old} to {new}: the standbys first, the primary last"));
        }
    }
    if judged.plan.is_empty() && !judged.restart.is_empty() {
        judged.plan.push("one standby after the other, the primary last by a switchover".to_owned());
    }
    for name in changed.iter().filter(|name| name.contains('.')) {
        judged.notes.push(format!("{name} belongs to an extension, which alone can check its value"));
    }
    for name in changed.iter().filter(|name| file.parameters.contains_key(*name)) {
        let me = configure.machinery.me();
        judged.notes.push(format!("{name} also stands in the file of {me}, which wins there"));
    }
    judged
}
