//! What a server says: the messages that a proxy makes itself, and those that it reads.

use crate::frame::{push, push_string, string};

/// Transaction status of `ReadyForQuery`.
pub const IDLE: u8 = b'I';
pub const IN_TRANSACTION: u8 = b'T';
pub const FAILED: u8 = b'E';

/// An error or a notice. The fields are those of the manual's section "Error and Notice Message Fields".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub severity: Severity,
    /// Five characters, see the manual's appendix "PostgreSQL Error Codes".
    pub sqlstate: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The session goes on.
    Error,
    /// The session ends.
    Fatal,
}

impl Report {
    pub fn error(sqlstate: &'static str, message: impl Into<String>) -> Report {
        Report { severity: Severity::Error, sqlstate, message: message.into(), detail: None, hint: None }
    }

    pub fn fatal(sqlstate: &'static str, message: impl Into<String>) -> Report {
        Report { severity: Severity::Fatal, ..Report::error(sqlstate, message) }
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Report {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Report {
        self.hint = Some(hint.into());
        self
    }

    pub fn is_fatal(&self) -> bool {
        self.severity == Severity::Fatal
    }

    /// Appends it as an `ErrorResponse`.
    pub fn push(&self, out: &mut Vec<u8>) {
        let severity = if self.is_fatal() { "FATAL" } else { "ERROR" };
        push(out, b'E', |out| {
            let mut field = |kind: u8, text: &str| {
                out.push(kind);
                push_string(out, text);
            };
            field(b'S', severity);
            field(b'V', severity);
            field(b'C', self.sqlstate);
            field(b'M', &self.message);
            self.detail.as_deref().inspect(|detail| field(b'D', detail));
            self.hint.as_deref().inspect(|hint| field(b'H', hint));
            out.push(0);
        });
    }
}

/// A field of the body of an `ErrorResponse` or `NoticeResponse`.
pub fn report_field(body: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = body;
    while let Some((&kind, after)) = rest.split_first() {
        let (text, next) = string(after)?;
        if kind == wanted {
            return Some(text);
        }
        rest = next;
    }
    None
}

pub fn push_authentication_ok(out: &mut Vec<u8>) {
    push(out, b'R', |out| out.extend_from_slice(&0u32.to_be_bytes()));
}

/// `AuthenticationSASL` with the mechanisms, the preferred first.
pub fn push_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    push(out, b'R', |out| {
        out.extend_from_slice(&10u32.to_be_bytes());
        mechanisms.iter().for_each(|name| push_string(out, name));
        out.push(0);
    });
}

/// `AuthenticationSASLContinue`, or with `is_final` `AuthenticationSASLFinal`.
pub fn push_sasl_data(out: &mut Vec<u8>, data: &[u8], is_final: bool) {
    push(out, b'R', |out| {
        out.extend_from_slice(&if is_final { 12u32 } else { 11 }.to_be_bytes());
        out.extend_from_slice(data);
    });
}

pub fn push_parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    push(out, b'S', |out| {
        push_string(out, name);
        push_string(out, value);
    });
}

pub fn push_key(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    push(out, b'K', |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

pub fn push_ready(out: &mut Vec<u8>, status: u8) {
    push(out, b'Z', |out| out.push(status));
}

pub fn push_command_complete(out: &mut Vec<u8>, tag: &str) {
    push(out, b'C', |out| push_string(out, tag));
}

/// `EmptyQueryResponse`.
pub fn push_empty_query(out: &mut Vec<u8>) {
    push(out, b'I', |_| {});
}

/// `NegotiateProtocolVersion`: the newest minor version that is spoken, and options that are not known.
pub fn push_negotiate(out: &mut Vec<u8>, newest_minor: u32, unknown: &[&str]) {
    push(out, b'v', |out| {
        out.extend_from_slice(&(3 << 16 | newest_minor).to_be_bytes());
        out.extend_from_slice(&u32::try_from(unknown.len()).unwrap_or(0).to_be_bytes());
        unknown.iter().for_each(|option| push_string(out, option));
    });
}

/// What a column holds, in the form of text in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    Text,
    /// `bigint`.
    Number,
}

/// `RowDescription`.
pub fn push_columns(out: &mut Vec<u8>, columns: &[(&str, ColumnType)]) {
    push(out, b'T', |out| {
        out.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(0).to_be_bytes());
        for (name, kind) in columns {
            push_string(out, name);
            out.extend_from_slice(&[0; 6]);
            let (oid, length): (u32, i16) = match kind {
                ColumnType::Text => (25, -1),
                ColumnType::Number => (20, 8),
            };
            out.extend_from_slice(&oid.to_be_bytes());
            out.extend_from_slice(&length.to_be_bytes());
            // Without a modifier, as text.
            out.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0]);
        }
    });
}

/// `DataRow` of text.
pub fn push_row(out: &mut Vec<u8>, values: &[Option<&str>]) {
    push(out, b'D', |out| {
        out.extend_from_slice(&u16::try_from(values.len()).unwrap_or(0).to_be_bytes());
        for value in values {
            match value {
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
                Some(text) => {
                    out.extend_from_slice(&i32::try_from(text.len()).unwrap_or(0).to_be_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
            }
        }
    });
}

/// Name and value of the body of a `ParameterStatus`.
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = string(body)?;
    Some((name, string(rest)?.0))
}

/// The values of a `DataRow`'s body.
pub fn row(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = i32::from_be_bytes(*length);
        if length < 0 {
            values.push(None);
            rest = after;
        } else {
            let (value, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
            values.push(Some(value));
            rest = after;
        }
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_report_are_found() {
        let mut out = Vec::new();
        Report::error("40001", "a").hint("b").push(&mut out);
        let body = &out[5..];
        assert_eq!(report_field(body, b'C'), Some(&b"40001"[..]));
        assert_eq!(report_field(body, b'H'), Some(&b"b"[..]));
        assert_eq!(report_field(body, b'D'), None);
        assert_eq!(report_field(b"Cabc", b'C'), None);
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let mut out = Vec::new();
        push_row(&mut out, &[Some("a"), None]);
        assert_eq!(row(&out[5..]), Some(vec![Some(&b"a"[..]), None]));
        assert_eq!(row(&out[5..out.len() - 1]), None);
        assert_eq!(row(&[0, 1, 0, 0, 0, 9]), None);
    }
}
