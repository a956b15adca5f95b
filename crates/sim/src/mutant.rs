//! Faults of the shell that the checkers must catch, beside those of the core.

use mainstay_core::mutant::Mutant;

/// A duty of the program around the core, not done. The name says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShellMutant {
    /// The consensus log is said to be synced and is not.
    SyncLies,
    /// A member seals without ending its walreceiver.
    WalreceiverLeftAlive,
    /// The promise to stream from an epoch no more is kept in memory only.
    SealNotDurable,
    /// The end of the WAL is reported from the page cache.
    ScanNotSynced,
    /// A scan is kept although the server ran since.
    ScanKept,
    /// No empty history files are written, so that PostgreSQL picks the next number.
    DummiesNotWritten,
    /// Empty history files above the newest real one stay when a server is started.
    DummiesKept,
    /// Empty history files are written for the numbers above the newest real one only.
    DummiesAboveOnly,
    /// Names count as effective once a fresh session shows them.
    NamesNotProven,
    /// Names count as proven before enough voters hold what is older.
    OlderNotAwaited,
    /// The gate is not shut before a promotion.
    GateLeftOpen,
    /// Sessions from before a promotion are left alone.
    StandbySessionsSpared,
    /// Sessions from before a promotion are ended only when the gate opens.
    SessionsEndedLate,
    /// A half-changed directory is started.
    HalfChangedStarted,
    /// A rewind does not mark the directory.
    RewindUnmarked,
    /// A clone takes over the incarnation of the directory that it copies.
    IncarnationKept,
    /// The guard does not end the server when the lease runs out.
    GuardWithoutDeadline,
    /// The guard takes a later deadline for an epoch that has run out.
    LateGrantHonoured,
    /// A new guard does not end what an earlier one left.
    LeftoversTolerated,
    /// A grant's deadline counts from when it is seen, not from when it was asked for.
    LeaseCountedFromGrant,
    /// A voter says that a lease has run out before its promise is durable.
    RunOutBeforeDurable,
    /// A holder that ends its epoch goes on renewing and opening.
    RelinquishIgnored,
    /// A member is taken out of the record while it still votes in the log.
    RemovedWhileItVotes,
    /// Nobody is told of members that joined while it was away.
    RosterNotTold,
}

impl ShellMutant {
    pub const ALL: &[ShellMutant] = &[
        ShellMutant::SyncLies,
        ShellMutant::WalreceiverLeftAlive,
        ShellMutant::SealNotDurable,
        ShellMutant::ScanNotSynced,
        ShellMutant::ScanKept,
        ShellMutant::DummiesNotWritten,
        ShellMutant::DummiesKept,
        ShellMutant::DummiesAboveOnly,
        ShellMutant::NamesNotProven,
        ShellMutant::OlderNotAwaited,
        ShellMutant::GateLeftOpen,
        ShellMutant::StandbySessionsSpared,
        ShellMutant::SessionsEndedLate,
        ShellMutant::HalfChangedStarted,
        ShellMutant::RewindUnmarked,
        ShellMutant::IncarnationKept,
        ShellMutant::GuardWithoutDeadline,
        ShellMutant::LateGrantHonoured,
        ShellMutant::LeftoversTolerated,
        ShellMutant::LeaseCountedFromGrant,
        ShellMutant::RunOutBeforeDurable,
        ShellMutant::RelinquishIgnored,
        ShellMutant::RemovedWhileItVotes,
        ShellMutant::RosterNotTold,
    ];
}

/// One rule taken away, of the core or of the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    Core(Mutant),
    Shell(ShellMutant),
}

/// The core's mutants that the simulation knows.
pub const CORE: &[Mutant] = &[
    Mutant::FollowAheadOfFork,
    Mutant::NamesBeforeRecord,
    Mutant::RecordBeforeNames,
    Mutant::LateSyncAccepted,
    Mutant::TimelineReused,
    Mutant::OpenUnchecked,
    Mutant::ExpiryByMinority,
    Mutant::FloorIgnored,
    Mutant::IncarnationIgnored,
    Mutant::LoneIgnored,
    Mutant::OneReportSuffices,
    Mutant::NotTheFurthest,
    Mutant::VotersUnchecked,
    Mutant::VoterWiped,
    Mutant::NoClockMargin,
    Mutant::RenewedByOne,
    Mutant::GrantorForgetsRestart,
    Mutant::PromiseNotPersisted,
    Mutant::GrantorAnswersAfterRunOut,
    Mutant::GrantorHurries,
    Mutant::StrayPrimaryTolerated,
    Mutant::OldEpochTolerated,
    Mutant::LeaseKept,
    Mutant::AddressesKept,
    Mutant::FailedOpeningKept,
    Mutant::ReportBeforeSeal,
    Mutant::RecordNotRead,
    Mutant::GateIgnored,
    Mutant::CutCountsAsStuck,
    Mutant::NotToldAgain,
    Mutant::ForcedInAnyEpoch,
    Mutant::ForcedWithAnyDirectory,
];

impl Mutation {
    /// All mutations, the core's first.
    pub fn all() -> Vec<Mutation> {
        let core = CORE.iter().map(|mutant| Mutation::Core(*mutant));
        core.chain(ShellMutant::ALL.iter().map(|mutant| Mutation::Shell(*mutant))).collect()
    }

    /// The rule of the core that it takes away.
    pub(crate) fn core(self) -> Option<Mutant> {
        match self {
            Mutation::Core(mutant) => Some(mutant),
            Mutation::Shell(_) => None,
        }
    }

    /// Its name, as it is written on the command line.
    pub fn name(self) -> String {
        match self {
            Mutation::Core(mutant) => format!("{mutant:?}"),
            Mutation::Shell(mutant) => format!("{mutant:?}"),
        }
    }

    /// The mutation of that name.
    pub fn by_name(name: &str) -> Option<Mutation> {
        Mutation::all().into_iter().find(|mutation| mutation.name() == name)
    }
}
