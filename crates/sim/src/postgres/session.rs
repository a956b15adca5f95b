//! Sessions of applications: let in by `pg_hba.conf` as it was when they knocked, and alive until they are ended.

use super::Stage;
use crate::disk::Hba;
use crate::event::{ClientEvent, Event, ServerEvent};
use crate::queue::{MS, Time};
use crate::world::World;

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) client: usize,
    pub(crate) token: u32,
    pub(crate) since: Time,
    pub(crate) active: bool,
}

impl World {
    pub(super) fn accept(&mut self, machine: usize, client: usize, token: u32) {
        let server = self.server(machine);
        if !server.is_ready() || server.stage == Stage::Stopping || server.loaded.hba == Hba::Shut {
            self.answer_client(machine, client, token, ClientEvent::Refused);
            return;
        }
        let session = self.new_number();
        let since = self.now;
        self.server(machine).sessions.insert(session, Session { client, token, since, active: false });
        // A client may take its time with the password, and what hba said when it knocked holds until then.
        let dawdles = self.random.chance(0.02);
        let takes = if dawdles { self.random.span_ms(50, 2_000) } else { self.random.span_ms(1, 10) };
        self.at_server(machine, takes, ServerEvent::Authenticated { session });
    }

    pub(super) fn authenticated(&mut self, machine: usize, session: u64) {
        if let Some(known) = self.server(machine).sessions.get_mut(&session) {
            known.active = true;
            let (client, token) = (known.client, known.token);
            self.answer_client(machine, client, token, ClientEvent::Welcome { session });
        }
    }

    /// The client of a session that may run statements.
    pub(super) fn active_session(&mut self, machine: usize, session: u64) -> Option<(usize, u32)> {
        let session = self.server(machine).sessions.get(&session)?;
        session.active.then_some((session.client, session.token))
    }

    /// A client reads everything there is.
    pub(super) fn look(&mut self, machine: usize, session: u64) {
        if self.active_session(machine, session).is_some() {
            self.observe_look(machine);
        }
    }

    /// `pg_terminate_backend`: a commit that waited is done here, visible, and not acknowledged.
    pub(crate) fn end_session(&mut self, machine: usize, session: u64) {
        let server = self.server(machine);
        let Some(ended) = server.sessions.remove(&session) else { return };
        let waited: Vec<_> =
            server.waiting.iter().filter(|commit| commit.session == session).copied().collect();
        server.waiting.retain(|commit| commit.session != session);
        server.visible_alone.extend(waited.iter().map(|commit| commit.tip));
        self.answer_client(machine, ended.client, ended.token, ClientEvent::Lost);
    }

    /// Ends the sessions that began before `before`; how many there were.
    pub(crate) fn end_sessions_before(&mut self, machine: usize, before: Time) -> usize {
        let old: Vec<u64> = self
            .server(machine)
            .sessions
            .iter()
            .filter(|(_, session)| session.since < before)
            .map(|(id, _)| *id)
            .collect();
        for session in &old {
            self.end_session(machine, *session);
        }
        old.len()
    }

    /// The processes are gone; clients hear of it if a packet reaches them.
    pub(super) fn drop_sessions(&mut self, machine: usize) {
        let sessions = std::mem::take(&mut self.server(machine).sessions);
        for session in sessions.into_values() {
            let at = self.now + self.random.between(MS / 2, 3 * MS);
            if self.network.passes(machine, self.clients[session.client].host) {
                let (client, token) = (session.client, session.token);
                self.queue.push(at, Event::Client { client, token, what: ClientEvent::Lost });
            }
        }
    }
}
