//! `consensus`: the log has one leader, and every voter is heard.

use std::collections::BTreeSet;

use mainstay_core::MemberId;

use super::ground::Ground;
use super::line::Line;

/// Members tell each other something four times a second.
const SILENT_MS: u64 = 2_000;

pub(super) async fn run(ground: &Ground) -> Vec<Line> {
    let Some(status) = &ground.status else {
        return vec![Line::fail("no member answers", "start the members: mainstay run, on each machine")];
    };
    let mut lines = Vec::new();
    let leaders: BTreeSet<&MemberId> = ground
        .heard
        .values()
        .filter_map(|heard| heard.as_ref().ok())
        .filter_map(|heard| heard.status.store_leader.as_ref())
        .collect();
    let voters: Vec<_> = status.members.iter().filter(|row| row.votes).collect();
    let is_heard = |name: &MemberId| {
        *name == status.member
            || status
                .members
                .iter()
                .any(|row| row.name == *name && row.heard_ms.is_some_and(|ms| ms < SILENT_MS))
    };
    let heard = voters.iter().filter(|row| is_heard(&row.name)).count();
    let lost = "bring the members that are missing back; nothing can be decided until a majority is there";
    lines.push(match leaders.len() {
        0 => Line::fail(format!("the log has no leader; {heard} of {} voters are heard", voters.len()), lost),
        1 => {
            let leader = leaders.iter().next().map_or("", |leader| leader.as_str());
            Line::ok(format!("{leader} leads the log; {heard} of {} voters are heard", voters.len()))
        }
        _ => {
            let names: Vec<&str> = leaders.iter().map(|leader| leader.as_str()).collect();
            Line::warn(
                format!("members name different leaders of the log: {}", names.join(", ")),
                "that is so for a moment when the leader changes; try again",
            )
        }
    });
    for row in voters.iter().filter(|row| !is_heard(&row.name)) {
        let remedy = super::replay::unheard(ground, &row.name);
        lines.push(Line::fail(format!("{} does not hear this voter", status.member), remedy).of(&row.name));
    }
    if voters.len() == 1 && ground.roster.len() > 1 {
        lines.push(Line::warn(
            "one member alone votes: without it nothing is decided, and nobody takes over",
            "add a third member or a witness",
        ));
    }
    lines
}
