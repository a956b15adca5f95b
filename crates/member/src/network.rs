//! The wires between this member and the others: consensus, gossip, the lease, and calls. They follow the roster.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use mainstay_consensus::Outgoing;
use mainstay_core::MemberId;
use mainstay_core::record::LeftBehind;
use mainstay_net::{CallService, Channel, Endpoint, Incoming, Link, Server};
use mainstay_store::RaftStore;
use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::control::Forwarded;
use crate::gossip::{self, Message};
use crate::lease::LeaseThread;
use crate::main_loop::Event;
use crate::record_machine::RecordMachine;
use crate::roster::{self, Roster};

/// Where what comes in goes to.
#[derive(Clone)]
pub(crate) struct Receivers {
    pub(crate) store: RaftStore<RecordMachine>,
    pub(crate) lease: LeaseThread,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) calls: CallService<Forwarded>,
}

/// A link for consensus and gossip to each other member of the roster. Clones are handles to the same links.
#[derive(Clone)]
pub(crate) struct Links {
    endpoint: Endpoint,
    table: Arc<Mutex<Table>>,
    roster: watch::Sender<Arc<Roster>>,
}

#[derive(Default)]
struct Table {
    links: BTreeMap<MemberId, (SocketAddr, Link)>,
    by_raft_id: BTreeMap<u64, Link>,
}

impl Links {
    pub(crate) fn new(endpoint: Endpoint, roster: &Roster) -> Links {
        let links =
            Links { endpoint, table: Arc::default(), roster: watch::Sender::new(Arc::new(roster.clone())) };
        links.follow(roster);
        links
    }

    /// Dials new members, forgets those that are gone, and lets in whom the roster names; called within the runtime.
    pub(crate) fn follow(&self, roster: &Roster) {
        self.endpoint.allowlist().replace(roster::keys(roster));
        let me = self.endpoint.member();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.links.retain(|name, (address, _)| roster.get(name).is_some_and(|row| row.address == *address));
        for (name, row) in roster.iter().filter(|(name, _)| *name != me) {
            let new = || (row.address, self.endpoint.link(name.clone(), row.address, Channel::Raft));
            table.links.entry(name.clone()).or_insert_with(new);
        }
        let by_raft_id = table
            .links
            .iter()
            .filter_map(|(name, (_, link))| Some((roster.get(name)?.raft_id, link.clone())))
            .collect();
        table.by_raft_id = by_raft_id;
        drop(table);
        self.roster.send_replace(Arc::new(roster.clone()));
    }

    /// Whom to tell, when they come, that the cluster goes on without them.
    pub(crate) fn leave_behind(&self, members: &[LeftBehind]) {
        let keys = members.iter().filter_map(|left| left.key.parse().ok()).collect();
        self.endpoint.allowlist().leave_behind(keys);
    }

    /// Tells everybody.
    pub(crate) fn tell(&self, message: &[u8]) {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        for (peer, (_, link)) in &table.links {
            if let Err(error) = link.send(message) {
                debug!(%peer, %error, "not told");
            }
        }
    }

    /// Tells one.
    pub(crate) fn tell_one(&self, peer: &MemberId, message: &[u8]) {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, link)) = table.links.get(peer)
            && let Err(error) = link.send(message)
        {
            debug!(%peer, %error, "not told");
        }
    }

    /// A link for calls, of its own: it lives as long as somebody waits for an answer.
    pub(crate) fn call_link(&self, member: &MemberId) -> Option<Link> {
        let address = self.roster.borrow().get(member)?.address;
        Some(self.endpoint.link(member.clone(), address, Channel::Rpc))
    }

    fn to(&self, raft_id: u64) -> Option<Link> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).by_raft_id.get(&raft_id).cloned()
    }
}

/// Takes in what the others send, and sends what is for them.
pub(crate) fn start(links: &Links, server: Server, outgoing: mpsc::Receiver<Outgoing>, receivers: Receivers) {
    tokio::spawn(send(outgoing, links.clone()));
    let roster = links.roster.subscribe();
    let serve = move |incoming: Incoming| {
        let raft_id = roster.borrow().get(incoming.from()).map(|row| row.raft_id);
        serve(incoming, raft_id, receivers.clone())
    };
    tokio::spawn(server.run(serve));
}

async fn send(mut outgoing: mpsc::Receiver<Outgoing>, links: Links) {
    while let Some(message) = outgoing.recv().await {
        if let Some(link) = links.to(message.to)
            && let Err(error) = link.send(&gossip::raft(&message.bytes))
        {
            debug!(%error, "a message of consensus was not sent");
        }
    }
}

async fn serve(incoming: Incoming, raft_id: Option<u64>, receivers: Receivers) {
    let Receivers { store, lease, events, calls } = receivers;
    let from = incoming.from().clone();
    match (incoming.channel(), raft_id) {
        (Channel::Lease, _) => match incoming.detach() {
            Ok(detached) => lease.serve(detached),
            Err(error) => debug!(%from, %error, "a lease connection was lost on its way"),
        },
        (Channel::Raft, Some(raft_id)) => {
            let sender = from.clone();
            let deliver = move |bytes: Bytes| match gossip::read(&bytes) {
                Some(Message::Raft(bytes)) => store.step(raft_id, bytes),
                Some(Message::Gossip(gossip)) => {
                    // The loop has ended only if the process is about to.
                    let _ = events.send(Event::Gossip(sender.clone(), gossip));
                }
                Some(Message::Roster(newer)) => drop(events.send(Event::Roster(newer))),
                None => debug!(from = %sender, "a message that is not understood"),
            };
            if let Err(error) = incoming.serve_messages(deliver).await {
                debug!(%from, %error, "a connection ended");
            }
        }
        (Channel::Rpc, _) => {
            if let Err(error) = incoming.serve_calls(&calls).await {
                debug!(%from, %error, "a connection for calls ended");
            }
        }
        (Channel::Raft, None) => debug!(%from, "consensus with somebody who is not in the roster"),
    }
}
