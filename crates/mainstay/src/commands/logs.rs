//! `logs`: what Mainstay, its guards and PostgreSQL have logged on all members, by time.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use mainstay_core::MemberId;
use mainstay_member::logs::{Entry, Logs, Wanted, read};
use mainstay_member::{Configuration, roster};

use crate::cli::logs::LogsOptions;
use crate::client::Control;
use crate::output::println;
use crate::{configuration, when};

/// How often it is looked for more.
const INTERVAL: Duration = Duration::from_secs(1);

/// An entry and whose it is.
pub(crate) struct Line {
    pub(crate) member: MemberId,
    pub(crate) entry: Entry,
}

/// What members were asked, and what they have answered so far.
pub(crate) struct Asked {
    configuration: Configuration,
    members: Vec<MemberId>,
    cursors: BTreeMap<MemberId, String>,
    /// Why a member has not answered the last time.
    silent: BTreeMap<MemberId, String>,
    /// What was last said of a member.
    told: BTreeMap<MemberId, String>,
    since_unix_us: u64,
    last: usize,
}

pub(crate) async fn run(options: &LogsOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.config.config)?;
    let mut asked = Asked::new(configuration, options.member.as_ref(), options.since, options.last)?;
    let mut lines = asked.ask().await;
    loop {
        for line in &lines {
            match options.json {
                true => println!("{}", line.json()),
                false => println!("{}", line.text()),
            }
        }
        if !options.follow {
            // Nobody at all has answered: that is no empty log.
            let nobody = asked.silent.len() == asked.members.len();
            return Ok(if nobody { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        tokio::time::sleep(INTERVAL).await;
        lines = asked.ask().await;
    }
}

impl Asked {
    /// All members, or `only` that one; at most the `last` entries, none older than `since`.
    pub(crate) fn new(
        configuration: Configuration,
        only: Option<&MemberId>,
        since: Option<Duration>,
        last: Option<usize>,
    ) -> Result<Asked> {
        let members: Vec<MemberId> = roster::load(&configuration)?.into_keys().collect();
        let members = match only {
            Some(only) if members.contains(only) => vec![only.clone()],
            Some(only) => {
                let known: Vec<&str> = members.iter().map(MemberId::as_str).collect();
                bail!("there is no member {only}; there are {}", known.join(", "));
            }
            None => members,
        };
        let ago_us = |since: Duration| u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        let since_unix_us = since.map_or(0, |since| (when::now_ms() * 1_000).saturating_sub(ago_us(since)));
        let last = last.unwrap_or(if since.is_some() { MOST_ENTRIES } else { 100 });
        Ok(Asked {
            configuration,
            members,
            cursors: BTreeMap::new(),
            silent: BTreeMap::new(),
            told: BTreeMap::new(),
            since_unix_us,
            last,
        })
    }

    /// What is new, by time. Whoever does not answer is told of on standard error, once.
    pub(crate) async fn ask(&mut self) -> Vec<Line> {
        let is_first = self.cursors.is_empty();
        let mut answers = tokio::task::JoinSet::new();
        for member in &self.members {
            let (member, configuration) = (member.clone(), self.configuration.clone());
            let cursor = self.cursors.get(&member).cloned();
            let (since_unix_us, last) = (self.since_unix_us, self.last);
            answers.spawn(async move {
                let answer = ask_one(&configuration, &member, since_unix_us, cursor, last).await;
                (member, answer)
            });
        }
        let mut lines = Vec::new();
        let mut is_cut = false;
        while let Some(answer) = answers.join_next().await {
            let Ok((member, answer)) = answer else { continue };
            self.silent.remove(&member);
            let said = match answer {
                Ok((logs, remark)) => {
                    is_cut |= logs.left_out;
                    self.cursors.insert(member.clone(), logs.cursor);
                    lines
                        .extend(logs.entries.into_iter().map(|entry| Line { member: member.clone(), entry }));
                    remark
                }
                Err(error) => {
                    self.silent.insert(member.clone(), format!("{error:#}"));
                    Some(format!("{error:#}"))
                }
            };
            self.remark(member, said);
        }
        lines.sort_by_key(|line| line.entry.at_unix_us);
        if is_first && lines.len() > self.last {
            lines.drain(..lines.len() - self.last);
            is_cut = true;
        }
        if is_first && is_cut && self.since_unix_us > 0 {
            eprintln!("mainstay: older entries are left out; see more with --last N, at most {MOST_ENTRIES}");
        }
        lines
    }

    fn remark(&mut self, member: MemberId, said: Option<String>) {
        match said {
            Some(said) => {
                if self.told.get(&member) != Some(&said) {
                    eprintln!("mainstay: {member}: {said}");
                }
                self.told.insert(member, said);
            }
            None if self.told.remove(&member).is_some() => {
                eprintln!("mainstay: {member}: it answers again")
            }
            None => {}
        }
    }

    /// Who has not answered, and why.
    pub(crate) fn silent(&self) -> &BTreeMap<MemberId, String> {
        &self.silent
    }
}

/// The most that a member answers at a time.
pub(crate) const MOST_ENTRIES: usize = mainstay_member::control::MOST_LOG_ENTRIES;

/// This machine's files can be read without its member.
async fn ask_one(
    configuration: &Configuration,
    member: &MemberId,
    since_unix_us: u64,
    cursor: Option<String>,
    last: usize,
) -> Result<(Logs, Option<String>)> {
    let mut parameters = format!("since_unix_us={since_unix_us}&last={last}");
    if let Some(cursor) = &cursor {
        parameters = format!("{parameters}&after={cursor}");
    }
    match Control::on(configuration, Some(member)).logs(&parameters).await {
        Ok(logs) => Ok((logs, None)),
        Err(_) if *member == configuration.me => {
            let after = cursor.and_then(|cursor| cursor.parse().ok());
            let (directory, wanted) =
                (configuration.directory.clone(), Wanted { since_unix_us, after, last });
            let logs = tokio::task::spawn_blocking(move || read(&directory, &wanted)).await?;
            Ok((logs, Some("it does not run; this is read from its files".to_owned())))
        }
        Err(error) => Err(error),
    }
}

impl Line {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let Line { member, entry } = self;
        format!("{} {member} {:10} {}", when::utc(entry.at_unix_us), entry.source.as_str(), entry.text)
    }

    fn json(&self) -> serde_json::Value {
        let Line { member, entry } = self;
        serde_json::json!({
            "at": when::utc(entry.at_unix_us), "at_unix_us": entry.at_unix_us, "member": member,
            "source": entry.source, "text": entry.text,
        })
    }
}
