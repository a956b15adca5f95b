//! Who may speak to the guard.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mainstay_guard::{Armer, ClientError, GuardClient, GuardEvent, Phase, Refusal, boottime_ns};

use crate::Test;
use crate::fixture::{Fixture, PATIENCE, SECOND_NS, block_on, refusal};

pub(crate) const TESTS: &[Test] = &[
    ("ownership::a_newer_member_takes_over", a_newer_member_takes_over),
    ("ownership::an_arming_connection_only_arms", an_arming_connection_only_arms),
    ("ownership::a_greeting_comes_first", a_greeting_comes_first),
    ("ownership::a_stuck_member_does_not_delay_others", a_stuck_member_does_not_delay_others),
    ("ownership::two_members_that_start_a_guard_share_one", two_members_that_start_a_guard_share_one),
];

fn a_newer_member_takes_over() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut old = fixture.member(7).await;
        let mut old_armer = Armer::connect(&fixture.directory(), 7).await.unwrap();
        let postmaster = fixture.open_server(&old, 1, 600).await;
        let new = fixture.connect(8).await;
        assert_eq!(new.status.guard_pid, old.status.guard_pid);
        // The server and its lease are as they were.
        assert_eq!((new.status.phase, new.status.postmaster), (Phase::Running, Some(postmaster)));
        assert_eq!((new.status.opened, new.status.generation), (Some(1), Some(8)));
        old.event_where(|event| *event == GuardEvent::Superseded { generation: 8 }).await;
        assert_eq!(old.event().await, GuardEvent::Lost);
        assert!(matches!(old.guard.kill().await, Err(ClientError::Lost)));
        let later_ns = boottime_ns() + 600 * SECOND_NS;
        assert!(matches!(old_armer.arm(1, later_ns).await, Err(ClientError::Lost)));
        let late = fixture.try_connect(7).await.map(|_| ()).unwrap_err();
        assert_eq!(refusal(late), Refusal::OlderGeneration { asked: 7, newest: 8 });
        assert_eq!(new.guard.status().await.unwrap().postmaster, Some(postmaster));
        // A second connection of the same generation is fine, whatever it is for.
        let mut armer = Armer::connect(&fixture.directory(), 8).await.unwrap();
        assert_eq!(armer.arm(1, later_ns).await.unwrap(), later_ns);
        let (twin, _, _) = GuardClient::connect(&fixture.directory(), 8).await.unwrap();
        assert_eq!(twin.arm(1, later_ns + 1).await.unwrap(), later_ns + 1);
        assert_eq!(new.guard.arm(1, later_ns).await.unwrap(), later_ns + 1);
    });
}

fn an_arming_connection_only_arms() {
    block_on(async {
        let mut fixture = Fixture::new();
        let _member = fixture.member(1).await;
        let mut raw = Raw::connect(&fixture);
        raw.send(r#"{"id":1,"request":{"hello":{"protocol":1,"generation":1,"role":"arm"}}}"#);
        assert!(raw.line().contains(r#"{"reply":{"id":1"#));
        raw.send(r#"{"id":2,"request":"kill"}"#);
        assert_eq!(raw.line(), r#"{"refused":{"id":2,"refusal":"role"}}"#);
        raw.send(r#"{"id":3,"request":"status"}"#);
        assert!(raw.line().contains(r#""phase":"empty""#));
    });
}

fn a_greeting_comes_first() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        let mut silent = Raw::connect(&fixture);
        silent.send(r#"{"id":1,"request":"status"}"#);
        assert_eq!(silent.line(), r#"{"refused":{"id":1,"refusal":"greeting"}}"#);
        assert_eq!(silent.line(), "", "the connection ends");

        let mut newer = Raw::connect(&fixture);
        newer.send(r#"{"id":1,"request":{"hello":{"protocol":99,"generation":2,"role":"control"}}}"#);
        assert!(newer.line().contains(r#"{"protocol":{"asked":99,"supported":1}}"#));
        assert_eq!(newer.line(), "");
        // It did not supersede anybody by it.
        assert_eq!(member.guard.status().await.unwrap().generation, Some(1));

        let mut garbled = Raw::connect(&fixture);
        garbled.send(r#"{"id":1,"request":{"hello":{"protocol":1,"generation":1,"role":"control"}}}"#);
        assert!(garbled.line().contains("status"));
        garbled.send("not JSON");
        assert!(garbled.line().contains("malformed"));
        // A greeted member that says nonsense once is not cut off in the middle of its duties.
        garbled.send(r#"{"id":2,"request":"status"}"#);
        assert!(garbled.line().contains(r#""id":2"#));
    });
}

fn a_stuck_member_does_not_delay_others() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        let mut stuck = Raw::connect(&fixture);
        stuck.send(r#"{"id":1,"request":{"hello":{"protocol":1,"generation":1,"role":"control"}}}"#);
        stuck.stream.get_ref().set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        // Asks on and reads nothing, until the guard cuts it off.
        let question = b"{\"id\":2,\"request\":\"status\"}\n".repeat(100);
        let mut asked = 0;
        while stuck.stream.get_mut().write_all(&question).is_ok() {
            asked += 1;
            assert!(asked < 100_000, "the guard would fill its memory");
        }
        let mut armer = Armer::connect(&fixture.directory(), 1).await.unwrap();
        for number in 1..100 {
            let deadline_ns = boottime_ns() + 600 * SECOND_NS;
            assert_eq!(armer.arm(number, deadline_ns).await.unwrap(), deadline_ns);
            member.guard.status().await.unwrap();
        }
    });
}

fn two_members_that_start_a_guard_share_one() {
    block_on(async {
        let mut fixture = Fixture::new();
        let (directory, spawn) = (fixture.directory(), fixture.spawn_guard());
        let first = GuardClient::connect_or_spawn(&directory, &spawn, 1, PATIENCE);
        let second = GuardClient::connect_or_spawn(&directory, &spawn, 1, PATIENCE);
        let (first, second) = tokio::join!(first, second);
        let ((_first, _events, first_status), (_second, _more, second_status)) =
            (first.unwrap(), second.unwrap());
        assert_eq!(first_status.guard_pid, second_status.guard_pid);
        let member = fixture.member(1).await;
        assert_eq!(member.status.guard_pid, first_status.guard_pid);
    });
}

/// The protocol as it goes over the socket: what a member of another release would see.
struct Raw {
    stream: BufReader<UnixStream>,
}

impl Raw {
    fn connect(fixture: &Fixture) -> Raw {
        let stream = UnixStream::connect(fixture.directory().join("guard.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Raw { stream: BufReader::new(stream) }
    }

    fn send(&mut self, line: &str) {
        writeln!(self.stream.get_mut(), "{line}").unwrap();
    }

    /// The next line, or nothing at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}
