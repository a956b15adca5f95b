//! `cargo xtask sim`: see the library.

#![allow(clippy::print_stdout, reason = "a command line tool talks to its caller")]

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ExitCode::from(mainstay_sim::main_with(&arguments, &mut |line| println!("{line}")))
}
