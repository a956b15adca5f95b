//! A wrong command line, said as everything else that goes wrong is said: in one line, with what to do.

use clap::error::ErrorKind;
use clap::{Command, CommandFactory};

use crate::cli::Cli;

/// The program was called wrongly, and nothing was looked at.
pub(crate) const EXIT_CODE: u8 = 2;

/// Whether clap's text is what was asked for, or is of more use whole: help, the version, and the list of a command's commands.
pub(crate) fn is_help(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// What is wrong, what may have been meant, and where to read on.
pub(crate) fn one_line(error: &clap::Error, arguments: impl Iterator<Item = String>) -> String {
    let text = error.render().to_string();
    let said = text.strip_prefix("error: ").unwrap_or(&text);
    let body = said
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let mut line = String::new();
    for part in body.filter(|part| !part.is_empty()) {
        let between = match part {
            _ if line.is_empty() => "",
            _ if line.ends_with(':') || part.starts_with('[') => " ",
            _ if part.starts_with('<') || part.starts_with('-') => ", ",
            _ => "; ",
        };
        line.push_str(between);
        line.push_str(part);
    }
    format!("{line}; see: {} --help", called(arguments))
}

/// The command that was meant, without its arguments.
fn called(arguments: impl Iterator<Item = String>) -> String {
    let mut command = Cli::command();
    let mut words = vec![command.get_name().to_owned()];
    for argument in arguments {
        let inner: Option<Command> = command.find_subcommand(&argument).cloned();
        if let Some(inner) = inner {
            words.push(argument);
            command = inner;
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn each_kind_of_mistake_is_one_line() {
        for (typed, expected) in [
            (
                "swichover",
                "unrecognized subcommand 'swichover'; tip: some similar subcommands exist: 'failover', 'recover', 'switchover'; see: mainstay --help",
            ),
            (
                "reinit",
                "the following required arguments were not provided: <MEMBER>; see: mainstay reinit --help",
            ),
            (
                "member invite --valid-hours 0",
                "invalid value '0' for '--valid-hours <N>': 0 is not in 1..=720; see: mainstay member invite --help",
            ),
            (
                "drill explode",
                "invalid value 'explode' for '<FAULT>' [possible values: kill, freeze, cut, switchover]; see: mainstay drill --help",
            ),
            (
                "switchover --cancel --at 1m --to m1",
                "the argument '--cancel' cannot be used with: --at <TIME>, --to <MEMBER>; see: mainstay switchover --help",
            ),
            (
                "certificates --json show",
                "unexpected argument '--json' found; tip: 'show --json' exists; see: mainstay certificates show --help",
            ),
        ] {
            let words = || typed.split(' ').map(str::to_owned);
            let error =
                Cli::try_parse_from(std::iter::once("mainstay".to_owned()).chain(words())).expect_err(typed);
            assert!(!is_help(&error), "{typed}");
            assert_eq!(one_line(&error, words()), expected, "{typed}");
        }
    }
}
