//! Named network namespaces: what `ip netns list` shows.

use anyhow::{Context, Result};
use std::io::ErrorKind;

pub(super) fn all() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir("/run/netns") {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("cannot list /run/netns")?,
    };
    entries
        .map(|entry| Ok(format!("network namespace {}", entry?.file_name().to_string_lossy())))
        .collect::<std::io::Result<_>>()
        .context("cannot list /run/netns")
}
