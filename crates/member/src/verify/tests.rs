use serde_json::json;

use super::*;

const QUICK: Pace = Pace {
    first: Duration::from_millis(1),
    again: Duration::from_millis(20),
    patience: Duration::from_secs(20),
};

/// A directory of its own, and the script that stands for the program.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("mainstay-verify-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("made");
        Place(path)
    }

    fn verifier(&self, script: &str) -> Program {
        let script = format!("cd {}; {script}", self.0.display());
        let arguments = ["-c", &script].map(OsString::from).to_vec();
        Program { program: PathBuf::from("/bin/sh"), arguments }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }

    fn report(&self, lines: &serde_json::Value) {
        // A report that is half written is none.
        let (new, file) = (self.0.join("new"), self.0.join("report"));
        std::fs::write(&new, json!({ "lines": lines }).to_string()).expect("written");
        std::fs::rename(new, file).expect("renamed");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn line(outcome: &str) -> serde_json::Value {
    json!({ "check": "ports", "member": "m2", "outcome": outcome, "finding": "so it is", "remedy": null })
}

fn status(role: &str) -> Arc<Status> {
    let row = json!({
        "name": "m1", "kind": "data", "role": role, "votes": true, "address": "127.0.0.1:1", "http": null, "epoch": 1,
        "timeline": 1, "lag_bytes": null, "sync": false, "pid": 1, "guard_pid": 1, "postgres": null, "reason": "so",
        "heard_ms": 0,
    });
    let status = json!({
        "cluster": "main", "member": "m1", "epoch": 1, "phase": "open", "primary": "m1", "writable": true,
        "endpoints": { "rw": "", "ro": "", "members": {} }, "lease": null, "at_risk_bytes": 0, "members": [row],
        "cancelled_switchover": null, "store_leader": "m1", "reason": "so", "warnings": [],
    });
    Arc::new(serde_json::from_value(status).expect("a status"))
}

/// The newest run that `holds` is true of, or its absence.
async fn until(seen: &mut Seen, holds: impl FnMut(&Option<Arc<Verified>>) -> bool) -> Option<Arc<Verified>> {
    let found = tokio::time::timeout(Duration::from_secs(30), seen.wait_for(holds)).await;
    found.expect("in time").expect("it goes on").clone()
}

async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

#[tokio::test]
async fn the_primary_verifies_again_and_again_and_never_two_at_once() {
    let place = Place::new("again");
    place.report(&json!([line("ok"), line("warn")]));
    let script = "mkdir running || echo twice >> errors; echo . >> runs; cat report; rmdir running";
    let (_every, every) = watch::channel(Some(Duration::from_millis(1)));
    let (_status, status) = watch::channel(status("primary"));
    let mut seen = start_at(QUICK, place.verifier(script), every, status);
    let first = until(&mut seen, Option::is_some).await.expect("a run");
    assert!(first.ok && first.failed.is_empty() && first.at_unix_ms > 0, "{first:?}");
    assert_eq!(first.report["lines"][1]["outcome"], "warn", "as it was printed");
    place.report(&json!([line("fail"), line("ok")]));
    let failed = until(&mut seen, |run| run.as_ref().is_some_and(|run| !run.ok)).await.expect("a run");
    let short = failed.in_short();
    assert_eq!((short.ok, short.failures, short.failed), (false, 1, vec!["ports m2".to_owned()]));
    assert_eq!(failed.failed[0].finding, "so it is");
    place.report(&json!([line("ok")]));
    until(&mut seen, |run| run.as_ref().is_some_and(|run| run.ok)).await;
    assert!(place.read("runs").lines().count() >= 3);
    assert_eq!(place.read("errors"), "");
}

#[tokio::test]
async fn only_a_primary_verifies_and_what_runs_ends_with_its_turn_and_with_the_member() {
    let place = Place::new("turn");
    place.report(&json!([]));
    // It prints its report and goes on for as long as its standard input is held.
    let script = "echo $$ >> runs; cat report; exec >&-; cat > held";
    let (every, wanted) = watch::channel(Some(Duration::from_millis(1)));
    let (role, seen_role) = watch::channel(status("standby"));
    let mut seen = start_at(QUICK, place.verifier(script), wanted, seen_role);
    role.send_replace(status("standby"));
    every.send_replace(None);
    role.send_replace(status("primary"));
    tokio::task::yield_now().await;
    assert_eq!(place.read("runs"), "", "there is no schedule");
    every.send_replace(Some(Duration::from_millis(2)));
    let run = async |number: usize| {
        wait_for("a run", || place.read("runs").lines().count() == number).await;
        let runs = place.read("runs");
        runs.lines().last().expect("a process id").to_owned()
    };
    let first = run(1).await;
    role.send_replace(status("standby"));
    wait_for("the end of the first run", || is_gone(&first)).await;
    role.send_replace(status("primary"));
    let second = run(2).await;
    // The new setting counts at once, and ends what runs.
    every.send_replace(Some(Duration::from_millis(3)));
    let third = run(3).await;
    wait_for("the end of the second run", || is_gone(&second)).await;
    every.send_replace(None);
    wait_for("the end of the third run", || is_gone(&third)).await;
    until(&mut seen, Option::is_none).await;
}

#[tokio::test]
async fn what_hangs_prints_too_much_or_nothing_is_a_failure_with_its_reason() {
    let place = Place::new("wrong");
    let hasty = Pace { patience: Duration::from_millis(400), ..QUICK };
    let cases = [
        (hasty, "echo $$ > pid; exec sleep 600", "it took longer than 400ms and was killed"),
        (QUICK, "head -c 3000000 /dev/zero", "it printed more than 1048576 bytes"),
        (QUICK, "echo 'mainstay: it is broken' >&2; exit 1", "1): mainstay: it is broken"),
        (QUICK, "echo '{}'", "its report cannot be read: missing field `lines`"),
    ];
    for (pace, script, why) in cases {
        let (_every, every) = watch::channel(Some(Duration::from_secs(3600)));
        let (_status, status) = watch::channel(status("primary"));
        let mut seen = start_at(pace, place.verifier(script), every, status);
        let run = until(&mut seen, Option::is_some).await.expect("a run");
        assert!(!run.ok && run.failed.len() == 1 && run.failed[0].finding.contains(why), "{run:?}");
    }
    let pid = place.read("pid").trim().to_owned();
    wait_for("the end of what was killed", || is_gone(&pid)).await;
}

#[test]
fn what_is_known_to_fail_is_said_once() {
    let failed = |check: &str| Failed {
        check: check.to_owned(),
        member: None,
        finding: format!("so is {check}"),
        remedy: None,
    };
    let mut known = BTreeSet::new();
    let news = |text: &str| Some(News::Failed(text.to_owned()));
    let steps = [
        ("", None),
        ("a", news("a fails: so is a")),
        ("a", None),
        ("c a b", news("c fails: so is c; b fails: so is b")),
        ("b", None),
        ("", Some(News::Well)),
        ("", None),
        ("a", news("a fails: so is a")),
    ];
    for (step, (names, wanted)) in steps.into_iter().enumerate() {
        let failed: Vec<Failed> = names.split_whitespace().map(failed).collect();
        let verified = Verified { ok: failed.is_empty(), failed, ..Verified::default() };
        assert_eq!(News::of(&verified, &mut known), wanted, "step {step}");
    }
}
