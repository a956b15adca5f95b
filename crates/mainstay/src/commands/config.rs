//! `config`: PostgreSQL's parameters for the whole cluster.

mod change;
mod edit;
mod import;
mod show;
mod text;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use mainstay_core::record::{ParameterSet, Values};
use mainstay_member::Configuration;
use mainstay_member::control::{ConfigAnswer, TuneAnswer};
use mainstay_postgres::configuration::LEAST_OF_A_STANDBY;

use crate::cli::{ChangeOptions, CheckOptions, ConfigVerb, ImportVerb, Place, RoleName};
use crate::client::Control;
use crate::configuration;
use crate::output::println;

pub(crate) async fn run(verb: ConfigVerb) -> Result<ExitCode> {
    match verb {
        ConfigVerb::Show(options) => show::show(&options).await,
        ConfigVerb::History(options) => show::history(&options).await,
        ConfigVerb::Check(options) => check(&options),
        ConfigVerb::Import(ImportVerb::Pgbouncer(options)) => import::pgbouncer(&options),
        ConfigVerb::Edit(options) => edit::edit(&options).await,
        ConfigVerb::Set(options) => {
            let change = |set: &mut ParameterSet| {
                let values = layer(set, &options.place);
                values.extend(options.values.iter().cloned());
                Ok(())
            };
            simple(&options.change, change).await
        }
        ConfigVerb::Unset(options) => {
            let change = |set: &mut ParameterSet| {
                let values = layer(set, &options.place);
                for name in &options.names {
                    let name = name.to_ascii_lowercase();
                    values
                        .remove(&name)
                        .with_context(|| format!("{name} is not set there; see: mainstay config show"))?;
                }
                Ok(())
            };
            simple(&options.change, change).await
        }
        ConfigVerb::Rollback(options) => {
            let (configuration, answer) = read(&options.change).await?;
            let known = answer.history.iter().find(|change| change.serial == options.serial);
            let set = match known {
                Some(change) => change.set.clone(),
                None if options.serial == 0 => ParameterSet::default(),
                None => bail!("there is no change {}; see: mainstay config history", options.serial),
            };
            change::change(&configuration, &answer, set, &options.change).await
        }
        ConfigVerb::Tune(options) => {
            let configuration = configuration::load(&options.change.config.config)?;
            let control = Control::on(&configuration, options.member.as_ref());
            let tuned: TuneAnswer = control.get("/v1/config/tune").await?;
            if !options.apply {
                return show::tuned(&tuned, options.change.json);
            }
            let answer: ConfigAnswer = Control::of(&configuration).get("/v1/config").await?;
            let mut set = answer.set.clone();
            for row in tuned.parameters {
                // A standby must not have less of these than the primary, so the largest machine's hold for all.
                if LEAST_OF_A_STANDBY.iter().any(|(name, _)| *name == row.name) {
                    let number = |value: Option<&String>| value.and_then(|value| value.parse::<u64>().ok());
                    if number(set.shared.get(&row.name)) < number(Some(&row.value)) {
                        set.shared.insert(row.name, row.value);
                    }
                } else {
                    set.members.entry(tuned.member.clone()).or_default().insert(row.name, row.value);
                }
            }
            change::change(&configuration, &answer, set, &options.change).await
        }
    }
}

async fn read(options: &ChangeOptions) -> Result<(Configuration, ConfigAnswer)> {
    let configuration = configuration::load(&options.config.config)?;
    let answer = Control::of(&configuration).get("/v1/config").await?;
    Ok((configuration, answer))
}

async fn simple(
    options: &ChangeOptions,
    change: impl FnOnce(&mut ParameterSet) -> Result<()>,
) -> Result<ExitCode> {
    let (configuration, answer) = read(options).await?;
    let mut set = answer.set.clone();
    change(&mut set)?;
    set.members.retain(|_, values| !values.is_empty());
    change::change(&configuration, &answer, set, options).await
}

fn layer<'a>(set: &'a mut ParameterSet, place: &Place) -> &'a mut Values {
    match (&place.member, place.role) {
        (Some(member), _) => set.members.entry(member.clone()).or_default(),
        (None, Some(RoleName::Primary)) => &mut set.primary,
        (None, Some(RoleName::Standby)) => &mut set.standby,
        (None, None) => &mut set.shared,
    }
}

fn check(options: &CheckOptions) -> Result<ExitCode> {
    let loaded = configuration::load(&options.file);
    if options.json {
        let error = loaded.as_ref().err().map(ToString::to_string);
        println!("{}", serde_json::json!({ "ok": error.is_none(), "error": error }));
        return Ok(if error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    loaded?;
    println!(
        "{}: ok; PostgreSQL itself checks the values of parameters at: mainstay reload",
        options.file.display()
    );
    Ok(ExitCode::SUCCESS)
}
