//! What time does to connections: who may be cut when, and who must have been.

use super::expected::Expected;
use super::{Browser, Judge, Role, View};
use crate::edge::ConnId;
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::sim::intent::Intent;
use crate::sim::tape::Item;
use crate::time::Millis;

/// What the judge does not see: frames of a message that is not complete, and when each began.
const UNSEEN_FRAMES: u64 = 16;

/// Whether it has spoken too fast, and about a second's tokens are not back yet.
fn is_spent(browser: &Browser, limits: &Limits, now: Millis) -> bool {
    let back = limits.messages_burst - limits.messages_per_second;
    let back_ms = (back as u64).saturating_sub(UNSEEN_FRAMES) * token_ms(limits);
    now.0 <= browser.spent_until.1.saturating_sub(back_ms)
}

fn token_ms(limits: &Limits) -> u64 {
    1000 / limits.messages_per_second as u64
}

/// Whether the switch did something for somebody.
fn is_answer(item: &Item) -> bool {
    matches!(item, Item::Sent { .. } | Item::Closing { .. })
}

impl Judge {
    /// A browser said something: it must have been allowed to by now.
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
        browser.spent_until = (low.max(now) + least * token_ms, high.max(now) + most * token_ms);
    }

    /// A deadline came. Only whether the switch was right is checked here: that it is not too
    /// late is checked at rest.
    pub fn timed_out(&mut self, conn: ConnId, view: View, items: &[Item]) {
        let now = self.now.mono;
        if let Some(browser) = self.browser(conn).filter(|_| view.is_paused) {
            browser.held_at = Some(now);
        }
        let reasons = [CloseReason::ControlAuth, CloseReason::HalfRequest];
        let over = reasons.into_iter().find(|reason| self.is_over(conn, view, *reason));
        if let Some(reason) = over.filter(|_| !items.iter().any(is_answer)) {
            // It is owed replies first.
            if !self.lines[&conn].is_answered() && self.controller(conn).is_some() {
                self.let_go_answered(conn, reason);
            }
        }
        for item in items {
            match item {
                Item::Sent { frame, .. } => self.sent_in_time(conn, frame),
                Item::Closing { reason, .. } => {
                    let is_right = self.is_over(conn, view, *reason);
                    let line = &self.lines[&conn];
                    assert!(is_right, "{conn:?} is not over for {reason}: {line:?}, {view:?}");
                    self.dismiss(conn, *reason);
                }
                _ => {}
            }
        }
    }

    /// A ping, or a word of farewell to half a request.
    fn sent_in_time(&mut self, conn: ConnId, frame: &[u8]) {
        let (now, beat_ms) = (self.now.mono, self.limits.heartbeat_ms as u64);
        let Some(line) = self.lines.get_mut(&conn) else { return };
        match &mut line.role {
            Role::Browser(browser) if frame == [0x89, 0] => {
                assert_eq!(browser.pinged, None, "{conn:?} is pinged again");
                assert!(now >= browser.beat.plus(beat_ms), "{conn:?} is pinged early");
                browser.pinged = Some(now);
            }
            Role::Http(_) if line.half_since.is_some() => line.expect(Expected::Http(408)),
            _ => {}
        }
    }

    /// Whether a connection may be cut now for that reason.
    fn is_over(&self, conn: ConnId, view: View, reason: CloseReason) -> bool {
        let (line, limits, now) = (&self.lines[&conn], &self.limits, self.now.mono);
        let is_since =
            |since: Option<Millis>, ms: usize| since.is_some_and(|at| at.plus(ms as u64) <= now);
        match (&line.role, reason) {
            (Role::Http(since), CloseReason::HalfRequest | CloseReason::Answered) => {
                // Half a request, or none at all; or one that has been answered.
                let is_half = !line.is_answered_once || line.half_since.is_some();
                let is_right = is_half == (reason == CloseReason::HalfRequest);
                is_right && is_since(Some(*since), limits.http_head_ms)
            }
            (Role::Controller(_), CloseReason::HalfRequest) => {
                is_since(line.half_since, limits.control_frame_ms)
            }
            (Role::Controller(controller), CloseReason::ControlAuth) => {
                !controller.was_somebody
                    && is_since(Some(controller.opened), limits.control_auth_ms)
            }
            (Role::Controller(_), CloseReason::RepliesUnread) => view.is_paused && view.queued > 0,
            (Role::Browser(browser), CloseReason::NoHeartbeat) => {
                let is_stuck = is_since(Some(view.taken_at), limits.heartbeat_ms);
                let is_silent = is_since(browser.pinged, limits.heartbeat_answer_ms);
                if view.is_paused { is_stuck } else { is_silent }
            }
            (Role::Browser(browser), CloseReason::AuthTimeout) => {
                browser.who.is_none() && is_since(Some(browser.opened), limits.auth_ms)
            }
            (Role::Browser(browser), CloseReason::TokenExpired) => {
                browser.expires.is_some_and(|end| end * 1000 <= self.now.unix.0)
            }
            _ => false,
        }
    }

    /// All is quiet: whoever should have been cut by now has been.
    pub fn at_rest(&mut self, conn: ConnId, view: View) {
        let (limits, now, unix) = (self.limits.clone(), self.now.mono, self.now.unix.0);
        let has_date_jumped = self.has_date_jumped;
        let may_wait = self.is_flooded() || self.is_disk_stuck;
        self.nobody_is_slow(conn);
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let is_before = |since: Millis, ms: usize| now < since.plus(ms as u64);
        let is_answered = line.is_answered() && view.queued == 0;
        let waits_for_room = line.may_wait_for_room(view, &limits);
        let half = line.intents.front().map(|(from, ..)| *from);
        let half = half.filter(|from| *from < view.delivered && !view.is_paused);
        match &mut line.role {
            Role::Controller(controller) => {
                assert!(
                    !(is_answered && controller.is_ended),
                    "{conn:?} is answered and still open"
                );
                let at_rest = half.map(|from| match line.half_at_rest {
                    Some((before, at)) if before == from => (from, at),
                    _ => (from, now),
                });
                line.half_at_rest = at_rest;
                let is_in_time =
                    at_rest.is_none_or(|(_, at)| is_before(at, limits.control_frame_ms));
                assert!(is_in_time, "{conn:?} has sent half a frame for too long");
                let may_wait = may_wait || waits_for_room;
                let is_held = view.is_paused && view.queued > 0 && !controller.waits && !may_wait;
                controller.held_since = match controller.held_since.filter(|_| is_held) {
                    Some(since) if since >= view.taken_at => Some(since),
                    _ => is_held.then_some(now),
                };
                let held = controller.held_since;
                let is_in_time = held.is_none_or(|at| is_before(at, limits.control_replies_ms));
                assert!(is_in_time, "{conn:?} has not read its replies for too long");
                // One that is ended is given the time to read its replies.
                let is_in_time = controller.was_somebody
                    || controller.is_ended
                    || is_before(controller.opened, limits.control_auth_ms);
                assert!(is_in_time, "{conn:?} has not said who it is for too long: {line:?}");
            }
            Role::Http(since) => {
                let is_in_time = view.is_paused || is_before(*since, limits.http_head_ms);
                assert!(is_in_time, "{conn:?} has made no request for too long");
            }
            Role::Browser(browser) => {
                assert_eq!(browser.parting, None, "{conn:?} was not let go");
                let is_in_time = browser.who.is_some() || is_before(browser.opened, limits.auth_ms);
                assert!(is_in_time, "{conn:?} has not authenticated for too long");
                if view.is_paused {
                    // Held for what it has not read: its beats go on unseen.
                    browser.held_at = Some(now);
                }
                let beat_ms = limits.heartbeat_ms as u64;
                let due = match browser.pinged {
                    Some(pinged) => pinged.plus(limits.heartbeat_answer_ms as u64),
                    None => browser.beat.plus(beat_ms),
                };
                let held_until = browser.held_at.map_or(due, |held| held.plus(beat_ms));
                assert!(now < due.max(held_until), "{conn:?} has been silent for too long");
                let is_held = view.is_paused && view.queued == 0;
                assert!(!is_held || is_spent(browser, &limits, now), "{conn:?} is not heard");
                if browser.expires.is_some_and(|end| end * 1000 <= unix) {
                    let since = *browser.overdue_since.get_or_insert(now);
                    // Deadlines are on the other clock; the next beat corrects them.
                    let is_in_time = has_date_jumped && is_before(since, limits.heartbeat_ms);
                    assert!(is_in_time, "{conn:?} has an expired token");
                } else {
                    browser.overdue_since = None;
                }
            }
        }
    }
}
