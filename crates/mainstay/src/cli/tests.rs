//! The whole tree of commands: what is missing here is missing in `--help`, the manual pages and the completions.

use clap::{Command, CommandFactory};

use super::Cli;

/// Calls `look` with each command below `command`, its full name, and whether something above it has an example.
fn walk(command: &Command, name: &str, exemplified: bool, look: &mut dyn FnMut(&Command, &str, bool)) {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let name = format!("{name} {}", inner.get_name());
        let exemplified = exemplified || example(inner).is_some();
        look(inner, &name, exemplified);
        walk(inner, &name, exemplified, look);
    }
}

fn example(command: &Command) -> Option<String> {
    let help = command.get_after_help()?.to_string();
    help.split_once("Example: ").map(|(_, example)| example.trim().to_owned())
}

fn tree() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

#[test]
fn the_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_says_what_it_does_and_has_an_example() {
    let mut count = 0;
    walk(&tree(), "mainstay", false, &mut |command, name, exemplified| {
        count += 1;
        assert!(command.get_about().is_some(), "{name} says nothing of itself");
        assert!(exemplified, "{name} has no `Example: …` in its after_help");
        if let Some(example) = example(command) {
            assert!(example.contains("mainstay "), "{name}: {example:?} is no command line");
        }
    });
    assert!(count >= 20, "only {count} commands were seen");
}

#[test]
fn every_argument_has_help() {
    let mut count = 0;
    walk(&tree(), "mainstay", false, &mut |command, name, _| {
        for argument in command.get_arguments() {
            count += 1;
            assert!(argument.get_help().is_some(), "{name}: {} has no help", argument.get_id());
        }
    });
    assert!(count >= 40, "only {count} arguments were seen");
}

/// An example that the program itself refuses teaches the wrong thing.
#[test]
fn every_example_is_understood() {
    walk(&tree(), "mainstay", false, &mut |command, name, _| {
        let Some(text) = example(command) else { return };
        for line in text.lines().filter(|line| line.trim().starts_with("mainstay ")) {
            for call in line.split(';') {
                let words = call.split('>').next().unwrap_or_default().split_whitespace();
                let words: Vec<&str> = words.map(|word| word.trim_matches('\'')).collect();
                let error = <Cli as clap::Parser>::try_parse_from(words).err();
                assert!(error.is_none(), "{name}: the example `{}` is refused: {error:?}", call.trim());
            }
        }
    });
}
