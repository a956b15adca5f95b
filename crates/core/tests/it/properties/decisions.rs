//! Whatever a member sees, there are things that it never does.

use std::collections::BTreeMap;

use mainstay_core::action::{Action, Job};
use mainstay_core::decide::{Decision, decide};
use mainstay_core::lineage;
use mainstay_core::record::{Applied, Command, EndCause, Operate, Phase, Record};
use mainstay_core::sync::Voter;
use mainstay_core::view::{Directory, Server, View};
use proptest::prelude::*;

use super::cases;
use super::views::{any_memory, any_view};

fn is_foreign(view: &View) -> bool {
    match &view.directory {
        Directory::Foreign { .. } => true,
        Directory::Valid { system_identifier, .. } => {
            view.record.system_identifier.is_some_and(|ours| ours != *system_identifier)
        }
        _ => false,
    }
}

/// Another member is the primary, and a majority has confirmed that.
fn check_upstream(view: &View, member: &mainstay_core::MemberId, epoch: mainstay_core::Epoch) {
    let base = view.record.base.as_ref().expect("there is a primary");
    assert!(view.record.is_open() && base.holder == *member && *member != view.me);
    assert_eq!((epoch, view.confirmed), (view.record.epoch, Some(view.record.epoch)));
}

fn check_follow(view: &View) {
    assert!(view.sealed < view.record.epoch, "it promised never to stream from this epoch");
    let told = view.upstream.as_ref().is_some_and(|upstream| upstream.epoch == view.record.epoch);
    if view.job.as_ref().is_some_and(|job| matches!(job, Job::Follow { .. })) || told {
        return;
    }
    let scan = view.scan.as_ref().expect("looked at before");
    assert_eq!(Some(scan.incarnation), view.incarnation());
    assert!(view.sealed.next() >= view.record.epoch, "it may still receive from an older epoch");
    assert!(lineage::compare(&view.record.lineage, &scan.extent).may_follow(), "ahead of the fork");
}

/// The directory is replaced or changed: nobody counts on what is in it.
fn check_destructive(view: &View, job: &Job) {
    let own = view.incarnation().map(|incarnation| Voter { member: view.me.clone(), incarnation });
    let votes = own.zip(view.record.sync()).is_some_and(|(own, sync)| sync.voters.contains(&own));
    assert!(!votes || view.job.as_ref() == Some(job), "a voter's directory");
}

fn check_job(view: &View, job: &Job) {
    let record = &view.record;
    assert!(!is_foreign(view), "work on what is not ours: {job}");
    assert!(!matches!(view.server, Server::Unknown | Server::Ending), "processes may be left: {job}");
    assert!(view.confirmed.is_some(), "on a record that nobody confirmed: {job}");
    match job {
        Job::Initdb => assert_eq!(record.phase, Phase::Unfounded),
        Job::Start { .. } | Job::Open { .. } => {
            let tenure = record.tenure().filter(|_| record.phase == Phase::Granted).expect("granted");
            assert!(tenure.holder == view.me && view.incarnation() == Some(tenure.incarnation));
            assert!(view.holds_lease(), "opened without the lease");
            if let Job::Open { epoch, timeline, sync } = job {
                assert_eq!((epoch, timeline, sync), (&tenure.epoch, &tenure.timeline, &tenure.sync));
            }
        }
        Job::Seal { epoch } => {
            let before = Some(*epoch) == record.epoch.0.checked_sub(1).map(mainstay_core::Epoch);
            let ended = matches!(record.phase, Phase::Ended { .. });
            assert!(if ended {
                *epoch == record.epoch
            } else {
                before && record.primary() != Some(&view.me)
            });
        }
        Job::Follow { member, epoch } => {
            check_upstream(view, member, *epoch);
            check_follow(view);
        }
        Job::Rewind { member, epoch } | Job::Clone { member, epoch } => {
            check_upstream(view, member, *epoch);
            check_destructive(view, job);
        }
        Job::StopForSwitchover { epoch, to } => {
            assert!(record.primary() == Some(&view.me) && view.holds_lease() && *epoch == record.epoch);
            // One under way is done to its end, with the target that it was begun for.
            let begun = view.job.as_ref().is_some_and(|begun| begun.same_kind(job));
            assert!(record.switchover.is_some() && (*to != view.me || begun));
        }
        Job::StopInPlace { epoch, .. } => {
            assert!(record.primary() == Some(&view.me) && *epoch == record.epoch);
            let begun = view.job.as_ref() == Some(job);
            let turn = record.turn().is_some_and(|turn| turn.member == view.me && turn.epoch == *epoch);
            assert!(turn && view.holds_lease() || begun);
        }
        Job::StopForRestart { number, .. } => {
            assert!(record.is_open() && record.primary() != Some(&view.me), "a primary is stopped");
            assert!(record.turn().is_some_and(|turn| turn.member == view.me && turn.number == *number));
        }
        Job::SetNames { .. } | Job::OpenGate { .. } | Job::Checkpoint { .. } => {
            panic!("not beside the others: {job}")
        }
    }
}

/// Only an open primary with its lease does any of this.
fn check_upkeep(view: &View, job: &Job) {
    let base = view.record.base.as_ref().expect("open");
    match job {
        Job::SetNames { epoch, sync } => {
            assert_eq!((epoch, sync), (&base.epoch, &base.names), "not announced")
        }
        Job::OpenGate { epoch } => {
            assert_eq!(*epoch, base.epoch);
            let end =
                view.running().and_then(|running| running.primary.as_ref()).expect("open").end_of_recovery;
            let attached = base.sync.voters.iter().filter(|voter| {
                view.fresh_peer(&voter.member).is_some_and(|peer| {
                    peer.incarnation == Some(voter.incarnation)
                        && peer.epoch == base.epoch
                        && peer.streaming.is_some_and(|s| s.timeline == base.timeline && s.flushed >= end)
                })
            });
            assert!(attached.count() >= base.sync.k as usize, "the gate opens too early");
        }
        Job::Checkpoint { epoch } => assert_eq!(*epoch, base.epoch),
        other => panic!("no upkeep: {other}"),
    }
}

fn check_primary(view: &View) {
    assert!(
        view.record.primary() == Some(&view.me) && view.holds_lease(),
        "only the primary, with its lease"
    );
}

fn check_primary_with_lease(view: &View) {
    assert!(view.record.primary() == Some(&view.me) && view.holds_lease(), "upkeep without the lease");
    assert_eq!(view.running().and_then(|running| running.opened), Some(view.record.epoch));
    assert_eq!(view.confirmed, Some(view.record.epoch));
}

fn check_end(view: &View, actions: &[Action], epoch: mainstay_core::Epoch, cause: &EndCause) {
    let tenure = view.record.tenure().expect("a tenure to end");
    assert_eq!(epoch, tenure.epoch);
    if let EndCause::Expired { voters, .. } = cause {
        let known = view.record.voters().filter(|voter| voters.contains(voter)).count();
        assert!(known >= view.record.majority(), "a minority said so");
        return;
    }
    assert_eq!(tenure.holder, view.me, "only its holder gives a lease back");
    assert!(actions.contains(&Action::Relinquish { epoch }), "the lease goes first");
    let addresses_are_gone = view.addresses_until.is_none_or(|until| until <= view.now);
    assert!(addresses_are_gone, "the next holder takes addresses that may be here");
    let alive = view.running().is_some_and(|running| running.opened.is_some());
    assert!(
        !alive && view.server != Server::Ending && view.server != Server::Unknown,
        "something may still write"
    );
}

fn check_proposal(view: &View, actions: &[Action], command: &Command) {
    let mut record = Record::clone(&view.record);
    let applied = record.apply(command.clone());
    match command {
        Command::End { epoch, cause } => check_end(view, actions, *epoch, cause),
        Command::Report { member, report } => {
            assert!(*member == view.me && !is_foreign(view));
            assert!(
                report.epoch == view.record.epoch && view.sealed >= report.epoch,
                "reported before it sealed"
            );
            let scan = view.scan.as_ref().expect("scanned");
            assert_eq!((&report.extent, Some(report.incarnation)), (&scan.extent, view.incarnation()));
        }
        Command::SetSync { .. } => check_primary_with_lease(view),
        Command::Open { .. } => assert!(view.holds_lease(), "an opening without the lease"),
        Command::Found { .. } | Command::CancelSwitchover { .. } => {}
        Command::Operate(Operate::Due { .. } | Operate::Withdraw { .. }) => check_primary(view),
        Command::Operate(
            Operate::Resume {} | Operate::EndMaintenance { .. } | Operate::ForgetReinit { .. },
        ) => assert!(view.leads),
        Command::RequestSwitchover { to, .. } => {
            check_primary(view);
            assert!(to.is_none() && view.record.in_maintenance(&view.me));
        }
        Command::RaiseFormat { .. } | Command::SetVoters { .. } | Command::SettleVoters { .. } => {}
        other => panic!("no member decides this by itself: {other:?}"),
    }
    assert!(
        !matches!(applied, Applied::Refused(_)),
        "asked for what the record refuses: {command:?} {applied:?}"
    );
}

fn check_action(view: &View, actions: &[Action], action: &Action) {
    match action {
        Action::Run(job) => check_job(view, job),
        Action::Upkeep(job) => {
            check_primary_with_lease(view);
            check_upkeep(view, job);
        }
        Action::EndWalsender { .. } => check_primary_with_lease(view),
        Action::Propose(command) => check_proposal(view, actions, command),
        Action::RequestGrant { epoch, incarnation } => {
            let (epoch, incarnation) = (*epoch, *incarnation);
            assert_eq!(Some(incarnation), view.incarnation());
            let grant = Command::Grant { epoch, holder: view.me.clone(), incarnation, request: 77 };
            assert_eq!(
                Record::clone(&view.record).apply(grant),
                Applied::Done,
                "asked for what is not proven"
            );
        }
        Action::Kill { .. } => {
            assert!(!matches!(view.server, Server::Down { .. }), "nothing is there to end")
        }
        Action::Relinquish { epoch } => assert_eq!(*epoch, view.record.epoch),
        Action::ReadRecord => {}
    }
}

/// A writable server that holds no lease in the record is ended, whatever else is seen.
fn check_fenced(view: &View, actions: &[Action]) {
    let Some(running) =
        view.running().filter(|_| view.record.format != 0 && view.directory != Directory::Unknown)
    else {
        return;
    };
    let tenure = view.record.tenure().filter(|tenure| tenure.holder == view.me);
    let is_stray = match running.opened {
        None => running.in_recovery == Some(false),
        // The guard knows an epoch that the record does not show yet: the record is read first.
        Some(opened) => opened <= view.record.epoch && tenure.is_none_or(|tenure| tenure.epoch != opened),
    };
    let killed = actions.iter().any(|action| matches!(action, Action::Kill { .. }));
    assert!(killed || !is_stray, "a writable server without a lease is left alive");
}

fn check(view: &View, decision: &Decision) {
    let actions = &decision.actions;
    let count = |kind: fn(&Action) -> bool| actions.iter().filter(|action| kind(action)).count();
    let jobs = count(|action| matches!(action, Action::Run(_)));
    let kills = count(|action| matches!(action, Action::Kill { .. }));
    assert!(jobs + kills <= 1, "one thing is done with the server: {actions:?}");
    assert!(count(|action| matches!(action, Action::Upkeep(_))) <= 1);
    assert!(!decision.reasons.is_empty(), "a member always says what it is about");
    if view.record.format == 0 {
        assert!(actions.is_empty());
    }
    for action in actions {
        check_action(view, actions, action);
    }
    check_fenced(view, actions);
}

proptest! {
    #![proptest_config(cases(if cfg!(debug_assertions) { 1_024 } else { 16_384 }))]

    #[test]
    fn no_view_leads_to_what_must_never_be_done(view in any_view(), memory in any_memory()) {
        let decision = decide(&view, &mut memory.clone());
        prop_assert_eq!(&decide(&view, &mut memory.clone()), &decision);
        check(&view, &decision);
        let json = serde_json::to_string(&view).expect("a view is JSON");
        prop_assert_eq!(&serde_json::from_str::<View>(&json).expect("as it was written"), &view);
    }
}

/// The views lead to every kind of action, often: or the property above would prove little.
#[test]
fn the_views_lead_to_every_kind_of_action() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::new(cases(1));
    let mut seen = BTreeMap::<String, u32>::new();
    for _ in 0..5_000 {
        let (view, mut memory) =
            (any_view(), any_memory()).new_tree(&mut runner).expect("nothing is rejected").current();
        for action in decide(&view, &mut memory).actions {
            let name = match &action {
                Action::Run(job) | Action::Upkeep(job) => format!("{job:?}"),
                Action::Propose(command) => format!("{command:?}"),
                other => format!("{other:?}"),
            };
            *seen.entry(name.split([' ', '{']).next().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    let wanted = [
        "Start",
        "Open",
        "Seal",
        "Follow",
        "Rewind",
        "Clone",
        "StopForSwitchover",
        "SetNames",
        "OpenGate",
        "Checkpoint",
        "Report",
        "End",
        "SetSync",
        "Found",
        "CancelSwitchover",
        "RequestGrant",
        "Relinquish",
        "Kill",
        "ReadRecord",
        "EndWalsender",
        "Initdb",
    ];
    let rare: Vec<&str> =
        wanted.into_iter().filter(|name| seen.get(*name).is_none_or(|count| *count < 1)).collect();
    assert!(rare.is_empty(), "hardly ever seen: {rare:?} of {seen:?}");
}
