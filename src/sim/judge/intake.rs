//! Large commands that arrive: how much of them may be read at a time, and who waits for that.

use super::{Judge, Line, Role, View};
use crate::edge::ConnId;
use crate::limits::Limits;

impl Line {
    /// The length of a command of which much has arrived and not all, and whether much is read.
    fn begun(&self, view: View, limits: &Limits) -> Option<(usize, bool)> {
        let (Role::Controller(controller), Some((from, to, _))) =
            (&self.role, self.intents.front())
        else {
            return None;
        };
        // The length itself takes four bytes, and one byte stands at the end.
        let bytes = usize::try_from(to - from).ok()?.checked_sub(5)?;
        let is_much = |until: u64| {
            until > from + 4 + limits.control_frame_unauthenticated_bytes as u64 && until < *to
        };
        let is_begun = bytes <= limits.control_frame_bytes
            && is_much(view.delivered)
            && controller.was_somebody
            && !controller.is_ended;
        is_begun.then_some((bytes, is_much(view.consumed)))
    }

    /// Whether it may be that a large command is not read because others are.
    pub(super) fn may_wait_for_room(&self, view: View, limits: &Limits) -> bool {
        view.is_paused && self.begun(view, limits).is_some_and(|(_, is_read)| !is_read)
    }

    /// Whether it is not read for that and nothing else, if there is room for changes.
    pub(super) fn waits_for_room(&self, view: View, limits: &Limits) -> bool {
        self.may_wait_for_room(view, limits) && self.is_answered() && view.queued == 0
    }
}

impl Judge {
    /// All is quiet: no more is read than may be, and nobody waits for whom there is room.
    pub fn intake_at_rest(&self, views: &[(ConnId, View)]) {
        let limits = &self.limits;
        let lines = views.iter().filter_map(|(conn, view)| Some((self.lines.get(conn)?, *view)));
        let (mut read, mut readers, mut most, mut unsure) = (0, 0, None, 0);
        for (line, view) in lines {
            match line.begun(view, limits) {
                Some((bytes, true)) => (read, readers) = (read + bytes, readers + 1),
                Some((bytes, false)) if line.waits_for_room(view, limits) => {
                    most = most.max(Some(bytes));
                }
                // It may have room already, and not be read for something else.
                Some((bytes, false)) if view.is_paused => unsure += bytes,
                _ => {}
            }
        }
        assert!(readers < 2 || read <= self.input_max, "{read} bytes of large commands are read");
        let reserved = read + unsure;
        let is_free =
            most.is_some_and(|most| reserved == 0 || reserved + most <= limits.control_input_bytes);
        let may_wait = self.is_flooded() || self.is_disk_stuck;
        assert!(!is_free || may_wait, "a large command waits, and {read} bytes are read");
    }
}
