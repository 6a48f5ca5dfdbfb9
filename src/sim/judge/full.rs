//! Which back ends wait for a hung disk. While its queue is full, a command waits if it would be
//! recorded or is too long to be examined, and so does what stands behind it; whatever else back
//! ends send is executed and answered, whether it arrives in pieces or not.

use super::expected::Expected;
use super::{ConnModel, Due, Judge, Role, View};
use crate::edge::ConnId;
use crate::limits::Limits;
use crate::sim::intent::{Command, Intent};

/// What is known about waiting for the disk.
#[derive(Debug, Default)]
pub(in crate::sim) struct DiskWait {
    /// The queue of changes for the disk is full.
    pub is_full: bool,
    /// A connection waited for the disk when all was at rest last.
    pub is_met: bool,
    /// Times that one did, and commands that were executed meanwhile.
    pub waited: u64,
    pub heard: u64,
}

impl ConnModel {
    /// Whether its next command must wait until more can be recorded.
    fn waits_for_disk(&self, limits: &Limits, delivered: u64) -> bool {
        let (Role::Controller(controller), Some((from, to, intent))) =
            (&self.role, self.intents.front())
        else {
            return false;
        };
        let is_command = matches!(intent, Intent::Command(_) | Intent::NotJson);
        let few = limits.control_frame_unauthenticated_bytes as u64;
        let is_recorded = match intent {
            Intent::Command(
                Command::Register { has_key, .. }
                | Command::Remove { has_key, .. }
                | Command::Rotate { has_key, .. },
            ) => *has_key,
            Intent::Command(Command::Store(_) | Command::Grant { .. }) => controller.auth.is_some(),
            _ => false,
        };
        // The length comes first; a short command is examined when it is whole.
        let is_long = is_command && to - from > few + 5 && from + 4 <= delivered;
        is_long || is_recorded && *to <= delivered
    }

    /// Whether so many replies wait that no commands are read; a list counts as all that may wait.
    fn is_behind(&self, limits: &Limits) -> bool {
        let bytes = |due: &Due| match &due.what {
            Expected::Reply(body) => body.len(),
            _ => limits.control_replies_pause_bytes,
        };
        self.expected.len() >= limits.control_replies_waiting
            || self.expected.iter().map(bytes).sum::<usize>() >= limits.control_replies_pause_bytes
    }
}

impl Judge {
    /// Checks at rest that a paused back end has a reason, and others have no command waiting.
    pub(super) fn waits_rightly(&mut self, conn: ConnId, view: View) {
        let (limits, line) = (&self.limits, &self.lines[&conn]);
        let Role::Controller(controller) = &line.role else { return };
        if controller.is_ended {
            return;
        }
        if !view.is_paused {
            let whole = line.intents.front().filter(|(_, to, _)| *to <= view.delivered);
            assert!(whole.is_none(), "{conn:?} has said {whole:?}, and is not heard");
            return;
        }
        let is_busy = controller.waits || controller.deferred.is_some() || view.queued > 0;
        let has_other = is_busy || line.is_behind(limits) || line.may_wait_for_room(view, limits);
        if has_other || !self.is_disk_stuck || self.is_flooded() {
            return;
        }
        let is_right = self.disk_wait.is_full && line.waits_for_disk(limits, view.delivered);
        assert!(is_right, "{conn:?} waits for a disk that it does not need: {line:?}");
        (self.disk_wait.is_met, self.disk_wait.waited) = (true, self.disk_wait.waited + 1);
    }
}
