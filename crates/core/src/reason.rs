//! Why: one variant per rule, rendered to the sentence that stands in the log, in `status` and in `explain`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::action::{Job, Kill};
use crate::election::{Missing, Unproven};
use crate::record::{EndCause, HeldBack};
use crate::sync::SyncSet;
use crate::vocabulary::{Epoch, Lsn, MemberId, Timeline};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    RecordUnknown,
    ServerUnknown,
    Witness,
    FoundingHere,
    WaitingForFounder { founder: MemberId },
    ForeignDirectory { why: String },
    NothingLeftYet,
    Killing { why: Kill },
    EpochEnded { epoch: Epoch, cause: EndCause },
    LeaseRunOut { epoch: Epoch, voters: Vec<MemberId> },
    LettingAddressesGo { epoch: Epoch },
    GrantTooLate { epoch: Epoch },
    Opening { epoch: Epoch, timeline: Timeline },
    OpeningFailed { epoch: Epoch, error: String },
    RecordingOpening { epoch: Epoch, timeline: Timeline, fork: Lsn },
    Primary { epoch: Epoch },
    PrimaryWithoutMajority { epoch: Epoch },
    Hung { what: String },
    HungButNobodyElse { what: String },
    SwitchingOver { to: MemberId },
    SwitchoverWaits { to: Option<MemberId> },
    SwitchoverCancelled { why: String },
    Sealing { epoch: Epoch },
    Reporting { epoch: Epoch, end: Lsn },
    NothingToReport { operation: String },
    WaitingForReports { epoch: Epoch, missing: Vec<MemberId> },
    Chosen { epoch: Epoch, ranking: Vec<MemberId> },
    WaitingForChosen { epoch: Epoch, chosen: MemberId },
    NotProven { epoch: Epoch, me: Unproven, holder: Option<MemberId> },
    CrashLoop { crashes: usize, wait_s: u64 },
    WaitingForOpening { epoch: Epoch, holder: MemberId },
    ReadingRecord { epoch: Epoch },
    Following { member: MemberId, epoch: Epoch },
    StartingToFollow { member: MemberId, epoch: Epoch },
    NotStreaming { member: MemberId, seconds: u64 },
    Rewinding { member: MemberId, timeline: Timeline, bytes: u64 },
    Cloning { member: MemberId, why: String },
    GoingOn { job: Job },
    WaitingForSource { member: MemberId, what: String },
    BackingOff { job: Job, error: String },
    WaitingForGate { attached: usize, needed: u32 },
    OpeningGate { epoch: Epoch },
    ChangingSync { from: SyncSet, to: SyncSet },
    Degrading { lost: Vec<MemberId> },
    EndingStranger { application_name: String },
    RaisingFormat { to: u32 },
    ChangingVoters { from: Vec<MemberId>, to: Vec<MemberId> },
    SettlingVoters { outgoing: Vec<MemberId> },
    RemovingMember { member: MemberId },
    HeldBack { epoch: Epoch, member: MemberId, why: HeldBack },
    Forced { epoch: Epoch, missing: Missing },
    HungWhilePaused { what: String },
    LeftStopped { paused: bool },
    PauseOver { member: Option<MemberId> },
    CopiedAnew { member: MemberId },
    SwitchoverDue { to: Option<MemberId> },
    Withdrawn { why: String },
    HandingOver,
    NobodyToHandOverTo,
    RestartingInPlace { epoch: Epoch },
    StoppingForRestart,
    Restarted,
    RestartBySwitchover,
    RestartTurn { member: MemberId },
    RestartWaits { what: String },
    RestartGivenUp { why: String },
    RestartDone,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let described = self.describe_waiting(f).or_else(|| self.describe_epoch(f));
        described
            .or_else(|| self.describe_members(f))
            .or_else(|| self.describe_operation(f))
            .or_else(|| self.describe_restart(f))
            .unwrap_or_else(|| self.describe_rest(f))
    }
}

fn list(members: &[MemberId]) -> String {
    match members {
        [] => "nobody".to_owned(),
        [one] => one.to_string(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(MemberId::as_str).collect();
            format!("{} and {last}", first.join(", "))
        }
    }
}

fn sync_words(sync: &SyncSet) -> String {
    if sync.is_lone() {
        return "the primary alone".to_owned();
    }
    let members: Vec<MemberId> = sync.voters.iter().map(|voter| voter.member.clone()).collect();
    format!("the primary and {} of {}", sync.k, list(&members))
}

impl Reason {
    fn describe_waiting(&self, f: &mut fmt::Formatter<'_>) -> Option<fmt::Result> {
        Some(match self {
            Reason::RecordUnknown => {
                write!(f, "waiting for the cluster's record: a majority of the voters must be up")
            }
            Reason::ServerUnknown => write!(f, "waiting for the guard to say what is running"),
            Reason::Witness => write!(f, "a witness votes and runs no PostgreSQL"),
            Reason::WaitingForFounder { founder } => {
                write!(f, "waiting for {founder} to make the first data directory")
            }
            Reason::NothingLeftYet => write!(f, "waiting until no process of the old PostgreSQL is left"),
            Reason::NothingToReport { operation } => write!(f, "nothing to report: {operation}"),
            Reason::WaitingForReports { epoch, missing } => {
                write!(f, "epoch {epoch} has ended; waiting for the report of {}", list(missing))
            }
            Reason::WaitingForChosen { epoch, chosen } => {
                write!(f, "epoch {epoch} has ended; {chosen} holds the most and is to take over")
            }
            Reason::WaitingForOpening { epoch, holder } => {
                write!(f, "epoch {epoch} is granted to {holder}, which is being promoted")
            }
            Reason::LettingAddressesGo { epoch } => {
                write!(f, "ending epoch {epoch} once the virtual addresses are gone from here")
            }
            Reason::ReadingRecord { epoch } => write!(f, "making sure that epoch {epoch} is the newest"),
            Reason::WaitingForSource { member, what } => write!(f, "waiting for {member}: {what}"),
            Reason::BackingOff { job, error } => {
                write!(f, "{job} failed and is tried again shortly: {error}")
            }
            Reason::WaitingForGate { attached, needed } => write!(
                f,
                "applications wait until {needed} voters hold the new timeline; {attached} do so far"
            ),
            Reason::SwitchoverWaits { to: Some(to) } => write!(f, "the switchover waits until {to} streams"),
            Reason::SwitchoverWaits { to: None } => write!(f, "the switchover waits until a voter streams"),
            Reason::CrashLoop { crashes, wait_s } => write!(
                f,
                "PostgreSQL died {crashes} times within minutes and nobody else can take over; next try in {wait_s} s"
            ),
            _ => return None,
        })
    }

    fn describe_epoch(&self, f: &mut fmt::Formatter<'_>) -> Option<fmt::Result> {
        Some(match self {
            Reason::FoundingHere => write!(f, "making the first data directory"),
            Reason::EpochEnded { epoch, cause } => write!(f, "ending epoch {epoch}: {cause}"),
            Reason::LeaseRunOut { epoch, voters } => {
                write!(f, "the lease of epoch {epoch} has run out at {}: nobody can write", list(voters))
            }
            Reason::GrantTooLate { epoch } => {
                write!(f, "the grant of epoch {epoch} came too late and is void")
            }
            Reason::Opening { epoch, timeline } => {
                write!(f, "promoting under epoch {epoch} to timeline {timeline}")
            }
            Reason::OpeningFailed { epoch, error } => write!(f, "epoch {epoch} could not be opened: {error}"),
            Reason::RecordingOpening { epoch, timeline, fork } => {
                write!(f, "promoted: epoch {epoch}, timeline {timeline} from {fork}")
            }
            Reason::Primary { epoch } => write!(f, "primary of epoch {epoch}"),
            Reason::PrimaryWithoutMajority { epoch } => {
                write!(
                    f,
                    "the lease of epoch {epoch} could not be renewed by a majority; the guard ends PostgreSQL"
                )
            }
            Reason::Sealing { epoch } => write!(f, "epoch {epoch} is over: streaming from it ends for good"),
            Reason::Reporting { epoch, end } => write!(f, "epoch {epoch} is over: reporting WAL up to {end}"),
            Reason::Chosen { epoch, ranking } => write!(
                f,
                "epoch {epoch} has ended; this member holds every acknowledged commit and is furthest (then {})",
                list(ranking.get(1..).unwrap_or_default())
            ),
            Reason::NotProven { epoch, me, holder: Some(holder) } => write!(
                f,
                "epoch {epoch} has ended and nobody can take over safely: {me}; waiting for more voters or for {holder}"
            ),
            Reason::NotProven { epoch, me, holder: None } => {
                write!(f, "epoch {epoch} has ended and nobody can take over safely: {me}")
            }
            _ => return None,
        })
    }

    fn describe_members(&self, f: &mut fmt::Formatter<'_>) -> Option<fmt::Result> {
        Some(match self {
            Reason::RaisingFormat { to } => {
                write!(f, "every member reads format {to} of the record: it is written so from now on")
            }
            Reason::ChangingVoters { from, to } => {
                write!(f, "the voters are {} from now on, instead of {}", list(to), list(from))
            }
            Reason::SettlingVoters { outgoing } => {
                write!(
                    f,
                    "the lease rests on the new voters: those before ({}) count no more",
                    list(outgoing)
                )
            }
            Reason::RemovingMember { member } => {
                write!(f, "nothing rests on {member} any more: it leaves the cluster")
            }
            _ => return None,
        })
    }

    fn describe_operation(&self, f: &mut fmt::Formatter<'_>) -> Option<fmt::Result> {
        Some(match self {
            Reason::HeldBack { epoch, member, why } => {
                write!(f, "epoch {epoch} has ended; {member} could take over, but {why}")
            }
            Reason::Forced { epoch, missing } => {
                write!(
                    f,
                    "epoch {epoch} has ended; an operator has this member promoted without proof: {missing}"
                )
            }
            Reason::HungWhilePaused { what } => {
                write!(f, "{what}; the cluster is paused, so nothing is done about it: mainstay resume")
            }
            Reason::LeftStopped { paused: true } => {
                write!(
                    f,
                    "PostgreSQL is stopped and left so: the cluster is paused; go on with: mainstay resume"
                )
            }
            Reason::LeftStopped { paused: false } => write!(
                f,
                "PostgreSQL is stopped and left so: this member is in maintenance; end that with: mainstay maintenance --off"
            ),
            Reason::PauseOver { member: None } => {
                write!(f, "the time of the pause is over: the cluster goes on")
            }
            Reason::PauseOver { member: Some(member) } => {
                write!(f, "the time of the maintenance of {member} is over")
            }
            Reason::CopiedAnew { member } => {
                write!(f, "{member} has another data directory than was given up")
            }
            Reason::SwitchoverDue { to: Some(to) } => write!(f, "the switchover to {to} is due"),
            Reason::SwitchoverDue { to: None } => write!(f, "the scheduled switchover is due"),
            Reason::Withdrawn { why } => write!(f, "what an operator asked for is not done: {why}"),
            Reason::HandingOver => write!(f, "this member is to go: another one takes over first"),
            Reason::NobodyToHandOverTo => {
                write!(
                    f,
                    "this member is to go, but no voter streams that could take over: it goes on as primary"
                )
            }
            _ => return None,
        })
    }

    fn describe_restart(&self, f: &mut fmt::Formatter<'_>) -> Option<fmt::Result> {
        Some(match self {
            Reason::RestartingInPlace { epoch } => {
                write!(f, "stopping PostgreSQL to restart it where it is; epoch {epoch} ends with it")
            }
            Reason::StoppingForRestart => write!(f, "stopping PostgreSQL to restart it"),
            Reason::Restarted => write!(f, "PostgreSQL was restarted and streams again"),
            Reason::RestartBySwitchover => {
                write!(f, "PostgreSQL is restarted here next: another member takes over first")
            }
            Reason::RestartTurn { member } => write!(f, "PostgreSQL of {member} is restarted next"),
            Reason::RestartWaits { what } => write!(f, "the restart waits: {what}"),
            Reason::RestartGivenUp { why } => write!(f, "the restart is given up: {why}"),
            Reason::RestartDone => write!(f, "nobody is left to be restarted"),
            _ => return None,
        })
    }

    fn describe_rest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::ForeignDirectory { why } => write!(f, "the data directory is left alone: {why}"),
            Reason::Killing { why } => write!(f, "ending PostgreSQL at once: {why}"),
            Reason::Hung { what } => write!(f, "stepping down: {what}"),
            Reason::HungButNobodyElse { what } => write!(f, "{what}, but no other member could take over"),
            Reason::SwitchingOver { to } => write!(f, "stopping PostgreSQL for a switchover to {to}"),
            Reason::SwitchoverCancelled { why } => write!(f, "the switchover is cancelled: {why}"),
            Reason::Following { member, epoch } => write!(f, "streaming from {member}, epoch {epoch}"),
            Reason::StartingToFollow { member, epoch } => {
                write!(f, "starting to stream from {member}, epoch {epoch}")
            }
            Reason::NotStreaming { member, seconds } => {
                write!(f, "should stream from {member} but has not for {seconds} s")
            }
            Reason::Rewinding { member, timeline, bytes } => write!(
                f,
                "{bytes} bytes on timeline {timeline} never became part of the cluster: rewinding to {member}"
            ),
            Reason::Cloning { member, why } => write!(f, "cloning from {member}: {why}"),
            Reason::GoingOn { job } => write!(f, "{job} is under way"),
            Reason::OpeningGate { epoch } => {
                write!(f, "epoch {epoch} is safe to use: letting applications in")
            }
            Reason::ChangingSync { from, to } if from == to => {
                write!(f, "making sure that commits are acknowledged by {}", sync_words(to))
            }
            Reason::ChangingSync { from, to } => {
                write!(f, "commits are acknowledged by {} instead of {}", sync_words(to), sync_words(from))
            }
            Reason::Degrading { lost } => write!(
                f,
                "{} lost: going on with fewer acknowledgements, so a loss of this machine could lose commits",
                list(lost)
            ),
            Reason::EndingStranger { application_name } => {
                write!(f, "ending a walsender that speaks for nobody: {application_name}")
            }
            // The other variants are described by the functions above.
            _ => write!(f, "{self:?}"),
        }
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kill::EpochOver => "its epoch is over",
            Kill::PromotedByOutsideHand => "it left recovery without a grant (was it promoted by hand?)",
            Kill::WrongTimeline => "it came up on another timeline than was reserved",
            Kill::NotOpenedInTime => "it was not open before its grant was void",
            Kill::Hung => "it does not answer",
            Kill::DirectoryGone => "its data directory is gone",
            Kill::FailoverAsked => "an operator asked for a failover",
        })
    }
}
