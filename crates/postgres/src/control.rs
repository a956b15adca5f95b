//! `pg_control`, as `pg_controldata` prints it.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use mainstay_core::{Lsn, Timeline};

use crate::layout::Layout;
use crate::tools::{self, Tools, ToolsError};
use crate::waldump::PAGE_BYTES;

/// `pg_controldata` reads one block of 8 kB.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A running server may be writing the file while it is read; then its checksum does not match, once.
const ATTEMPTS: u32 = 3;

/// Why `pg_control` could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("pg_control is damaged: its checksum does not match")]
    Damaged,
    #[error("pg_controldata printed no usable line {0:?}")]
    Line(&'static str),
    #[error(
        "PostgreSQL was built with WAL blocks of {0} bytes instead of 8192: use the distribution's packages"
    )]
    WalBlockSize(u64),
    #[error("cannot read pg_control")]
    Tool(#[from] ToolsError),
}

/// PostgreSQL's `DBState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl ClusterState {
    /// As `pg_controldata` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            ClusterState::StartingUp => "starting up",
            ClusterState::ShutDown => "shut down",
            ClusterState::ShutDownInRecovery => "shut down in recovery",
            ClusterState::ShuttingDown => "shutting down",
            ClusterState::InCrashRecovery => "in crash recovery",
            ClusterState::InArchiveRecovery => "in archive recovery",
            ClusterState::InProduction => "in production",
        }
    }
}

impl FromStr for ClusterState {
    type Err = ();
    fn from_str(text: &str) -> Result<ClusterState, ()> {
        Ok(match text {
            "starting up" => ClusterState::StartingUp,
            "shut down" => ClusterState::ShutDown,
            "shut down in recovery" => ClusterState::ShutDownInRecovery,
            "shutting down" => ClusterState::ShuttingDown,
            "in crash recovery" => ClusterState::InCrashRecovery,
            "in archive recovery" => ClusterState::InArchiveRecovery,
            "in production" => ClusterState::InProduction,
            _ => return Err(()),
        })
    }
}

/// What `pg_control` says. It is as old as the last checkpoint, restartpoint or change of the minimum recovery point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    pub system_identifier: u64,
    pub state: ClusterState,
    pub checkpoint: Lsn,
    pub redo: Lsn,
    pub checkpoint_timeline: Timeline,
    pub previous_timeline: Timeline,
    /// Zero unless the directory was in recovery.
    pub minimum_recovery_end: Lsn,
    /// The timeline of [`Control::minimum_recovery_end`]; zero unless the directory was in recovery.
    pub minimum_recovery_timeline: Timeline,
    /// With the epoch in the upper half, as `pg_current_xact_id()` counts.
    pub next_xid: u64,
    pub data_checksums: bool,
    pub wal_segment_bytes: u64,
    /// What no standby of this data may have less of, by the parameter's name.
    pub least: BTreeMap<&'static str, u64>,
}

/// The parameters that a standby must not have lower than its primary, and how `pg_controldata` calls them.
const LEAST: [(&str, &str); 5] = [
    ("max_connections", "max_connections setting"),
    ("max_worker_processes", "max_worker_processes setting"),
    ("max_wal_senders", "max_wal_senders setting"),
    ("max_prepared_transactions", "max_prepared_xacts setting"),
    ("max_locks_per_transaction", "max_locks_per_xact setting"),
];

/// Reads the `pg_control` of the member's directory.
pub async fn read(tools: &Tools, layout: &Layout) -> Result<Control, ControlError> {
    read_in(tools, layout.root(), layout.data()).await
}

/// Reads the `pg_control` of `data`.
pub(crate) async fn read_in(
    tools: &Tools,
    working_directory: &Path,
    data: &Path,
) -> Result<Control, ControlError> {
    let mut attempt = 1;
    loop {
        let mut command = tools.command("pg_controldata", working_directory);
        command.arg("-D").arg(data);
        let output = tools::run("pg_controldata", command, TIMEOUT).await?;
        let warned =
            [&output.stdout, &output.stderr].into_iter().any(|text| contains(text, b"does not match"));
        match warned {
            false => return parse(&String::from_utf8_lossy(&output.stdout)),
            true if attempt == ATTEMPTS => return Err(ControlError::Damaged),
            true => attempt += 1,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

fn parse(printed: &str) -> Result<Control, ControlError> {
    let fields: BTreeMap<&str, &str> = printed
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    fn field<T: FromStr>(fields: &BTreeMap<&str, &str>, name: &'static str) -> Result<T, ControlError> {
        fields.get(name).and_then(|value| value.parse().ok()).ok_or(ControlError::Line(name))
    }
    let wal_block_bytes = field(&fields, "WAL block size")?;
    if wal_block_bytes != PAGE_BYTES {
        return Err(ControlError::WalBlockSize(wal_block_bytes));
    }
    const NEXT_XID: &str = "Latest checkpoint's NextXID";
    let next_xid: String = field(&fields, NEXT_XID)?;
    let (epoch, xid) = next_xid.split_once(':').ok_or(ControlError::Line(NEXT_XID))?;
    let half = |text: &str| text.parse::<u32>().map(u64::from).map_err(|_| ControlError::Line(NEXT_XID));
    Ok(Control {
        system_identifier: field(&fields, "Database system identifier")?,
        state: field(&fields, "Database cluster state")?,
        checkpoint: field(&fields, "Latest checkpoint location")?,
        redo: field(&fields, "Latest checkpoint's REDO location")?,
        checkpoint_timeline: Timeline(field(&fields, "Latest checkpoint's TimeLineID")?),
        previous_timeline: Timeline(field(&fields, "Latest checkpoint's PrevTimeLineID")?),
        minimum_recovery_end: field(&fields, "Minimum recovery ending location")?,
        minimum_recovery_timeline: Timeline(field(&fields, "Min recovery ending loc's timeline")?),
        next_xid: (half(epoch)? << 32) | half(xid)?,
        data_checksums: field::<u32>(&fields, "Data page checksum version")? != 0,
        wal_segment_bytes: field(&fields, "Bytes per WAL segment")?,
        least: LEAST
            .iter()
            .filter_map(|(name, printed)| Some((*name, fields.get(printed)?.parse().ok()?)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
pg_control version number:            1300
Database system identifier:           7710464959569649063
Database cluster state:               in archive recovery
pg_control last modified:             Sat Nov 21 03:42:00 2026
Latest checkpoint location:           0/37FE860
Latest checkpoint's REDO location:    0/37FE828
Latest checkpoint's REDO WAL file:    000000010000000000000003
Latest checkpoint's TimeLineID:       3
Latest checkpoint's PrevTimeLineID:   2
Latest checkpoint's NextXID:          1:726
Minimum recovery ending location:     1/1000
Min recovery ending loc's timeline:   3
WAL block size:                       8192
Bytes per WAL segment:                16777216
max_connections setting:              150
max_prepared_xacts setting:           0
Data page checksum version:           1
";

    #[test]
    fn the_printed_lines_are_read() {
        let control = parse(PRINTED).unwrap();
        assert_eq!(control.system_identifier, 7_710_464_959_569_649_063);
        assert_eq!(control.state, ClusterState::InArchiveRecovery);
        assert_eq!((control.checkpoint, control.redo), (Lsn(0x37F_E860), Lsn(0x37F_E828)));
        assert_eq!((control.checkpoint_timeline, control.previous_timeline), (Timeline(3), Timeline(2)));
        assert_eq!(control.minimum_recovery_end, Lsn(0x1_0000_1000));
        assert_eq!(control.next_xid, (1 << 32) | 726);
        assert!(control.data_checksums);
        let least = [("max_connections", 150), ("max_prepared_transactions", 0)];
        assert_eq!(control.least, BTreeMap::from(least));
    }

    #[test]
    fn a_missing_line_is_named() {
        let without = PRINTED.replace("Bytes per WAL segment", "Octets per WAL segment");
        let error = parse(&without).unwrap_err();
        assert!(matches!(error, ControlError::Line("Bytes per WAL segment")), "{error}");
    }
}
