//! The guard, as the crate for PostgreSQL wants it.

use mainstay_guard::GuardClient;

/// The guard, as the crate for PostgreSQL wants it.
pub(crate) struct Postmaster(pub(crate) GuardClient);

impl mainstay_postgres::children::PostmasterControl for Postmaster {
    type Error = mainstay_guard::ClientError;

    async fn reload(&self) -> Result<(), Self::Error> {
        self.0.reload().await
    }

    async fn terminate(&self, pids: &[i32]) -> Result<(), Self::Error> {
        self.0.terminate(pids.to_vec()).await.map(|_| ())
    }

    async fn children(&self) -> Result<Vec<mainstay_postgres::children::Child>, Self::Error> {
        let child = |child: mainstay_guard::Child| mainstay_postgres::children::Child {
            pid: child.pid,
            title: child.title,
        };
        Ok(self.0.children().await?.into_iter().map(child).collect())
    }
}
