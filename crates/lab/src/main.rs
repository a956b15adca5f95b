//! The lab's command line.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its caller")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use mainstay_lab::bench::failover::{Event, Series};
use mainstay_lab::network::Index;
use mainstay_lab::{bench, cells, interrupt, leftovers, suite};

/// Plays faults on real clusters in network namespaces of this machine, and checks that nothing is lost.
#[derive(Debug, Parser)]
#[command(name = "mainstay-lab", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Play scenarios
    #[command(after_help = "Example: mainstay-lab run --only postmaster-killed")]
    Run(RunOptions),
    /// Play every fault with every form of the protocol through the SQL proxies, and hold every answer against the table
    #[command(after_help = "Example: mainstay-lab cells --fault kill-postmaster --form pipelined")]
    Cells(CellOptions),
    /// Measure
    #[command(subcommand)]
    Bench(Bench),
    /// Show the scenarios and why each exists
    List,
    /// Remove what a lab of this index has left behind
    Clean(Place),
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Five faults under load, again and again
    #[command(after_help = "Example: mainstay-lab bench failover --runs 5 --out results.jsonl")]
    Failover(FailoverOptions),
    /// Memory and CPU of a cluster that does nothing
    Idle {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
        /// Two data members and a witness, instead of three data members
        #[arg(long)]
        witness: bool,
    },
    /// Read-only pgbench through the SQL proxy, PgBouncer and HAProxy, in turns, and what idle clients cost
    Sql {
        #[command(flatten)]
        common: Common,
        /// How often each pair
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Of each run
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
        #[arg(long, value_delimiter = ',', value_name = "COUNT,…", default_value = "1,32,200")]
        clients: Vec<u32>,
        /// Who do nothing, for the memory that each takes; 0 for none
        #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
        idle_clients: u32,
    },
    /// Hogs on every core and on the disk: no failover is to come of it
    Starve {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
        minutes: u64,
    },
}

#[derive(Debug, Args)]
struct FailoverOptions {
    #[command(flatten)]
    common: Common,
    /// How often each event
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only these events
    #[arg(long, value_delimiter = ',', value_name = "EVENT,…")]
    faults: Vec<String>,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
    members: u8,
    /// A database of so many GB, and a cut-off primary that writes what nobody else gets
    #[arg(long, value_name = "GB", value_parser = clap::value_parser!(u32).range(1..=100))]
    big_gb: Option<u32>,
}

#[derive(Debug, Args)]
struct Place {
    /// Labs of different indices run side by side
    #[arg(long, default_value_t = 0, value_name = "0-99")]
    index: u8,
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    place: Place,
    /// The binary under test; without it the one beside this program
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Append results as JSON lines
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RunOptions {
    #[command(flatten)]
    common: Common,
    /// Only scenarios whose name begins so; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The bounded core that CI plays
    #[arg(long)]
    ci: bool,
    /// Stop at the first failure and leave the cluster running
    #[arg(long)]
    keep: bool,
    /// Bars for times are multiplied by this; never those for safety
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    slack: f64,
}

#[derive(Debug, Args)]
struct CellOptions {
    #[command(flatten)]
    common: Common,
    /// Only these faults
    #[arg(long, value_delimiter = ',', value_name = "FAULT,…")]
    fault: Vec<String>,
    /// Only these forms of the protocol
    #[arg(long, value_delimiter = ',', value_name = "FORM,…")]
    form: Vec<String>,
    /// A few cells that take less than a minute
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Stop at the first failure and leave the cluster running
    #[arg(long)]
    keep: bool,
    /// The bar for the time of an answer is multiplied by this
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    slack: f64,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match run(&cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mainstay-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &Verb) -> Result<()> {
    interrupt::listen()?;
    match verb {
        Verb::Run(options) => {
            check_slack(options.slack)?;
            suite::run(&suite::Options {
                index: Index::new(options.common.place.index)?,
                binary: binary(options.common.binary.as_ref())?,
                only: options.only.clone(),
                ci: options.ci,
                keep: options.keep,
                slack: options.slack,
                out: options.common.out.clone(),
            })
        }
        Verb::Cells(options) => {
            check_slack(options.slack)?;
            cells::run(&cells::Options {
                index: Index::new(options.common.place.index)?,
                binary: binary(options.common.binary.as_ref())?,
                faults: options.fault.clone(),
                forms: options.form.clone(),
                is_quick: options.quick,
                keep: options.keep,
                slack: options.slack,
                is_json: options.json,
                out: options.common.out.clone(),
            })
        }
        Verb::Bench(bench) => measure(bench),
        Verb::List => {
            for scenario in suite::all()? {
                let mark = if scenario.in_ci { "ci" } else { "" };
                println!("{:<28} {mark:<3} {}", scenario.name, scenario.why);
            }
            Ok(())
        }
        Verb::Clean(place) => leftovers::clear(Index::new(place.index)?),
    }
}

fn check_slack(slack: f64) -> Result<()> {
    if !(1.0..=100.0).contains(&slack) {
        bail!("slack {slack} is not between 1 and 100: bars are only ever widened");
    }
    Ok(())
}

fn measure(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Failover(given) => {
            let named = given.faults.iter().map(|word| Event::parse(word)).collect::<Result<Vec<_>>>()?;
            let events = if named.is_empty() { Event::ALL.to_vec() } else { named };
            let series = Series { runs: given.runs, events, big_gb: given.big_gb };
            bench::failover::run(&bench_options(&given.common, given.members)?, &series)
        }
        Bench::Idle { common, seconds, witness } => {
            let options = bench_options(common, if *witness { 2 } else { 3 })?;
            bench::idle::run(&options, u8::from(*witness), Duration::from_secs(*seconds))
        }
        Bench::Sql { common, rounds, seconds, clients, idle_clients } => {
            let series = bench::sql::Series {
                rounds: *rounds,
                seconds: *seconds,
                clients: clients.clone(),
                idle_clients: *idle_clients,
            };
            bench::sql::run(&bench_options(common, 1)?, &series)
        }
        Bench::Starve { common, minutes } => {
            bench::starve::run(&bench_options(common, 3)?, Duration::from_secs(minutes * 60))
        }
    }
}

fn bench_options(common: &Common, members: u8) -> Result<bench::Options> {
    Ok(bench::Options {
        index: Index::new(common.place.index)?,
        binary: binary(common.binary.as_ref())?,
        members,
        out: common.out.clone(),
    })
}

/// The `mainstay` that is tested: never one from PATH, which may be an older one.
fn binary(given: Option<&PathBuf>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("mainstay"),
    };
    let path = std::path::absolute(&path)?;
    if !path.is_file() {
        bail!("{} is not there; build it alone: cargo build --release -p mainstay", path.display());
    }
    path.canonicalize().with_context(|| format!("cannot find {}", path.display()))
}
