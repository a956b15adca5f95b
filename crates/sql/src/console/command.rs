//! What changes something.

use std::rc::Rc;
use std::time::Duration;

use mainstay_pgwire::backend::Report;

use crate::closing::Closing;
use crate::crew::Crew;
use crate::halts::Which;
use crate::refusal;
use crate::worker::{Shared, Worker};

/// How often it is looked whether what is waited for has come.
pub(super) const LOOK: Duration = Duration::from_millis(10);

pub(crate) enum Command {
    Pause(Which),
    Resume(Which),
    Disable(Which),
    Enable(Which),
    Reconnect(Which),
    WaitClose(Which),
    Kill(Which),
    KillClient(String),
    Shutdown(Closing),
    Reload,
}

impl Command {
    pub(crate) fn parse(verb: &str, operands: &[&str]) -> Option<Command> {
        let which = || match operands {
            [] => Some(Which::all()),
            [name] => Some(Which::named(name.trim_matches('"'))),
            _ => None,
        };
        let one = || which().filter(|_| operands.len() == 1);
        Some(match verb {
            "PAUSE" => Command::Pause(which()?),
            "RESUME" => Command::Resume(which()?),
            "DISABLE" => Command::Disable(one()?),
            "ENABLE" => Command::Enable(one()?),
            "RECONNECT" => Command::Reconnect(which()?),
            "WAIT_CLOSE" => Command::WaitClose(which()?),
            "KILL" => Command::Kill(which()?),
            "KILL_CLIENT" => Command::KillClient((*operands.first()?).to_owned()),
            "SHUTDOWN" => Command::Shutdown(closing(operands)?),
            "RELOAD" if operands.is_empty() => Command::Reload,
            _ => return None,
        })
    }

    /// `None` if whoever gave it has gone meanwhile.
    pub(crate) async fn execute(
        self,
        shared: &Shared,
        interrupted: impl Future<Output = Interruption>,
    ) -> Option<Result<&'static str, Report>> {
        let crew = &shared.crew;
        Some(Ok(match self {
            Command::Pause(which) => return pause(crew, which, interrupted).await,
            Command::Resume(which) => {
                if !crew.ask(move |worker| worker.resume(&which)).await.contains(&true) {
                    let report = Report::error("55000", "nothing of that is paused");
                    return Some(Err(report.hint("SHOW DATABASES tells which databases are.")));
                }
                "RESUME"
            }
            Command::Disable(which) => {
                crew.ask(move |worker| worker.disable(&which)).await;
                "DISABLE"
            }
            Command::Enable(which) => {
                crew.ask(move |worker| worker.enable(&which)).await;
                "ENABLE"
            }
            Command::Reconnect(which) => {
                let reconnect = move |worker: &Rc<Worker>| {
                    worker.pools_of(&which).iter().for_each(|pool| pool.reconnect(worker));
                };
                crew.ask(reconnect).await;
                "RECONNECT"
            }
            Command::WaitClose(which) => {
                let is_over = |(_, retired)| retired == 0;
                match wait(crew, &which, is_over, interrupted).await? {
                    Ok(()) => "WAIT_CLOSE",
                    Err(report) => return Some(Err(report)),
                }
            }
            Command::Kill(which) => {
                crew.ask(move |worker| worker.kill(&which)).await;
                "KILL"
            }
            Command::KillClient(id) => match kill_client(crew, &id).await {
                Ok(()) => "KILL_CLIENT",
                Err(report) => return Some(Err(report)),
            },
            Command::Shutdown(how) => {
                let _ = shared.end.send(how);
                "SHUTDOWN"
            }
            Command::Reload => match crate::operator::reload(shared).await {
                Ok(()) => "RELOAD",
                Err(why) => {
                    return Some(Err(Report::error(
                        "55000",
                        format!("the settings are as they were: {why}"),
                    )));
                }
            },
        }))
    }
}

/// Why a command that waits does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    Gone,
    Cancelled,
}

fn closing(operands: &[&str]) -> Option<Closing> {
    let operand = operands.first().map(|operand| operand.to_ascii_uppercase());
    match (operand.as_deref(), operands.len()) {
        (None, _) => Some(Closing::Soon),
        (Some("WAIT_FOR_SERVERS"), 1) => Some(Closing::WhenServersFree),
        (Some("WAIT_FOR_CLIENTS"), 1) => Some(Closing::WhenClientsGone),
        _ => None,
    }
}

/// Answers when the last server has been let go. If it is interrupted before that, nothing has happened.
async fn pause(
    crew: &Crew,
    which: Which,
    interrupted: impl Future<Output = Interruption>,
) -> Option<Result<&'static str, Report>> {
    let halted = which.clone();
    if !crew.ask(move |worker| worker.pause(&halted)).await.contains(&true) {
        let report = Report::error("55000", "that is paused already");
        return Some(Err(report.hint("RESUME lets it go on.")));
    }
    let outcome = wait(crew, &which, |(servers, _)| servers == 0, interrupted).await;
    if !matches!(outcome, Some(Ok(()))) {
        crew.ask(move |worker| worker.resume(&which)).await;
    }
    Some(outcome?.map(|()| "PAUSE"))
}

/// Waits until the servers that are left, and those of them that are to be closed, are as wanted.
async fn wait(
    crew: &Crew,
    which: &Which,
    is_over: impl Fn((usize, usize)) -> bool,
    interrupted: impl Future<Output = Interruption>,
) -> Option<Result<(), Report>> {
    let mut interrupted = std::pin::pin!(interrupted);
    loop {
        let which = which.clone();
        let left = crew.ask(move |worker| worker.servers_left(&which)).await;
        if is_over(left.into_iter().fold((0, 0), |(all, old), more| (all + more.0, old + more.1))) {
            return Some(Ok(()));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            why = &mut interrupted => return match why {
                Interruption::Gone => None,
                Interruption::Cancelled => {
                    Some(Err(Report::error("57014", "canceling statement due to user request")))
                }
            },
        }
    }
}

async fn kill_client(crew: &Crew, id: &str) -> Result<(), Report> {
    let kill = |pid: i32| {
        move |worker: &Rc<Worker>| {
            let entry = worker.clients().into_iter().find(|entry| entry.pid == pid);
            let entry = entry.inspect(|entry| entry.end(refusal::killed("an administrator has ended it")));
            entry.is_some()
        }
    };
    if let Ok(pid) = id.parse()
        && crew.ask(kill(pid)).await.contains(&true)
    {
        return Ok(());
    }
    Err(Report::error("42704", format!("there is no client {id}")).hint("SHOW CLIENTS lists them by id."))
}
