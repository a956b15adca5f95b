//! This member as the others see it: its name, its cluster, its key, and the keys that it accepts.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use mainstay_core::MemberId;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::dial::{self, DialError};
use crate::fingerprint::KeyFingerprint;
use crate::hello::Channel;
use crate::link::Link;
use crate::server::{BindError, Server, chain};
use crate::tls::{self, Allowlist, Identity, TlsError};

/// What every listener and link of this member shares. Cheap to clone, bound to no runtime.
#[derive(Clone, Debug)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    member: MemberId,
    cluster: String,
    allowlist: Allowlist,
    shown: RwLock<Shown>,
    told: watch::Sender<Option<LeftBehindBy>>,
}

/// What this member proves with who it is.
#[derive(Clone, Debug)]
struct Shown {
    identity: Identity,
    server_config: Arc<ServerConfig>,
}

/// A member of the roster, proven by its key, has said that the cluster goes on without this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehindBy {
    pub member: MemberId,
    pub reason: String,
}

/// What became of calling a member once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hail {
    /// It lives: it has answered with its key, whatever it said.
    Answers,
    /// Nobody has, and why.
    Silent(String),
}

impl Endpoint {
    /// `cluster` is the cluster's id: members of different clusters refuse each other.
    pub fn new(
        member: MemberId,
        cluster: &str,
        identity: Identity,
        allowlist: Allowlist,
    ) -> Result<Endpoint, TlsError> {
        let server_config = tls::server_config(&identity, &allowlist)?;
        let cluster = cluster.to_owned();
        let told = watch::Sender::new(None);
        Ok(Endpoint {
            shared: Arc::new(Shared {
                member,
                cluster,
                allowlist,
                shown: RwLock::new(Shown { identity, server_config }),
                told,
            }),
        })
    }

    /// Shows another key from the next connection on. Those that are there go on until the peers accept the old one no more.
    pub fn show(&self, identity: Identity) -> Result<(), TlsError> {
        let server_config = tls::server_config(&identity, &self.shared.allowlist)?;
        let mut shown = self.shared.shown.write().unwrap_or_else(PoisonError::into_inner);
        *shown = Shown { identity, server_config };
        Ok(())
    }

    /// The key that is shown.
    pub fn fingerprint(&self) -> KeyFingerprint {
        self.shown().identity.fingerprint()
    }

    fn shown(&self) -> Shown {
        self.shared.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts listening, in the current Tokio runtime; see [`Server::run`].
    pub fn listen(&self, address: SocketAddr) -> Result<Server, BindError> {
        Server::bind(self.clone(), address)
    }

    /// Starts keeping one connection to `peer`, in the current Tokio runtime, for as long as the link lives.
    pub fn link(&self, peer: MemberId, address: SocketAddr, channel: Channel) -> Link {
        Link::start(self.clone(), peer, address, channel)
    }

    /// Calls `peer` once, to learn whether it lives. It takes 3 s at most.
    pub async fn hail(&self, peer: &MemberId, address: SocketAddr) -> Hail {
        match dial::dial(self, peer, address, Channel::Rpc).await {
            Ok(_) => Hail::Answers,
            // Each of these is a verdict that only a member gives.
            Err(DialError::KeyRefused { .. } | DialError::Refused { .. } | DialError::LeftBehind { .. }) => {
                Hail::Answers
            }
            Err(error) => Hail::Silent(chain(&error)),
        }
    }

    /// What this member is told when the cluster has gone on without it, and by whom.
    pub fn left_behind_by(&self) -> watch::Receiver<Option<LeftBehindBy>> {
        self.shared.told.subscribe()
    }

    pub(crate) fn told_to_stop(&self, by: &MemberId, reason: &str) {
        self.shared.told.send_replace(Some(LeftBehindBy { member: by.clone(), reason: reason.to_owned() }));
    }

    pub fn member(&self) -> &MemberId {
        &self.shared.member
    }

    pub fn cluster(&self) -> &str {
        &self.shared.cluster
    }

    pub fn allowlist(&self) -> &Allowlist {
        &self.shared.allowlist
    }

    pub(crate) fn identity(&self) -> Identity {
        self.shown().identity
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        self.shown().server_config
    }

    pub(crate) fn client_config(&self, peer: &MemberId) -> Result<Arc<ClientConfig>, TlsError> {
        tls::client_config(&self.identity(), &self.shared.allowlist, peer)
    }
}
