//! What became of each row that a client tried to write, and how long nobody could write.

use std::time::Duration;

use mainstay_core::Now;

/// Three outcomes, not two: a commit without an answer may or may not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// COMMIT was answered, and not after a cancelled wait for the standbys.
    Acknowledged,
    /// Refused, or never sent.
    Failed,
    /// No answer came.
    Unknown,
}

/// One row, tried once: every attempt has an id of its own.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub id: i64,
    pub begun: Now,
    pub ended: Now,
    pub outcome: Outcome,
    pub error: Option<String>,
    /// The SQLSTATE of the error, if a server or a proxy sent it.
    pub code: Option<String>,
}

/// A time without any acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub begin: Now,
    pub end: Now,
}

impl Gap {
    pub fn length(self) -> Duration {
        self.end.since(self.begin)
    }
}

/// Everything that one client has tried, in order.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub attempts: Vec<Attempt>,
    /// When it got each of its connections.
    pub connected: Vec<Now>,
}

impl History {
    pub fn acknowledged(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.outcome == Outcome::Acknowledged)
    }

    pub fn count(&self, outcome: Outcome) -> usize {
        self.attempts.iter().filter(|attempt| attempt.outcome == outcome).count()
    }

    pub fn newest_acknowledged(&self) -> Option<Now> {
        self.attempts
            .iter()
            .rev()
            .find(|attempt| attempt.outcome == Outcome::Acknowledged)
            .map(|attempt| attempt.ended)
    }

    /// The longest time between two acknowledgements of which the second came at or after `since`.
    pub fn longest_gap(&self, since: Now) -> Option<Gap> {
        let times: Vec<Now> = self.acknowledged().map(|attempt| attempt.ended).collect();
        let gaps = times.windows(2).map(|pair| Gap { begin: pair[0], end: pair[1] });
        gaps.filter(|gap| gap.end >= since).max_by_key(|gap| gap.length())
    }

    /// Since when acknowledgements have been coming without a pause longer than `pause`, up to now; `None`: they are not.
    pub fn steady_since(&self, now: Now, pause: Duration) -> Option<Now> {
        let mut since = None;
        let mut after = now;
        for attempt in self.attempts.iter().rev().filter(|attempt| attempt.outcome == Outcome::Acknowledged) {
            if after.since(attempt.ended) > pause {
                break;
            }
            since = Some(attempt.ended);
            after = attempt.ended;
        }
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(times_ms: &[(u64, Outcome)]) -> History {
        let attempt = |(id, (ms, outcome)): (usize, &(u64, Outcome))| Attempt {
            id: i64::try_from(id).unwrap(),
            begun: Now::from_millis(ms - 1),
            ended: Now::from_millis(*ms),
            outcome: *outcome,
            error: None,
            code: None,
        };
        History { attempts: times_ms.iter().enumerate().map(attempt).collect(), connected: Vec::new() }
    }

    use Outcome::{Acknowledged, Failed, Unknown};

    #[test]
    fn failures_do_not_end_a_gap() {
        let history = history(&[(10, Acknowledged), (20, Failed), (500, Unknown), (700, Acknowledged)]);
        let gap = history.longest_gap(Now(0)).unwrap();
        assert_eq!(gap.length(), Duration::from_millis(690));
        assert_eq!(history.longest_gap(Now::from_millis(701)), None);
        assert_eq!(history.count(Unknown), 1);
    }

    #[test]
    fn only_gaps_that_reach_past_the_mark_count() {
        let history =
            history(&[(10, Acknowledged), (900, Acknowledged), (1000, Acknowledged), (1150, Acknowledged)]);
        assert_eq!(history.longest_gap(Now::from_millis(950)).unwrap().length(), Duration::from_millis(150));
    }

    #[test]
    fn steady_means_no_pause_up_to_now() {
        let history =
            history(&[(100, Acknowledged), (600, Acknowledged), (610, Acknowledged), (650, Acknowledged)]);
        let pause = Duration::from_millis(100);
        assert_eq!(history.steady_since(Now::from_millis(700), pause), Some(Now::from_millis(600)));
        assert_eq!(history.steady_since(Now::from_millis(900), pause), None);
    }
}
