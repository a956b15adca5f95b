//! Commands on another machine than the one that they are for, and commands while nothing can be decided.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Demo, mainstay, stderr, stdout, wait_until};

/// What nobody can carry out without a majority.
const WITHOUT_A_MAJORITY: &[&[&str]] = &[
    &["switchover"],
    &["switchover", "--to", "m2"],
    &["switchover", "--at", "30m"],
    &["failover"],
    &["failover", "--to", "m1"],
    &["failover", "--accept-data-loss", "--confirm", "demo"],
    &["pause"],
    &["resume"],
    &["maintenance", "m2"],
    &["reinit", "m2", "--confirm", "m2"],
    &["restart", "m1"],
    &["restart", "--pending"],
    &["config", "set", "work_mem=8MB", "--yes"],
    &["member", "invite"],
    &["member", "replace", "m2"],
    &["member", "remove", "m2", "--yes"],
    &["leave", "--yes"],
    &["client", "remove", "nobody"],
    &["psql"],
];

/// What is said then: what is wrong, and both remedies.
const SAID: [&str; 3] =
    ["no majority", "start the voters that are missing", "mainstay recover --from-this-member"];

fn ask(demo: &Demo, words: &[&str]) -> Output {
    let configuration = demo.configuration("m1").display().to_string();
    mainstay(&[words, &["--config", &configuration]].concat())
}

fn json(demo: &Demo, words: &[&str]) -> Value {
    let output = ask(demo, words);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words:?}: {}", stderr(&output)))
}

fn refused(demo: &Demo, words: &[&str], expected: &str) {
    let begun = Instant::now();
    let output = ask(demo, words);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {}{said}", stdout(&output));
    assert!(said.contains(expected), "{words:?}\n  said     {said}\n  expected {expected}");
    assert_eq!(said.trim_end().lines().count(), 1, "{words:?}: more than one line:\n{said}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{words:?} took {:?}", begun.elapsed());
}

#[test]
fn commands_reach_another_member_and_say_what_can_be_done_when_nobody_decides() {
    let demo = Demo::started("anywhere", 3);
    let shown = json(&demo, &["certificates", "show", "--member", "m2", "--json"]);
    let names = shown["certificates"][0]["names"].as_array().expect("names");
    assert!(names.contains(&"m2".into()) && !names.contains(&"m1".into()), "{shown}");
    // Only m1 has the key of the CA: what refuses is m2.
    refused(
        &demo,
        &["certificates", "renew", "--member", "m2"],
        "/m2/tls/ca.key; bring it from where it is kept",
    );
    let explained = json(&demo, &["explain", "--member", "m2", "--last", "1", "--json"]);
    assert_eq!(explained[0]["view"]["me"], "m2", "{explained}");

    let file = demo.configuration("m2");
    let text = std::fs::read_to_string(&file).expect("written");
    std::fs::write(&file, format!("{text}\n[postgresql.parameters]\nwork_mem = \"5MB\"\n")).expect("written");
    let reloaded = ask(&demo, &["reload", "m2"]);
    assert!(reloaded.status.success() && stdout(&reloaded).contains("work_mem"), "{}", stdout(&reloaded));
    let effective = json(&demo, &["config", "show", "m2", "--effective", "--json"]);
    assert_eq!(effective["effective"]["work_mem"], serde_json::json!({"value": "5MB", "from": "file"}));
    assert_eq!(json(&demo, &["config", "tune", "--member", "m2", "--json"])["member"], "m2");
    refused(&demo, &["reload", "m9"], "there is no member m9; there are m1, m2, m3");

    // What is broken there is refused here, with its line.
    std::fs::write(&file, format!("{text}\nnonsense = 1\n")).expect("written");
    refused(&demo, &["reload", "m2"], "nonsense");

    std::fs::write(&file, &text).expect("written");
    for member in ["m2", "m3"] {
        let stopped = demo.run(&["stop", member]);
        assert!(stopped.status.success(), "{}{}", stdout(&stopped), stderr(&stopped));
    }
    wait_until("the last one hears nobody", || stderr(&ask(&demo, &["resume"])).contains("no majority: "));
    for words in WITHOUT_A_MAJORITY {
        SAID.iter().for_each(|said| refused(&demo, words, said));
    }
    // That is no matter of the record.
    refused(&demo, &["reload", "m2"], "m2 is not reached");
    assert!(ask(&demo, &["reload"]).status.success());
}
