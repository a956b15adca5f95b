//! When the guard or the member dies.

use std::time::Duration;

use mainstay_guard::{Cause, GuardEvent, LeftoversError, Phase, Pid, boottime_ns, kill_leftovers};
use nix::sys::signal::Signal;

use crate::Test;
use crate::fixture::{Fixture, PATIENCE, Renewer, block_on, is_gone, signal, state, until};

pub(crate) const TESTS: &[Test] = &[
    ("death::the_server_dies_with_its_guard", the_server_dies_with_its_guard),
    ("death::a_new_guard_ends_what_a_dead_one_left", a_new_guard_ends_what_a_dead_one_left),
    (
        "death::a_guard_outlives_its_member_and_keeps_the_deadline",
        a_guard_outlives_its_member_and_keeps_the_deadline,
    ),
];

fn the_server_dies_with_its_guard() {
    for mut fixture in [Fixture::new(), Fixture::without_cgroup()] {
        block_on(async {
            let mut member = fixture.member(1).await;
            let postmaster = fixture.open_server(&member, 1, 600).await;
            fixture.busy_sessions(2).await;
            let (directory, data) = (fixture.directory(), fixture.data());
            // While the guard is alive, its server is its own affair.
            let refused = kill_leftovers(&directory, &data, Duration::from_millis(20));
            assert!(matches!(refused, Err(LeftoversError::GuardAlive { .. })), "{refused:?}");
            assert_eq!(fixture.query("select 1").as_deref(), Ok("1"));

            signal(member.status.guard_pid, Signal::SIGKILL);
            member.event_where(|event| *event == GuardEvent::Died).await;
            until("the kernel has killed the postmaster", || is_gone(postmaster)).await;
            // The sessions that are busy on the processor do not notice; that is what the rest is for.
            let left = fixture.leftovers();
            assert!(left.len() >= 2, "{left:?}");
            let killed = kill_leftovers(&directory, &data, PATIENCE).unwrap();
            // With a cgroup the kernel was quicker than the search.
            assert!(killed >= 2 || member.status.cgroup.is_some(), "killed {killed} of {left:?}");
            assert!(left.into_iter().all(is_gone));
            assert_eq!(fixture.leftovers(), Vec::<Pid>::new());
            assert_eq!(kill_leftovers(&directory, &data, PATIENCE).unwrap(), 0);
        });
    }
}

fn a_new_guard_ends_what_a_dead_one_left() {
    for mut fixture in [Fixture::new(), Fixture::without_cgroup()] {
        block_on(async {
            let mut first = fixture.member(1).await;
            fixture.open_server(&first, 1, 600).await;
            fixture.busy_sessions(2).await;
            let processes = fixture.leftovers();
            signal(first.status.guard_pid, Signal::SIGKILL);
            first.event_where(|event| *event == GuardEvent::Died).await;

            let second = fixture.connect(2).await;
            assert_ne!(second.status.guard_pid, first.status.guard_pid);
            let status = second.until_phase(Phase::Empty).await;
            assert_eq!(status.last_cause, Some(Cause::Leftovers));
            // It knows of no epoch, and has no need to.
            assert_eq!((status.armed, status.opened), (None, None));
            assert!(processes.into_iter().all(is_gone));
            std::fs::write(fixture.data().join("standby.signal"), "").unwrap();
            fixture.open_server(&second, 2, 600).await;
        });
    }
}

fn a_guard_outlives_its_member_and_keeps_the_deadline() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        let postmaster = fixture.start_server(&member).await;
        let renewer = Renewer::start(&fixture.directory(), 1, 5);
        member.guard.open(5, Vec::new()).await.unwrap();
        fixture.until_writable().await;
        let guard = member.status.guard_pid;
        drop(member);
        let deadline_ns = renewer.stop();
        // Nobody is connected any more, and until the deadline nothing changes.
        assert_eq!(fixture.query("select pg_is_in_recovery()").as_deref(), Ok("f"));
        until("the postmaster is killed", || state(postmaster).is_none()).await;
        assert!(boottime_ns() >= deadline_ns);
        let member = fixture.connect(2).await;
        assert_eq!(member.status.guard_pid, guard);
        let status = member.until_phase(Phase::Empty).await;
        assert_eq!((status.last_cause, status.last_epoch_opened), (Some(Cause::Deadline), Some(5)));
        assert_eq!(fixture.leftovers(), Vec::<Pid>::new());
    });
}
