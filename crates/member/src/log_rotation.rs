//! PostgreSQL's log, kept from filling the disk: a standby without a primary writes some lines every second.
//!
//! PostgreSQL writes into a file that the guard has opened for appending. So the file is copied and emptied rather than
//! renamed; a few lines written in between are lost.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use crate::logs;
use crate::machinery::blocking;

const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// One old file of this size is kept beside the current one.
const LARGEST_BYTES: u64 = 64 << 20;

/// Looks for ever.
pub(crate) async fn run(log: PathBuf) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let file = log.clone();
        if let Ok(Err(error)) = blocking(move || rotate(&file, LARGEST_BYTES)).await {
            warn!(log = %log.display(), %error, "a log is not rotated");
        }
    }
}

fn rotate(log: &Path, largest_bytes: u64) -> io::Result<()> {
    match fs::metadata(log) {
        Ok(metadata) if metadata.len() > largest_bytes => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    // On a full disk there is no copy; what matters then is that the log shrinks.
    let copied = fs::copy(log, logs::before(log));
    OpenOptions::new().write(true).open(log)?.set_len(0)?;
    copied.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_large_log_is_emptied_and_the_writer_goes_on() {
        let directory = std::env::temp_dir().join(format!("mainstay-log-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("made");
        let log = directory.join("postgresql.log");
        let mut writer = OpenOptions::new().create(true).append(true).open(&log).expect("opened");
        writer.write_all(&[b'a'; 100]).expect("written");
        rotate(&log, 100).expect("small enough");
        assert_eq!(fs::metadata(&log).expect("there").len(), 100);
        rotate(&log, 99).expect("rotated");
        writer.write_all(b"b").expect("written");
        assert_eq!(fs::read(&log).expect("there"), b"b");
        assert_eq!(fs::metadata(directory.join("postgresql.log.1")).expect("kept").len(), 100);
        fs::remove_dir_all(&directory).expect("removed");
    }
}
