//! Room for what back ends are sending. A frame of which more has arrived than strangers may send
//! reserves the length that it declares, out of `control_input_bytes`; while there is no room for
//! it its connection is not read, and others are: small commands wait for nothing. Its time runs
//! all the same: whoever sends a part and no more is gone in that, and holds up nobody for longer.
//! Called by the switch before each frame, and at the end of each turn.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::control::Controller;
use super::{Switch, Waiter};
use crate::edge::{ConnId, Net};
use crate::journal::Journal;

/// Room for one frame. It is given back when this is dropped, whichever way the frame ends.
#[derive(Debug)]
pub(super) struct Room {
    bytes: usize,
    reserved: Rc<Cell<usize>>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.reserved.set(self.reserved.get() - self.bytes);
    }
}

/// What is reserved in all, and who waits for room.
#[derive(Debug, Default)]
pub(super) struct Intake {
    reserved: Rc<Cell<usize>>,
    /// Who waits, and for how much, in the order in which they came.
    line: BTreeMap<u64, (ConnId, usize)>,
    /// How many have waited so far.
    pub waits: u64,
}

impl Intake {
    /// Bytes that are reserved.
    pub fn reserved(&self) -> usize {
        self.reserved.get()
    }

    /// Whoever is alone finds room: a limit that has become lower holds up nobody for ever.
    fn has_room(&self, bytes: usize, max: usize) -> bool {
        let reserved = self.reserved();
        reserved == 0 || reserved.saturating_add(bytes) <= max
    }

    fn room(&self, bytes: usize) -> Room {
        self.reserved.set(self.reserved() + bytes);
        Room { bytes, reserved: Rc::clone(&self.reserved) }
    }

    /// Room for a frame that begins, or the place in line of its connection.
    fn reserve(&mut self, conn: ConnId, bytes: usize, max: usize) -> Result<Room, u64> {
        if self.line.is_empty() && self.has_room(bytes, max) {
            return Ok(self.room(bytes));
        }
        self.waits += 1;
        self.line.insert(self.waits, (conn, bytes));
        Err(self.waits)
    }

    /// Whether there is room for the first in line.
    pub fn is_moving(&self, max: usize) -> bool {
        self.line.first_key_value().is_some_and(|(_, (_, bytes))| self.has_room(*bytes, max))
    }

    /// The first in line, if there is room for it.
    fn next(&mut self, max: usize) -> Option<(ConnId, Room)> {
        let (_, (conn, bytes)) = self.is_moving(max).then(|| self.line.pop_first())??;
        Some((conn, self.room(bytes)))
    }

    /// Whoever had that place waits no longer.
    pub fn leave(&mut self, place: u64) {
        self.line.remove(&place);
    }

    /// Checks that nobody waits and nothing is reserved; for tests.
    pub fn check_drained(&self) {
        assert_eq!((self.reserved(), self.line.len()), (0, 0), "room for frames that arrive");
    }
}

impl<J: Journal> Switch<J> {
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
        controller.watch_frame(net, conn, true, &self.limits);
        net.pause(conn);
        false
    }

    /// Reads those again whose turn has come.
    pub(super) fn take_in(&mut self, net: &mut impl Net) {
        while let Some((conn, room)) = self.intake.next(self.limits.control_input_bytes) {
            let Some(controller) = self.seats.controller(conn) else { continue };
            controller.place = None;
            if !controller.is_ended {
                controller.room = Some(room);
                net.resume(conn);
            }
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
        for (place, (conn, _)) in &self.intake.line {
            let controller = self.seats.look_at(*conn);
            assert!(controller.is_some_and(|c| c.place == Some(*place) && c.room.is_none()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_in_one_after_the_other() {
        let conn = |slot| ConnId::new(slot, 0);
        let mut intake = Intake::default();
        let first = intake.reserve(conn(1), 60, 100).unwrap();
        let second = intake.reserve(conn(2), 40, 100).unwrap();
        assert_eq!(intake.reserved(), 100);
        assert_eq!(intake.reserve(conn(3), 90, 100).unwrap_err(), 1);
        assert_eq!(intake.reserve(conn(4), 90, 100).unwrap_err(), 2);
        drop(first);
        // There would be room for this one, but not before those who came earlier.
        assert_eq!(intake.reserve(conn(5), 30, 100).unwrap_err(), 3);
        assert!(!intake.is_moving(100) && intake.next(100).is_none());
        drop(second);
        assert!(intake.is_moving(100));
        let (next, third) = intake.next(100).unwrap();
        assert_eq!((next, intake.reserved()), (conn(3), 90));
        assert!(intake.next(100).is_none());
        intake.leave(2);
        assert!(!intake.is_moving(100) && intake.is_moving(120));
        drop(third);
        let (next, last) = intake.next(10).unwrap();
        assert_eq!((next, intake.reserved(), intake.waits), (conn(5), 30, 3), "it is alone");
        assert!(intake.next(100).is_none());
        drop(last);
        intake.check_drained();
    }
}
