//! `pg_waldump` on a stretch of one timeline's segments, and what its output means.
//!
//! It is always given its first and last segment by name. Given a directory alone it takes the segment size from
//! whichever file it meets first, which may be a segment that was only just filled with zeros.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_core::{Lsn, Timeline};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::durable::FileError;
use crate::layout::Layout;
use crate::tools::{self, Tools, ToolsError};

/// PostgreSQL's WAL page, `XLOG_BLCKSZ` at its default.
pub(crate) const PAGE_BYTES: u64 = 8192;

/// `XLogPageHeaderData`, and `XLogLongPageHeaderData` on the first page of a segment; both aligned to 8.
const PAGE_HEADER_BYTES: u64 = 24;
const FIRST_PAGE_HEADER_BYTES: u64 = 40;

const PROGRAM: &str = "pg_waldump";

/// A WAL record's position and length, as `pg_waldump` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) begin: Lsn,
    total_bytes: u64,
    /// A segment switch takes up the rest of its segment.
    is_switch: bool,
}

/// The segments of one timeline that lie there without a gap, from the one that holds `begin`.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    directory: PathBuf,
    timeline: Timeline,
    segment_bytes: u64,
    pub(crate) begin: Lsn,
    /// Where the present files end; equal to `begin` if there is none.
    pub(crate) end: Lsn,
}

/// How a scan of a [`Stretch`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanEnd {
    /// Not one valid record follows its beginning.
    Nothing,
    /// All records are valid as far as the files go; one may go on in a file that is not there.
    EndOfFiles,
    /// The last valid record begins here; where it ends is known if the message said so.
    After { last_record: Lsn, end: Option<Lsn> },
}

impl Stretch {
    /// Looks which segments are there, up to `limit` (a segment boundary). Blocks.
    pub(crate) fn find(
        pg_wal: &Path,
        segment_bytes: u64,
        timeline: Timeline,
        begin: Lsn,
        limit: Option<Lsn>,
    ) -> Result<Stretch, FileError> {
        let limit = limit.unwrap_or(Lsn(u64::MAX - u64::MAX % segment_bytes));
        let mut stretch =
            Stretch { directory: pg_wal.to_owned(), timeline, segment_bytes, begin, end: begin };
        let mut segment = begin.0 / segment_bytes;
        while Lsn(segment * segment_bytes) < limit {
            let path = pg_wal.join(segment_name(timeline, segment, segment_bytes));
            let present = match std::fs::metadata(&path) {
                Ok(metadata) => metadata.len().min(segment_bytes),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
                Err(e) => return Err(FileError::new("look at", &path, e)),
            };
            // A file cut short is readable up to its last whole page.
            let readable = present - present % PAGE_BYTES;
            stretch.end = stretch.end.max(Lsn(segment * segment_bytes + readable));
            if readable < segment_bytes {
                break;
            }
            segment += 1;
        }
        Ok(stretch)
    }

    /// Reads all records and says how that ended.
    pub(crate) async fn scan(
        &self,
        tools: &Tools,
        layout: &Layout,
        timeout: Duration,
    ) -> Result<ScanEnd, ToolsError> {
        if self.end <= self.begin {
            return Ok(ScanEnd::Nothing);
        }
        let mut command = self.command(tools, layout, self.begin);
        command.arg("--quiet");
        let output = tools::run_any(PROGRAM, command, timeout).await?;
        if output.status.success() {
            return Ok(ScanEnd::EndOfFiles);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        interpret(&stderr).ok_or_else(|| ToolsError::Failed {
            program: PROGRAM,
            status: output.status,
            message: tools::error_message(&output.stderr),
        })
    }

    /// The last valid record that begins at or after `from`; `None` if there is none before the files end.
    pub(crate) async fn last_record(
        &self,
        tools: &Tools,
        layout: &Layout,
        from: Lsn,
        limit: Option<u64>,
        timeout: Duration,
    ) -> Result<Option<Record>, ToolsError> {
        let mut last = None;
        let mut command = self.command(tools, layout, from);
        if let Some(limit) = limit {
            command.arg(format!("--limit={limit}"));
        }
        each_line(command, timeout, |line| last = parse_record(line).or(last)).await?;
        Ok(last)
    }

    /// How many transactions committed in the stretch.
    pub(crate) async fn count_commits(
        &self,
        tools: &Tools,
        layout: &Layout,
        timeout: Duration,
    ) -> Result<u64, ToolsError> {
        if self.end <= self.begin {
            return Ok(0);
        }
        let mut command = self.command(tools, layout, self.begin);
        command.arg("--rmgr=Transaction");
        let mut count = 0;
        each_line(command, timeout, |line| count += u64::from(line.contains(" desc: COMMIT"))).await?;
        Ok(count)
    }

    /// The same stretch, no longer than to `end`.
    pub(crate) fn cut(mut self, end: Lsn) -> Stretch {
        self.end = self.end.min(end).max(self.begin);
        self
    }

    pub(crate) fn segment_start(&self, position: Lsn) -> Lsn {
        Lsn(position.0 - position.0 % self.segment_bytes)
    }

    /// The paths of its segments.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        if self.end <= self.begin {
            return Vec::new();
        }
        let numbers = self.begin.0 / self.segment_bytes..=(self.end.0 - 1) / self.segment_bytes;
        numbers.map(|n| self.directory.join(segment_name(self.timeline, n, self.segment_bytes))).collect()
    }

    /// Where `record` ends, page headers counted in.
    pub(crate) fn record_end(&self, record: Record) -> Lsn {
        if record.is_switch {
            return Lsn(self.segment_start(record.begin).0 + self.segment_bytes);
        }
        let mut position = record.begin.0;
        let mut remaining = record.total_bytes;
        loop {
            let room = PAGE_BYTES - position % PAGE_BYTES;
            if remaining <= room {
                return Lsn((position + remaining).next_multiple_of(8));
            }
            remaining -= room;
            position += room;
            let is_first_page = position.is_multiple_of(self.segment_bytes);
            position += if is_first_page { FIRST_PAGE_HEADER_BYTES } else { PAGE_HEADER_BYTES };
        }
    }

    /// PostgreSQL writes the end of WAL at a page boundary in two ways, before and behind the page's header; as a fork
    /// and as a flushed position it is the boundary itself. No record ends right behind a header.
    pub(crate) fn normal_form(&self, position: Lsn) -> Lsn {
        let header = match position.0 % self.segment_bytes {
            offset if offset < PAGE_BYTES => FIRST_PAGE_HEADER_BYTES,
            _ => PAGE_HEADER_BYTES,
        };
        if position.0 % PAGE_BYTES == header { Lsn(position.0 - header) } else { position }
    }

    fn command(&self, tools: &Tools, layout: &Layout, from: Lsn) -> tokio::process::Command {
        let name = |segment| self.directory.join(segment_name(self.timeline, segment, self.segment_bytes));
        let mut command = tools.command(PROGRAM, layout.root());
        command.arg(format!("--start={from}")).arg(format!("--end={}", self.end));
        command.arg(name(from.0 / self.segment_bytes)).arg(name((self.end.0 - 1) / self.segment_bytes));
        command
    }
}

/// `000000010000000000000003`: timeline, then the segment's number in two parts.
pub(crate) fn segment_name(timeline: Timeline, segment: u64, segment_bytes: u64) -> String {
    let per_log = (1 << 32) / segment_bytes;
    format!("{:08X}{:08X}{:08X}", timeline.0, segment / per_log, segment % per_log)
}

/// Runs the command and hands over each line of its output. The end of valid WAL is a failure to `pg_waldump`, so its
/// exit code says nothing.
async fn each_line(
    mut command: tokio::process::Command,
    timeout: Duration,
    mut line_seen: impl FnMut(&str),
) -> Result<(), ToolsError> {
    let path = PathBuf::from(command.as_std().get_program());
    let spawn_error = |source| ToolsError::Spawn { program: path.clone(), source };
    // A full pipe that nobody reads would stop the program; its message is known from the scan.
    command.stderr(std::process::Stdio::null());
    let mut child = command.spawn().map_err(spawn_error)?;
    let stdout = child.stdout.take().expect("stdout is piped by Tools::command");
    let reading = async {
        let mut lines = BufReader::new(stdout);
        // Some records carry names and paths in any encoding.
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).await? > 0 {
            line_seen(&String::from_utf8_lossy(&line));
            line.clear();
        }
        child.wait().await
    };
    match tokio::time::timeout(timeout, reading).await {
        Ok(result) => result.map(|_| ()).map_err(spawn_error),
        Err(_) => Err(ToolsError::TimedOut { program: PROGRAM, timeout }),
    }
}

/// The messages about the record *after* the last valid one that name where it should begin, before that position.
/// Other messages (about pages, or the rest of a record on a later page) name other positions, or none.
const MESSAGES_WITH_END: [&str; 4] = [
    "invalid record length at ",
    "incorrect resource manager data checksum in record at ",
    "invalid resource manager ID ",
    "record with incorrect prev-link ",
];

/// Reads the message of a scan that did not reach the end of the files; `None` if it is another kind of failure.
fn interpret(stderr: &str) -> Option<ScanEnd> {
    if stderr.contains("could not find a valid record after ")
        // The first page is zeros, a recycled segment's of another size, or not there: nothing valid begins here.
        || stderr.contains("WAL segment size must be a power of two")
        || stderr.contains("invalid WAL segment size in WAL file")
    {
        return Some(ScanEnd::Nothing);
    }
    let (last_record, reason) = stderr.split_once("error in WAL record at ")?.1.split_once(": ")?;
    let last_record: Lsn = last_record.parse().ok()?;
    let names_end = MESSAGES_WITH_END.iter().any(|message| reason.starts_with(message));
    let end = names_end.then(|| position_after_at(reason)).flatten().filter(|end| *end > last_record);
    Some(ScanEnd::After { last_record, end })
}

/// The last position in the text that follows the word "at" (which "at least" follows in newer versions).
fn position_after_at(text: &str) -> Option<Lsn> {
    let read = |after: &str| {
        let end = after.find(|c: char| !c.is_ascii_hexdigit() && c != '/').unwrap_or(after.len());
        after[..end].parse().ok()
    };
    text.split(" at ").skip(1).filter_map(read).last()
}

/// Reads `rmgr: Heap  len (rec/tot): 563/   563, tx: 726, lsn: 0/04FFFA40, prev 0/04FFF808, desc: INSERT …`.
fn parse_record(line: &str) -> Option<Record> {
    let total = line.split_once("len (rec/tot):")?.1.split_once('/')?.1.split_once(',')?.0;
    let begin = line.split_once(" lsn: ")?.1.split_once(',')?.0;
    let is_xlog = line.strip_prefix("rmgr:")?.trim_start().starts_with("XLOG ");
    let is_switch = is_xlog && line.split_once(" desc: ").is_some_and(|(_, desc)| desc.trim() == "SWITCH");
    Some(Record { begin: begin.parse().ok()?, total_bytes: total.trim().parse().ok()?, is_switch })
}

#[cfg(test)]
mod tests;
