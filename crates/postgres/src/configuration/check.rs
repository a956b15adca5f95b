//! Asking the installed PostgreSQL whether it takes a configuration, before anything is changed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{ConfigurationError, ServerSettings, render};
use crate::blocking::blocking;
use crate::durable::{self, FileError};
use crate::layout::Layout;
use crate::tools::{self, Tools, ToolsError};

/// The program reads a file and prints one value.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{}", .0.join("; "))]
    Refused(Vec<String>),
    #[error("parameter `shared_preload_libraries` is refused: there is no library {name} in {directory}")]
    NoLibrary { name: String, directory: String },
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error("the configuration was not checked")]
    File(#[from] FileError),
    #[error("the configuration was not checked")]
    Tool(#[from] ToolsError),
}

/// What the installed PostgreSQL says of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// `postmaster`: takes a restart; `sighup`, `superuser`, `user` and others: a reload.
    pub context: String,
}

/// The parameters that the installed PostgreSQL describes; it leaves out some that nobody sets in a file.
#[derive(Clone, Debug, Default)]
pub struct Catalogue(BTreeMap<String, Known>);

impl Catalogue {
    pub async fn read(tools: &Tools) -> Result<Catalogue, ToolsError> {
        let mut command = tools.command("postgres", std::path::Path::new("/"));
        command.arg("--describe-config");
        let output = tools::run("postgres", command, TIMEOUT).await?;
        Ok(Catalogue::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    fn parse(printed: &str) -> Catalogue {
        let row = |line: &str| {
            let mut columns = line.split('\t');
            let name = columns.next()?.to_ascii_lowercase();
            Some((name, Known { context: columns.next()?.to_owned() }))
        };
        Catalogue(printed.lines().filter_map(row).collect())
    }

    pub fn get(&self, name: &str) -> Option<&Known> {
        self.0.get(name)
    }

    /// Whether only a restart of PostgreSQL changes it, as far as that is known.
    pub fn takes_restart(&self, name: &str) -> bool {
        self.get(name).is_some_and(|known| known.context.eq_ignore_ascii_case("postmaster"))
    }

    /// The known name that is written most alike.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        let scored = self.0.keys().map(|known| (distance(known, name), known.as_str()));
        let most = (name.len() / 3).clamp(1, 4);
        scored.filter(|(distance, _)| *distance <= most).min().map(|(_, known)| known)
    }
}

/// Levenshtein's.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = before + usize::from(a != *b);
            before = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(before + 1);
        }
    }
    row[other.len()]
}

/// Two checks at once would judge each other's file.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Whether PostgreSQL takes `settings`: it is given the very file that would be written, under another name, and refuses in its
/// own words. Nothing that runs is touched.
pub async fn check(
    tools: &Tools,
    layout: &Layout,
    settings: &ServerSettings,
    catalogue: &Catalogue,
) -> Result<(), Problem> {
    let mut text = render(layout, tools.version(), settings)?;
    // Not the real one: what ALTER SYSTEM wrote there is not asked about.
    let directory = layout.configuration_dir();
    text.push_str(&format!("data_directory = '{}'\n", directory.display()));
    let _alone = ONE_AT_A_TIME.lock().await;
    let file = directory.join("check.conf");
    let (path, access) = (file.clone(), layout.configuration_access());
    let lines = text.clone();
    blocking(move || durable::write(&path, text.as_bytes(), access)).await?;
    let mut command = tools.command("postgres", layout.root());
    command.args(["-C", "max_connections", "-c"]).arg(format!("config_file={}", file.display()));
    let output = tools::run_any("postgres", command, TIMEOUT).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(Problem::Refused(complaints(&String::from_utf8_lossy(&output.stderr), &lines, catalogue)))
}

/// PostgreSQL's complaints, one by one, without times and the name of our file.
fn complaints(stderr: &str, file: &str, catalogue: &Catalogue) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in stderr.lines() {
        let Some((severity, message)) = ["LOG:  ", "FATAL:  ", "HINT:  ", "DETAIL:  "]
            .into_iter()
            .find_map(|severity| Some((severity, line.split_once(severity)?.1)))
        else {
            continue;
        };
        // The directory that it is shown has no postgresql.auto.conf, and needs none.
        let is_ours = message.starts_with("skipping missing configuration file");
        if is_ours || message.ends_with("contains errors") && !found.is_empty() {
            continue;
        }
        match found.last_mut().filter(|_| severity.starts_with(['H', 'D'])) {
            Some(last) => *last = format!("{last} ({message})"),
            None => found.push(without_place(message, file, catalogue)),
        }
    }
    if found.is_empty() {
        found.push(tools::error_message(stderr.as_bytes()));
    }
    found
}

fn without_place(message: &str, file: &str, catalogue: &Catalogue) -> String {
    let (before, place) = message.split_once(" in file ").unwrap_or((message, ""));
    let unknown = before
        .strip_prefix("unrecognized configuration parameter \"")
        .and_then(|rest| rest.strip_suffix('"'));
    if let Some(name) = unknown {
        return match catalogue.nearest(name) {
            Some(near) => format!("there is no parameter `{name}`; did you mean `{near}`?"),
            None => format!("there is no parameter `{name}` in this PostgreSQL"),
        };
    }
    let number = place
        .rsplit_once(" line ")
        .and_then(|(_, rest)| rest.split([',', ' ']).next()?.parse::<usize>().ok());
    match number.and_then(|number| file.lines().nth(number.saturating_sub(1))) {
        Some(line) if !before.contains("parameter") => format!("{before}: {line}"),
        _ => before.to_owned(),
    }
}

/// Libraries of `shared_preload_libraries` that are not installed: with one of them PostgreSQL would not start again.
pub fn missing_libraries(preloaded: &str, library_directory: &str) -> Result<(), Problem> {
    let names =
        preloaded.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty());
    for name in names {
        let plain = name.trim_start_matches("$libdir/");
        let path = match plain.starts_with('/') {
            true => PathBuf::from(plain),
            false => PathBuf::from(library_directory).join(plain),
        };
        let with_ending = PathBuf::from(format!("{}.so", path.display()));
        if !path.is_file() && !with_ending.is_file() {
            let (name, directory) = (name.to_owned(), library_directory.to_owned());
            return Err(Problem::NoLibrary { name, directory });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIBED: &str =
        "work_mem\tuser\tResource Usage / Memory\tINTEGER\t4096\nmax_connections\tpostmaster\tx\ty\n";

    #[test]
    fn complaints_are_postgresqls_own_with_a_suggestion() {
        let catalogue = Catalogue::parse(DESCRIBED);
        let stderr = "2026-11-27 GMT [1] LOG:  skipping missing configuration file \"/x/postgresql.auto.conf\"\n\
            2026-11-27 GMT [1] LOG:  unrecognized configuration parameter \"work_men\" in file \"/x/check.conf\" line 3\n\
            2026-11-27 GMT [1] LOG:  invalid value for parameter \"work_mem\": \"12XB\"\n\
            2026-11-27 GMT [1] HINT:  Valid units are kB.\n\
            2026-11-27 GMT [1] FATAL:  configuration file \"/x/check.conf\" contains errors\n";
        assert_eq!(
            complaints(stderr, "", &catalogue),
            [
                "there is no parameter `work_men`; did you mean `work_mem`?",
                "invalid value for parameter \"work_mem\": \"12XB\" (Valid units are kB.)"
            ]
        );
        assert!(catalogue.takes_restart("max_connections") && !catalogue.takes_restart("work_mem"));
        assert_eq!(catalogue.nearest("entirely_else"), None);
    }

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let error = missing_libraries("\"nothing_such\"", "/nonexistent").unwrap_err().to_string();
        assert!(error.contains("nothing_such in /nonexistent"), "{error}");
        assert!(missing_libraries("", "/nonexistent").is_ok());
    }
}
