//! Limits are the process's, pools the threads': who lacks room asks the others for it.
//!
//! A thread gives what it does not need, and of what it needs as much as makes the two of them even. A connection cannot change
//! its thread, so what goes from one to the other is the room for it, and each move costs a login: they are made at intervals.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Pool;
use crate::quota::Scope;
use crate::server::Server;
use crate::worker::Worker;

const ASK_INTERVAL: Duration = Duration::from_millis(50);

impl Pool {
    /// Asks whoever counts towards the limit that is reached.
    pub(super) fn ask_for_room(&self, worker: &Worker) {
        let now = Instant::now();
        let Some(scope) = self.full.borrow().clone() else { return };
        let is_soon = self.asked.get().is_some_and(|asked| now.duration_since(asked) < ASK_INTERVAL);
        // Within one pool there is nobody but the other threads to ask.
        if is_soon || matches!(scope, Scope::Pool(..)) && worker.shared.crew.size() == 1 {
            return;
        }
        self.asked.set(Some(now));
        let (asker, has) = (worker.index, self.live.borrow().len() + self.dialling());
        worker.shared.crew.tell(move |other| make_room(other, &scope, asker, has));
    }

    /// Gives an idle connection up; false if there is none.
    fn give_idle(&self, worker: &Worker, asker: usize, scope: &Scope) -> bool {
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            return false;
        }
        let server = idle.remove(0);
        drop(idle);
        self.give(worker, &server, asker, scope);
        true
    }

    /// Closes a connection for another thread's sake.
    fn give(&self, worker: &Worker, server: &Server, asker: usize, scope: &Scope) {
        let permit = server.backend.permit.take();
        self.forget(&server.backend);
        let scope = scope.clone();
        worker.shared.crew.tell_one(asker, move |asker| {
            // Room in a pool is handed over, so that nobody comes between.
            let mut permit = permit.filter(|_| matches!(scope, Scope::Pool(..)));
            for pool in asker.pools().iter().filter(|pool| scope.covers(&pool.key)) {
                if pool.waiting() > 0 {
                    pool.granted.borrow_mut().extend(permit.take());
                    pool.pump(asker);
                }
            }
        });
    }

    /// Gives a connection up that was just released, if one is owed.
    pub(super) fn pay(self: &Rc<Pool>, worker: &Rc<Worker>, server: &Server) -> bool {
        let Some(asker) = self.owed_to.take() else { return false };
        let key = &self.key;
        let scope = Scope::Pool(key.database.to_string(), key.access, key.user.to_string());
        self.give(worker, server, asker, &scope);
        true
    }
}

/// Another thread, or another pool of this one, has no room, and `has` so many connections itself.
fn make_room(worker: &Rc<Worker>, scope: &Scope, asker: usize, has: usize) {
    let is_pool = matches!(scope, Scope::Pool(..));
    if is_pool && worker.index == asker {
        return;
    }
    for pool in worker.pools().iter().filter(|pool| scope.covers(&pool.key)) {
        let own = pool.live.borrow().len();
        let is_needed = pool.waiting() > 0;
        if !is_pool {
            if !is_needed && pool.give_idle(worker, asker, scope) {
                return;
            }
        } else if own > 0 {
            let has_more = has == 0 || own > has + 1;
            let is_given = (has_more || !is_needed) && pool.give_idle(worker, asker, scope);
            if has_more && !is_given {
                pool.owed_to.set(Some(asker));
            }
        }
    }
}
