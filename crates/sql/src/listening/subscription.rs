//! One session's part in what is heard for all.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Waker;

use tokio::sync::Notify;

use super::Channels;
use super::messages::without;

/// A client that does not read is not kept more for.
const MOST_UNREAD_BYTES: usize = 4 << 20;

#[derive(Default)]
pub(crate) struct Subscription {
    /// Each with whether the mark has been heard since.
    channels: RefCell<BTreeMap<Box<str>, bool>>,
    awaited: Cell<Option<u64>>,
    /// Whole messages, for the client.
    unread: RefCell<Vec<u8>>,
    waker: RefCell<Option<Waker>>,
    marked: Notify,
}

impl Subscription {
    /// What the client is to be told.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.unread.borrow_mut())
    }

    /// The task is woken when more comes.
    pub(crate) fn wake_later(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// More has come than is kept for a client that does not read, and the rest is lost.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.unread.borrow().len() > MOST_UNREAD_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.channels.borrow().is_empty()
    }

    /// Whether what is notified there is told by it: whoever else hears it is not to tell it too.
    pub(crate) fn hears(&self, channel: &str) -> bool {
        self.channels.borrow().get(channel) == Some(&true)
    }

    /// All that it hears.
    pub(super) fn heard(&self) -> Channels {
        let channels = self.channels.borrow();
        channels.iter().filter(|(_, is_on)| **is_on).map(|(channel, _)| channel.clone()).collect()
    }

    /// Takes what it hears itself out of what another one has heard.
    pub(crate) fn without_heard(&self, bytes: &[u8]) -> Vec<u8> {
        without(bytes, |channel| self.hears(channel))
    }

    pub(super) fn wants(&self, channel: &str) -> bool {
        self.channels.borrow().contains_key(channel)
    }

    pub(super) fn awaits(&self, mark: u64) -> bool {
        self.awaited.get() == Some(mark)
    }

    pub(super) fn await_mark(&self, mark: Option<u64>) {
        self.awaited.set(mark);
    }

    /// Answers which of them are new.
    pub(super) fn add(&self, channels: &[Box<str>]) -> Channels {
        let mut of_session = self.channels.borrow_mut();
        let mut added = Channels::new();
        for channel in channels {
            if !of_session.contains_key(channel) {
                of_session.insert(channel.clone(), false);
                added.insert(channel.clone());
            }
        }
        added
    }

    /// Hears nothing of these any more, also of what has come and is unread.
    pub(crate) fn leave(&self, is_left: impl Fn(&str) -> bool) {
        self.channels.borrow_mut().retain(|channel, _| !is_left(channel));
        let kept = without(&self.unread.borrow(), is_left);
        *self.unread.borrow_mut() = kept;
    }

    pub(super) fn hear(&self, channel: &str, message: &[u8]) {
        if !self.hears(channel) {
            return;
        }
        if !self.has_overflowed() {
            self.unread.borrow_mut().extend_from_slice(message);
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The mark has come.
    pub(super) fn hear_all(&self) {
        if self.awaited.take().is_some() {
            self.channels.borrow_mut().values_mut().for_each(|is_on| *is_on = true);
            self.marked.notify_waiters();
        }
    }

    /// Until no mark is on its way any more.
    pub(super) async fn settled(&self) {
        loop {
            let marked = self.marked.notified();
            if self.awaited.get().is_none() {
                return;
            }
            marked.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::message;
    use super::*;

    #[test]
    fn a_session_hears_its_channels_from_the_mark_on() {
        let subscription = Subscription::default();
        assert_eq!(subscription.add(&["a".into()]).len(), 1);
        assert!(subscription.add(&["a".into()]).is_empty());
        subscription.await_mark(Some(3));
        subscription.hear("a", &message("a"));
        assert!(subscription.awaits(3) && !subscription.awaits(2) && subscription.take().is_empty());
        subscription.hear_all();
        subscription.hear("a", &message("a"));
        subscription.hear("b", &message("b"));
        assert_eq!(subscription.take(), message("a"));
        assert_eq!(
            subscription.without_heard(&[message("a"), message("b"), message("a")].concat()),
            message("b")
        );
    }

    #[test]
    fn what_is_left_is_not_told_any_more() {
        let subscription = Subscription::default();
        subscription.add(&["a".into(), "b".into()]);
        subscription.await_mark(Some(1));
        subscription.hear_all();
        ["a", "b"].iter().for_each(|channel| subscription.hear(channel, &message(channel)));
        subscription.leave(|channel| channel == "a");
        subscription.hear("a", &message("a"));
        assert_eq!(subscription.take(), message("b"));
        subscription.leave(|_| true);
        assert!(subscription.is_empty());
    }
}
