//! WAL that the cluster's lineage abandoned: counted and kept before a rewind or a clone destroys it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_core::{Lsn, Timeline};
use nix::sys::statvfs::statvfs;

use crate::blocking::blocking;
use crate::durable::{self, FileError};
use crate::history;
use crate::layout::Layout;
use crate::tools::{Tools, ToolsError};
use crate::waldump::Stretch;

/// Why diverged WAL was not kept.
#[derive(Debug, thiserror::Error)]
pub enum DivergedError {
    #[error("{directory} has no room for {needed_bytes} bytes of diverged WAL: free some space there")]
    NoSpace { directory: PathBuf, needed_bytes: u64 },
    #[error(transparent)]
    File(#[from] FileError),
}

/// A stretch of one timeline's WAL, such as what a former primary wrote behind the fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DivergedWal {
    pub timeline: Timeline,
    /// Where the lineage left it.
    pub from: Lsn,
    /// Where it ends on disk.
    pub to: Lsn,
    pub segment_bytes: u64,
}

/// How many transactions committed in the stretch: acknowledged or not, they are not in the lineage.
pub async fn count_commits(
    tools: &Tools,
    layout: &Layout,
    wal: DivergedWal,
    timeout: Duration,
) -> Result<u64, CountError> {
    let pg_wal = layout.pg_wal();
    let stretch = blocking(move || stretch(&pg_wal, wal)).await?;
    Ok(stretch.count_commits(tools, layout, timeout).await?)
}

/// Why the commits could not be counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    #[error("cannot read the diverged WAL")]
    Tool(#[from] ToolsError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Copies the stretch's segments and all history files to a directory of their own, durably, and returns it. Blocks.
///
/// They are copies, not links: pg_rewind overwrites a segment of the same name in place, and PostgreSQL reuses old ones.
pub fn keep_wal(layout: &Layout, wal: DivergedWal) -> Result<PathBuf, DivergedError> {
    let name = format!("{:08X}-{:X}-{:X}", wal.timeline.0, wal.from.0 >> 32, wal.from.0 & 0xFFFF_FFFF);
    let directory = layout.diverged_dir().join(name);
    std::fs::create_dir_all(&directory).map_err(|e| FileError::new("create", &directory, e))?;
    let pg_wal = layout.pg_wal();
    let mut sources = stretch(&pg_wal, wal)?.segments();
    for history in history::all(&pg_wal).unwrap_or_default() {
        sources.extend(history.last().map(|fork| pg_wal.join(history::file_name(fork.timeline))));
    }
    let needed_bytes = sources.len() as u64 * wal.segment_bytes;
    // PostgreSQL must still find room for two segments of its own.
    if free_bytes(&directory)? < needed_bytes + 2 * wal.segment_bytes {
        return Err(DivergedError::NoSpace { directory, needed_bytes });
    }
    for source in sources {
        let copy = directory.join(source.file_name().unwrap_or_default());
        copy_durably(&source, &copy)?;
    }
    durable::sync_directory(&directory)?;
    durable::sync_directory(&layout.diverged_dir())?;
    Ok(directory)
}

fn stretch(pg_wal: &Path, wal: DivergedWal) -> Result<Stretch, FileError> {
    let found = Stretch::find(pg_wal, wal.segment_bytes, wal.timeline, wal.from, None)?;
    Ok(found.cut(wal.to))
}

fn free_bytes(directory: &Path) -> Result<u64, FileError> {
    let found =
        statvfs(directory).map_err(|e| FileError::new("look at the space of", directory, e.into()))?;
    Ok(found.blocks_available() * found.fragment_size())
}

fn copy_durably(source: &Path, copy: &Path) -> Result<(), FileError> {
    let temporary = copy.with_extension("new");
    std::fs::copy(source, &temporary).map_err(|e| FileError::new("copy", source, e))?;
    let synced = std::fs::File::open(&temporary).and_then(|file| file.sync_all());
    synced.map_err(|e| FileError::new("sync", &temporary, e))?;
    std::fs::rename(&temporary, copy).map_err(|e| FileError::new("replace", copy, e))
}
