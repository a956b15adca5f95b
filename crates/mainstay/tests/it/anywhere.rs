//! Commands on another machine than the one that they are for, and commands while nothing can be decided.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Demo, mainstay, stderr, stdout, wait_until};

/// What nobody can carry out without a majority, and a part of what is said then.
const WITHOUT_A_MAJORITY: &[(&[&str], &str)] = &[
    (&["switchover"], "no primary"),
    (&["failover"], "no majority"),
    (&["failover", "--accept-data-loss", "--confirm", "demo"], "no majority"),
    (&["pause"], "no majority"),
    (&["resume"], "no majority"),
    (&["maintenance", "m2"], "no majority"),
    (&["reinit", "m2", "--confirm", "m2"], "no primary"),
    (&["restart", "m1"], "no primary"),
    (&["config", "set", "work_mem=8MB", "--yes"], "no majority"),
    (&["member", "invite"], "no majority"),
    (&["member", "remove", "m2", "--yes"], "no majority"),
    (&["reload", "m2"], "m2 is not reached"),
    (&["psql"], "no primary"),
];

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
    let renewed = json(&demo, &["certificates", "renew", "--member", "m2", "--json"]);
    assert!(renewed["path"].as_str().is_some_and(|path| path.contains("/m2/")), "{renewed}");
    let explained = json(&demo, &["explain", "--member", "m2", "--last", "1", "--json"]);
    assert_eq!(explained[0]["view"]["me"], "m2", "{explained}");

    let file = demo.configuration("m2");
    let text = std::fs::read_to_string(&file).expect("written");
    assert!(text.contains("[postgresql]"), "{text}");
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

    for member in ["m2", "m3"] {
        assert!(demo.run(&["kill", member]).status.success());
    }
    wait_until("the last one is no primary", || demo.status()["writable"] == false);
    for (words, expected) in WITHOUT_A_MAJORITY {
        refused(&demo, words, expected);
    }
}
