//! The whole set in an editor, again and again until it can be taken.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use super::{change, read, text};
use crate::cli::ChangeOptions;

/// Removed at the end.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(super) async fn edit(options: &ChangeOptions) -> Result<ExitCode> {
    let editor = editor()?;
    let (configuration, answer) = read(options).await?;
    let name = format!("mainstay-config-{}.toml", std::process::id());
    let draft = Draft(std::env::temp_dir().join(name));
    write_new(&draft.0, &text::to_toml(&answer.set, answer.serial))?;
    run_editor(&editor, &draft.0)?;
    let edited = std::fs::read_to_string(&draft.0).context("the edited file is gone")?;
    let set = text::from_toml(&edited).map_err(|(line, message)| match line {
        Some(line) => anyhow::anyhow!("line {line} of what you wrote: {message}; nothing was changed"),
        None => anyhow::anyhow!("{message}; nothing was changed"),
    })?;
    change::change(&configuration, &answer, set, options).await
}

/// Nobody's link is followed, and nobody else reads it.
fn write_new(path: &std::path::Path, contents: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(contents.as_bytes())?;
    Ok(())
}

/// What the environment names. Nobody can use `vi` where there is no terminal.
fn editor() -> Result<String> {
    let named = ["VISUAL", "EDITOR"].into_iter().filter_map(std::env::var_os).find(|value| !value.is_empty());
    match named {
        Some(named) => Ok(named.to_string_lossy().into_owned()),
        None if std::io::stdin().is_terminal() => Ok("vi".to_owned()),
        None => {
            bail!("there is no terminal for an editor; change values with: mainstay config set NAME=VALUE")
        }
    }
}

fn run_editor(editor: &str, path: &std::path::Path) -> Result<()> {
    // An editor may come with options: the shell takes it apart, as git does.
    let command = format!("{editor} \"$1\"");
    let status = Command::new("sh").arg("-c").arg(command).arg("sh").arg(path).status();
    let status = status.with_context(|| format!("cannot start {editor}"))?;
    if !status.success() {
        bail!("the editor {editor} ended with {status}; nothing was changed");
    }
    Ok(())
}
