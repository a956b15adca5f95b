//! Noting lowered parameters in a stopped primary's directory.
//!
//! Mainstay starts every server as a standby, and PostgreSQL refuses to start one with less of some parameters than the
//! directory's `pg_control` says. A single-user server starts without that question, notes its parameters in WAL and in
//! `pg_control`, and ends.

use std::time::Duration;

use crate::layout::Layout;
use crate::tools::{self, Tools, ToolsError};

/// Two checkpoints with nothing to write.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs it on the configuration on disk. The directory must have been shut down cleanly as a primary.
pub async fn note_parameters(tools: &Tools, layout: &Layout) -> Result<(), ToolsError> {
    let mut command = tools.command("postgres", layout.root());
    command
        .arg("--single")
        .arg("-D")
        .arg(layout.data())
        .arg("-c")
        .arg(format!("config_file={}", layout.configuration_file().display()))
        .arg("template1");
    tools::run("postgres", command, TIMEOUT).await.map(|_| ())
}
