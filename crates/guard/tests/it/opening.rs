//! Opening a standby: the only way to a writable server.

use std::fs;
use std::os::unix::fs::MetadataExt;

use mainstay_guard::{Cause, GuardEvent, Phase, Refusal, boottime_ns};

use crate::Test;
use crate::fixture::{Fixture, SECOND_NS, block_on, refusal, run_as, until};

pub(crate) const TESTS: &[Test] = &[
    ("opening::promotes_to_the_wanted_timeline", promotes_to_the_wanted_timeline),
    ("opening::wants_a_grant_and_a_server", wants_a_grant_and_a_server),
    ("opening::writes_only_placeholders_of_histories", writes_only_placeholders_of_histories),
    ("opening::does_not_follow_links_with_roots_rights", does_not_follow_links_with_roots_rights),
];

fn promotes_to_the_wanted_timeline() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut member = fixture.member(1).await;
        fixture.start_server(&member).await;
        assert_eq!(fixture.query("select pg_is_in_recovery()").as_deref(), Ok("t"));
        assert!(fixture.query("create table t (n int)").is_err());
        member.guard.arm(7, boottime_ns() + 600 * SECOND_NS).await.unwrap();
        let dummies = (2..=6).map(|timeline| format!("{timeline:08X}.history")).collect();
        member.guard.open(7, dummies).await.unwrap();
        fixture.until_writable().await;
        assert_eq!(
            fixture.query("create table t as select 1 as n; select count(*) from t").as_deref(),
            Ok("1")
        );
        let timeline = "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
        assert_eq!(fixture.query(timeline).as_deref(), Ok("00000007"));
        if let Some(user) = run_as() {
            let dummy = fs::metadata(fixture.data().join("pg_wal/00000003.history")).unwrap();
            assert_eq!((dummy.uid(), dummy.gid(), dummy.mode() & 0o777), (user.uid, user.gid, 0o600));
        }
        assert!(
            !fixture.data().join("promote").exists() && !fixture.data().join("promote.mainstay").exists()
        );
        let status = member.guard.status().await.unwrap();
        assert_eq!((status.opened, status.last_epoch_opened), (Some(7), Some(7)));

        // What was written is there after a kill and a second life under a new epoch.
        member.guard.kill().await.unwrap();
        let empty = GuardEvent::Empty { cause: Cause::Killed, last_epoch_opened: Some(7) };
        assert_eq!(
            member
                .event_where(|event| matches!(event, GuardEvent::Empty { last_epoch_opened: Some(_), .. }))
                .await,
            empty
        );
        assert_eq!(member.guard.status().await.unwrap().opened, None);
        fs::write(fixture.data().join("standby.signal"), "").unwrap();
        fixture.open_server(&member, 8, 600).await;
        assert_eq!(fixture.query("select count(*) from t").as_deref(), Ok("1"));
        assert_eq!(fixture.query(timeline).as_deref(), Ok("00000008"));
    });
}

fn wants_a_grant_and_a_server() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        let open = async |epoch| refusal(member.guard.open(epoch, Vec::new()).await.unwrap_err());
        let later_ns = boottime_ns() + 600 * SECOND_NS;
        member.guard.arm(5, later_ns).await.unwrap();
        assert_eq!(open(5).await, Refusal::NotRunning);
        fixture.start_server(&member).await;
        assert_eq!(open(4).await, Refusal::NotArmed { asked: 4, armed: Some(5) });
        assert_eq!(open(6).await, Refusal::NotArmed { asked: 6, armed: Some(5) });
        assert_eq!(fixture.query("select pg_is_in_recovery()").as_deref(), Ok("t"));
        member.guard.open(5, Vec::new()).await.unwrap();
        assert_eq!(open(5).await, Refusal::AlreadyOpened { epoch: 5 });
        fixture.until_writable().await;
    });
}

fn writes_only_placeholders_of_histories() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        fixture.start_server(&member).await;
        member.guard.arm(5, boottime_ns() + 600 * SECOND_NS).await.unwrap();
        for name in ["../postgresql.conf", "00000002", "0000000x.history", "/etc/00000002.history"] {
            let refused = refusal(member.guard.open(5, vec![name.to_owned()]).await.unwrap_err());
            assert_eq!(refused, Refusal::HistoryName { name: name.to_owned() });
        }
        // A real history is never touched.
        let real = fixture.data().join("pg_wal/00000003.history");
        fs::write(&real, "1\t0/1000000\treal\n").unwrap();
        if let Some(user) = run_as() {
            std::os::unix::fs::chown(&real, Some(user.uid), Some(user.gid)).unwrap();
        }
        let names = ["00000002.history", "00000003.history"].map(str::to_owned).to_vec();
        let refused = refusal(member.guard.open(5, names).await.unwrap_err());
        assert_eq!(refused, Refusal::HistoryExists { path: real.clone() });
        assert_eq!(fs::read_to_string(&real).unwrap(), "1\t0/1000000\treal\n");
        // None of this opened anything or spent the epoch.
        let status = member.guard.status().await.unwrap();
        assert_eq!((status.phase, status.opened, status.last_epoch_opened), (Phase::Running, None, None));
        fs::remove_file(&real).unwrap();
        member.guard.open(5, vec!["00000002.history".to_owned()]).await.unwrap();
        fixture.until_writable().await;
    });
}

fn does_not_follow_links_with_roots_rights() {
    if run_as().is_none() {
        return;
    }
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        fixture.start_server(&member).await;
        member.guard.arm(5, boottime_ns() + 600 * SECOND_NS).await.unwrap();
        // Only root may write in the guard's directory.
        let target = fixture.directory().join("target");
        for link in ["pg_wal/00000002.history", "promote.mainstay"] {
            std::os::unix::fs::symlink(&target, fixture.data().join(link)).unwrap();
            let names = vec!["00000002.history".to_owned()];
            let refused = refusal(member.guard.open(5, names).await.unwrap_err());
            assert!(matches!(refused, Refusal::File { .. }), "{refused}");
            fs::remove_file(fixture.data().join(link)).unwrap();
        }
        assert!(!target.exists());
        until("the server still answers", || {
            fixture.query("select pg_is_in_recovery()").as_deref() == Ok("t")
        })
        .await;
    });
}
