//! Large commands that arrive: how much of them may be read at a time, and which ones wait.

use std::collections::BTreeMap;

use super::{ConnModel, Judge, Pending, Role, View};
use crate::edge::{ConnId, Door};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::Millis;

/// How long a command has its room for certain, and the most time between two checks of the server.
const GRACE_MS: u64 = 1000;
const LOOK_MS: u64 = 100;

impl ConnModel {
    /// The length of a command that has arrived in large part, and whether so much of it is read.
    fn begun(&self, view: View, limits: &Limits) -> Option<(usize, bool)> {
        let (Role::Controller(controller), Some((from, to, _))) =
            (&self.role, self.intents.front())
        else {
            return None;
        };
        // The first four bytes are the length, and the last byte ends the frame.
        let bytes = usize::try_from(to - from).ok()?.checked_sub(5)?;
        let is_much = |until: u64| {
            until > from + 4 + limits.control_frame_unauthenticated_bytes as u64 && until < *to
        };
        let is_begun = bytes <= limits.control_frame_bytes
            && is_much(view.delivered)
            && controller.was_authenticated
            && !controller.is_ended;
        is_begun.then_some((bytes, is_much(view.consumed)))
    }

    /// Whether, at its pace since it has had room and been read, it will not be whole in time.
    fn is_late(&self, bytes: usize, now: Millis) -> bool {
        // Without these it may have had no room when all was at rest last.
        let (Some((from, since)), Some(half)) = (self.half_at_rest, self.half) else {
            return false;
        };
        let (arrived, of) = (self.delivered - from - 4, half.ms.1 as u64);
        let ms = (now.0 - since.0).saturating_sub(GRACE_MS + LOOK_MS);
        arrived * of < ms * bytes as u64
    }

    /// The namespace of a back end.
    fn tenant(&self) -> Option<u32> {
        match &self.role {
            Role::Controller(controller) => controller.auth.as_ref().map(|(space, _)| *space),
            _ => None,
        }
    }

    /// Whether a large command may be waiting because others are being read.
    pub(super) fn may_wait_for_room(&self, view: View, limits: &Limits) -> bool {
        view.is_paused && self.begun(view, limits).is_some_and(|(_, is_read)| !is_read)
    }

    /// Whether it waits for that and nothing else, if there is room for changes.
    pub(super) fn waits_for_room(&self, view: View, limits: &Limits) -> bool {
        self.may_wait_for_room(view, limits) && self.is_answered() && view.queued == 0
    }
}

impl Judge {
    /// The reason, if this back end may be closed because its half command has to make room for
    /// another's: it is owed nothing. Whether the command was large by the limits when it reserved
    /// room, and how much of its time it had before it was paused, only the server knows.
    pub(super) fn in_the_way(&self, conn: ConnId) -> Option<CloseReason> {
        // It may all have arrived unread, and one whose key has changed may still be waiting.
        let is_begun = |line: &ConnModel| {
            let is_back_end = line.door() == Door::Control && line.closing.is_none();
            is_back_end && line.intents.front().is_some_and(|(from, ..)| *from < line.delivered)
        };
        let line = &self.lines[&conn];
        let mut others = self.lines.iter().filter(|(other, _)| **other != conn);
        let is_in_the_way =
            is_begun(line) && line.is_answered() && others.any(|(_, other)| is_begun(other));
        is_in_the_way.then_some(CloseReason::Full)
    }

    /// New limits hold: commands that may be waiting for room are timed by these once they have it.
    pub(super) fn reload_halves(&mut self) {
        let ms = self.limits.control_frame_ms;
        for line in self.lines.values_mut() {
            let is_large = line.intents.front().is_some_and(|(from, to, _)| {
                to - from > self.limits.control_frame_unauthenticated_bytes as u64
            });
            if let Some(half) = line.half.as_mut().filter(|_| is_large) {
                half.ms = (half.ms.0.min(ms), half.ms.1.max(ms));
            }
        }
    }

    /// Checks at rest that no more is read than permitted, and that no command waits that fits.
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
                // It may have room already, and be paused for another reason.
                Some((bytes, false)) if view.is_paused => unsure += bytes,
                _ => {}
            }
        }
        assert!(readers < 2 || read <= self.input_max, "{read} bytes of large commands are read");
        let reserved = read + unsure;
        let is_free =
            most.is_some_and(|most| reserved == 0 || reserved + most <= limits.control_input_bytes);
        // A long emit keeps the room of its command.
        let has_long_emit = |pending: &Pending| pending.of.is_some();
        let is_kept = !self.long_emits.is_empty() || self.pending.values().any(has_long_emit);
        let may_wait = self.is_flooded() || self.is_disk_stuck || is_kept;
        if !may_wait {
            self.nobody_keeps_out_others(views);
        }
        assert!(!is_free || may_wait, "a large command waits, and {read} bytes are read");
    }

    /// Checks that while a command waits, none keeps its room that is late, or whose namespace has
    /// more than that of a waiting one would have.
    fn nobody_keeps_out_others(&self, views: &[(ConnId, View)]) {
        let (limits, now) = (&self.limits, self.now.mono);
        let lines = views.iter().filter_map(|(conn, view)| Some((self.lines.get(conn)?, *view)));
        let mut shares: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        let (mut least, mut holders) = (usize::MAX, Vec::new());
        let lines: Vec<(&ConnModel, View)> = lines.collect();
        for (line, view) in &lines {
            match line.begun(*view, limits) {
                Some((bytes, true)) => {
                    *shares.entry(line.tenant()).or_default() += bytes;
                    let is_heard = !view.is_paused && line.is_answered() && view.queued == 0;
                    holders.extend(is_heard.then_some((*line, bytes)));
                }
                // It may have room, and be paused for another reason: then nothing is certain.
                Some((_, false)) if view.is_paused && !line.waits_for_room(*view, limits) => return,
                _ => {}
            }
        }
        for (line, view) in &lines {
            if let Some((bytes, false)) = line.begun(*view, limits)
                && view.is_paused
            {
                let has = shares.get(&line.tenant()).copied().unwrap_or_default();
                least = least.min(has + bytes);
            }
        }
        for (line, bytes) in holders.into_iter().filter(|_| least < usize::MAX) {
            let since = match line.half_at_rest {
                Some((_, since)) => since,
                None => now,
            };
            let is_ripe = since.plus(GRACE_MS + LOOK_MS) <= now;
            let has_more = is_ripe && shares.get(&line.tenant()).is_some_and(|has| *has > least);
            assert!(!line.is_late(bytes, now) && !has_more, "{line:?} keeps out others");
        }
    }
}
