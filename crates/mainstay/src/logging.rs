//! Logs go to standard error and to the member's own file, each by a thread of its own: where one is on a disk that hangs, or a
//! pipe that nobody reads, neither the member nor the other one waits for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use mainstay_member::logs;
use nix::fcntl::OFlag;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written; more are dropped.
const QUEUE: usize = 4096;

/// Starts logging, once per process; `directory` is the member's.
pub(crate) fn start(level: LevelFilter, json: bool, directory: &Path) -> io::Result<()> {
    let (lines, queue) = sync_channel::<Vec<u8>>(QUEUE);
    let (kept, file_queue) = sync_channel::<Vec<u8>>(QUEUE);
    let path = logs::file(directory);
    thread("log", move || {
        let mut stderr = io::stderr();
        while let Ok(line) = queue.recv() {
            // There is nobody left to tell about a log that cannot be written.
            let _ = stderr.write_all(&line);
        }
    })?;
    thread("log file", move || keep(&file_queue, LogFile::new(path, logs::LARGEST_BYTES)))?;
    let plain = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Lines { stderr: lines, file: kept })
        .with_target(false)
        .with_ansi(false);
    // Fails only if it was called before: then the first one stands.
    let _ = if json { plain.json().try_init() } else { plain.try_init() };
    Ok(())
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(128 << 10).spawn(work).map(|_| ())
}

fn keep(queue: &Receiver<Vec<u8>>, mut file: LogFile) {
    while let Ok(line) = queue.recv() {
        // Standard error has it too, and whoever asks for the log is told that there is none.
        let _ = file.write(&line);
    }
}

/// A file that is begun anew when it is large; one old one is kept.
struct LogFile {
    path: PathBuf,
    largest_bytes: u64,
    open: Option<(File, u64)>,
}

impl LogFile {
    fn new(path: PathBuf, largest_bytes: u64) -> LogFile {
        LogFile { path, largest_bytes, open: None }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(_, length)| *length >= self.largest_bytes) {
            self.open = None;
            std::fs::rename(&self.path, logs::before(&self.path))?;
        }
        let (file, length) = match &mut self.open {
            Some(open) => open,
            // A new member's directory may not be there yet: the next line tries again.
            None => {
                let mut options = OpenOptions::new();
                options.create(true).append(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
                let file = options.open(&self.path)?;
                let length = file.metadata()?.len();
                self.open.insert((file, length))
            }
        };
        file.write_all(line)?;
        *length += line.len() as u64;
        Ok(())
    }
}

#[derive(Clone)]
struct Lines {
    stderr: SyncSender<Vec<u8>>,
    file: SyncSender<Vec<u8>>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

impl Write for Lines {
    /// The formatter writes a line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.stderr.try_send(line.to_vec());
        let _ = self.file.try_send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_gives_way_to_another_and_no_line_is_lost() {
        let directory = std::env::temp_dir().join(format!("mainstay-logging-{}", std::process::id()));
        let path = directory.join("mainstay.log");
        let mut file = LogFile::new(path.clone(), 10);
        assert!(file.write(b"lost\n").is_err(), "there is no directory yet");
        std::fs::create_dir_all(&directory).expect("made");
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            file.write(line.as_bytes()).expect("written");
        }
        let read = |path: &Path| std::fs::read_to_string(path).expect("there");
        assert_eq!(
            (read(&logs::before(&path)), read(&path)),
            ("one\ntwo\nthree\n".to_owned(), "four\n".to_owned())
        );
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
