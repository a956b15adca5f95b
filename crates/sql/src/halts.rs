//! What an administrator has halted: databases whose servers are let go (`PAUSE`, `KILL`), and those that take no new clients
//! (`DISABLE`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::pool::{Access, Pool, PoolKey};
use crate::refusal;
use crate::worker::{Worker, access_of};

/// One database, or all. `app` means its readers too, `app@ro` them alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Which(Option<(String, Option<Access>)>);

impl Which {
    pub(crate) fn all() -> Which {
        Which(None)
    }

    pub(crate) fn named(name: &str) -> Which {
        let (database, access) = access_of(name, Access::ReadWrite);
        let access = (database.len() < name.len()).then_some(access);
        Which(Some((database.to_owned(), access)))
    }

    pub(crate) fn covers(&self, key: &PoolKey) -> bool {
        !crate::console::is_console(&key.database)
            && self.0.as_ref().is_none_or(|(database, access)| {
                **database == *key.database && access.is_none_or(|access| access == key.access)
            })
    }
}

/// One worker's knowledge of it. All workers are told the same.
#[derive(Default)]
pub(crate) struct Halts {
    paused: RefCell<BTreeSet<Which>>,
    disabled: RefCell<BTreeSet<Which>>,
    is_any: Cell<bool>,
}

impl Halts {
    pub(crate) fn is_paused(&self, key: &PoolKey) -> bool {
        self.is_any.get() && self.paused.borrow().iter().any(|which| which.covers(key))
    }

    pub(crate) fn is_disabled(&self, key: &PoolKey) -> bool {
        self.is_any.get() && self.disabled.borrow().iter().any(|which| which.covers(key))
    }

    pub(crate) fn is_all_paused(&self) -> bool {
        self.paused.borrow().contains(&Which::all())
    }

    fn changed(&self) {
        self.is_any.set(!self.paused.borrow().is_empty() || !self.disabled.borrow().is_empty());
    }
}

impl Worker {
    /// Lets the servers go as their transactions end; whoever wants another one waits. False if that is so already.
    pub(crate) fn pause(self: &Rc<Worker>, which: &Which) -> bool {
        let is_new = self.halts.paused.borrow_mut().insert(which.clone());
        self.halts.changed();
        self.pools_of(which).iter().for_each(|pool| pool.reconnect(self));
        is_new
    }

    /// False if nothing was paused.
    pub(crate) fn resume(self: &Rc<Worker>, which: &Which) -> bool {
        let mut paused = self.halts.paused.borrow_mut();
        let before = paused.len();
        if *which == Which::all() {
            paused.clear();
        } else {
            paused.remove(which);
        }
        let was_paused = paused.len() < before;
        drop(paused);
        self.halts.changed();
        self.pools().iter().for_each(|pool| pool.pump(self));
        was_paused
    }

    pub(crate) fn disable(&self, which: &Which) {
        self.halts.disabled.borrow_mut().insert(which.clone());
        self.halts.changed();
    }

    pub(crate) fn enable(&self, which: &Which) {
        self.halts.disabled.borrow_mut().remove(which);
        self.halts.changed();
    }

    /// Ends clients at once, and their servers with them.
    pub(crate) fn kill(self: &Rc<Worker>, which: &Which) {
        self.pause(which);
        for client in self.clients().iter().filter(|client| which.covers(&client.key)) {
            client.end(refusal::killed("an administrator has ended all clients of the database"));
        }
    }

    pub(crate) fn pools_of(&self, which: &Which) -> Vec<Rc<Pool>> {
        self.pools().into_iter().filter(|pool| which.covers(&pool.key)).collect()
    }

    /// How many server connections there are still, and how many of these are to be closed when they are released.
    pub(crate) fn servers_left(&self, which: &Which) -> (usize, usize) {
        let pools = self.pools_of(which);
        let counts = pools.iter().map(|pool| {
            let backends = pool.backends();
            let retired = backends.iter().filter(|backend| backend.is_retired()).count();
            (backends.len() + pool.dialling(), retired)
        });
        counts.fold((0, 0), |(all, retired), (more, more_retired)| (all + more, retired + more_retired))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_covers_both_directions_unless_it_says_which() {
        let key = |database: &str, access| PoolKey { database: database.into(), user: "u".into(), access };
        let (write, read) = (key("app", Access::ReadWrite), key("app", Access::ReadOnly));
        assert!(Which::named("app").covers(&write) && Which::named("app").covers(&read));
        assert!(!Which::named("app@ro").covers(&write) && Which::named("app@ro").covers(&read));
        assert!(Which::all().covers(&write) && !Which::named("other").covers(&write));
        assert!(!Which::all().covers(&key("mainstay", Access::ReadWrite)));
    }
}
