//! Large commands that arrive: how much of them may be read at a time, and who waits for that.

use super::{Judge, Line, Role, View};
use crate::edge::ConnId;
use crate::limits::Limits;

impl Line {
    /// The length of a large command that has begun, and whether it is being read.
    fn begun(&self, view: View, limits: &Limits) -> Option<(usize, bool)> {
        let (Role::Controller(controller), Some((from, to, _))) =
            (&self.role, self.intents.front())
        else {
            return None;
        };
        // The length itself takes four bytes, and one byte stands at the end.
        let bytes = usize::try_from(to - from).ok()?.checked_sub(5)?;
        let sizes = limits.control_frame_unauthenticated_bytes + 1..=limits.control_frame_bytes;
        let is_begun = sizes.contains(&bytes)
            && from + 4 <= view.delivered
            && controller.was_somebody
            && !controller.is_ended;
        is_begun.then_some((bytes, view.consumed > *from))
    }

    /// Whether it may be that a large command is not read because others are.
    pub(super) fn may_wait_for_room(&self, view: View, limits: &Limits) -> bool {
        view.is_paused && self.begun(view, limits).is_some_and(|(_, is_read)| !is_read)
    }
}

impl Judge {
    /// All is quiet: no more is read than may be, and nobody waits for whom there is room.
    pub fn intake_at_rest(&self, views: &[(ConnId, View)]) {
        let limits = &self.limits;
        let lines = views.iter().filter_map(|(conn, view)| Some((self.lines.get(conn)?, *view)));
        let (mut read, mut readers, mut most, mut is_sure) = (0, 0, None, false);
        for (line, view) in lines {
            match line.begun(view, limits) {
                Some((bytes, true)) => (read, readers) = (read + bytes, readers + 1),
                Some((bytes, false)) if view.is_paused => {
                    most = most.max(Some(bytes));
                    // It waits for nothing else.
                    is_sure |= line.is_answered() && view.queued == 0;
                }
                _ => {}
            }
        }
        assert!(readers < 2 || read <= self.input_max, "{read} bytes of large commands are read");
        let is_free =
            read == 0 || most.is_some_and(|most| read + most <= limits.control_input_bytes);
        let may_wait = self.is_flooded() || self.is_disk_stuck || !is_sure;
        assert!(!is_free || may_wait, "a large command waits, and {read} bytes are read");
    }
}
