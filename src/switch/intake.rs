//! Memory for frames that back ends are sending. A frame of which more has arrived than the
//! unauthenticated may send reserves its declared length out of `control_input_bytes`. While there
//! is no room for it, its connection is not read; small commands of others wait for nothing. Room
//! goes to the namespace that would then have the least, and the deadline of a frame that has
//! waited starts when it gets room. While a frame waits, connections are evicted that send too
//! slowly to finish in time, or whose namespace has more than the waiting one would have, the
//! largest first. So incomplete frames block nobody, however many there are. Called by the switch
//! before each frame, and at the end of each turn.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::control::Controller;
use super::{Switch, Waiter};
use crate::edge::{ConnId, Net};
use crate::hub::NsId;
use crate::reason::CloseReason;
use crate::time::Millis;

/// A frame keeps its room for at least this long, whatever waits.
const GRACE_MS: u64 = 1000;
/// Interval between two scans while a frame waits.
const LOOK_MS: u64 = 100;
/// Steps in one turn: each admits a frame or evicts a connection.
const STEPS_PER_TURN: usize = 8;

/// The namespace of a connection; `None` before `auth`.
type Tenant = Option<NsId>;

/// A reservation for one frame or one reply. It is released on drop, however that one ends.
#[derive(Debug)]
pub(super) struct Room {
    bytes: usize,
    reserved: Rc<Cell<usize>>,
}

impl Room {
    /// Returns the bytes reserved.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The sum of the reservations in one pool.
#[derive(Debug, Default)]
pub(super) struct Reserve(Rc<Cell<usize>>);

impl Reserve {
    /// Returns the bytes reserved.
    pub fn reserved(&self) -> usize {
        self.0.get()
    }

    /// Whether so many bytes fit. One reservation alone always does: a lowered limit blocks nobody.
    pub fn has_room(&self, bytes: usize, max: usize) -> bool {
        let reserved = self.reserved();
        reserved == 0 || reserved.saturating_add(bytes) <= max
    }

    pub fn room(&self, bytes: usize) -> Room {
        self.0.set(self.reserved() + bytes);
        Room { bytes, reserved: Rc::clone(&self.0) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.reserved.set(self.reserved.get() - self.bytes);
    }
}

/// A connection that waits for room.
#[derive(Clone, Copy, Debug)]
struct InLine {
    place: u64,
    conn: ConnId,
    tenant: Tenant,
    bytes: usize,
}

/// A connection that has room.
#[derive(Clone, Copy, Debug)]
struct Holder {
    conn: ConnId,
    tenant: Tenant,
    bytes: usize,
    /// Bytes of the frame that have not arrived.
    missing: usize,
    /// At its pace it will not be complete in time.
    is_late: bool,
    /// It may be evicted: it has had its grace time, and is owed no replies.
    is_ripe: bool,
}

/// The bytes reserved by each namespace.
#[derive(Debug, Default)]
struct Shares(BTreeMap<Tenant, usize>);

impl Shares {
    fn of(&self, tenant: Tenant) -> usize {
        self.0.get(&tenant).copied().unwrap_or_default()
    }

    /// The waiter to admit first: the one whose namespace would have the least.
    fn first<'a>(&self, waiters: &'a [InLine]) -> Option<(usize, &'a InLine)> {
        let would_have = |waiter: &InLine| self.of(waiter.tenant) + waiter.bytes;
        waiters.iter().enumerate().min_by_key(|(_, waiter)| (would_have(waiter), waiter.place))
    }

    /// The connection to evict for that waiter, if there is one.
    fn offender<'a>(&self, holders: &'a [Holder], first: &InLine) -> Option<(usize, &'a Holder)> {
        let would_have = self.of(first.tenant) + first.bytes;
        let may_go = |it: &Holder| it.is_ripe && (it.is_late || self.of(it.tenant) > would_have);
        let size = |it: &Holder| (self.of(it.tenant), it.missing, Reverse(it.conn));
        let all = holders.iter().enumerate().filter(|(_, holder)| may_go(holder));
        all.max_by_key(|(_, holder)| size(holder))
    }
}

/// The pool for arriving frames, and the queue for it.
#[derive(Debug, Default)]
pub(super) struct Intake {
    reserve: Reserve,
    /// Place, connection and frame length of each waiter, in order of arrival.
    line: VecDeque<(u64, ConnId, usize)>,
    /// The waiters or the limit may have changed since the last scan.
    is_stale: bool,
    /// Bytes reserved at the last scan, and when to scan again at the latest.
    seen: usize,
    look_at: Millis,
    /// How many frames have waited so far.
    pub waits: u64,
    /// How many connections were evicted.
    pub evicted: u64,
}

impl Intake {
    /// Returns the bytes reserved.
    pub fn reserved(&self) -> usize {
        self.reserve.reserved()
    }

    /// Reserves room for a frame that begins, or returns the place of its connection in the queue.
    fn reserve(&mut self, conn: ConnId, bytes: usize, max: usize) -> Result<Room, u64> {
        if self.line.is_empty() && self.reserve.has_room(bytes, max) {
            return Ok(self.reserve.room(bytes));
        }
        self.waits += 1;
        self.line.push_back((self.waits, conn, bytes));
        self.is_stale = true;
        Err(self.waits)
    }

    /// When a scan is wanted at the latest.
    pub fn due(&self) -> Option<Millis> {
        let is_moving = self.is_stale || self.reserved() < self.seen;
        let at = if is_moving { Millis(0) } else { self.look_at };
        (!self.line.is_empty()).then_some(at)
    }

    /// Removes the waiter with that place.
    pub fn leave(&mut self, place: u64) {
        if let Ok(at) = self.line.binary_search_by_key(&place, |(place, ..)| *place) {
            self.line.remove(at);
        }
        self.is_stale = true;
    }

    /// Scans again: there may be more room than before.
    pub fn reload(&mut self) {
        self.is_stale = true;
    }

    /// Checks that nothing waits and nothing is reserved; for tests.
    pub fn check_drained(&self) {
        assert_eq!((self.reserved(), self.line.len()), (0, 0), "room for frames that arrive");
    }
}

impl Switch {
    /// Whether the rest of a frame of so many bytes, which has begun to arrive, may come. If not,
    /// its connection is not read until there is room.
    pub(super) fn has_room_for(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        controller: &mut Controller,
        bytes: usize,
    ) -> bool {
        if controller.room.is_some() {
            return true;
        }
        if controller.place.is_none() {
            match self.intake.reserve(conn, bytes, self.limits.control_input_bytes) {
                Ok(room) => {
                    controller.room = Some(room);
                    return true;
                }
                Err(place) => controller.place = Some(place),
            }
        }
        controller.unhear(net, conn);
        false
    }

    /// Admits waiters whose turn has come, and evicts connections to make room for others.
    pub(super) fn take_in(&mut self, net: &mut impl Net) {
        let now = net.now().mono;
        if self.intake.due().is_none_or(|due| due > now) {
            return;
        }
        self.leave_ended();
        let (mut waiters, mut holders) = (self.waiters(), self.holders(now));
        let mut shares = Shares::default();
        for holder in &holders {
            *shares.0.entry(holder.tenant).or_default() += holder.bytes;
        }
        for (ns, room) in self.rooms_of_long_emits() {
            *shares.0.entry(Some(ns)).or_default() += room.bytes;
        }
        self.intake.is_stale = true;
        for _ in 0..STEPS_PER_TURN {
            let first = shares.first(&waiters);
            if let Some((at, first)) = first
                && self.intake.reserve.has_room(first.bytes, self.limits.control_input_bytes)
            {
                *shares.0.entry(first.tenant).or_default() += first.bytes;
                let first = waiters.swap_remove(at);
                self.let_in(net, first);
            } else if let Some((_, first)) = first
                && let Some((at, offender)) = shares.offender(&holders, first)
            {
                *shares.0.entry(offender.tenant).or_default() -= offender.bytes;
                let offender = holders.swap_remove(at);
                self.turn_out(net, offender.conn);
            } else {
                self.intake.is_stale = false;
                break;
            }
        }
        self.intake.seen = self.intake.reserved();
        self.intake.look_at = now.plus(LOOK_MS);
    }

    /// Removes those that are not read any more, and only wait for what they are owed.
    fn leave_ended(&mut self) {
        let connections = &mut self.connections;
        self.intake.line.retain(|(_, conn, _)| {
            let Some(controller) = connections.controller(*conn).filter(|it| it.is_ended) else {
                return true;
            };
            controller.place = None;
            false
        });
    }

    /// Those that wait.
    fn waiters(&self) -> Vec<InLine> {
        let waiter = |(place, conn, bytes): &(u64, ConnId, usize)| {
            let tenant = self.connections.look_at(*conn)?.namespace();
            Some(InLine { place: *place, conn: *conn, tenant, bytes: *bytes })
        };
        self.intake.line.iter().filter_map(waiter).collect()
    }

    /// The rooms that long emits keep, and their namespaces.
    fn rooms_of_long_emits(&self) -> impl Iterator<Item = (NsId, &Room)> {
        let waiting = self.waiting.values().filter_map(|waiter| match waiter {
            Waiter::LongEmit(long_emit, _) => Some(&**long_emit),
            Waiter::Command(_) => None,
        });
        let all = self.long_emits.iter().chain(waiting);
        all.filter_map(|long_emit| Some((long_emit.ns, long_emit.room.as_ref()?)))
    }

    fn holders(&self, now: Millis) -> Vec<Holder> {
        let holder = |conn: ConnId| {
            let controller = self.connections.look_at(conn)?;
            let bytes = controller.room.as_ref()?.bytes;
            let arrived = controller.decoder.arrived().len();
            let missing = bytes.saturating_sub(arrived);
            // Not being read is the connection's own fault only if it does not read its replies.
            let (is_late, is_ripe) = match controller.deadlines.waited(now) {
                Some((ms, of)) => {
                    let due = u128::from(ms.saturating_sub(GRACE_MS)) * bytes as u128;
                    (arrived as u128 * u128::from(of) < due, ms >= GRACE_MS)
                }
                None => (true, controller.is_held),
            };
            let is_ripe = is_ripe && controller.replies.is_empty();
            let tenant = controller.namespace();
            Some(Holder { conn, tenant, bytes, missing, is_late, is_ripe })
        };
        self.connections.all_controllers().into_iter().filter_map(holder).collect()
    }

    /// Gives a waiter its room: the deadline of its frame starts now.
    fn let_in(&mut self, net: &mut impl Net, InLine { place, conn, bytes, .. }: InLine) {
        self.intake.leave(place);
        let room = self.intake.reserve.room(bytes);
        let Some(controller) = self.connections.controller(conn) else { return };
        (controller.place, controller.room) = (None, Some(room));
        controller.watch_frame(net, conn, false, &self.limits);
        controller.watch_frame(net, conn, true, &self.limits);
        net.resume(conn);
    }

    /// Evicts a connection.
    fn turn_out(&mut self, net: &mut impl Net, conn: ConnId) {
        if let Some(controller) = self.connections.controller(conn) {
            controller.end();
            net.close(conn, CloseReason::Full);
            self.intake.evicted += 1;
        }
    }

    /// Checks that reservations and queue agree with the controllers; for tests.
    pub(super) fn check_intake(&self) {
        let conns = self.connections.all_controllers();
        let controllers = || conns.iter().filter_map(|conn| self.connections.look_at(*conn));
        let rooms = controllers().filter_map(|controller| controller.room.as_ref());
        let rooms = rooms.chain(self.rooms_of_long_emits().map(|(_, room)| room));
        assert_eq!(rooms.map(|room| room.bytes).sum::<usize>(), self.intake.reserved());
        let places = controllers().filter_map(|controller| controller.place);
        assert_eq!(places.count(), self.intake.line.len(), "who waits for room");
        for (place, conn, _) in &self.intake.line {
            let controller = self.connections.look_at(*conn);
            assert!(controller.is_some_and(|c| c.place == Some(*place) && c.room.is_none()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(slot: u32) -> ConnId {
        ConnId::new(slot, 0)
    }

    #[test]
    fn reservations_wait_behind_earlier_ones() {
        let mut intake = Intake::default();
        let first = intake.reserve(conn(1), 60, 100).unwrap();
        let second = intake.reserve(conn(2), 40, 100).unwrap();
        assert_eq!((intake.reserved(), intake.due()), (100, None));
        assert_eq!(intake.reserve(conn(3), 90, 100).unwrap_err(), 1);
        assert_eq!(intake.due(), Some(Millis(0)));
        (intake.is_stale, intake.seen, intake.look_at) = (false, 100, Millis(7));
        assert_eq!(intake.due(), Some(Millis(7)));
        drop(first);
        assert_eq!(intake.due(), Some(Millis(0)));
        // There would be room for this one, but others wait already.
        assert_eq!(intake.reserve(conn(5), 30, 100).unwrap_err(), 2);
        let has_room = |bytes, max| intake.reserve.has_room(bytes, max);
        assert!(has_room(60, 100) && !has_room(61, 100));
        drop(second);
        assert!(has_room(90, 10), "a single one always has room");
        intake.leave(2);
        intake.leave(1);
        assert_eq!((intake.due(), intake.waits), (None, 2));
        intake.check_drained();
    }

    #[test]
    fn the_namespace_with_most_room_yields_to_the_one_with_least() {
        let tenant = |slot| Some(NsId::new(slot, 0));
        let waiter = |place, of, bytes| InLine { place, conn: conn(0), tenant: tenant(of), bytes };
        let holder = |slot, of, missing| Holder {
            conn: conn(slot),
            tenant: tenant(of),
            bytes: 40,
            missing,
            is_late: false,
            is_ripe: true,
        };
        let shares = Shares(BTreeMap::from([(tenant(1), 80), (tenant(2), 40)]));
        let line = [waiter(1, 1, 1), waiter(2, 2, 20), waiter(3, 3, 60), waiter(4, 2, 20)];
        let first = |line| shares.first(line).map(|(at, _)| at);
        assert_eq!((first(&line[..]), first(&line[..1]), first(&[])), (Some(1), Some(0), None));
        let all = [holder(1, 1, 10), holder(2, 1, 30), holder(3, 2, 39)];
        let goes = |all: &[Holder], line: &InLine| shares.offender(all, line).map(|(at, _)| at);
        // From the namespace that has the most: the connection with the most bytes missing.
        assert_eq!(goes(&all, &line[1]), Some(1));
        // None is evicted for a namespace that would then have as much as the others.
        assert_eq!(goes(&all, &waiter(1, 2, 40)), None);
        assert_eq!(goes(&all, &line[0]), None);
        // A late one may be evicted for any waiter, unless it is owed a reply or has just begun.
        let late = Holder { is_late: true, ..all[2] };
        assert_eq!(goes(&[all[0], late], &line[0]), Some(1));
        assert_eq!(goes(&[Holder { is_ripe: false, ..late }], &line[0]), None);
    }
}
