//! What an operator asks for, written into the record: pause, maintenance, a new copy, a failover, a switchover at a time.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use mainstay_core::election::Missing;
use mainstay_core::record::{Applied, Command, Failover, Forced, Kind, Operate, Pause, Scheduled};
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId};
use serde::{Deserialize, Serialize};

use super::input::Asked;
use super::{Control, Refuse};
use crate::clock;
use crate::operation::Holding;
use crate::status::{MemberStatus, Role, Status};

/// How long a request may take to reach the record.
const RECORD_PATIENCE: Duration = Duration::from_secs(2);

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct OperateAnswer {
    /// Whether it was not so already.
    pub changed: bool,
    /// The number of what was asked for, where `status` shows later what became of it.
    pub id: Option<u64>,
    pub epoch: Epoch,
    /// The primary when it was asked for.
    pub primary: Option<MemberId>,
}

/// `pause`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    pub by: String,
    pub until_unix_ms: Option<u64>,
}

/// `maintenance`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceRequest {
    pub member: MemberId,
    /// Whether it is to be over.
    pub off: bool,
    pub by: String,
    pub until_unix_ms: Option<u64>,
}

/// `reinit`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReinitRequest {
    pub member: MemberId,
}

/// `switchover --at`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleRequest {
    /// `None`: the scheduled one is taken back.
    pub due_unix_ms: Option<u64>,
    pub to: Option<MemberId>,
}

/// `failover`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverRequest {
    pub to: Option<MemberId>,
    /// What an operator was shown of a member that is not proven, and accepts to go on with.
    pub accept: Option<AcceptedLoss>,
}

/// One member's holding, as it was shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedLoss {
    pub member: MemberId,
    pub epoch: Epoch,
    pub incarnation: Incarnation,
    pub end: Lsn,
    pub missing_bytes: u64,
}

type Answer = Result<Json<OperateAnswer>, Refuse>;

async fn propose(control: &Control, what: Operate, id: Option<u64>) -> Answer {
    let status = control.seen.status.borrow().clone();
    let command = Command::Operate(what);
    let changed = match control.proposer.propose(&command, RECORD_PATIENCE).await? {
        Applied::Done => true,
        Applied::Already => false,
        Applied::Refused(refusal) => return Err(Refuse::conflict(refusal.to_string())),
    };
    Ok(Json(OperateAnswer { changed, id, epoch: status.epoch, primary: status.primary.clone() }))
}

fn in_future(until_unix_ms: Option<u64>) -> Result<(), Refuse> {
    match until_unix_ms {
        Some(until) if until <= clock::unix_ms() => {
            Err(Refuse::bad_input("that time is over already").remedy("name one that is to come"))
        }
        _ => Ok(()),
    }
}

fn row<'a>(status: &'a Status, member: &MemberId) -> Result<&'a MemberStatus, Refuse> {
    let row = status.members.iter().find(|row| row.name == *member);
    let row = row.ok_or_else(|| Refuse::no_such_member(member, status))?;
    if row.kind == Kind::Witness {
        return Err(Refuse::precondition(format!("{member} is a witness and has no data"))
            .remedy("name a member with data"));
    }
    Ok(row)
}

pub(super) async fn pause(State(control): State<Control>, Asked(request): Asked<PauseRequest>) -> Answer {
    let PauseRequest { by, until_unix_ms } = request;
    in_future(until_unix_ms)?;
    let pause = Pause { by, since_unix_ms: clock::unix_ms(), until_unix_ms };
    propose(&control, Operate::Pause(pause), None).await
}

pub(super) async fn resume(State(control): State<Control>) -> Answer {
    propose(&control, Operate::Resume {}, None).await
}

pub(super) async fn maintenance(
    State(control): State<Control>,
    Asked(request): Asked<MaintenanceRequest>,
) -> Answer {
    let status = control.seen.status.borrow().clone();
    let MaintenanceRequest { member, off, by, until_unix_ms } = request;
    row(&status, &member)?;
    if off {
        return propose(&control, Operate::EndMaintenance { member }, None).await;
    }
    in_future(until_unix_ms)?;
    if status.primary.as_ref() == Some(&member) && !status.members.iter().any(|row| can_go_on(&status, row)) {
        return Err(Refuse::precondition(format!("{member} is the primary, and no standby could take over"))
            .remedy("bring a standby back first, or pause the cluster: mainstay pause"));
    }
    let pause = Pause { by, since_unix_ms: clock::unix_ms(), until_unix_ms };
    propose(&control, Operate::Maintain { member, pause }, None).await
}

/// A standby whose flush counts, and that is not in maintenance.
fn can_go_on(status: &Status, row: &MemberStatus) -> bool {
    row.sync && row.role == Role::Standby && !status.operation.maintenance.contains_key(&row.name)
}

pub(super) async fn reinit(State(control): State<Control>, Asked(request): Asked<ReinitRequest>) -> Answer {
    let status = control.seen.status.borrow().clone();
    let member = request.member;
    let row = row(&status, &member)?;
    match &status.primary {
        None => {
            let reason = &status.reason;
            let message = format!(
                "there is no primary to copy from, and {member} may hold what nobody else does: {reason}"
            );
            return Err(Refuse::conflict(message).remedy("wait for a primary"));
        }
        Some(primary) if *primary == member => {
            return Err(Refuse::conflict(format!(
                "{member} is the primary: its data is what the others copy"
            ))
            .remedy("switch over to another member first: mainstay switchover"));
        }
        Some(_) => {}
    }
    let Some(incarnation) = row.incarnation else {
        return Err(Refuse::conflict(format!("{member} is not heard, or has no whole data directory"))
            .remedy("start it; a directory that is not whole is copied anew by itself"));
    };
    propose(&control, Operate::Reinit { member, incarnation }, None).await
}

pub(super) async fn schedule(
    State(control): State<Control>,
    Asked(request): Asked<ScheduleRequest>,
) -> Answer {
    let status = control.seen.status.borrow().clone();
    let Some(due_unix_ms) = request.due_unix_ms else {
        let Some(scheduled) = &status.operation.scheduled else {
            return Err(Refuse::conflict("no switchover is scheduled"));
        };
        let why = "an operator took it back".to_owned();
        return propose(&control, Operate::Withdraw { id: scheduled.id, why }, Some(scheduled.id)).await;
    };
    in_future(Some(due_unix_ms))?;
    if let Some(to) = &request.to {
        row(&status, to)?;
    }
    let id = clock::now().0;
    propose(&control, Operate::Schedule(Scheduled { id, due_unix_ms, to: request.to }), Some(id)).await
}

pub(super) async fn failover(
    State(control): State<Control>,
    Asked(request): Asked<FailoverRequest>,
) -> Answer {
    let status = control.seen.status.borrow().clone();
    if let Some(to) = &request.to {
        row(&status, to)?;
    }
    if let Some(accepted) = request.accept {
        return force(&control, accepted).await;
    }
    check_failover(&status, request.to.as_ref())?;
    let id = clock::now().0;
    let what = Failover { id, epoch: status.epoch, to: request.to };
    propose(&control, Operate::Failover(what), Some(id)).await
}

async fn force(control: &Control, accepted: AcceptedLoss) -> Answer {
    let AcceptedLoss { member, epoch, incarnation, end, missing_bytes } = accepted;
    let heard = Lsn(end.0.saturating_add(missing_bytes));
    let missing = Missing::default();
    propose(control, Operate::Force(Forced { epoch, member, incarnation, end, heard, missing }), None).await
}

/// Only what is safe: somebody must be able to go on with everything that was acknowledged.
fn check_failover(status: &Status, to: Option<&MemberId>) -> Result<(), Refuse> {
    let is_named = |name: &MemberId| to.is_none_or(|to| to == name);
    match &status.primary {
        Some(primary) if Some(primary) == to => {
            Err(Refuse::conflict(format!("{primary} is the primary already")))
        }
        Some(_) if status.members.iter().any(|row| can_go_on(status, row) && is_named(&row.name)) => Ok(()),
        Some(primary) => {
            let message = match to {
                Some(to) => {
                    format!("{primary} is the primary, and {to} does not stream as a voter that could go on")
                }
                None => {
                    format!("{primary} is the primary, and no standby streams as a voter that could go on")
                }
            };
            Err(Refuse::precondition(message)
                .remedy("it goes on as the primary; bring the standby back first"))
        }
        None if status.phase == "ended" => {
            let may = |holding: &Holding| holding.proven && is_named(&holding.member);
            if status.operation.holdings.iter().any(may) {
                return Ok(());
            }
            Err(Refuse::precondition(unproven(status, to)).remedy(
                "start the members that are missing, or decide to lose something: --accept-data-loss",
            ))
        }
        None => Err(Refuse::conflict(format!("there is nothing to fail over from: {}", status.reason))),
    }
}

fn unproven(status: &Status, to: Option<&MemberId>) -> String {
    let holdings = &status.operation.holdings;
    let shown = match to {
        Some(to) => holdings.iter().find(|holding| holding.member == *to),
        None => holdings.iter().find(|holding| holding.incarnation.is_some()).or(holdings.first()),
    };
    let who = to.map_or("nobody", MemberId::as_str);
    let why = shown.and_then(|holding| holding.why.clone()).unwrap_or_default();
    let is = if to.is_some() { "is not" } else { "is" };
    format!("{who} {is} proven to hold every acknowledged commit: {why}")
}
