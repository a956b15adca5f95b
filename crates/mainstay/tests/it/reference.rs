//! The book's reference pages against the program: what can be written in a file, typed, asked or read stands in
//! its page, and the pages name nothing that is not there.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{mainstay, stderr, stdout};

/// A file of the repository.
pub(super) fn source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page(name: &str) -> String {
    source(&format!("book/src/reference/{name}.md"))
}

/// Everything between backticks.
fn code_words(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The code words in the first column of the page's tables.
fn first_column(text: &str) -> BTreeSet<&str> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    cells.flat_map(code_words).collect()
}

/// The part of a page under a heading that begins so, up to the next heading of the same depth or a higher one.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let depth = heading.chars().take_while(|c| *c == '#').count();
    let begin = text.find(&format!("\n{heading}")).unwrap_or_else(|| panic!("no section {heading:?}")) + 1;
    let rest = &text[begin + heading.len()..];
    let ends = (1..=depth).filter_map(|depth| rest.find(&format!("\n{} ", "#".repeat(depth))));
    &rest[..ends.min().unwrap_or(rest.len())]
}

/// Every string in the source, comments left out.
pub(super) fn literals(text: &str) -> Vec<&str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split('"').skip(1).step_by(2)).collect()
}

#[track_caller]
fn assert_same(what: &str, program: &BTreeSet<&str>, page: &BTreeSet<&str>) {
    let missing: Vec<_> = program.difference(page).collect();
    let stale: Vec<_> = page.difference(program).collect();
    assert!(missing.is_empty(), "{what}: the page lacks {missing:?}");
    assert!(stale.is_empty(), "{what}: the page has {stale:?}, the program does not");
}

/// A directory with one configuration file, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("mainstay-reference-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("made");
        Place(path)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its own file");
    }

    /// What the program says to this configuration.
    fn judge(&self, text: &str) -> String {
        self.write("mainstay.toml", text);
        stderr(&mainstay(&["status", "--config", &self.0.join("mainstay.toml").display().to_string()]))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_configuration_key_is_explained() {
    let place = Place::new("keys");
    let page = page("configuration");
    let sections = [
        ("", "## Top level"),
        ("tls", "## `[tls]`"),
        ("postgresql", "## `[postgresql]`"),
        ("bootstrap", "## `[bootstrap]`"),
        ("database", "## `[[database]]`"),
        ("hooks", "## `[hooks]`"),
        ("vip", "## `[[vip]]`"),
        ("sql_proxy", "## `[sql_proxy]`"),
        ("sql_proxy.databases.app", "## `[sql_proxy.databases.NAME]`"),
        ("sql_proxy.users.app", "## `[sql_proxy.users.NAME]`"),
        ("verify", "## `[verify]`"),
        ("members.m1", "## `[members.NAME]`"),
    ];
    for (table, heading) in sections {
        let header = match table {
            "" => String::new(),
            "database" | "vip" => format!("[[{table}]]\n"),
            _ => format!("[{table}]\n"),
        };
        let said = place.judge(&format!("{header}zzzzzzzzzzzz = 1\n"));
        let known = said.trim().split_once("known here: ").unwrap_or_else(|| panic!("{table}: {said}")).1;
        let tables = sections.map(|(table, _)| table.split('.').next().unwrap_or(table));
        // A table has a section of its own.
        let known = known.split(", ").filter(|key| {
            let is_table = table.is_empty() && tables.contains(key);
            !is_table && !["parameters", "defaults", "databases", "users"].contains(key)
        });
        assert_same(heading, &known.collect(), &first_column(section(&page, heading)));
    }
    for table in ["parameters", "defaults"] {
        assert!(page.contains(&format!("### `[postgresql.{table}]`")), "{table}");
    }
}

#[test]
fn the_books_configuration_is_accepted() {
    let chapter = source("book/src/start/cluster.md");
    let example = chapter.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    is_accepted("example", example.expect("an example"));
}

#[test]
fn the_packages_example_is_accepted() {
    is_accepted("package", &source("packaging/examples/mainstay.toml"));
}

fn is_accepted(name: &str, example: &str) {
    let example = example.replace("10.0.0.", "127.0.0.");
    let place = Place::new(name);
    let directory = place.0.display().to_string();
    place.write("app.password", "a\n");
    place.write("replication.password", "b\n");
    let said = place.judge(&example.replace("/var/lib/mainstay", &directory));
    assert!(said.contains("no member of the cluster answers"), "{said}");
}

/// The verbs and long options that `--help` lists.
pub(super) fn help(verb: &[&str]) -> (Vec<String>, Vec<String>) {
    let output = mainstay(&[verb, &["--help"]].concat());
    assert!(output.status.success(), "{verb:?}: {}", stderr(&output));
    let text = stdout(&output);
    let commands = text.split_once("Commands:\n").map_or("", |(_, rest)| rest);
    let commands = commands.lines().take_while(|line| line.starts_with("  "));
    let verbs = commands.filter_map(|line| line.split_whitespace().next()).filter(|verb| *verb != "help");
    let listed = text.split_once("Options:\n").map_or("", |(_, rest)| rest).lines();
    let words = listed.filter(|line| line.starts_with("  ")).flat_map(str::split_whitespace);
    let options = words.filter(|word| word.starts_with("--") && word.len() > 2);
    (verbs.map(str::to_owned).collect(), options.map(str::to_owned).collect())
}

#[test]
fn every_verb_and_option_is_explained() {
    let page = page("commands");
    let head = page.split("\n## ").next().unwrap_or_default();
    let (verbs, top) = help(&[]);
    let headings = page.lines().filter_map(|line| line.strip_prefix("## mainstay "));
    assert_same("verbs", &verbs.iter().map(String::as_str).collect(), &headings.collect());
    for option in top {
        assert!(head.contains(&option), "{option} of mainstay");
    }
    for verb in &verbs {
        let section = section(&page, &format!("## mainstay {verb}"));
        let (inner, options) = help(&[verb]);
        let mut words: Vec<(String, Vec<String>)> = vec![(verb.clone(), options)];
        for inner in inner {
            assert!(section.contains(&format!("`{inner}")), "{verb} {inner}");
            words.push((format!("{verb} {inner}"), help(&[verb, &inner]).1));
        }
        for (verb, options) in words {
            for option in options {
                assert!(section.contains(&option) || head.contains(&option), "{option} of {verb}");
            }
        }
    }
}

/// The public fields of a struct, in the source of the status.
fn fields<'a>(source: &'a str, name: &str) -> BTreeSet<&'a str> {
    let begin = source.find(&format!("pub struct {name} {{")).unwrap_or_else(|| panic!("no struct {name}"));
    let body = source[begin..].lines().skip(1).take_while(|line| *line != "}");
    body.filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next()).collect()
}

#[test]
fn every_field_of_the_status_is_explained() {
    let (source, page) = (source("crates/member/src/status.rs"), page("status"));
    let sections = [
        ("Status", "## The cluster"),
        ("LeaseStatus", "## `lease`"),
        ("VerifyStatus", "## `verified`"),
        ("RestartStatus", "## `restart`"),
        ("MemberStatus", "## `members[]`"),
        ("PendingParameter", "## `members[].pending_restart[]`"),
        ("PostgresStatus", "## `members[].postgres`"),
    ];
    for (name, heading) in sections {
        assert_same(name, &fields(&source, name), &first_column(section(&page, heading)));
    }
    let addresses = self::source("crates/member/src/status/addresses.rs");
    assert_same(
        "AddressStatus",
        &fields(&addresses, "AddressStatus"),
        &first_column(section(&page, "## `addresses[]`")),
    );
    let operation = self::source("crates/member/src/operation.rs");
    for (name, heading) in [("OperationStatus", "## `operation`"), ("Holding", "## `operation.holdings[]`")] {
        assert_same(name, &fields(&operation, name), &first_column(section(&page, heading)));
    }
    let words = code_words(section(&page, "## The cluster"));
    for field in fields(&source, "Endpoints").iter().chain(&fields(&source, "CancelledSwitchover")) {
        assert!(words.contains(field), "{field}");
    }
    let roles = source.split_once("fn as_str").and_then(|(_, rest)| rest.split("\n}").next());
    let words = code_words(&page);
    for role in literals(roles.expect("the roles")) {
        assert!(words.contains(role), "role {role}");
    }
    let example = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
    let example: serde_json::Value = serde_json::from_str(example.expect("an example")).expect("JSON");
    let keys: BTreeSet<&str> = example.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys, fields(&source, "Status"), "the example");
}

#[test]
fn every_route_is_explained() {
    let routes = mainstay_member::control::routes();
    let words = |text: &str| first_column(text).into_iter().map(str::to_owned).collect::<BTreeSet<String>>();
    let of = |set: &BTreeSet<String>, what: &str, page: BTreeSet<String>| {
        assert_same(
            what,
            &set.iter().map(String::as_str).collect(),
            &page.iter().map(String::as_str).filter(|word| word.contains('/')).collect(),
        );
    };
    let http = routes.iter().filter(|route| route.http).map(|route| route.path.to_owned());
    of(&http.collect(), "HTTP", words(&page("http")));
    let versioned = routes.iter().filter(|route| route.socket && route.path.starts_with("/v1/"));
    let api = page("api");
    let listed = words(section(&api, "## Reading")).into_iter().chain(words(section(&api, "## Changing")));
    of(&versioned.map(|route| format!("{} {}", route.method, route.path)).collect(), "API", listed.collect());
    // What changes something has the version in its path, and is not offered over the network.
    for route in routes.iter().filter(|route| route.method != "GET") {
        assert!(route.path.starts_with("/v1/") && !route.http, "{route:?}");
    }
}

#[test]
fn every_error_code_is_explained() {
    let source = source("crates/member/src/control/refuse.rs");
    let codes = source.split("Refuse::new(StatusCode::").skip(1).filter_map(|call| call.split('"').nth(1));
    let codes: BTreeSet<&str> = codes.collect();
    assert!(codes.len() >= 9, "{codes:?}");
    assert_same("codes", &codes, &first_column(section(&page("api"), "## Errors")));
}

#[test]
fn every_metric_is_explained() {
    let source = ["metrics.rs", "metrics/sql_proxy.rs"]
        .map(|file| source(&format!("crates/member/src/{file}")))
        .concat();
    let names: BTreeSet<&str> =
        literals(&source).into_iter().filter(|text| text.starts_with("mainstay_")).collect();
    assert!(names.len() >= 30, "{names:?}");
    let page = page("metrics");
    let tables = page.split("## Scrape").next().unwrap_or_default();
    assert_same("metrics", &names, &first_column(tables));
}

#[test]
fn every_parameter_and_its_value_is_explained() {
    let source = source("crates/postgres/src/configuration/parameters.rs");
    let tables = source.split("/// Whether Mainstay sets").next().unwrap_or_default();
    let page = page("parameters");
    let words = code_words(&page);
    let mut count = 0;
    // Reasons are sentences; what has no blank is a name or a value.
    for word in literals(tables).into_iter().filter(|text| !text.is_empty() && !text.contains(' ')) {
        assert!(words.contains(word), "{word}");
        count += 1;
    }
    assert!(count > 100, "{count} names and values");
    let known = literals(tables);
    for heading in ["## Fixed", "## Bounded", "## Defaults"] {
        for name in first_column(section(&page, heading)) {
            assert!(known.contains(&name), "{heading}: {name} is not there any more");
        }
    }
}
