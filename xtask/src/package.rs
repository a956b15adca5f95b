//! `cargo xtask package`: Debian's package, made with `dpkg-deb` alone.
//!
//! What is in it stands in `packaging/`; completions and manual pages are made by the program itself.

mod check;

pub(crate) use check::run as check;

use crate::finish;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const USAGE: &str = "\
usage: cargo xtask package [--binary PATH] [--version VERSION] [--out DIR] [--fast]

  --binary PATH      this program instead of one that is built with the profile `dist`
  --version VERSION  of the package, instead of the workspace's
  --out DIR          where to write it, instead of target/package
  --fast             compressed quickly, not well";

#[derive(Debug)]
struct Options {
    binary: Option<PathBuf>,
    version: String,
    out: PathBuf,
    fast: bool,
}

impl Options {
    fn parse(workspace: &Workspace, arguments: &[String]) -> Result<Options> {
        let version = workspace.metadata["packages"].as_array().into_iter().flatten();
        let version = version.filter(|package| package["name"] == "mainstay");
        let version = version.filter_map(|package| package["version"].as_str()).next();
        let mut options = Options {
            binary: None,
            version: version.context("cargo names no version of mainstay")?.to_owned(),
            out: workspace.target.join("package"),
            fast: false,
        };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{name} lacks its value\n{USAGE}"));
            match name.as_str() {
                "--binary" => options.binary = Some(PathBuf::from(value()?)),
                "--version" => options.version = value()?.clone(),
                "--out" => options.out = PathBuf::from(value()?),
                "--fast" => options.fast = true,
                _ => bail!("`{name}` is unknown\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

/// Builds the package, and says where it is.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let options = Options::parse(workspace, arguments)?;
    println!("{}", build(workspace, &options)?.display());
    Ok(())
}

fn build(workspace: &Workspace, options: &Options) -> Result<PathBuf> {
    let binary = match &options.binary {
        Some(path) => path.clone(),
        None => {
            // By itself: see the head of ci.rs.
            finish(&mut workspace.cargo(&[
                "build",
                "--profile",
                "dist",
                "--locked",
                "--package",
                "mainstay",
            ]))?;
            workspace.target.join("dist/mainstay")
        }
    };
    ensure!(binary.is_file(), "{} is not there; build it first", binary.display());
    let root = options.out.join("root");
    let _ = fs::remove_dir_all(&root);
    let stage = Stage { root: root.clone(), packaging: workspace.root.join("packaging") };
    stage.fill(workspace, &binary)?;
    stage.control(&binary, &options.version)?;
    let architecture = architecture()?;
    let package = options.out.join(format!("mainstay_{}_{architecture}.deb", options.version));
    let mut command = Command::new("dpkg-deb");
    if let Some(seconds) = last_commit(workspace) {
        // The same commit makes the same package, byte for byte.
        command.env("SOURCE_DATE_EPOCH", seconds);
    }
    command.args(["--root-owner-group", if options.fast { "-Zgzip" } else { "-Zxz" }]);
    command.args(if options.fast { ["-z1"].as_slice() } else { &[] });
    let output = command.arg("--build").args([&root, &package]).output();
    let output = output.context("cannot run dpkg-deb; a package can only be built on Debian")?;
    ensure!(output.status.success(), "dpkg-deb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    fs::remove_dir_all(&root)?;
    Ok(package)
}

fn architecture() -> Result<String> {
    let output = Command::new("dpkg").arg("--print-architecture").output();
    let output = output.context("cannot run dpkg; a package can only be built on Debian")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn last_commit(workspace: &Workspace) -> Option<String> {
    let mut git = Command::new("git");
    let output = git.current_dir(&workspace.root).args(["log", "-1", "--format=%ct"]).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|seconds| !seconds.is_empty())
}

/// The tree that becomes the package.
struct Stage {
    root: PathBuf,
    packaging: PathBuf,
}

impl Stage {
    fn fill(&self, workspace: &Workspace, binary: &Path) -> Result<()> {
        self.copy(binary, "usr/bin/mainstay", 0o755)?;
        for unit in ["mainstay.service", "mainstay-sql-proxy.service"] {
            self.copy(&self.packaging.join(unit), &format!("usr/lib/systemd/system/{unit}"), 0o644)?;
        }
        self.copy(&self.packaging.join("needrestart.conf"), "etc/needrestart/conf.d/mainstay.conf", 0o644)?;
        self.directory("etc/mainstay")?;
        let program = self.root.join("usr/bin/mainstay");
        for (shell, path) in [
            ("bash", "usr/share/bash-completion/completions/mainstay"),
            ("zsh", "usr/share/zsh/vendor-completions/_mainstay"),
            ("fish", "usr/share/fish/vendor_completions.d/mainstay.fish"),
        ] {
            self.write(path, &said(&program, &["completions", shell])?, 0o644)?;
        }
        let pages = self.directory("usr/share/man/man1")?;
        said(&program, &["man", "--dir", &pages.display().to_string()])?;
        for page in fs::read_dir(&pages)? {
            compress(&page?.path())?;
        }
        self.documents(workspace)
    }

    fn documents(&self, workspace: &Workspace) -> Result<()> {
        let place = "usr/share/doc/mainstay";
        self.copy(&self.packaging.join("debian/copyright"), &format!("{place}/copyright"), 0o644)?;
        let changelog =
            self.copy(&workspace.root.join("CHANGELOG.md"), &format!("{place}/changelog"), 0o644)?;
        compress(&changelog)?;
        self.copy_all(&workspace.root.join("book/src"), &format!("{place}/book"))?;
        self.copy_all(&self.packaging.join("examples"), &format!("{place}/examples"))?;
        // What monitoring systems read as it is: rules, dashboards.
        for entry in fs::read_dir(&self.packaging)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() && !matches!(name.as_str(), "debian" | "examples") {
                self.copy_all(&entry.path(), &format!("usr/share/mainstay/{name}"))?;
            }
        }
        Ok(())
    }

    fn control(&self, binary: &Path, version: &str) -> Result<()> {
        let newest = newest_glibc(&fs::read(binary)?).context("the program is not linked against glibc")?;
        let kilobytes = size(&self.root)?.div_ceil(1024);
        let architecture = architecture()?;
        // A witness runs no PostgreSQL, so that it is recommended only.
        let text = format!(
            "Package: mainstay\n\
             Version: {version}\n\
             Architecture: {architecture}\n\
             Maintainer: Mainstay <mainstay@example.org>\n\
             Installed-Size: {kilobytes}\n\
             Depends: libc6 (>= {newest}), libgcc-s1, init-system-helpers (>= 1.54)\n\
             Recommends: postgresql (>= 15)\n\
             Section: database\n\
             Priority: optional\n\
             Description: high availability for PostgreSQL on one to three machines\n \
             One program keeps PostgreSQL up: when a machine, a process, a disk or the network\n \
             fails, another member takes over within seconds, and no acknowledged commit is lost.\n \
             Consensus is built in; there is no other service to run.\n"
        );
        self.write("DEBIAN/control", text.as_bytes(), 0o644)?;
        self.write("DEBIAN/conffiles", b"/etc/needrestart/conf.d/mainstay.conf\n", 0o644)?;
        for script in ["postinst", "prerm", "postrm"] {
            self.copy(&self.packaging.join("debian").join(script), &format!("DEBIAN/{script}"), 0o755)?;
        }
        Ok(())
    }

    fn directory(&self, path: &str) -> Result<PathBuf> {
        let path = self.root.join(path);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<PathBuf> {
        self.directory(path.rsplit_once('/').map_or("", |(directory, _)| directory))?;
        let path = self.root.join(path);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path)
    }

    fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<PathBuf> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(to, &content, mode)
    }

    fn copy_all(&self, from: &Path, to: &str) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
            let entry = entry?;
            let to = format!("{to}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.copy_all(&entry.path(), &to)?;
            } else {
                self.copy(&entry.path(), &to, 0o644)?;
            }
        }
        Ok(())
    }
}

/// What a call of the program prints.
fn said(program: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(arguments).env_clear().output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let shown = arguments.join(" ");
    ensure!(
        output.status.success(),
        "`mainstay {shown}` failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}

/// Without name and time, so that the same text makes the same file.
fn compress(path: &Path) -> Result<()> {
    finish(Command::new("gzip").args(["--best", "--no-name", "--force"]).arg(path))
}

fn size(path: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}

/// The newest version of glibc's symbols that a program asks for, by the names in its version table: `GLIBC_2.34`.
fn newest_glibc(program: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"GLIBC_2.";
    let found = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let minor = found.filter_map(|(at, _)| {
        let digits = program[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        String::from_utf8(digits.copied().collect()).ok()?.parse::<u32>().ok()
    });
    minor.max().map(|minor| format!("2.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_glibc_is_found() {
        let program = b"\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBC_PRIVATE\0";
        assert_eq!(newest_glibc(program), Some("2.34".to_owned()));
        assert_eq!(newest_glibc(b"musl"), None);
    }

    #[test]
    fn an_unknown_option_is_refused() {
        let workspace = Workspace::find().unwrap();
        let error = Options::parse(&workspace, &["--fats".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("`--fats`") && error.contains("--fast"), "{error}");
    }
}
