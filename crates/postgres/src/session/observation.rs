//! The replication state of a server, read by one statement.

use mainstay_core::{Lsn, Timeline};
use serde::Deserialize;

/// What a server says about itself at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    pub in_recovery: bool,
    pub system_identifier: u64,
    /// A primary's timeline. A standby's as far as it is known: the one that it receives, else that of its last
    /// restartpoint, which is behind for a while after a switch.
    pub timeline: Timeline,
    /// Changes with each start of the postmaster.
    pub postmaster_started_at: String,
    /// On a primary: the end of what was written to the WAL's buffers.
    pub insert: Option<Lsn>,
    /// On a primary: the end of what is on disk.
    pub flush: Option<Lsn>,
    /// On a standby: the end of what was received and is on disk; forgotten at each start.
    pub receive: Option<Lsn>,
    /// On a standby: the end of what was replayed.
    pub replay: Option<Lsn>,
    pub replay_paused: bool,
    pub synchronous_standby_names: String,
    pub walreceiver: Option<Walreceiver>,
    pub walsenders: Vec<Walsender>,
    pub slots: Vec<Slot>,
}

/// A row of `pg_stat_wal_receiver`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Walreceiver {
    pub pid: i32,
    pub status: String,
    pub received_tli: Option<Timeline>,
    pub flushed_lsn: Option<Lsn>,
    /// The member's name, as the connection string has it.
    pub sender_host: Option<String>,
    pub slot_name: Option<String>,
}

/// A row of `pg_stat_replication`, with the slot that the connection uses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Walsender {
    pub pid: i32,
    pub application_name: String,
    pub client_addr: Option<String>,
    pub state: Option<String>,
    pub sync_state: Option<String>,
    pub sent_lsn: Option<Lsn>,
    /// It may be a position on another timeline: see the design's finding about followers ahead of the fork.
    pub flush_lsn: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
    pub slot_name: Option<String>,
}

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Slot {
    pub slot_name: String,
    pub slot_type: String,
    pub active_pid: Option<i32>,
    pub restart_lsn: Option<Lsn>,
    /// `lost` means that its member must be cloned.
    pub wal_status: Option<String>,
    pub xmin: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    in_recovery: bool,
    system_identifier: String,
    wal_file: Option<String>,
    control_timeline: Timeline,
    minimum_recovery_timeline: Timeline,
    postmaster_started_at: String,
    insert: Option<Lsn>,
    flush: Option<Lsn>,
    receive: Option<Lsn>,
    replay: Option<Lsn>,
    replay_paused: Option<bool>,
    synchronous_standby_names: String,
    walreceiver: Option<Walreceiver>,
    walsenders: Vec<Walsender>,
    slots: Vec<Slot>,
}

/// The inner query is evaluated once: its function is volatile. Most of the functions fail in the other role.
pub(super) const QUERY: &str = "
SELECT json_build_object(
    'in_recovery', role.in_recovery,
    'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
    'wal_file', CASE WHEN NOT role.in_recovery THEN pg_walfile_name(pg_current_wal_insert_lsn()) END,
    'control_timeline', (SELECT timeline_id FROM pg_control_checkpoint()),
    'minimum_recovery_timeline', (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
    'postmaster_started_at', extract(epoch FROM pg_postmaster_start_time())::text,
    'insert', CASE WHEN NOT role.in_recovery THEN pg_current_wal_insert_lsn() END,
    'flush', CASE WHEN NOT role.in_recovery THEN pg_current_wal_flush_lsn() END,
    'receive', CASE WHEN role.in_recovery THEN pg_last_wal_receive_lsn() END,
    'replay', CASE WHEN role.in_recovery THEN pg_last_wal_replay_lsn() END,
    'replay_paused', CASE WHEN role.in_recovery THEN pg_is_wal_replay_paused() END,
    'synchronous_standby_names', current_setting('synchronous_standby_names'),
    'walreceiver', (SELECT row_to_json(receiver) FROM (
        SELECT pid, status, received_tli, flushed_lsn, sender_host, slot_name FROM pg_stat_wal_receiver
    ) receiver),
    'walsenders', (SELECT coalesce(json_agg(sender), '[]') FROM (
        SELECT s.pid, s.application_name, host(s.client_addr) AS client_addr, s.state, s.sync_state, s.sent_lsn,
            s.flush_lsn, s.replay_lsn, l.slot_name
        FROM pg_stat_replication s LEFT JOIN pg_replication_slots l ON l.active_pid = s.pid
    ) sender),
    'slots', (SELECT coalesce(json_agg(slot), '[]') FROM (
        SELECT slot_name, slot_type, active_pid, restart_lsn, wal_status, xmin::text FROM pg_replication_slots
    ) slot)
)::text
FROM (SELECT pg_is_in_recovery() AS in_recovery) role";

pub(super) fn parse(text: &str) -> Option<Observation> {
    let answer: Answer = serde_json::from_str(text).ok()?;
    let of_file = |name: &String| u32::from_str_radix(name.get(..8)?, 16).ok().map(Timeline);
    let received = answer.walreceiver.as_ref().and_then(|receiver| receiver.received_tli);
    let on_disk = answer.control_timeline.max(answer.minimum_recovery_timeline);
    let timeline = answer.wal_file.as_ref().and_then(of_file).or(received).unwrap_or(on_disk);
    Some(Observation {
        in_recovery: answer.in_recovery,
        system_identifier: answer.system_identifier.parse().ok()?,
        timeline,
        postmaster_started_at: answer.postmaster_started_at,
        insert: answer.insert,
        flush: answer.flush,
        receive: answer.receive,
        replay: answer.replay,
        replay_paused: answer.replay_paused.unwrap_or(false),
        synchronous_standby_names: answer.synchronous_standby_names,
        walreceiver: answer.walreceiver,
        walsenders: answer.walsenders,
        slots: answer.slots,
    })
}
