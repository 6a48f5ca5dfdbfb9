//! Back ends that are owed replies: until when, and which of them go without.

use super::{ConnModel, Judge, Role};
use crate::edge::Door;
use crate::reason::CloseReason;
use crate::sim::tape::Item;

impl Judge {
    /// Whether a connection that had sent everything was closed without its replies, to make room
    /// for a newcomer. One must have been, if such a connection is owed any.
    pub(super) fn is_room_made(&mut self, items: &[Item]) -> bool {
        let may_go = |line: &ConnModel, is_owed: bool| {
            let Role::Controller(it) = &line.role else { return None };
            let has_said_all = it.is_ended && !it.waits && line.closing.is_none();
            (has_said_all && is_owed).then(|| it.fault.unwrap_or(CloseReason::Full))
        };
        let gone = items.iter().find_map(|item| match item {
            Item::Closing { conn, reason, was_open: true } => {
                let line = self.lines.get(conn)?;
                let is_owed = !line.is_answered();
                (may_go(line, is_owed) == Some(*reason)).then_some((*conn, *reason))
            }
            _ => None,
        });
        let mut owed = self.lines.values().filter(|line| !line.expected.is_empty());
        let must_be = owed.any(|line| may_go(line, true).is_some());
        assert!(gone.is_some() || !must_be, "nobody has made room who has said all");
        let Some((conn, reason)) = gone else { return false };
        if let Some(line) = self.lines.get_mut(&conn) {
            line.expected.clear();
        }
        self.close(conn, reason);
        true
    }

    /// Checks that all replies that may leave have left, unless they were too many for one turn.
    pub fn settled(&mut self, durable: u64, is_releasing: bool) {
        self.see_flood();
        self.durable = durable;
        if is_releasing {
            return;
        }
        for (conn, line) in &self.lines {
            let held_back = line.expected.front().filter(|due| due.by <= durable);
            assert!(held_back.is_none(), "{conn:?}: {held_back:?} is durable and was not sent");
        }
    }

    /// Once the last browser has gone, back ends are let go, and may leave their replies unread for
    /// as long as the stop takes.
    pub(super) fn note_last_call(&mut self) {
        let is_left = |line: &ConnModel| line.door() == Door::Web && !line.is_gone;
        if !self.is_stopping || self.is_last_call || self.lines.values().any(is_left) {
            return;
        }
        self.is_last_call = true;
        for line in self.lines.values_mut() {
            if let Role::Controller(controller) = &mut line.role {
                (controller.is_ended, controller.held_since) = (true, None);
            }
        }
    }
}
