//! Who may hold the virtual addresses.

use std::collections::BTreeSet;

use mainstay_core::record::{Command, EndCause, OnCrash, Record};
use mainstay_core::view::View;
use mainstay_core::vip::{Claim, over};
use mainstay_core::{Epoch, Now};

use crate::cluster::{END, apply, grant, open, opened, report, seen_by};
use crate::notation::member;

/// Of a process that has asked for the grant itself.
fn claim(view: &View) -> Option<Claim> {
    mainstay_core::vip::claim(view, mainstay_core::vip::known(view, true, Epoch(0)))
}

const NOW: Now = Now(900_000_000_000);

fn three() -> Record {
    opened(&["m1", "m2", "m3"], OnCrash::Failover)
}

fn ended(cause: EndCause) -> Record {
    let mut record = three();
    let epoch = record.epoch;
    apply(&mut record, Command::End { epoch, cause });
    ["m1", "m2", "m3"].iter().for_each(|name| report(&mut record, &member(name), END));
    record
}

#[test]
fn they_are_the_holders_from_its_grant_on_and_nobody_elses() {
    let mut record = ended(EndCause::Crashed);
    assert!(["m1", "m2", "m3"].iter().all(|me| claim(&seen_by(&record, &member(me), NOW)).is_none()));
    grant(&mut record, &member("m2"));
    let claims = |record: &Record| ["m1", "m2", "m3"].map(|me| claim(&seen_by(record, &member(me), NOW)));
    let expected = Claim { epoch: Epoch(2), careful: false };
    assert_eq!(claims(&record), [None, Some(expected), None]);
    open(&mut record, END);
    assert_eq!(claims(&record), [None, Some(expected), None]);
}

#[test]
fn without_the_lease_there_is_no_claim_whatever_the_record_says() {
    let record = three();
    let mut view = seen_by(&record, &member("m1"), NOW);
    assert!(claim(&view).is_some());
    view.now = view.lease.unwrap().deadline;
    assert_eq!(claim(&view), None);
    view.lease = None;
    assert_eq!(claim(&view), None);
}

#[test]
fn after_a_holder_that_fell_silent_the_network_is_asked() {
    let voters: BTreeSet<_> = ["m2", "m3"].map(member).into();
    let mut record = ended(EndCause::Expired { voters, serial: 0 });
    grant(&mut record, &member("m2"));
    assert!(claim(&seen_by(&record, &member("m2"), NOW)).unwrap().careful);
    // One that was granted the lease in between may have them too.
    let mut record = ended(EndCause::Crashed);
    grant(&mut record, &member("m2"));
    let cause = EndCause::NotOpened { why: "it died".to_owned() };
    apply(&mut record, Command::End { epoch: Epoch(2), cause });
    ["m1", "m2", "m3"].iter().for_each(|name| report(&mut record, &member(name), END));
    grant(&mut record, &member("m3"));
    assert!(claim(&seen_by(&record, &member("m3"), NOW)).unwrap().careful);
}

#[test]
fn what_is_over_is_not_what_may_be_resumed() {
    let record = three();
    let over = |me: &str, relinquished| over(&seen_by(&record, &member(me), NOW), Epoch(relinquished));
    // A member that was started anew finds its own lease running.
    assert_eq!(over("m1", 0), Epoch(0));
    assert_eq!(over("m1", 1), Epoch(1));
    assert_eq!(over("m2", 0), Epoch(1));
}

#[test]
fn a_process_that_was_started_anew_claims_what_postgresql_is_open_under() {
    use mainstay_core::view::Server;
    use mainstay_core::vip::{claim, known};

    let record = three();
    let mut view = seen_by(&record, &member("m1"), NOW);
    let epoch = record.epoch;
    let open = |view: &mut View, opened| {
        if let Server::Running(running) = &mut view.server {
            running.opened = opened;
        }
    };
    open(&mut view, Some(epoch));
    assert_eq!(known(&view, false, Epoch(0)), epoch);
    open(&mut view, None);
    assert_eq!(known(&view, false, Epoch(0)), Epoch(0));
    // The one before it may have proposed the end: the lease runs in the guard, and the record does not say so yet.
    view.server = Server::Down { last_opened: Some(epoch) };
    assert!(view.holds_lease());
    assert_eq!(claim(&view, known(&view, false, Epoch(0))), None);
    // What is known stays so while PostgreSQL is restarted in place.
    assert!(claim(&view, known(&view, false, epoch)).is_some());
    assert_eq!(claim(&view, Epoch(epoch.0 + 1)), None);
}
