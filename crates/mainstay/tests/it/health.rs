//! What load balancers, monitoring and programs are answered by real members.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{Demo, monitoring, wait_until};

/// The status code and the body.
pub(super) fn exchange(stream: impl Read + Write, request: &str, body: &str) -> (u16, String) {
    exchange_with(stream, request, "", body)
}

/// The same with another line in the head, which ends in `\r\n`.
pub(super) fn exchange_with(
    mut stream: impl Read + Write,
    request: &str,
    more: &str,
    body: &str,
) -> (u16, String) {
    let head = "Host: test\r\nConnection: close\r\nContent-Type: application/json";
    write!(stream, "{request} HTTP/1.1\r\n{head}\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
        .expect("asked");
    let mut answer = String::new();
    // The other end may close without a last word of TLS.
    if let Err(error) = stream.read_to_string(&mut answer) {
        assert!(error.kind() == std::io::ErrorKind::UnexpectedEof && !answer.is_empty(), "{error}");
    }
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
    (code, body.to_owned())
}

impl Demo {
    /// What member number `member` answers over HTTP; `None` if it does not.
    fn http(&self, member: u16, path: &str) -> Option<(u16, String)> {
        let stream = TcpStream::connect(("127.0.0.1", self.port_base + 40 + member)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        Some(exchange(stream, &format!("GET {path}"), ""))
    }

    fn code(&self, member: u16, path: &str) -> Option<u16> {
        self.http(member, path).map(|(code, _)| code)
    }

    /// What a request on the control socket of m1 is refused with.
    fn refusal(&self, request: &str, body: &str) -> (u16, serde_json::Value) {
        let stream = UnixStream::connect(self.directory.join("m1/control.sock")).expect("connected");
        let (code, answer) = exchange(stream, request, body);
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
        assert!(answer["error"].get("remedy").is_some(), "{answer}");
        (code, answer["error"]["code"].clone())
    }
}

#[test]
fn standbys_say_what_commits_wait_for_as_members_stop_and_return() {
    let demo = Demo::started("checks", 3);
    let are = |member, paths: &[(&str, u16)]| {
        paths.iter().all(|(path, wanted)| demo.code(member, path) == Some(*wanted))
    };
    let one_of_two =
        [("/replica", 200), ("/quorum", 200), ("/sync", 503), ("/async", 503), ("/primary", 503)];
    for member in [2, 3] {
        wait_until("both standbys count", || are(member, &one_of_two));
    }
    assert!(are(
        1,
        &[("/", 200), ("/master", 200), ("/read-only-sync", 200), ("/replica", 503), ("/sync", 503)]
    ));
    assert!(are(2, &[("/replica?lag=1GB", 200), ("/readiness?lag=1GB", 200), ("/replica?zone=a", 400)]));
    every_metric_is_exported(&demo);

    assert!(demo.run(&["stop", "m3"]).status.success());
    wait_until("every commit waits for m2", || are(2, &[("/sync", 200), ("/quorum", 200), ("/async", 503)]));
    assert!(demo.run(&["start", "m3"]).status.success());
    wait_until("m3 counts again", || are(3, &one_of_two) && are(2, &one_of_two));

    assert!(demo.run(&["switchover", "--to", "m2"]).status.success());
    wait_until("the paths follow the primary", || {
        are(2, &[("/primary", 200), ("/replica", 503)]) && are(1, &[("/primary", 503), ("/replica", 200)])
    });
}

/// What a running primary with standbys exports is what the program can export, in the form that is declared; what a
/// verification on a schedule has found is there where there is a schedule, what of the SQL proxy's pools where it has clients, and what of
/// virtual addresses where there are some.
fn every_metric_is_exported(demo: &Demo) {
    let is_always_there = |name: &String| {
        ["mainstay_verify_", "mainstay_sql_", "mainstay_vip_"].iter().all(|some| !name.starts_with(some))
    };
    let mut exported = monitoring::exported();
    exported.retain(is_always_there);
    wait_until("every metric is known", || {
        let (code, text) = demo.http(1, "/metrics").expect("answered");
        assert_eq!(code, 200);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let names: BTreeSet<String> = samples
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
                series.split('{').next().unwrap_or_default().to_owned()
            })
            .filter(is_always_there)
            .collect();
        assert!(names.is_subset(&exported), "{:?}", names.difference(&exported));
        names == exported
    });
}

#[test]
fn a_member_alone_answers_with_the_codes_of_the_api() {
    let demo = Demo::started("codes", 1);
    let ask = |body: &str| demo.refusal("POST /v1/switchover", body);
    assert_eq!(ask(r#"{"to": null}"#), (412, "precondition_failed".into()));
    assert_eq!(ask(r#"{"to": "m9"}"#), (404, "no_such_member".into()));
    for bad in [r#"{"too": "m1"}"#, r#"{"to": 7}"#, "{", "", r#"{"to": "no name"}"#] {
        assert_eq!(ask(bad), (400, "bad_input".into()), "{bad}");
    }
    assert_eq!(demo.refusal("GET /v1/explain?lats=3", ""), (400, "bad_input".into()));
    assert_eq!(demo.refusal("GET /v1/nothing", ""), (404, "not_found".into()));
    assert_eq!(demo.refusal("DELETE /v1/switchover", ""), (405, "wrong_method".into()));
    assert_eq!(demo.code(1, "/v1/switchover"), Some(403), "nothing can be changed in plain text");
    assert_eq!(demo.code(1, "/primary"), Some(200));
    // The command line says it in one line, with what to do.
    let file = demo.configuration("m1").display().to_string();
    let output = super::mainstay(&["switchover", "--config", &file]);
    let said = super::stderr(&output);
    assert!(!output.status.success() && said.trim_end().lines().count() == 1, "{said}");
    assert!(said.contains("no other member with data to switch over to; let one join first"), "{said}");
}
