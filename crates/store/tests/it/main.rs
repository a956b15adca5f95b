//! Stores on real directories, with links in memory.

mod cluster;
mod contract;
mod faults;
