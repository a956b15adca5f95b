//! Frames, the first packet, and what a server answers.

use mainstay_pgwire::frontend::{Startup, startup};
use mainstay_pgwire::{backend, frame, frontend};

use crate::Target;

pub(crate) const FRAMES: Target = Target {
    name: "frames",
    run: frames,
    seeds: || {
        vec![b"Q\0\0\0\x0dselect 1\0S\0\0\0\x04".to_vec(), b"p\0\0\0\x10SCRAM-SHA-256\0\0\0\0\0".to_vec()]
    },
};

/// A stream of messages, walked as the proxy does.
fn frames(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(header)) = frame::header(rest) {
        assert!((5..=frame::MOST_BYTES + 1).contains(&header.total));
        let Some((message, after)) = rest.split_at_checked(header.total) else { break };
        let mut again = Vec::new();
        frame::push(&mut again, header.kind, |out| out.extend_from_slice(&message[5..]));
        assert_eq!(again, message);
        if let Some((mechanism, data)) = frontend::sasl_initial(header.kind, &message[5..]) {
            assert!(mechanism.len() + 1 + 4 + data.len() == message.len() - 5);
        }
        rest = after;
    }
    if let Some((text, after)) = frame::string(data) {
        assert_eq!(text.len() + 1 + after.len(), data.len());
        assert!(!text.contains(&0));
    }
}

pub(crate) const STARTUP: Target = Target { name: "startup", run: first_packet, seeds: startup_seeds };

/// What is accepted says who comes, each key once, and is as long as it says.
fn first_packet(data: &[u8]) {
    match startup(data) {
        Ok(Startup::Startup { parameters, .. }) => {
            let keys: std::collections::BTreeSet<_> = parameters.iter().map(|(key, _)| key).collect();
            assert_eq!(keys.len(), parameters.len());
            assert!(parameters.iter().any(|(key, value)| *key == "user" && !value.is_empty()));
            let bytes: usize = parameters.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
            assert_eq!(bytes + 9, data.len());
        }
        Ok(Startup::Cancel { secret, .. }) => assert!((4..=256).contains(&secret.len())),
        Ok(Startup::Ssl | Startup::GssEnc) => assert_eq!(data.len(), 8),
        // What is said of it goes to a stranger and into a log.
        Err(error) => assert!(error.to_string().len() < 1024 && error.sqlstate().len() == 5),
    }
}

fn startup_seeds() -> Vec<Vec<u8>> {
    let packet = |code: u32, body: &[u8]| {
        let length = u32::try_from(body.len() + 8).expect("a short one");
        [&length.to_be_bytes(), &code.to_be_bytes(), body].concat()
    };
    vec![
        packet(80_877_103, b""),
        packet(80_877_104, b""),
        packet(80_877_102, b"\0\0\0\x07abcd"),
        packet(3 << 16, b"user\0app\0database\0app\0options\0-c work_mem=1MB\0\0"),
        packet(3 << 16 | 2, b"user\0app\0_pq_.new\0on\0replication\0database\0\0"),
    ]
}

pub(crate) const ANSWERS: Target = Target { name: "answers", run: answers, seeds: answer_seeds };

/// Reports, parameters and rows of a server.
fn answers(data: &[u8]) {
    for field in *b"SVCMDHR" {
        if let Some(text) = backend::report_field(data, field) {
            assert!(text.len() < data.len() && !text.contains(&0));
        }
    }
    if let Some((name, value)) = backend::parameter_status(data) {
        assert!(name.len() + value.len() + 2 <= data.len());
    }
    if let Some(values) = backend::row(data) {
        let texts: Option<Vec<_>> =
            values.into_iter().map(|value| value.map(str::from_utf8).transpose().ok()).collect();
        if let Some(texts) = texts {
            let mut out = Vec::new();
            backend::push_row(&mut out, &texts);
            let expected: Vec<_> = texts.iter().map(|text| text.map(str::as_bytes)).collect();
            assert_eq!(backend::row(&out[5..]), Some(expected));
        }
    }
}

fn answer_seeds() -> Vec<Vec<u8>> {
    let (mut report, mut row) = (Vec::new(), Vec::new());
    backend::Report::error("40001", "a message").detail("b").hint("c").push(&mut report);
    backend::push_row(&mut row, &[Some("a"), None, Some("")]);
    vec![report.split_off(5), row.split_off(5), b"TimeZone\0UTC\0".to_vec()]
}
