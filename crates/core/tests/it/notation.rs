//! Short words for what views are full of: times relative to now, voters, sync sets, histories.
//!
//! `2 s ago`, `in 300 ms` · `voter m2`, `voter m2 b2` (another life of its directory) · `sync 1 of m2 m3`, `sync lone` ·
//! `history 1 3@0/3000000`. They stand for a whole JSON string or an unquoted value.

use std::time::Duration;

use mainstay_core::lineage::Fork;
use mainstay_core::sync::{SyncSet, Voter};
use mainstay_core::{Incarnation, Lsn, MemberId, Now, Timeline};
use serde_json::{Value, json};

pub(crate) fn member(name: &str) -> MemberId {
    MemberId::new(name).unwrap_or_else(|error| panic!("{error}"))
}

/// The first life of a member's directory: `a2` for `m2`.
pub(crate) fn first_life(member: &MemberId) -> Incarnation {
    let number = member.as_str().trim_start_matches(|c: char| !c.is_ascii_digit());
    Incarnation(0xa0 + number.parse::<u32>().expect("a member of a scenario is a letter and a number"))
}

pub(crate) fn voter(words: &str) -> Voter {
    let (name, life) = words.split_once(' ').unwrap_or((words, ""));
    let member = member(name);
    let incarnation = if life.is_empty() { first_life(&member) } else { life.parse().expect("hexadecimal") };
    Voter { member, incarnation }
}

pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.trim().split_once(' ')?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "min" => 60.0,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    Some(Duration::from_millis((number * seconds * 1000.0).round() as u64))
}

/// A value as written in a scenario: JSON, `none`, or a text.
pub(crate) fn value(text: &str, now: Now) -> Value {
    let text = text.trim();
    if text == "none" {
        return Value::Null;
    }
    let mut value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    expand(&mut value, now);
    value
}

/// Replaces short words by what they stand for, everywhere.
fn expand(value: &mut Value, now: Now) {
    match value {
        Value::String(text) => {
            if let Some(long) = long(text, now) {
                *value = long;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| expand(item, now)),
        Value::Object(fields) => fields.values_mut().for_each(|field| expand(field, now)),
        _ => {}
    }
}

fn long(text: &str, now: Now) -> Option<Value> {
    let json = |value: Result<Value, serde_json::Error>| value.expect("representable in JSON");
    if let Some(ago) = text.strip_suffix(" ago").and_then(duration) {
        return Some(json!(now.minus(ago)));
    }
    if let Some(ahead) = text.strip_prefix("in ").and_then(duration) {
        return Some(json!(now.plus(ahead)));
    }
    let (kind, rest) = text.split_once(' ')?;
    match kind {
        "voter" => Some(json(serde_json::to_value(voter(rest)))),
        "sync" => Some(json(serde_json::to_value(sync(rest)))),
        "history" => Some(json(serde_json::to_value(history(rest)))),
        _ => None,
    }
}

/// `lone`, or `1 of m2 m3`.
fn sync(words: &str) -> SyncSet {
    if words == "lone" {
        return SyncSet::lone();
    }
    let (k, voters) = words.split_once(" of ").expect("sync lone, or sync K of MEMBERS");
    SyncSet { voters: voters.split(' ').map(voter).collect(), k: k.parse().expect("a number before `of`") }
}

/// `1 3@0/3000000`: timelines and where they begin.
pub(crate) fn history(words: &str) -> Vec<Fork> {
    let fork = |word: &str| {
        let (timeline, begin) = word.split_once('@').unwrap_or((word, "0/0"));
        let timeline = Timeline(timeline.parse().expect("a timeline's number"));
        Fork { timeline, begin: begin.parse().expect("a WAL position") }
    };
    words.split(' ').map(fork).collect()
}

/// The way back: what a decision says, in the same words.
pub(crate) fn shorten(value: &mut Value) {
    if let Some(short) = short(value) {
        *value = Value::from(short);
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

fn short(value: &Value) -> Option<String> {
    let fields = |names: &[&str]| {
        value.as_object().is_some_and(|object| object.keys().map(String::as_str).eq(names.iter().copied()))
    };
    if fields(&["incarnation", "member"]) {
        return Some(format!("voter {}", voter_words(&serde_json::from_value(value.clone()).ok()?)));
    }
    if fields(&["k", "voters"]) {
        let set: SyncSet = serde_json::from_value(value.clone()).ok()?;
        if set.is_lone() {
            return Some("sync lone".to_owned());
        }
        // Two lives at once can be told apart only in full.
        if set.voters.iter().any(|voter| voter.incarnation != first_life(&voter.member)) {
            return None;
        }
        let voters: Vec<String> = set.voters.iter().map(voter_words).collect();
        return Some(format!("sync {} of {}", set.k, voters.join(" ")));
    }
    let forks: Vec<Fork> =
        serde_json::from_value(value.clone()).ok().filter(|forks: &Vec<_>| !forks.is_empty())?;
    let words = forks.iter().map(|fork| match fork.begin {
        Lsn::ZERO => fork.timeline.to_string(),
        begin => format!("{}@{begin}", fork.timeline),
    });
    Some(format!("history {}", words.collect::<Vec<_>>().join(" ")))
}

fn voter_words(voter: &Voter) -> String {
    if voter.incarnation == first_life(&voter.member) {
        voter.member.to_string()
    } else {
        format!("{} {:x}", voter.member, voter.incarnation.0)
    }
}

#[test]
fn what_is_short_is_read_as_it_was_written() {
    for text in ["voter m2", "voter m2 b2", "sync lone", "sync 1 of m2 m3", "history 1 3@0/3000000"] {
        let mut there = value(text, Now(0));
        assert!(!there.is_string(), "{text}");
        shorten(&mut there);
        assert_eq!(there, Value::from(text));
    }
    let now = Now::from_millis(5_000);
    assert_eq!(value("1.5 s ago", now), json!(3_500_000_000_u64));
    assert_eq!(value(r#"["in 20 ms", 7, "ms ago"]"#, now), json!([5_020_000_000_u64, 7, "ms ago"]));
    assert_eq!(value("none", now), Value::Null);
    assert_eq!(value("0/3000000", now), json!("0/3000000"));
}
