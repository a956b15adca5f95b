//! What is understood, and how what is not is refused.

use super::*;

const STORY: &str = "\
# A crash is noticed at once,
# and another member takes over.
in ci
cluster 3 witnesses 2, disks 400MiB
repeat 2

load pgbench
fault kill-postmaster primary   # only the postmaster
expect write-gap < 1.0 s
expect streaming all within 30 s
sql old \"SELECT 1, 'a'\"
expect rung of old rewind or clone
expect lost 0, duplicated 0
";

fn refused(body: &str) -> String {
    let text = format!("# Why.\n{body}\nexpect lost 0, duplicated 0\n");
    parse("x", "x.scenario", &text).expect_err("it is wrong").to_string()
}

#[test]
fn a_story_is_read() {
    let scenario = parse("crash", "crash.scenario", STORY).unwrap();
    assert_eq!(scenario.why, "A crash is noticed at once, and another member takes over.");
    assert!(scenario.in_ci);
    assert_eq!((scenario.plan.data_members, scenario.plan.witnesses, scenario.repeat), (3, 2, 2));
    assert_eq!(scenario.plan.disk_mib, Some(400));
    let actions: Vec<&Action> = scenario.steps.iter().map(|step| &step.action).collect();
    assert_eq!(actions[0], &Action::LoadPgbench(Load::default()));
    assert_eq!(actions[1], &Action::Fault { fault: Fault::KillPostmaster, targets: vec![Target::Primary] });
    assert_eq!(actions[2], &Action::Expect(Expectation::WriteGap { below: Duration::from_secs(1) }));
    assert_eq!(
        actions[4],
        &Action::Sql { on: Target::Old, statement: "SELECT 1, 'a'".to_owned(), may_fail: false }
    );
    let rungs = vec![Rung::Rewind, Rung::Clone];
    assert_eq!(actions[5], &Action::Expect(Expectation::Rung { of: Target::Old, rungs }));
    assert_eq!(scenario.steps[1].line, 8);
}

#[test]
fn services_are_understood() {
    let text = "# Why.\ncluster 3 supervised witnesses 1\nservice upgrade standby\n\
                expect service of standby ended watchdog within 5 s\nexpect lost 0, duplicated 0\n";
    let scenario = parse("x", "x.scenario", text).unwrap();
    assert!(scenario.plan.supervised && scenario.plan.witnesses == 1);
    let targets = vec![Target::Standby(1)];
    assert_eq!(scenario.steps[0].action, Action::Service { verb: ServiceVerb::Upgrade, targets });
    let ended = Expectation::Ended {
        of: Target::Standby(1),
        how: "watchdog".to_owned(),
        within: Duration::from_secs(5),
    };
    assert_eq!(scenario.steps[1].action, Action::Expect(ended));
    assert!(refused("cluster 3 supervised\nservice pause old").contains("is not understood"));
}

#[test]
fn errors_name_file_and_line() {
    let error = refused("cluster 3\nfault kil-machine primary");
    assert!(
        error.starts_with("x.scenario:3: `kil-machine` is no fault; there are kill-postmaster, "),
        "{error}"
    );
}

#[test]
fn every_kind_of_mistake_says_what_is_understood() {
    for (body, said) in [
        ("load pgbench", "begin with for example `cluster 3`"),
        ("cluster 0", "1 to 9 members"),
        ("cluster 8 witnesses 2", "1 to 9 members"),
        ("cluster 3 disks 10MiB", "too small"),
        ("cluster 3 color red", "`color` is unknown here"),
        ("cluster 3 lease", "`lease` lacks its value"),
        ("cluster 3\nfault kill-machine m0", "`m0` is nobody"),
        ("cluster 3\nfault kill-machine standby-9", "no standby"),
        ("cluster 3\nfault kill-machine", "is not understood"),
        ("cluster 3\nwait 5", "no time; write for example"),
        ("cluster 3\nwait 5 min", "no time; write for example"),
        ("cluster 3\nexpect gap", "`expect gap` is not understood"),
        ("cluster 3\nexpect rung of old walk", "`walk` is no rung"),
        ("cluster 3\nsql old \"SELECT", "no partner"),
        ("cluster 3\nload pgbench 16", "`16` is not understood; after `load pgbench` come"),
        ("cluster 3\nplease", "a line begins with one of"),
    ] {
        let error = refused(body);
        assert!(error.contains(said), "{body}: {error}");
    }
}

#[test]
fn sql_proxies_are_understood() {
    for head in ["clients through the sql proxy\ncluster 3", "cluster 3\nclients through the sql proxy"] {
        let text = format!(
            "# Why.\n{head}\nload pgbench prepared clients 16\nfault kill-sql-proxy standby\n\
             expect sql proxy of standby runs within 1 s\nexpect errors only 40001, 08007\nexpect connections kept\n\
             expect lost 0, duplicated 0\n"
        );
        let scenario = parse("x", "x.scenario", &text).unwrap();
        assert!(scenario.plan.sql_proxy && scenario.plan.data_members == 3);
        let actions: Vec<&Action> = scenario.steps.iter().map(|step| &step.action).collect();
        let load = Load { clients: 16, mode: Mode::Prepared, rate: None };
        assert_eq!(actions[0], &Action::LoadPgbench(load));
        let runs = Expectation::SqlProxyRuns { of: Target::Standby(1), within: Duration::from_secs(1) };
        assert_eq!(actions[2], &Action::Expect(runs));
        let codes = vec!["40001".to_owned(), "08007".to_owned()];
        assert_eq!(actions[3], &Action::Expect(Expectation::OnlyErrors { codes }));
        assert_eq!(actions[4], &Action::Expect(Expectation::ConnectionsKept));
    }
}

#[test]
fn a_story_has_a_reason_and_an_end() {
    let parsed = |text: &str| parse("x", "x.scenario", text).expect_err("it is wrong").to_string();
    assert!(parsed("cluster 3\n").contains("say first why"));
    assert!(parsed("# Why.\ncluster 3\nheal\n").contains("every story ends with"));
}

#[test]
fn foundings_are_understood() {
    let text = "# Why.\ncluster 1 founded spares 2\nfault close-port 5432 of m1 to m2\nrefused join m2 \"no\"\njoin m2\n\
                replace m2 by m3\nwatch /primary\nexpect founded within 60 s by 6 commands\nexpect one primary endpoint\n\
                expect lost 0, duplicated 0\n";
    let scenario = parse("x", "x.scenario", text).unwrap();
    assert!(scenario.plan.founded && scenario.plan.machines() == 3);
    let named = |name: &str| Target::Named(name.to_owned());
    let actions: Vec<&Action> = scenario.steps.iter().map(|step| &step.action).collect();
    assert_eq!(actions[0], &Action::ClosePort { port: 5432, of: named("m1"), from: named("m2") });
    assert_eq!(actions[1], &Action::Join { machine: named("m2"), refused: Some("no".to_owned()) });
    assert_eq!(actions[2], &Action::Join { machine: named("m2"), refused: None });
    assert_eq!(actions[3], &Action::Replace { old: named("m2"), new: named("m3") });
    let founded = Expectation::Founded { within: Duration::from_secs(60), commands: 6 };
    assert_eq!(actions[5], &Action::Expect(founded));
    assert!(refused("cluster 3 spares 1").contains("only a `founded` cluster"));
    assert!(refused("cluster 3 founded supervised").contains("and nothing else"));
    assert!(refused("cluster 3\nfault close-port m1").contains("a port is closed by"));
}
