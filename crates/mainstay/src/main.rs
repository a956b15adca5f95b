//! The program: command line, configuration, wiring and exit codes. What it does is in the crates below it.

#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a command line's errors go there")]

mod cli;
mod client;
mod commands;
mod configuration;
mod demo;
mod logging;
mod output;
mod setup;
mod target;
mod tune;
mod usage;
mod when;
mod writer;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Verb, VipVerb};

/// The command was understood and could not be carried out.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // clap prints help to standard output with exit code 0.
        Err(error) if usage::is_help(&error) => error.exit(),
        Err(error) => {
            eprintln!("mainstay: {}", usage::one_line(&error, std::env::args().skip(1)));
            return ExitCode::from(usage::EXIT_CODE);
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mainstay: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if mainstay_core::mutant::COMPILED_IN {
        anyhow::bail!(
            "this binary was built with the simulation's mutants; build it alone: cargo build -p mainstay"
        );
    }
    match cli.verb {
        // The guard has one thread and no runtime.
        Verb::Guard(options) => commands::guard::run(&options),
        // It makes runtimes of its own, after it has become PostgreSQL's user.
        Verb::SqlProxy(options) => commands::sql_proxy::run(&options),
        // One thread, which gives up what it may do.
        Verb::Vip(VipVerb::Hold(options)) => commands::vip::hold(&options),
        Verb::Decide(options) => commands::decide::run(&options),
        Verb::Completions(options) => commands::completions::run(&options),
        Verb::Man(options) => commands::man::run(&options),
        Verb::Thaw(options) => Ok(commands::drill::thaw(&options)),
        Verb::Heal(options) => Ok(commands::drill::heal(&options)),
        verb => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let result = runtime.block_on(run_async(verb));
            // A thread that waits for a dead disk must not keep the program from ending.
            runtime.shutdown_background();
            result
        }
    }
}

async fn run_async(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Init(options) => commands::init::run(&options).await,
        Verb::Join(options) => commands::join::run(&options).await,
        Verb::Member(options) => commands::member::run(&options).await,
        Verb::Leave(options) => commands::member::leave(&options).await,
        Verb::Uninstall(options) => commands::uninstall::run(&options).await,
        Verb::Create(options) => commands::create::run(&options).await,
        Verb::Run(options) => commands::run::run(&options).await,
        Verb::Status(options) => commands::status::run(&options).await,
        Verb::Explain(options) => commands::explain::run(&options).await,
        Verb::Switchover(options) => commands::switchover::run(&options).await,
        Verb::Certificates(options) => commands::certificates::run(&options).await,
        Verb::Client(options) => commands::client::run(&options).await,
        Verb::Drill(options) => commands::drill::run(&options).await,
        Verb::Verify(options) => commands::verify::run(&options).await,
        Verb::Failover(options) => commands::failover::run(&options).await,
        Verb::Recover(options) => commands::recover::run(&options).await,
        Verb::Pause(options) => commands::pause::pause(&options).await,
        Verb::Resume(options) => commands::pause::resume(&options).await,
        Verb::Maintenance(options) => commands::maintenance::run(&options).await,
        Verb::Reinit(options) => commands::reinit::run(&options).await,
        Verb::Config(verb) => commands::config::run(verb).await,
        Verb::Restart(options) => commands::restart::run(&options).await,
        Verb::Reload(options) => commands::reload::run(&options).await,
        Verb::Sql(verb) => commands::sql::run(&verb).await,
        Verb::Vip(VipVerb::Status(options)) => commands::vip::status(&options).await,
        Verb::Logs(options) => commands::logs::run(&options).await,
        Verb::Support(options) => commands::support::run(&options).await,
        Verb::Psql(options) => commands::psql::run(&options).await,
        Verb::Demo(options) => demo::run(options).await,
        Verb::Hit(options) => commands::drill::hit(&options).await,
        Verb::AfterStop(options) => commands::after_stop::run(&options).await,
        Verb::Guard(_)
        | Verb::SqlProxy(_)
        | Verb::Vip(VipVerb::Hold(_))
        | Verb::Decide(_)
        | Verb::Thaw(_)
        | Verb::Heal(_)
        | Verb::Completions(_)
        | Verb::Man(_) => {
            unreachable!("handled before the runtime was made")
        }
    }
}
