//! Values for PostgreSQL that fit this machine, as `init` and `join` write them into the member's own file: what `config tune`
//! shows later. They belong to the machine, so each member has its own; the cluster's configuration goes over them.

use std::fmt::Write as _;
use std::path::Path;

use mainstay_postgres::configuration::{LEAST_OF_A_STANDBY, own_defaults};
use mainstay_postgres::sizing::{self, Machine, Sized};
use serde_json::{Value, json};

use crate::output::println;

/// What fits this machine, with the disk under `data`.
pub(crate) struct Tuned {
    machine: Machine,
    values: Vec<Sized>,
}

impl Tuned {
    pub(crate) fn here(data: &Path) -> Tuned {
        let machine = Machine::here(data);
        let connections = own_defaults().find(|(name, _)| *name == "max_connections");
        let connections = connections.and_then(|(_, value)| value.parse().ok()).unwrap_or(100);
        let mut values = sizing::sizes(&machine, connections);
        // A standby with less of these than the primary would not start: they are the cluster's, whatever a machine has.
        values.retain(|sized| !LEAST_OF_A_STANDBY.iter().any(|(name, _)| *name == sized.name));
        Tuned { machine, values }
    }

    /// The table for the member's file.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "\n# Computed from this machine ({}). They hold where the cluster's configuration\n\
             # (mainstay config set …) says nothing else.\n[postgresql.defaults]\n",
            self.machine_words()
        );
        for Sized { name, value, reason } in &self.values {
            let _ = writeln!(text, "{name} = \"{value}\"  # {reason}");
        }
        text
    }

    pub(crate) fn print(&self) {
        println!("\nPostgreSQL's values for this machine ({}):", self.machine_words());
        let longest = self.values.iter().map(|sized| sized.name.len()).max().unwrap_or(0);
        for Sized { name, value, reason } in &self.values {
            println!("  {name:longest$} = {value:7} {reason}");
        }
        println!(
            "Change them with: mainstay config set NAME=VALUE; compute them again with: mainstay config tune"
        );
    }

    pub(crate) fn json(&self) -> Value {
        let row = |sized: &Sized| json!({ "name": sized.name, "value": sized.value, "reason": sized.reason });
        self.values.iter().map(row).collect()
    }

    fn machine_words(&self) -> String {
        let Machine { memory_bytes, cores, disk_bytes, .. } = self.machine;
        let mib = |bytes: u64| bytes >> 20;
        format!("{} MiB of memory, {cores} cores, a disk of {} MiB", mib(memory_bytes), mib(disk_bytes))
    }
}
