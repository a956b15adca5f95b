//! Fuzz targets for every parser of bytes that a client or a server sends: each must end without a panic, and hold what it promises.
//!
//! One program for all of them, since linking is what costs. `cargo xtask fuzz` builds it with marks of coverage and runs
//! each target for a while; the environment names the target, and where its first inputs are to be written.

#![no_main]

mod framing;
mod login;
mod sql;

// The proxy's own files: they need nothing of the rest of their crate, which takes a minute to build.
#[path = "../../crates/sql/src/options.rs"]
mod options;
#[path = "../../crates/sql/src/session_settings.rs"]
#[allow(dead_code, reason = "its other half reads answers of the proxy's own questions")]
mod session_settings;
#[path = "../../crates/sql/src/sql_text.rs"]
#[allow(dead_code, reason = "only what reads text is called")]
mod sql_text;

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// Where `TARGETS` below is looked up, and where its first inputs go.
const TARGET: &str = "MAINSTAY_FUZZ_TARGET";
const SEEDS: &str = "MAINSTAY_FUZZ_SEEDS";

/// One parser, or the few that a conversation goes through.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]),
    /// Well-formed inputs, from which the fuzzer goes on.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
}

const TARGETS: &[Target] = &[
    framing::FRAMES,
    framing::STARTUP,
    framing::ANSWERS,
    login::SERVER,
    login::CLIENT,
    login::VERIFIER,
    sql::TEXT,
    sql::OPTIONS,
    sql::SETTINGS,
];

fn target() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var(TARGET).unwrap_or_default();
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        let found = TARGETS.iter().find(|target| target.name == name);
        found.unwrap_or_else(|| panic!("{TARGET} must be one of {}", names.join(", ")))
    })
}

fuzz_target!(
    init: {
        let target = target();
        if let Some(directory) = std::env::var_os(SEEDS).map(PathBuf::from) {
            for (index, seed) in (target.seeds)().into_iter().enumerate() {
                std::fs::write(directory.join(format!("seed-{index}")), seed).expect("the corpus can be written");
            }
        }
    },
    |data: &[u8]| (target().run)(data)
);
