//! The deadlines of a back end: to authenticate, to send the rest of a frame, to read its replies.
//! Each is set once, and arriving bytes do not extend it. This knows no connection; `control` keeps
//! one for each, and gives the net the earliest.

use crate::reason::CloseReason;
use crate::time::Millis;

/// The deadlines of one back end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Deadlines {
    /// When it must have authenticated; `None` once it has.
    auth_by: Option<Millis>,
    /// When an incomplete frame must be complete, and its total time in milliseconds.
    frame_by: Option<Millis>,
    frame_ms: u64,
    /// When its queued replies must have been read, while it is not read for that.
    replies_by: Option<Millis>,
    /// Since when it is not read: in that time it cannot send the rest of a frame.
    unheard_since: Option<Millis>,
    /// Since when that is for lack of room, not its own fault: then it cannot authenticate either.
    starved_since: Option<Millis>,
}

impl Deadlines {
    /// Sets when it must have authenticated; `None`: it has.
    pub fn auth_by(&mut self, by: Option<Millis>, now: Millis) {
        self.auth_by = by;
        self.starved_since = self.starved_since.map(|_| now);
    }

    /// Notes whether a frame is incomplete; one that has just begun gets `ms` milliseconds.
    pub fn frame(&mut self, is_midway: bool, now: Millis, ms: u64) {
        if !is_midway || self.frame_by.is_none() {
            (self.frame_by, self.frame_ms) = (is_midway.then(|| now.plus(ms)), ms);
        }
    }

    /// How long an incomplete frame has been waited for, and its total time, in milliseconds;
    /// `None` if there is none, or the connection is not read.
    pub fn waited(&self, now: Millis) -> Option<(u64, u64)> {
        let left = self.frame_by.filter(|_| self.unheard_since.is_none())?.0.saturating_sub(now.0);
        Some((self.frame_ms.saturating_sub(left), self.frame_ms))
    }

    /// Sets when its queued replies must have been read; `None`: they have been.
    pub fn replies(&mut self, by: Option<Millis>) {
        self.replies_by = by;
    }

    /// It is not read from now on, for a reason that it must remove itself.
    pub fn unheard(&mut self, now: Millis) {
        self.resumed(now);
        self.unheard_since.get_or_insert(now);
    }

    /// It is not read from now on, for lack of room.
    pub fn starved(&mut self, now: Millis) {
        self.unheard(now);
        self.starved_since = Some(now);
    }

    /// Lack of room is no longer the reason that it is not read: extends `auth_by` by that time.
    fn resumed(&mut self, now: Millis) {
        if let Some(since) = self.starved_since.take() {
            self.auth_by = self.auth_by.map(|by| by.plus(now.0.saturating_sub(since.0)));
        }
    }

    /// It is read again: its frame and its `auth` get the time that they had left, and no more.
    pub fn heard(&mut self, now: Millis) {
        self.resumed(now);
        if let Some(since) = self.unheard_since.take() {
            let unheard_ms = now.0.saturating_sub(since.0);
            self.frame_by = self.frame_by.map(|by| by.plus(unheard_ms));
        }
    }

    /// Drops all deadlines: it is closed as soon as it has the replies it is owed.
    pub fn give_up(&mut self) {
        *self = Deadlines::default();
    }

    /// The earliest deadline that is running.
    pub fn next(&self) -> Option<Millis> {
        let auth_by = self.auth_by.filter(|_| self.starved_since.is_none());
        let frame_by = self.frame_by.filter(|_| self.unheard_since.is_none());
        [auth_by, frame_by, self.replies_by].into_iter().flatten().min()
    }

    /// What it failed to do when the earliest deadline has passed.
    pub fn reason(&self, now: Millis) -> CloseReason {
        let is_over = |at: Option<Millis>| at.is_some_and(|at| at <= now);
        match (is_over(self.auth_by), self.replies_by) {
            (true, _) => CloseReason::ControlAuth,
            (false, Some(_)) => CloseReason::RepliesUnread,
            (false, None) => CloseReason::HalfRequest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_frame_keeps_its_remaining_time_across_pauses() {
        let mut deadlines = Deadlines::default();
        deadlines.auth_by(Some(Millis(5000)), Millis(0));
        deadlines.frame(true, Millis(200), 800);
        assert_eq!(deadlines.next(), Some(Millis(1000)));
        // More bytes of the frame do not extend its time.
        deadlines.frame(true, Millis(500), 1000);
        assert_eq!(deadlines.next(), Some(Millis(1000)));
        assert_eq!(deadlines.waited(Millis(600)), Some((400, 800)));
        for (from, to, left) in [(600, 2000, 2400), (2300, 2300, 2400), (2400, 9000, 9000)] {
            deadlines.unheard(Millis(from));
            deadlines.unheard(Millis(from + 50));
            assert_eq!(deadlines.next(), Some(Millis(5000)), "only the auth deadline runs");
            assert_eq!(deadlines.waited(Millis(from + 50)), None);
            deadlines.heard(Millis(to));
            assert_eq!(deadlines.next(), Some(Millis(left.min(5000))));
            deadlines.frame(true, Millis(to), 1000);
            assert_eq!(deadlines.waited(Millis(to)), Some((800 + to - left, 800)));
        }
        deadlines.auth_by(None, Millis(0));
        assert_eq!(deadlines.next(), Some(Millis(9000)));
        assert_eq!(deadlines.reason(Millis(9000)), CloseReason::HalfRequest);
        // The next frame has its own time.
        deadlines.frame(false, Millis(8500), 1000);
        assert_eq!((deadlines.next(), deadlines.waited(Millis(8500))), (None, None));
        deadlines.frame(true, Millis(8500), 1000);
        assert_eq!(deadlines.next(), Some(Millis(9500)));
    }

    #[test]
    fn the_auth_deadline_is_suspended_while_there_is_no_room() {
        let mut deadlines = Deadlines::default();
        deadlines.auth_by(Some(Millis(5000)), Millis(0));
        deadlines.starved(Millis(1000));
        deadlines.starved(Millis(1500));
        assert_eq!(deadlines.next(), None);
        deadlines.heard(Millis(9000));
        assert_eq!(deadlines.next(), Some(Millis(13_000)));
        // A connection that does not read its replies keeps its auth deadline.
        deadlines.unheard(Millis(10_000));
        assert_eq!(deadlines.next(), Some(Millis(13_000)));
        deadlines.starved(Millis(11_000));
        deadlines.unheard(Millis(12_000));
        assert_eq!(deadlines.next(), Some(Millis(14_000)));
        // It gets no more time than that if its key ends meanwhile.
        deadlines.starved(Millis(12_000));
        deadlines.auth_by(Some(Millis(18_000)), Millis(13_000));
        deadlines.heard(Millis(14_000));
        assert_eq!(deadlines.next(), Some(Millis(19_000)));
    }

    #[test]
    fn each_deadline_has_its_close_reason() {
        let mut deadlines = Deadlines::default();
        deadlines.auth_by(Some(Millis(100)), Millis(0));
        assert_eq!(deadlines.reason(Millis(100)), CloseReason::ControlAuth);
        deadlines.auth_by(None, Millis(0));
        deadlines.replies(Some(Millis(200)));
        assert_eq!(deadlines.next(), Some(Millis(200)));
        assert_eq!(deadlines.reason(Millis(200)), CloseReason::RepliesUnread);
        deadlines.give_up();
        assert_eq!(deadlines.next(), None);
    }
}
