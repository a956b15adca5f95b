//! Start as a standby, and stream from the primary.

use mainstay_core::view::{Server, Upstream};
use mainstay_core::{Epoch, MemberId};

use crate::disk::Hba;
use crate::guard::GuardRequest;
use crate::member::lane::Next;
use crate::queue::MS;
use crate::world::World;

impl World {
    /// Starts a server that waits.
    pub(super) fn start_step(&mut self, machine: usize, lane: usize, step: u8) -> Next {
        match step {
            0 => {
                let tenure = self.member(machine).view.record.tenure().cloned();
                let next = self.write(machine, |files| {
                    (files.upstream, files.conninfo) = (None, None);
                    files.hba = Hba::Standby;
                    files.names = tenure.map(|tenure| tenure.names).unwrap_or_default();
                });
                if matches!(next, Next::Go(_)) {
                    self.member(machine).view.upstream = None;
                }
                next
            }
            1 => self.start_down(machine, lane),
            _ => Next::Done,
        }
    }

    pub(super) fn follow_step(
        &mut self,
        machine: usize,
        lane: usize,
        step: u8,
        (member, epoch): (&MemberId, Epoch),
    ) -> Next {
        match step {
            0 => {
                if epoch <= self.machines[machine].files.sealed {
                    return Next::Fail(format!("epoch {epoch} was left for good"));
                }
                self.check_follows_no_old_primary(machine, epoch);
                let upstream = Upstream { member: member.clone(), epoch };
                self.write(machine, |files| files.upstream = Some(upstream))
            }
            1 => self.write(machine, |files| {
                files.conninfo = files.upstream.clone();
                files.hba = Hba::Standby;
            }),
            2 => match self.member(machine).view.server {
                Server::Down { .. } => self.start_down(machine, lane),
                Server::Running(_) => self.through_guard(machine, lane, GuardRequest::Reload),
                Server::Unknown | Server::Ending => Next::Stay(10 * MS),
            },
            _ => {
                // While replay is paused no walreceiver is started.
                self.resume_replay(machine);
                let view = &mut self.member(machine).view;
                view.upstream = Some(Upstream { member: member.clone(), epoch });
                view.scan = None;
                Next::Done
            }
        }
    }
}
