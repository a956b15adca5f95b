//! `clocks`: nothing is decided by them, but logs, certificates and `now()` go by them.

use super::ground::Ground;
use super::line::Line;

const WARN_MS: i64 = 500;
const FAIL_MS: i64 = 5_000;

pub(super) async fn run(ground: &Ground) -> Vec<Line> {
    let mut lines = Vec::new();
    for (member, heard) in ground.heard.iter().filter(|(member, _)| **member != ground.configuration.me) {
        let line = match heard {
            Err(_) => Line::skip("it does not answer over HTTP: see `ports`"),
            Ok(heard) => {
                let off = heard.clock_ahead_ms.abs() - heard.uncertain_ms;
                let side = if heard.clock_ahead_ms < 0 { "behind" } else { "before" };
                let words = format!("its clock is {} ms {side} this machine's", heard.clock_ahead_ms.abs());
                let remedy = "run a time service on all machines (chrony, or systemd-timesyncd)";
                match off {
                    off if off > FAIL_MS => Line::fail(words, remedy),
                    off if off > WARN_MS => Line::warn(words, remedy),
                    _ => Line::ok(format!(
                        "its clock agrees with this machine's, give or take {} ms",
                        heard.uncertain_ms
                    )),
                }
            }
        };
        lines.push(line.of(member));
    }
    if lines.is_empty() { vec![Line::skip("there is one member")] } else { lines }
}
