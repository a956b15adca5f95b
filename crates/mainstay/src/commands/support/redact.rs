//! Taking secrets out of texts: those that this machine knows, wherever they stand, and what looks like one.

use mainstay_member::Configuration;

pub(super) const INSTEAD: &str = "[redacted]";

/// Words that a secret follows, in lower case.
const NAMES: &[&str] = &[
    "password",
    "passwd",
    "pgpassword",
    "passphrase",
    "secret",
    "token",
    "bearer",
    "api_key",
    "apikey",
    "authorization",
];
/// A join token has so many letters and digits, and nothing else does.
const TOKEN_LETTERS: usize = 96;

/// What this machine knows.
pub(super) struct Secrets {
    known: Vec<String>,
}

impl Secrets {
    pub(super) fn of(configuration: &Configuration) -> Secrets {
        let mut known = vec![configuration.postgresql.replication_password.clone()];
        known.extend(configuration.bootstrap.password.clone());
        for database in &configuration.databases {
            let roles = database.roles.iter().map(|(role, _)| role);
            known.extend(roles.chain([&database.owner]).filter_map(|role| role.password.clone()));
        }
        Secrets::new(known)
    }

    fn new(mut known: Vec<String>) -> Secrets {
        known.retain(|secret| !secret.is_empty());
        // A part of a longer one must not leave the rest of it.
        known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Secrets { known }
    }

    pub(super) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            // As JSON and as SQL write it, too.
            let json = serde_json::Value::from(secret.as_str()).to_string();
            for form in [json[1..json.len() - 1].to_owned(), secret.replace('\'', "''"), secret.clone()] {
                text = replace_words(&text, &form);
            }
        }
        let mut result = String::with_capacity(text.len());
        let mut in_key = false;
        for line in text.split_inclusive('\n') {
            if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
                result.push_str(INSTEAD);
                result.push('\n');
                // In JSON the whole of it is one line.
                in_key = !line.contains("-----END");
            } else if in_key {
                in_key = !line.contains("-----END");
            } else {
                result.push_str(&redact_line(line));
            }
        }
        result
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// A short password may be a part of many words that are none.
fn replace_words(text: &str, secret: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(secret) {
        let end = at + secret.len();
        let joined = |byte: Option<&u8>| byte.is_some_and(|byte| is_word(*byte));
        let within =
            secret.len() < 8 && (joined(rest.as_bytes()[..at].last()) || joined(rest.as_bytes().get(end)));
        result.push_str(&rest[..at]);
        result.push_str(if within { secret } else { INSTEAD });
        rest = &rest[end..];
    }
    result.push_str(rest);
    result
}

fn redact_line(line: &str) -> String {
    let mut result = String::with_capacity(line.len());
    let mut rest = line;
    while !rest.is_empty() {
        let may_begin = rest.starts_with("://") || !result.bytes().next_back().is_some_and(is_word);
        if let Some((shown, secret)) = may_begin.then(|| secret_at(rest)).flatten() {
            result.push_str(&rest[..shown]);
            result.push_str(INSTEAD);
            rest = &rest[shown + secret..];
            continue;
        }
        let next = rest.chars().next().map_or(1, char::len_utf8);
        result.push_str(&rest[..next]);
        rest = &rest[next..];
    }
    result
}

/// If a secret begins here, or behind a word that names one: how much of it may be shown, and how long the secret is.
fn secret_at(text: &str) -> Option<(usize, usize)> {
    if text.starts_with("SCRAM-SHA-256$") {
        return Some((0, word_length(text)));
    }
    if let Some(userinfo) = text.strip_prefix("://") {
        let end = userinfo.find(['/', '?', ' ', '"', '\'', '\n']).unwrap_or(userinfo.len());
        let colon = userinfo[..end].find(':')?;
        let at = userinfo[..end].rfind('@').filter(|at| *at > colon)?;
        return Some((3 + colon + 1, at - colon - 1));
    }
    let letters = text.bytes().take_while(u8::is_ascii_alphanumeric).count();
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if letters == TOKEN_LETTERS || letters == 35 && text.starts_with("md5") && is_hex(&text[3..35]) {
        return Some((0, letters));
    }
    let is_named = |name: &&&str| {
        text.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name))
            && !text.as_bytes().get(name.len()).copied().is_some_and(is_word)
    };
    behind(text, NAMES.iter().find(is_named)?)
}

/// The value behind a name: after `=` or `:`, or quoted as SQL has it. `bearer` stands before its value alone, and
/// `authorization` before a whole line.
fn behind(text: &str, name: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let skip = |mut at: usize, what: &[u8]| {
        while bytes.get(at).is_some_and(|byte| what.contains(byte)) {
            at += 1;
        }
        at
    };
    // The name itself may be quoted, and the quotes escaped.
    let sign = skip(name.len(), b"\\\"' ");
    let is_assigned = matches!(bytes.get(sign), Some(b'=' | b':'));
    let begin = if is_assigned { skip(sign + 1, b" =>") } else { skip(name.len(), b" ") };
    let value = &text[begin..];
    if name == "authorization" {
        let end = value.find(['"', '\'', '\n']).unwrap_or(value.len());
        return (is_assigned && end > 0).then_some((begin, end));
    }
    let is_sql = value.starts_with(['\'', '$']) || value.starts_with("E'") || value.starts_with("e'");
    if !is_assigned && !is_sql && name != "bearer" {
        return None;
    }
    let (open, length) = quoted(value).unwrap_or((0, word_length(value)));
    (length > 0).then_some((begin + open, length))
}

/// Of a text that begins with a quoted string: where that begins within its quotes, and how long it is.
fn quoted(text: &str) -> Option<(usize, usize)> {
    if let Some(tag) = text.strip_prefix('$').and_then(|rest| rest.find('$')).map(|end| &text[..end + 2]) {
        return text[tag.len()..].find(tag).map(|length| (tag.len(), length));
    }
    let prefix = if text.starts_with(['E', 'e', '\\']) { 1 } else { 0 };
    let quote = text[prefix..].chars().next().filter(|first| matches!(first, '\'' | '"'))?;
    // In JSON and in E'…' a backslash takes the next letter along; in JSON within JSON the quotes have one themselves.
    let is_nested = text.starts_with('\\');
    let escapes = !is_nested && (quote == '"' || prefix == 1);
    let inner = &text[prefix + 1..];
    let mut letters = inner.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        if letter == '\\' && escapes
            || letter == quote && letters.peek().is_some_and(|(_, next)| *next == quote)
        {
            letters.next();
        } else if letter == quote {
            let length = if is_nested { inner[..at].trim_end_matches('\\').len() } else { at };
            return Some((prefix + 1, length));
        }
    }
    // It goes on in the next line.
    Some((prefix + 1, inner.trim_end_matches('\n').len()))
}

fn word_length(text: &str) -> usize {
    text.find([' ', ',', ';', ')', '"', '\'', '\n', '&', '}', ']', '<', '\\']).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> String {
        Secrets::new(vec!["app".to_owned(), "correct\"horse'battery".to_owned()]).redact(text)
    }

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let token = "0123456789ab".repeat(8);
        let cases = [
            ("ALTER ROLE a PASSWORD 'sword''fish' VALID", "ALTER ROLE a PASSWORD '[redacted]' VALID"),
            (
                "CREATE ROLE a ENCRYPTED PASSWORD E'sword' x",
                "CREATE ROLE a ENCRYPTED PASSWORD E'[redacted]' x",
            ),
            ("password = $x$swordfish$x$, a", "password = $x$[redacted]$x$, a"),
            ("host=a password=swordfish user=b", "host=a password=[redacted] user=b"),
            ("PGPASSWORD=swordfish pg_dump", "PGPASSWORD=[redacted] pg_dump"),
            ("{\"password\": \"swordfish\", \"a\": 1}", "{\"password\": \"[redacted]\", \"a\": 1}"),
            ("\"{\\\"password\\\":\\\"swordfish\\\"}\"", "\"{\\\"password\\\":\\\"[redacted]\\\"}\""),
            ("postgresql://u:swordfish@h:5432/d", "postgresql://u:[redacted]@h:5432/d"),
            ("{\"token\":\"a\\\"b\",\"c\":1}", "{\"token\":\"[redacted]\",\"c\":1}"),
            ("Authorization: Bearer swordfish", "Authorization: [redacted]"),
            ("SCRAM-SHA-256$4096:x==$y=:z= end", "[redacted] end"),
            ("md50123456789abcdef0123456789abcdef!", "[redacted]!"),
            ("x=correct\"horse'battery.", "x=[redacted]."),
            ("\"correct\\\"horse'battery\"", "\"[redacted]\""),
            ("role app, application happy", "role [redacted], application happy"),
        ];
        for (text, wanted) in cases {
            assert_eq!(redacted(text), wanted);
        }
        assert_eq!(redacted(&format!("join {token}@10.0.0.1")), "join [redacted]@10.0.0.1");
        let key = "a\n-----BEGIN PRIVATE KEY-----\nMIGH\nxyz\n-----END PRIVATE KEY-----\nb\n";
        assert_eq!(redacted(key), "a\n[redacted]\nb\n");
    }

    #[test]
    fn what_is_no_secret_stays() {
        let texts = [
            "password authentication failed for user \"shop\"",
            "password_file = \"/etc/mainstay/shop.password\"",
            "password_encryption = scram-sha-256",
            "http://10.0.0.1:7480/primary and postgresql://10.0.0.1:5432/d",
            "key = \"sha256:1111111111111111111111111111111111111111111111111111111111111111\"",
            "hostssl all all 10.0.0.0/24 scram-sha-256",
        ];
        for text in texts {
            assert_eq!(redacted(text), text);
        }
    }
}
