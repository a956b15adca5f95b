//! What operators might ask for, fitting and not.

use mainstay_core::election::Missing;
use mainstay_core::record::{Command, Failover, Forced, Operate, Pause, Record, Scheduled};
use mainstay_core::{Epoch, Incarnation, Lsn, MemberId};

use crate::cluster::UNIX_MS;

/// `member`, `incarnation` and `lsn` are drawn; what an operator decides upon is mostly what was reported.
pub(super) fn wish(
    record: &Record,
    epoch: Epoch,
    (member, incarnation, lsn): (MemberId, Incarnation, Lsn),
    choice: u8,
) -> Command {
    let until_unix_ms = choice.is_multiple_of(2).then_some(UNIX_MS + u64::from(choice));
    let pause = Pause { by: "somebody".to_owned(), since_unix_ms: UNIX_MS, until_unix_ms };
    let to = choice.is_multiple_of(2).then(|| member.clone());
    let id = u64::from(choice % 3);
    Command::Operate(match choice % 16 {
        0 => Operate::Pause(pause),
        1 | 2 => Operate::Resume {},
        3 => Operate::Maintain { member, pause },
        4 => Operate::EndMaintenance { member },
        5 => Operate::Reinit { member, incarnation },
        6 => Operate::ForgetReinit { member },
        7 => Operate::Schedule(Scheduled { id, due_unix_ms: UNIX_MS + u64::from(choice), to }),
        8 => Operate::Due { id, epoch },
        9 => Operate::Withdraw { id, why: "asked for".to_owned() },
        10 | 11 => Operate::Failover(Failover { id, epoch, to }),
        _ => {
            let report = record.reports.get(&member);
            let end = report.map_or(lsn, |report| report.extent.end);
            Operate::Force(Forced {
                epoch,
                member,
                incarnation,
                end: if choice.is_multiple_of(3) { lsn } else { end },
                heard: lsn,
                missing: Missing::default(),
            })
        }
    })
}
