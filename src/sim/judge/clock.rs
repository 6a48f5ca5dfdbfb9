//! The effects of time on connections: which may be cut when, and which must have been.

use super::deadlines::{Deadlines, Half};
use super::expected::Expected;
use super::{Browser, Controller, Judge, Role, View};
use crate::edge::ConnId;
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::sim::intent::Intent;
use crate::sim::tape::Item;
use crate::time::Millis;

/// A ping may be answered late if another piece of this size was taken since the ping before.
const PIECE_BYTES: usize = 16 * 1024;

/// Frames that the judge does not see: those of an incomplete message, and when each began.
const UNSEEN_FRAMES: u64 = 16;

/// A connection with this many unread bytes is read again once a second's worth of tokens is
/// back; with fewer bytes, sooner.
const SECOND_BYTES: u64 = 16 * 1024;

/// Whether it has sent too fast, and fewer tokens are back than its unread bytes are worth.
pub(super) fn is_spent(browser: &Browser, limits: &Limits, now: Millis, view: View) -> bool {
    let (rate, waiting) = (limits.messages_per_second as u64, view.delivered - view.consumed);
    let worth = (rate * waiting / SECOND_BYTES).clamp(1, rate);
    let back = limits.messages_burst - worth as usize;
    let back_ms = (back as u64).saturating_sub(UNSEEN_FRAMES) * token_ms(limits);
    now.0 <= browser.spent_until.1.saturating_sub(back_ms)
}

fn token_ms(limits: &Limits) -> u64 {
    1000 / limits.messages_per_second as u64
}

/// Whether the switch sent something, or closed a connection.
fn is_answer(item: &Item) -> bool {
    matches!(item, Item::Sent { .. } | Item::Closing { .. })
}

impl Controller {
    /// Notes at rest whether it is paused for its unread replies.
    fn note_held(&mut self, is_held: bool, view: View, now: Millis, deadlines: &Deadlines) {
        if !view.is_paused {
            self.heard_at = now;
        }
        // It may just have been resumed and paused again, by another limit.
        let is_new = self.held_since.is_none_or(|since| since < view.taken_at || since == now);
        if !is_held || is_new {
            self.held_since = is_held.then_some(now);
            self.held_ms = deadlines.range(self.heard_at, |limits| limits.control_replies_ms).1;
        }
    }

    /// Whether it need not have authenticated yet. It cannot while it is paused for want of room,
    /// and once it has ended it is given the time to read its replies.
    fn has_time_to_auth(&mut self, view: View, now: Millis, auth_ms: usize) -> bool {
        if std::mem::take(&mut self.was_unheard) {
            self.auth_at_last = now.plus(auth_ms as u64);
        }
        let is_excused = self.unauthenticated.is_none() || self.is_ended || view.is_paused;
        is_excused || !self.auth_by.is_over(now) || now < self.auth_at_last
    }
}

impl Browser {
    /// By when it must have been pinged, or have shown that it is alive.
    fn heard_by(&self, view: View, late_ms: usize) -> Millis {
        let due = self.pong_by.unwrap_or(self.ping_at).by;
        let due = self.held_until.map_or(due, |held_until| held_until.max(due));
        // A ping behind much data has its time from when that has gone out, and more of it.
        let is_late = self.pong_by.is_some() && self.may_be_late;
        if is_late { due.max(view.taken_at).plus(late_ms as u64) } else { due }
    }
}

impl Judge {
    /// A browser's message is executed: its token bucket must have permitted that by now.
    pub(super) fn pay(&mut self, conn: ConnId, intent: &Intent) {
        let (now, token_ms) = (self.now.mono.0, token_ms(&self.limits));
        let most_ms = (self.limits.messages_burst as u64 + UNSEEN_FRAMES) * token_ms;
        let fragments = self.limits.message_fragments as u64;
        let Some(browser) = self.browser(conn) else { return };
        let (least, most) = match intent {
            Intent::Message(events) => {
                let count = (events.len() as u64).max(1);
                (count, count + fragments)
            }
            _ => (1, 1),
        };
        let (low, high) = browser.spent_until;
        assert!(low <= now + most_ms, "{conn:?} is heard too soon");
        browser.heard_at = Millis(now);
        browser.spent_until = (low.max(now) + least * token_ms, high.max(now) + most * token_ms);
    }

    /// A deadline came. Checks only whether the switch may do what it did; whether it did all that
    /// was due is checked at rest.
    pub fn timed_out(&mut self, conn: ConnId, view: View, items: &[Item]) {
        let beat = self.deadline("heartbeat_ms").by;
        if let Some(browser) = self.browser(conn).filter(|_| view.is_paused) {
            browser.held_until = Some(browser.held_until.map_or(beat, |until| until.max(beat)));
        }
        let answer = self.deadline("heartbeat_answer_ms").by;
        if let Some(browser) = self.browser(conn) {
            match browser.pong_by {
                None => browser.is_pong_behind = view.queued > 0,
                // If it is not cut now, it has the same time once more.
                Some(_) if browser.is_pong_behind && view.queued > 0 => {
                    browser.held_until = browser.held_until.max(Some(answer))
                }
                Some(_) => {}
            }
        }
        let is_cut = items.iter().any(|item| matches!(item, Item::Closing { .. }));
        match self.is_over(conn, view, CloseReason::TokenExpired) {
            true if is_cut => {}
            true => self.goes_on(conn, view),
            false => self.is_in_time(conn, view, items),
        }
        let reasons = [CloseReason::ControlAuth, CloseReason::HalfRequest];
        let over = reasons.into_iter().find(|reason| self.is_over(conn, view, *reason));
        if let Some(reason) = over.filter(|_| !items.iter().any(is_answer)) {
            // It is sent the replies that it is owed first.
            if !self.lines[&conn].is_answered() && self.controller(conn).is_some() {
                self.let_go_answered(conn, reason);
            }
        }
        for item in items {
            match item {
                Item::Sent { frame, .. } => self.sent_in_time(conn, view, frame),
                Item::Closing { reason, .. } => {
                    let is_right = self.is_over(conn, view, *reason);
                    let line = &self.lines[&conn];
                    assert!(is_right, "{conn:?} is not over for {reason}: {line:?}, {view:?}");
                    self.note_end(conn, view, *reason);
                    if *reason == CloseReason::TokenExpired {
                        self.has_not_renewed(conn, view);
                    }
                    let is_held = view.is_paused && view.queued > 0;
                    let is_unread = match reason {
                        CloseReason::ControlAuth => is_held,
                        reason => *reason == CloseReason::RepliesUnread,
                    };
                    if let Some(line) = self.lines.get_mut(&conn).filter(|_| is_unread) {
                        // Replies that are not durable yet could not have been read either.
                        line.expected.clear();
                    }
                    self.dismiss(conn, *reason);
                }
                _ => {}
            }
        }
    }

    /// A ping was sent in time, or a 408 to half a request.
    fn sent_in_time(&mut self, conn: ConnId, view: View, frame: &[u8]) {
        let (now, pong_by) = (self.now.mono, self.deadline("heartbeat_answer_ms"));
        let next_ping_at = self.deadline("heartbeat_ms");
        let Some(line) = self.lines.get_mut(&conn) else { return };
        match &mut line.role {
            Role::Browser(browser) if frame == [0x89, 0] => {
                assert!(browser.pong_by.is_none(), "{conn:?} is pinged again");
                let ping_at = browser.ping_at;
                assert!(ping_at.is_over(now), "{conn:?} is pinged early");
                let taken = line.queue.taken / PIECE_BYTES;
                let before = std::mem::replace(&mut line.queue.taken_before, taken);
                browser.may_be_late = browser.is_pong_behind || taken != before;
                match view.is_paused {
                    // It is not read, so that no answer is awaited.
                    true => browser.ping_at = next_ping_at,
                    false => browser.pong_by = Some(pong_by),
                }
                self.note_deadline(ping_at);
            }
            Role::Http(_) if line.half.is_some() => line.expect(Expected::Http(408)),
            _ => {}
        }
    }

    /// Whether a connection may be cut now for that reason.
    fn is_over(&self, conn: ConnId, view: View, reason: CloseReason) -> bool {
        let (line, now) = (&self.lines[&conn], self.now.mono);
        let is_since = |since: Millis, of: fn(&Limits) -> usize| {
            let (least, _) = self.deadlines.range(since, of);
            since.plus(least as u64) <= now
        };
        match (&line.role, reason) {
            (Role::Http(by), CloseReason::HalfRequest | CloseReason::Answered) => {
                // Half a request or none at all, or a connection that has been answered.
                let is_half = !line.is_answered_once || line.half.is_some();
                let is_right = is_half == (reason == CloseReason::HalfRequest);
                is_right && by.is_over(now)
            }
            (Role::Controller(_), CloseReason::HalfRequest) => {
                line.half.is_some_and(|half| half.since.plus(half.ms.0 as u64) <= now)
            }
            (Role::Controller(controller), CloseReason::ControlAuth) => {
                controller.unauthenticated.is_some() && controller.auth_by.is_over(now)
            }
            (Role::Controller(controller), CloseReason::RepliesUnread) => {
                let is_held = view.is_paused && view.queued > 0;
                is_held && is_since(controller.heard_at, |limits| limits.control_replies_ms)
            }
            (Role::Browser(browser), CloseReason::NoHeartbeat) => {
                let is_stuck = is_since(view.taken_at, |limits| limits.heartbeat_ms);
                // It is alive while it takes what stands in front of its ping.
                let is_taking = browser.is_pong_behind
                    && line.queue.has(&[0x89, 0])
                    && !is_since(view.taken_at, |limits| limits.heartbeat_answer_ms);
                let is_silent = browser.pong_by.is_some_and(|by| by.is_over(now)) && !is_taking;
                if view.is_paused { is_stuck } else { is_silent }
            }
            (Role::Browser(browser), CloseReason::AuthTimeout) => {
                browser.who.is_none() && browser.auth_by.is_over(now)
            }
            (Role::Browser(browser), CloseReason::TokenExpired) => {
                browser.has_expired(self.now.unix.0)
            }
            _ => false,
        }
    }

    /// Notes which deadline ended a connection.
    fn note_end(&mut self, conn: ConnId, view: View, reason: CloseReason) {
        let deadline = match (&self.lines[&conn].role, reason) {
            (Role::Http(by), _) => Some(*by),
            (Role::Controller(controller), CloseReason::ControlAuth) => Some(controller.auth_by),
            (Role::Browser(browser), CloseReason::AuthTimeout) => Some(browser.auth_by),
            (Role::Browser(browser), CloseReason::NoHeartbeat) if !view.is_paused => {
                browser.pong_by
            }
            _ => None,
        };
        if let Some(deadline) = deadline {
            self.note_deadline(deadline);
        }
        if let (CloseReason::HalfRequest, Some(half)) = (reason, self.lines[&conn].half)
            && self.controller(conn).is_some()
            && half.is_certain
        {
            self.deadlines.note("control_frame_ms", half.ms.0);
        }
    }

    /// Notes whether part of the next intent has arrived. The server knows of it, and its time
    /// runs, unless it stopped reading in the middle.
    pub(super) fn note_half(&mut self, conn: ConnId, view: View) {
        let (now, ms) = (self.now.mono, self.limits.control_frame_ms);
        let Some(line) = self.lines.get_mut(&conn) else { return };
        if line.intents.front().is_none_or(|(from, ..)| *from >= view.delivered) {
            return;
        }
        let half = line.half.get_or_insert(Half { since: now, ms: (ms, ms), is_certain: false });
        if !half.is_certain {
            half.ms = (half.ms.0.min(ms), half.ms.1.max(ms));
            half.is_certain = !view.is_paused && view.consumed == view.delivered;
        }
    }

    /// Time passes while a connection is paused.
    pub fn unheard(&mut self, conn: ConnId) {
        if let Some(controller) = self.controller(conn) {
            controller.was_unheard = true;
        }
    }

    /// Checks at rest that a connection that was to be cut has been.
    pub fn at_rest(&mut self, conn: ConnId, view: View) {
        let (limits, now, unix) = (self.limits.clone(), self.now.mono, self.now.unix.0);
        let beat = |limits: &Limits| limits.heartbeat_ms.max(limits.heartbeat_answer_ms);
        let beat_ms = self.deadlines.range(Millis(0), beat).1;
        let late =
            |limits: &Limits| limits.heartbeat_answer_ms + limits.link_ms(usize::MAX) as usize;
        let late_ms = self.deadlines.range(Millis(0), late).1;
        let auth_ms = self.deadlines.range(Millis(0), |limits| limits.control_auth_ms).1;
        let has_date_jumped = self.has_date_jumped;
        let may_wait = self.is_flooded() || self.is_disk_stuck;
        let (is_short, durable) = (self.short_since.is_some(), self.durable);
        self.nobody_is_slow(conn);
        self.waits_rightly(conn, view);
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let is_before = |since: Millis, ms: usize| now < since.plus(ms as u64);
        let is_answered = line.is_answered() && view.queued == 0;
        let may_wait_for_room = line.may_wait_for_room(view, &limits);
        // A command that has waited for room has its time once more when it has room.
        let half = line.intents.front().map(|(from, ..)| *from);
        let half = half.filter(|from| *from < view.delivered && !view.is_paused);
        match &mut line.role {
            Role::Controller(controller) => {
                let waits_for_room = controller.deferred.is_some();
                // Or something before it, or what it would reveal, is not durable.
                let may_want = is_short || !line.expected.is_empty() || self.mark > durable;
                assert!(!waits_for_room || may_want, "{conn:?} waits, and there is room");
                let is_over = is_answered && controller.is_ended;
                assert!(!is_over, "{conn:?} is answered and still open");
                let same = line.half_at_rest.filter(|(before, _)| Some(*before) == half);
                line.half_at_rest = same.or(half.map(|half| (half, now)));
                let half_ms = line.half.map_or(limits.control_frame_ms, |half| half.ms.1);
                let is_in_time = line.half_at_rest.is_none_or(|(_, at)| is_before(at, half_ms));
                // A controller that is being let go is not read any more.
                let is_in_time = is_in_time || controller.is_ended;
                assert!(is_in_time, "{conn:?} has sent half a frame for too long");
                let may_wait = may_wait || may_wait_for_room;
                assert!(!view.is_paused || !is_answered || may_wait, "{conn:?} is not heard");
                let is_held = view.is_paused && view.queued > 0 && !controller.waits && !may_wait;
                let is_held = is_held && !waits_for_room;
                controller.note_held(is_held, view, now, &self.deadlines);
                let held = controller.held_since;
                let is_in_time = held.is_none_or(|at| is_before(at, controller.held_ms));
                assert!(is_in_time, "{conn:?} has not read its replies for too long");
                let is_in_time = controller.has_time_to_auth(view, now, auth_ms);
                assert!(is_in_time, "{conn:?} has not said who it is for too long: {line:?}");
            }
            Role::Http(by) => {
                let is_in_time = view.is_paused || !by.is_over(now);
                assert!(is_in_time, "{conn:?} has made no request for too long");
            }
            Role::Browser(browser) => {
                assert_eq!(browser.parting, None, "{conn:?} was not let go");
                let is_in_time = browser.who.is_some() || !browser.auth_by.is_over(now);
                assert!(is_in_time, "{conn:?} has not authenticated for too long");
                let is_in_time = now < browser.heard_by(view, late_ms);
                assert!(is_in_time, "{conn:?} has been silent for too long");
                let is_held = view.is_paused && view.queued == 0;
                let may_be = is_spent(browser, &limits, now, view)
                    || browser.waits_for_room && is_short
                    || browser.read_ahead_at == Some(now);
                assert!(!is_held || may_be, "{conn:?} is not heard");
                let is_in_time = !browser.is_overdue(now, unix, beat_ms, has_date_jumped);
                assert!(is_in_time, "{conn:?} has an expired token");
            }
        }
    }
}
