//! `logs` on real members, some of which are dead.

use serde_json::Value;

use super::{Demo, mainstay, stderr, stdout, wait_until};

fn logs(demo: &Demo, member: &str, arguments: &[&str]) -> (Vec<Value>, String) {
    let config = demo.configuration(member).display().to_string();
    let output = mainstay(&[&["logs", "--config", &config, "--json"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    let lines = stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    (lines, stderr(&output))
}

fn is_of(line: &Value, member: &str, source: &str, text: &str) -> bool {
    line["member"] == member
        && line["source"] == source
        && line["text"].as_str().is_some_and(|t| t.contains(text))
}

#[test]
fn the_logs_of_all_members_are_one_also_without_a_member_or_a_majority() {
    let demo = Demo::started("logs", 3);
    // A mistake, so that PostgreSQL has something to say.
    let _ = demo.run(&["psql", "--", "-c", "SELECT nonsense_of_the_test"]);
    let status = demo.status();
    let primary = status["primary"].as_str().expect("a primary").to_owned();
    let asked = ["m1", "m2", "m3"].into_iter().find(|name| *name != primary).expect("a standby");
    wait_until("every member's lines, and PostgreSQL's, are there", || {
        let (lines, silent) = logs(&demo, asked, &["--since", "1h"]);
        silent.is_empty()
            && ["m1", "m2", "m3"]
                .iter()
                .all(|name| lines.iter().any(|line| is_of(line, name, "mainstay", "started")))
            && lines.iter().any(|line| is_of(line, &primary, "postgresql", "nonsense_of_the_test"))
    });
    let (lines, _) = logs(&demo, asked, &["--since", "1h"]);
    let times: Vec<u64> = lines.iter().filter_map(|line| line["at_unix_us"].as_u64()).collect();
    assert!(times.len() == lines.len() && times.is_sorted(), "by time");
    let (one, _) = logs(&demo, asked, &[&primary, "--last", "3"]);
    assert!(one.len() == 3 && one.iter().all(|line| line["member"] == primary.as_str()), "{one:?}");
    let config = demo.configuration(asked).display().to_string();
    let nobody = mainstay(&["logs", "m9", "--config", &config]);
    assert!(stderr(&nobody).contains("there is no member m9; there are m1, m2, m3"), "{}", stderr(&nobody));
    assert_eq!(mainstay(&["logs", "--since", "soon", "--config", &config]).status.code(), Some(2));
    // Without a majority, and on a machine whose own member is dead.
    let third = ["m1", "m2", "m3"].into_iter().find(|name| *name != primary && *name != asked);
    assert!(demo.run(&["kill", &primary]).status.success());
    assert!(demo.run(&["stop", third.expect("a third")]).status.success());
    let (lines, silent) = logs(&demo, asked, &[]);
    assert!(lines.iter().all(|line| line["member"] == asked) && !lines.is_empty());
    assert!(silent.lines().count() == 2 && silent.contains(&format!("{primary}: ")), "{silent}");
    let (lines, silent) = logs(&demo, &primary, &["--since", "1h", &primary]);
    assert!(silent.contains("it does not run; this is read from its files"), "{silent}");
    assert!(lines.iter().any(|line| is_of(line, &primary, "postgresql", "nonsense_of_the_test")));
}
