use super::*;

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_deadline_only_moves_forward() {
    let mut lease = Lease::default();
    assert_eq!(lease.arm(5, 10 * SECOND, 1), Ok(10 * SECOND));
    assert_eq!(lease.arm(5, 9 * SECOND, 2), Ok(10 * SECOND));
    assert_eq!(lease.arm(5, 11 * SECOND, 3), Ok(11 * SECOND));
    assert_eq!(lease.wake_at_ns(), Some(11 * SECOND));
}

#[test]
fn an_older_epoch_is_refused_and_both_are_named() {
    let mut lease = Lease::default();
    lease.arm(5, 10 * SECOND, 1).unwrap();
    let refusal = lease.arm(4, 20 * SECOND, 2).unwrap_err();
    assert_eq!(refusal, Refusal::OlderEpoch { asked: 4, newest: 5 });
    // Also when the newer one has run out in the meantime.
    lease.expire(11 * SECOND);
    assert_eq!(
        lease.arm(4, 20 * SECOND, 11 * SECOND).unwrap_err(),
        Refusal::OlderEpoch { asked: 4, newest: 5 }
    );
}

#[test]
fn a_late_grant_is_void_for_ever() {
    let mut lease = Lease::default();
    assert!(matches!(lease.arm(5, 10, 10), Err(Refusal::DeadlinePassed { .. })));
    lease.arm(5, 10 * SECOND, 1).unwrap();
    // Nobody looked at the clock when the deadline passed: the next request finds out by itself.
    assert_eq!(lease.arm(5, 20 * SECOND, 10 * SECOND), Err(Refusal::VoidEpoch { epoch: 5 }));
    assert_eq!(lease.may_open(5, 10 * SECOND), Err(Refusal::VoidEpoch { epoch: 5 }));
    assert_eq!(lease.wake_at_ns(), None);
    assert_eq!(lease.arm(6, 20 * SECOND, 10 * SECOND), Ok(20 * SECOND));
    assert_eq!(lease.may_open(6, 10 * SECOND), Ok(()));
}

#[test]
fn a_deadline_of_another_clock_is_refused() {
    let mut lease = Lease::default();
    let wall_clock_ns = 1_800_000_000 * SECOND;
    assert!(matches!(lease.arm(1, wall_clock_ns, 50 * SECOND), Err(Refusal::DeadlineTooFar { .. })));
}

#[test]
fn open_wants_exactly_the_armed_epoch_and_once() {
    let mut lease = Lease::default();
    assert_eq!(lease.may_open(5, 1), Err(Refusal::NotArmed { asked: 5, armed: None }));
    lease.arm(5, 10 * SECOND, 1).unwrap();
    assert_eq!(lease.may_open(6, 1), Err(Refusal::NotArmed { asked: 6, armed: Some(5) }));
    assert_eq!(lease.may_open(4, 1), Err(Refusal::NotArmed { asked: 4, armed: Some(5) }));
    assert_eq!(lease.may_open(5, 10 * SECOND - 1), Ok(()));
    lease.set_opened(5);
    assert_eq!(lease.may_open(5, 2), Err(Refusal::AlreadyOpened { epoch: 5 }));
    // A restart on the same machine has a new epoch, so the old one does not open a second life.
    lease.set_ended();
    assert_eq!(lease.may_open(5, 3), Err(Refusal::AlreadyOpened { epoch: 5 }));
}

#[test]
fn a_newer_epoch_waits_for_the_end_of_the_server_of_the_older() {
    let mut lease = Lease::default();
    lease.arm(5, 10 * SECOND, 1).unwrap();
    lease.set_opened(5);
    assert_eq!(lease.arm(6, 20 * SECOND, 2), Err(Refusal::OpenedUnderOlder { opened: 5, asked: 6 }));
    assert!(!lease.expire(10 * SECOND - 1));
    assert!(lease.expire(10 * SECOND));
    // It stays to be ended until it is, also when the deadline is asked to move.
    assert_eq!(lease.arm(5, 20 * SECOND, 10 * SECOND), Err(Refusal::VoidEpoch { epoch: 5 }));
    assert!(lease.expire(10 * SECOND));
    lease.set_ended();
    assert!(!lease.expire(10 * SECOND));
    assert_eq!(lease.arm(6, 20 * SECOND, 11 * SECOND), Ok(20 * SECOND));
    assert_eq!(lease.last_epoch_opened(), Some(5));
}

#[test]
fn an_epoch_that_is_only_armed_kills_nothing() {
    let mut lease = Lease::default();
    lease.arm(5, 10 * SECOND, 1).unwrap();
    assert!(!lease.expire(20 * SECOND));
}
