//! How a replica behaves.

/// Raft's times, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A leader is heard from this often. At least 1.
    pub heartbeat_ticks: usize,
    /// Who heard the leader within so many ticks refuses its vote to others, and a leader that hears no majority
    /// within so many steps down. More than `heartbeat_ticks`. One less than the smallest `election_ticks_min` of the
    /// members lets a peer whose ticks fall a little later not refuse the first who campaigns.
    pub leader_ticks: usize,
    /// A follower that hears no leader campaigns after a number of ticks drawn from `[min, max)`. At least
    /// `leader_ticks`.
    pub election_ticks_min: usize,
    /// Greater than `election_ticks_min`.
    pub election_ticks_max: usize,
}

/// How a replica behaves; may differ between the members of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Raft's times.
    pub timing: Timing,
    /// A snapshot is taken and the log is cut once this many entries were applied since the last one. At least 1.
    pub compact_after_entries: u64,
    /// So many applied entries stay in the log, so that a member which was away for a short time needs no snapshot.
    pub keep_entries: u64,
}

impl Default for Settings {
    /// For ticks of 50 ms: a heartbeat every 100 ms, elections after 300 to 600 ms.
    fn default() -> Self {
        Self {
            timing: Timing {
                heartbeat_ticks: 2,
                leader_ticks: 5,
                election_ticks_min: 6,
                election_ticks_max: 12,
            },
            compact_after_entries: 1000,
            keep_entries: 1000,
        }
    }
}
