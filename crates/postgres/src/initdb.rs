//! A new cluster: initdb, then Mainstay's roles and the application's through a single-user server.

use std::process::Stdio;
use std::time::Duration;

use mainstay_core::Incarnation;
use postgres_protocol::password::scram_sha_256;
use tokio::io::AsyncWriteExt;

use crate::control::{self, ControlError};
use crate::directory::{Change, DirectoryError, Operation};
use crate::layout::Layout;
use crate::tools::{self, Tools, ToolsError};
use crate::upstream::{ADMINISTRATION_ROLE, REPLICATION_ROLE};

/// Both steps are a matter of seconds; a slow disk may take minutes to sync.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Why no cluster was made. The mark stays; trying again begins anew.
#[derive(Debug, thiserror::Error)]
pub enum InitdbError {
    #[error("{what} must not be empty, and must not contain line breaks")]
    Text { what: &'static str },
    #[error("cannot make a new cluster")]
    Tool(#[from] ToolsError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// What a new cluster contains beside Mainstay's superuser role.
#[derive(Clone)]
pub struct InitdbOptions {
    /// The password of the replication role.
    pub replication_password: String,
    /// The application's role and database, if they are wanted.
    pub application: Option<Application>,
}

/// An application's role and the database that it owns.
#[derive(Clone)]
pub struct Application {
    pub role: String,
    pub password: String,
    pub database: String,
}

/// What came into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initialized {
    pub system_identifier: u64,
    pub incarnation: Incarnation,
}

/// Makes a new cluster in the empty (or half-initialized) data directory. `postgresql.conf` must have been written.
///
/// Encoding UTF8, locale C.UTF-8, data checksums. PGDATA gets no configuration files: nothing but Mainstay starts it.
pub async fn initdb(
    tools: &Tools,
    layout: &Layout,
    options: &InitdbOptions,
) -> Result<Initialized, InitdbError> {
    let statements = statements(options)?;
    let change = Change::begin(tools, layout, Operation::Initdb, None).await?;
    change.wipe().await?;
    tools::run("initdb", initdb_command(tools, layout), TIMEOUT).await?;
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        let path = layout.data().join(name);
        crate::blocking::blocking(move || crate::durable::remove(&path))
            .await
            .map_err(DirectoryError::from)?;
    }
    run_single_user(tools, layout, &statements, TIMEOUT).await?;
    let system_identifier = control::read(tools, layout).await?.system_identifier;
    let incarnation = change.complete(Some(system_identifier)).await?;
    Ok(Initialized { system_identifier, incarnation })
}

fn initdb_command(tools: &Tools, layout: &Layout) -> tokio::process::Command {
    let mut command = tools.command("initdb", layout.root());
    command.arg("--pgdata").arg(layout.data());
    command.arg(format!("--username={ADMINISTRATION_ROLE}"));
    command.args(["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"]);
    command.args(["--auth-local=peer", "--auth-host=scram-sha-256"]);
    if let Some(wal) = layout.wal() {
        command.arg("--waldir").arg(wal);
    }
    command
}

/// One statement per line, as the single-user server reads them. Passwords are in it as SCRAM verifiers only: an
/// erroneous statement is printed to the log.
fn statements(options: &InitdbOptions) -> Result<String, InitdbError> {
    check_text("the replication password", &options.replication_password)?;
    let mut lines = vec![create_role(REPLICATION_ROLE, "REPLICATION", &options.replication_password)];
    lines.extend(grants());
    if let Some(application) = &options.application {
        check_text("the application's role", &application.role)?;
        check_text("the application's password", &application.password)?;
        check_text("the application's database", &application.database)?;
        let role = quote_identifier(&application.role);
        lines.push(create_role(&role, "", &application.password));
        // The database may be one that initdb makes.
        if application.database != "postgres" {
            lines.push(format!("CREATE DATABASE {} OWNER {role}", quote_identifier(&application.database)));
        } else {
            lines.push(format!("ALTER DATABASE postgres OWNER TO {role}"));
        }
    }
    Ok(lines.join("\n") + "\n")
}

/// What pg_rewind reads the source with, granted in the database that it connects to; and statistics, so that the sync set
/// and the slots can be verified from any member.
fn grants() -> impl Iterator<Item = String> {
    let functions = [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    ];
    functions
        .into_iter()
        .map(|function| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {REPLICATION_ROLE}"))
        .chain([format!("GRANT pg_read_all_stats TO {REPLICATION_ROLE}")])
}

/// Mainstay's own roles, made or set right in a cluster that was there before. A role of somebody else's under the
/// superuser's name is an error, and nothing is changed then.
pub(crate) fn own_statements(replication_password: &str) -> Result<String, InitdbError> {
    check_text("the replication password", replication_password)?;
    let verifier = scram_sha_256(replication_password.as_bytes());
    let exists = |role: &str| format!("EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{role}')");
    let (own, own_exists) = (ADMINISTRATION_ROLE, exists(ADMINISTRATION_ROLE));
    let (replication, replication_exists) = (REPLICATION_ROLE, exists(REPLICATION_ROLE));
    let mut lines = vec![
        // Somebody may have set weaker ways for these sessions.
        "SET search_path = pg_catalog".to_owned(),
        format!(
            "DO $mainstay$ BEGIN \
             IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{own}' AND NOT rolsuper) THEN \
             RAISE EXCEPTION 'there is a role {own} that is no superuser' \
             USING HINT = 'rename it: ALTER ROLE {own} RENAME TO another name'; END IF; \
             IF NOT {own_exists} THEN CREATE ROLE {own} SUPERUSER LOGIN; ELSE ALTER ROLE {own} LOGIN; END IF; \
             IF NOT {replication_exists} THEN CREATE ROLE {replication}; END IF; \
             ALTER ROLE {replication} LOGIN REPLICATION NOSUPERUSER PASSWORD '{verifier}'; END $mainstay$"
        ),
    ];
    lines.extend(grants());
    Ok(lines.join("\n") + "\n")
}

fn create_role(role: &str, attributes: &str, password: &str) -> String {
    let verifier = scram_sha_256(password.as_bytes());
    format!("CREATE ROLE {role} LOGIN {attributes} PASSWORD '{verifier}'")
}

fn check_text(what: &'static str, text: &str) -> Result<(), InitdbError> {
    let is_bad = text.is_empty() || text.chars().any(char::is_control);
    if is_bad { Err(InitdbError::Text { what }) } else { Ok(()) }
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Runs one statement a line in a server without sockets. It recovers a directory that was not shut down cleanly, and
/// shuts it down cleanly.
pub(crate) async fn run_single_user(
    tools: &Tools,
    layout: &Layout,
    statements: &str,
    timeout: Duration,
) -> Result<(), ToolsError> {
    const PROGRAM: &str = "postgres";
    let mut command = tools.command(PROGRAM, layout.root());
    command.arg("--single").arg("-D").arg(layout.data());
    command.arg("-c").arg(format!("config_file={}", layout.configuration_file().display()));
    // Otherwise it goes on behind an error, and ends with success. Nobody is there to confirm a commit.
    command.args(["-c", "exit_on_error=on", "-c", "synchronous_standby_names=", "postgres"]);
    command.stdin(Stdio::piped());
    let path = tools.path(PROGRAM);
    let spawn_error = |source| ToolsError::Spawn { program: path.clone(), source };
    let mut child = command.spawn().map_err(spawn_error)?;
    let mut stdin = child.stdin.take().expect("stdin is piped above");
    let work = async {
        // A server that gave up closes the pipe: its exit code and message tell more than the broken pipe.
        let _ = stdin.write_all(statements.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    match tokio::time::timeout(timeout, work).await {
        Err(_) => Err(ToolsError::TimedOut { program: PROGRAM, timeout }),
        Ok(Err(source)) => Err(spawn_error(source)),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(ToolsError::Failed {
            program: PROGRAM,
            status: output.status,
            message: tools::error_message(&output.stderr),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_stands_in_the_statements() {
        let application = Application {
            role: "o'app\"x".to_owned(),
            password: "hunter2".to_owned(),
            database: "app".to_owned(),
        };
        let options =
            InitdbOptions { replication_password: "swordfish".to_owned(), application: Some(application) };
        let text = statements(&options).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("swordfish"), "{text}");
        assert!(text.contains("CREATE DATABASE \"app\" OWNER \"o'app\"\"x\"\n"), "{text}");
        let bad = InitdbOptions { replication_password: "a\nb".to_owned(), application: None };
        assert!(matches!(statements(&bad), Err(InitdbError::Text { .. })));
    }
}
