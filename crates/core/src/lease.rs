//! The lease: the bounded right to run a writable PostgreSQL, made of the promises of a majority of voters.
//!
//! The holder counts from the *sending* of a renewal, with its clock assumed up to ε fast or slow; a voter counts
//! from the *receipt*, in full. So the holder always stops before a majority can say that the lease has run out, whoever
//! leads the store, and whether anyone does.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mutant::{Mutant, mutated};
use crate::record::{Phase, Record};
use crate::vocabulary::{Epoch, MemberId, Now};

/// ε: how much faster or slower than real time a machine's `CLOCK_BOOTTIME` may run, as a fraction of 100.
/// The kernel slews by at most 500 ppm, `adjtimex` ticks by at most 10 %; both directions together stay below 16 %.
const CLOCK_ERROR_PERCENT: u32 = 16;

/// How long a holder may act on a promise, from the sending of the renewal that it answers.
pub fn usable(lease: Duration) -> Duration {
    if mutated(Mutant::NoClockMargin) {
        return lease + lease / 8;
    }
    let margin = (lease / 20).max(Duration::from_millis(100));
    (lease * (100 - CLOCK_ERROR_PERCENT) / 100).saturating_sub(margin)
}

/// How often the holder renews: six times a lease, so that four may be lost in a row.
pub fn renewal_interval(lease: Duration) -> Duration {
    lease / 6
}

/// A voter's side: whom it promised what, and when that has run out.
///
/// Answers come from memory alone. The one thing that survives a restart is the promise never to answer an epoch
/// again. [`Grantor::run_out`] stops answering it, the caller makes that durable, and only then does
/// [`Grantor::promise`] let it be said: an answer that slipped out in between would outlive the promise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grantor {
    lease: Duration,
    /// Nothing is said to have run out before: an earlier life of this process may have answered just before its end.
    /// Answering, on the other hand, is safe at once, since what it said for good is durable.
    silent_until: Now,
    /// The epoch that the record shows as granted or open, and since when this voter counts for it.
    current: Option<(Epoch, Now)>,
    /// The newest epoch that the record has shown, in any phase.
    newest: Epoch,
    /// Epochs up to here are not answered any more.
    closed: Epoch,
    /// Epochs up to here never will be, whatever happens to this process: that may be said.
    promised: Epoch,
}

/// A voter's answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Promised,
    /// The epoch has ended, or has been said to have run out.
    Over,
}

impl Grantor {
    /// A voter that starts at `now`, with the promise that an earlier life has made durable.
    pub fn new(now: Now, lease: Duration, promised: Epoch) -> Grantor {
        let silent_until = if mutated(Mutant::GrantorForgetsRestart) { now } else { now.plus(lease) };
        let promised = if mutated(Mutant::PromiseNotPersisted) { Epoch(0) } else { promised };
        Grantor { lease, silent_until, current: None, newest: Epoch(0), closed: promised, promised }
    }

    /// Takes note of the record as applied here.
    pub fn learn(&mut self, now: Now, record: &Record) {
        // What was granted before this process started counts from when it learns of it, too.
        let first = self.newest == Epoch(0);
        let since = if first && mutated(Mutant::GrantorForgetsRestart) { Now(0) } else { now };
        self.newest = self.newest.max(record.epoch);
        let live = matches!(record.phase, Phase::Granted | Phase::Open);
        match self.current {
            Some((epoch, _)) if live && epoch >= record.epoch => {}
            _ if live => self.current = Some((record.epoch, since)),
            Some((epoch, _)) if epoch <= record.epoch => {
                self.promise(record.epoch);
                self.current = None;
            }
            _ => self.promise(record.epoch),
        }
    }

    /// Answers a renewal of `epoch`. An epoch that this voter's record does not show yet is answered too: the holder
    /// has it committed, and the answer only binds this voter.
    pub fn renew(&mut self, now: Now, epoch: Epoch) -> Answer {
        let over = epoch <= self.closed && !mutated(Mutant::GrantorAnswersAfterRunOut);
        if over || epoch < self.newest {
            return Answer::Over;
        }
        self.newest = self.newest.max(epoch);
        self.current = Some((epoch, now));
        Answer::Promised
    }

    /// The epoch whose lease has run out as far as this voter sees, if one has. That may change again: a renewal is
    /// answered still. Otherwise each voter that was cut off for a moment would be lost to the holder for the rest of the
    /// epoch, and the second one, months later, would end it without need.
    pub fn expired(&self, now: Now) -> Option<Epoch> {
        let (epoch, since) = self.current?;
        let lease = if mutated(Mutant::GrantorHurries) { self.lease / 2 } else { self.lease };
        let expired = now >= since.plus(lease) && now >= self.silent_until;
        expired.then_some(epoch)
    }

    /// The epoch whose lease has run out here, if one has; from now on it is not answered. To be called once a majority of
    /// the voters says [`Grantor::expired`] at the same time. It may be said aloud only once [`Grantor::promise`] was called.
    pub fn run_out(&mut self, now: Now) -> Option<Epoch> {
        let epoch = self.expired(now)?;
        self.closed = self.closed.max(epoch);
        Some(epoch)
    }

    /// When [`Grantor::run_out`] may change next without anything else happening.
    pub fn wake_at(&self) -> Option<Now> {
        self.current.map(|(_, since)| since.plus(self.lease).max(self.silent_until))
    }

    /// The promise never to answer `epoch` again has been made durable.
    pub fn promise(&mut self, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
        self.closed = self.closed.max(self.promised);
    }

    /// Whether this voter says, for good, that the lease of `epoch` has run out.
    pub fn says_run_out(&self, epoch: Epoch) -> bool {
        epoch <= self.promised
    }
}

/// The holder's side: the renewals of one epoch, and until when they allow PostgreSQL to be writable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    epoch: Epoch,
    lease: Duration,
    /// Per voter the sending time of the newest renewal that it has answered.
    answered: BTreeMap<MemberId, Now>,
    /// The sending time of the request that was granted: a promise of the whole store.
    requested_at: Now,
    /// A deadline known from before a restart of this process.
    resumed: Now,
    /// The newest change of the voters that this member is known to have seen, also before a restart. A process begins with
    /// the record that its own log proves, which may be older; by that one no renewal counts, since the voters that it
    /// names may have lost their word meanwhile.
    #[serde(default)]
    serial: u64,
}

impl Holder {
    /// A lease that was granted on a request sent at `requested_at`.
    pub fn granted(epoch: Epoch, lease: Duration, requested_at: Now) -> Holder {
        Holder { epoch, lease, answered: BTreeMap::new(), requested_at, resumed: Now(0), serial: 0 }
    }

    /// A lease found running after a restart of this process: the guard knows until when. `serial` is what an earlier life
    /// has made durable, see [`Holder::rests_on`].
    pub fn resumed(epoch: Epoch, lease: Duration, deadline: Now, serial: u64) -> Holder {
        Holder { epoch, lease, answered: BTreeMap::new(), requested_at: Now(0), resumed: deadline, serial }
    }

    /// This member has seen that change of the voters.
    pub fn has_seen(&mut self, serial: u64) {
        self.serial = self.serial.max(serial);
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// `voter` has promised, in answer to a renewal sent at `sent`.
    pub fn answered(&mut self, voter: &MemberId, sent: Now) {
        let newest = self.answered.entry(voter.clone()).or_insert(sent);
        *newest = sent.max(*newest);
    }

    /// Until when PostgreSQL may be writable, by the record's voters: the newest renewal that a majority of them, and of
    /// the outgoing ones, has answered.
    pub fn deadline(&self, record: &Record) -> Now {
        let newest = self.renewed_at(record).max(self.requested_at);
        let deadline = if newest == Now(0) { Now(0) } else { newest.plus(usable(self.lease)) };
        deadline.max(self.resumed)
    }

    /// When the newest renewal was sent that a majority of the voters, and of the outgoing ones, has answered; 0 if none.
    pub fn renewed_at(&self, record: &Record) -> Now {
        if record.membership.serial < self.serial && !mutated(Mutant::SerialForgotten) {
            return Now(0);
        }
        let by_voters = self.newest_of_majority(record.voters());
        if record.outgoing().next().is_none() || mutated(Mutant::OutgoingIgnored) {
            return by_voters;
        }
        by_voters.min(self.newest_of_majority(record.outgoing()))
    }

    fn newest_of_majority<'a>(&self, voters: impl Iterator<Item = &'a MemberId>) -> Now {
        let mut sent: Vec<Now> =
            voters.map(|voter| self.answered.get(voter).copied().unwrap_or(Now(0))).collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        let majority = if mutated(Mutant::RenewedByOne) { 0 } else { sent.len() / 2 };
        sent.get(majority).copied().unwrap_or(Now(0))
    }

    /// Whether the lease rests on the record's voters, and no deadline from before lasts longer: they, and the outgoing ones,
    /// have answered a renewal that was sent since `learnt_at`, when the holder learnt who they are. And it will know of them
    /// after a restart, since `durable`, the serial on its disk, is that of the record or a later one.
    pub fn rests_on(&self, record: &Record, learnt_at: Now, durable: u64) -> bool {
        let renewed = self.renewed_at(record) > learnt_at || mutated(Mutant::SettledTooSoon);
        renewed && (durable >= record.membership.serial || mutated(Mutant::SerialForgotten))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::EndCause;

    const LEASE: Duration = Duration::from_secs(3);

    fn at(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    fn record(epoch: u64, phase: Phase) -> Record {
        Record { epoch: Epoch(epoch), phase, ..Record::default() }
    }

    fn ids(names: &[&str]) -> Vec<MemberId> {
        names.iter().map(|name| MemberId::new(name).unwrap()).collect()
    }

    #[test]
    fn the_holder_stops_before_the_first_voter_says_run_out() {
        // Sent and received in the same instant, the holder's clock 8 % slow and the voter's 8 % fast.
        let real = usable(LEASE).as_secs_f64() / 0.92;
        assert!(real < LEASE.as_secs_f64() / 1.08, "{real}");
        assert_eq!(usable(LEASE), Duration::from_millis(2370));
    }

    #[test]
    fn a_voter_says_run_out_a_full_lease_after_the_last_answer() {
        let mut voter = Grantor::new(at(0), LEASE, Epoch(0));
        voter.learn(at(100), &record(4, Phase::Granted));
        assert_eq!(voter.renew(at(3000), Epoch(4)), Answer::Promised);
        assert_eq!(voter.run_out(at(5999)), None);
        assert_eq!(voter.run_out(at(6000)), Some(Epoch(4)));
        voter.promise(Epoch(4));
        assert_eq!(voter.renew(at(6001), Epoch(4)), Answer::Over);
        assert!(voter.says_run_out(Epoch(4)));
    }

    #[test]
    fn a_restarted_voter_answers_at_once_and_says_nothing_has_run_out_for_a_lease() {
        let mut voter = Grantor::new(at(10_000), LEASE, Epoch(3));
        voter.learn(at(10_002), &record(4, Phase::Open));
        assert_eq!(voter.renew(at(10_003), Epoch(3)), Answer::Over);
        assert_eq!(voter.run_out(at(13_001)), None);
        assert_eq!(voter.renew(at(13_001), Epoch(4)), Answer::Promised);
        assert_eq!(voter.run_out(at(13_002)), None);
        assert_eq!(voter.run_out(at(16_001)), Some(Epoch(4)));
    }

    #[test]
    fn a_newer_epoch_is_answered_before_the_record_shows_it_and_an_older_never_again() {
        let mut voter = Grantor::new(at(0), LEASE, Epoch(0));
        assert_eq!(voter.renew(at(4000), Epoch(7)), Answer::Promised);
        assert_eq!(voter.renew(at(4001), Epoch(6)), Answer::Over);
        voter.learn(at(4002), &record(7, Phase::Ended { cause: EndCause::Crashed }));
        assert_eq!(voter.renew(at(4003), Epoch(7)), Answer::Over);
        assert_eq!(voter.run_out(at(60_000)), None);
    }

    fn voted_by(names: &[&str], outgoing: &[&str]) -> Record {
        let row = |name: &str| {
            let member = crate::record::Member {
                kind: crate::record::Kind::Witness,
                votes: true,
                raft_id: 1,
                address: "192.0.2.1:7400".parse().unwrap(),
                postgres: None,
                key: name.to_owned(),
                priority: 100,
                http: None,
                leaving: false,
                next_key: None,
                key_serial: 0,
            };
            (MemberId::new(name).unwrap(), member)
        };
        let mut record = record(1, Phase::Open);
        record.members = names.iter().map(|name| row(name)).collect();
        record.membership.outgoing = ids(outgoing).into_iter().collect();
        record
    }

    #[test]
    fn while_a_change_of_the_voters_is_not_settled_both_majorities_count() {
        let joint = voted_by(&["a", "b", "c"], &["a"]);
        let [a, b] = ids(&["a", "b"]).try_into().unwrap();
        let mut holder = Holder::granted(Epoch(1), LEASE, at(1000));
        holder.answered(&a, at(5000));
        assert_eq!(holder.deadline(&joint), at(1000).plus(usable(LEASE)));
        holder.answered(&b, at(4000));
        assert_eq!(holder.deadline(&joint), at(4000).plus(usable(LEASE)));
        assert!(!holder.rests_on(&joint, at(4500), 0));
        holder.answered(&b, at(4600));
        assert!(holder.rests_on(&joint, at(4500), 0));
        let shrunk = voted_by(&["b"], &["a", "b", "c"]);
        assert_eq!(holder.deadline(&shrunk), at(4600).plus(usable(LEASE)));
        let swapped = voted_by(&["a"], &["b"]);
        assert_eq!(holder.deadline(&swapped), at(4600).plus(usable(LEASE)));
    }

    #[test]
    fn a_holder_that_was_started_anew_counts_nothing_by_an_older_record() {
        let [a, c] = ids(&["a", "c"]).try_into().unwrap();
        let mut before = voted_by(&["a", "b", "c"], &[]);
        before.membership.serial = 4;
        let mut holder = Holder::resumed(Epoch(1), LEASE, at(2000), 5);
        holder.answered(&a, at(5000));
        holder.answered(&c, at(5000));
        assert_eq!(holder.deadline(&before), at(2000));
        let mut after = voted_by(&["a", "b", "d"], &[]);
        after.membership.serial = 5;
        assert_eq!(holder.deadline(&after), at(2000));
        holder.answered(&ids(&["b"])[0], at(5100));
        assert_eq!(holder.deadline(&after), at(5000).plus(usable(LEASE)));
        assert!(!holder.rests_on(&after, at(4000), 4), "it would not know of them after a restart");
        assert!(holder.rests_on(&after, at(4000), 5));
        holder.has_seen(6);
        assert_eq!(holder.deadline(&after), at(2000));
    }

    #[test]
    fn the_deadline_is_that_of_the_newest_majority() {
        let voters = ids(&["a", "b", "c"]);
        let record = voted_by(&["a", "b", "c"], &[]);
        let mut holder = Holder::granted(Epoch(1), LEASE, at(1000));
        assert_eq!(holder.deadline(&record), at(1000).plus(usable(LEASE)));
        holder.answered(&voters[0], at(5000));
        assert_eq!(holder.deadline(&record), at(1000).plus(usable(LEASE)));
        holder.answered(&voters[2], at(4500));
        assert_eq!(holder.deadline(&record), at(4500).plus(usable(LEASE)));
        holder.answered(&voters[2], at(4000));
        assert_eq!(holder.deadline(&record), at(4500).plus(usable(LEASE)), "an old answer changes nothing");
    }

    #[test]
    fn a_stranger_does_not_count() {
        let voters = ids(&["a", "b", "c"]);
        let record = voted_by(&["a", "b", "c"], &[]);
        let mut holder = Holder::granted(Epoch(1), LEASE, at(1000));
        holder.answered(&ids(&["x"])[0], at(5000));
        holder.answered(&voters[0], at(5000));
        assert_eq!(holder.deadline(&record), at(1000).plus(usable(LEASE)));
    }
}
