//! The working tree: where it is, what is in it, and how cargo is called in it.

use anyhow::{Context, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Where cargo builds; also the place of logs and of tools that are built for the checks only.
    pub(crate) target: PathBuf,
    /// What `cargo metadata --no-deps` says.
    pub(crate) metadata: serde_json::Value,
}

/// A text file of the tree; what is not UTF-8 is none.
pub(crate) struct SourceFile {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Workspace {
    pub(crate) fn find() -> Result<Workspace> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies outside the workspace")?;
        let mut workspace =
            Workspace { root: root.to_owned(), target: PathBuf::new(), metadata: serde_json::Value::Null };
        let text = workspace.output(&["metadata", "--no-deps", "--offline", "--format-version", "1"])?;
        workspace.metadata =
            serde_json::from_str(&text).context("cannot read the output of cargo metadata")?;
        let target =
            workspace.metadata["target_directory"].as_str().context("cargo names no target directory")?;
        workspace.target = PathBuf::from(target);
        Ok(workspace)
    }

    /// A call of cargo in the root.
    ///
    /// What `cargo run` set for this very program is taken away: build scripts that watch those variables
    /// (`ring`) would otherwise be compiled anew whenever cargo is called by hand and by xtask in turn.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        command.current_dir(&self.root).args(arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_of_this_package) {
                command.env_remove(name);
            }
        }
        command
    }

    /// Builds everything that holds no mutants.
    pub(crate) fn build_programs(&self) -> Command {
        let mut command = self.cargo(&["build", "--release", "--locked", "--workspace"]);
        command
            .args(["mainstay-sim", "mainstay-model", "xtask"].iter().flat_map(|other| ["--exclude", other]));
        command
    }

    /// One of the programs that were built.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.target.join("release").join(name));
        command.current_dir(&self.root);
        command
    }

    /// What a call of cargo prints.
    pub(crate) fn output(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.cargo(arguments);
        let output = command.output().with_context(|| format!("cannot run `{}`", shown(&command)))?;
        anyhow::ensure!(
            output.status.success(),
            "`{}` failed: {}",
            shown(&command),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        String::from_utf8(output.stdout).context("cargo does not answer in UTF-8")
    }

    /// All text files, but for what git and cargo make.
    pub(crate) fn files(&self) -> Result<Vec<SourceFile>> {
        let mut files = Vec::new();
        let mut directories = vec![self.root.clone()];
        while let Some(directory) = directories.pop() {
            let entries =
                directory.read_dir().with_context(|| format!("cannot list {}", directory.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
                let (kind, path) = (entry.file_type()?, entry.path());
                if entry.file_name() == ".git" || entry.file_name() == "target" {
                    continue;
                }
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_file() {
                    files.extend(self.read(&path)?);
                }
            }
        }
        files.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(files)
    }

    fn read(&self, path: &Path) -> Result<Option<SourceFile>> {
        let bytes = match std::fs::read(path) {
            // An editor's file that is gone again.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let relative = path.strip_prefix(&self.root).context("a file outside the root")?;
        let path = relative.to_str().context("a file name that is not UTF-8")?.to_owned();
        Ok(String::from_utf8(bytes).ok().map(|text| SourceFile { path, text }))
    }
}

/// A command as a person would write it, without its surroundings.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn is_of_this_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || matches!(name, "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE")
}
