//! A member that begins with data that was there before it.

use std::path::Path;

use mainstay_core::record::{Kind, ParameterSet};
use mainstay_postgres::adopt::{self, AdoptError, Adopted, Consent, DEBIAN_ROOT, TakeOver};
use mainstay_postgres::configuration::ServerSettings;
use mainstay_postgres::durable::Access;

use crate::configuration::Configuration;
use crate::machinery::{self, Accepted, FilePart};
use crate::start::{MemberError, tools_and_layout};

/// What the cluster is founded with: this member uses it from its first start on, and the record has it as soon as there is
/// one. Called before [`crate::create`]; what an earlier call has written stays.
pub fn found_with(configuration: &Configuration, set: ParameterSet) -> Result<(), MemberError> {
    let access = Access { mode: 0o600, owner: None };
    let state = configuration.directory.join("state");
    Accepted::keep_first(set, &state, access).map_err(|error| MemberError::Store(machinery::failed(error).0))
}

/// Takes the configuration's data directory over, once, after [`crate::create`] and before the first
/// [`crate::run`]: see [`mainstay_postgres::adopt`]. What `examine` carried over must stand in the configuration.
pub async fn adopt(configuration: &Configuration, consent: Consent) -> Result<Adopted, MemberError> {
    adopt_below(configuration, consent, Path::new(DEBIAN_ROOT)).await
}

async fn adopt_below(
    configuration: &Configuration,
    consent: Consent,
    debian_root: &Path,
) -> Result<Adopted, MemberError> {
    let (Some(tools), layout) = tools_and_layout(configuration).await? else {
        return Err(MemberError::Adopt("a witness has no data to take over".to_owned()));
    };
    let data_members = configuration.members.values().filter(|row| row.kind == Kind::Data).count();
    let postgresql = &configuration.postgresql;
    let (first, file) = (Accepted::kept(&layout.state_dir()), FilePart::of(configuration));
    let settings = ServerSettings {
        port: machinery::port(configuration),
        listen_addresses: Vec::new(),
        // Its certificates are installed when the member starts.
        tls: false,
        synchronous_standby_names: machinery::idle_standby_names(data_members),
        upstream: None,
        parameters: machinery::merged(&first, &file, &configuration.me, true),
    };
    let order = TakeOver {
        tools: &tools,
        layout: &layout,
        settings: &settings,
        hba: &postgresql.hba,
        replication_password: &postgresql.replication_password,
        consent,
        debian_root,
    };
    adopt::take_over(&order).await.map_err(|error: AdoptError| MemberError::Adopt(machinery::failed(error).0))
}
