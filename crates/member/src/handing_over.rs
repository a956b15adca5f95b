//! That this primary is about to let no application in any more, known before it begins to.
//!
//! A proxy that learns it in time sends no new transaction and lets those under way come to their end; after the gate is shut
//! they are cut off. Nothing is decided by it.

use mainstay_core::Epoch;
use tokio::sync::watch;

/// The epoch whose primary is being stopped, on purpose, by this member.
#[derive(Debug)]
pub(crate) struct HandingOver(watch::Sender<Option<Epoch>>);

impl Default for HandingOver {
    fn default() -> HandingOver {
        HandingOver(watch::Sender::new(None))
    }
}

impl HandingOver {
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Epoch>> {
        self.0.subscribe()
    }

    pub(crate) fn is_under_way(&self, epoch: Epoch) -> bool {
        *self.0.borrow() == Some(epoch)
    }

    /// From now on, until [`HandingOver::take_back`]. A primary that is given up is not opened again under its epoch.
    pub(crate) fn announce(&self, epoch: Epoch) {
        self.0.send_replace(Some(epoch));
    }

    /// As [`HandingOver::announce`], and taken back if the work that it announces does not come to its end.
    pub(crate) fn begin(&self, epoch: Epoch) -> Attempt<'_> {
        self.announce(epoch);
        Attempt { handing_over: self, is_done: false }
    }

    /// Applications are let in, or soon will be.
    pub(crate) fn take_back(&self) {
        self.0.send_if_modified(|epoch| epoch.take().is_some());
    }
}

/// Stopping the primary. Dropped before it is done, applications are let in again.
pub(crate) struct Attempt<'a> {
    handing_over: &'a HandingOver,
    is_done: bool,
}

impl Attempt<'_> {
    pub(crate) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.handing_over.take_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_is_given_up_is_taken_back() {
        let handing_over = HandingOver::default();
        drop(handing_over.begin(Epoch(3)));
        assert!(!handing_over.is_under_way(Epoch(3)));
        handing_over.begin(Epoch(3)).done();
        assert!(handing_over.is_under_way(Epoch(3)) && !handing_over.is_under_way(Epoch(4)));
        handing_over.take_back();
        assert!(!handing_over.is_under_way(Epoch(3)));
    }
}
