//! Compares the wheel with an ordered map, and checks order, bounds and memory.

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

    /// A random span: each length in bits up to `bits` is about equally likely.
    fn span(&mut self, bits: u64) -> u64 {
        let width = 1 + self.below(bits) as u32;
        self.next() >> (u64::BITS - width)
    }
}

/// A wheel and its model, an ordered map.
struct Pair {
    wheel: Wheel<u64>,
    model: BTreeMap<(u64, u64), Timer>,
    /// Timers ever made, with their key in `model`.
    made: Vec<(Timer, (u64, u64))>,
    now: u64,
}

impl Pair {
    fn new(now: u64) -> Pair {
        Pair { wheel: Wheel::new(now), model: BTreeMap::new(), made: Vec::new(), now }
    }

    fn insert(&mut self, at: u64) {
        let key = (at, self.made.len() as u64);
        let timer = self.wheel.insert(at, key.1);
        self.model.insert(key, timer);
        self.made.push((timer, key));
    }

    fn cancel(&mut self, index: usize) {
        let (timer, key) = self.made[index];
        let pending = self.model.remove(&key).map(|_| key.1);
        assert_eq!(self.wheel.cancel(timer), pending);
    }

    fn advance(&mut self, to: u64) {
        self.now = self.now.max(to);
        self.wheel.advance(to);
    }

    /// Pops a timer; returns whether there was one. Advances again while timers are being refiled.
    fn pop(&mut self) -> bool {
        let first = self.model.keys().next().copied().filter(|&(at, _)| at <= self.now);
        let mut popped = self.wheel.pop_expired();
        let mut calls = self.wheel.len() * LEVELS / FILED_PER_ADVANCE + LEVELS;
        while popped.is_none() && first.is_some() && calls > 0 {
            assert!(self.wheel.next_at().is_some_and(|at| at <= self.now));
            self.wheel.advance(self.now);
            popped = self.wheel.pop_expired();
            calls -= 1;
        }
        assert_eq!(popped, first);
        first.is_some_and(|key| self.model.remove(&key).is_some())
    }

    /// Pops a timer that is due; returns whether the result is right: the earliest of all, or none
    /// while timers are being refiled.
    fn pop_in_order(&mut self) -> bool {
        let Some(popped) = self.wheel.pop_expired() else {
            let first = self.model.keys().next();
            return self.wheel.filing > 0 || first.is_none_or(|&(at, _)| at > self.now);
        };
        let first = self.model.pop_first().map(|(key, _)| key);
        popped.0 <= self.now && first == Some(popped)
    }

    fn check(&self) {
        self.wheel.check_invariants();
        assert_eq!(self.wheel.len(), self.model.len());
        let earliest = self.model.keys().next().map(|&(at, _)| at);
        match (self.wheel.next_at(), earliest) {
            (None, None) => {}
            (Some(next), Some(at)) => {
                assert!(next <= at, "sleeps past a timer: {next} > {at}");
                let is_due = at <= self.now || self.wheel.filing > 0;
                assert_eq!(next <= self.now, is_due, "wakes for nothing");
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
    assert!(pair.wheel.is_empty() && pair.model.is_empty());
}

/// As [`run`], with crowds of timers that expire close together, and more operations while one
/// is being refiled. Returns how often that was in progress.
fn run_crowds(seed: u64) -> usize {
    let mut random = Xorshift(seed);
    let mut pair = Pair::new(seed << 12);
    let mut rounds = 0;
    for _ in 0..12 {
        let (at, bits) = (pair.now + 5000 + random.span(20), 1 + random.below(12));
        let of_crowd = |random: &mut Xorshift| at + random.span(bits) - 1;
        for _ in 0..random.below(6 * FILED_PER_ADVANCE as u64) {
            pair.insert(of_crowd(&mut random));
        }
        for _ in 0..10 {
            pair.advance([pair.now, at, pair.now + random.span(9)][random.below(3) as usize]);
            for _ in 0..random.below(60) {
                let made = pair.made.len() as u64;
                match random.below(4) {
                    0 => pair.insert(pair.now.saturating_sub(3) + random.span(17)),
                    1 => pair.insert(of_crowd(&mut random)),
                    2 if made > 0 => pair.cancel(random.below(made) as usize),
                    _ => assert!(pair.pop_in_order()),
                }
            }
            rounds += usize::from(pair.wheel.filing > 0);
            pair.check();
        }
        while random.below(2000) > 0 && pair.pop() {}
    }
    pair.advance(u64::MAX);
    while pair.pop() {}
    assert!(pair.wheel.is_empty() && pair.model.is_empty());
    rounds
}

#[test]
fn the_wheel_agrees_with_an_ordered_map() {
    for seed in 1..=24 {
        run(seed, 0, 600, 7);
        run(seed, seed << 40 | 63, 600, 14);
        run(seed, seed * 999_999_937, 600, 36);
        run(seed, u64::MAX / 2, 600, 60);
        run(seed, u64::MAX - 5000, 300, 14);
    }
}

#[test]
fn the_wheel_agrees_with_an_ordered_map_while_timers_are_refiled() {
    let rounds: usize = (1..=3).map(run_crowds).sum();
    assert!(rounds > 10, "{rounds}");
}

#[test]
fn many_timers_of_one_time_are_refiled_in_bounded_steps() {
    const CROWD: usize = 100_000;
    let mut wheel = Wheel::new(0);
    let mut inserted = 0;
    let mut insert = |wheel: &mut Wheel<usize>, count| {
        for _ in 0..count {
            wheel.insert(5000, inserted);
            inserted += 1;
        }
    };
    insert(&mut wheel, CROWD);
    let place = place_of(5000, 0);
    let left = |wheel: &Wheel<usize>| wheel.check_ring(wheel.levels[place.0].heads[place.1], place);
    let (mut calls, mut before) = (0, CROWD);
    loop {
        wheel.advance(4096);
        calls += 1;
        let after = left(&wheel);
        assert!(before - after <= 4096, "{} at once", before - after);
        if after == 0 {
            break;
        }
        assert_eq!((wheel.next_at(), wheel.pop_expired()), (Some(4096), None));
        // New timers for the same time: each insertion refiles two.
        insert(&mut wheel, 2000);
        before = left(&wheel);
        assert!(before < after, "refiling makes no progress");
    }
    assert!(calls <= CROWD / 4096, "{calls}");
    let mut expired = 0;
    while wheel.next_at().is_some() {
        wheel.advance(5000);
        while let Some(first) = wheel.pop_expired() {
            assert_eq!(first, (5000, expired));
            expired += 1;
        }
    }
    assert_eq!(expired, inserted);
}

#[test]
fn sleeping_until_next_at_meets_every_timer_with_few_wakeups() {
    let mut wheel = Wheel::new(1_795_472_348_999);
    let mut random = Xorshift(7);
    for _ in 0..200 {
        wheel.insert(1_795_472_349_000 + random.span(40), ());
    }
    let mut wakeups = 0;
    while let Some(now) = wheel.next_at() {
        wakeups += 1;
        wheel.advance(now);
        while let Some((at, ())) = wheel.pop_expired() {
            assert_eq!(at, now, "popped in its own millisecond");
        }
    }
    assert!(wakeups <= 200 * LEVELS, "{wakeups}");
}

#[test]
fn timers_of_one_time_expire_in_insertion_order_across_levels() {
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
fn timers_of_one_time_expire_in_order_while_others_are_refiled() {
    let mut wheel = Wheel::new(0);
    for _ in 0..FILED_PER_ADVANCE {
        wheel.insert(4100, 'z');
    }
    wheel.insert(4096, 'a');
    wheel.advance(4096);
    wheel.insert(4095, 'x');
    wheel.insert(4096, 'b');
    assert_eq!(wheel.next_at(), Some(4095));
    assert_eq!((wheel.pop_expired(), wheel.pop_expired()), (Some((4095, 'x')), None));
    assert_eq!(wheel.next_at(), Some(4096));
    wheel.advance(4096);
    let order: Vec<_> = std::iter::from_fn(|| wheel.pop_expired()).collect();
    assert_eq!(order, [(4096, 'a'), (4096, 'b')]);
    assert_eq!(wheel.next_at(), Some(4100));
}

#[test]
fn timers_at_zero_and_at_the_maximum_expire() {
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
    assert_eq!(first.slot, second.slot, "the slot is reused");
    assert_eq!(wheel.cancel(first), None);
    wheel.advance(10);
    assert_eq!(wheel.pop_expired(), Some((10, "second")));
    assert_eq!(wheel.cancel(second), None);
}

#[test]
fn a_stale_timer_cancels_nothing_after_memory_is_returned() {
    let mut wheel = Wheel::new(0);
    let timers: Vec<_> = (0..5000).map(|at| wheel.insert(at, at)).collect();
    while !wheel.is_empty() {
        wheel.advance(5000);
        while wheel.pop_expired().is_some() {}
    }
    while wheel.trim() {}
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
