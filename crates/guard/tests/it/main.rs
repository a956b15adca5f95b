//! The guard with a real PostgreSQL. One binary that is also the guard: it runs each test in turn, or, called with
//! `guard` as its first argument, is a guard, on the only thread of its process as it must be.
//!
//! `cargo test -p mainstay-guard --test it [-- [--exact] [--list] [PART OF A NAME]...]`

mod deadline;
mod death;
mod fixture;
mod lifecycle;
mod measure;
mod opening;
mod ownership;

use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "guard") {
        return be_guard(&arguments[1..]);
    }
    let tests: Vec<Test> =
        [lifecycle::TESTS, deadline::TESTS, death::TESTS, opening::TESTS, ownership::TESTS, measure::TESTS]
            .concat();
    run_tests(&tests, &arguments)
}

/// `guard DIRECTORY DATA_DIRECTORY USE_CGROUP IDLE_QUIT_MS`
fn be_guard(arguments: &[String]) -> ExitCode {
    let options = mainstay_guard::Options {
        directory: PathBuf::from(&arguments[0]),
        data_directory: PathBuf::from(&arguments[1]),
        use_cgroup: arguments[2] == "true",
        idle_quit_ms: arguments[3].parse().expect("a number of milliseconds"),
    };
    match mainstay_guard::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("guard: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run_tests(tests: &[Test], arguments: &[String]) -> ExitCode {
    let is_set = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| {
        let fits =
            |filter: &&String| if is_set("--exact") { name == *filter } else { name.contains(*filter) };
        filters.is_empty() || filters.iter().any(fits)
    };
    // No test here is one that is ignored, which is what test runners ask for on a second call.
    let chosen = tests.iter().filter(|(name, _)| wanted(name) && !is_set("--ignored"));
    if is_set("--list") {
        chosen.for_each(|(name, _)| say(&format!("{name}: test")));
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    for (name, test) in chosen {
        let began = Instant::now();
        let passed = catch_unwind(test).is_ok();
        say(&format!(
            "test {name} ... {} ({} ms)",
            if passed { "ok" } else { "FAILED" },
            began.elapsed().as_millis()
        ));
        if !passed {
            failed.push(*name);
        }
    }
    fixture::remove_template();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("failed: {}", failed.join(", ")));
    ExitCode::FAILURE
}

#[expect(clippy::print_stdout, reason = "this is the test runner's own report")]
fn say(line: &str) {
    println!("{line}");
}
