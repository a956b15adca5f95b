//! Going on with one member alone: what is refused, what is known to be lost, and what the new instance begins with.

use std::collections::BTreeSet;

use mainstay_core::election::{Unproven, may_be_promoted};
use mainstay_core::lineage::{Extent, Fork};
use mainstay_core::record::{
    Applied, CannotRecover, Command, EndCause, FORMAT, Invitation, Kind, LeftBehind, Loss, OnCrash, Operate,
    Pause, Phase, Record, Refusal, Survivor,
};
use mainstay_core::sync::SyncSet;
use mainstay_core::view::Directory;
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId, Timeline};

use crate::cluster::{self, END, SYSTEM};
use crate::notation::{first_life, member};

fn three() -> Record {
    let mut record = cluster::opened(&["m1", "m2", "m3"], OnCrash::Failover);
    cluster::apply(&mut record, Command::RaiseFormat { to: 2 });
    record
}

/// `name` with all that the record knows of, alone, stopped.
fn survivor(record: &Record, name: &str) -> Survivor {
    let member = member(name);
    let directory = Directory::Valid { incarnation: first_life(&member), system_identifier: SYSTEM };
    let extent = Some(Extent { history: record.lineage.clone(), end: END });
    Survivor { member, directory, extent, runs: false, left: false, reached: BTreeSet::new() }
}

fn members(names: &[&str]) -> BTreeSet<MemberId> {
    names.iter().map(|name| member(name)).collect()
}

#[test]
fn every_refusal() {
    let record = three();
    let of = |change: &dyn Fn(&mut Survivor)| {
        let mut survivor = survivor(&record, "m2");
        change(&mut survivor);
        record.recover(&survivor).expect_err("refused")
    };
    assert_eq!(of(&|survivor| survivor.runs = true), CannotRecover::Runs);
    assert_eq!(of(&|survivor| survivor.left = true), CannotRecover::Left);
    assert_eq!(of(&|survivor| survivor.member = member("m9")), CannotRecover::NotAMember(member("m9")));
    let reached = of(&|survivor| survivor.reached = members(&["m3"]));
    assert_eq!(reached, CannotRecover::MajorityReached(members(&["m3"])));
    for (directory, expected) in [
        (Directory::Absent, CannotRecover::NotWhole("there is none".to_owned())),
        (
            Directory::Marked { operation: "rewind".to_owned() },
            CannotRecover::NotWhole("rewind was not finished".to_owned()),
        ),
        (Directory::Foreign { why: "odd".to_owned() }, CannotRecover::OtherData("odd".to_owned())),
        (Directory::Unknown, CannotRecover::Unread),
        (
            Directory::Valid { incarnation: Incarnation(1), system_identifier: 5 },
            CannotRecover::OtherData("its system identifier is 5".to_owned()),
        ),
    ] {
        assert_eq!(of(&|survivor| survivor.directory = directory.clone()), expected);
    }
    assert_eq!(of(&|survivor| survivor.extent = None), CannotRecover::Unread);
    let other = Extent { history: vec![Fork { timeline: Timeline(9), begin: Lsn(7) }], end: END };
    assert!(matches!(of(&|survivor| survivor.extent = Some(other.clone())), CannotRecover::OtherData(_)));
    let unfounded = cluster::created(&["m1", "m2", "m3"], OnCrash::Failover);
    assert_eq!(unfounded.recover(&survivor(&record, "m1")), Err(CannotRecover::Unfounded));
    let with_witness = cluster::opened(&["m1", "m2", "w3"], OnCrash::Failover);
    let witness = survivor(&with_witness, "w3");
    assert_eq!(with_witness.recover(&witness), Err(CannotRecover::Witness(member("w3"))));
    // Each says what to do instead.
    for refusal in [CannotRecover::Runs, CannotRecover::MajorityReached(members(&["m1", "m3"]))] {
        assert!(refusal.to_string().contains(';'), "{refusal}");
    }
}

/// Whoever is a majority by itself goes on by itself: so a recovery that was interrupted after it was done is not done twice.
#[test]
fn one_that_is_a_majority_by_itself_recovers_nothing() {
    let record = three();
    let recovered = record.recover(&survivor(&record, "m2")).expect("possible").record;
    assert_eq!(recovered.recover(&survivor(&recovered, "m2")), Err(CannotRecover::Alone(member("m2"))));
    let alone = cluster::opened(&["m1"], OnCrash::Failover);
    assert_eq!(alone.recover(&survivor(&alone, "m1")), Err(CannotRecover::Alone(member("m1"))));
}

/// While a change of the voters is not settled, the cluster needs a majority of the old ones too.
#[test]
fn a_majority_is_one_of_the_old_voters_too() {
    let mut record = three();
    let change = |voters: &[&str], serial| Command::SetVoters { serial, voters: members(voters) };
    cluster::apply(&mut record, change(&["m3"], 0));
    let alone = survivor(&record, "m3");
    assert!(record.recover(&alone).is_ok(), "of the new voters it is a majority, of the old ones it is none");
    let with_another = Survivor { reached: members(&["m1"]), ..alone };
    assert_eq!(record.recover(&with_another), Err(CannotRecover::MajorityReached(members(&["m1"]))));
}

#[test]
fn a_member_without_a_vote_may_go_on() {
    let mut record = three();
    cluster::apply(&mut record, Command::SetVoters { serial: 0, voters: members(&["m1"]) });
    cluster::apply(&mut record, Command::SettleVoters { serial: 1 });
    let recovered = record.recover(&survivor(&record, "m2")).expect("the only voter is lost").record;
    assert!(recovered.voters().eq([&member("m2")]));
}

#[test]
fn what_is_known_of_the_loss_is_what_a_grant_would_be_refused_for() {
    let record = three();
    // Two of three: every commit is on one other member, nobody knows on which.
    let Loss::Unproven { why, missing } = record.recover(&survivor(&record, "m2")).expect("possible").loss
    else {
        panic!("m2 is not proven alone")
    };
    assert!(matches!(why, Unproven::TooFewReports { reported: 1, needed: 2, .. }), "{why}");
    assert_eq!(missing.unheard, [member("m1"), member("m3")]);
    // The last holder has everything that it acknowledged.
    let holder = record.recover(&survivor(&record, "m1")).expect("possible");
    assert_eq!(
        (holder.loss.clone(), holder.epoch, holder.holder.clone()),
        (Loss::NothingKnown, Epoch(1), member("m1"))
    );
    assert!(holder.to_string().contains("not known: what the other members decided"), "{holder}");
    // Both of two must have every commit.
    let two = cluster::opened(&["m1", "m2", "w3"], OnCrash::Failover);
    assert_eq!(two.recover(&survivor(&two, "m2")).expect("possible").loss, Loss::NothingKnown);
    // Alone is alone.
    let mut lone = three();
    let sync = SyncSet::lone();
    cluster::apply(
        &mut lone,
        Command::SetSync { epoch: Epoch(1), serial: 2, sync: sync.clone(), names: sync },
    );
    let loss = lone.recover(&survivor(&lone, "m2")).expect("possible").loss;
    assert!(matches!(loss, Loss::Unproven { why: Unproven::OnlyHolder { .. }, .. }), "{loss:?}");
    // Somebody has reported more before it was lost.
    let mut ended = three();
    let voters = members(&["m2", "m3"]);
    cluster::apply(
        &mut ended,
        Command::End { epoch: Epoch(1), cause: EndCause::Expired { voters, serial: 0 } },
    );
    cluster::report(&mut ended, &member("m3"), Lsn(END.0 + 0x100));
    let Loss::Unproven { missing, .. } = ended.recover(&survivor(&ended, "m2")).expect("possible").loss
    else {
        panic!("m3 has more")
    };
    assert_eq!(missing.bytes, 0x100);
}

#[test]
fn the_new_instance_has_one_member_and_nothing_that_the_old_one_could_take_for_its_own() {
    let mut record = three();
    let pause = Pause { by: "ann".to_owned(), since_unix_ms: 1, until_unix_ms: None };
    cluster::apply(&mut record, Command::Operate(Operate::Pause(pause)));
    let invitation = Invitation {
        id: "abcd2345".to_owned(),
        secret_sha256: "00".repeat(32),
        kind: Kind::Data,
        member: None,
        replaces: None,
        expires_at_unix_ms: u64::MAX,
        used_by: None,
    };
    cluster::apply(&mut record, Command::Invite { invitation, at_unix_ms: 1 });
    let recovery = record.recover(&survivor(&record, "m2")).expect("possible");
    let next = recovery.record;
    let me = &next.members[&member("m2")];
    assert_eq!(next.members.len(), 1);
    assert!(me.votes && !me.leaving);
    assert!(record.members.values().all(|row| row.raft_id + 1_000 < me.raft_id), "no id is given twice");
    assert!(next.membership.next_raft_id > me.raft_id);
    assert!(next.epoch.0 >= record.epoch.0 + 1_000 && next.format == FORMAT);
    assert!(next.highest_timeline > record.highest_timeline);
    assert!(next.membership.serial > record.membership.serial && next.membership.outgoing.is_empty());
    assert!(next.membership.invitations.is_empty(), "who had a token of the old instance does not get in");
    assert!(next.paused().is_none() && next.reports.is_empty() && next.unopened.is_empty());
    assert_eq!((&next.cluster, next.system_identifier), (&record.cluster, record.system_identifier));
    assert_eq!(next.ledger, record.ledger, "what was is not forgotten");
    let key = |name: &str| LeftBehind { member: member(name), key: format!("key of {name}") };
    assert_eq!(next.membership.left_behind, [key("m1"), key("m3")]);
    assert_eq!(next.phase, Phase::Ended { cause: EndCause::Recovered { without: members(&["m1", "m3"]) } });

    // It goes on as any cluster does after an epoch has ended.
    let mut next = next;
    cluster::report(&mut next, &member("m2"), END);
    assert_eq!(may_be_promoted(&next, &member("m2"), first_life(&member("m2"))), Ok(()));
    cluster::grant(&mut next, &member("m2"));
    cluster::open(&mut next, END);
    let row = next.ledger.last().expect("opened");
    assert!(matches!(row.after, EndCause::Recovered { .. }), "{:?}", row.after);
    assert!(row.timeline.0 > record.highest_timeline.0 + 10);

    // A second recovery, of a member that joined, keeps the first one's in mind and counts on.
    next.members.insert(member("m4"), record.members[&member("m3")].clone());
    let mut there = survivor(&next, "m4");
    there.directory = Directory::Valid { incarnation: first_life(&member("m4")), system_identifier: SYSTEM };
    let again = next.recover(&there).expect("its only voter is lost").record;
    let names: Vec<&str> = again.membership.left_behind.iter().map(|left| left.member.as_str()).collect();
    assert_eq!(names, ["m2", "m1", "m3"]);
    assert!(again.epoch > next.epoch && again.members[&member("m4")].raft_id > me_id(&next));
}

fn me_id(record: &Record) -> u64 {
    record.members[&member("m2")].raft_id
}

/// What is written with another directory than the one that was looked at is not promoted by itself.
#[test]
fn another_life_of_the_directory_is_not_proven() {
    let record = three();
    let mut next = record.recover(&survivor(&record, "m2")).expect("possible").record;
    let mut report = cluster::whole_report(&next, &member("m2"), END);
    report.incarnation = Incarnation(77);
    cluster::apply(&mut next, Command::Report { member: member("m2"), report });
    let proof = may_be_promoted(&next, &member("m2"), Incarnation(77));
    assert!(matches!(proof, Err(Unproven::OnlyHolder { .. })), "{proof:?}");
}

/// It stands where an instance begins; nobody ends an epoch with it.
#[test]
fn a_recovery_is_no_end_that_a_member_may_propose() {
    let mut record = three();
    let before = record.clone();
    let cause = EndCause::Recovered { without: members(&["m1"]) };
    let applied = record.apply(Command::End { epoch: Epoch(1), cause });
    assert_eq!((applied, record), (Applied::Refused(Refusal::Unreadable), before));
}
