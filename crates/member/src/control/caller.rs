//! Who may use the control socket: told by the kernel, not by the caller.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use mainstay_postgres::tools::RunAs;
use nix::unistd::{Gid, User, chown, geteuid};
use tokio::net::UnixListener;

use super::Refuse;

/// Who asks.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// The user id of the process that has connected (`SO_PEERCRED`).
    Local { uid: Option<u32> },
    /// Such a one on the machine of another member.
    Member { name: String },
    /// A SQL proxy on a machine of its own.
    SqlProxy { name: String },
    /// Somebody whom the record lets in from anywhere, or who reads what everybody may.
    Client { name: String },
}

impl Caller {
    /// Who may come in is said on a member's machine, where nothing can be forged from afar.
    pub(super) fn admits(&self) -> Result<(), Refuse> {
        self.is_among_members("see, let in or dismiss clients", "run on a member's machine: mainstay client")
    }

    /// What passwords are checked by is a secret, which stays among the members and those who check passwords for them.
    pub(super) fn reads_verifiers(&self) -> Result<(), Refuse> {
        if let Caller::SqlProxy { .. } = self {
            return Ok(());
        }
        self.is_among_members("see what passwords are checked by", "ask on the control socket of a member")
    }

    /// Faults are caused on the word of somebody who is on a member's machine.
    pub(super) fn may_drill(&self) -> Result<(), Refuse> {
        self.is_among_members("cause faults", "run on a member's machine: mainstay drill")
    }

    fn is_among_members(&self, what: &str, remedy: &'static str) -> Result<(), Refuse> {
        match self {
            Caller::Local { .. } | Caller::Member { .. } => Ok(()),
            Caller::SqlProxy { name } | Caller::Client { name } => {
                Err(Refuse::forbidden(format!("{name} cannot {what}")).remedy(remedy))
            }
        }
    }

    /// Who asks, for people.
    pub(super) fn name(&self) -> String {
        match self {
            Caller::Local { uid: Some(uid) } => name(*uid),
            Caller::Local { uid: None } => "an unknown user".to_owned(),
            Caller::Member { name } | Caller::SqlProxy { name } | Caller::Client { name } => name.clone(),
        }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Caller {
        Caller::Local { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

/// The users that may use the control socket: root, the member's own, and PostgreSQL's.
#[derive(Clone, Debug)]
pub(crate) struct Callers {
    uids: Vec<u32>,
    /// PostgreSQL's group, where that is another user's than the member's.
    group: Option<u32>,
}

impl Callers {
    pub(crate) fn new(run_as: Option<&RunAs>) -> Callers {
        let uids = [0, geteuid().as_raw()].into_iter().chain(run_as.map(|user| user.uid)).collect();
        Callers { uids, group: run_as.map(|user| user.gid) }
    }

    /// Lets them connect. The group may have more members than PostgreSQL's user: those are refused by their id.
    pub(super) fn open(&self, socket: &Path) -> std::io::Result<()> {
        let mode = match self.group {
            Some(group) => {
                chown(socket, None, Some(Gid::from_raw(group)))?;
                0o660
            }
            None => 0o600,
        };
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode))
    }

    /// Refuses everybody else on all of the router's routes.
    pub(super) fn guard(self, router: Router) -> Router {
        router.layer(from_fn_with_state(self, check))
    }

    fn judge(&self, caller: &Caller) -> Result<(), Refuse> {
        match caller {
            Caller::Local { uid: Some(uid) } if self.uids.contains(uid) => Ok(()),
            caller => {
                let who = caller.name();
                let may: Vec<String> = self.names();
                Err(Refuse::forbidden(format!("{who} may not use the control socket"))
                    .remedy(format!("ask as {}", may.join(" or "))))
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let mut uids = self.uids.clone();
        uids.sort_unstable();
        uids.dedup();
        uids.into_iter().map(name).collect()
    }
}

fn name(uid: u32) -> String {
    User::from_uid(uid.into()).ok().flatten().map_or_else(|| format!("user {uid}"), |user| user.name)
}

async fn check(
    State(callers): State<Callers>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match callers.judge(&caller) {
        Ok(()) => next.run(request).await,
        Err(refuse) => refuse.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_member_and_postgresql_may_ask_and_nobody_else() {
        let callers = Callers { uids: vec![0, 500, 600], group: Some(600) };
        for uid in [0, 500, 600] {
            assert_eq!(callers.judge(&Caller::Local { uid: Some(uid) }), Ok(()));
        }
        for uid in [Some(501), None] {
            let refused = callers.judge(&Caller::Local { uid }).unwrap_err();
            let refused = format!("{refused:?}");
            assert!(refused.contains("403") && refused.contains("ask as root or "), "{refused}");
        }
    }
}
