//! The processes that come of a step, found through their parents, also when a parent on the way has died.

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use std::fs;
use std::time::{Duration, Instant};

/// Time for processes that were killed to be gone; a large PostgreSQL frees its memory for a while.
const PATIENCE: Duration = Duration::from_secs(5);

/// Servers that compilers start for their own sake and that outlive a build on purpose.
const OF_THE_COMPILER: &[&str] = &["sccache"];

pub(super) struct Process {
    pub(super) pid: i32,
    parent: i32,
    /// Clock ticks since boot; with the pid it names a process for good.
    started: u64,
    state: char,
    name: String,
}

/// Makes orphans of this process's descendants its children, so that none of them can get out of sight.
pub(super) fn adopt() -> nix::Result<()> {
    prctl::set_child_subreaper(true)
}

/// Waits until all descendants are gone. What is not is ended, and named.
pub(super) fn end_leftovers() -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<Process> =
            of(getpid().as_raw()).into_iter().filter(|process| !is_of_the_compiler(process)).collect();
        if left.is_empty() {
            return Vec::new();
        }
        if Instant::now() >= deadline {
            let names = left.iter().map(Process::describe).collect();
            end(&left);
            return names;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends `processes`, each by its id, after a look that the id still names it.
pub(super) fn end(processes: &[Process]) {
    for process in processes {
        if read(process.pid).is_some_and(|now| now.started == process.started) {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
    }
}

/// All living descendants of `ancestor`.
pub(super) fn of(ancestor: i32) -> Vec<Process> {
    let mut others = all();
    let mut family = vec![ancestor];
    let mut found = Vec::new();
    while let Some(parent) = family.pop() {
        let children;
        (children, others) = others.into_iter().partition(|process| process.parent == parent);
        family.extend(children.iter().map(|child| child.pid));
        found.extend(children);
    }
    // A zombie may have living children, so it counts only now.
    found.retain(|process| !matches!(process.state, 'Z' | 'X'));
    found
}

fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn read(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `PID (NAME) STATE PARENT …`, where the name may hold blanks and parentheses; the start is field 22.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        state: fields.first()?.chars().next()?,
        name: name.to_owned(),
    })
}

fn is_of_the_compiler(process: &Process) -> bool {
    OF_THE_COMPILER.contains(&process.name.as_str())
}

impl Process {
    fn describe(&self) -> String {
        let command = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        format!("process {} ({}) {}", self.pid, self.name, command.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn names_with_parentheses_are_read() {
        let process = parse(7, "7 (a) b) S 3 7 7 0 -1 4 0 0 0 0 1 2 0 0 20 0 1 0 4242 0 0").unwrap();
        assert_eq!((process.parent, process.started, process.state), (3, 4242, 'S'));
        assert_eq!(process.name, "a) b");
        assert!(parse(7, "7 (cut off").is_none());
    }

    #[test]
    fn grandchildren_are_found_and_ended_by_their_ids() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 600 & echo; wait"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.take().unwrap()), &mut line)
            .unwrap();
        let found = of(shell.id() as i32);
        let names: Vec<_> = found.iter().map(|process| process.name.as_str()).collect();
        end(&found);
        // The shell ends because its only child did.
        assert!(shell.wait().is_ok());
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn an_id_that_was_used_again_is_spared() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let mut other = read(child.id() as i32).unwrap();
        other.started += 1;
        end(&[other]);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
