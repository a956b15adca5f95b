//! How fast the end is. The bounds are those of a loaded test machine; the printed medians are what counts.

use std::fs;
use std::time::{Duration, Instant};

use mainstay_guard::{Cause, GuardEvent, boottime_ns};
use nix::sys::signal::Signal;

use crate::Test;
use crate::fixture::{Fixture, SECOND_NS, block_on, signal};

pub(crate) const TESTS: &[Test] = &[
    ("measure::from_kill_to_empty", from_kill_to_empty),
    ("measure::from_crash_to_empty", from_crash_to_empty),
    ("measure::from_deadline_to_empty", from_deadline_to_empty),
    ("measure::private_memory", private_memory),
];

const RUNS: usize = 5;
const BUSY: usize = 8;
/// The failover bound leaves this much for a crash to be noticed and cleaned up, with a wide margin for the machine.
const LONGEST: Duration = Duration::from_secs(2);

fn from_kill_to_empty() {
    each_setting("kill to empty", false);
}

fn from_crash_to_empty() {
    each_setting("postmaster's death to empty", true);
}

fn each_setting(what: &str, crash: bool) {
    for use_cgroup in [true, false] {
        for busy in [0, BUSY] {
            let way = if use_cgroup { "cgroup" } else { "one by one" };
            let times = (0..RUNS).map(|_| measure(use_cgroup, busy, crash)).collect();
            report(&format!("{what}, {way}, {busy} busy sessions"), times);
        }
    }
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, worst) = (times[RUNS / 2], times[RUNS - 1]);
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    crate::say(&format!(
        "    {what}: median {:.1} ms, worst {:.1} ms (n = {RUNS})",
        milliseconds(median),
        milliseconds(worst)
    ));
    assert!(median < LONGEST, "{median:?}");
}

fn from_deadline_to_empty() {
    let run_out = || {
        block_on(async {
            let mut fixture = Fixture::new();
            let mut member = fixture.member(1).await;
            fixture.start_server(&member).await;
            let deadline_ns = boottime_ns() + 2 * SECOND_NS;
            member.guard.arm(1, deadline_ns).await.unwrap();
            member.guard.open(1, Vec::new()).await.unwrap();
            member
                .event_where(|event| matches!(event, GuardEvent::Empty { cause: Cause::Deadline, .. }))
                .await;
            Duration::from_nanos(boottime_ns() - deadline_ns)
        })
    };
    report("deadline to empty, idle", (0..RUNS).map(|_| run_out()).collect());
}

fn measure(use_cgroup: bool, busy: usize, crash: bool) -> Duration {
    block_on(async {
        let mut fixture = Fixture::new();
        fixture.use_cgroup = use_cgroup;
        let mut member = fixture.member(1).await;
        let postmaster = fixture.open_server(&member, 1, 600).await;
        fixture.busy_sessions(busy).await;
        while member.events.try_recv().is_ok() {}
        let began = Instant::now();
        if crash {
            signal(postmaster, Signal::SIGKILL);
        } else {
            member.guard.kill().await.unwrap();
        }
        member.event_where(|event| matches!(event, GuardEvent::Empty { .. })).await;
        began.elapsed()
    })
}

fn private_memory() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        fixture.start_server(&member).await;
        fixture.busy_sessions(BUSY).await;
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", member.status.guard_pid)).unwrap();
        let kilobytes = |field: &str| -> u64 {
            let line = rollup.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        let anonymous = kilobytes("Anonymous:");
        let (private, resident) =
            (kilobytes("Private_Dirty:") + kilobytes("Private_Clean:"), kilobytes("Rss:"));
        crate::say(&format!(
            "    guard: {anonymous} kB anonymous, {private} kB private, {resident} kB resident"
        ));
        assert!(anonymous < 4096, "{rollup}");
    });
}
