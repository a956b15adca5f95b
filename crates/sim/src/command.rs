//! `cargo xtask sim`: seeds, many at once, and how to repeat one.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mutant::Mutation;
use crate::run::{Config, Report, run};
use crate::script::Script;

/// What to run, and how to show it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first seed.
    pub from: u64,
    /// How many seeds.
    pub seeds: u64,
    pub config: Config,
    /// How many threads.
    pub threads: usize,
}

/// Runs seeds `from` to `from + seeds`, and gives the reports of those that violated something (with a trace: of all), the
/// lowest seed first, and the sums over all.
pub fn run_many(options: &Options) -> (Vec<Report>, Totals) {
    let next = AtomicU64::new(options.from);
    let end = options.from + options.seeds;
    let found = Mutex::new((Vec::new(), Totals::default()));
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let report = run(seed, &options.config);
                    let mut found = found.lock().expect("a thread that panicked ends the test");
                    found.1.add(&report);
                    if report.violation.is_some() || options.config.trace {
                        found.0.push(report);
                    }
                }
            });
        }
    });
    let (mut failed, totals) = found.into_inner().expect("no thread panicked");
    failed.sort_by_key(|report| report.seed);
    (failed, totals)
}

/// Sums over many runs.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub runs: u64,
    pub openings: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub simulated_seconds: u64,
    /// The longest, over all runs.
    pub primary_again_ms: u64,
    pub standbys_again_ms: u64,
    pub events: u64,
    pub causes: std::collections::BTreeMap<&'static str, u64>,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.openings += report.openings as u64;
        self.acknowledged += report.acknowledged;
        self.unknown += report.unknown;
        self.simulated_seconds += report.simulated_seconds;
        self.primary_again_ms = self.primary_again_ms.max(report.primary_again_ms);
        self.standbys_again_ms = self.standbys_again_ms.max(report.standbys_again_ms);
        self.events += report.events;
        for (cause, count) in &report.causes {
            *self.causes.entry(cause).or_default() += count;
        }
    }
}

const USAGE: &str = "usage: cargo xtask sim [--seeds N] [--from S] [--seed S] [--seconds N] [--mutant NAME] [--script NAME] [--calm] \
                     [--threads N] [--trace] [--mutants]";

/// Reads the arguments of `cargo xtask sim`, runs, and writes what there is to say with `say`, a line at a time. The exit
/// code: 0 if nothing was violated (with `--mutant`: if something was), 1 if not, 2 for arguments that make no sense.
pub fn main_with(arguments: &[String], say: &mut dyn FnMut(&str)) -> u8 {
    match parse(arguments) {
        Ok(options) if arguments.iter().any(|argument| argument == "--mutants") => try_mutants(&options, say),
        Ok(options) => simulate(&options, say),
        Err(problem) => {
            say(&problem);
            say(USAGE);
            2
        }
    }
}

/// The lowest seed from `from` on, of at most `seeds`, in which an invariant is violated, or the one that is named.
pub fn first_violation(
    from: u64,
    seeds: u64,
    config: &Config,
    threads: usize,
    invariant: Option<&str>,
) -> Option<Report> {
    const AT_ONCE: u64 = 16;
    let end = from + seeds;
    let wanted = |report: &Report| {
        report.violation.as_ref().is_some_and(|found| invariant.is_none_or(|name| name == found.invariant))
    };
    (from..end).step_by(AT_ONCE as usize).find_map(|from| {
        let options = Options { from, seeds: AT_ONCE.min(end - from), config: config.clone(), threads };
        run_many(&options).0.into_iter().find(wanted)
    })
}

/// Takes each rule away, one at a time, and says what notices.
fn try_mutants(options: &Options, say: &mut dyn FnMut(&str)) -> u8 {
    let mut missed = 0;
    for mutation in Mutation::all() {
        let config = Config { mutations: vec![mutation], ..options.config.clone() };
        let name = mutation.name();
        match first_violation(options.from, options.seeds, &config, options.threads, None) {
            Some(Report { seed, violation: Some(violation), .. }) => {
                say(&format!("{name}: seed {seed}, {}: {}", violation.invariant, violation.what));
            }
            _ => {
                missed += 1;
                say(&format!("{name}: not noticed in {} seeds", options.seeds));
            }
        }
    }
    u8::from(missed > 0)
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { from: 1, seeds: 300, config: Config::default(), threads };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
        let number = |text: &String| text.parse::<u64>().map_err(|_| format!("{text} is not a number"));
        match argument.as_str() {
            "--seeds" => options.seeds = number(value()?)?,
            "--from" => options.from = number(value()?)?,
            "--seed" => (options.from, options.seeds) = (number(value()?)?, 1),
            "--seconds" => options.config.seconds = number(value()?)?,
            "--threads" => options.threads = usize::try_from(number(value()?)?).unwrap_or(1),
            "--mutant" => {
                let name = value()?;
                let mutation = Mutation::by_name(name).ok_or_else(|| unknown_mutant(name))?;
                options.config.mutations.push(mutation);
            }
            "--script" => {
                let name = value()?;
                let script = Script::by_name(name).ok_or_else(|| unknown_script(name))?;
                options.config.script = Some(script);
            }
            "--calm" => options.config.faults = false,
            "--mutants" => {}
            "--trace" => options.config.trace = true,
            other => return Err(format!("{other} is not known here")),
        }
    }
    if options.config.mutations.iter().filter(|mutation| mutation.core().is_some()).count() > 1 {
        return Err("the core has one mutation at a time; combine it with one of the shell's".to_owned());
    }
    Ok(options)
}

fn unknown_mutant(name: &str) -> String {
    let names: Vec<String> = Mutation::all().into_iter().map(Mutation::name).collect();
    format!("{name} is no mutant; there are {}", names.join(", "))
}

fn unknown_script(name: &str) -> String {
    let names: Vec<String> = Script::ALL.iter().map(|script| script.name()).collect();
    format!("{name} is no script; there are {}", names.join(", "))
}

fn simulate(options: &Options, say: &mut dyn FnMut(&str)) -> u8 {
    let (failed, totals) = run_many(options);
    let mut violations = 0;
    for report in &failed {
        report.trace.lines().for_each(&mut *say);
        if let Some(violation) = &report.violation {
            violations += 1;
            say(&format!(
                "seed {}: {} violated after {} ms: {}",
                report.seed, violation.invariant, violation.at_ms, violation.what
            ));
            say(&format!("reproduce: cargo xtask sim --seed {}{}", report.seed, repeat(options)));
        }
    }
    let mut sum = format!(
        "{} runs of {} simulated seconds in all, {} openings, {} commits acknowledged, {} unknown, {} events;",
        totals.runs,
        totals.simulated_seconds,
        totals.openings,
        totals.acknowledged,
        totals.unknown,
        totals.events
    );
    for (cause, count) in &totals.causes {
        write!(sum, " {cause} {count}").expect("a string takes it");
    }
    let (primary, standbys) = (totals.primary_again_ms, totals.standbys_again_ms);
    write!(sum, "; at most {primary} ms to a primary, {standbys} ms to all standbys")
        .expect("a string takes it");
    say(&sum);
    say(&format!("{violations} of {} runs violated an invariant", totals.runs));
    u8::from((violations == 0) != options.config.mutations.is_empty())
}

fn repeat(options: &Options) -> String {
    let mut arguments = String::new();
    let config = &options.config;
    if config.seconds != Config::default().seconds {
        write!(arguments, " --seconds {}", config.seconds).expect("a string takes it");
    }
    for mutation in &config.mutations {
        write!(arguments, " --mutant {}", mutation.name()).expect("a string takes it");
    }
    if let Some(script) = config.script {
        write!(arguments, " --script {}", script.name()).expect("a string takes it");
    }
    if !config.faults {
        arguments.push_str(" --calm");
    }
    arguments
}
