//! A directory that could follow as it is, is not copied anew: at a real size that takes hours, and a voter is missing for as
//! long.

use mainstay_core::MemberId;

use crate::postgres::Stage;
use crate::world::World;

impl World {
    /// `machine` is about to replace its directory by a copy of `member`'s.
    pub(crate) fn check_clone_is_needed(&mut self, machine: usize, member: &MemberId) {
        let Some(source) = self.machine_of(member) else { return };
        let place = &self.machines[machine];
        let record = place.member.as_ref().map(|member| &member.view.record);
        // An operator asked for it.
        if record.is_some_and(|record| record.operation.reinit.contains_key(&place.id)) {
            return;
        }
        let contents = (&place.data.content, &self.machines[source].data.content);
        let (Some(ours), Some(theirs)) = contents else { return };
        let serves = self.machines[source].live_server().is_some_and(|live| live.stage == Stage::Primary);
        // One that hangs in the middle of a promotion by hand is lost to every cheaper way.
        let hangs = place.server.as_ref().is_some_and(|server| server.stage == Stage::Promoting);
        let whole = !hangs && place.files.mark.is_none() && !ours.garbage && serves;
        let follows = self.wal.is_prefix(ours.written, theirs.durable);
        if whole && follows && self.wal.end(ours.durable) >= theirs.kept_from {
            self.violated("needless_clone", || {
                format!("machine {machine} is cloned from {member} and could follow it as it is")
            });
        }
    }
}
