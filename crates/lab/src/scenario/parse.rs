//! From a scenario's text to its steps. Every error names the file, the line and what is understood there.

mod addresses;

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Action, Expectation, Scenario, ServiceVerb, Step, Target};
use crate::disk;
use crate::fault::{Fault, WORDS};
use crate::files::Plan;
use crate::journal::Rung;
use crate::leftovers::MOST_MEMBERS;
use crate::pgbench::{Load, Mode};

/// What is wrong with a scenario, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioError {
    pub path: String,
    /// From 1; 0: the file as a whole.
    pub line: usize,
    pub message: String,
}

impl std::fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

impl std::error::Error for ScenarioError {}

/// Reads a file `NAME.scenario`.
pub fn read(path: &Path) -> Result<Scenario, ScenarioError> {
    let shown = path.display().to_string();
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let text = fs::read_to_string(path).map_err(|error| ScenarioError {
        path: shown.clone(),
        line: 0,
        message: format!("cannot be read: {error}"),
    })?;
    parse(&name, &shown, &text)
}

/// Reads a scenario's text.
pub fn parse(name: &str, path: &str, text: &str) -> Result<Scenario, ScenarioError> {
    let fail = |line: usize, message: String| ScenarioError { path: path.to_owned(), line, message };
    let mut scenario = Scenario {
        name: name.to_owned(),
        path: path.to_owned(),
        why: why(text)
            .ok_or_else(|| fail(1, "begins with no comment; say first why it exists".to_owned()))?,
        in_ci: false,
        plan: Plan::new(0),
        repeat: 1,
        steps: Vec::new(),
    };
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        let words = words(raw).map_err(|message| fail(line, message))?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words.is_empty() {
            continue;
        }
        if head(&mut scenario, &words).map_err(|message| fail(line, message))? {
            continue;
        }
        if scenario.plan.data_members == 0 {
            return Err(fail(
                line,
                "comes before the cluster; begin with for example `cluster 3`".to_owned(),
            ));
        }
        let action = action(&words).map_err(|message| fail(line, message))?;
        scenario.steps.push(Step { line, action });
    }
    let is_end =
        |step: &Step| matches!(step.action, Action::Expect(Expectation::NothingLost | Expectation::SomeLost));
    if scenario.steps.last().is_some_and(is_end) {
        return Ok(scenario);
    }
    Err(fail(text.lines().count(), "every story ends with `expect lost 0, duplicated 0`".to_owned()))
}

/// The comment at the top, as one text.
fn why(text: &str) -> Option<String> {
    let lines = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim);
    let joined = lines.collect::<Vec<_>>().join(" ");
    Some(joined).filter(|joined| !joined.is_empty())
}

/// Words between blanks and commas; a text in double quotes is one of them. `#` begins a comment.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start_matches([' ', ',']);
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted.split_once('"').ok_or_else(|| "a quotation mark has no partner".to_owned())?
        } else {
            rest.split_at(rest.find([' ', ',']).unwrap_or(rest.len()))
        };
        words.push(word.to_owned());
        rest = after.trim_start_matches([' ', ',']);
    }
    Ok(words)
}

/// The lines before the story; answers whether it was one.
fn head(scenario: &mut Scenario, words: &[&str]) -> Result<bool, String> {
    match words {
        ["in", "ci"] => scenario.in_ci = true,
        ["repeat", count] => {
            let count = number(count)?;
            scenario.repeat = u32::try_from(count).map_err(|_| "is repeated too often".to_owned())?;
        }
        ["clients", "through", "the", "sql", "proxy"] => scenario.plan.sql_proxy = true,
        ["clients", "by", "the", "virtual", "address"] => scenario.plan.vip = true,
        ["cluster", members, rest @ ..] => {
            let count =
                |word: &str| number(word)?.try_into().map_err(|_| format!("{word} members are too many"));
            let Plan { sql_proxy, vip, .. } = scenario.plan;
            let mut plan = Plan { sql_proxy, vip, ..Plan::new(count(members)?) };
            let mut rest = rest;
            while let [word @ ("supervised" | "founded"), more @ ..] = rest {
                match *word {
                    "supervised" => plan.supervised = true,
                    _ => plan.founded = true,
                }
                rest = more;
            }
            while let [key, value, more @ ..] = rest {
                match *key {
                    "witnesses" => plan.witnesses = count(value)?,
                    "spares" => plan.spares = count(value)?,
                    "disks" => plan.disk_mib = Some(mebibytes(value)?),
                    "lease" => plan.lease = Some((*value).to_owned()),
                    _ => {
                        let known =
                            "`supervised`, `founded`, `witnesses N`, `spares N`, `disks 400MiB`, `lease 2s`";
                        return Err(format!("`{key}` is unknown here; after the members come {known}"));
                    }
                }
                rest = more;
            }
            if !rest.is_empty() {
                return Err(format!("`{}` lacks its value", rest[0]));
            }
            if plan.data_members == 0 || plan.machines() > MOST_MEMBERS {
                return Err(format!("a cluster has 1 to {MOST_MEMBERS} members"));
            }
            let is_plain =
                plan.witnesses == 0 && plan.disk_mib.is_none() && plan.lease.is_none() && !plan.sql_proxy;
            if plan.founded && (plan.supervised || !is_plain) {
                return Err("a `founded` cluster takes `spares N` and nothing else".to_owned());
            }
            if plan.spares > 0 && !plan.founded {
                return Err("only a `founded` cluster has the tokens by which spares can join".to_owned());
            }
            scenario.plan = plan;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn action(words: &[&str]) -> Result<Action, String> {
    Ok(match words {
        ["load", "pgbench", rest @ ..] => Action::LoadPgbench(load(rest)?),
        ["client", "on", on] => Action::LocalClient { on: target(on)? },
        ["arrange", "leader", "on", "primary"] => Action::ArrangeLeader { on_primary: true },
        ["arrange", "leader", "off", "primary"] => Action::ArrangeLeader { on_primary: false },
        ["fault", "close-port", port, "of", of, "to", from] => Action::ClosePort {
            port: port.parse().map_err(|_| format!("`{port}` is no port"))?,
            of: target(of)?,
            from: target(from)?,
        },
        ["fault", "close-port", ..] => {
            return Err("a port is closed by for example `fault close-port 5432 of m1 to m2`".to_owned());
        }
        ["fault", word, targets @ ..] if !targets.is_empty() => {
            Action::Fault { fault: fault(word)?, targets: all_targets(targets)? }
        }
        ["heal"] => Action::Heal { fault: None },
        ["heal", word] => Action::Heal { fault: Some(fault(word)?) },
        ["start", targets @ ..] => Action::Start { targets: all_targets(targets)? },
        ["switchover", "to", to] => Action::Switchover { to: target(to)? },
        ["service", "stop", targets @ ..] if !targets.is_empty() => {
            Action::Service { verb: ServiceVerb::Stop, targets: all_targets(targets)? }
        }
        ["service", "upgrade", targets @ ..] if !targets.is_empty() => {
            Action::Service { verb: ServiceVerb::Upgrade, targets: all_targets(targets)? }
        }
        ["join", machine] => Action::Join { machine: target(machine)?, refused: None },
        ["refused", "join", machine, text] => {
            Action::Join { machine: target(machine)?, refused: Some((*text).to_owned()) }
        }
        ["replace", old, "by", new] => Action::Replace { old: target(old)?, new: target(new)? },
        ["watch", "/primary"] => Action::WatchPrimary,
        ["command", rest @ ..] => command(rest, None)?,
        ["refused", rest @ .., text] => command(rest, Some((*text).to_owned()))?,
        ["sql", on, statement] => {
            Action::Sql { on: target(on)?, statement: (*statement).to_owned(), may_fail: false }
        }
        ["attempt", "sql", on, statement] => {
            Action::Sql { on: target(on)?, statement: (*statement).to_owned(), may_fail: true }
        }
        ["wait", time @ ..] => Action::Wait { duration: duration(time)? },
        ["expect", rest @ ..] => Action::Expect(expectation(rest)?),
        _ => {
            let known = "load, client, arrange, fault, heal, start, switchover, join, replace, watch, service, command, \
                         refused, sql, attempt, wait, expect";
            return Err(format!(
                "`{}` is not understood; a line begins with one of: {known}",
                words.join(" ")
            ));
        }
    })
}

/// `[simple|extended|prepared] [clients N] [rate N]`
fn load(words: &[&str]) -> Result<Load, String> {
    let mut load = Load::default();
    let mut rest = words;
    if let [word, more @ ..] = rest
        && let Some(mode) = Mode::parse(word)
    {
        (load.mode, rest) = (mode, more);
    }
    let count = |word: &str| u32::try_from(number(word)?).map_err(|_| format!("{word} is too much"));
    loop {
        rest = match rest {
            [] => return Ok(load),
            ["clients", clients, more @ ..] => {
                load.clients = count(clients)?;
                more
            }
            ["rate", rate, more @ ..] => {
                load.rate = Some(count(rate)?);
                more
            }
            [word, ..] => {
                let known = "`simple`, `extended` or `prepared`, `clients N`, `rate N`";
                return Err(format!("`{word}` is not understood; after `load pgbench` come {known}"));
            }
        };
    }
}

/// `command [on MEMBER] "…"`, and the same with what it is refused with.
fn command(words: &[&str], refused: Option<String>) -> Result<Action, String> {
    match words {
        [line] => Ok(Action::Command { on: None, line: (*line).to_owned(), refused }),
        ["on", on, line] => Ok(Action::Command { on: Some(target(on)?), line: (*line).to_owned(), refused }),
        _ => Err("a command is one text in double quotes, after `on MEMBER` if it matters where".to_owned()),
    }
}

fn expectation(words: &[&str]) -> Result<Expectation, String> {
    use Expectation as E;
    Ok(match words {
        ["write-gap", "<", time @ ..] => E::WriteGap { below: duration(time)? },
        ["total-gap", "<", time @ ..] => E::TotalGap { below: duration(time)? },
        ["primary", "changed"] => E::PrimaryChanged(true),
        ["primary", "same"] => E::PrimaryChanged(false),
        ["primary", "is", "not", who] => E::PrimaryIs { target: target(who)?, is: false },
        ["primary", "is", who] => E::PrimaryIs { target: target(who)?, is: true },
        ["epoch", "changed"] => E::EpochChanged(true),
        ["epoch", "same"] => E::EpochChanged(false),
        ["epochs", "<=", most] => E::Epochs { most: number(most)? },
        ["streaming", who, "within", time @ ..] => {
            E::Streaming { who: target(who)?, within: duration(time)? }
        }
        ["writes", "within", time @ ..] => E::Writes { within: duration(time)? },
        ["no", "writes", "for", time @ ..] => E::NoWrites { duration: duration(time)? },
        ["fenced"] => E::Fenced,
        ["local", "client", "silent"] => E::LocalSilent,
        ["founded", "within", value, unit, "by", most, "commands"] => E::Founded {
            within: duration(&[value, unit])?,
            commands: number(most)?.try_into().map_err(|_| format!("{most} commands are too many"))?,
        },
        ["one", "primary", "endpoint"] => E::OnePrimaryEndpoint,
        ["postgres", "of", on, "same"] => E::SamePostgres { on: target(on)? },
        ["service", "of", of, "ready", "within", time @ ..] => {
            E::Ready { of: target(of)?, within: duration(time)? }
        }
        ["service", "of", of, "ended", how, "within", time @ ..] => {
            E::Ended { of: target(of)?, how: (*how).to_owned(), within: duration(time)? }
        }
        ["nothing", "of", on, "runs"] => E::NothingRuns { on: target(on)? },
        ["no", "errors"] => E::NoErrors,
        ["errors", "only", codes @ ..] if !codes.is_empty() => {
            E::OnlyErrors { codes: codes.iter().map(|code| (*code).to_owned()).collect() }
        }
        ["connections", "kept"] => E::ConnectionsKept,
        ["sql", "proxy", "of", of, "runs", "within", time @ ..] => {
            E::SqlProxyRuns { of: target(of)?, within: duration(time)? }
        }
        ["address" | "address-gap", ..] | ["one", "address", ..] => addresses::expectation(words)?,
        ["alone", "within", time @ ..] => E::Alone { within: duration(time)? },
        ["at-risk", "shown"] => E::AtRisk,
        ["explain", "of", on, text, "within", time @ ..] => {
            E::Explain { on: Some(target(on)?), text: (*text).to_owned(), within: duration(time)? }
        }
        ["explain", text, "within", time @ ..] => {
            E::Explain { on: None, text: (*text).to_owned(), within: duration(time)? }
        }
        ["log", "of", of, text, "within", time @ ..] => {
            E::Log { of: target(of)?, text: (*text).to_owned(), within: duration(time)? }
        }
        ["rung", "of", of, rungs @ ..] if !rungs.is_empty() => {
            let rung = |word: &&str| {
                Rung::parse(word)
                    .ok_or_else(|| format!("`{word}` is no rung; there are follow, rewind, clone"))
            };
            let rungs = rungs.iter().filter(|word| **word != "or").map(rung).collect::<Result<_, _>>()?;
            E::Rung { of: target(of)?, rungs }
        }
        ["sql", on, statement, "answers", answer] => {
            E::Answer { on: target(on)?, statement: (*statement).to_owned(), answer: (*answer).to_owned() }
        }
        ["lost", "0", "duplicated", "0"] => E::NothingLost,
        ["lost", "some", "duplicated", "0"] => E::SomeLost,
        _ => {
            let known = "write-gap, total-gap, primary, epoch, epochs, streaming, writes, no writes, no errors, errors only, connections kept, address, address-gap, one address holder, fenced, \
                         local client, founded, one primary endpoint, postgres, service, nothing, alone, at-risk, explain, log, rung, sql, sql proxy, lost";
            return Err(format!("`expect {}` is not understood; there are: {known}", words.join(" ")));
        }
    })
}

pub(super) fn target(word: &str) -> Result<Target, String> {
    Ok(match word {
        "primary" => Target::Primary,
        "old" => Target::Old,
        "standby" => Target::Standby(1),
        "standbys" => Target::Standbys,
        "leader" => Target::Leader,
        "all" => Target::All,
        _ => match word.strip_prefix("standby-").map(str::parse) {
            Some(Ok(number @ 1..=8)) => Target::Standby(number),
            Some(_) => return Err(format!("`{word}` is no standby; there are standby-1 to standby-8")),
            None if is_name(word) => Target::Named(word.to_owned()),
            None => {
                let known = "primary, old, standby, standby-2, standbys, leader, all, m1, w1";
                return Err(format!("`{word}` is nobody; there are {known}"));
            }
        },
    })
}

/// m1, m2, …, w1, …
fn is_name(word: &str) -> bool {
    let number = word.strip_prefix('m').or_else(|| word.strip_prefix('w'));
    number.is_some_and(|number| number.parse::<u8>().is_ok_and(|number| (1..=MOST_MEMBERS).contains(&number)))
}

fn all_targets(words: &[&str]) -> Result<Vec<Target>, String> {
    words.iter().filter(|word| **word != "and").map(|word| target(word)).collect()
}

fn fault(word: &str) -> Result<Fault, String> {
    Fault::parse(word).ok_or_else(|| {
        let known: Vec<&str> = WORDS.iter().map(|(word, _, _)| *word).collect();
        format!("`{word}` is no fault; there are {}", known.join(", "))
    })
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}

/// `0.8 s` or `500 ms`.
fn duration(words: &[&str]) -> Result<Duration, String> {
    let wrong = || format!("`{}` is no time; write for example `0.8 s` or `500 ms`", words.join(" "));
    let [value, unit] = words else { return Err(wrong()) };
    let value: f64 = value.parse().map_err(|_| wrong())?;
    let seconds = match *unit {
        "s" => value,
        "ms" => value / 1000.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

fn mebibytes(word: &str) -> Result<u32, String> {
    let size = word.strip_suffix("MiB").and_then(|size| size.parse().ok());
    match size {
        Some(size) if size >= disk::LEAST_MIB => Ok(size),
        Some(_) => Err(format!("{word} is too small; xfs wants at least {}MiB", disk::LEAST_MIB)),
        None => Err(format!("`{word}` is no size; write for example `400MiB`")),
    }
}

#[cfg(test)]
mod tests;
