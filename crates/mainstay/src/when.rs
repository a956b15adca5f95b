//! Times that people type: a length of time from now, a time of today, or a whole date.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use mainstay_member::operation::words;

const DAY_MS: u64 = 86_400_000;

/// Milliseconds since 1970 of what was typed: `30m`, `14:30` (the next one, by this machine's time zone), RFC 3339.
pub(crate) fn parse(text: &str) -> Result<u64> {
    let now = now_ms();
    if let Some(length) = length_ms(text) {
        return Ok(now.saturating_add(length));
    }
    if let Some((hour, minute)) = time_of_day(text) {
        return next(hour, minute, now);
    }
    match rfc_3339(text) {
        Some(time) => Ok(time),
        None => bail!("{text:?} is no time; write for example 30m, 14:30 or 2026-12-01T14:30:00Z"),
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Microseconds since 1970 in UTC, as RFC 3339 has it; without a fraction where it is whole seconds.
pub(crate) fn utc(unix_us: u64) -> String {
    let (whole, us) = (words(unix_us / 1_000), unix_us % 1_000_000);
    if us == 0 { whole } else { format!("{}.{us:06}Z", whole.trim_end_matches('Z')) }
}

fn length_ms(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let unit_ms = match &text[digits..] {
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => DAY_MS,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit_ms)
}

fn time_of_day(text: &str) -> Option<(u64, u64)> {
    let (hour, minute) = text.split_once(':')?;
    if !(1..=2).contains(&hour.len()) || minute.len() != 2 {
        return None;
    }
    let (hour, minute) = (number(hour)?, number(minute)?);
    (hour < 24 && minute < 60).then_some((hour, minute))
}

/// Where the local day begins is a matter of the time zone's rules, which `date` knows.
fn next(hour: u64, minute: u64, now: u64) -> Result<u64> {
    for day in ["today", "tomorrow"] {
        let text = format!("{day} {hour:02}:{minute:02}");
        let output = Command::new("date").arg(format!("--date={text}")).arg("+%s").output();
        let output = output
            .context("cannot run date, which knows the time zone; write the time as 2026-12-01T14:30:00Z")?;
        let seconds: Option<u64> = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
        let Some(seconds) = seconds else {
            bail!("there is no {hour:02}:{minute:02} {day} in this time zone")
        };
        if seconds * 1_000 > now {
            return Ok(seconds * 1_000);
        }
    }
    bail!("{hour:02}:{minute:02} is neither today nor tomorrow")
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn rfc_3339(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (number(date.next()?)?, number(date.next()?)?, number(date.next()?)?);
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let mut time = rest[..zone].splitn(3, ':');
    let (hour, minute) = (number(time.next()?)?, number(time.next()?)?);
    let second = time.next().map_or(Some(0), |second| number(second.split('.').next()?))?;
    let valid = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    let seconds = (days_before(year, month) + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second;
    let offset = offset_seconds(&rest[zone..])?;
    valid.then(|| u64::try_from(i64::try_from(seconds).ok()? - offset).ok())?.map(|seconds| seconds * 1_000)
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone[1..].split_once(':')?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then(|| sign * i64::try_from(hours * 3_600 + minutes * 60).unwrap_or(0))
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first of the month.
fn days_before(year: u64, month: u64) -> u64 {
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    years + (1..month).map(|month| days_in(year, month)).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(1_790_000_000_000_000), "2026-09-21T14:13:20Z");
        assert_eq!(utc(951_782_400_250_000), "2000-02-29T00:00:00.250000Z");
    }

    #[test]
    fn dates_are_read_with_their_zone() {
        assert_eq!(parse("1970-01-01T00:00:00Z").ok(), Some(0));
        assert_eq!(parse("2026-09-21T14:13:20Z").ok(), Some(1_790_000_000_000));
        assert_eq!(parse("2026-09-21T16:13:20+02:00").ok(), Some(1_790_000_000_000));
        assert_eq!(parse("2026-09-21 08:43:20-05:30").ok(), Some(1_790_000_000_000));
        assert_eq!(parse("2000-02-29T12:15:54.5Z").ok(), Some(951_826_554_000));
        assert_eq!(parse("2026-09-21T14:13Z").ok(), Some(1_789_999_980_000));
    }

    #[test]
    fn what_is_no_time_is_refused_with_an_example() {
        for text in
            ["", "soon", "25:00", "12:60", "2026-02-30T00:00:00Z", "2026-09-21T13:33:20", "3 weeks", "1:2:3"]
        {
            let said = parse(text).expect_err(text).to_string();
            assert!(said.contains("write for example 30m"), "{text}: {said}");
        }
    }

    #[test]
    fn lengths_and_times_of_day_are_to_come() {
        let now = now_ms();
        assert!((now + 1_800_000..now + 1_830_000).contains(&parse("30m").expect("a length")));
        let next = parse("04:05").expect("a time of day");
        assert!(next > now && next <= now + 2 * DAY_MS);
        assert_eq!(next % 60_000, 0);
    }
}
