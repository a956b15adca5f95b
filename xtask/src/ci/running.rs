//! Running one command of a step: its output passed on and read, its orphans buried, its time limited.

use super::descendants;
use crate::workspace::shown;
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write, pipe};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Time to pass on the rest of the output. A process left behind may hold the pipe open for ever.
const REST: Duration = Duration::from_secs(2);

pub(crate) struct Running {
    limit: Duration,
    deadline: Instant,
    passed: Arc<AtomicUsize>,
}

impl Running {
    pub(crate) fn new(limit: Duration) -> Running {
        Running { limit, deadline: Instant::now() + limit, passed: Arc::default() }
    }

    /// Tests that passed so far.
    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Relaxed)
    }

    /// Runs `command`, passing on what it says.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        // One pipe for both, so that their lines stay in order.
        let (reader, writer) = pipe().context("cannot make a pipe")?;
        command.stdout(writer.try_clone().context("cannot make a pipe")?).stderr(writer);
        let spawned = spawn(command);
        // Closes this process's own ends, without which the pipe would never end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = spawned?;
        let (finished, rest) = channel();
        let passed = Arc::clone(&self.passed);
        std::thread::spawn(move || pass_on(reader, &passed, finished));
        let outcome = self.wait(&mut child);
        let _ = rest.recv_timeout(REST);
        outcome
    }

    /// Runs `command`, writing what it says to `log`.
    pub(crate) fn run_into(&mut self, command: &mut Command, log: &File) -> Result<()> {
        let mut child = spawn(command.stdout(log.try_clone()?).stderr(log.try_clone()?))?;
        self.wait(&mut child)
    }

    /// Waits for `child`, ending it and all that came of it at the deadline.
    fn wait(&self, child: &mut Child) -> Result<()> {
        let pid = child.id() as i32;
        let (done, is_done) = channel::<()>();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let watch = std::thread::spawn(move || {
            let is_late = is_done.recv_timeout(left) == Err(RecvTimeoutError::Timeout);
            if is_late {
                end_all(pid);
            }
            is_late
        });
        let buried = bury_orphans_until(pid);
        // Only now: while the watch may still act, the zombie must keep its id.
        drop(done);
        let is_late = watch.join().unwrap_or(false);
        buried.context("cannot wait for a child")?;
        let status = child.wait().context("cannot wait for a child")?;
        if is_late {
            bail!("ended, since the run took longer than {} minutes", self.limit.as_secs() / 60);
        }
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot run `{}`", shown(command)))
}

/// The child and its family, as it is now; what is orphaned meanwhile is caught as a leftover of the step.
fn end_all(pid: i32) {
    let family = descendants::of(pid);
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    descendants::end(&family);
}

/// Returns once `child` has ended, leaving its status to be read. An adopted orphan that ends meanwhile is
/// buried at once, as init would: tests wait for processes to be gone.
///
/// Only children of this thread are seen, so as to leave others to whoever waits for them. The kernel gives orphans
/// to the main thread, which is the one that runs the steps.
fn bury_orphans_until(child: i32) -> nix::Result<()> {
    let seen = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::__WNOTHREAD;
    loop {
        let ended = match waitid(Id::All, seen) {
            Err(Errno::EINTR) => continue,
            status => status?.pid(),
        };
        match ended {
            Some(pid) if pid.as_raw() == child => return Ok(()),
            Some(pid) => waitpid(pid, None).map(drop)?,
            None => {}
        }
    }
}

fn pass_on(reader: PipeReader, passed: &AtomicUsize, finished: Sender<()>) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        passed.fetch_add(usize::from(is_pass(&line)), Relaxed);
        print!("{}", String::from_utf8_lossy(&line));
        let _ = std::io::stdout().flush();
        line.clear();
    }
    let _ = finished.send(());
}

/// `test NAME ... ok`, also with a time after it.
fn is_pass(line: &[u8]) -> bool {
    let Ok(line) = std::str::from_utf8(line) else { return false };
    line.strip_prefix("test ")
        .and_then(|rest| rest.split_once(" ... "))
        .is_some_and(|(_, outcome)| outcome.split_whitespace().next() == Some("ok"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn only_lines_of_passed_tests_count() {
        assert!(is_pass(b"test frame::tests::torn ... ok\n"));
        assert!(is_pass(b"test lifecycle::stops ... ok (312 ms)\n"));
        for other in ["test a ... FAILED\n", "test result: ok. 3 passed; 0 failed\n", "okay\n", ""] {
            assert!(!is_pass(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn output_is_read_and_a_failure_is_one() {
        let mut running = Running::new(Duration::from_secs(60));
        running.run(&mut shell("echo 'test a ... ok'; echo 'test b ... ok' >&2")).unwrap();
        assert_eq!(running.passed(), 2);
        let error = running.run(&mut shell("exit 3")).unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        let error = running.run(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(format!("{error:#}").contains("cannot run `program`"), "{error:#}");
    }

    #[test]
    fn at_the_deadline_the_whole_family_is_ended() {
        let begin = Instant::now();
        let mut running = Running::new(Duration::from_millis(300));
        let error = running.run(&mut shell("sleep 600 & sleep 600; true")).unwrap_err().to_string();
        assert!(error.contains("took longer"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(60), "the sleeping child held the pipe");
    }
}
