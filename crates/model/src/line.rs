//! The one line of an epoch's life: `Open → End → Report → Grant → Open`.
//!
//! The record and every decision are the shipped ones. Around them are abstract servers: a write-ahead log of a few
//! records per member, what it was promised never to stream from, whom it streams from, whether it lives. Everything
//! that can happen happens in every order: commits, records shipped one at a time, acknowledgements as PostgreSQL
//! gives them (by bare positions), crashes, frozen guards, members cut off or lagging behind the record, work that goes
//! on under an old view, proposals that are committed late and twice.

mod acts;
mod faults;
mod happen;
mod invariants;
mod mirror;
mod records;
mod sight;
mod wal;
mod world;

use std::collections::{BTreeMap, HashMap};

use mainstay_core::lineage::Fork;
use mainstay_core::record::{Command, Kind, Member as Row, Phase, Record, Report, Settings};
use mainstay_core::sync::{SyncSet, Voter};
use mainstay_core::{Epoch, Lsn, MemberId, Timeline};

use crate::explore::{Model, Outlook, Successor, Violation};
use records::Records;
use sight::{Minds, incarnation_of};
use wal::Wal;
use world::{Lease, MADE, MEMBERS, Member, NOBODY, NOTHING, Server, Spent, Touch, Work, end_of_recovery};

pub use acts::Act;
pub use world::State;

/// What can go wrong, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Whether the third member is a witness.
    pub witness: bool,
    /// Commits by clients, at most 4.
    pub commits: u8,
    /// Faults begin only up to this epoch; openings go on for three more.
    pub epochs: u8,
    /// Faults altogether.
    pub faults: u8,
    /// PostgreSQL dies.
    pub crash: bool,
    /// A machine dies; it may come back at any time.
    pub down: bool,
    /// The member's process is started anew, with the record as it is or as it was at first.
    pub restart: bool,
    /// The member's process reaches nobody, for any time.
    pub cut: bool,
    /// The member sees what is committed any time later.
    pub lag: bool,
    /// Streaming to a standby breaks, for any time.
    pub link: bool,
    /// The guard is frozen while the deadline passes.
    pub freeze: bool,
    /// A grant comes too late.
    pub late: bool,
    /// A proposal is committed at any time later, any number of times; at most two of them.
    pub in_flight: bool,
    /// A directory is lost, or replaced by an old copy of itself.
    pub wipe: bool,
    /// A promotion makes no progress; a rewind fails half-way.
    pub fail: bool,
    /// A standby is promoted by an outside hand.
    pub stray: bool,
    /// A promotion takes the next number instead of the one that was reserved.
    pub renumber: bool,
}

impl Scope {
    /// No faults at all.
    pub const CALM: Scope = Scope {
        witness: false,
        commits: 2,
        epochs: 1,
        faults: 0,
        crash: false,
        down: false,
        restart: false,
        cut: false,
        lag: false,
        link: false,
        freeze: false,
        late: false,
        in_flight: false,
        wipe: false,
        fail: false,
        stray: false,
        renumber: false,
    };
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub enum Happening {
    /// A member does what it decided, and how that goes.
    Acts(u8, Act, &'static str),
    /// A proposal that was under way is committed.
    Committed(u32),
    CatchesUp(u8),
    LinkHeals(u8),
    /// The guard wakes up past the deadline and ends PostgreSQL.
    Thaws(u8),
    /// A majority of the voters says that the lease has run out.
    RunsOut,
    Lapses(u8),
    Regains(u8),
    Ships(u8),
    WorkDone(u8),
    NamesProven(u8),
    /// The primary has waited long enough for this one.
    GivenUp(u8, u8),
    ClientCommits(u8),
    MachineUp(u8),
    Fault(&'static str, u8),
}

pub struct Line {
    scope: Scope,
    records: Records,
    minds: Minds,
    first: u32,
    provable: HashMap<invariants::Survivors, bool>,
}

impl Line {
    pub fn new(scope: Scope) -> Line {
        let names: Vec<MemberId> =
            ["m1", "m2", "m3"].iter().map(|name| MemberId::new(name).expect("a valid name")).collect();
        let mut records = Records::new([names[1].clone(), names[2].clone()]);
        let first = records.add(first_record(scope, &names));
        Line { scope, records, minds: Minds::new(names), first, provable: HashMap::new() }
    }

    fn first_state(&mut self) -> State {
        let sync = self.records.record(self.first).sync().cloned().unwrap_or_default();
        let sync = self.records.set_number(sync);
        let mut wal = Wal::default();
        wal.push(1, MADE);
        wal.push(FIRST_TIMELINE, end_of_recovery(1));
        let member = |number: u8| {
            let primary = number == 0;
            let witness = self.scope.witness && number == 2;
            Member {
                up: true,
                touch: Touch::Full,
                view: self.first,
                life: 1,
                server: match (primary, witness) {
                    (true, _) => Server::Opened(1),
                    (_, true) => Server::Down(0),
                    _ => Server::Standby,
                },
                gate: primary,
                incarnation: u8::from(!witness),
                newest_incarnation: 1,
                wal: if witness { Wal::default() } else { wal },
                sealed: 0,
                upstream: if primary || witness { NOBODY } else { 0 },
                upstream_epoch: u8::from(!primary && !witness),
                link: true,
                scanned: false,
                work: Work::Nothing,
                lease: if primary { Lease::Valid(1) } else { Lease::None },
                told: if primary { sync } else { NOTHING },
                proven: if primary { sync } else { NOTHING },
                proving: false,
                lost: 0,
                confirmed: 1,
                failed_open: 0,
            }
        };
        State {
            record: self.first,
            members: [member(0), member(1), member(2)],
            kept: 0,
            late: 0,
            in_flight: [NOTHING; 2],
            run_out: false,
            spent: Spent::default(),
        }
    }
}

/// What the first grant reserves.
const FIRST_TIMELINE: u8 = 3;

/// Epoch 1, opened by the first member, with the others as voters; made by the shipped commands.
fn first_record(scope: Scope, names: &[MemberId]) -> Record {
    let row = |number: u8| Row {
        kind: if scope.witness && number == 2 { Kind::Witness } else { Kind::Data },
        votes: true,
        raft_id: 0,
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
        postgres: None,
        key: String::new(),
        priority: 0,
        http: None,
        leaving: false,
        next_key: None,
        key_serial: 0,
    };
    let members: BTreeMap<MemberId, Row> = names.iter().cloned().zip((0..MEMBERS).map(row)).collect();
    let voters = (1..MEMBERS).filter(|number| !(scope.witness && *number == 2)).map(|number| Voter {
        member: names[usize::from(number)].clone(),
        incarnation: incarnation_of(number, 1),
    });
    let sync = SyncSet::new(voters, 1);
    let (holder, incarnation) = (names[0].clone(), incarnation_of(0, 1));
    let fork = |timeline: u8, begin| Fork { timeline: Timeline(u32::from(timeline)), begin: Lsn(begin) };
    let mut wal = Wal::default();
    wal.push(1, MADE);
    let report = Report { epoch: Epoch(0), incarnation, extent: wal.extent(), replayed: Lsn(1), unfit: None };
    let mut record = Record::default();
    for command in [
        Command::Create { cluster: "model".to_owned(), settings: Settings::default(), members },
        Command::Found { member: holder.clone(), incarnation, system_identifier: 1 },
        Command::Report { member: holder.clone(), report },
        Command::Grant { epoch: Epoch(1), holder, incarnation, request: 1 },
        Command::Open {
            epoch: Epoch(1),
            history: vec![fork(1, 0), fork(FIRST_TIMELINE, 1)],
            next_xid: 1,
            at_unix_ms: 0,
        },
        Command::SetSync { epoch: Epoch(1), serial: 0, sync: SyncSet::lone(), names: sync.clone() },
        Command::SetSync { epoch: Epoch(1), serial: 1, sync: sync.clone(), names: sync },
    ] {
        let applied = record.apply(command);
        assert_eq!(applied, mainstay_core::record::Applied::Done, "the first record could not be made");
    }
    record
}

impl Model for Line {
    type State = State;
    type Step = Happening;

    fn initial(&mut self) -> Vec<State> {
        vec![self.first_state()]
    }

    fn successors(&mut self, state: &State, into: &mut Vec<Successor<State, Happening>>) {
        self.decisions(state, into);
        self.happen(state, into);
        self.faults(state, into);
    }

    fn hash(&mut self, state: &State) -> u128 {
        Line::hash(self, state)
    }

    fn violation(&mut self, state: &State) -> Option<Violation> {
        self.check(state)
    }

    fn outlook(&mut self, state: &State) -> Outlook {
        self.prospect(state)
    }

    fn name(&self, step: &Happening) -> String {
        match step {
            Happening::Acts(member, Act::Propose(command), how) => {
                let command = format!("{:?}", self.records.command(*command));
                let command = command
                    .replace("Voter { member: MemberId(", "")
                    .replace(", incarnation: Incarnation", " i");
                format!("{} {how}: {command}", self.minds.name(*member))
            }
            Happening::Acts(member, act, how) => format!("{} {how}: {act:?}", self.minds.name(*member)),
            Happening::Committed(command) => format!("late: {:?}", self.records.command(*command)),
            other => format!("{other:?}"),
        }
    }

    fn describe(&self, state: &State) -> String {
        let record = self.records.record(state.record);
        let phase = match &record.phase {
            Phase::Ended { .. } => "Ended".to_owned(),
            phase => format!("{phase:?}"),
        };
        let mut line = format!("e{} {phase} kept {:04b}", record.epoch, state.kept);
        for (member, own) in state.members.iter().enumerate() {
            line += &format!(" | m{} {:?} {} i{}", member + 1, own.server, own.wal, own.incarnation);
            line += &format!(" s{} {:?}", own.sealed, own.lease);
            for (flag, text) in [
                (!own.up, " DOWN"),
                (own.touch == Touch::Cut, " cut"),
                (own.touch == Touch::Lagging, " lagging"),
                (own.scanned, " scanned"),
                (own.gate, " gate"),
            ] {
                line += if flag { text } else { "" };
            }
            if own.upstream != NOBODY {
                line += &format!(" <m{}@{}", own.upstream + 1, own.upstream_epoch);
            }
        }
        line
    }
}
