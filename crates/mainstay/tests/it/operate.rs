//! What operators ask of a running cluster: done, shown, and refused in one line with the remedy.

use serde_json::Value;

use super::{Demo, mainstay, stderr, stdout};

fn ask(demo: &Demo, words: &[&str]) -> std::process::Output {
    let configuration = demo.configuration("m1").display().to_string();
    let (verb, rest) = words.split_first().expect("a verb");
    mainstay(&[&[*verb, "--config", &configuration], rest].concat())
}

/// What is typed, and what the one line says.
const REFUSED: &[(&[&str], &str)] = &[
    (&["failover", "--to", "m9"], "there is no member m9; there are m1"),
    (&["failover", "--to", "m1"], "m1 is the primary already"),
    (&["failover"], "it goes on as the primary"),
    (&["failover", "--accept-data-loss", "--confirm", "demo"], "m1 is the primary: nothing has to be lost"),
    (&["pause", "--until", "soon"], "\"soon\" is no time; write for example 30m"),
    (&["pause", "--until", "2020-01-01T00:00:00Z"], "that time is over already; name one that is to come"),
    (&["maintenance", "m9"], "there is no member m9; there are m1"),
    (&["maintenance", "m1"], "m1 is the primary, and no standby could take over; bring a standby back first"),
    (&["reinit", "m1"], "m1 is the primary: its data is what the others copy; switch over to another"),
    (&["reinit", "m9"], "no member m9"),
    (&["switchover", "--at", "25:00"], "\"25:00\" is no time"),
    (&["switchover", "--cancel"], "no switchover is scheduled"),
];

#[test]
fn what_cannot_be_is_refused_in_one_line_and_the_rest_is_done_and_shown() {
    let demo = Demo::started("operate", 1);
    for (words, expected) in REFUSED {
        let output = ask(&demo, words);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", stdout(&output));
        assert!(said.contains(expected), "{words:?}\n  said     {said}\n  expected {expected}");
        assert_eq!(said.trim_end().lines().count(), 1, "{words:?}: more than one line:\n{said}");
    }
    let output = ask(&demo, &["pause", "--until", "30m", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let answer: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(answer["paused"], true);
    let status = demo.status();
    assert!(status["operation"]["pause"]["until_unix_ms"].is_u64(), "{status}");
    assert!(status["warnings"][0].as_str().is_some_and(|text| text.starts_with("PAUSED by ")), "{status}");
    assert_eq!(status["writable"], true, "the lease goes on");
    let output = ask(&demo, &["resume"]);
    assert!(stdout(&output).contains("resumed"), "{}", stderr(&output));
    assert!(stdout(&ask(&demo, &["resume"])).contains("was not paused"));
    assert!(demo.status()["operation"]["pause"].is_null());
}
