//! By when a back end must have done what: said who it is, sent the rest of a frame, read its
//! replies. Each is set once, and no byte moves it. Knows no connection; `control` keeps one of
//! these for each, and gives the net the earliest.

use crate::reason::CloseReason;
use crate::time::Millis;

/// The deadlines of one back end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Deadlines {
    /// It must have authenticated; none while it is somebody.
    auth_by: Option<Millis>,
    /// The end of a half frame must be there, and how long it has in all, in milliseconds.
    frame_by: Option<Millis>,
    frame_ms: u64,
    /// Its replies must have been read, which it does not hurry to do.
    replies_by: Option<Millis>,
    /// Since when it is not heard: for so long it could not have sent the rest of a frame.
    unheard_since: Option<Millis>,
    /// Since when that is for want of room, and no fault of its own: nor could it say who it is.
    starved_since: Option<Millis>,
}

impl Deadlines {
    /// It must have authenticated by then; `None`: it has.
    pub fn auth_by(&mut self, by: Option<Millis>, now: Millis) {
        self.auth_by = by;
        self.starved_since = self.starved_since.map(|_| now);
    }

    /// Whether half a frame is there, and if one has just begun, how long it has.
    pub fn frame(&mut self, is_midway: bool, now: Millis, ms: u64) {
        if !is_midway || self.frame_by.is_none() {
            (self.frame_by, self.frame_ms) = (is_midway.then(|| now.plus(ms)), ms);
        }
    }

    /// For how long half a frame has been waited for, and how long it has in all, in milliseconds;
    /// `None` if there is none, or it is not heard.
    pub fn waited(&self, now: Millis) -> Option<(u64, u64)> {
        let left = self.frame_by.filter(|_| self.unheard_since.is_none())?.0.saturating_sub(now.0);
        Some((self.frame_ms.saturating_sub(left), self.frame_ms))
    }

    /// Its replies wait, and must have been read by then; `None`: they have been.
    pub fn replies(&mut self, by: Option<Millis>) {
        self.replies_by = by;
    }

    /// It is not heard from now on, and has to see to that itself.
    pub fn unheard(&mut self, now: Millis) {
        self.fed(now);
        self.unheard_since.get_or_insert(now);
    }

    /// It is not heard from now on, for want of room.
    pub fn starved(&mut self, now: Millis) {
        self.unheard(now);
        self.starved_since = Some(now);
    }

    /// It is not want of room any more for which it is not heard.
    fn fed(&mut self, now: Millis) {
        if let Some(since) = self.starved_since.take() {
            self.auth_by = self.auth_by.map(|by| by.plus(now.0.saturating_sub(since.0)));
        }
    }

    /// It is heard again: its frame, and to say who it is, it has as much time as it had left, and
    /// no more.
    pub fn heard(&mut self, now: Millis) {
        self.fed(now);
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
        let auth_by = self.auth_by.filter(|_| self.starved_since.is_none());
        let frame_by = self.frame_by.filter(|_| self.unheard_since.is_none());
        [auth_by, frame_by, self.replies_by].into_iter().flatten().min()
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
        let mut deadlines = Deadlines::default();
        deadlines.auth_by(Some(Millis(5000)), Millis(0));
        deadlines.frame(true, Millis(200), 800);
        assert_eq!(deadlines.next(), Some(Millis(1000)));
        // More of it has come: that is no more time.
        deadlines.frame(true, Millis(500), 1000);
        assert_eq!(deadlines.next(), Some(Millis(1000)));
        assert_eq!(deadlines.waited(Millis(600)), Some((400, 800)));
        for (from, to, left) in [(600, 2000, 2400), (2300, 2300, 2400), (2400, 9000, 9000)] {
            deadlines.unheard(Millis(from));
            deadlines.unheard(Millis(from + 50));
            assert_eq!(deadlines.next(), Some(Millis(5000)), "only who it is");
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
    fn who_is_not_heard_for_want_of_room_has_its_time_to_say_who_it_is() {
        let mut deadlines = Deadlines::default();
        deadlines.auth_by(Some(Millis(5000)), Millis(0));
        deadlines.starved(Millis(1000));
        deadlines.starved(Millis(1500));
        assert_eq!(deadlines.next(), None);
        deadlines.heard(Millis(9000));
        assert_eq!(deadlines.next(), Some(Millis(13_000)));
        // Who does not read what it is told is to blame.
        deadlines.unheard(Millis(10_000));
        assert_eq!(deadlines.next(), Some(Millis(13_000)));
        deadlines.starved(Millis(11_000));
        deadlines.unheard(Millis(12_000));
        assert_eq!(deadlines.next(), Some(Millis(14_000)));
        // Nor does it get more than that if it is nobody again meanwhile.
        deadlines.starved(Millis(12_000));
        deadlines.auth_by(Some(Millis(18_000)), Millis(13_000));
        deadlines.heard(Millis(14_000));
        assert_eq!(deadlines.next(), Some(Millis(19_000)));
    }

    #[test]
    fn each_has_its_reason() {
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
