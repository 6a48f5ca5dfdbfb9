//! Timers by the million: a hierarchical wheel (Varghese and Lauck, 1987). Owns what is to expire
//! and when; never reads a clock (it is told the time) and never calls anybody back (what has
//! expired is popped). Called by the reactor for deadlines and by the hub for the life of states.
//!
//! A moment is a 64-bit number of milliseconds, written as eleven digits of six bits. A pending
//! timer lies on the level of the highest digit in which its moment differs from the wheel's own
//! place in time, in the slot of that digit. So a slot of level 0 is one millisecond, one of
//! level 1 is 64 of them, and so on, and the lowest level in use holds the earliest timers. When
//! the wheel reaches a slot above level 0, the slot's timers are filed again, on lower levels: at
//! most ten times in the life of a timer. One bitmap per level finds the next slot in use, so
//! empty time costs nothing, however long.
//!
//! Timers of the same moment always share a slot, and filing keeps their order: they expire in
//! the order of insertion.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use crate::arena::{NIL, Slots};

/// Bits of a digit.
const DIGIT_BITS: u32 = 6;
/// Slots of a level: the values of a digit.
const SLOTS: usize = 1 << DIGIT_BITS;
/// Digits of a moment. The highest has four bits only, and uses 16 of its slots.
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;

/// Names one timer of one [`Wheel`] as long as it is pending, and nothing afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timer {
    slot: u32,
    generation: NonZeroU32,
}

impl Timer {
    /// Where the wheel has it. Whoever forgets that when the timer is popped finds the timer again
    /// with [`Wheel::timer_in`], and needs to remember no more.
    pub fn place(self) -> u32 {
        self.slot
    }
}

#[derive(Debug)]
struct Node<T> {
    at: u64,
    item: T,
    /// Which life of the node; counts insertions, so it also orders them. Zero is for those who
    /// store it: their mark of vacancy would cost 8 bytes more.
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
    /// Apart: what holds a wheel is moved about as it is made, and these are 3 KB.
    levels: Box<[Level; LEVELS]>,
    /// Timers inserted at a moment that the wheel had already reached, in order of expiry:
    /// moment, generation, node.
    overdue: BTreeSet<(u64, NonZeroU32, u32)>,
    /// What the caller last said; nothing later expires.
    now: u64,
    /// The wheel's place in time, which all slots are relative to: `now`, or before it the moment
    /// of the earliest timer in a slot that has expired and was not yet popped.
    reached: u64,
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
            generation: NonZeroU32::MIN,
        }
    }

    /// How many timers are pending, the expired that were not popped included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a timer that expires at the moment `at`; at once if that has passed. Constant time,
    /// but for a moment that has passed already: that is sorted in among others of its kind.
    ///
    /// # Panics
    /// At 2^32 timers at a time, which no machine of this kind holds.
    pub fn insert(&mut self, at: u64, item: T) -> Timer {
        let generation = self.generation;
        self.generation = generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let slot = self.nodes.insert(Node { at, item, generation, previous: NIL, next: NIL });
        if at <= self.reached {
            self.overdue.insert((at, generation, slot));
        } else {
            self.link(slot);
        }
        Timer { slot, generation }
    }

    /// The pending timer that is in that place.
    pub fn timer_in(&self, place: u32) -> Option<Timer> {
        let node = self.nodes.get(place)?;
        Some(Timer { slot: place, generation: node.generation })
    }

    /// Takes a timer out before it is popped. `None` if it is no longer pending. Constant time
    /// for a timer that has not expired.
    pub fn cancel(&mut self, timer: Timer) -> Option<T> {
        let node = self.nodes.get(timer.slot)?;
        (node.generation == timer.generation).then(|| self.take(timer.slot)).flatten().map(|t| t.1)
    }

    /// Tells the wheel the time. It does not go back: an earlier moment than before is ignored.
    /// Costs nothing for empty time, and a step for each timer in a slot that is filed again.
    pub fn advance(&mut self, now: u64) {
        // What is told again and again within one moment is settled already.
        if now > self.now {
            self.now = now;
            self.settle();
        }
    }

    /// Whether a timer has expired.
    #[inline]
    pub fn has_expired(&self) -> bool {
        self.head() != NIL || !self.overdue.is_empty()
    }

    /// Takes out one timer that has expired, with the moment it was set for: the earliest, and of
    /// several at one moment the one inserted first.
    pub fn pop_expired(&mut self) -> Option<(u64, T)> {
        let head = self.head();
        let slot = match self.overdue.first() {
            // At the same moment, the timer in the slot was inserted before the overdue one.
            Some(&(at, _, slot)) if at < self.reached || head == NIL => slot,
            _ if head == NIL => return None,
            _ => head,
        };
        self.take(slot)
    }

    /// When to call [`Wheel::advance`] next; `None` if no timer is pending. Never after the
    /// earliest timer, and always later than now, unless one has expired already.
    ///
    /// May be earlier than the earliest timer: if that is far off, it is the moment at which its
    /// slot is to be filed again, after which the answer is nearer the truth. To sleep through
    /// to a timer takes at most ten such calls.
    pub fn next_at(&self) -> Option<u64> {
        let overdue = self.overdue.first().map(|&(at, ..)| at);
        let slot = self.earliest_slot().map(|(_, start)| start);
        overdue.into_iter().chain(slot).min()
    }

    /// Panics if the wheel is not in order. Walks over all timers: for tests.
    pub fn check_invariants(&self) {
        assert!(self.reached <= self.now);
        assert!(self.reached == self.now || self.head() != NIL, "behind without a reason");
        assert!(self.earliest_slot().is_none_or(|(level, start)| start > self.now || level == 0));
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
            assert_eq!(place_of(node.at, self.reached), place);
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
    /// there is none.
    fn settle(&mut self) {
        while let Some((level, start)) = self.earliest_slot()
            && start <= self.now
        {
            self.reached = start;
            if level == 0 {
                return;
            }
            self.file_again(level, digit(start, level));
        }
        self.reached = self.now;
    }

    /// Spreads the timers of a slot whose time has come over the levels below.
    fn file_again(&mut self, level: usize, index: usize) {
        let head = self.clear_slot(level, index);
        let mut slot = head;
        loop {
            let next = self.nodes[slot].next;
            self.link(slot);
            if next == head {
                return;
            }
            slot = next;
        }
    }

    /// Empties a slot; returns what was the first node of its ring.
    fn clear_slot(&mut self, level: usize, index: usize) -> u32 {
        let level = &mut self.levels[level];
        level.occupied &= !(1 << index);
        std::mem::replace(&mut level.heads[index], NIL)
    }

    /// Puts a node at the end of the slot that its moment belongs to.
    fn link(&mut self, slot: u32) {
        let (level, index) = place_of(self.nodes[slot].at, self.reached);
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
        let (level, index) = place_of(at, self.reached);
        if next == slot {
            self.clear_slot(level, index);
            return;
        }
        self.nodes[previous].next = next;
        self.nodes[next].previous = previous;
        let head = &mut self.levels[level].heads[index];
        if *head == slot {
            *head = next;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Xorshift(u64);

    impl Xorshift {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, end: u64) -> u64 {
            self.next() % end
        }

        /// A span of any size: about as many of each number of bits up to `bits`.
        fn span(&mut self, bits: u64) -> u64 {
            let width = 1 + self.below(bits) as u32;
            self.next() >> (u64::BITS - width)
        }
    }

    /// The wheel beside the plain truth.
    struct Pair {
        wheel: Wheel<u64>,
        truth: BTreeMap<(u64, u64), Timer>,
        /// Timers ever made, with their key in `truth`.
        made: Vec<(Timer, (u64, u64))>,
        now: u64,
    }

    impl Pair {
        fn new(now: u64) -> Pair {
            Pair { wheel: Wheel::new(now), truth: BTreeMap::new(), made: Vec::new(), now }
        }

        fn insert(&mut self, at: u64) {
            let key = (at, self.made.len() as u64);
            let timer = self.wheel.insert(at, key.1);
            self.truth.insert(key, timer);
            self.made.push((timer, key));
        }

        fn cancel(&mut self, index: usize) {
            let (timer, key) = self.made[index];
            let pending = self.truth.remove(&key).map(|_| key.1);
            assert_eq!(self.wheel.cancel(timer), pending);
        }

        fn advance(&mut self, to: u64) {
            self.now = self.now.max(to);
            self.wheel.advance(to);
        }

        /// Pops one and says whether there was one.
        fn pop(&mut self) -> bool {
            let first = self.truth.keys().next().copied().filter(|&(at, _)| at <= self.now);
            assert_eq!(self.wheel.pop_expired(), first);
            first.is_some_and(|key| self.truth.remove(&key).is_some())
        }

        fn check(&self) {
            self.wheel.check_invariants();
            assert_eq!(self.wheel.len(), self.truth.len());
            let earliest = self.truth.keys().next().map(|&(at, _)| at);
            match (self.wheel.next_at(), earliest) {
                (None, None) => {}
                (Some(next), Some(at)) => {
                    assert!(next <= at, "sleeps past a timer: {next} > {at}");
                    assert_eq!(next > self.now, at > self.now, "wakes for nothing");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn run(seed: u64, start: u64, steps: usize, bits: u64) {
        let mut random = Xorshift(seed);
        let mut pair = Pair::new(start);
        for _ in 0..steps {
            match random.below(16) {
                0..=5 => pair.insert(pair.now.saturating_add(random.span(bits))),
                6 => pair.insert(pair.now.saturating_sub(random.span(bits))),
                7 => pair.insert(random.span(64)),
                8 => pair.insert(u64::MAX - random.below(3)),
                9..=10 if !pair.made.is_empty() => {
                    pair.cancel(random.below(pair.made.len() as u64) as usize);
                }
                11..=12 => pair.advance(pair.now.saturating_add(random.span(bits))),
                13 => pair.advance(pair.now.saturating_sub(random.span(bits))),
                14 => while random.below(4) > 0 && pair.pop() {},
                _ => while pair.pop() {},
            }
            pair.check();
        }
        pair.advance(u64::MAX);
        while pair.pop() {
            pair.check();
        }
        assert!(pair.wheel.is_empty() && pair.truth.is_empty());
    }

    #[test]
    fn it_does_what_an_ordered_map_does() {
        for seed in 1..=24 {
            run(seed, 0, 600, 7);
            run(seed, seed << 40 | 63, 600, 14);
            run(seed, seed * 999_999_937, 600, 36);
            run(seed, u64::MAX / 2, 600, 60);
            run(seed, u64::MAX - 5000, 300, 14);
        }
    }

    #[test]
    fn who_sleeps_until_next_at_meets_every_timer_on_time_after_few_wakings() {
        let mut wheel = Wheel::new(1_795_472_348_999);
        let mut random = Xorshift(7);
        for _ in 0..200 {
            wheel.insert(1_795_472_349_000 + random.span(40), ());
        }
        let mut wakings = 0;
        while let Some(now) = wheel.next_at() {
            wakings += 1;
            wheel.advance(now);
            while let Some((at, ())) = wheel.pop_expired() {
                assert_eq!(at, now, "popped at its own millisecond");
            }
        }
        assert!(wakings <= 200 * LEVELS, "{wakings}");
    }

    #[test]
    fn same_moment_expires_in_order_of_insertion_across_levels() {
        let mut wheel = Wheel::new(0);
        wheel.insert(5000, 0); // two levels up
        wheel.insert(5000, 1);
        wheel.advance(4999);
        wheel.insert(5000, 2); // on level 0
        wheel.advance(6000);
        wheel.insert(5000, 3); // overdue
        wheel.insert(4000, 4); // overdue, and earlier than all
        let order: Vec<_> = std::iter::from_fn(|| wheel.pop_expired()).collect();
        assert_eq!(order, [(4000, 4), (5000, 0), (5000, 1), (5000, 2), (5000, 3)]);
    }

    #[test]
    fn the_ends_of_time() {
        let mut wheel = Wheel::new(0);
        wheel.insert(u64::MAX, 'z');
        wheel.insert(0, 'a');
        assert_eq!(wheel.next_at(), Some(0));
        assert_eq!(wheel.pop_expired(), Some((0, 'a')));
        wheel.advance(u64::MAX - 1);
        assert_eq!((wheel.pop_expired(), wheel.next_at()), (None, Some(u64::MAX)));
        wheel.advance(u64::MAX);
        wheel.insert(u64::MAX, 'y');
        wheel.check_invariants();
        assert_eq!(wheel.pop_expired(), Some((u64::MAX, 'z')));
        assert_eq!(wheel.pop_expired(), Some((u64::MAX, 'y')));
        assert_eq!((wheel.pop_expired(), wheel.next_at()), (None, None));
    }

    #[test]
    fn a_stale_timer_cancels_nothing() {
        let mut wheel = Wheel::new(0);
        let first = wheel.insert(10, "first");
        assert_eq!(wheel.cancel(first), Some("first"));
        let second = wheel.insert(10, "second");
        assert_eq!(first.slot, second.slot, "the node is used again");
        assert_eq!(wheel.cancel(first), None);
        wheel.advance(10);
        assert_eq!(wheel.pop_expired(), Some((10, "second")));
        assert_eq!(wheel.cancel(second), None);
    }

    #[test]
    fn a_stale_timer_cancels_nothing_after_the_memory_was_given_back() {
        let mut wheel = Wheel::new(0);
        let timers: Vec<_> = (0..5000).map(|at| wheel.insert(at, at)).collect();
        wheel.advance(5000);
        while wheel.pop_expired().is_some() {}
        assert!(wheel.nodes.capacity() < 2048, "{}", wheel.nodes.capacity());
        wheel.insert(6000, 6000);
        assert!(timers.iter().all(|timer| wheel.cancel(*timer).is_none()));
        assert_eq!(wheel.len(), 1);
    }

    #[test]
    fn a_timer_stays_small() {
        const { assert!(Slots::<Node<u32>>::SLOT_BYTES <= 24) };
        const { assert!(Slots::<Node<u64>>::SLOT_BYTES <= 32) };
        assert_eq!(size_of::<Option<Timer>>(), 8);
        assert!(size_of::<Wheel<u64>>() <= 128);
    }
}
