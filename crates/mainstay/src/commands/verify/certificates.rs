//! `certificates`: those of this machine are of the cluster's CA, and do not end soon.

use std::path::Path;
use std::time::{Duration, SystemTime};

use mainstay_net::pki::{CertificateFacts, Renewal, Wanted, needs_renewal};

use super::ground::Ground;
use super::line::Line;

const DAY: Duration = Duration::from_secs(86_400);
/// Time enough to act upon, also over holidays.
const SOON: Duration = Duration::from_secs(30 * 86_400);

pub(super) async fn run(ground: &Ground) -> Vec<Line> {
    let tls = ground.configuration.tls.clone();
    let judge = move || {
        let now = SystemTime::now();
        let authority = std::fs::read_to_string(&tls.authority).unwrap_or_default();
        let mut lines = vec![judge(&tls.authority, &authority, now)];
        for path in [&tls.certificate, &tls.server_certificate] {
            lines.push(judge(path, &authority, now));
        }
        lines
    };
    let me = &ground.configuration.me;
    match tokio::task::spawn_blocking(judge).await {
        Ok(lines) => lines.into_iter().map(|line| line.of(me)).collect(),
        Err(_) => vec![Line::skip("the certificates could not be looked at").of(me)],
    }
}

fn judge(path: &Path, authority_pem: &str, now: SystemTime) -> Line {
    let shown = path.display();
    let pem = match std::fs::read_to_string(path) {
        Ok(pem) => pem,
        Err(error) => {
            return Line::fail(
                format!("{shown} cannot be read: {error}"),
                "run it as root, or correct [tls]",
            );
        }
    };
    judge_pem(&shown.to_string(), &pem, authority_pem, now)
}

fn judge_pem(shown: &str, pem: &str, authority_pem: &str, now: SystemTime) -> Line {
    let facts = match CertificateFacts::read(pem) {
        Ok(facts) => facts,
        Err(error) => return Line::fail(format!("{shown}: {error}"), "put the certificate there, in PEM"),
    };
    let names: Vec<String> = facts.names.iter().cloned().collect();
    let anew = "issue it anew by the cluster's CA";
    if facts.not_before > now {
        return Line::fail(format!("{shown} is not valid yet"), "see that this machine's clock is right");
    }
    // Any life is enough here: what is due by its dates is judged below.
    let wanted = Wanted { authority_pem, names: &names, lifetime: Duration::ZERO };
    match needs_renewal(pem, &wanted, now) {
        Some(Renewal::Expired) => return Line::fail(format!("{shown} has expired"), anew),
        Some(other) => return Line::fail(format!("{shown}: {other}"), anew),
        None => {}
    }
    let left = facts.not_after.duration_since(now).unwrap_or_default();
    let days = left.as_secs() / DAY.as_secs();
    let words = format!("{shown} ({}) is valid for another {days} days", facts.purpose);
    if left < SOON { Line::warn(words, anew) } else { Line::ok(words) }
}

#[cfg(test)]
mod tests {
    use super::super::line::Outcome;
    use super::*;
    use mainstay_net::pki::ClusterCa;

    #[test]
    fn dates_and_authority_are_judged() {
        let (ca, other) = (ClusterCa::create("a").unwrap(), ClusterCa::create("b").unwrap());
        let (own, foreign) = (ca.certificate_pem(), other.certificate_pem());
        let now = SystemTime::now();
        let judged = |authority: &str, years: u64| {
            let at = now + DAY * u32::try_from(365 * years).unwrap();
            let line = judge_pem("ca.pem", own, authority, at);
            (line.outcome, line.finding)
        };
        assert_eq!(judged(own, 0).0, Outcome::Ok);
        assert_eq!(judged(own, 30).0, Outcome::Warn, "{}", judged(own, 30).1);
        assert!(judged(own, 31).1.contains("has expired"), "{}", judged(own, 31).1);
        assert!(judged(foreign, 0).1.contains("has not issued it"), "{}", judged(foreign, 0).1);
        let early = judge_pem("ca.pem", own, own, SystemTime::UNIX_EPOCH);
        assert!(early.remedy.is_some_and(|remedy| remedy.contains("clock")));
    }
}
