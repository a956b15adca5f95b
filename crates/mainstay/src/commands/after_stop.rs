//! `after-stop`: what the service manager runs when the member's process has ended, however that was.
//!
//! A member that was told to stop has stopped PostgreSQL, unless it hung or had left guard and PostgreSQL behind earlier.
//! Then nobody else would end them.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cli::ConfigOptions;
use crate::configuration;
use crate::output::println;

pub(crate) async fn run(options: &ConfigOptions) -> Result<ExitCode> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if !was_to_stop(&variable("SERVICE_RESULT"), &variable("EXIT_STATUS")) {
        return Ok(ExitCode::SUCCESS);
    }
    let configuration = configuration::load(&options.config)?;
    let found = mainstay_member::stop_what_is_left(&configuration).await.with_context(|| {
        let directory = configuration.directory.join("guard");
        format!("PostgreSQL may still run; end the guard, whose process is in {}", directory.display())
    })?;
    if found {
        println!("the member left PostgreSQL running; it is stopped now");
    }
    Ok(ExitCode::SUCCESS)
}

/// By the variables that systemd.exec(5) names. "success" is an end with 0, 75 or a signal that asks for it; "timeout" a stop
/// that took too long. Everything else is a crash, after which a new member follows.
fn was_to_stop(result: &str, status: &str) -> bool {
    match result {
        "success" => status != super::run::LEFT.to_string(),
        "timeout" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::was_to_stop;

    #[test]
    fn only_a_stop_that_was_asked_for_ends_postgresql() {
        assert!(was_to_stop("success", "0"));
        assert!(was_to_stop("success", "TERM"), "before it could listen to the signal");
        assert!(was_to_stop("timeout", "KILL"));
        assert!(!was_to_stop("success", "75"), "it made way for a new program");
        assert!(!was_to_stop("watchdog", "ABRT"));
        assert!(!was_to_stop("signal", "KILL"));
        assert!(!was_to_stop("exit-code", "1"));
        assert!(!was_to_stop("", ""), "nobody but a service manager runs this");
    }
}
