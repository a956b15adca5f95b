//! `ports`: every port of every member is reached from this machine, and from the others.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_core::MemberId;
use mainstay_member::reach::{self, Obstacle, Reach, Service};

use super::ground::Ground;
use super::line::Line;
use crate::client;

/// The other member looks for a second at most.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn run(ground: &Ground) -> Vec<Line> {
    let mut lines = from_here(ground).await;
    for member in ground.roster.keys().filter(|member| **member != ground.configuration.me) {
        let Some(http) = ground.roster[member].http else { continue };
        let answer: Result<Vec<Reach>, _> = client::public(http, "/v1/reach", PATIENCE).await;
        lines.extend(match answer {
            Ok(seen) => lines_of(member, seen),
            Err(error) => {
                vec![Line::skip(format!("it cannot be asked what it reaches: {error:#}")).of(member)]
            }
        });
    }
    lines
}

async fn from_here(ground: &Ground) -> Vec<Line> {
    let me = &ground.configuration.me;
    let others = ground.roster.iter().filter(|(name, _)| *name != me);
    let ports = others.flat_map(|(name, row)| {
        let services = [
            (Service::Member, Some(row.address)),
            (Service::Postgresql, row.postgres),
            (Service::Http, row.http),
        ];
        services.into_iter().filter_map(|(service, address)| Some((name.clone(), service, address?)))
    });
    let mut lines = lines_of(me, reach::look(ports.collect()).await);
    if let Some(failure) = &ground.local_failure {
        let remedy = "start it: mainstay run, or see its log";
        lines.insert(
            0,
            Line::fail(format!("this machine's member does not answer: {failure}"), remedy).of(me),
        );
    }
    if lines.is_empty() { vec![Line::skip("there is one member")] } else { lines }
}

/// One line for all that is reached, one for each port that is not.
fn lines_of(from: &MemberId, seen: Vec<Reach>) -> Vec<Line> {
    let mut reached: BTreeMap<MemberId, Vec<&str>> = BTreeMap::new();
    let mut lines = Vec::new();
    for reach in seen {
        match reach.obstacle {
            None => reached.entry(reach.member).or_default().push(reach.service.as_str()),
            Some(obstacle) => lines.push(closed(from, &reach, obstacle).of(&reach.member)),
        }
    }
    if !reached.is_empty() {
        let words: Vec<String> =
            reached.iter().map(|(member, services)| format!("{member} ({})", services.join(", "))).collect();
        lines.insert(0, Line::ok(format!("from {from} are reached: {}", words.join("; "))).of(from));
    }
    lines
}

fn closed(from: &MemberId, reach: &Reach, obstacle: Obstacle) -> Line {
    let (member, port) = (&reach.member, reach.address.port());
    let what = format!("the {} port {} is not reached from {from}", reach.service.as_str(), reach.address);
    match obstacle {
        Obstacle::Refused => Line::fail(
            format!("{what}: connection refused"),
            format!(
                "see that {member} runs there; if it does, a firewall refuses: let {from} in to {port}/tcp"
            ),
        ),
        Obstacle::Silent => Line::fail(
            format!("{what}: no answer"),
            format!(
                "see that {member}'s machine is up; if it is, a firewall drops packets: let {from} in to {port}/tcp"
            ),
        ),
        Obstacle::NotTried => Line::fail(
            format!("{what}: {from} could not try"),
            format!("see that {from}'s own firewall lets {port}/tcp out"),
        ),
        Obstacle::Unroutable => Line::fail(
            format!("{what}: no route"),
            format!("see the addresses and routes of {from}'s machine"),
        ),
    }
}
