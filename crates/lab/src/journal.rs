//! What a member's log says about how it came back.

use std::fmt;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The rungs of the ladder by which a member comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    Follow,
    Rewind,
    Clone,
}

impl Rung {
    pub fn parse(word: &str) -> Option<Rung> {
        [Rung::Follow, Rung::Rewind, Rung::Clone].into_iter().find(|rung| rung.to_string() == word)
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rung::Follow => "follow",
            Rung::Rewind => "rewind",
            Rung::Clone => "clone",
        })
    }
}

/// How a member came back.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejoin {
    pub rung: Rung,
    /// What was moved.
    pub bytes: u64,
    /// How long the work on the directory took.
    pub seconds: f64,
}

impl fmt::Display for Rejoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rung {
            Rung::Follow => write!(f, "follow"),
            rung => write!(f, "{rung} {:.1} MB in {:.1} s", self.bytes as f64 / 1e6, self.seconds),
        }
    }
}

/// The present length of a log: what comes after it is news.
pub fn length(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// What was written to a log after it was `from` bytes long.
pub fn since(log: &Path, from: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = fs::File::open(log)
        && file.seek(SeekFrom::Start(from)).is_ok()
    {
        // What can be read of it is of use.
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = since(log, length(log).saturating_sub(1 << 16));
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The dearest rung that was climbed to its end in this piece of a log; `None`: it never came to stream from anybody.
pub fn rejoin(text: &str) -> Option<Rejoin> {
    let lines: Vec<&str> = text.lines().collect();
    let done = |what: &str| lines.iter().rposition(|line| line.contains(what));
    for (rung, told, job) in
        [(Rung::Clone, " cloned ", "cloning from"), (Rung::Rewind, " rewound ", "rewinding to")]
    {
        if let Some(place) = done(told) {
            let bytes = lines[place].split_once("bytes=").and_then(|(_, rest)| leading_number(rest));
            let begun = lines[..place]
                .iter()
                .rev()
                .find(|line| line.contains(&format!("begins job={job}")))
                .and_then(|line| time_of_day(line));
            let seconds = begun
                .zip(time_of_day(lines[place]))
                .map_or(0.0, |(begun, end)| (end - begun).rem_euclid(86_400.0));
            return Some(Rejoin { rung, bytes: bytes.unwrap_or(0), seconds });
        }
    }
    done("done: following")?;
    Some(Rejoin { rung: Rung::Follow, bytes: 0, seconds: 0.0 })
}

fn leading_number(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// Seconds since midnight of `2026-11-21T05:34:07.369981Z …`.
fn time_of_day(line: &str) -> Option<f64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let parts: Vec<f64> = time.split(':').filter_map(|part| part.parse().ok()).collect();
    match parts[..] {
        [hours, minutes, seconds] => Some(hours * 3600.0 + minutes * 60.0 + seconds),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rung_its_bytes_and_its_time_are_read_from_the_log() {
        let log = "2026-11-21T23:59:58.500000Z DEBUG begins job=rewinding to m2\n\
                   2026-11-22T00:00:00.750000Z  INFO rewound bytes=1234567 member=m2\n\
                   2026-11-22T00:00:01.000000Z  INFO done: following m2\n";
        let rejoin = rejoin(log).unwrap();
        assert_eq!((rejoin.rung, rejoin.bytes), (Rung::Rewind, 1_234_567));
        assert!((rejoin.seconds - 2.25).abs() < 1e-6, "{rejoin:?}");
        assert_eq!(rejoin.to_string(), "rewind 1.2 MB in 2.2 s");
    }

    #[test]
    fn following_is_what_is_left_when_nothing_was_moved() {
        assert_eq!(rejoin("x INFO done: following m2\n").map(|rejoin| rejoin.rung), Some(Rung::Follow));
        assert_eq!(rejoin("x INFO started\n"), None);
    }
}
