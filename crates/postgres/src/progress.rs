//! Runs pg_basebackup and pg_rewind, which take long and say how far they are.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::tools::{self, ToolsError};

/// When all data is there the tool still syncs it to disk, and says nothing meanwhile.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1800);

/// Messages are kept for the error; of a talkative tool the last ones.
const KEPT_MESSAGE_BYTES: usize = 64 << 10;

/// How far a clone or a rewind is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub done_bytes: u64,
    /// An estimate, which may grow; 0 until it is known.
    pub total_bytes: u64,
}

/// Runs the tool to its end and returns its messages without the lines of progress. It is killed if nothing new came
/// from it for `stall_timeout`.
pub(crate) async fn run(
    program: &'static str,
    mut command: Command,
    stall_timeout: Duration,
    progress: &watch::Sender<Progress>,
) -> Result<String, ToolsError> {
    let path = PathBuf::from(command.as_std().get_program());
    let spawn_error = |source| ToolsError::Spawn { program: path.clone(), source };
    progress.send_replace(Progress::default());
    command.stdout(Stdio::null());
    let mut child = command.spawn().map_err(spawn_error)?;
    let mut stderr = child.stderr.take().expect("stderr is piped by Tools::command");
    let mut reader = Reader::default();
    let mut heard_at = Instant::now();
    loop {
        let mut chunk = [0; 4096];
        let patience = if reader.is_copied() { FINISH_TIMEOUT.max(stall_timeout) } else { stall_timeout };
        let read = tokio::time::timeout_at(heard_at + patience, stderr.read(&mut chunk)).await;
        match read {
            // Dropping the child kills it.
            Err(_) => return Err(ToolsError::Stalled { program, timeout: patience }),
            Ok(Err(source)) => return Err(spawn_error(source)),
            Ok(Ok(0)) => break,
            Ok(Ok(length)) => {
                if reader.take(&chunk[..length]) {
                    heard_at = Instant::now();
                    progress.send_if_modified(|shown| {
                        std::mem::replace(shown, reader.progress) != reader.progress
                    });
                }
            }
        }
    }
    let waited = tokio::time::timeout(FINISH_TIMEOUT, child.wait()).await;
    let status = waited.map_err(|_| ToolsError::TimedOut { program, timeout: FINISH_TIMEOUT })?;
    let status = status.map_err(spawn_error)?;
    let messages = reader.finish();
    match status.success() {
        true => Ok(messages),
        false => {
            Err(ToolsError::Failed { program, status, message: tools::error_message(messages.as_bytes()) })
        }
    }
}

#[derive(Default)]
struct Reader {
    progress: Progress,
    messages: Vec<u8>,
    line: Vec<u8>,
}

impl Reader {
    /// Takes what the tool printed. Returns whether it is news: a repeated line of progress is not.
    fn take(&mut self, chunk: &[u8]) -> bool {
        let mut is_news = false;
        for byte in chunk {
            if *byte == b'\n' || *byte == b'\r' {
                is_news |= self.end_line();
            } else {
                self.line.push(*byte);
            }
        }
        is_news
    }

    fn end_line(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return false;
        }
        if let Some(progress) = parse(&String::from_utf8_lossy(&line)) {
            return std::mem::replace(&mut self.progress, progress) != progress;
        }
        self.messages.extend_from_slice(&line);
        self.messages.push(b'\n');
        let surplus = self.messages.len().saturating_sub(KEPT_MESSAGE_BYTES);
        self.messages.drain(..surplus);
        true
    }

    fn is_copied(&self) -> bool {
        self.progress.total_bytes > 0 && self.progress.done_bytes >= self.progress.total_bytes
    }

    fn finish(mut self) -> String {
        self.end_line();
        String::from_utf8_lossy(&self.messages).into_owned()
    }
}

/// Reads `  1234/56789 kB (2%), 0/1 tablespace` and `53321/53321 kB (100%) copied`.
fn parse(line: &str) -> Option<Progress> {
    let (done, rest) = line.trim_start().split_once('/')?;
    let total = rest.split_once(" kB (")?.0;
    let kilobytes = |text: &str| text.parse::<u64>().ok()?.checked_mul(1024);
    Some(Progress { done_bytes: kilobytes(done)?, total_bytes: kilobytes(total)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_from_messages() {
        let mut reader = Reader::default();
        assert!(reader.take(b"pg_basebackup: checkpoint completed\n  1024/40"));
        assert!(reader.take(b"96 kB (25%), 0/1 tablespace\r"));
        assert_eq!(reader.progress, Progress { done_bytes: 1 << 20, total_bytes: 4 << 20 });
        assert!(!reader.take(b"  1024/4096 kB (25%), 0/1 tablespace\r"), "nothing moved");
        assert!(!reader.is_copied());
        assert!(reader.take(b"  4096/4096 kB (100%), 1/1 tablespace\n"));
        assert!(reader.is_copied());
        reader.take(b"pg_basebackup: error: x");
        assert_eq!(reader.finish(), "pg_basebackup: checkpoint completed\npg_basebackup: error: x\n");
    }
}
