//! `disk` and `write-probe`: room on each member's disk, and that it takes writes.

use super::ground::Ground;
use super::line::Line;

const MIB: u64 = 1 << 20;
/// Below this PostgreSQL is called unfit.
const LEAST_FREE_BYTES: u64 = 32 * MIB;
/// WAL alone may take so much before its next checkpoint (`max_wal_size`).
const ROOM_BYTES: u64 = 1024 * MIB;
/// A small write takes milliseconds.
const SLOW_MS: u64 = 1_000;

pub(super) async fn free(ground: &Ground) -> Vec<Line> {
    let mut lines = Vec::new();
    for member in ground.data_members() {
        let row = ground.row(member);
        let line = match row.and_then(|row| row.free_bytes) {
            None => Line::skip(unknown(ground, member)),
            Some(free) => {
                let of = row.and_then(|row| row.total_bytes);
                let percent = of.filter(|total| *total > 0).map(|total| free * 100 / total);
                let words = match (of, percent) {
                    (Some(total), Some(percent)) => {
                        format!("{} MiB of {} MiB are free ({percent} %)", free / MIB, total / MIB)
                    }
                    _ => format!("{} MiB are free", free / MIB),
                };
                let remedy = "make room: move other data away, enlarge the file system, or look for a slot that keeps WAL";
                if free < LEAST_FREE_BYTES {
                    Line::fail(words, remedy)
                } else if free < ROOM_BYTES || percent.is_some_and(|percent| percent < 5) {
                    Line::warn(words, remedy)
                } else {
                    Line::ok(words)
                }
            }
        };
        lines.push(line.of(member));
    }
    lines
}

pub(super) async fn writes(ground: &Ground) -> Vec<Line> {
    let mut lines = Vec::new();
    for member in ground.data_members() {
        let row = ground.row(member).filter(|row| row.free_bytes.is_some());
        let line = match row.map(|row| row.write_waits_ms) {
            None => Line::skip(unknown(ground, member)),
            Some(Some(waits)) if waits >= SLOW_MS => Line::fail(
                format!("a small write has not finished for {waits} ms"),
                "see the machine's kernel log and its storage",
            ),
            Some(_) => Line::ok("small writes finish in time"),
        };
        lines.push(line.of(member));
    }
    lines
}

fn unknown(ground: &Ground, member: &mainstay_core::MemberId) -> String {
    match ground.heard.get(member) {
        Some(Ok(_)) => "its disk is not probed: PostgreSQL does not run there".to_owned(),
        _ => "it does not answer over HTTP: see `ports`".to_owned(),
    }
}
