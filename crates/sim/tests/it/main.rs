//! Whole clusters, simulated. `cargo test --release -p mainstay-sim`: without optimisation this takes minutes.

mod mutants;
mod scripts;
mod seeds;
