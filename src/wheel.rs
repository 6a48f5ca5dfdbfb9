//! Timers by the million: a hierarchical timing wheel (Varghese and Lauck, 1987). Owns what is to
//! expire and when; never reads a clock (it is told the time) and never calls back (expired timers
//! are popped). Used by the reactor for deadlines and by the hub for the expiry of states.
//!
//! A moment is a 64-bit number of milliseconds, written as eleven digits of six bits. A pending
//! timer lies on the level of the highest digit in which its moment differs from the wheel's own
//! place in time, in the slot of that digit. So a slot of level 0 is one millisecond, one of level
//! 1 is 64 of them, and so on, and the lowest level in use holds the earliest timers. When the
//! wheel reaches a slot above level 0, the slot's timers cascade: they are filed again on lower
//! levels, at most ten times in the life of a timer. One bitmap per level finds the next slot in
//! use, so empty time costs nothing, however long.
//!
//! A crowd that expires together is filed again in parts, one per call of [`Wheel::advance`], so
//! that no turn pays for all of it. Until that is done the wheel stays at the beginning of the
//! slot, new timers for the time of that slot queue behind the others in it, and nothing later
//! expires.
//!
//! Timers of the same moment always share a slot, and filing keeps their order: they expire in the
//! order of insertion.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use crate::arena::{NIL, Slots};

/// Bits of a digit.
const DIGIT_BITS: u32 = 6;
/// Slots of a level: the values of a digit.
const SLOTS: usize = 1 << DIGIT_BITS;
/// Digits of a moment. The highest has four bits only, and uses 16 of its slots.
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;
/// Timers that are filed again per call of [`Wheel::advance`]: some 20 µs.
const FILED_PER_ADVANCE: usize = 4096;

/// Names one timer of one [`Wheel`] while it is pending; stale once that is popped or cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timer {
    slot: u32,
    generation: NonZeroU32,
}

impl Timer {
    /// The slot of its node. A caller that forgets it when the timer is popped can get the timer
    /// back with [`Wheel::timer_in`], and needs to store no more than this.
    pub fn place(self) -> u32 {
        self.slot
    }
}

#[derive(Debug)]
struct Node<T> {
    at: u64,
    item: T,
    /// Tells successive nodes of a slot apart; counts insertions, so it also orders them. Never
    /// zero: without that niche the `Option<Timer>` in other types would take 8 bytes more.
    generation: NonZeroU32,
    /// Neighbours in the ring of the slot: the node itself if it is alone; [`NIL`] if it is in
    /// [`Wheel::overdue`], and in no slot.
    previous: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// Bit `i` is set if slot `i` is in use.
    occupied: u64,
    /// First node of each slot's ring, or [`NIL`]. The last one is the first one's `previous`.
    heads: [u32; SLOTS],
}

/// Pending timers, each with an item. Moments are milliseconds on any scale the caller likes, the
/// same for all timers of a wheel.
#[derive(Debug)]
pub struct Wheel<T> {
    nodes: Slots<Node<T>>,
    /// Boxed: a value with a wheel in it is moved while it is made, and these are 3 KB.
    levels: Box<[Level; LEVELS]>,
    /// Timers inserted at a moment that the wheel had already reached, in order of expiry:
    /// moment, generation, node.
    overdue: BTreeSet<(u64, NonZeroU32, u32)>,
    /// The time that the caller last told; nothing later expires.
    now: u64,
    /// The wheel's place in time, which all slots are relative to: `now`, or before it the moment
    /// of the earliest timer in a slot that has expired and was not yet popped.
    reached: u64,
    /// The level of the slot at that place that is being filed again; 0 if none is.
    filing: usize,
    /// How many timers may be filed again before the wheel is next told the time.
    filings: usize,
    /// Generation of the next timer. 2^32 insertions pass before one returns.
    generation: NonZeroU32,
}

impl<T> Wheel<T> {
    /// An empty wheel at the moment `now`.
    pub fn new(now: u64) -> Wheel<T> {
        Wheel {
            nodes: Slots::new(),
            levels: Box::new([Level { occupied: 0, heads: [NIL; SLOTS] }; LEVELS]),
            overdue: BTreeSet::new(),
            now,
            reached: now,
            filing: 0,
            filings: 0,
            generation: NonZeroU32::MIN,
        }
    }

    /// Number of pending timers, including expired ones that were not popped.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no timer is pending.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a timer that expires at the moment `at`; at once if that has passed. Constant time,
    /// except that timers whose moment has passed are kept sorted. A timer that is added to a slot
    /// while that is being filed again has two timers filed, so the slot becomes empty in the end.
    ///
    /// # Panics
    /// At 2^32 timers at a time, which no machine of this kind holds.
    pub fn insert(&mut self, at: u64, item: T) -> Timer {
        let generation = self.generation;
        self.generation = generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let slot = self.nodes.insert(Node { at, item, generation, previous: NIL, next: NIL });
        if at <= self.reached {
            self.overdue.insert((at, generation, slot));
        } else if place_of(at, self.reached).0 < self.filing {
            self.link(slot, self.filing_place());
            self.filings += 2;
            self.settle();
        } else {
            self.link(slot, place_of(at, self.reached));
        }
        Timer { slot, generation }
    }

    /// The pending timer whose node is in this slot.
    pub fn timer_in(&self, place: u32) -> Option<Timer> {
        let node = self.nodes.get(place)?;
        Some(Timer { slot: place, generation: node.generation })
    }

    /// Cancels a timer and returns its item; `None` if it is no longer pending. Constant time for a
    /// timer that has not expired.
    pub fn cancel(&mut self, timer: Timer) -> Option<T> {
        let node = self.nodes.get(timer.slot)?;
        (node.generation == timer.generation).then(|| self.take(timer.slot)).flatten().map(|t| t.1)
    }

    /// Tells the wheel the time; an earlier one than before is ignored. Empty time costs nothing.
    /// Each timer in a slot that is filed again costs a step: a bounded number per call, and the
    /// rest comes with the next one, even within the same moment.
    pub fn advance(&mut self, now: u64) {
        // Nothing is left to do within the same moment, except for a crowd.
        if now > self.now || self.filing > 0 {
            self.now = self.now.max(now);
            self.filings = FILED_PER_ADVANCE;
            self.settle();
        }
    }

    /// Whether a timer has expired. If none has, [`Wheel::pop_expired`] returns `None`.
    #[inline]
    pub fn has_expired(&self) -> bool {
        self.head() != NIL || !self.overdue.is_empty()
    }

    /// Removes one expired timer; returns it with the moment it was set for: the earliest, and of
    /// several at one moment the one inserted first. `None` also while that one is in a slot of
    /// which not all is filed again: then [`Wheel::next_at`] asks for another [`Wheel::advance`].
    pub fn pop_expired(&mut self) -> Option<(u64, T)> {
        let head = self.head();
        let slot = match self.overdue.first() {
            // At the same moment, the timer in the slot was inserted before the overdue one.
            Some(&(at, _, slot)) if at < self.reached || head == NIL && self.filing == 0 => slot,
            _ if head == NIL => return None,
            _ => head,
        };
        self.take(slot)
    }

    /// When to call [`Wheel::advance`] next; `None` if no timer is pending. Never after the
    /// earliest timer, and always later than now, unless a timer has expired or a crowd is being
    /// filed again.
    ///
    /// May be earlier than the earliest timer: if that is far off, it is the moment at which its
    /// slot is to be filed again, and the next answer is closer. To sleep through to a timer takes
    /// at most ten such calls.
    pub fn next_at(&self) -> Option<u64> {
        let overdue = self.overdue.first().map(|&(at, ..)| at);
        let slot = if self.filing > 0 {
            Some(self.reached)
        } else {
            self.earliest_slot().map(|(_, start)| start)
        };
        overdue.into_iter().chain(slot).min()
    }

    /// Gives back a part of the memory of a past crowd. Returns whether there may be more.
    pub fn trim(&mut self) -> bool {
        self.nodes.trim()
    }

    /// Panics if the wheel is not in order. Walks over all timers: for tests.
    pub fn check_invariants(&self) {
        assert!(self.reached <= self.now);
        let is_behind = self.head() != NIL || self.filing > 0;
        assert!(self.reached == self.now || is_behind, "behind without a reason");
        let is_settled = |(level, start)| start > self.now || level == 0;
        assert!(self.filing > 0 || self.earliest_slot().is_none_or(is_settled));
        let (level, index) = self.filing_place();
        assert!(level == 0 || self.levels[level].heads[index] != NIL, "nothing is filed again");
        for &(at, generation, slot) in &self.overdue {
            let node = &self.nodes[slot];
            assert!(node.previous == NIL && (node.at, node.generation) == (at, generation));
            assert!(at <= self.reached);
        }
        let mut found = self.overdue.len();
        for (level, Level { occupied, heads }) in self.levels.iter().enumerate() {
            for (index, &head) in heads.iter().enumerate() {
                assert_eq!(occupied >> index & 1 == 1, head != NIL, "bitmap of level {level}");
                found += self.check_ring(head, (level, index));
            }
        }
        assert_eq!(found, self.nodes.len(), "a timer is in no slot");
    }

    /// Checks one slot; returns how many timers it holds.
    fn check_ring(&self, head: u32, place: (usize, usize)) -> usize {
        let (mut at, mut found) = (head, 0);
        while at != NIL {
            let node = &self.nodes[at];
            assert!(node.previous != NIL && node.at >= self.reached);
            let own = place_of(node.at, self.reached);
            let is_left = self.filing > 0 && place == self.filing_place();
            assert!(if is_left { own.0 < self.filing } else { own == place });
            assert_eq!(self.nodes[node.next].previous, at);
            found += 1;
            at = if node.next == head { NIL } else { node.next };
        }
        found
    }

    /// The first of the timers in the slot that the wheel has reached.
    fn head(&self) -> u32 {
        self.levels[0].heads[digit(self.reached, 0)]
    }

    /// The earliest slot in use and the moment at which it begins. Lower levels are earlier, and
    /// no slot in use is behind the place the wheel has reached.
    fn earliest_slot(&self) -> Option<(usize, u64)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        let index = u64::from(self.levels[level].occupied.trailing_zeros());
        let shift = DIGIT_BITS * level as u32;
        let above = u64::MAX.checked_shl(shift + DIGIT_BITS).unwrap_or(0);
        Some((level, self.reached & above | index << shift))
    }

    /// Moves the wheel's place in time to the earliest expired timer in a slot, or to `now` if
    /// there is none; or as far towards it as the budget of filings allows.
    fn settle(&mut self) {
        loop {
            while self.filing > 0 {
                let Some(left) = self.filings.checked_sub(1) else { return };
                self.filings = left;
                self.file_one();
            }
            let Some((level, start)) = self.earliest_slot().filter(|(_, at)| *at <= self.now)
            else {
                self.reached = self.now;
                return;
            };
            self.reached = start;
            if level == 0 {
                return;
            }
            self.filing = level;
        }
    }

    /// The slot that is being filed again, if one is: the only one in use above level 0 at the
    /// wheel's place.
    fn filing_place(&self) -> (usize, usize) {
        (self.filing, digit(self.reached, self.filing))
    }

    /// Moves the first timer of that slot to a lower level.
    fn file_one(&mut self) {
        let (level, index) = self.filing_place();
        let slot = self.levels[level].heads[index];
        self.unlink(slot);
        self.link(slot, place_of(self.nodes[slot].at, self.reached));
    }

    /// Appends a node to the ring of a slot.
    fn link(&mut self, slot: u32, (level, index): (usize, usize)) {
        let level = &mut self.levels[level];
        let (previous, next) = match level.heads[index] {
            NIL => {
                level.occupied |= 1 << index;
                level.heads[index] = slot;
                (slot, slot)
            }
            head => (self.nodes[head].previous, head),
        };
        let node = &mut self.nodes[slot];
        (node.previous, node.next) = (previous, next);
        self.nodes[previous].next = slot;
        self.nodes[next].previous = slot;
    }

    /// Takes a node out of the ring of its slot.
    fn unlink(&mut self, slot: u32) {
        let &Node { at, previous, next, .. } = &self.nodes[slot];
        self.nodes[previous].next = next;
        self.nodes[next].previous = previous;
        let left = self.filing_place();
        let is_left = self.filing > 0 && self.levels[left.0].heads[left.1] == slot;
        let (at_level, index) = if is_left { left } else { place_of(at, self.reached) };
        let level = &mut self.levels[at_level];
        if level.heads[index] != slot {
            return;
        }
        if next != slot {
            level.heads[index] = next;
            return;
        }
        level.heads[index] = NIL;
        level.occupied &= !(1 << index);
        if is_left {
            self.filing = 0;
        }
    }

    /// Removes a node from wherever it is.
    fn take(&mut self, slot: u32) -> Option<(u64, T)> {
        if self.nodes[slot].previous != NIL {
            self.unlink(slot);
        }
        let node = self.nodes.remove(slot)?;
        if node.previous == NIL {
            self.overdue.remove(&(node.at, node.generation, slot));
        }
        self.settle();
        Some((node.at, node.item))
    }
}

/// The digit of a moment on that level.
fn digit(at: u64, level: usize) -> usize {
    (at >> (DIGIT_BITS * level as u32)) as usize % SLOTS
}

/// Level and slot of a timer at `at` in a wheel that has reached `reached`, not after it.
fn place_of(at: u64, reached: u64) -> (usize, usize) {
    // The lowest bit is set so that a moment equal to the place itself is on level 0.
    let level = (((at ^ reached) | 1).ilog2() / DIGIT_BITS) as usize;
    (level, digit(at, level))
}
