//! Logs go to standard error, by a thread of their own: where that is a file on a disk that hangs, or a pipe that nobody
//! reads, the member must not wait for it.

use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, sync_channel};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written; more are dropped.
const QUEUE: usize = 4096;

/// Starts logging, once per process.
pub(crate) fn start(level: LevelFilter, json: bool) -> io::Result<()> {
    let (lines, queue) = sync_channel::<Vec<u8>>(QUEUE);
    std::thread::Builder::new().name("log".to_owned()).stack_size(128 << 10).spawn(move || {
        let mut stderr = io::stderr();
        while let Ok(line) = queue.recv() {
            // There is nobody left to tell about a log that cannot be written.
            let _ = stderr.write_all(&line);
        }
    })?;
    let plain = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Lines(lines))
        .with_target(false)
        .with_ansi(false);
    // Fails only if it was called before: then the first one stands.
    let _ = if json { plain.json().try_init() } else { plain.try_init() };
    Ok(())
}

#[derive(Clone)]
struct Lines(SyncSender<Vec<u8>>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

impl Write for Lines {
    /// The formatter writes a line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.try_send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
