//! Tokens that end: which browsers have renewed theirs in time behind unread answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::clock::is_spent;
use super::deadlines::Deadline;
use super::{Browser, Judge, View};
use crate::edge::ConnId;
use crate::publication::Form;
use crate::sim::intent::Event;
use crate::sim::tape::Item;
use crate::time::Millis;

impl Browser {
    pub fn new(number: u64, form: Form, auth_by: Deadline, ping_at: Deadline) -> Browser {
        Browser {
            number,
            form,
            who: None,
            cid: None,
            channels: BTreeSet::new(),
            held: BTreeMap::new(),
            is_unauthenticated: true,
            parting: None,
            expires: None,
            overdue_since: None,
            auth_by,
            ping_at,
            pong_by: None,
            is_pong_behind: false,
            may_be_late: false,
            held_until: None,
            spent_until: (0, 0),
            heard_at: Millis(0),
            pending: VecDeque::new(),
            waits_for_room: false,
            is_read_ahead: false,
            read_ahead_at: None,
        }
    }

    /// Whether its token has ended.
    pub(super) fn has_expired(&self, unix: u64) -> bool {
        self.expires.is_some_and(|end| end * 1000 <= unix)
    }

    /// Whether its token has ended, and it should have been cut by now.
    pub(super) fn is_overdue(
        &mut self,
        now: Millis,
        unix: u64,
        beat_ms: usize,
        has_date_jumped: bool,
    ) -> bool {
        if !self.has_expired(unix) {
            self.overdue_since = None;
            return false;
        }
        let since = *self.overdue_since.get_or_insert(now);
        // Deadlines are on the monotonic clock; the next heartbeat, or the end of the wait for an
        // answer, corrects them.
        let is_uncertain = has_date_jumped && now < since.plus(beat_ms as u64);
        // For a moment, what it sent behind unread answers is searched for a renewal.
        !is_uncertain && self.read_ahead_at != Some(now)
    }
}

impl Judge {
    /// Executes at once a waiting `auth` that renews the token. Returns whether there was one.
    pub(super) fn renew(&mut self, conn: ConnId) -> bool {
        let Some(browser) = self.browser(conn).filter(|browser| browser.parting.is_none()) else {
            return false;
        };
        let (who, mut events) = (browser.who.clone(), std::mem::take(&mut browser.pending));
        // It must not overtake an `auth` as another user.
        let at = events.iter().position(|event| matches!(event, Event::Auth(_)));
        let renews = |at: &usize| match &events[*at] {
            Event::Auth(auth) => who.is_some() && self.identity(auth).ok() == who,
            _ => false,
        };
        let renewal = at.filter(renews).and_then(|at| events.remove(at));
        if let Some(browser) = self.browser(conn) {
            browser.pending = events;
            browser.is_read_ahead &= renewal.is_none();
        }
        let Some(renewal) = renewal else { return false };
        self.renewed += 1;
        self.event(conn, renewal);
        true
    }

    /// Executes waiting events, unless they wait for room, or stand in front of what may renew a
    /// token that has ended.
    pub(super) fn catch_up(&mut self, conn: ConnId) {
        let unix = self.now.unix.0;
        let Some(browser) = self.browser(conn) else { return };
        if browser.waits_for_room || browser.has_expired(unix) {
            return;
        }
        browser.is_read_ahead = false;
        let pending = std::mem::take(&mut browser.pending);
        self.hear(conn, pending);
    }

    /// A deadline came while the token is valid: waiting events are executed if all was taken.
    pub(super) fn is_in_time(&mut self, conn: ConnId, view: View, items: &[Item]) {
        let Some(browser) = self.browser(conn) else { return };
        browser.is_read_ahead = false;
        if view.queued == 0 && !browser.pending.is_empty() {
            self.meter_from(conn, view.queued, items);
            self.catch_up(conn);
        }
    }

    /// The token has ended, and the browser was not cut: it has renewed the token behind unread
    /// answers or, once, the server reads on to see if it does.
    pub(super) fn goes_on(&mut self, conn: ConnId, view: View) {
        let is_held = view.is_paused;
        assert!(is_held, "{conn:?} was heard, and goes on with a token that has ended");
        let now = self.now.mono;
        if !self.renew(conn)
            && let Some(browser) = self.browser(conn)
        {
            let was = std::mem::replace(&mut browser.is_read_ahead, true);
            assert!(!was, "{conn:?} has not renewed its token, and goes on");
            browser.read_ahead_at = Some(now);
        }
    }

    /// The browser is cut because its token has ended: a renewal behind unread answers that came in
    /// time would have been executed.
    pub(super) fn has_not_renewed(&mut self, conn: ConnId, view: View) {
        let limits = self.limits.clone();
        assert!(!self.renew(conn), "{conn:?} has renewed its token, and is cut");
        let Some(browser) = self.browser(conn) else { return };
        // If it had sent too fast by then, it may be paused for that.
        let is_full = view.is_paused && view.queued >= limits.answers_pause_bytes;
        let is_behind = browser.waits_for_room
            || is_full && !is_spent(browser, &limits, browser.heard_at, view);
        assert!(!is_behind || browser.is_read_ahead, "{conn:?} may have renewed its token");
    }
}
