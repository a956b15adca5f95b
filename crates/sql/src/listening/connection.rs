//! The connection that hears for all sessions of a pool.

use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tracing::{debug, warn};

use super::messages::messages;
use super::{Channels, ENCODING, Listening};
use crate::pool::Pool;
use crate::server::{AskError, Server};
use crate::session_settings::quoted_identifier;
use crate::worker::Worker;

/// How long it stays when nobody listens any more.
const LINGER: Duration = Duration::from_secs(10);
/// The pause after a login that has failed, and after a connection that has ended.
const RETRY: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(50);
/// It asks nothing for as long as nobody begins to listen. PostgreSQL before 14 has no such parameter.
const MAY_BE_IDLE: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
                           WHERE name = 'idle_session_timeout'";

/// Hears for the pool, as long as somebody listens.
pub(super) async fn run(pool: &Rc<Pool>, worker: &Rc<Worker>) {
    let this = &pool.listening;
    loop {
        if !this.is_needed() {
            // A client that comes back soon needs no new connection.
            let _ = tokio::time::timeout(LINGER, this.wanted.notified()).await;
            if !this.is_needed() {
                break;
            }
        }
        let connected = tokio::select! {
            connected = pool.connect_to_listen(worker) => connected,
            () = this.abandon.notified() => continue,
        };
        match connected {
            Ok(server) if server.parameters.get("client_encoding").is_none_or(|name| **name != *ENCODING) => {
                this.is_unfit.set(true);
                debug!(database = %pool.key.database, "it is not in UTF-8: who listens keeps a server");
                break;
            }
            Ok(mut server) => {
                *this.backend.borrow_mut() = Some(Rc::clone(&server.backend));
                let outcome = hear(this, worker, &mut server).await;
                this.backend.take();
                this.heard.borrow_mut().clear();
                if let Err(error) = outcome {
                    debug!(?error, database = %pool.key.database, "who listens for clients has lost its server");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Err(why) => {
                let is_news = this.trouble.replace(why.clone()) != why;
                // Without a primary everybody waits, and is told elsewhere.
                if is_news && worker.routing.is_usable(pool.key.access, worker.tick()) {
                    warn!(why, user = %pool.key.user, database = %pool.key.database, "nobody can listen for clients, who hear nothing meanwhile");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    this.is_running.set(false);
}

async fn hear(this: &Listening, worker: &Worker, server: &mut Server) -> Result<(), AskError> {
    let mark_channel = Listening::mark_channel(worker);
    server.ask(MAY_BE_IDLE).await?;
    server.ask(&format!("LISTEN {}", quoted_identifier(&mark_channel))).await?;
    let (mut is_new, mut is_changed) = (true, true);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if is_changed {
            change(this, server).await?;
        }
        if is_new {
            begin(this);
        }
        (is_new, is_changed) = (false, false);
        let overheard = std::mem::take(&mut server.overheard);
        messages(&overheard).for_each(|message| this.deliver(&mark_channel, message));
        take_in(this, &mark_channel, server)?;
        let is_idle = this.heard.borrow().is_empty();
        tokio::select! {
            () = this.wanted.notified() => is_changed = true,
            read = std::future::poll_fn(|context| server.connection.poll_read(context, &mut buffer)) => match read? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                read => server.connection.rest.extend_from_slice(&buffer[..read]),
            },
            () = tokio::time::sleep(LINGER), if is_idle => if !this.is_needed() {
                return Ok(());
            },
        }
    }
}

/// Listens to what is wanted now.
async fn change(this: &Listening, server: &mut Server) -> Result<(), AskError> {
    let wanted = this.channels();
    let text = difference(&this.heard.borrow(), &wanted);
    if !text.is_empty() {
        // What is left is not heard from now on, also for those who come to it meanwhile.
        this.heard.borrow_mut().retain(|channel| wanted.contains(channel));
        server.ask(&text).await?;
        *this.heard.borrow_mut() = wanted;
    }
    this.news.notify_waiters();
    Ok(())
}

/// There is a connection again, which listens.
fn begin(this: &Listening) {
    this.trouble.take();
    this.generation.set(this.generation.get() + 1);
    // A mark that was on its way when the last one ended does not come any more.
    let awaiting = std::mem::take(&mut *this.by_mark.borrow_mut());
    awaiting.values().filter_map(Weak::upgrade).for_each(|one| one.hear_all());
    this.waiting.take().into_iter().for_each(std::task::Waker::wake);
}

/// Acts upon what the server has said unasked, as far as it is there as a whole.
fn take_in(this: &Listening, mark_channel: &str, server: &mut Server) -> Result<(), AskError> {
    let rest = std::mem::take(&mut server.connection.rest);
    let mut at = 0;
    for message in messages(&rest) {
        at += message.len();
        match message[0] {
            b'A' => this.deliver(mark_channel, message),
            b'S' | b'N' => {}
            _ => return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
        }
    }
    server.connection.rest = rest[at..].to_vec();
    Ok(())
}

/// The statements by which one who listens to `from` listens to `to`; empty if they are the same.
fn difference(from: &Channels, to: &Channels) -> String {
    let gone = from.difference(to).map(|channel| format!("UNLISTEN {};", quoted_identifier(channel)));
    let new = to.difference(from).map(|channel| format!("LISTEN {};", quoted_identifier(channel)));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_different_is_said() {
        let channels = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect::<Channels>();
        assert_eq!(
            difference(&channels(&["a", "b"]), &channels(&["b", "c\"d"])),
            "UNLISTEN \"a\";LISTEN \"c\"\"d\";"
        );
        assert_eq!(difference(&channels(&["a"]), &channels(&["a"])), "");
    }
}
