//! The shipped functions on the model's small sets; each question is asked once.

use std::collections::{BTreeMap, HashMap};

use mainstay_core::lineage::{Extent, Fork};
use mainstay_core::record::{Applied, Command, EndCause, Kind, Member, Record, Report, Settings};
use mainstay_core::sync::{self, Step, SyncSet, Voter, wanted_acknowledgements};
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId, Timeline, election};

use super::{Proposal, STANDBYS, Set};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Done,
    Names(Set),
    Record { sync: Set, names: Set },
}

type Question = (Option<Set>, Set, Set, Set);

pub(super) struct Shipped {
    /// The standbys, then the primary.
    names: Vec<MemberId>,
    /// Epoch 1, open.
    open: Record,
    plans: HashMap<Question, Plan>,
    applied: HashMap<(Set, Set, Proposal), bool>,
    safe: HashMap<(Set, Set), bool>,
    survives: HashMap<(Set, Set, u8), bool>,
}

/// What changes carry that were planned on what the record is, and on what it was.
const SERIAL: u64 = 7;
const OLD_SERIAL: u64 = 6;
/// Where epoch 1 began; a standby with the newest commit, and one without it.
const BEGIN: Lsn = Lsn(10);
const WITH: Lsn = Lsn(30);
const WITHOUT: Lsn = Lsn(20);

impl Shipped {
    pub(super) fn new(standbys: u8) -> Shipped {
        let primary = MemberId::new("a").expect("a valid name");
        let standbys = ["b", "c", "d"].iter().take(usize::from(standbys));
        let mut names: Vec<MemberId> =
            standbys.map(|name| MemberId::new(name).expect("a valid name")).collect();
        names.push(primary);
        let open = first_record(&names);
        let (plans, applied) = (HashMap::new(), HashMap::new());
        Shipped { names, open, plans, applied, safe: HashMap::new(), survives: HashMap::new() }
    }

    /// What is wanted of these voters.
    pub(super) fn wanted(&self, voters: u8) -> Set {
        let set =
            SyncSet::new(self.full(Set { voters, k: 1 }).voters, wanted_acknowledgements(self.names.len()));
        self.small(&set)
    }

    fn full(&self, set: Set) -> SyncSet {
        let voters = self.names.iter().take(STANDBYS).enumerate().filter(|(standby, _)| set.has(*standby));
        let voters = voters.map(|(_, name)| Voter { member: name.clone(), incarnation: Incarnation(1) });
        SyncSet { voters: voters.collect(), k: u32::from(set.k) }
    }

    fn small(&self, set: &SyncSet) -> Set {
        let place = |voter: &Voter| self.names.iter().position(|name| *name == voter.member);
        let places = set.voters.iter().map(|voter| place(voter).expect("only standbys vote"));
        let voters = places.fold(0, |bits, place| bits | (1 << place));
        Set { voters, k: u8::try_from(set.k).expect("at most three") }
    }

    pub(super) fn plan(&mut self, proven: Option<Set>, seen: &Proposal, target: Set) -> Plan {
        let question = (proven, seen.sync, seen.names, target);
        if let Some(known) = self.plans.get(&question) {
            return *known;
        }
        let proven = proven.map(|names| self.full(names));
        let (sync, names, wanted) = (self.full(seen.sync), self.full(seen.names), self.full(target));
        let plan = match sync::plan(proven.as_ref(), &sync, &names, &wanted) {
            Step::Done => Plan::Done,
            Step::Names(names) => Plan::Names(self.small(&names)),
            Step::Record { sync, names } => {
                Plan::Record { sync: self.small(&sync), names: self.small(&names) }
            }
        };
        self.plans.insert(question, plan);
        plan
    }

    pub(super) fn is_safe(&mut self, names: Set, record: Set) -> bool {
        if let Some(known) = self.safe.get(&(names, record)) {
            return *known;
        }
        let safe = sync::is_safe(&self.full(names), &self.full(record));
        self.safe.insert((names, record), safe);
        safe
    }

    fn record(&self, sync: Set, names: Set) -> Record {
        let mut record = self.open.clone();
        let base = record.base.as_mut().expect("epoch 1 was opened");
        (base.sync, base.names, base.sync_serial) = (self.full(sync), self.full(names), SERIAL);
        record
    }

    /// Whether the record takes the proposal, and changes.
    pub(super) fn applies(&mut self, sync: Set, names: Set, proposal: Proposal) -> bool {
        let question = (sync, names, proposal);
        if let Some(known) = self.applied.get(&question) {
            return *known;
        }
        let applied = self.record(sync, names).apply(Command::SetSync {
            epoch: Epoch(1),
            serial: if proposal.current { SERIAL } else { OLD_SERIAL },
            sync: self.full(proposal.sync),
            names: self.full(proposal.names),
        });
        self.applied.insert(question, applied == Applied::Done);
        applied == Applied::Done
    }

    /// Whether a proposal with an old serial may ever be taken; if not, it need not be remembered.
    pub(super) fn takes_late(&mut self) -> bool {
        let all = self.wanted(1);
        self.applies(
            Set::default(),
            Set::default(),
            Proposal { sync: Set::default(), names: all, current: false },
        )
    }

    /// Whether a commit that the primary and the standbys `holding` have outlives whatever may be granted after the
    /// primary was lost, whoever reports.
    pub(super) fn survives(&mut self, sync: Set, names: Set, holding: u8) -> bool {
        let question = (sync, names, holding);
        if let Some(known) = self.survives.get(&question) {
            return *known;
        }
        let standbys = self.names.len() - 1;
        let survives = (0..1u8 << standbys).all(|reporting| {
            let mut record = self.record(sync, names);
            record.apply(Command::End { epoch: Epoch(1), cause: EndCause::Crashed });
            let has = |bits: u8, standby: usize| bits & (1 << standby) != 0;
            for standby in (0..standbys).filter(|standby| has(reporting, *standby)) {
                let end = if has(holding, standby) { WITH } else { WITHOUT };
                let report = report(1, record.lineage.clone(), end);
                record.apply(Command::Report { member: self.names[standby].clone(), report });
            }
            (0..standbys).filter(|standby| !has(holding, *standby)).all(|standby| {
                election::may_be_promoted(&record, &self.names[standby], Incarnation(1)).is_err()
            })
        });
        self.survives.insert(question, survives);
        survives
    }
}

fn report(epoch: u64, history: Vec<Fork>, end: Lsn) -> Report {
    let extent = Extent { history, end };
    Report { epoch: Epoch(epoch), incarnation: Incarnation(1), extent, replayed: end, unfit: None }
}

/// Epoch 1, opened by the last of `names`; by the shipped commands.
fn first_record(names: &[MemberId]) -> Record {
    let row = Member {
        kind: Kind::Data,
        votes: true,
        raft_id: 1,
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
        postgres: None,
        key: String::new(),
        priority: 0,
        http: None,
        leaving: false,
        next_key: None,
        key_serial: 0,
    };
    let members: BTreeMap<MemberId, Member> = names.iter().map(|name| (name.clone(), row.clone())).collect();
    let holder = names.last().expect("at least the primary").clone();
    let incarnation = Incarnation(1);
    let first = Fork { timeline: Timeline(1), begin: Lsn::ZERO };
    let mut record = Record::default();
    for command in [
        Command::Create { cluster: "model".to_owned(), settings: Settings::default(), members },
        Command::Found { member: holder.clone(), incarnation, system_identifier: 1 },
        Command::Report { member: holder.clone(), report: report(0, vec![first], BEGIN) },
        Command::Grant { epoch: Epoch(1), holder, incarnation, request: 1 },
    ] {
        let applied = record.apply(command);
        assert_eq!(applied, Applied::Done, "the first record could not be made");
    }
    let reserved = record.tenure().expect("just granted").timeline;
    let history = vec![first, Fork { timeline: reserved, begin: BEGIN }];
    let opened = record.apply(Command::Open { epoch: Epoch(1), history, next_xid: 1, at_unix_ms: 0 });
    assert_eq!(opened, Applied::Done, "the first record could not be opened");
    record
}
