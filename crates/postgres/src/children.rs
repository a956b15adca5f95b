//! The postmaster's children, which the guard lists, and what the guard does to them on our behalf.

use std::future::Future;

/// A child of the postmaster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub pid: i32,
    /// Its process title, such as `postgres: walreceiver streaming 0/3000148`.
    pub title: String,
}

/// What a child does, read from its title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildKind {
    Walreceiver,
    Walsender,
    /// A connection that has not authenticated yet: no reload of `pg_hba.conf` reaches it any more.
    Unauthenticated,
    /// A session, or a process of an extension.
    Other,
}

impl Child {
    /// Titles begin with `postgres: `; `cluster_name`, which would come next, is kept empty.
    pub fn kind(&self) -> ChildKind {
        // Until its start-up packet has arrived a connection still has the postmaster's command line as its title.
        let Some(title) = self.title.strip_prefix("postgres: ") else { return ChildKind::Unauthenticated };
        if title.starts_with("walreceiver") {
            ChildKind::Walreceiver
        } else if title.starts_with("walsender ") {
            ChildKind::Walsender
        } else if title.ends_with(" authentication") || title.ends_with(" initializing") {
            ChildKind::Unauthenticated
        } else {
            ChildKind::Other
        }
    }
}

/// What the owner of the postmaster does for us: in production the guard.
pub trait PostmasterControl: Sync {
    type Error: std::error::Error + Send + Sync + 'static;

    /// Makes PostgreSQL read its configuration again (SIGHUP to the postmaster).
    fn reload(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Sends SIGTERM to children of the postmaster; one that is gone is no error. Never SIGKILL: PostgreSQL takes that
    /// for a crash of them all.
    fn terminate(&self, pids: &[i32]) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The postmaster's children at this moment.
    fn children(&self) -> impl Future<Output = Result<Vec<Child>, Self::Error>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_tell_what_a_child_does() {
        let kind = |title: &str| Child { pid: 1, title: title.to_owned() }.kind();
        assert_eq!(kind("postgres: walreceiver streaming 0/3000148"), ChildKind::Walreceiver);
        assert_eq!(kind("postgres: walreceiver"), ChildKind::Walreceiver);
        let walsender = "postgres: walsender mainstay_replication 127.0.0.1(40000) streaming 0/3000148";
        assert_eq!(kind(walsender), ChildKind::Walsender);
        assert_eq!(kind("postgres: app app 10.0.0.7(40000) authentication"), ChildKind::Unauthenticated);
        assert_eq!(kind("/usr/lib/postgresql/15/bin/postgres -D /m/data"), ChildKind::Unauthenticated);
        assert_eq!(kind("postgres: app app [local] idle"), ChildKind::Other);
        assert_eq!(kind("postgres: checkpointer"), ChildKind::Other);
    }
}
