//! What a member tells the others of itself, and what it hears.

use mainstay_core::decide::unfit;
use mainstay_core::record::FORMAT;
use mainstay_core::view::{Directory, MemberState, Peer, PeerServer, Server};
use mainstay_core::{Epoch, MemberId};

use crate::event::Message;
use crate::world::World;

impl World {
    fn own_state(&mut self, machine: usize) -> MemberState {
        let now = self.local_now(machine);
        let kept_from = self.machines[machine].data.content.as_ref().map(|content| content.kept_from);
        let member = self.member(machine);
        let view = &member.view;
        let opened = view.running().and_then(|running| running.opened);
        let server = match &view.server {
            Server::Unknown | Server::Ending => PeerServer::Unknown,
            Server::Down { .. } => PeerServer::Down,
            Server::Running(running) if running.primary.is_some() && opened.is_some() => PeerServer::Primary,
            Server::Running(_) => PeerServer::Standby,
        };
        let followed = view.upstream.as_ref().map_or(Epoch(0), |upstream| upstream.epoch);
        let millis = |heard_at| u64::try_from(now.since(heard_at).as_millis()).unwrap_or(u64::MAX);
        MemberState {
            incarnation: view.incarnation(),
            server,
            epoch: opened.unwrap_or(followed),
            streaming: view.running().and_then(|running| running.streaming),
            replayed: view.running().map(|running| running.replayed).unwrap_or_default(),
            can_report: matches!(view.directory, Directory::Valid { .. }),
            unfit: unfit(view, &member.memory),
            wal_kept_from: kept_from.filter(|_| server == PeerServer::Primary),
            checkpointed: opened.is_some() && view.checkpointed == opened,
            format: if view.record.format > 0 { FORMAT } else { 0 },
            ids_given: view.record.membership.next_raft_id,
            keys_kept: 0,
            restart: view.restart,
            heard_ms: view.peers.iter().map(|(id, peer)| (id.clone(), millis(peer.heard_at))).collect(),
        }
    }

    /// To everyone, several times a second.
    pub(super) fn gossip(&mut self, machine: usize) {
        self.member(machine).view.now = self.local_now(machine);
        let state = self.own_state(machine);
        self.member(machine).told = Some(state.clone());
        for to in (0..self.machines.len()).filter(|to| *to != machine) {
            self.send(machine, to, Message::Gossip(state.clone()));
        }
    }

    /// At once when something has changed that others act on.
    pub(super) fn gossip_changes(&mut self, machine: usize) {
        let state = self.own_state(machine);
        let same = self.member(machine).told.as_ref().is_some_and(|told| {
            (told.incarnation, told.server, told.epoch, told.checkpointed, told.can_report)
                == (state.incarnation, state.server, state.epoch, state.checkpointed, state.can_report)
                && told.streaming.map(|s| s.timeline) == state.streaming.map(|s| s.timeline)
        });
        if !same {
            self.gossip(machine);
        }
    }

    pub(super) fn hear(&mut self, from: usize, to: usize, state: &MemberState) {
        let from: MemberId = self.machines[from].id.clone();
        let heard_at = self.local_now(to);
        self.member(to).view.peers.insert(from.clone(), Peer { heard_at, state: state.clone() });
        self.tell_roster(to, &from, state);
        self.wake(to);
    }
}
