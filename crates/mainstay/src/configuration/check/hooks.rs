//! Programs that are told of a change of role.

use std::path::Path;
use std::time::Duration;

use mainstay_member::hooks::Hooks;

use super::{Checked, at, duration};
use crate::configuration::raw;

pub(super) fn check(raw: &raw::Hooks) -> Checked<Hooks> {
    let mut hooks = Hooks::default();
    if let Some(command) = &raw.on_role_change {
        let words = command.get_ref();
        match words.first() {
            None => {}
            Some(program) if Path::new(program).is_absolute() => {}
            Some(program) => {
                let message = format!(
                    "on_role_change {program:?} must be an absolute path; nothing is looked for in a PATH"
                );
                return Err(at(command, message));
            }
        }
        hooks.on_role_change.clone_from(words);
    }
    if let Some(timeout) = &raw.timeout {
        hooks.timeout = duration(timeout)?;
        if !(Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&hooks.timeout) {
            return Err(at(
                timeout,
                format!("timeout {:?} is not between \"1s\" and \"1h\"", timeout.get_ref()),
            ));
        }
    }
    Ok(hooks)
}
