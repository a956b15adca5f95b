//! What connects the parts of a member: channels, lanes, signals.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::MemberError;
use crate::configuration::Configuration;
use crate::facts::Facts;
use crate::guard_link::GuardState;
use crate::machinery::Machinery;
use crate::main_loop::Event;
use crate::notify;
use crate::status::Status;
use crate::work::Lane;

pub(super) fn guard_state() -> (Arc<watch::Sender<GuardState>>, watch::Receiver<GuardState>) {
    let (guard, seen) = watch::channel(GuardState::default());
    (Arc::new(guard), seen)
}

pub(super) fn first_status(
    configuration: &Configuration,
    facts: &Facts,
) -> (watch::Sender<Arc<Status>>, watch::Receiver<Arc<Status>>) {
    watch::channel(Arc::new(crate::report::first(configuration, facts)))
}

pub(super) fn lane(
    name: &str,
    machinery: &Arc<Machinery>,
    events: &mpsc::UnboundedSender<Event>,
    wrap: fn(crate::work::Finished) -> Event,
) -> Result<Lane, MemberError> {
    let (finished, mut queue) = mpsc::unbounded_channel();
    let events = events.clone();
    tokio::spawn(async move {
        while let Some(finished) = queue.recv().await {
            if events.send(wrap(finished)).is_err() {
                return;
            }
        }
    });
    Lane::start(name, Arc::clone(machinery), finished).map_err(MemberError::Thread)
}

pub(super) fn listen_to_signals(events: &mpsc::UnboundedSender<Event>) -> std::io::Result<()> {
    let signals = [
        (SignalKind::terminate(), true),
        (SignalKind::interrupt(), true),
        (SignalKind::user_defined1(), false),
    ];
    for (kind, everything) in signals {
        let mut stream = signal(kind)?;
        let events = events.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if everything {
                    notify::stopping();
                }
                let _ = events.send(Event::Stop { everything });
            }
        });
    }
    Ok(())
}
