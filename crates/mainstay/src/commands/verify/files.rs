//! `files`: nobody else may read this machine's keys and passwords.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mainstay_postgres::layout::Layout;

use super::ground::Ground;
use super::line::Line;

pub(super) async fn run(ground: &Ground) -> Vec<Line> {
    let me = ground.configuration.me.clone();
    let files = files(ground);
    let judge =
        move || files.into_iter().map(|(path, wanted)| (judge(&path, wanted), path)).collect::<Vec<_>>();
    let Ok(judged) = tokio::task::spawn_blocking(judge).await else {
        return vec![Line::skip("the files could not be looked at").of(&me)];
    };
    let count = judged.iter().filter(|(line, _)| line.is_none()).count();
    let mut lines: Vec<Line> = judged.into_iter().filter_map(|(line, _)| line).collect();
    if count > 0 {
        lines.insert(0, Line::ok(format!("{count} keys, passwords and directories are closed to others")));
    }
    lines.into_iter().map(|line| line.of(&me)).collect()
}

/// Paths, and the bits of the mode that must not be set. Password files are looked at whenever the configuration is read.
fn files(ground: &Ground) -> Vec<(PathBuf, u32)> {
    let configuration = &ground.configuration;
    let mut files = vec![
        (configuration.tls.key.clone(), 0o077),
        (configuration.tls.server_key.clone(), 0o077),
        // PostgreSQL's group may connect; who of it may ask is told by the user id.
        (configuration.control_socket(), 0o007),
        (configuration.directory.join("state"), 0o077),
        (configuration.directory.clone(), 0o022),
        // PostgreSQL itself allows its group to read.
        (configuration.postgresql.data_directory.clone(), 0o027),
    ];
    files.extend(configuration.passfile().map(|path| (path, 0o077)));
    let data = &configuration.postgresql.data_directory;
    if let Ok(layout) = Layout::new(&configuration.directory, Some(data), None, None) {
        files.extend([(layout.key(), 0o077), (layout.passfile(), 0o077)]);
    }
    files
}

/// What is wrong with one of them, if anything; one that is not there has nothing to hide.
fn judge(path: &Path, forbidden: u32) -> Option<Line> {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            return Some(Line::skip(format!("{shown} cannot be looked at: {error}; run it as root")));
        }
    };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & forbidden == 0 {
        return None;
    }
    let letters = match forbidden {
        0o077 => "go-rwx",
        0o027 => "g-w,o-rwx",
        0o007 => "o-rwx",
        _ => "go-w",
    };
    Some(Line::fail(
        format!("{shown} (owner {}) has mode {mode:04o}: others can read or change it", metadata.uid()),
        format!("run: chmod {letters} {shown}"),
    ))
}
