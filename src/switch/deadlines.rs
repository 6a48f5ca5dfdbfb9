//! By when a back end must have done what: said who it is, sent the rest of a frame, read its
//! replies. Each is set once, and no byte moves it. Knows no connection; `control` keeps one of
//! these for each, and gives the net the earliest.

use crate::reason::CloseReason;
use crate::time::Millis;

/// The deadlines of one back end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Deadlines {
    /// It must have authenticated; none once it has.
    auth_by: Option<Millis>,
    /// The end of a half frame must be there.
    frame_by: Option<Millis>,
    /// Its replies must have been read, which it does not hurry to do.
    replies_by: Option<Millis>,
    /// Since when it is not heard: for so long it could not have sent the rest of a frame.
    unheard_since: Option<Millis>,
}

impl Deadlines {
    /// Of one who has just come.
    pub fn new(auth_by: Millis) -> Deadlines {
        Deadlines { auth_by: Some(auth_by), ..Deadlines::default() }
    }

    /// It has authenticated.
    pub fn admit(&mut self) {
        self.auth_by = None;
    }

    /// Whether half a frame is there, and if one has just begun, by when its end must be.
    pub fn frame(&mut self, is_midway: bool, by: Millis) {
        self.frame_by = is_midway.then(|| self.frame_by.unwrap_or(by));
    }

    /// Its replies wait, and must have been read by then; `None`: they have been.
    pub fn replies(&mut self, by: Option<Millis>) {
        self.replies_by = by;
    }

    /// It is not heard from now on.
    pub fn unheard(&mut self, now: Millis) {
        self.unheard_since.get_or_insert(now);
    }

    /// It is heard again: its frame has as much time as it had left, and no more.
    pub fn heard(&mut self, now: Millis) {
        if let Some(since) = self.unheard_since.take() {
            let unheard_ms = now.0.saturating_sub(since.0);
            self.frame_by = self.frame_by.map(|by| by.plus(unheard_ms));
        }
    }

    /// It is to be closed as soon as it has what it is owed, and is waited for in nothing else.
    pub fn give_up(&mut self) {
        *self = Deadlines::default();
    }

    /// The earliest of them.
    pub fn next(&self) -> Option<Millis> {
        let frame_by = self.frame_by.filter(|_| self.unheard_since.is_none());
        [self.auth_by, frame_by, self.replies_by].into_iter().flatten().min()
    }

    /// What it has failed to do when the earliest has come.
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
    fn half_a_frame_has_its_time_once_however_often_it_is_not_heard() {
        let mut deadlines = Deadlines::new(Millis(5000));
        deadlines.frame(true, Millis(1000));
        assert_eq!(deadlines.next(), Some(Millis(1000)));
        // More of it has come: that is no more time.
        deadlines.frame(true, Millis(1500));
        assert_eq!(deadlines.next(), Some(Millis(1000)));
        for (from, to, left) in [(600, 2000, 2400), (2300, 2300, 2400), (2400, 9000, 9000)] {
            deadlines.unheard(Millis(from));
            deadlines.unheard(Millis(from + 50));
            assert_eq!(deadlines.next(), Some(Millis(5000)), "only who it is");
            deadlines.heard(Millis(to));
            assert_eq!(deadlines.next(), Some(Millis(left.min(5000))));
            deadlines.frame(true, Millis(to + 1000));
        }
        deadlines.admit();
        assert_eq!(deadlines.next(), Some(Millis(9000)));
        assert_eq!(deadlines.reason(Millis(9000)), CloseReason::HalfRequest);
        // The next frame has its own time.
        deadlines.frame(false, Millis(9500));
        assert_eq!(deadlines.next(), None);
        deadlines.frame(true, Millis(9500));
        assert_eq!(deadlines.next(), Some(Millis(9500)));
    }

    #[test]
    fn each_has_its_reason() {
        let mut deadlines = Deadlines::new(Millis(100));
        assert_eq!(deadlines.reason(Millis(100)), CloseReason::ControlAuth);
        deadlines.admit();
        deadlines.replies(Some(Millis(200)));
        assert_eq!(deadlines.next(), Some(Millis(200)));
        assert_eq!(deadlines.reason(Millis(200)), CloseReason::RepliesUnread);
        deadlines.give_up();
        assert_eq!(deadlines.next(), None);
    }
}
