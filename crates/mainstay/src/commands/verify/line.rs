//! One line of what was checked.

use std::fmt;

use mainstay_core::MemberId;
use serde::Serialize;

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok,
    Fail,
    /// Works, but somebody should look.
    Warn,
    /// Could not be checked from here, or does not apply.
    Skip,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Ok => "ok",
            Outcome::Fail => "FAIL",
            Outcome::Warn => "warn",
            Outcome::Skip => "skip",
        })
    }
}

/// A finding, with what to do about it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// Filled in by whoever runs the check.
    pub(crate) check: &'static str,
    /// Whom it is about; `None`: the cluster.
    pub(crate) member: Option<MemberId>,
    pub(crate) outcome: Outcome,
    pub(crate) finding: String,
    pub(crate) remedy: Option<String>,
}

impl Line {
    fn new(outcome: Outcome, finding: impl Into<String>, remedy: Option<String>) -> Line {
        Line { check: "", member: None, outcome, finding: finding.into(), remedy }
    }

    pub(crate) fn ok(finding: impl Into<String>) -> Line {
        Line::new(Outcome::Ok, finding, None)
    }

    pub(crate) fn fail(finding: impl Into<String>, remedy: impl Into<String>) -> Line {
        Line::new(Outcome::Fail, finding, Some(remedy.into()))
    }

    pub(crate) fn warn(finding: impl Into<String>, remedy: impl Into<String>) -> Line {
        Line::new(Outcome::Warn, finding, Some(remedy.into()))
    }

    pub(crate) fn skip(why: impl Into<String>) -> Line {
        Line::new(Outcome::Skip, why, None)
    }

    /// Says whom it is about.
    #[must_use]
    pub(crate) fn of(mut self, member: &MemberId) -> Line {
        self.member = Some(member.clone());
        self
    }
}
