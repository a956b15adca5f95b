//! Limits that hold for the whole process, though every thread has pools of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::pool::{Access, PoolKey};

/// What a limit is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Pool(String, Access, String),
    Database(String, Access),
    User(String),
}

impl Scope {
    /// The narrowest first.
    fn all_of(key: &PoolKey) -> [Scope; 3] {
        let (database, user) = (key.database.to_string(), key.user.to_string());
        [
            Scope::Pool(database.clone(), key.access, user.clone()),
            Scope::Database(database, key.access),
            Scope::User(user),
        ]
    }

    pub(crate) fn covers(&self, key: &PoolKey) -> bool {
        match self {
            Scope::Pool(database, access, user) => {
                **database == *key.database && *access == key.access && **user == *key.user
            }
            Scope::Database(database, access) => **database == *key.database && *access == key.access,
            Scope::User(user) => **user == *key.user,
        }
    }

    /// The setting that limits server connections.
    pub(crate) fn setting(&self) -> &'static str {
        match self {
            Scope::Pool(..) => "default_pool_size",
            Scope::Database(..) => "max_db_connections",
            Scope::User(..) => "max_user_connections",
        }
    }
}

/// How many there are now, of all threads.
#[derive(Debug, Default)]
pub(crate) struct Count {
    servers: AtomicUsize,
    clients: AtomicUsize,
}

/// The counts of all scopes that anybody has asked for.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Mutex<HashMap<Scope, Arc<Count>>>);

impl Quotas {
    /// What a pool counts towards.
    pub(crate) fn of(&self, key: &PoolKey) -> Quota {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Quota(Scope::all_of(key).map(|scope| {
            let count = Arc::clone(known.entry(scope.clone()).or_default());
            (scope, count)
        }))
    }

    /// Those that no pool counts towards any more.
    pub(crate) fn forget_unused(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, count| Arc::strong_count(count) > 1);
    }
}

/// The most there may be of a pool, its database and its user. 0 of the latter two: as many as they like.
pub(crate) type Limits = [usize; 3];

/// What one pool's connections and clients count towards.
pub(crate) struct Quota([(Scope, Arc<Count>); 3]);

impl Quota {
    /// Room for one more server connection, or whose limit leaves none.
    pub(crate) fn server(&self, limits: Limits) -> Result<Permit, &Scope> {
        self.acquire(limits, |count| &count.servers)
    }

    /// Room for one more client, or whose limit leaves none. The pool itself has no such limit.
    pub(crate) fn client(&self, limits: Limits) -> Result<Permit, &Scope> {
        self.acquire(limits, |count| &count.clients)
    }

    fn acquire(&self, limits: Limits, which: fn(&Count) -> &AtomicUsize) -> Result<Permit, &Scope> {
        let mut permit = Permit { counts: Vec::with_capacity(3), which };
        for ((scope, count), limit) in self.0.iter().zip(limits) {
            let one_more = |now| (limit == 0 || now < limit).then_some(now + 1);
            // What the permit has so far is given back when it is dropped.
            if which(count).fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
                return Err(scope);
            }
            permit.counts.push(Arc::clone(count));
        }
        Ok(permit)
    }

    /// Server connections of the pool, also those that are being opened.
    pub(crate) fn servers(&self) -> usize {
        self.0[0].1.servers.load(Ordering::Relaxed)
    }

    pub(crate) fn clients(&self) -> usize {
        self.0[0].1.clients.load(Ordering::Relaxed)
    }
}

/// Counts one for as long as it lives.
#[derive(Debug)]
pub(crate) struct Permit {
    counts: Vec<Arc<Count>>,
    which: fn(&Count) -> &AtomicUsize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        for count in &self.counts {
            (self.which)(count).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(database: &str, user: &str) -> PoolKey {
        PoolKey { database: database.into(), user: user.into(), access: Access::ReadWrite }
    }

    #[test]
    fn each_scope_has_its_limit() {
        let quotas = Quotas::default();
        let (one, two, other) =
            (quotas.of(&key("a", "u")), quotas.of(&key("a", "v")), quotas.of(&key("b", "u")));
        let held = [one.server([2, 3, 0]).unwrap(), one.server([2, 3, 0]).unwrap()];
        assert_eq!(one.server([2, 3, 0]).unwrap_err().setting(), "default_pool_size");
        let third = two.server([2, 3, 0]).unwrap();
        assert_eq!(two.server([2, 3, 0]).unwrap_err().setting(), "max_db_connections");
        assert_eq!(other.server([2, 3, 2]).unwrap_err().setting(), "max_user_connections");
        // What was refused has left nothing behind.
        assert_eq!((one.servers(), two.servers(), other.servers()), (2, 1, 0));
        drop((held, third));
        assert!(other.server([2, 3, 1]).is_ok() && one.servers() == 0);
        assert_eq!((one.clients(), one.client([0, 1, 1]).is_ok()), (0, true));
    }
}
