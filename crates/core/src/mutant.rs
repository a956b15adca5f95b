//! Named faults that the simulation and the model check must catch, one at a time.
//!
//! Without the feature `mutants` (and the shipped binary is built without it) [`mutated`] is the constant
//! `false` and leaves no trace in the code.

/// A rule of the core taken away. The name says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    FollowAheadOfFork,
    NamesBeforeRecord,
    RecordBeforeNames,
    LateSyncAccepted,
    TimelineReused,
    OpenUnchecked,
    ExpiryByMinority,
    FloorIgnored,
    IncarnationIgnored,
    LoneIgnored,
    OneReportSuffices,
    NotTheFurthest,
    VotersUnchecked,
    VoterWiped,
    NoClockMargin,
    RenewedByOne,
    GrantorForgetsRestart,
    PromiseNotPersisted,
    GrantorAnswersAfterRunOut,
    GrantorHurries,
    StrayPrimaryTolerated,
    OldEpochTolerated,
    LeaseKept,
    AddressesKept,
    FailedOpeningKept,
    ReportBeforeSeal,
    RecordNotRead,
    GateIgnored,
    CutCountsAsStuck,
    NotToldAgain,
    MixtureIgnored,
    OutgoingIgnored,
    SettledTooSoon,
    RemovedTooSoon,
    SerialForgotten,
    OldWordsCount,
    ChangedUnsettled,
    SettledUnasked,
    ForcedInAnyEpoch,
    ForcedWithAnyDirectory,
}

#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn mutated(_mutant: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
mod active {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Takes `mutant`'s rule away on this thread, or restores all rules.
    pub fn activate(mutant: Option<Mutant>) {
        ACTIVE.with(|active| active.set(mutant));
    }

    pub fn mutated(mutant: Mutant) -> bool {
        ACTIVE.with(|active| active.get() == Some(mutant))
    }
}

#[cfg(feature = "mutants")]
pub use active::{activate, mutated};

/// Whether this build can take rules away. The shipped program refuses to run if so.
pub const COMPILED_IN: bool = cfg!(feature = "mutants");
