//! The cluster's first data directory.

use mainstay_postgres::hba::Gate;
use mainstay_postgres::initdb::{self, Application, InitdbOptions};

use super::Outcome;
use crate::machinery::{Machinery, WorkError, failed};

pub(super) async fn initdb(machinery: &Machinery) -> Result<Outcome, WorkError> {
    let bootstrap = &machinery.configuration.bootstrap;
    // What `[[database]]` says is made once the gate is open, by the same means as later.
    let wanted = bootstrap.role.as_ref().filter(|_| machinery.configuration.databases.is_empty());
    let application = wanted.map(|role| Application {
        role: role.clone(),
        password: bootstrap.password.clone().unwrap_or_default(),
        database: bootstrap.database.clone().unwrap_or_else(|| role.clone()),
    });
    let options = InitdbOptions {
        replication_password: machinery.configuration.postgresql.replication_password.clone(),
        application,
    };
    machinery.write_configuration(machinery.standby_names(), None).await?;
    machinery.write_gate(Gate::Shut).await?;
    initdb::initdb(machinery.tools()?, &machinery.layout, &options).await.map_err(failed)?;
    Ok(Outcome::Done)
}
