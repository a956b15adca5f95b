//! Undoing faults: what was cut is joined, what was stopped goes on, frozen disks thaw, full ones get their room back.

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::process;

/// What undoes one fault at one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    LinkUp {
        place: u8,
    },
    Attach {
        place: u8,
    },
    Routes {
        from: u8,
        to: Vec<u8>,
    },
    OpenPort {
        of: u8,
        port: u16,
        from: u8,
    },
    /// Process ids, each with the time of its start: it may have died, and its number belong to another by now.
    Continue {
        stopped: Vec<(i32, u64)>,
    },
    Thaw {
        place: u8,
    },
    Empty {
        place: u8,
    },
}

/// The faults that last, in the order in which they were made.
#[derive(Debug, Default)]
pub struct Outstanding {
    list: Vec<(Fault, Undo)>,
}

impl Outstanding {
    pub fn push(&mut self, fault: Fault, undo: Undo) {
        self.list.push((fault, undo));
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// Undoes every fault; goes on after one that cannot be undone, and then says so.
pub fn everything(cluster: &mut Cluster) -> Result<()> {
    let list = std::mem::take(&mut cluster.outstanding.list);
    undo_all(cluster, list)
}

/// Undoes the faults of one kind.
pub fn only(cluster: &mut Cluster, fault: Fault) -> Result<()> {
    let all = std::mem::take(&mut cluster.outstanding.list);
    let (chosen, rest) = all.into_iter().partition(|(made, _)| *made == fault);
    cluster.outstanding.list = rest;
    undo_all(cluster, chosen)
}

fn undo_all(cluster: &Cluster, list: Vec<(Fault, Undo)>) -> Result<()> {
    let results: Vec<Result<()>> = list.iter().map(|(_, step)| undo(cluster, step)).collect();
    results.into_iter().collect()
}

fn undo(cluster: &Cluster, step: &Undo) -> Result<()> {
    let network = &cluster.network;
    match step {
        Undo::LinkUp { place } => network.set_link(*place, true),
        Undo::Attach { place } => network.set_attached(*place, true),
        Undo::Routes { from, to } => network.blackhole(*from, to, false),
        Undo::OpenPort { of, port, from } => network.set_port(*of, *port, *from, true),
        Undo::Continue { stopped } => {
            let same = |(pid, started): &&(i32, u64)| {
                process::look(*pid).is_some_and(|process| process.started_ticks == *started)
            };
            process::signal(stopped.iter().filter(same).map(|(pid, _)| *pid), Signal::SIGCONT)
        }
        Undo::Thaw { place } => cluster.disks.get(place).map_or(Ok(()), |disk| disk.thaw()),
        Undo::Empty { place } => cluster.disks.get(place).map_or(Ok(()), |disk| disk.empty()),
    }
}
