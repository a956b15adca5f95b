//! PostgreSQL's own programs: where they are, which version, and how they are run.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::unistd::{Group, User, geteuid, getgrouplist};
use tokio::process::Command;

/// The oldest supported major version: the first with `pg_rewind --config-file`.
pub const OLDEST_MAJOR: u32 = 15;

/// The programs that Mainstay runs.
const PROGRAMS: [&str; 6] =
    ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata", "pg_waldump"];

/// The operating-system user that PostgreSQL runs as, when we ourselves are root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
    /// All groups of the user, as `initgroups` would set them.
    pub groups: Vec<u32>,
}

impl RunAs {
    /// Looks the user up in the system's databases.
    pub fn of_user(name: &str) -> Result<RunAs, ToolsError> {
        let user = User::from_name(name).ok().flatten().ok_or_else(|| ToolsError::NoUser(name.to_owned()))?;
        let c_name = std::ffi::CString::new(name).map_err(|_| ToolsError::NoUser(name.to_owned()))?;
        let groups = getgrouplist(&c_name, user.gid).unwrap_or_else(|_| vec![user.gid]);
        if user.uid.is_root() {
            return Err(ToolsError::Root);
        }
        Ok(RunAs {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(|group| group.as_raw()).collect(),
        })
    }

    /// The user's name for messages; the number where there is no name.
    pub fn name(&self) -> String {
        User::from_uid(self.uid.into()).ok().flatten().map_or_else(|| self.uid.to_string(), |user| user.name)
    }

    /// The group's name for messages; the number where there is no name.
    pub fn group_name(&self) -> String {
        Group::from_gid(self.gid.into())
            .ok()
            .flatten()
            .map_or_else(|| self.gid.to_string(), |group| group.name)
    }
}

/// A PostgreSQL version, such as 15.18. A pre-release counts as minor 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why PostgreSQL's programs cannot be used, or why one of them failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    #[error(
        "PostgreSQL is not installed: run `apt install postgresql-{OLDEST_MAJOR}` (or newer), or set its bin directory"
    )]
    NotInstalled,
    #[error(
        "PostgreSQL {major}, which the data directory needs, is not installed: run `apt install postgresql-{major}`"
    )]
    MajorNotInstalled { major: u32 },
    #[error("{bin_dir} lacks PostgreSQL's program `{program}`: install the complete server package")]
    Incomplete { bin_dir: PathBuf, program: &'static str },
    #[error("PostgreSQL {found} in {bin_dir} is too old: {OLDEST_MAJOR} or newer is needed")]
    TooOld { bin_dir: PathBuf, found: Version },
    #[error("cannot read a version from `{program} --version`, which printed {printed:?}")]
    NoVersion { program: PathBuf, printed: String },
    #[error("PostgreSQL does not run as root: configure the user that it runs as (Debian: postgres)")]
    Root,
    #[error(
        "the user {0:?}, that PostgreSQL shall run as, does not exist: install PostgreSQL's packages or create it"
    )]
    NoUser(String),
    #[error("cannot run {program}")]
    Spawn {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{program} failed ({status}): {message}")]
    Failed { program: &'static str, status: std::process::ExitStatus, message: String },
    #[error("{program} did not finish within {timeout:?}")]
    TimedOut { program: &'static str, timeout: Duration },
    #[error("{program} moved no data for {timeout:?}")]
    Stalled { program: &'static str, timeout: Duration },
}

/// PostgreSQL's programs of one version, and the user that runs them.
#[derive(Clone, Debug)]
pub struct Tools {
    bin_dir: PathBuf,
    version: Version,
    run_as: Option<RunAs>,
    /// `setpriv`, which sets supplementary groups: std has no stable way to.
    setpriv: Option<PathBuf>,
}

impl Tools {
    /// Finds the programs: in `bin_dir` if given; else the major version of the data directory, if `data_major` is
    /// given; else the newest that is installed; else where `pg_config` says.
    pub async fn find(
        bin_dir: Option<&Path>,
        data_major: Option<u32>,
        run_as: Option<RunAs>,
    ) -> Result<Tools, ToolsError> {
        if geteuid().is_root() && run_as.as_ref().is_none_or(|user| user.uid == 0) {
            return Err(ToolsError::Root);
        }
        let bin_dir = match bin_dir {
            Some(configured) => configured.to_owned(),
            None => {
                let mut found = installed();
                found.retain(|(major, _)| data_major.is_none_or(|wanted| *major == wanted));
                match found.pop() {
                    Some((_, newest)) => newest,
                    None => from_pg_config().await.ok_or(match data_major {
                        Some(major) => ToolsError::MajorNotInstalled { major },
                        None => ToolsError::NotInstalled,
                    })?,
                }
            }
        };
        if let Some(program) = PROGRAMS.into_iter().find(|program| !bin_dir.join(program).is_file()) {
            return Err(match bin_dir.join("postgres").is_file() {
                true => ToolsError::Incomplete { bin_dir, program },
                false => ToolsError::NotInstalled,
            });
        }
        let groups_needed =
            run_as.as_ref().is_some_and(|user| user.groups.iter().any(|group| *group != user.gid));
        let setpriv = if groups_needed && geteuid().is_root() { find_setpriv() } else { None };
        let placeholder = Version { major: 0, minor: 0 };
        let mut tools = Tools { bin_dir, version: placeholder, run_as, setpriv };
        tools.version = tools.read_version().await?;
        if tools.version.major < OLDEST_MAJOR {
            return Err(ToolsError::TooOld { bin_dir: tools.bin_dir, found: tools.version });
        }
        if let Some(major) = data_major.filter(|major| *major != tools.version.major) {
            return Err(ToolsError::MajorNotInstalled { major });
        }
        Ok(tools)
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn run_as(&self) -> Option<&RunAs> {
        self.run_as.as_ref()
    }

    /// The path of one of the programs, such as `postgres`.
    pub fn path(&self, program: &str) -> PathBuf {
        self.bin_dir.join(program)
    }

    async fn read_version(&self) -> Result<Version, ToolsError> {
        let mut command = self.command("postgres", Path::new("/"));
        command.arg("--version");
        let output = run("postgres", command, Duration::from_secs(10)).await?;
        let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        parse_version(&printed)
            .ok_or_else(|| ToolsError::NoVersion { program: self.path("postgres"), printed })
    }

    /// A command that runs `program` as PostgreSQL's user with an environment of our own.
    ///
    /// The working directory tells our tools from everybody else's after a crash of ours; see `processes`.
    pub fn command(&self, program: &str, working_directory: &Path) -> Command {
        let mut command = match (&self.setpriv, &self.run_as) {
            (Some(setpriv), Some(user)) => {
                let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
                let mut command = Command::new(setpriv);
                command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
                command.arg(format!("--groups={}", groups.join(","))).arg("--").arg(self.path(program));
                command
            }
            (_, user) => {
                let mut command = Command::new(self.path(program));
                if let Some(user) = user.as_ref().filter(|_| geteuid().is_root()) {
                    command.uid(user.uid).gid(user.gid);
                }
                command
            }
        };
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            // libpq looks for certificates under the home directory; ours are all named in the connection string.
            .env("HOME", "/nonexistent")
            .current_dir(working_directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// Runs a short command to its end and collects what it printed; any exit code but 0 is an error.
pub(crate) async fn run(
    program: &'static str,
    command: Command,
    timeout: Duration,
) -> Result<Output, ToolsError> {
    let output = run_any(program, command, timeout).await?;
    if output.status.success() {
        return Ok(output);
    }
    Err(ToolsError::Failed { program, status: output.status, message: error_message(&output.stderr) })
}

/// Like [`run`], but the exit code is the caller's to judge.
pub(crate) async fn run_any(
    program: &'static str,
    mut command: Command,
    timeout: Duration,
) -> Result<Output, ToolsError> {
    let path = PathBuf::from(command.as_std().get_program());
    let child = command.spawn().map_err(|source| ToolsError::Spawn { program: path.clone(), source })?;
    match tokio::time::timeout(timeout, child.wait_with_output()).await {
        Ok(output) => output.map_err(|source| ToolsError::Spawn { program: path, source }),
        // Dropping the child kills it.
        Err(_) => Err(ToolsError::TimedOut { program, timeout }),
    }
}

/// The first error that was printed (others follow from it), with the hints behind it; without one, the last line.
pub(crate) fn error_message(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect();
    let has_any = |line: &str, words: &[&str]| words.iter().any(|word| line.contains(word));
    let is_addition = |line: &str| has_any(line, &["hint:", "detail:", "HINT:", "DETAIL:"]);
    let error =
        lines.iter().position(|line| has_any(line, &["error:", "fatal:", "FATAL:", "PANIC:", "ERROR:"]));
    let Some(start) = error.or(lines.len().checked_sub(1)) else { return "it printed no message".to_owned() };
    let additions = lines[start + 1..].iter().take_while(|line| is_addition(line)).count();
    lines[start..=start + additions].join("; ")
}

/// Installed versions from the oldest supported to the newest.
fn installed() -> Vec<(u32, PathBuf)> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    // Debian's and Red Hat's packages.
    for (parent, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(major) = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok()) else {
                continue;
            };
            let bin_dir = entry.path().join("bin");
            if major >= OLDEST_MAJOR && bin_dir.join("postgres").is_file() {
                found.push((major, bin_dir));
            }
        }
    }
    found.sort();
    found
}

async fn from_pg_config() -> Option<PathBuf> {
    let mut command = Command::new("pg_config");
    command.arg("--bindir").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(10), command.output()).await.ok()?.ok()?;
    let bin_dir = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    bin_dir.join("postgres").is_file().then_some(bin_dir)
}

fn find_setpriv() -> Option<PathBuf> {
    let found =
        ["/usr/bin/setpriv", "/bin/setpriv"].into_iter().map(PathBuf::from).find(|path| path.is_file());
    if found.is_none() {
        tracing::warn!(
            "setpriv is missing: PostgreSQL's tools run without supplementary groups; install util-linux"
        );
    }
    found
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, also `18beta1` and `19devel`.
fn parse_version(printed: &str) -> Option<Version> {
    let number = printed.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    Some(Version { major: digits(major)?, minor: digits(minor)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let read = |text| parse_version(text).map(|version| version.to_string());
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)";
        assert_eq!(read(debian).as_deref(), Some("15.18"));
        assert_eq!(read("postgres (PostgreSQL) 18beta1").as_deref(), Some("18.0"));
        assert_eq!(read("postgres (PostgreSQL) 14.9").as_deref(), Some("14.9"));
        assert_eq!(read("segmentation fault"), None);
    }

    #[test]
    fn the_first_error_keeps_its_hint() {
        let stderr = b"a: warning: x\na: error: broken\na: hint: mend it\n\na: error: gone\na: removing it\n";
        assert_eq!(error_message(stderr), "a: error: broken; a: hint: mend it");
        assert_eq!(error_message(b""), "it printed no message");
        assert_eq!(error_message(b"sh: no such thing\n"), "sh: no such thing");
        // Of an erroneous statement only the message is told, not the text.
        assert_eq!(error_message(b"x ERROR:  syntax\nx STATEMENT:  CREATE ROLE\n"), "x ERROR:  syntax");
    }

    #[tokio::test]
    async fn a_missing_or_old_installation_is_named() {
        let nowhere = Tools::find(Some(Path::new("/nonexistent/bin")), None, Some(nobody())).await;
        assert!(matches!(nowhere, Err(ToolsError::NotInstalled)), "{nowhere:?}");
        let major = Tools::find(None, Some(99), Some(nobody())).await;
        assert!(matches!(major, Err(ToolsError::MajorNotInstalled { major: 99 })), "{major:?}");
    }

    fn nobody() -> RunAs {
        RunAs { uid: 65534, gid: 65534, groups: vec![65534] }
    }
}
