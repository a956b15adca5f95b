//! Clients: writers that also read. Each commit's outcome is one of three: acknowledged, refused, unknown.

use crate::event::{ClientEvent, Event, ServerEvent};
use crate::queue::{MS, SECOND, Time};
use crate::world::World;

pub(crate) struct Client {
    /// The node of the network that it is on.
    pub(crate) host: usize,
    /// The one machine that it goes to; `None`: to any that takes it.
    pub(crate) home: Option<usize>,
    target: usize,
    session: Option<u64>,
    /// Counts its connections; what belongs to an earlier one is not for it any more.
    token: u32,
    transaction: Option<u32>,
    /// Counts what it has waited for, so that it loses patience only with what it waits for now.
    waits: u64,
    /// Stays on a server that only lets it read, and tries again.
    stubborn: bool,
    /// Milliseconds between a commit and the next.
    think_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
}

impl Client {
    pub(crate) fn new(host: usize, home: Option<usize>, stubborn: bool, think_ms: u64) -> Client {
        Client {
            host,
            home,
            target: 0,
            session: None,
            token: 0,
            transaction: None,
            waits: 0,
            stubborn,
            think_ms,
        }
    }
}

impl World {
    pub(crate) fn client_event(&mut self, client: usize, token: u32, what: ClientEvent) {
        if self.clients[client].token != token {
            return;
        }
        match what {
            ClientEvent::Act if self.clients[client].session.is_some() => self.client_writes(client),
            ClientEvent::Act => self.client_connects(client),
            ClientEvent::Impatient { wait } if self.clients[client].waits != wait => {}
            ClientEvent::Refused | ClientEvent::Lost | ClientEvent::Impatient { .. } => {
                self.client_gives_up(client);
            }
            ClientEvent::Welcome { session } => {
                self.clients[client].session = Some(session);
                self.clients[client].waits += 1;
                self.client_acts_after(client, MS);
            }
            ClientEvent::Committed { transaction } => self.client_is_answered(client, transaction),
            ClientEvent::ReadOnly => {
                self.observer.outcomes.refused += 1;
                self.clients[client].transaction = None;
                self.clients[client].waits += 1;
                if self.clients[client].stubborn && self.random.chance(0.95) {
                    let pause = self.random.span_ms(20, 200);
                    self.client_acts_after(client, pause);
                } else {
                    self.client_gives_up(client);
                }
            }
        }
    }

    pub(crate) fn client_acts_after(&mut self, client: usize, delay: Time) {
        let token = self.clients[client].token;
        self.queue.push(self.now + delay, Event::Client { client, token, what: ClientEvent::Act });
    }

    /// Sends something to the server as it is now; `false` if nothing is there to take it.
    fn client_sends(&mut self, client: usize, what: ServerEvent) -> bool {
        let (host, machine) = (self.clients[client].host, self.clients[client].target);
        let there = self.machines[machine].powered && self.network.connects(host, machine);
        let Some(life) = self.machines[machine].server.as_ref().filter(|s| s.executing).map(|s| s.life)
        else {
            return false;
        };
        if there {
            let delay = self.network.delay(&mut self.random, host, machine);
            self.queue.push(self.now + delay, Event::Server { machine, life, what });
        }
        true
    }

    fn client_connects(&mut self, client: usize) {
        let data = self.data_machines();
        self.clients[client].target = match self.clients[client].home {
            Some(home) => home,
            None => data[self.random.index(data.len())],
        };
        self.clients[client].token += 1;
        let token = self.clients[client].token;
        if self.client_sends(client, ServerEvent::Accept { client, token }) {
            self.client_waits(client, 2 * SECOND);
        } else {
            let pause = self.random.span_ms(30, 200);
            self.client_acts_after(client, pause);
        }
    }

    fn client_waits(&mut self, client: usize, patience: Time) {
        self.clients[client].waits += 1;
        let (token, wait) = (self.clients[client].token, self.clients[client].waits);
        let what = ClientEvent::Impatient { wait };
        self.queue.push(self.now + patience, Event::Client { client, token, what });
    }

    fn client_writes(&mut self, client: usize) {
        let Some(session) = self.clients[client].session else { return };
        self.next_transaction += 1;
        let transaction = self.next_transaction;
        self.clients[client].transaction = Some(transaction);
        if self.client_sends(client, ServerEvent::Commit { session, transaction }) {
            let patience = self.random.span_ms(1_000, 12_000);
            self.client_waits(client, patience);
        } else {
            self.client_gives_up(client);
        }
    }

    fn client_is_answered(&mut self, client: usize, transaction: u32) {
        if self.clients[client].transaction != Some(transaction) {
            return;
        }
        self.observer.outcomes.acknowledged += 1;
        self.observer.acknowledged_at = self.now;
        self.clients[client].transaction = None;
        // The patience of this statement is over with it.
        self.clients[client].waits += 1;
        if let Some(session) = self.clients[client].session
            && self.random.chance(0.3)
        {
            self.client_sends(client, ServerEvent::Look { session });
        }
        let think =
            self.random.span_ms(self.clients[client].think_ms / 4 + 1, self.clients[client].think_ms * 2);
        self.client_acts_after(client, think);
    }

    fn client_gives_up(&mut self, client: usize) {
        if self.clients[client].transaction.take().is_some() {
            self.observer.outcomes.unknown += 1;
        }
        self.clients[client].session = None;
        self.clients[client].token += 1;
        let pause = self.random.span_ms(10, 200);
        self.client_acts_after(client, pause);
    }
}
