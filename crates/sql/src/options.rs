//! The parameter `options` of a startup packet.

use std::collections::BTreeMap;

use mainstay_pgwire::backend::Report;

/// `-c name=value` and `--name=value`, with a backslash before blanks that belong to a value, as PostgreSQL reads it.
pub(crate) fn read(text: &str, settings: &mut BTreeMap<Box<str>, Box<str>>) -> Result<(), Report> {
    let mut words: Vec<String> = vec![String::new()];
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        let word = words.last_mut().expect("there is one from the beginning");
        match c {
            '\\' => word.extend(characters.next()),
            c if c.is_ascii_whitespace() => words.push(String::new()),
            c => word.push(c),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next().unwrap_or_default(),
            Some(setting) => setting.to_owned(),
            None => String::new(),
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(Report::fatal(
                "0A000",
                format!("the SQL proxy does not take {word:?} in \"options\""),
            )
            .hint("It takes -c name=value and --name=value."));
        };
        settings.insert(name.replace('-', "_").to_ascii_lowercase().into(), value.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_postgresql_reads_them() {
        let mut settings = BTreeMap::new();
        read(r"-c a=1 --work-mem=4MB -cB=x\ y", &mut settings).unwrap();
        let pairs: Vec<_> = settings.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(pairs, [("a", "1"), ("b", "x y"), ("work_mem", "4MB")]);
        for refused in ["-h", "-c", "-c a"] {
            assert!(read(refused, &mut settings).is_err(), "{refused}");
        }
    }
}
