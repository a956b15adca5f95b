//! A tar archive (POSIX ustar), compressed by gzip, which every system has.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

const BLOCK: usize = 512;

pub(super) struct Archive {
    directory: String,
    /// Seconds since 1970.
    at: u64,
    bytes: Vec<u8>,
}

impl Archive {
    pub(super) fn new(directory: &str, at: u64) -> Archive {
        Archive { directory: directory.to_owned(), at, bytes: Vec::new() }
    }

    pub(super) fn add(&mut self, name: &str, content: &[u8]) {
        let mut header = [0_u8; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        // The names are ours, and short: 100 bytes at most, with the directory as the prefix, 155 at most.
        put(0, name);
        put(100, "0000600\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", content.len()));
        put(136, &format!("{:011o}\0", self.at));
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        put(345, &self.directory);
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    /// Writes a new file for its owner alone; answers how large it is. Without success there is no file.
    pub(super) fn write(mut self, path: &Path) -> Result<u64> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let written = self.compress(file.try_clone()?);
        if written.is_err() {
            let _ = std::fs::remove_file(path);
        }
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(file.metadata()?.len())
    }

    fn compress(&self, file: std::fs::File) -> Result<()> {
        let mut gzip = Command::new("gzip")
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run gzip")?;
        let mut stdin = gzip.stdin.take().context("gzip reads nothing")?;
        // What gzip says of it tells more than the broken pipe.
        let fed = stdin.write_all(&self.bytes);
        drop(stdin);
        let output = gzip.wait_with_output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(fed?)
    }
}
