//! What the member does on signals.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::configure::Ask;
use crate::main_loop::Event;
use crate::notify;

/// SIGTERM and SIGINT stop everything, SIGUSR1 ends the member alone, SIGHUP reads its file again.
pub(super) fn listen(
    events: &mpsc::UnboundedSender<Event>,
    asks: mpsc::Sender<Option<Ask>>,
) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move { while hangup.recv().await.is_some() && asks.send(None).await.is_ok() {} });

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
