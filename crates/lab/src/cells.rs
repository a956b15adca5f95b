//! The cells: every fault crossed with every form of the protocol, and in each the answer that every client gets.
//!
//! One cluster with a SQL proxy on each of its three members. In each cell sessions are brought into every state that the table
//! of the book's page on the SQL proxy knows, the fault hits, and what they are told and what is in the tables afterwards is held
//! against it.

mod form;
mod judge;
mod play;
mod record;
mod report;
mod session;
mod stage;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::cluster::Cluster;
use crate::files::Plan;
use crate::network::{self, Index};
use crate::{clock, failure, interrupt, sql};

pub use form::Form;

/// The bar of the design: whoever is in a transaction learns so soon after the new primary stands that it is gone.
const TOLD_WITHIN: Duration = Duration::from_millis(100);
const SQL_PATIENCE: Duration = Duration::from_secs(20);

/// What happens to the primary, or between it and a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellFault {
    /// SIGKILL to the postmaster.
    KillPostmaster,
    /// SIGKILL to everything on the primary's machine.
    KillMember,
    /// SIGSTOP to everything there, and later SIGCONT.
    Freeze,
    /// Nothing passes between one proxy's machine and the primary's.
    CutLink,
    /// The primary's machine is cut off, with its SQL proxy and clients of that.
    CutMinority,
    Switchover,
}

impl CellFault {
    pub const ALL: [CellFault; 6] = [
        CellFault::KillPostmaster,
        CellFault::KillMember,
        CellFault::Freeze,
        CellFault::CutLink,
        CellFault::CutMinority,
        CellFault::Switchover,
    ];

    pub fn word(self) -> &'static str {
        match self {
            CellFault::KillPostmaster => "kill-postmaster",
            CellFault::KillMember => "kill-member",
            CellFault::Freeze => "freeze",
            CellFault::CutLink => "cut-proxy-primary",
            CellFault::CutMinority => "cut-minority",
            CellFault::Switchover => "switchover",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    pub index: Index,
    pub binary: PathBuf,
    /// Words of faults and of forms; none: all.
    pub faults: Vec<String>,
    pub forms: Vec<String>,
    /// A few cells that take less than a minute.
    pub is_quick: bool,
    pub keep: bool,
    pub slack: f64,
    pub is_json: bool,
    pub out: Option<PathBuf>,
}

/// Those of the core that CI plays: every form once, and no fault that has to wait for a lease to run out.
const QUICK: [(CellFault, Form); 3] = [
    (CellFault::KillPostmaster, Form::Pipelined),
    (CellFault::Switchover, Form::Prepared),
    (CellFault::KillPostmaster, Form::Simple),
];

/// Plays the cells that are asked for; fails if a client was told something else than the table says.
pub fn run(options: &Options) -> Result<()> {
    let cells = chosen(options)?;
    if let Err(error) = network::possible() {
        eprintln!("skipped: {} cells: {error:#}", cells.len());
        return Ok(());
    }
    let begun = clock::now();
    let plan = Plan { sql_proxy: true, ..Plan::new(3) };
    let mut cluster = Cluster::create(options.index, &options.binary, &plan)?;
    let primary = cluster.primary().map(|member| sql::application(&member.site));
    if let Some(primary) = primary {
        sql::query(&primary, form::TABLES, SQL_PATIENCE)?;
    }
    let mut results = Vec::new();
    for (number, (fault, form)) in (1..).zip(cells) {
        interrupt::check()?;
        let cell = play::Cell { fault, form, number, bar: TOLD_WITHIN.mul_f64(options.slack) };
        let result = play::play(&mut cluster, cell);
        interrupt::check()?;
        report::tell(&result, options.out.as_deref())?;
        let (is_bad, is_whole) = (!result.violations().is_empty(), result.is_whole);
        results.push(result);
        if is_bad {
            let name = format!("cell-{}-{}", fault.word(), form.word());
            let place = failure::keep(&cluster, &name)?;
            eprintln!("=== {}: see {}", name, place.display());
        }
        if is_bad && options.keep {
            cluster.keep = true;
            break;
        }
        if !is_whole {
            eprintln!("the cluster does not heal: what is left is not played");
            break;
        }
    }
    drop(cluster);
    report::print(&results, options.is_json, clock::now().since(begun));
    let failed = results.iter().filter(|result| !result.violations().is_empty()).count();
    if failed > 0 {
        bail!("{failed} of {} cells failed; logs are in {}", results.len(), failure::directory().display());
    }
    Ok(())
}

fn chosen(options: &Options) -> Result<Vec<(CellFault, Form)>> {
    for word in &options.faults {
        if !CellFault::ALL.iter().any(|fault| fault.word() == word) {
            bail!("there is no fault {word}; there are {}", CellFault::ALL.map(CellFault::word).join(", "));
        }
    }
    for word in &options.forms {
        if !Form::ALL.iter().any(|form| form.word() == word) {
            bail!("there is no form {word}; there are {}", Form::ALL.map(Form::word).join(", "));
        }
    }
    let is_named = |named: &[String], word: &str| named.is_empty() || named.iter().any(|name| name == word);
    let all = CellFault::ALL.into_iter().flat_map(|fault| Form::ALL.map(|form| (fault, form)));
    let all: Vec<(CellFault, Form)> = if options.is_quick { QUICK.to_vec() } else { all.collect() };
    let is_chosen = |(fault, form): &(CellFault, Form)| {
        is_named(&options.faults, fault.word()) && is_named(&options.forms, form.word())
    };
    Ok(all.into_iter().filter(is_chosen).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_four_cells_unless_fewer_are_asked_for() {
        let options = |faults: &[&str], is_quick| Options {
            index: Index::new(0).unwrap(),
            binary: PathBuf::new(),
            faults: faults.iter().map(|word| (*word).to_owned()).collect(),
            forms: Vec::new(),
            is_quick,
            keep: false,
            slack: 1.0,
            is_json: false,
            out: None,
        };
        assert_eq!(chosen(&options(&[], false)).unwrap().len(), 24);
        assert_eq!(chosen(&options(&["freeze"], false)).unwrap().len(), 4);
        assert_eq!(
            chosen(&options(&["switchover"], true)).unwrap(),
            [(CellFault::Switchover, Form::Prepared)]
        );
        assert!(chosen(&options(&["fire"], false)).unwrap_err().to_string().contains("cut-minority"));
    }
}
