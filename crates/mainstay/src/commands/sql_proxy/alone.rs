//! The SQL proxy on an application's machine, which is no member of the cluster: it asks any member that knows its token.
//!
//! What it knows stands in a directory: the token, the CA's certificate, where the members answer, and its settings.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mainstay_guard::CompanionLock;
use mainstay_net::{Invitation, KeyFingerprint};
use mainstay_postgres::durable::{self, Access};
use mainstay_postgres::tools::RunAs;
use mainstay_sql::{Cluster, Paths, Source};
use nix::unistd::geteuid;

use crate::cli::SqlProxyOptions;
use crate::client;
use crate::commands::join::resolve;
use crate::configuration;
use crate::output::println;

const TOKEN: &str = "token";
const AUTHORITY: &str = "authority.pem";
const MEMBERS: &str = "members";
const SETTINGS: &str = "sql-proxy.toml";
const LOCK: &str = "lock";
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// On loopback: applications beside it need no encryption, and nobody else comes in.
const FIRST_SETTINGS: &str = "\
# The SQL proxy of this machine. Every key is explained in the book, under \"SQL proxy\".
# Clients on other machines: listen on an address of this one, and put server.crt and server.key beside this file.
[sql_proxy]
listen = \"127.0.0.1:6432\"
listen_readonly = \"127.0.0.1:6433\"
";

/// Learns the cluster, then serves as a process whose command line does not show the token.
pub(super) fn join(word: &str, options: &SqlProxyOptions) -> Result<ExitCode> {
    let directory = &options.directory;
    let invitation: Invitation = match word {
        "-" => std::io::read_to_string(std::io::stdin())?.trim().parse()?,
        word => word.parse()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cluster = runtime.block_on(learn(&invitation, directory))?;
    println!(
        "this machine's SQL proxy belongs to the cluster {cluster}; its settings: {}",
        settings(directory).display()
    );
    if options.no_start {
        println!(
            "start it with: systemctl enable --now mainstay-sql-proxy (or: mainstay sql-proxy --alone --directory {})",
            directory.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut again = Command::new(std::env::current_exe()?);
    again.args(["sql-proxy", "--alone", "--directory"]).arg(directory).args(["--user", &options.user]);
    Err(again.exec()).context("cannot start the proxy")
}

/// Answers the cluster's name. Nothing is kept before a member has answered by its name and has let us in.
async fn learn(invitation: &Invitation, directory: &Path) -> Result<String> {
    let target = resolve(invitation)?;
    let expected = invitation.token.authority();
    let pem = client::public_text(target, "/v1/certificates/authority", ANSWER_PATIENCE).await.with_context(|| {
        format!("{target} does not say who its cluster is; give the word that `mainstay client add NAME --sql-proxy` has written, with its port")
    })?;
    // Whatever stands in the file is trusted later, and the fingerprint is that of the first one only.
    if pem.matches("-----BEGIN ").count() != 1 {
        bail!(
            "{target} shows something else than one certificate as that of its cluster's CA; ask another member"
        );
    }
    let presented = KeyFingerprint::of_certificate_pem(&pem).context("what it shows is no certificate")?;
    if presented != expected {
        bail!(
            "{target} is of another cluster: its CA has the key {presented}, and the token's has {expected}"
        );
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .with_context(|| format!("cannot make {}; name another with --directory", directory.display()))?;
    let asked = directory.join(format!("{AUTHORITY}.new"));
    std::fs::write(&asked, &pem).with_context(|| format!("cannot write {}", asked.display()))?;
    let token = invitation.token.text();
    let cluster = Cluster::new(token.clone(), vec![target], None, || Err(String::new()));
    let routes = mainstay_sql::ask_once(cluster, &asked).await;
    let routes = routes.inspect_err(|_| drop(std::fs::remove_file(&asked))).with_context(|| {
        format!("{target} does not let this proxy in; see who may with `mainstay client list` on a member")
    })?;
    let others = routes.apis.into_iter().filter(|api| *api != target);
    let members: Vec<_> = std::iter::once(target).chain(others).collect();
    let private = Access { mode: 0o600, owner: None };
    durable::write(&directory.join(TOKEN), format!("{token}\n").as_bytes(), private)?;
    durable::write(&directory.join(MEMBERS), Cluster::write(&members).as_bytes(), private)?;
    std::fs::rename(&asked, directory.join(AUTHORITY))?;
    if !settings(directory).exists() {
        let access = Access { mode: 0o644, owner: None };
        durable::write(&settings(directory), FIRST_SETTINGS.as_bytes(), access)?;
    }
    Ok(routes.cluster)
}

fn settings(directory: &Path) -> PathBuf {
    directory.join(SETTINGS)
}

/// Serves with what is known from an earlier joining.
pub(super) fn serve(options: &SqlProxyOptions) -> Result<ExitCode> {
    let directory = &options.directory;
    let file = |name: &str| directory.join(name);
    let token = std::fs::read_to_string(file(TOKEN)).with_context(|| {
        format!(
            "{} knows no cluster; join one: mainstay sql-proxy --join TOKEN@HOST:PORT",
            directory.display()
        )
    })?;
    let own = settings(directory);
    let settings = configuration::load_proxy_alone(&own)?;
    let kept = OpenOptions::new().read(true).write(true).open(file(MEMBERS));
    let kept: File = kept.with_context(|| format!("cannot open {}", file(MEMBERS).display()))?;
    let members = Cluster::read(&std::io::read_to_string(&kept)?);
    if members.is_empty() {
        bail!(
            "{} names no member; join again: mainstay sql-proxy --join TOKEN@HOST:PORT",
            file(MEMBERS).display()
        );
    }
    let locked = CompanionLock::take(&file(LOCK), &format!("{}\n", std::process::id()));
    let Some(_held_while_it_runs) =
        locked.with_context(|| format!("cannot lock {}", file(LOCK).display()))?
    else {
        bail!("a SQL proxy runs already in {}", directory.display());
    };
    let cluster = Arc::new(Cluster::new(token.trim().to_owned(), members, Some(kept), move || {
        configuration::load_proxy_alone(&own).map_err(|error| error.to_string())
    }));
    let paths = Paths {
        source: Source::Cluster(cluster),
        certificate: file("server.crt"),
        key: file("server.key"),
        authority: file(AUTHORITY),
    };
    if geteuid().is_root() {
        let user = RunAs::of_user(&options.user)?;
        super::become_user(&user).with_context(|| format!("cannot become user {}", user.name()))?;
    }
    super::log();
    mainstay_sql::run(&settings, &paths, None)?;
    Ok(ExitCode::SUCCESS)
}
