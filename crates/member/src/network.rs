//! The wires between this member and the others: consensus, gossip and the lease.

use std::collections::BTreeMap;

use bytes::Bytes;
use mainstay_consensus::Outgoing;
use mainstay_core::MemberId;
use mainstay_core::record::Command;
use mainstay_net::{Channel, Endpoint, Incoming, Link, Server};
use mainstay_store::RaftStore;
use tokio::sync::mpsc;
use tracing::debug;

use crate::configuration::Configuration;
use crate::gossip::{self, Message};
use crate::lease::LeaseThread;
use crate::main_loop::Event;
use crate::record_machine::RecordMachine;

/// Where what comes in goes to.
#[derive(Clone)]
pub(crate) struct Receivers {
    pub(crate) store: RaftStore<RecordMachine>,
    pub(crate) lease: LeaseThread,
    pub(crate) events: mpsc::UnboundedSender<Event>,
}

/// Takes in what the others send, and sends what is for them. The links last as long as what is answered.
pub(crate) fn start(
    configuration: &Configuration,
    endpoint: &Endpoint,
    server: Server,
    outgoing: mpsc::Receiver<Outgoing>,
    receivers: Receivers,
) -> BTreeMap<MemberId, Link> {
    let Command::Create { members, .. } = configuration.create_command() else {
        unreachable!("create_command makes a Create")
    };
    let raft_ids: BTreeMap<MemberId, u64> =
        members.iter().map(|(name, row)| (name.clone(), row.raft_id)).collect();
    let others = configuration.members.iter().filter(|(name, _)| **name != configuration.me);
    let links: BTreeMap<MemberId, Link> = others
        .map(|(name, row)| (name.clone(), endpoint.link(name.clone(), row.address, Channel::Raft)))
        .collect();
    let by_raft_id =
        links.iter().filter_map(|(name, link)| raft_ids.get(name).map(|id| (*id, link.clone()))).collect();
    tokio::spawn(send(outgoing, by_raft_id));
    let serve = move |incoming: Incoming| {
        let raft_id = raft_ids.get(incoming.from()).copied();
        serve(incoming, raft_id, receivers.clone())
    };
    tokio::spawn(server.run(serve));
    links
}

async fn send(mut outgoing: mpsc::Receiver<Outgoing>, links: BTreeMap<u64, Link>) {
    while let Some(message) = outgoing.recv().await {
        if let Some(link) = links.get(&message.to)
            && let Err(error) = link.send(&gossip::raft(&message.bytes))
        {
            debug!(%error, "a message of consensus was not sent");
        }
    }
}

async fn serve(incoming: Incoming, raft_id: Option<u64>, receivers: Receivers) {
    let Receivers { store, lease, events } = receivers;
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
                None => debug!(from = %sender, "a message that is not understood"),
            };
            if let Err(error) = incoming.serve_messages(deliver).await {
                debug!(%from, %error, "a connection ended");
            }
        }
        _ => debug!(%from, "a connection for nothing that is offered here"),
    }
}
