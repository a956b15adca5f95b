use std::io::Write;

use super::*;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("mainstay-logs-{}-{name}", std::process::id()));
        for directory in ["state", "log"] {
            std::fs::create_dir_all(path.join(directory)).expect("made");
        }
        Place(path)
    }

    fn append(&self, name: &str, text: &str) {
        let file = OpenOptions::new().create(true).append(true).open(self.0.join(name));
        file.expect("opened").write_all(text.as_bytes()).expect("written");
    }

    fn read(&self, after: Option<&str>) -> Logs {
        let after = after.map(|after| after.parse().expect("a cursor"));
        read(&self.0, &Wanted { since_unix_us: 0, after, last: 100 })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn texts(logs: &Logs) -> Vec<&str> {
    logs.entries.iter().map(|entry| entry.text.as_str()).collect()
}

#[test]
fn what_three_programs_wrote_is_one_log_by_time() {
    let place = Place::new("merged");
    place.append("state/mainstay.log", "2026-11-27T18:51:07.250000Z  INFO started member=m1\n");
    place.append("state/mainstay.log", "{\"timestamp\":\"2026-11-27T18:51:09.000001Z\",\"level\":\"WARN\",\"fields\":{\"message\":\"slow\",\"ms\":7}}\n");
    place.append("log/postgresql.log", "2026-11-27 18:51:08.123 UTC [9] ERROR:  no\n2026-11-27 18:51:08.123 UTC [9] STATEMENT:  SELECT 1,\n\t2\n");
    place.append("log/guard.log", "2026-11-27T18:51:06Z  INFO guarding\n");
    let logs = place.read(None);
    let wanted = [
        "INFO guarding",
        "INFO started member=m1",
        "[9] ERROR:  no",
        "[9] STATEMENT:  SELECT 1,\n\t2",
        "WARN slow ms=7",
    ];
    assert_eq!(texts(&logs), wanted);
    assert_eq!(logs.entries[1].at_unix_us, 1_795_805_467_250_000);
    assert!(!logs.left_out);
    let since = logs.entries[3].at_unix_us + 1;
    let late = read(&place.0, &Wanted { since_unix_us: since, after: None, last: 100 });
    assert_eq!(texts(&late), ["WARN slow ms=7"]);
    let one = read(&place.0, &Wanted { since_unix_us: 0, after: None, last: 1 });
    assert!(texts(&one) == ["WARN slow ms=7"] && one.left_out);
}

#[test]
fn following_gives_each_line_once_also_when_files_are_changed() {
    let place = Place::new("followed");
    place.append("state/mainstay.log", "2026-11-27T18:51:07Z  INFO one\n");
    place.append("log/postgresql.log", "2026-11-27 18:51:08.000 UTC [9] LOG:  two\n");
    let first = place.read(None);
    assert_eq!(texts(&first), ["INFO one", "[9] LOG:  two"]);
    place.append("state/mainstay.log", "2026-11-27T18:51:09Z  INFO three\n2026-11-27T18:51:10Z  INFO fo");
    let second = place.read(Some(&first.cursor));
    assert_eq!(texts(&second), ["INFO three"]);
    // Mainstay's file is renamed, PostgreSQL's is copied and emptied.
    place.append("state/mainstay.log", "ur\n");
    let own = place.0.join("state/mainstay.log");
    std::fs::rename(&own, before(&own)).expect("renamed");
    place.append("state/mainstay.log", "2026-11-27T18:51:11Z  INFO five\n");
    let server = place.0.join("log/postgresql.log");
    place.append("log/postgresql.log", "2026-11-27 18:51:12.000 UTC [9] LOG:  six\n");
    std::fs::copy(&server, before(&server)).expect("copied");
    OpenOptions::new().write(true).open(&server).expect("there").set_len(0).expect("emptied");
    place.append("log/postgresql.log", "2026-11-27 18:51:13.000 UTC [9] LOG:  7\n");
    let third = place.read(Some(&second.cursor));
    assert_eq!(texts(&third), ["INFO four", "INFO five", "[9] LOG:  six", "[9] LOG:  7"]);
    assert!(texts(&place.read(Some(&third.cursor))).is_empty());
    assert!("mainstay.1".parse::<Cursor>().is_err() && "nobody.1.2".parse::<Cursor>().is_err());
}

#[test]
fn zones_are_told_by_when_the_file_was_written() {
    let newest = 1_795_805_467_000_000;
    let entries = parse::entries(
        Source::Postgresql,
        "2026-11-27 19:51:00.000 CET [9] LOG:  a\n2026-11-27 19:51:06.900 CET [9] LOG:  b\n",
        newest,
    );
    assert_eq!(entries[0].at_unix_us, newest - 7_000_000);
    for line in ["2026-11-27 21:51:07.000 +03 [9] LOG:  a\n", "2026-11-27 15:21:07.000 -0330 [9] LOG:  a\n"] {
        assert_eq!(parse::entries(Source::Postgresql, line, newest)[0].at_unix_us, newest, "{line}");
    }
    let none = parse::entries(Source::Postgresql, "[9] LOG:  a\n[9] LOG:  b\n", newest);
    assert_eq!((none.len(), none[0].at_unix_us), (1, newest));
}

#[test]
fn a_link_leads_nowhere() {
    let place = Place::new("link");
    std::fs::write(place.0.join("secret"), "root:x\n").expect("written");
    std::os::unix::fs::symlink(place.0.join("secret"), place.0.join("log/postgresql.log")).expect("linked");
    let logs = place.read(None);
    assert!(logs.entries.iter().all(|entry| !entry.text.contains("root:x")), "{logs:?}");
    assert!(texts(&logs)[0].contains("postgresql.log cannot be read"), "{logs:?}");
}
