//! One client of a cell: it gets into its state, the fault finds it there, and it writes down all that it is told.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mainstay_core::Now;
use mainstay_pgwire::backend;
use nix::sched::{CloneFlags, setns};

use super::form::{Form, Statement};
use super::record::{Belief, Record, Role, Told, What, belief, what};
use super::stage::{Part, Stage};
use super::wire::{Answer, Wire};
use crate::clock;

/// Of the clients that write all the time, so that they leave the machine to others.
const LOOP_PAUSE: Duration = Duration::from_millis(10);
/// The kernel has closed the connections of whoever was killed, and everybody is still far from a new primary.
const BETWEEN_PAUSE: Duration = Duration::from_millis(300);
const CONNECT_PATIENCE: Duration = Duration::from_secs(15);
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Where a session connects.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) proxy: String,
    pub(super) address: Ipv4Addr,
    pub(super) password: String,
    /// The client's own network namespace, if it is not the lab's.
    pub(super) namespace: Option<PathBuf>,
}

pub(super) struct Session<'a> {
    stage: &'a Stage,
    form: Form,
    wire: Wire,
    /// When the last units were sent.
    asked: Now,
    is_main: bool,
    record: Record,
}

/// Lives through one cell.
pub(super) fn run(stage: &Stage, place: &Place, form: Form, role: Role) -> Record {
    let mut record = Record {
        role,
        proxy: place.proxy.clone(),
        is_cut_off: place.namespace.is_some(),
        told: Vec::new(),
        rows: Vec::new(),
        complaints: Vec::new(),
    };
    let wire = match connect(place, form) {
        Ok(wire) => wire,
        Err(error) => {
            record.complaints.push(format!("{error:#}"));
            return record;
        }
    };
    let mut session = Session { stage, form, wire, asked: clock::now(), is_main: false, record };
    if let Err(error) = session.live() {
        session.record.complaints.push(format!("{error:#}"));
    }
    session.record
}

fn connect(place: &Place, form: Form) -> Result<Wire> {
    if let Some(namespace) = &place.namespace {
        let file = std::fs::File::open(namespace).context("the client's namespace is not there")?;
        setns(file, CloneFlags::CLONE_NEWNET)?;
    }
    // The proxy of a member that was just started comes up a moment later than its PostgreSQL streams.
    let deadline = clock::now().plus(CONNECT_PATIENCE);
    loop {
        match Wire::connect(place.address, form, &place.password) {
            Err(_) if clock::now() < deadline => std::thread::sleep(CONNECT_PAUSE),
            outcome => return outcome,
        }
    }
}

impl Session<'_> {
    fn live(&mut self) -> Result<()> {
        let mark = format!("{}-{}", self.record.proxy, self.stage.row());
        self.wire.query(&format!("SET lab.mark = '{mark}'"))?;
        self.transaction()?;
        match self.record.role {
            Role::Idle => self.stage_of(Part::Stands, |own| own.write().map(|_| ())),
            Role::Between => self.stage_of(Part::Struck, |own| {
                // What comes in the same moment as the fault is under way; the loops do that.
                std::thread::sleep(BETWEEN_PAUSE);
                own.transaction().map(|_| ())
            }),
            Role::InTransaction => self.in_transaction(&[Statement::Insert(0)], Part::Stands),
            Role::Running => self.under_way(&[Statement::Begin, Statement::Insert(0)], &[Statement::Sleep]),
            Role::Autocommit => self.under_way(&[], &[Statement::SlowInsert(0)]),
            Role::Commit => {
                self.under_way(&[Statement::Begin, Statement::InsertForSlowCommit(0)], &[Statement::Commit])
            }
            Role::Tied => return self.tied(),
            Role::WriteLoop | Role::TransactionLoop => self.again_and_again(),
        }?;
        self.is_main = false;
        self.stage.wait_for(Part::Stands);
        // It was kept, it can write, and it has what it has set.
        ensure!(self.transaction()? == Belief::There, "no transaction succeeds after the fault");
        let answer = self.ask(&[Statement::Mark])?;
        ensure!(answer.values == [mark.clone()], "it had set {mark}, and has {:?}", answer.values);
        Ok(())
    }

    fn stage_of(&mut self, part: Part, act: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        self.stage.tell_ready();
        self.stage.wait_for(part);
        self.is_main = true;
        act(self)
    }

    /// A statement in a transaction that was left alone for a while.
    fn in_transaction(&mut self, statements: &[Statement], part: Part) -> io::Result<()> {
        let mut rows = Vec::new();
        for statement in [&[Statement::Begin, Statement::Insert(0)], statements].concat() {
            let statement = self.numbered(statement, &mut rows);
            if rows.len() == 2 {
                self.stage.tell_ready();
                self.stage.wait_for(part);
                self.is_main = true;
            }
            let answer = self.ask(&[statement])?;
            if answer.failure.is_some() {
                return self.give_up(&answer, &rows);
            }
        }
        self.finish(&rows)
    }

    /// What comes last is under way when the fault hits.
    fn under_way(&mut self, before: &[Statement], last: &[Statement]) -> io::Result<()> {
        let mut rows = Vec::new();
        for statement in before {
            let statement = self.numbered(*statement, &mut rows);
            self.ask(&[statement])?;
        }
        let last: Vec<Statement> =
            last.iter().map(|statement| self.numbered(*statement, &mut rows)).collect();
        // Pipelined, a commit comes with a statement before it.
        let own = match (self.form, last.as_slice()) {
            (Form::Pipelined, [Statement::Commit | Statement::Sleep]) => {
                let insert = self.numbered(Statement::Insert(0), &mut rows);
                [&[insert], last.as_slice()].concat()
            }
            _ => last,
        };
        self.is_main = true;
        self.send(&[&own])?;
        self.stage.tell_ready();
        let answer = self.receive(what(&own, !before.is_empty()))?;
        if answer.failure.is_some() {
            return self.give_up(&answer, &rows);
        }
        match own.last() {
            Some(Statement::Sleep) => self.finish(&rows),
            Some(Statement::Commit) => {
                self.believe(
                    &rows,
                    if answer.tags.iter().any(|tag| tag == "COMMIT") {
                        Belief::There
                    } else {
                        Belief::Absent
                    },
                );
                Ok(())
            }
            _ => {
                self.believe(&rows, Belief::There);
                Ok(())
            }
        }
    }

    fn tied(&mut self) -> Result<()> {
        self.wire.query("CREATE TEMP TABLE mine ()")?;
        self.stage.tell_ready();
        self.stage.wait_for(Part::Stands);
        self.is_main = true;
        self.asked = clock::now();
        // Whoever is told that the session is over is told it by itself, and what is sent then has no answer.
        let _ = self.send(&[&[Statement::Mark]]);
        let _ = self.receive(What::Read);
        Ok(())
    }

    fn again_and_again(&mut self) -> io::Result<()> {
        self.stage.tell_ready();
        self.is_main = true;
        while self.stage.part() < Part::Over {
            if self.record.role == Role::WriteLoop {
                self.write()?;
            } else {
                self.transaction()?;
            }
            std::thread::sleep(LOOP_PAUSE);
        }
        Ok(())
    }

    /// Writes outside of a transaction; pipelined, three such writes at once.
    fn write(&mut self) -> io::Result<Belief> {
        let insert = |own: &Self| Statement::Insert(own.stage.row());
        let units: Vec<Vec<Statement>> = if self.form == Form::Pipelined {
            vec![vec![insert(self), insert(self)], vec![insert(self)], vec![insert(self)]]
        } else {
            vec![vec![insert(self)]]
        };
        self.send(&units.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let mut all = Belief::There;
        for unit in &units {
            let rows: Vec<i64> = unit.iter().filter_map(|statement| statement.value()).collect();
            let answer = self.receive(What::Autocommit);
            let belief = answer.as_ref().map_or(Belief::Unknown, belief);
            self.believe(&rows, belief);
            if answer?.failure.is_some() {
                all = belief;
            }
        }
        Ok(all)
    }

    /// A short transaction of two rows; pipelined, in two units at once.
    fn transaction(&mut self) -> io::Result<Belief> {
        let rows = [self.stage.row(), self.stage.row()];
        let [first, second] = rows.map(Statement::Insert);
        let units: &[&[Statement]] = match self.form {
            Form::Pipelined => &[&[Statement::Begin, first], &[second, Statement::Commit]],
            _ => &[&[Statement::Begin], &[first], &[second], &[Statement::Commit]],
        };
        let mut answers = Vec::new();
        if self.form == Form::Pipelined {
            self.send(units)?;
        }
        for (place, unit) in units.iter().enumerate() {
            if self.form != Form::Pipelined {
                self.send(&[unit])?;
            }
            let answer = self.receive(what(unit, place > 0));
            if answer.is_err() {
                self.believe(
                    &rows,
                    if unit.contains(&Statement::Commit) || self.form == Form::Pipelined {
                        Belief::Unknown
                    } else {
                        Belief::Absent
                    },
                );
            }
            answers.push(answer?);
            let failed = answers.last().is_some_and(|answer| answer.failure.is_some());
            if failed && self.form != Form::Pipelined {
                break;
            }
        }
        let failed: Vec<&Answer> = answers.iter().filter(|answer| answer.failure.is_some()).collect();
        let Some(first) = failed.first() else {
            let is_committed =
                answers.last().is_some_and(|answer| answer.tags.iter().any(|tag| tag == "COMMIT"));
            let outcome = if is_committed { Belief::There } else { Belief::Absent };
            self.believe(&rows, outcome);
            return Ok(outcome);
        };
        let outcome = if failed.iter().any(|answer| belief(answer) == Belief::Unknown) {
            Belief::Unknown
        } else {
            belief(first)
        };
        // A unit behind a BEGIN that has failed is a transaction of its own, as it is without a proxy.
        let is_apart = answers.len() == 2
            && answers[0].failure.is_some()
            && answers[0].status == backend::IDLE
            && answers[1].failure.is_none();
        self.believe(&rows[..1], outcome);
        self.believe(&rows[1..], if is_apart { Belief::There } else { outcome });
        self.end_failed(answers.last().map_or(backend::IDLE, |answer| answer.status))?;
        Ok(outcome)
    }

    /// The answer was an error: what it says of the rows is believed, and the transaction is ended.
    fn give_up(&mut self, answer: &Answer, rows: &[i64]) -> io::Result<()> {
        self.believe(rows, belief(answer));
        self.end_failed(answer.status)
    }

    fn end_failed(&mut self, status: u8) -> io::Result<()> {
        if status == backend::IDLE {
            return Ok(());
        }
        let was_main = std::mem::replace(&mut self.is_main, false);
        let answer = self.ask(&[Statement::Rollback])?;
        if answer.failure.is_some() || answer.status != backend::IDLE {
            self.record.complaints.push(format!("ROLLBACK after an error is answered {:?}", answer.failure));
        }
        self.is_main = was_main;
        Ok(())
    }

    /// Commits what went on without an error.
    fn finish(&mut self, rows: &[i64]) -> io::Result<()> {
        let answer = self.ask(&[Statement::Commit])?;
        self.believe(rows, belief(&answer));
        Ok(())
    }

    fn believe(&mut self, rows: &[i64], belief: Belief) {
        self.record.rows.extend(rows.iter().map(|row| (*row, belief)));
    }

    fn numbered(&self, statement: Statement, rows: &mut Vec<i64>) -> Statement {
        let statement = match statement {
            Statement::Insert(_) => Statement::Insert(self.stage.row()),
            Statement::SlowInsert(_) => Statement::SlowInsert(self.stage.row()),
            Statement::InsertForSlowCommit(_) => Statement::InsertForSlowCommit(self.stage.row()),
            other => other,
        };
        rows.extend(statement.value());
        statement
    }

    fn ask(&mut self, unit: &[Statement]) -> io::Result<Answer> {
        self.send(&[unit])?;
        let is_open = !matches!(unit.first(), Some(Statement::Begin | Statement::Mark));
        self.receive(what(unit, is_open))
    }

    fn send(&mut self, units: &[&[Statement]]) -> io::Result<()> {
        self.asked = clock::now();
        self.wire.send(units)
    }

    /// An end of the connection is an error.
    fn receive(&mut self, what: What) -> io::Result<Answer> {
        let answer = self.wire.receive();
        self.record.told.push(Told {
            what,
            is_main: self.is_main,
            asked: self.asked,
            at: answer.at,
            failure: answer.failure.clone(),
            end: answer.end.clone(),
        });
        match &answer.end {
            None => Ok(answer),
            Some(end) => {
                let said =
                    answer.failure.as_ref().map_or_else(String::new, |failure| format!(" after {failure}"));
                Err(io::Error::other(format!("the connection ended: {end}{said}")))
            }
        }
    }
}
