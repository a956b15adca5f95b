//! `sql-proxy`: the process that pools clients' connections; started by the member, or alone on an application's machine.

mod alone;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use mainstay_guard::CompanionLock;
use mainstay_member::{Configuration, sql_proxy};
use mainstay_postgres::layout::Layout;
use mainstay_postgres::tools::RunAs;
use mainstay_sql::{Paths, Source};
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

use crate::cli::SqlProxyOptions;
use crate::configuration;

/// No runtime has been made yet: the process has one thread while it changes its user.
pub(crate) fn run(options: &SqlProxyOptions) -> Result<ExitCode> {
    match &options.join {
        Some(word) => alone::join(word, options),
        None if options.alone => alone::serve(options),
        None => beside_member(&options.shared.config),
    }
}

fn beside_member(config: &Path) -> Result<ExitCode> {
    let (configuration, settings) = configuration::load_with_proxy(config)?;
    let (Some(settings), Some(wanted)) = (settings, &configuration.sql_proxy) else {
        bail!("{} has no table [sql_proxy]; add one, if there is to be a proxy", config.display());
    };
    // It may be opened by the user who has started this process only, and stays locked under another one.
    let lock = sql_proxy::lock_file(&configuration);
    std::fs::create_dir_all(lock.parent().unwrap_or(Path::new("/")))
        .with_context(|| format!("cannot make the directory of {}", lock.display()))?;
    let stamp = sql_proxy::stamp(&wanted.identity).context("cannot look at the program's own file")?;
    let locked = CompanionLock::take(&lock, &stamp);
    let locked = locked.with_context(|| format!("cannot lock {}", lock.display()))?;
    let Some(_held_while_it_runs) = locked else {
        bail!("the SQL proxy of {} runs already; the member looks after it", configuration.me);
    };
    let operator = operator(&sql_proxy::operator_socket(&configuration));
    let run_as = run_as(&configuration)?;
    let paths = paths(&configuration, run_as.clone())?;
    if let Some(user) = run_as {
        become_user(&user).with_context(|| format!("cannot become user {}", user.name()))?;
    }
    log();
    let operator = operator.map_or_else(
        |error| {
            tracing::warn!("the member cannot ask the SQL proxy: {error:#}");
            None
        },
        Some,
    );
    mainstay_sql::run(&settings, &paths, operator)?;
    Ok(ExitCode::SUCCESS)
}

fn log() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false).init();
}

/// For the member's user alone, whoever this process becomes.
fn operator(path: &Path) -> Result<UnixListener> {
    // The lock says that nobody listens there any more.
    let _ = std::fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// PostgreSQL's user, if this process is root. A witness has none, and its proxy stays who it is.
fn run_as(configuration: &Configuration) -> Result<Option<RunAs>> {
    let is_data = configuration.own_row().postgres.is_some();
    if !is_data || !geteuid().is_root() {
        return Ok(None);
    }
    Ok(Some(RunAs::of_user(&configuration.postgresql.user)?))
}

fn become_user(user: &RunAs) -> nix::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    setgroups(&groups)?;
    setgid(Gid::from_raw(user.gid))?;
    setuid(Uid::from_raw(user.uid))
}

/// PostgreSQL's own certificate where there is one: its user cannot read the member's.
fn paths(configuration: &Configuration, run_as: Option<RunAs>) -> Result<Paths> {
    let source = Source::Member(configuration.control_socket());
    if configuration.own_row().postgres.is_none() {
        let tls = &configuration.tls;
        let (certificate, key) = (tls.server_certificate.clone(), tls.server_key.clone());
        return Ok(Paths { source, certificate, key, authority: tls.authority.clone() });
    }
    let data = Some(configuration.postgresql.data_directory.as_path());
    let layout = Layout::new(&configuration.directory, data, None, run_as)?;
    let (certificate, key) = (layout.certificate(), layout.key());
    Ok(Paths { source, certificate, key, authority: layout.authority() })
}
