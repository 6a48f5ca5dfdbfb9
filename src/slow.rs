//! Slow consumers: peers that do not take what others publish, and for how long. Keeps one small
//! record for each peer for which the kernel has refused output, and nothing for all others. Never
//! reads a clock and never closes a peer: it says which one is due. Called by the reactor, and by
//! its counterpart in the simulation, when what they have queued for such a peer passes a limit, or
//! the kernel has taken bytes of it.

use crate::arena::{NIL, Slots};
use crate::edge::ConnId;
use crate::frame::Waiting;
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::Millis;
use crate::wheel::{Timer, Wheel};

/// When a peer counts as slow.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Hard limit: a backlog above this, if the kernel has taken nothing for `backlog_ms`.
    pub backlog_bytes: usize,
    /// How long that is; no time at all while more than `spare_bytes` wait for all peers.
    pub backlog_ms: u64,
    /// Up to this many bytes of waiting publications, memory is not short.
    pub spare_bytes: usize,
    /// Soft limit: a backlog above this, for `soft_ms` without interruption.
    pub soft_bytes: usize,
    /// How long that is.
    pub soft_ms: u64,
    /// Publications wait, and the kernel has taken nothing for this long.
    pub stall_ms: u64,
}

impl Rules {
    /// Derives the rules from the limits.
    pub fn new(limits: &Limits) -> Rules {
        Rules {
            backlog_bytes: limits.backlog_bytes,
            backlog_ms: limits.backlog_ms as u64,
            spare_bytes: limits.queued_bytes / 2,
            soft_bytes: limits.backlog_soft_bytes,
            soft_ms: limits.backlog_soft_ms as u64,
            stall_ms: limits.stall_ms as u64,
        }
    }

    /// How many bytes of one publication count as backlog: a peer that reads one large message is
    /// not slow because others of that size come right behind it.
    pub fn counted_max(&self) -> usize {
        self.backlog_bytes / 4
    }

    /// Which limits what waits exceeds: that of answers, the soft and the hard one of publications.
    fn level(&self, waiting: Waiting) -> [bool; 3] {
        let is_served = waiting.bytes.saturating_sub(waiting.published) > self.soft_bytes;
        [is_served, waiting.backlog > self.soft_bytes, waiting.backlog > self.backlog_bytes]
    }
}

/// The slot of a peer's record, stored beside the peer; most have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchId(u32);

impl WatchId {
    /// The peer is not watched.
    pub const NONE: WatchId = WatchId(NIL);

    /// Whether the peer is not watched.
    pub fn is_none(self) -> bool {
        self == WatchId::NONE
    }
}

/// A peer that took something is offered its output again after `stall_ms` divided by this. What
/// was in flight has arrived by then and made a little room, which the kernel does not report:
/// taken only at the deadline, it would pass for progress and earn the peer as much time again.
const SETTLED_AFTER: u64 = 8;
/// At most this many peers that made progress are rescheduled at a time: some 50 µs.
const PUT_OFF_MAX: usize = 512;

/// The record of one watched peer.
#[derive(Debug)]
struct Watch {
    conn: ConnId,
    /// When the kernel last took something; or when the first publication was refused, if that is
    /// later.
    taken_at: Millis,
    /// Whether its output has been offered again since then.
    is_settled: bool,
    /// Whether its backlog is above the hard limit.
    is_over: bool,
    /// Since when its backlog has been above the soft limit, counted from later on if much that it
    /// asked for was in the way before.
    over_since: Option<Millis>,
    /// Since when publications have waited together with much that it asked for.
    served_since: Option<Millis>,
    /// When to look at it again, which is not after it is due, and the timer for that.
    timer: Option<(Millis, Timer)>,
}

impl Watch {
    fn new(conn: ConnId, now: Millis) -> Watch {
        Watch {
            conn,
            taken_at: now,
            is_settled: false,
            is_over: false,
            over_since: None,
            served_since: None,
            timer: None,
        }
    }
}

impl Watch {
    /// Updates since when the backlog has been above the soft limit. While much that the peer asked
    /// for is being taken there is no lag, however much gathers behind it; then the peer has as
    /// long as that took to catch up, and the usual time besides.
    fn look_behind(&mut self, is_served: bool, is_behind: bool, now: Millis) {
        if is_served {
            self.served_since.get_or_insert(now);
            self.over_since = None;
        } else if is_behind {
            let served = self.served_since.take().map_or(0, |since| now.0 - since.0);
            self.over_since.get_or_insert(now.plus(served));
        } else {
            (self.served_since, self.over_since) = (None, None);
        }
    }
}

/// All watched peers.
#[derive(Debug)]
pub struct Watches {
    rules: Rules,
    watches: Slots<Watch>,
    wheel: Wheel<u32>,
}

impl Watches {
    /// Starts with no peer watched.
    pub fn new(rules: Rules, now: Millis) -> Watches {
        Watches { rules, watches: Slots::new(), wheel: Wheel::new(now.0) }
    }

    /// The rules in force.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Replaces the rules. Returns the watched peers, each of which must be noted once more.
    #[must_use]
    pub fn set_rules(&mut self, rules: Rules) -> Vec<ConnId> {
        self.rules = rules;
        self.watches.iter().map(|(_, watch)| watch.conn).collect()
    }

    /// How many peers are watched.
    pub fn len(&self) -> usize {
        self.watches.len()
    }

    /// Whether no peer is watched.
    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// Updates the record of a peer for which the kernel has refused output, or that is watched
    /// already. `has_taken`: the kernel has just taken something. The watch ends when no
    /// publication waits.
    pub fn note(
        &mut self,
        id: &mut WatchId,
        conn: ConnId,
        waiting: Waiting,
        has_taken: bool,
        now: Millis,
    ) {
        if waiting.published == 0 {
            return self.end(id);
        }
        if id.is_none() {
            *id = WatchId(self.watches.insert(Watch::new(conn, now)));
        }
        let Some(watch) = self.watches.get_mut(id.0) else { return };
        if has_taken {
            (watch.taken_at, watch.is_settled) = (now, false);
        }
        let [is_served, is_behind, is_over] = self.rules.level(waiting);
        watch.is_over = is_over;
        watch.look_behind(is_served, is_behind, now);
        self.arm(*id);
    }

    /// Whether a publication changes nothing of the peer's record, so that it need not be noted: a
    /// thousand peers that take nothing may get the same one. What waited before it, and waits now.
    #[inline]
    pub fn is_same(&self, before: Waiting, after: Waiting) -> bool {
        before.published > 0 && self.rules.level(before) == self.rules.level(after)
    }

    /// Ends the watch of a peer.
    pub fn end(&mut self, id: &mut WatchId) {
        let watch = self.watches.remove(id.0);
        if let Some(Watch { timer: Some((_, timer)), .. }) = watch {
            self.wheel.cancel(timer);
        }
        *id = WatchId::NONE;
    }

    /// When [`Watches::next`] should be called at the latest.
    pub fn next_at(&self) -> Option<Millis> {
        self.wheel.next_at().map(Millis)
    }

    /// The next peer to look at. The caller offers its output to the kernel, which may have
    /// unreported room; then [`Watches::judge`] says whether it is slow. `None` also after a batch
    /// of peers that made progress: then [`Watches::next_at`] is due at once.
    pub fn next(&mut self, now: Millis) -> Option<ConnId> {
        self.wheel.advance(now.0);
        for _ in 0..PUT_OFF_MAX {
            let (_, place) = self.wheel.pop_expired()?;
            let Some(watch) = self.watches.get_mut(place) else { continue };
            watch.timer = None;
            let conn = watch.conn;
            if self.look_at(WatchId(place)).is_some_and(|at| at <= now) {
                return Some(conn);
            }
            // It has made progress since the timer was set.
            self.arm(WatchId(place));
        }
        None
    }

    /// Gives back a part of the memory of a past crowd. Returns whether there may be more.
    pub fn trim(&mut self) -> bool {
        self.watches.trim() | self.wheel.trim()
    }

    /// Why the peer is to be closed now; `None` if it is not, and then its timer is set again.
    pub fn judge(&mut self, id: WatchId, now: Millis) -> Option<CloseReason> {
        let due = self.due(id).filter(|(at, _)| *at <= now);
        if due.is_none() {
            let is_settled = self.settled_at(id).is_some_and(|at| at <= now);
            if let Some(watch) = self.watches.get_mut(id.0) {
                watch.is_settled = is_settled;
            }
            self.arm(id);
        }
        due.map(|(_, reason)| reason)
    }

    /// Whether its backlog is too large, and so many bytes wait for all peers (`kept`) that it has
    /// no time: it must not be given more. Otherwise its timer decides.
    pub fn is_lost(&self, id: WatchId, kept: usize) -> bool {
        kept > self.rules.spare_bytes && self.watches.get(id.0).is_some_and(|watch| watch.is_over)
    }

    /// Of the peers of which the kernel has taken nothing after `since`, the one that is `owed` the
    /// most, and how much that is. Scans all watched peers.
    pub fn largest(
        &self,
        since: Millis,
        owed: impl Fn(ConnId) -> usize,
    ) -> Option<(ConnId, usize)> {
        let idle = self.watches.iter().filter(|(_, watch)| watch.taken_at <= since);
        let idle = idle.map(|(place, watch)| (owed(watch.conn), std::cmp::Reverse(place), watch));
        let largest = idle.max_by_key(|(owed, place, _)| (*owed, *place));
        largest.map(|(owed, _, watch)| (watch.conn, owed))
    }

    /// When it is to be closed, and why, if nothing changes.
    fn due(&self, id: WatchId) -> Option<(Millis, CloseReason)> {
        use CloseReason::{Lagging, SlowConsumer, Stalled};
        let watch = self.watches.get(id.0)?;
        let (rules, taken_at) = (&self.rules, watch.taken_at);
        let over = watch.is_over.then(|| (taken_at.plus(rules.backlog_ms), SlowConsumer));
        let stalled = Some((taken_at.plus(rules.stall_ms), Stalled));
        let soft = watch.over_since.map(|at| (at.plus(rules.soft_ms), Lagging));
        [stalled, over, soft].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// When bytes in flight at the last progress have arrived, and its output is offered again.
    fn settled_at(&self, id: WatchId) -> Option<Millis> {
        let watch = self.watches.get(id.0)?;
        Some(watch.taken_at.plus(self.rules.stall_ms / SETTLED_AFTER))
    }

    /// When to look at it again.
    fn look_at(&self, id: WatchId) -> Option<Millis> {
        let is_settled = self.watches.get(id.0)?.is_settled;
        let settled = self.settled_at(id).filter(|_| !is_settled);
        [self.due(id).map(|(at, _)| at), settled].into_iter().flatten().min()
    }

    /// Sets its timer, unless it has one that is early enough. A timer that expires too early is
    /// set again then, so that progress costs nothing here.
    fn arm(&mut self, id: WatchId) {
        let Some(at) = self.look_at(id) else { return };
        let Some(watch) = self.watches.get_mut(id.0) else { return };
        if watch.timer.is_some_and(|(set, _)| set <= at) {
            return;
        }
        if let Some((_, timer)) = watch.timer.take() {
            self.wheel.cancel(timer);
        }
        watch.timer = Some((at, self.wheel.insert(at.0, id.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, FramePool, Kind, OutQueue};

    const RULES: Rules = Rules {
        backlog_bytes: 1000,
        backlog_ms: 50,
        spare_bytes: 10_000,
        soft_bytes: 100,
        soft_ms: 500,
        stall_ms: 1000,
    };

    struct World {
        pool: FramePool,
        watches: Watches,
        queue: OutQueue,
        id: WatchId,
    }

    impl World {
        fn new() -> World {
            World {
                pool: FramePool::new(RULES.counted_max()),
                watches: Watches::new(RULES, Millis(0)),
                queue: OutQueue::default(),
                id: WatchId::NONE,
            }
        }

        fn push(&mut self, bytes: usize, kind: Kind, now: u64) {
            let before = self.pool.waiting(&self.queue);
            self.pool.push(&mut self.queue, Frame::from(vec![0; bytes]), kind);
            let after = self.pool.waiting(&self.queue);
            if kind == Kind::Asked || !self.watches.is_same(before, after) {
                self.note(false, now);
            }
        }

        fn take(&mut self, bytes: usize, now: u64) {
            self.pool.sent(&mut self.queue, bytes);
            self.note(true, now);
        }

        fn note(&mut self, has_taken: bool, now: u64) {
            let conn = ConnId::new(7, 7);
            let waiting = self.pool.waiting(&self.queue);
            self.watches.note(&mut self.id, conn, waiting, has_taken, Millis(now));
        }

        /// Asserts that no peer is due at `at`, even if its output is offered again in vain.
        fn expect_nothing(&mut self, at: u64) {
            while self.watches.next(Millis(at)).is_some() {
                self.note(false, at);
                assert_eq!(self.watches.judge(self.id, Millis(at)), None);
            }
        }

        /// Asserts that the peer is due at `at` for that reason, and not before.
        fn expect_due(&mut self, at: u64, reason: CloseReason) {
            self.expect_nothing(at - 1);
            assert_eq!(self.watches.next(Millis(at)), Some(ConnId::new(7, 7)));
            assert_eq!(self.watches.judge(self.id, Millis(at)), Some(reason));
        }
    }

    #[test]
    fn a_peer_is_stalled_only_while_it_takes_no_byte() {
        let mut world = World::new();
        world.push(5000, Kind::Asked, 0);
        assert!(world.id.is_none(), "answers alone cause no watch");
        world.push(10, Kind::Published, 100);
        world.push(10, Kind::Published, 900);
        world.expect_nothing(900);
        assert_eq!(world.watches.next_at(), Some(Millis(1088)), "as the wheel rounds 1100");
        world.take(1, 1099);
        world.take(4000, 2098);
        world.expect_due(3098, CloseReason::Stalled);
        // The kernel took a byte when the output was offered again.
        world.take(1, 3098);
        assert_eq!(world.watches.judge(world.id, Millis(3098)), None);
        world.take(1018, 3099);
        assert!(world.id.is_none() && world.watches.is_empty() && world.watches.wheel.is_empty());
    }

    #[test]
    fn room_freed_by_bytes_in_flight_is_not_progress() {
        let mut world = World::new();
        world.push(5000, Kind::Published, 0);
        assert_eq!(world.watches.next(Millis(124)), None);
        assert_eq!(world.watches.next(Millis(125)), Some(ConnId::new(7, 7)));
        world.take(10, 125);
        assert_eq!(world.watches.judge(world.id, Millis(125)), None);
        world.expect_due(1125, CloseReason::Stalled);
    }

    #[test]
    fn a_peer_lags_only_if_its_backlog_stays_above_the_soft_limit() {
        let mut world = World::new();
        world.push(50, Kind::Published, 0);
        world.push(100, Kind::Published, 0);
        world.push(1, Kind::Published, 10);
        // Progress does not reset the time while the backlog is above the soft limit.
        world.take(49, 300);
        world.expect_due(510, CloseReason::Lagging);
        world.take(1, 510);
        assert_eq!(world.watches.judge(world.id, Millis(510)), None, "the head is no backlog");
        world.push(100, Kind::Published, 600);
        world.expect_due(1100, CloseReason::Lagging);
        // A large message behind the one being sent counts only in part.
        let mut world = World::new();
        world.push(5000, Kind::Published, 0);
        world.watches.rules.soft_bytes = RULES.counted_max();
        world.push(5000, Kind::Published, 0);
        world.expect_due(1000, CloseReason::Stalled);
    }

    #[test]
    fn new_rules_apply_to_what_waits_already() {
        let mut world = World::new();
        world.push(50, Kind::Published, 0);
        world.push(90, Kind::Published, 0);
        let rules = Rules { soft_bytes: 80, ..RULES };
        assert_eq!(world.watches.set_rules(rules), [ConnId::new(7, 7)]);
        world.note(false, 100);
        // This passes no limit, so it changes nothing.
        world.push(10, Kind::Published, 200);
        world.expect_due(600, CloseReason::Lagging);
    }

    #[test]
    fn publications_behind_answers_lag_only_after_those_are_taken() {
        let mut world = World::new();
        world.push(5000, Kind::Asked, 0);
        world.push(60, Kind::Published, 0);
        world.push(60, Kind::Published, 100);
        for now in 1..5 {
            world.take(1000, 900 * now);
            world.expect_nothing(900 * now);
        }
        // Few bytes of the answer are left: now the peer may lag for as long as the answer took,
        // and `soft_ms` besides.
        world.take(900, 4000);
        for now in [4900, 5800, 6700, 7600, 8400] {
            world.take(1, now);
            world.expect_nothing(now);
        }
        world.expect_due(8500, CloseReason::Lagging);
    }

    #[test]
    fn the_hard_limit_tolerates_progress_while_memory_is_spare() {
        let mut world = World::new();
        (0..6).for_each(|_| world.push(200, Kind::Published, 10));
        assert!(!world.watches.is_lost(world.id, usize::MAX), "not above the limit");
        world.push(1, Kind::Published, 20);
        assert!(world.watches.is_lost(world.id, 10_001));
        assert!(!world.watches.is_lost(world.id, 10_000));
        world.expect_due(60, CloseReason::SlowConsumer);
        world.take(1, 60);
        world.expect_due(110, CloseReason::SlowConsumer);
        world.take(199, 110);
        assert!(!world.watches.is_lost(world.id, usize::MAX));
    }

    #[test]
    fn peers_that_make_progress_are_rescheduled_in_bounded_steps() {
        let mut world = World::new();
        world.push(50, Kind::Published, 0);
        let waiting = world.pool.waiting(&world.queue);
        let mut crowd = vec![WatchId::NONE; 10 * PUT_OFF_MAX];
        for (id, slot) in crowd.iter_mut().zip(0..) {
            world.watches.note(id, ConnId::new(slot, 8), waiting, false, Millis(0));
        }
        for (id, slot) in crowd.iter_mut().zip(0..) {
            world.watches.note(id, ConnId::new(slot, 8), waiting, true, Millis(100));
        }
        world.watches.end(&mut world.id);
        let now = Millis(130);
        let mut times = 0;
        while world.watches.next_at().is_some_and(|at| at <= now) {
            assert_eq!(world.watches.next(now), None);
            times += 1;
        }
        assert!(times >= 10, "{times}");
        let next = (0..9).find_map(|_| world.watches.next(Millis(225)));
        assert_eq!(next, Some(ConnId::new(0, 8)));
    }

    #[test]
    fn watches_of_departed_peers_return_their_memory() {
        let mut world = World::new();
        world.push(50, Kind::Published, 0);
        let waiting = world.pool.waiting(&world.queue);
        let mut crowd = vec![WatchId::NONE; 10_000];
        for id in &mut crowd {
            world.watches.note(id, ConnId::new(8, 8), waiting, false, Millis(0));
        }
        crowd.iter_mut().for_each(|id| world.watches.end(id));
        while world.watches.trim() {}
        let Watches { watches, wheel, .. } = &world.watches;
        assert_eq!((watches.len(), wheel.len()), (1, 1));
        assert!(watches.capacity() < 1000, "{}", watches.capacity());
    }

    #[test]
    fn the_peer_without_progress_that_is_owed_the_most_is_found() {
        let mut world = World::new();
        let owed = |conn: ConnId| if conn == ConnId::new(7, 7) { 50 } else { 60 };
        assert_eq!(world.watches.largest(Millis(0), owed), None);
        world.push(50, Kind::Published, 10);
        let mut other = OutQueue::default();
        world.pool.push(&mut other, Frame::from(vec![0; 60]), Kind::Published);
        let (mut id, conn) = (WatchId::NONE, ConnId::new(8, 8));
        world.watches.note(&mut id, conn, world.pool.waiting(&other), true, Millis(20));
        assert_eq!(world.watches.largest(Millis(10), owed), Some((ConnId::new(7, 7), 50)));
        assert_eq!(world.watches.largest(Millis(20), owed), Some((conn, 60)));
        world.watches.end(&mut id);
        assert_eq!((id, world.watches.len()), (WatchId::NONE, 1));
    }
}
