//! The package, installed, upgraded, removed and purged in a root of its own below `target/`, by the real dpkg. The running
//! system is not touched: dpkg gets an administrative directory of its own, and the maintainer scripts `DPKG_ROOT`.
//!
//! systemd does not run there. What the scripts ask of it is written down by a `systemctl` that only writes down; what then
//! happens is what the lab's scenarios of services are about.

use super::{Options, build};
use crate::ci::Running;
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The test of CI. The release binary must have been built.
pub(crate) fn run(workspace: &Workspace, running: &mut Running) -> Result<()> {
    let binary = workspace.target.join("release/mainstay");
    let out = workspace.target.join("package-check");
    let options = |version: &str| Options {
        binary: Some(binary.clone()),
        version: version.to_owned(),
        out: out.clone(),
        fast: true,
    };
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out)?;
    let old = build(workspace, &options("0.1.0"))?;
    let new = build(workspace, &options("0.1.1"))?;
    for unit in ["mainstay.service", "mainstay-sql-proxy.service"] {
        verify_unit(&workspace.root.join("packaging").join(unit), &binary, &out, running)?;
    }
    if nix::unistd::geteuid().is_root() {
        Scratch::new(&out)?.tell_the_story(&old, &new, &binary)?;
    } else {
        println!("package: built and looked at; only root can install it, so that part is passed over");
    }
    fs::remove_dir_all(&out)?;
    Ok(())
}

/// systemd-analyze says nothing of a good unit; of a directive that it does not know it only warns.
fn verify_unit(unit: &Path, binary: &Path, out: &Path, running: &mut Running) -> Result<()> {
    // It wants the programs of the unit to be there.
    let text = fs::read_to_string(unit)?.replace("/usr/bin/mainstay", &binary.display().to_string());
    let copy = out.join(unit.file_name().context("a unit has a name")?);
    fs::write(&copy, text)?;
    let log = fs::File::create(out.join("verify.log"))?;
    let mut command = Command::new("systemd-analyze");
    let outcome = running.run_into(command.args(["verify", "--man=no"]).arg(&copy), &log);
    let said = fs::read_to_string(out.join("verify.log"))?;
    outcome.with_context(|| {
        format!("the unit is not sound, or systemd-analyze is missing (Debian's package systemd): {said}")
    })?;
    ensure!(said.trim().is_empty(), "the unit is not sound: {said}");
    Ok(())
}

/// A root that has nothing but dpkg's database, in which the packages that ours depends on stand as installed.
struct Scratch {
    root: PathBuf,
    programs: PathBuf,
}

impl Scratch {
    fn new(out: &Path) -> Result<Scratch> {
        let (root, programs) = (out.join("installed"), out.join("programs"));
        for directory in ["info", "updates", "triggers"] {
            fs::create_dir_all(root.join("var/lib/dpkg").join(directory))?;
        }
        // What makes the scripts believe that systemd runs.
        fs::create_dir_all(root.join("run/systemd/system"))?;
        let mut status = String::new();
        for name in ["libc6", "libgcc-s1", "init-system-helpers"] {
            let row = Command::new("dpkg-query")
                .args(["-W", "-f", "Version: ${Version}\nArchitecture: ${Architecture}\n", name])
                .output()?;
            let row = String::from_utf8(row.stdout)?;
            ensure!(!row.is_empty(), "{name} is not installed here");
            status += &format!(
                "Package: {name}\nStatus: install ok installed\n{row}Maintainer: nobody\nDescription: none\n\n"
            );
        }
        fs::write(root.join("var/lib/dpkg/status"), status)?;
        fs::create_dir_all(&programs)?;
        let recorder = programs.join("systemctl");
        let calls = out.join("systemctl.log");
        fs::write(&recorder, format!("#!/bin/sh\necho \"$*\" >>'{}'\n", calls.display()))?;
        fs::set_permissions(&recorder, fs::Permissions::from_mode(0o755))?;
        Ok(Scratch { root, programs })
    }

    /// Runs dpkg; answers what it said.
    fn dpkg(&self, arguments: &[&str]) -> Result<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("dpkg");
        command
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", self.programs.display()))
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .arg(format!("--root={}", self.root.display()))
            .arg("--force-script-chrootless")
            .args(arguments);
        let output = command.output().context("cannot run dpkg")?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "dpkg {} failed: {said}", arguments.join(" "));
        Ok(said)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// What systemctl was asked since the last look.
    fn asked(&self) -> Result<String> {
        let log = self.programs.with_file_name("systemctl.log");
        let calls = fs::read_to_string(&log).unwrap_or_default();
        fs::write(&log, "")?;
        Ok(calls)
    }

    fn tell_the_story(&self, old: &Path, new: &Path, binary: &Path) -> Result<()> {
        let (old, new) = (old.display().to_string(), new.display().to_string());
        self.dpkg(&["--install", &old])?;
        self.is_complete(binary)?;
        let asked = self.asked()?;
        ensure!(asked.contains("daemon-reload"), "the unit was not made known: {asked:?}");
        ensure!(!asked.contains("kill"), "a first installation has no member to end: {asked:?}");
        let wanted = "etc/systemd/system/multi-user.target.wants/mainstay.service";
        ensure!(self.path(wanted).symlink_metadata().is_ok(), "the service is not enabled");

        let conffile = "etc/needrestart/conf.d/mainstay.conf";
        fs::write(self.path(conffile), "# changed by hand\n")?;
        let kept = ["var/lib/mainstay/data/PG_VERSION", "srv/pg/PG_VERSION", "etc/mainstay/mainstay.toml"];
        for path in kept {
            let path = self.path(path);
            fs::create_dir_all(path.parent().context("a file has a directory")?)?;
            fs::write(path, "directory = \"/var/lib/mainstay\"\ndata_directory = \"/srv/pg\"\n")?;
        }

        self.dpkg(&["--install", &new])?;
        let asked = self.asked()?;
        ensure!(
            asked.contains("kill --kill-whom=main --signal=SIGUSR1 mainstay.service"),
            "the running member was not told to make way: {asked:?}"
        );
        ensure!(
            !asked.lines().any(|line| line.contains("stop") || line.contains("start")),
            "an upgrade must neither stop nor restart the service: {asked:?}"
        );
        let changed = fs::read_to_string(self.path(conffile))?;
        ensure!(changed == "# changed by hand\n", "a changed conffile was overwritten");

        self.dpkg(&["--remove", "mainstay"])?;
        let asked = self.asked()?;
        ensure!(
            asked.contains("stop mainstay.service mainstay-sql-proxy.service"),
            "the service was not stopped: {asked:?}"
        );
        ensure!(!self.path("usr/bin/mainstay").exists(), "the program is left");
        ensure!(self.path(conffile).exists(), "a removal is no purge");
        self.has_kept(&kept, "a removal")?;

        let said = self.dpkg(&["--purge", "mainstay"])?;
        ensure!(!self.path(conffile).exists(), "a purge leaves no conffile");
        self.has_kept(&kept, "a purge")?;
        for place in ["kept: /var/lib/mainstay;", "kept: /srv/pg;", "kept: /etc/mainstay;"] {
            ensure!(said.contains(place), "a purge must say {place:?}: {said}");
        }
        ensure!(self.path(wanted).symlink_metadata().is_err(), "the service is still enabled");
        let left = fs::read_to_string(self.path("var/lib/dpkg/status"))?;
        ensure!(!left.contains("Package: mainstay"), "dpkg still knows the package: {left}");
        Ok(())
    }

    fn has_kept(&self, paths: &[&str], what: &str) -> Result<()> {
        for path in paths {
            ensure!(self.path(path).exists(), "{what} has deleted /{path}");
        }
        Ok(())
    }

    fn is_complete(&self, binary: &Path) -> Result<()> {
        for path in [
            "usr/lib/systemd/system/mainstay.service",
            "usr/lib/systemd/system/mainstay-sql-proxy.service",
            "usr/share/zsh/vendor-completions/_mainstay",
            "usr/share/fish/vendor_completions.d/mainstay.fish",
            "usr/share/man/man1/mainstay.1.gz",
            "usr/share/doc/mainstay/copyright",
            "usr/share/doc/mainstay/changelog.gz",
            "usr/share/doc/mainstay/examples/mainstay.toml",
            "usr/share/doc/mainstay/book/SUMMARY.md",
            "etc/mainstay",
        ] {
            ensure!(self.path(path).exists(), "/{path} is not in the package");
        }
        let program = self.path("usr/bin/mainstay");
        ensure!(fs::read(&program)? == fs::read(binary)?, "the program is another one");
        let mode = fs::metadata(&program)?.permissions().mode() & 0o7777;
        ensure!(mode == 0o755, "the program has the mode {mode:o}");
        // A page for each command that `--help` lists.
        let help = String::from_utf8(super::said(&program, &["--help"])?)?;
        let verbs = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let verbs =
            verbs.take_while(|line| line.starts_with("  ")).filter_map(|line| line.split_whitespace().next());
        let verbs: Vec<&str> = verbs.filter(|verb| *verb != "help").collect();
        ensure!(verbs.len() >= 8, "`--help` lists only {verbs:?}");
        for verb in verbs {
            let page = format!("usr/share/man/man1/mainstay-{verb}.1.gz");
            ensure!(self.path(&page).exists(), "there is no manual page of `mainstay {verb}`");
        }
        let completions = self.path("usr/share/bash-completion/completions/mainstay");
        let read = Command::new("bash").arg("-n").arg(completions).status().context("cannot run bash")?;
        ensure!(read.success(), "bash does not understand its completions");
        Ok(())
    }
}
