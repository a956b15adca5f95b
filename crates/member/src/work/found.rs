//! The cluster's first data directory.

use mainstay_postgres::hba::Gate;
use mainstay_postgres::initdb::{self, Application, InitdbOptions};

use super::Outcome;
use crate::machinery::{Machinery, WorkError, failed};

pub(super) async fn initdb(machinery: &Machinery) -> Result<Outcome, WorkError> {
    let bootstrap = &machinery.configuration.bootstrap;
    let application = bootstrap.role.as_ref().map(|role| Application {
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
