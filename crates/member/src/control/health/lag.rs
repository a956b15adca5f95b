//! `?lag=16MB`: how far behind a standby may be.

/// What the query asks for: `lag` in bytes, or nothing. The error is one line.
pub(super) fn read(query: &[(String, String)], takes_lag: bool) -> Result<Option<u64>, String> {
    let known = if takes_lag { "known here: lag" } else { "none is known here" };
    match query {
        [] => Ok(None),
        [(key, value)] if takes_lag && key == "lag" => bytes(value).map(Some),
        [(key, _)] => Err(format!("the parameter {key:?} is not known; {known}")),
        [_, (key, _), ..] => Err(format!("the parameter {key:?} is one too many; {known}")),
    }
}

/// Bytes in PostgreSQL's notation, where `kB` is 1024; the standard names of the same units are taken too.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("lag={text} is no size: write bytes, or a number with kB, MB, GB or TB, such as 16MB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kb" | "kib" => 10,
        "mb" | "mib" => 20,
        "gb" | "gib" => 30,
        "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << factor).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str, takes_lag: bool) -> Result<Option<u64>, String> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.filter_map(|pair| pair.split_once('='));
        read(&pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Vec<_>>(), takes_lag)
    }

    #[test]
    fn sizes_are_written_as_postgresql_does() {
        for (text, bytes) in [
            ("lag=0", 0),
            ("lag=1048576", 1 << 20),
            ("lag=1024kB", 1 << 20),
            ("lag=16MB", 16 << 20),
            ("lag=16 MB", 16 << 20),
            ("lag=1GiB", 1 << 30),
            ("lag=2TB", 2 << 40),
        ] {
            assert_eq!(of(text, true), Ok(Some(bytes)), "{text}");
        }
        assert_eq!(of("", true), Ok(None));
    }

    #[test]
    fn what_is_not_understood_is_named_with_what_would_be() {
        for text in ["lag=", "lag=much", "lag=1.5GB", "lag=-1", "lag=16MBs", "lag=99999999TB"] {
            let said = of(text, true).unwrap_err();
            assert!(said.contains("such as 16MB") && !said.contains('\n'), "{text}: {said}");
        }
        assert!(of("zone=a", true).unwrap_err().contains("\"zone\" is not known; known here: lag"));
        assert!(of("lag=1", false).unwrap_err().contains("none is known here"));
        assert!(of("lag=1&lag=2", true).unwrap_err().contains("one too many"));
    }
}
