//! Notifications among the bytes of a server.

use mainstay_pgwire::frame::{self, string};

/// The whole messages at the beginning.
pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = frame::header(rest).ok().flatten()?;
        let message = rest.get(..header.total)?;
        rest = &rest[header.total..];
        Some(message)
    })
}

/// Channel and payload of a `NotificationResponse`.
pub(crate) fn notification(body: &[u8]) -> Option<(&str, &str)> {
    let (channel, rest) = string(body.get(4..)?)?;
    let (payload, _) = string(rest)?;
    Some((std::str::from_utf8(channel).ok()?, std::str::from_utf8(payload).ok()?))
}

/// All but the notifications on these channels.
pub(super) fn without(bytes: &[u8], is_left_out: impl Fn(&str) -> bool) -> Vec<u8> {
    let is_kept =
        |message: &&[u8]| !notification(&message[5..]).is_some_and(|(channel, _)| is_left_out(channel));
    messages(bytes).filter(is_kept).flatten().copied().collect()
}

#[cfg(test)]
pub(super) fn message(channel: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frame::push(&mut out, b'A', |out| {
        out.extend_from_slice(&7_i32.to_be_bytes());
        frame::push_string(out, channel);
        frame::push_string(out, "x");
    });
    out
}
