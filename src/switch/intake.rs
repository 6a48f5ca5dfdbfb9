//! Room for what back ends are sending. A frame of which more has arrived than strangers may send
//! reserves the length that it declares, out of `control_input_bytes`; while there is no room for
//! it its connection is not read, and others are: small commands wait for nothing. Room goes to
//! the namespace that has least of it then, and a frame that has waited has its time from then on.
//! While somebody waits, those make room who send too slowly to be done in time, and those of a
//! namespace that has more than the one that waits would have: the largest first. So nobody is
//! kept out by halves, however many there are. Called by the switch before each frame, and at the
//! end of each turn.

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

/// So long a frame has room, whoever waits.
const GRACE_MS: u64 = 1000;
/// Between two looks at all while somebody waits.
const LOOK_MS: u64 = 100;
/// Steps in one turn: in each somebody is let in, or has to make room.
const STEPS_PER_TURN: usize = 8;

/// Whose commands they are.
type Tenant = Option<NsId>;

/// Room for one frame, or for a reply. It is given back when this is dropped, whichever way that
/// ends.
#[derive(Debug)]
pub(super) struct Room {
    bytes: usize,
    reserved: Rc<Cell<usize>>,
}

impl Room {
    /// How much.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// How much of some room is reserved.
#[derive(Debug, Default)]
pub(super) struct Reserve(Rc<Cell<usize>>);

impl Reserve {
    /// Bytes that are reserved.
    pub fn reserved(&self) -> usize {
        self.0.get()
    }

    /// Whoever is alone finds room: a limit that has become lower holds up nobody for ever.
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

/// Who waits for room.
#[derive(Clone, Copy, Debug)]
struct InLine {
    place: u64,
    conn: ConnId,
    tenant: Tenant,
    bytes: usize,
}

/// Who has room.
#[derive(Clone, Copy, Debug)]
struct Holder {
    conn: ConnId,
    tenant: Tenant,
    bytes: usize,
    /// What has not arrived of it.
    missing: usize,
    /// At its pace it is not whole in time.
    is_late: bool,
    /// It may have to go: it has had its time, and is owed nothing.
    is_ripe: bool,
}

/// What each namespace has reserved.
#[derive(Debug, Default)]
struct Shares(BTreeMap<Tenant, usize>);

impl Shares {
    fn of(&self, tenant: Tenant) -> usize {
        self.0.get(&tenant).copied().unwrap_or_default()
    }

    /// The first of those who wait: of that namespace that would have least.
    fn first<'a>(&self, waiters: &'a [InLine]) -> Option<(usize, &'a InLine)> {
        let would_have = |waiter: &InLine| self.of(waiter.tenant) + waiter.bytes;
        waiters.iter().enumerate().min_by_key(|(_, waiter)| (would_have(waiter), waiter.place))
    }

    /// The one that is to make room for it, if anybody is.
    fn offender<'a>(&self, holders: &'a [Holder], first: &InLine) -> Option<(usize, &'a Holder)> {
        let would_have = self.of(first.tenant) + first.bytes;
        let may_go = |it: &Holder| it.is_ripe && (it.is_late || self.of(it.tenant) > would_have);
        let size = |it: &Holder| (self.of(it.tenant), it.missing, Reverse(it.conn));
        let all = holders.iter().enumerate().filter(|(_, holder)| may_go(holder));
        all.max_by_key(|(_, holder)| size(holder))
    }
}

/// What is reserved in all, and who waits for room.
#[derive(Debug, Default)]
pub(super) struct Intake {
    reserve: Reserve,
    /// Who waits, each with its place and for how much, in the order in which they came.
    line: VecDeque<(u64, ConnId, usize)>,
    /// Who waits may have changed since the last look, or how much there may be.
    is_stale: bool,
    /// What was reserved at the last look, and when to look again at the latest.
    seen: usize,
    look_at: Millis,
    /// How many have waited so far.
    pub waits: u64,
    /// How many had to make room.
    pub evicted: u64,
}

impl Intake {
    /// Bytes that are reserved.
    pub fn reserved(&self) -> usize {
        self.reserve.reserved()
    }

    /// Room for a frame that begins, or the place in line of its connection.
    fn reserve(&mut self, conn: ConnId, bytes: usize, max: usize) -> Result<Room, u64> {
        if self.line.is_empty() && self.reserve.has_room(bytes, max) {
            return Ok(self.reserve.room(bytes));
        }
        self.waits += 1;
        self.line.push_back((self.waits, conn, bytes));
        self.is_stale = true;
        Err(self.waits)
    }

    /// When a look is wanted at the latest.
    pub fn due(&self) -> Option<Millis> {
        let is_moving = self.is_stale || self.reserved() < self.seen;
        let at = if is_moving { Millis(0) } else { self.look_at };
        (!self.line.is_empty()).then_some(at)
    }

    /// Whoever had that place waits no longer.
    pub fn leave(&mut self, place: u64) {
        if let Ok(at) = self.line.binary_search_by_key(&place, |(place, ..)| *place) {
            self.line.remove(at);
        }
        self.is_stale = true;
    }

    /// There may be room for more than before.
    pub fn reload(&mut self) {
        self.is_stale = true;
    }

    /// Checks that nobody waits and nothing is reserved; for tests.
    pub fn check_drained(&self) {
        assert_eq!((self.reserved(), self.line.len()), (0, 0), "room for frames that arrive");
    }
}

impl Switch {
    /// Whether the rest of a frame of so many bytes may come, of which a first part is there. Else
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

    /// Reads those again whose turn has come, and lets those go who make room for others.
    pub(super) fn take_in(&mut self, net: &mut impl Net) {
        let now = net.now().mono;
        if self.intake.due().is_none_or(|due| due > now) {
            return;
        }
        let (mut waiters, mut holders) = (self.waiters(), self.holders(now));
        let mut shares = Shares::default();
        for holder in &holders {
            *shares.0.entry(holder.tenant).or_default() += holder.bytes;
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

    /// Those in line who are heard when there is room.
    fn waiters(&self) -> Vec<InLine> {
        let waiter = |(place, conn, bytes): &(u64, ConnId, usize)| {
            let controller = self.seats.look_at(*conn).filter(|it| !it.is_ended)?;
            let tenant = controller.namespace();
            Some(InLine { place: *place, conn: *conn, tenant, bytes: *bytes })
        };
        self.intake.line.iter().filter_map(waiter).collect()
    }

    fn holders(&self, now: Millis) -> Vec<Holder> {
        let holder = |conn: ConnId| {
            let controller = self.seats.look_at(conn)?;
            let bytes = controller.room.as_ref()?.bytes;
            let arrived = controller.decoder.arrived().len();
            let missing = bytes.saturating_sub(arrived);
            // Whoever does not take its replies is to blame that it is not heard; else nobody is.
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
        self.seats.all_controllers().into_iter().filter_map(holder).collect()
    }

    /// There is room for it: its time begins.
    fn let_in(&mut self, net: &mut impl Net, InLine { place, conn, bytes, .. }: InLine) {
        self.intake.leave(place);
        let room = self.intake.reserve.room(bytes);
        let Some(controller) = self.seats.controller(conn) else { return };
        (controller.place, controller.room) = (None, Some(room));
        controller.watch_frame(net, conn, false, &self.limits);
        controller.watch_frame(net, conn, true, &self.limits);
        net.resume(conn);
    }

    /// It makes room for somebody.
    fn turn_out(&mut self, net: &mut impl Net, conn: ConnId) {
        if let Some(controller) = self.seats.controller(conn) {
            controller.end();
            net.close(conn, CloseReason::Full);
            self.intake.evicted += 1;
        }
    }

    /// Checks that what is reserved and who waits is what the controllers say; for tests.
    pub(super) fn check_intake(&self) {
        let conns = self.seats.all_controllers();
        let controllers = || conns.iter().filter_map(|conn| self.seats.look_at(*conn));
        let spreads = self.spreads.iter().filter_map(|spread| spread.room.as_ref());
        let waiting = self.waiting.values().filter_map(|waiter| match waiter {
            Waiter::Spread(spread, _) => spread.room.as_ref(),
            Waiter::Command(_) => None,
        });
        let rooms = controllers().filter_map(|controller| controller.room.as_ref());
        let rooms = rooms.chain(spreads).chain(waiting);
        assert_eq!(rooms.map(|room| room.bytes).sum::<usize>(), self.intake.reserved());
        let places = controllers().filter_map(|controller| controller.place);
        assert_eq!(places.count(), self.intake.line.len(), "who waits for room");
        for (place, conn, _) in &self.intake.line {
            let controller = self.seats.look_at(*conn);
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
    fn whoever_comes_behind_others_waits() {
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
        // There would be room for this one, but others have come before.
        assert_eq!(intake.reserve(conn(5), 30, 100).unwrap_err(), 2);
        let has_room = |bytes, max| intake.reserve.has_room(bytes, max);
        assert!(has_room(60, 100) && !has_room(61, 100));
        drop(second);
        assert!(has_room(90, 10), "it is alone");
        intake.leave(2);
        intake.leave(1);
        assert_eq!((intake.due(), intake.waits), (None, 2));
        intake.check_drained();
    }

    #[test]
    fn the_largest_makes_room_for_the_smallest() {
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
        // Of the namespace that has most, the one of which most is missing.
        assert_eq!(goes(&all, &line[1]), Some(1));
        // That which would have as much as the others has nobody let go for it.
        assert_eq!(goes(&all, &waiter(1, 2, 40)), None);
        assert_eq!(goes(&all, &line[0]), None);
        // But who is late goes for everybody, unless it is owed something, or has just begun.
        let late = Holder { is_late: true, ..all[2] };
        assert_eq!(goes(&[all[0], late], &line[0]), Some(1));
        assert_eq!(goes(&[Holder { is_ripe: false, ..late }], &line[0]), None);
    }
}
