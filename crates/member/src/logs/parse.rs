//! From lines to entries with their time.
//!
//! Mainstay writes RFC 3339, or JSON with `--log-json`; PostgreSQL what `log_line_prefix` says, which begins with `%m` unless
//! somebody has changed it. A line that begins with no time goes on with the one before.

use super::{Entry, LONGEST_ENTRY, Source};

const QUARTER_US: i64 = 15 * 60 * 1_000_000;

/// `newest_unix_us` is when the last line was written, about.
pub(super) fn entries(source: Source, text: &str, newest_unix_us: u64) -> Vec<Entry> {
    let mut found: Vec<(Option<Stamp>, String)> = Vec::new();
    for line in text.lines() {
        match (stamp(line), found.last_mut()) {
            (Some((stamp, rest)), _) => found.push((Some(stamp), rest)),
            (None, Some((_, text))) if text.len() + line.len() < LONGEST_ENTRY => {
                text.push('\n');
                text.push_str(line);
            }
            (None, Some(_)) => {}
            (None, None) => found.push((None, line.to_owned())),
        }
    }
    // The names of zones are ambiguous. The last line tells how far its clock is from UTC: in quarters of an hour, as zones are.
    let newest = i64::try_from(newest_unix_us).unwrap_or(i64::MAX);
    let last = found.iter().rev().find_map(|(stamp, _)| stamp.as_ref().filter(|stamp| !stamp.is_utc));
    let offset =
        last.map_or(0, |last| (last.us - newest + QUARTER_US / 2).div_euclid(QUARTER_US) * QUARTER_US);
    let at = |stamp: Option<Stamp>| match stamp {
        Some(stamp) => u64::try_from(stamp.us - if stamp.is_utc { 0 } else { offset }).unwrap_or(0),
        None => newest_unix_us,
    };
    found
        .into_iter()
        .map(|(stamp, mut text)| {
            if text.len() > LONGEST_ENTRY {
                let end = (0..=LONGEST_ENTRY).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
                text.truncate(end);
                text.push('…');
            }
            Entry { at_unix_us: at(stamp), source, text }
        })
        .collect()
}

/// A time as it was written.
struct Stamp {
    us: i64,
    /// Whether `us` counts from 1970 in UTC, and not in a zone with a name.
    is_utc: bool,
}

/// The time that a line begins with, and what follows it.
fn stamp(line: &str) -> Option<(Stamp, String)> {
    if line.starts_with('{') {
        return json(line);
    }
    let local = local_us(line.get(..19)?)?;
    let mut rest = &line[19..];
    let mut fraction_us = 0;
    if let Some(digits) = rest.strip_prefix('.') {
        let count = digits.bytes().take_while(u8::is_ascii_digit).count();
        let six: String = digits[..count].chars().chain("000000".chars()).take(6).collect();
        fraction_us = six.parse().ok()?;
        rest = &digits[count..];
    }
    let us = local + fraction_us;
    if let Some(rest) = rest.strip_prefix('Z') {
        return Some((Stamp { us, is_utc: true }, rest.trim_start().to_owned()));
    }
    let (zone, rest) = rest.strip_prefix(' ')?.split_once(' ').unwrap_or((rest.trim(), ""));
    let rest = rest.trim_start().to_owned();
    match (zone, minutes(zone)) {
        ("UTC" | "GMT", _) => Some((Stamp { us, is_utc: true }, rest)),
        (_, Some(minutes)) => Some((Stamp { us: us - minutes * 60_000_000, is_utc: true }, rest)),
        _ => Some((Stamp { us, is_utc: false }, rest)),
    }
}

/// A zone without a name: `+03` or `-0330`.
fn minutes(zone: &str) -> Option<i64> {
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let number: i64 = digits.parse().ok()?;
    match digits.len() {
        2 => Some(sign * number * 60),
        4 => Some(sign * (number / 100 * 60 + number % 100)),
        _ => None,
    }
}

fn json(line: &str) -> Option<(Stamp, String)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let at = value["timestamp"].as_str()?;
    let (stamp, _) = stamp(at).or_else(|| stamp(&format!("{at} ")))?;
    let mut text = value["level"].as_str().unwrap_or_default().to_owned();
    let fields = value["fields"].as_object()?;
    let shown = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Some(message) = fields.get("message") {
        text = format!("{text} {}", shown(message));
    }
    for (name, value) in fields.iter().filter(|(name, _)| *name != "message") {
        text = format!("{text} {name}={}", shown(value));
    }
    Some((stamp, text))
}

/// `2026-11-27 18:51:07`, or with a `T`, as microseconds since 1970 where it was written.
fn local_us(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, wanted)| bytes[*at] != *wanted) || !matches!(bytes[10], b' ' | b'T') {
        return None;
    }
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    // Howard Hinnant's `days_from_civil` (public domain).
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000)
}
