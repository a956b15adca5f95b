//! Looking at the local server by SQL, several times a second, and keeping the slots that every member holds for the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::record::Kind;
use mainstay_core::sync::Voter;
use mainstay_core::view::{Primary, Streaming, Walsender};
use mainstay_core::{Lsn, MemberId, Now};
use mainstay_guard::Pid;
use mainstay_postgres::session::{Observation, Session, SessionError};
use mainstay_postgres::upstream::{parse_application_name, slot_name};
use mainstay_postgres::{auto_conf, history};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::clock;
use crate::machinery::{CONNECT_PATIENCE, Machinery, STATEMENT_PATIENCE, blocking, failed};

/// While everything is as it should be. A server promoted by an outside hand is seen within this.
const CALM_INTERVAL: Duration = Duration::from_millis(200);
/// While something is changing.
const BUSY_INTERVAL: Duration = Duration::from_millis(10);
/// How often it is looked whether `postgresql.auto.conf` sets what Mainstay sets.
const OVERRIDES_INTERVAL: Duration = Duration::from_millis(400);
/// Slots and the oldest WAL are looked at less often.
const SLOT_INTERVAL: Duration = Duration::from_secs(2);

/// What SQL says of one postmaster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sql {
    /// The postmaster that this is about.
    pub(crate) postmaster: Option<Pid>,
    pub(crate) ready: bool,
    pub(crate) in_recovery: Option<bool>,
    /// When it was first seen out of recovery.
    pub(crate) promoted_at: Option<Now>,
    pub(crate) replayed: Lsn,
    pub(crate) streaming: Option<Streaming>,
    pub(crate) primary: Option<Primary>,
    pub(crate) walsenders: Vec<Walsender>,
    pub(crate) wal_kept_from: Option<Lsn>,
    /// How much WAL each slot keeps, in bytes; for people.
    pub(crate) slots: Vec<(String, u64)>,
    /// When `postgresql.auto.conf` was last seen to set something of Mainstay's, and what; it is taken back by then.
    pub(crate) overridden: Option<(Now, Vec<String>)>,
}

/// What the main loop tells the observer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Something is changing: look often.
    pub(crate) busy: bool,
    /// How far each other member has got, so that its slot here does not keep more WAL than it needs.
    pub(crate) positions: BTreeMap<MemberId, Lsn>,
}

/// Looks for ever.
pub(crate) async fn run(
    machinery: Arc<Machinery>,
    wanted: watch::Receiver<Wanted>,
    publish: watch::Sender<Sql>,
) {
    let mut observer = Observer {
        machinery,
        wanted,
        session: None,
        stalls: BTreeMap::new(),
        slots_at: Now(0),
        overrides_at: Now(0),
    };
    loop {
        let postmaster = observer.postmaster();
        let mut sql = publish.borrow().clone();
        if sql.postmaster != postmaster {
            sql = Sql { postmaster, ..Sql::default() };
            observer.session = None;
            observer.stalls.clear();
        }
        if postmaster.is_some() {
            observer.look(&mut sql).await;
        }
        publish.send_if_modified(|published| {
            let changed = *published != sql;
            *published = sql;
            changed
        });
        observer.pause().await;
        if publish.is_closed() {
            return;
        }
    }
}

struct Observer {
    machinery: Arc<Machinery>,
    wanted: watch::Receiver<Wanted>,
    session: Option<Session>,
    /// Per walsender the position it has flushed, and since when it has been that while there was more.
    stalls: BTreeMap<i32, (Lsn, Option<Now>)>,
    slots_at: Now,
    overrides_at: Now,
}

impl Observer {
    fn postmaster(&self) -> Option<Pid> {
        self.machinery.guard.borrow().status.as_ref().and_then(|status| status.postmaster)
    }

    async fn pause(&mut self) {
        let interval = if self.wanted.borrow_and_update().busy { BUSY_INTERVAL } else { CALM_INTERVAL };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            // Also ends the pause when things become busy, or another server is there.
            () = becomes_busy(&mut self.wanted), if interval == CALM_INTERVAL => {}
        }
    }

    async fn look(&mut self, sql: &mut Sql) {
        if self.session.is_none() {
            match Session::connect(&self.machinery.server, CONNECT_PATIENCE, STATEMENT_PATIENCE).await {
                Ok(session) => self.session = Some(session),
                Err(error) => {
                    debug!(%error, "no SQL yet");
                    sql.ready = false;
                    return;
                }
            }
        }
        let Some(session) = &self.session else { return };
        match session.observe().await {
            Ok(observed) => {
                self.take(sql, &observed).await;
                self.keep_slots(sql, &observed).await;
                self.take_back_overrides(sql).await;
            }
            // It leaves recovery in just this moment: the next look succeeds.
            Err(SessionError::Statement { .. }) if !session.is_closed() => {}
            Err(error) => {
                debug!(%error, "the server was not looked at");
                self.session = None;
            }
        }
    }

    async fn take(&mut self, sql: &mut Sql, observed: &Observation) {
        sql.ready = true;
        sql.in_recovery = Some(observed.in_recovery);
        if !observed.in_recovery && sql.promoted_at.is_none() {
            sql.promoted_at = Some(clock::now());
            // Whether it was the guard that opened it is asked after this.
            self.machinery.read_guard_again();
        }
        sql.replayed = observed.replay.unwrap_or_default();
        sql.streaming =
            observed.walreceiver.as_ref().filter(|receiver| receiver.status == "streaming").and_then(
                |receiver| {
                    receiver
                        .received_tli
                        .zip(receiver.flushed_lsn)
                        .map(|(timeline, flushed)| Streaming { timeline, flushed })
                },
            );
        let inserted = observed.insert.unwrap_or_default();
        sql.walsenders = self.walsenders(observed);
        match (&mut sql.primary, observed.in_recovery) {
            (_, true) => sql.primary = None,
            (Some(primary), false) => primary.inserted = inserted,
            (None, false) => sql.primary = self.just_promoted(observed, inserted).await,
        }
    }

    /// What is fixed at the promotion is read once, before anybody else can have written.
    async fn just_promoted(&self, observed: &Observation, inserted: Lsn) -> Option<Primary> {
        let pg_wal = self.machinery.layout.pg_wal();
        let timeline = observed.timeline;
        let history =
            blocking(move || history::read(&pg_wal, timeline)).await.and_then(|read| read.map_err(failed));
        let next_xid = self.session.as_ref()?.next_xid().await;
        match (history, next_xid, observed.flush) {
            (Ok(history), Ok(next_xid), Some(end_of_recovery)) => {
                Some(Primary { history, end_of_recovery, next_xid, inserted })
            }
            (history, next_xid, _) => {
                debug!(?history, ?next_xid, "the promotion is not quite done");
                None
            }
        }
    }

    fn walsenders(&mut self, observed: &Observation) -> Vec<Walsender> {
        let now = clock::now();
        // Only what is durable here is sent: while this member's own disk stalls, no standby is to blame.
        let offered = observed.flush.unwrap_or_default();
        let mut seen = BTreeMap::new();
        let mut walsenders = Vec::new();
        for sender in &observed.walsenders {
            let flushed = sender.flush_lsn.unwrap_or_default();
            let stalled_since = match self.stalls.get(&sender.pid) {
                _ if flushed >= offered => None,
                Some((before, since)) if *before == flushed => Some(since.unwrap_or(now)),
                _ => None,
            };
            // The first look that finds it behind starts the count; the second one dates it.
            let remembered = if flushed < offered { stalled_since.or(Some(now)) } else { None };
            seen.insert(sender.pid, (flushed, remembered));
            walsenders.push(Walsender {
                pid: sender.pid.unsigned_abs(),
                application_name: sender.application_name.clone(),
                voter: voter(&sender.application_name),
                streaming: sender.state.as_deref() == Some("streaming"),
                flushed,
                stalled_since,
            });
        }
        self.stalls = seen;
        walsenders
    }

    /// Every member keeps a slot for every other one, so that whoever is promoted still has the WAL that they need.
    async fn keep_slots(&mut self, sql: &mut Sql, observed: &Observation) {
        let now = clock::now();
        let Some(session) = &self.session else { return };
        if now.since(self.slots_at) < SLOT_INTERVAL {
            return;
        }
        self.slots_at = now;
        sql.slots = kept_by_slots(observed);
        if !observed.in_recovery {
            sql.wal_kept_from = session.oldest_wal().await.ok();
            self.nudge_standbys(session, observed).await;
        }
        let roster = Arc::clone(&self.machinery.roster.borrow());
        let others = roster.iter();
        let others = others.filter(|(name, row)| row.kind == Kind::Data && *name != self.machinery.me());
        let wanted: Vec<(&MemberId, String)> = others.map(|(name, _)| (name, slot_name(name))).collect();
        self.drop_slots_of_others(session, observed, &wanted).await;
        for (member, slot) in wanted {
            let there = observed.slots.iter().find(|row| row.slot_name == slot);
            let lost = there
                .is_some_and(|row| row.wal_status.as_deref() == Some("lost") && row.active_pid.is_none());
            let result = match there {
                Some(_) if lost => session.drop_slot(&slot).await.map(|_| ()),
                None => session.create_slot(&slot).await.map(|_| ()),
                Some(_) if observed.in_recovery => self.advance_slot(session, member, &slot).await,
                Some(_) => Ok(()),
            };
            if let Err(error) = result {
                debug!(%member, %error, "its slot is not as it should be");
            }
        }
    }
}

impl Observer {
    /// A member that has left needs no WAL.
    async fn drop_slots_of_others(
        &self,
        session: &Session,
        observed: &Observation,
        wanted: &[(&MemberId, String)],
    ) {
        let is_ours = |name: &str| name.strip_prefix("ms_").is_some_and(|rest| MemberId::new(rest).is_ok());
        let left = observed.slots.iter().filter(|row| {
            is_ours(&row.slot_name)
                && row.active_pid.is_none()
                && row.slot_name != slot_name(self.machinery.me())
                && wanted.iter().all(|(_, slot)| *slot != row.slot_name)
        });
        for row in left {
            match session.drop_slot(&row.slot_name).await {
                Ok(_) => info!(slot = row.slot_name, "its member has left the cluster: the slot is dropped"),
                Err(error) => {
                    debug!(slot = row.slot_name, %error, "a slot of a member that left is still there")
                }
            }
        }
    }

    /// The primary streams from nobody. Should it come back as a standby, a rewind begins at its last checkpoint before the
    /// fork, which is this server's last restartpoint or a later one.
    async fn advance_slot(
        &self,
        session: &Session,
        member: &MemberId,
        slot: &str,
    ) -> Result<(), SessionError> {
        let said = self.wanted.borrow().positions.get(member).copied();
        let is_primary = self.machinery.record.borrow().primary() == Some(member);
        let position = match said {
            Some(position) => position,
            None if is_primary => session.redo_position().await?,
            None => return Ok(()),
        };
        session.advance_slot(slot, position).await.map(|_| ())
    }

    /// A standby that starts to stream with everything flushed says that it has received nothing until there is more. On an
    /// idle server nothing comes, so something is written.
    async fn nudge_standbys(&self, session: &Session, observed: &Observation) {
        let positions = &self.wanted.borrow().positions.clone();
        let is_unsaid = |sender: &mainstay_postgres::session::Walsender| {
            let member = voter(&sender.application_name).map(|voter| voter.member);
            let said = member.and_then(|member| positions.get(&member).copied());
            sender.state.as_deref() == Some("streaming")
                && said.zip(sender.flush_lsn).is_some_and(|(said, flushed)| said < flushed)
        };
        if observed.walsenders.iter().any(is_unsaid)
            && let Err(error) = session.emit_wal_message().await
        {
            debug!(%error, "no WAL was written for the standbys");
        }
    }

    /// `ALTER SYSTEM` is forbidden, but a superuser finds other ways to override what synchronous commits and fencing rest on.
    /// It is taken back as soon as it is seen; who acknowledged in between is proven anew.
    async fn take_back_overrides(&mut self, sql: &mut Sql) {
        let now = clock::now();
        if now.since(self.overrides_at) < OVERRIDES_INTERVAL {
            return;
        }
        self.overrides_at = now;
        let layout = self.machinery.layout.clone();
        let names = match blocking(move || auto_conf::remove_overrides(&layout)).await {
            Ok(Ok(names)) if names.is_empty() => return,
            Ok(Ok(names)) => names,
            Ok(Err(error)) => {
                warn!("postgresql.auto.conf is not as it should be: {}", failed(error));
                return;
            }
            Err(_) => return,
        };
        warn!(parameters = names.join(", "), "postgresql.auto.conf set what Mainstay sets; it is taken back");
        let reloaded = match self.machinery.guard() {
            Ok(guard) => guard.reload().await.map_err(failed),
            Err(error) => Err(error),
        };
        if let Err(error) = reloaded {
            warn!("PostgreSQL was not told to read its configuration again: {error}");
        }
        sql.overridden = Some((now, names));
    }
}

async fn becomes_busy(wanted: &mut watch::Receiver<Wanted>) {
    if wanted.wait_for(|wanted| wanted.busy).await.is_err() {
        // The main loop has ended, and with it soon this task.
        std::future::pending::<()>().await;
    }
}

/// From where each slot would begin to the end of what is here.
fn kept_by_slots(observed: &Observation) -> Vec<(String, u64)> {
    let end = observed.insert.or(observed.receive.max(observed.replay)).unwrap_or_default();
    let kept = |slot: &mainstay_postgres::session::Slot| {
        Some((slot.slot_name.clone(), end.bytes_ahead_of(slot.restart_lsn?)))
    };
    observed.slots.iter().filter_map(kept).collect()
}

/// The voter that a walsender's name says it is.
fn voter(application_name: &str) -> Option<Voter> {
    parse_application_name(application_name).map(|(member, incarnation)| Voter { member, incarnation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_walsenders_say_who_they_are() {
        let voter = voter("ms_db_1_0a0b0c0d").expect("a name of ours");
        assert_eq!((voter.member.as_str(), voter.incarnation.0), ("db_1", 0x0A0B_0C0D));
        assert!(super::voter("pg_basebackup").is_none());
        assert!(super::voter("ms_db_1_xyz").is_none());
    }
}
