//! Past the deadline nothing of an open server is left, whatever it is doing.

use mainstay_guard::{Cause, ClientError, GuardEvent, Phase, Pid, Refusal, StopMode, boottime_ns};
use nix::sys::signal::Signal;

use crate::Test;
use crate::fixture::{Fixture, Member, Renewer, SECOND_NS, block_on, refusal, signal, state, until};

pub(crate) const TESTS: &[Test] = &[
    ("deadline::kills_an_idle_server", kills_an_idle_server),
    ("deadline::kills_busy_sessions", kills_busy_sessions),
    ("deadline::kills_a_stopped_server", kills_a_stopped_server),
    ("deadline::kills_during_a_stop", kills_during_a_stop),
    ("deadline::renewals_move_it_and_a_standby_outlives_it", renewals_move_it_and_a_standby_outlives_it),
    (
        "deadline::a_guard_that_was_frozen_kills_before_it_serves",
        a_guard_that_was_frozen_kills_before_it_serves,
    ),
    ("deadline::a_late_grant_is_void", a_late_grant_is_void),
    ("deadline::an_older_epoch_is_refused", an_older_epoch_is_refused),
];

const EPOCH: u64 = 5;
const ENDED: GuardEvent = GuardEvent::Empty { cause: Cause::Deadline, last_epoch_opened: Some(EPOCH) };

/// Opens a server under a lease that is renewed until the renewer is let go.
async fn open(fixture: &mut Fixture) -> (Member, Renewer) {
    let member = fixture.member(1).await;
    fixture.start_server(&member).await;
    let renewer = Renewer::start(&fixture.directory(), 1, EPOCH);
    member.guard.open(EPOCH, Vec::new()).await.unwrap();
    fixture.until_writable().await;
    (member, renewer)
}

/// Lets the lease run out, and looks that it was the deadline and not earlier, and that nothing is left.
async fn run_out(fixture: &Fixture, mut member: Member, renewer: Renewer) {
    let processes = fixture.leftovers();
    let deadline_ns = renewer.stop();
    assert_eq!(member.until_empty().await, ENDED);
    assert!(boottime_ns() >= deadline_ns, "killed before its time");
    assert!(processes.into_iter().all(|pid| state(pid).is_none()));
    assert_eq!(fixture.leftovers(), Vec::<Pid>::new());
    let status = member.guard.status().await.unwrap();
    assert_eq!((status.phase, status.opened, status.last_epoch_opened), (Phase::Empty, None, Some(EPOCH)));
    assert!(status.armed.is_some_and(|armed| armed.epoch == EPOCH && armed.void));
}

fn kills_an_idle_server() {
    for mut fixture in [Fixture::new(), Fixture::without_cgroup()] {
        block_on(async {
            let (member, renewer) = open(&mut fixture).await;
            fixture.idle_sessions(2).await;
            run_out(&fixture, member, renewer).await;
        });
    }
}

fn kills_busy_sessions() {
    for mut fixture in [Fixture::new(), Fixture::without_cgroup()] {
        block_on(async {
            let (member, renewer) = open(&mut fixture).await;
            fixture.busy_sessions(2).await;
            run_out(&fixture, member, renewer).await;
        });
    }
}

fn kills_a_stopped_server() {
    for mut fixture in [Fixture::new(), Fixture::without_cgroup()] {
        block_on(async {
            let (member, renewer) = open(&mut fixture).await;
            fixture.busy_sessions(1).await;
            for pid in fixture.leftovers() {
                signal(pid, Signal::SIGSTOP);
            }
            run_out(&fixture, member, renewer).await;
        });
    }
}

fn kills_during_a_stop() {
    block_on(async {
        let mut fixture = Fixture::new();
        let (member, renewer) = open(&mut fixture).await;
        let postmaster = member.guard.status().await.unwrap().postmaster.unwrap();
        signal(postmaster, Signal::SIGSTOP);
        member.guard.stop(StopMode::Fast, 600_000).await.unwrap();
        assert_eq!(member.guard.status().await.unwrap().phase, Phase::Stopping);
        run_out(&fixture, member, renewer).await;
    });
}

fn renewals_move_it_and_a_standby_outlives_it() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        let postmaster = fixture.start_server(&member).await;
        // Armed and not opened: the deadline makes the epoch void and ends nobody.
        let first_ns = boottime_ns() + SECOND_NS / 10;
        assert_eq!(member.guard.arm(4, first_ns).await.unwrap(), first_ns);
        until("the first epoch is over", || boottime_ns() > first_ns).await;
        let status = member.guard.status().await.unwrap();
        assert_eq!((status.phase, status.postmaster), (Phase::Running, Some(postmaster)));
        assert!(status.armed.unwrap().void);

        let renewer = Renewer::start(&fixture.directory(), 1, EPOCH);
        member.guard.open(EPOCH, Vec::new()).await.unwrap();
        fixture.until_writable().await;
        let opened_ns = renewer.deadline_ns();
        until("more than one lease is over", || boottime_ns() > opened_ns).await;
        assert_eq!(fixture.query("select pg_is_in_recovery()").as_deref(), Ok("f"));
        let standing_ns = renewer.deadline_ns();
        // An earlier deadline is ignored, and the one that stands is answered.
        assert!(member.guard.arm(EPOCH, boottime_ns() + SECOND_NS / 100).await.unwrap() >= standing_ns);
        run_out(&fixture, member, renewer).await;
    });
}

fn a_guard_that_was_frozen_kills_before_it_serves() {
    block_on(async {
        let mut fixture = Fixture::new();
        let (member, renewer) = open(&mut fixture).await;
        fixture.busy_sessions(1).await;
        let guard = member.status.guard_pid;
        let deadline_ns = renewer.stop();
        signal(guard, Signal::SIGSTOP);
        until("the guard is frozen", || state(guard) == Some('T')).await;
        until("the lease is over", || boottime_ns() > deadline_ns).await;
        // The frozen guard has not done its duty, or this test shows nothing.
        assert_eq!(fixture.query("select 1").as_deref(), Ok("1"));
        // All three wait in the socket when it wakes up. The futures are polled in this order.
        let status = member.guard.status();
        let renewal = member.guard.arm(EPOCH, boottime_ns() + 60 * SECOND_NS);
        let wake = async { signal(guard, Signal::SIGCONT) };
        let (status, renewal, ()) = tokio::join!(biased; status, renewal, wake);
        let status = status.unwrap();
        assert!(matches!(status.phase, Phase::Ending | Phase::Empty), "served before it killed: {status:?}");
        assert_eq!(refusal(renewal.unwrap_err()), Refusal::VoidEpoch { epoch: EPOCH });
        let mut member = member;
        assert_eq!(member.until_empty().await, ENDED);
        assert_eq!(fixture.leftovers(), Vec::<Pid>::new());
    });
}

fn a_late_grant_is_void() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        fixture.start_server(&member).await;
        let past = member.guard.arm(EPOCH, boottime_ns()).await.unwrap_err();
        assert!(matches!(refusal(past), Refusal::DeadlinePassed { .. }));
        let deadline_ns = boottime_ns() + SECOND_NS / 10;
        member.guard.arm(EPOCH, deadline_ns).await.unwrap();
        until("the grant is late", || boottime_ns() > deadline_ns).await;
        let void = Refusal::VoidEpoch { epoch: EPOCH };
        assert_eq!(refusal(member.guard.open(EPOCH, Vec::new()).await.unwrap_err()), void);
        // For ever: also after an attempt to arm it anew.
        let later_ns = boottime_ns() + 600 * SECOND_NS;
        assert_eq!(refusal(member.guard.arm(EPOCH, later_ns).await.unwrap_err()), void);
        assert_eq!(refusal(member.guard.open(EPOCH, Vec::new()).await.unwrap_err()), void);
        assert!(!fixture.data().join("promote").exists());
        assert_eq!(fixture.query("select pg_is_in_recovery()").as_deref(), Ok("t"));
        // A newer grant in time does open.
        member.guard.arm(EPOCH + 1, later_ns).await.unwrap();
        member.guard.open(EPOCH + 1, Vec::new()).await.unwrap();
        fixture.until_writable().await;
    });
}

fn an_older_epoch_is_refused() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut member = fixture.member(1).await;
        fixture.open_server(&member, EPOCH, 600).await;
        let later_ns = boottime_ns() + 600 * SECOND_NS;
        let older = member.guard.arm(EPOCH - 1, later_ns).await.unwrap_err();
        let ClientError::Refused(older) = older else { panic!("{older}") };
        assert_eq!(older, Refusal::OlderEpoch { asked: EPOCH - 1, newest: EPOCH });
        assert!(older.to_string().contains('4') && older.to_string().contains('5'), "it names both: {older}");
        // A server of an older epoch is still open: it must be ended first.
        let newer = refusal(member.guard.arm(EPOCH + 1, later_ns).await.unwrap_err());
        assert_eq!(newer, Refusal::OpenedUnderOlder { opened: EPOCH, asked: EPOCH + 1 });
        member.guard.kill().await.unwrap();
        member.event_where(|event| matches!(event, GuardEvent::Empty { cause: Cause::Killed, .. })).await;
        member.guard.arm(EPOCH + 1, later_ns).await.unwrap();
    });
}
