//! This member as the others see it: its name, its cluster, its key, and the keys that it accepts.

use std::net::SocketAddr;
use std::sync::Arc;

use mainstay_core::MemberId;
use rustls::{ClientConfig, ServerConfig};

use crate::hello::Channel;
use crate::link::Link;
use crate::server::{BindError, Server};
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
    identity: Identity,
    allowlist: Allowlist,
    server_config: Arc<ServerConfig>,
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
        Ok(Endpoint { shared: Arc::new(Shared { member, cluster, identity, allowlist, server_config }) })
    }

    /// Starts listening, in the current Tokio runtime; see [`Server::run`].
    pub fn listen(&self, address: SocketAddr) -> Result<Server, BindError> {
        Server::bind(self.clone(), address)
    }

    /// Starts keeping one connection to `peer`, in the current Tokio runtime, for as long as the link lives.
    pub fn link(&self, peer: MemberId, address: SocketAddr, channel: Channel) -> Link {
        Link::start(self.clone(), peer, address, channel)
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

    pub(crate) fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.shared.server_config)
    }

    pub(crate) fn client_config(&self, peer: &MemberId) -> Result<Arc<ClientConfig>, TlsError> {
        tls::client_config(&self.shared.identity, &self.shared.allowlist, peer)
    }
}
