//! A router that knows what is in it, so that the documents can be held against it.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};

/// Routes that answer from an `S`.
pub(super) struct Routes<S> {
    router: Router<S>,
    listed: Vec<(&'static str, &'static str)>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub(super) fn new() -> Routes<S> {
        Routes { router: Router::new(), listed: Vec::new() }
    }

    /// Answers `GET` and `HEAD`.
    pub(super) fn get<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Routes<S> {
        self.on(MethodFilter::GET, "GET", path, handler)
    }

    /// As [`Routes::get`], and `OPTIONS`, which some load balancers ask with.
    pub(super) fn asked<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Routes<S> {
        self.on(MethodFilter::GET.or(MethodFilter::OPTIONS), "GET", path, handler)
    }

    pub(super) fn post<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Routes<S> {
        self.on(MethodFilter::POST, "POST", path, handler)
    }

    fn on<T: 'static>(
        mut self,
        filter: MethodFilter,
        method: &'static str,
        path: &'static str,
        handler: impl Handler<T, S>,
    ) -> Routes<S> {
        self.listed.push((method, path));
        self.router = self.router.route(path, on(filter, handler));
        self
    }

    /// Method and path of each, in their order.
    pub(super) fn listed(self) -> Vec<(&'static str, &'static str)> {
        self.listed
    }

    pub(super) fn router(self, state: S) -> Router {
        self.router.with_state(state)
    }
}
