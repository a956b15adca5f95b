//! How a member comes to its end, and what is said of it.

use tokio::sync::watch;
use tracing::{debug, info};

use super::{Finish, Member, MemberError};
use crate::guard_link::GuardState;
use crate::machinery::Machinery;
use crate::main_loop::Ended;
use crate::promise::durably;

impl Member {
    pub(super) async fn end(
        &self,
        ended: Ended,
        machinery: &Machinery,
        guard_state: &watch::Sender<GuardState>,
    ) -> Result<Finish, MemberError> {
        match ended {
            Ended::Stopped => {
                self.dismiss(machinery, guard_state).await;
                info!("stopped");
                Ok(Finish::Stopped)
            }
            Ended::Left => {
                info!("left; PostgreSQL goes on until its lease ends");
                Ok(Finish::Left)
            }
            Ended::Removed => {
                self.dismiss(machinery, guard_state).await;
                Err(MemberError::Removed { data: self.layout.data().to_owned() })
            }
            Ended::LeftBehind { by } => {
                self.dismiss(machinery, guard_state).await;
                // Or it would come back with others of its kind as a majority of what is no more.
                let (promises, promised) = (self.promises.clone(), by.clone());
                durably("the promise not to come back", move || promises.leave(&promised)).await?;
                Err(MemberError::LeftBehind { by, data: self.layout.data().to_owned() })
            }
            Ended::Superseded => Err(MemberError::Superseded),
            Ended::TooOld { why } => Err(MemberError::TooOld(why)),
            Ended::OtherLease { cluster } => {
                Err(MemberError::OtherLease { file: self.configuration.lease, cluster })
            }
        }
    }

    /// Nothing runs any more: the guard is not needed either.
    async fn dismiss(&self, machinery: &Machinery, guard_state: &watch::Sender<GuardState>) {
        machinery.vip.end().await;
        machinery.sql_proxy.end().await;
        guard_state.send_modify(|state| state.dismissed = true);
        if let Ok(guard) = machinery.guard()
            && let Err(error) = guard.quit(false).await
        {
            debug!(%error, "the guard goes on");
        }
        let _ = std::fs::remove_file(self.layout.state_dir().join("member.pid"));
    }
}
