//! Deadlines that run while limits change. One that the server sets once is a [`Deadline`] and
//! keeps the value by which it was set. Where the server checks again and again, the judge
//! considers all values that have held since the start of the wait.

use std::collections::BTreeMap;

use super::Judge;
use crate::limits::Limits;
use crate::time::Millis;

/// A deadline, and the limit that it was set by.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::sim) struct Deadline {
    pub by: Millis,
    name: &'static str,
    ms: usize,
}

impl Deadline {
    /// Creates a deadline as far from now as the limit says.
    pub fn new(now: Millis, limits: &Limits, name: &'static str) -> Deadline {
        let ms = limits.get(name).expect("a limit");
        Deadline { by: now.plus(ms as u64), name, ms }
    }

    pub fn is_over(&self, now: Millis) -> bool {
        self.by <= now
    }
}

/// The beginning of something whose end is awaited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half {
    pub since: Millis,
    /// How long it may take, at least and at most, by the limits when the server may have noticed.
    pub ms: (usize, usize),
    /// The server has certainly noticed.
    pub is_certain: bool,
}

/// The limits that have held in this life of the server, each with its start; and how often
/// something was judged by a value that is no longer in force, by the limit's name.
#[derive(Debug)]
pub(super) struct Deadlines {
    laws: Vec<(Millis, Limits)>,
    outlived: BTreeMap<&'static str, u64>,
}

impl Deadlines {
    pub fn new(limits: Limits) -> Deadlines {
        Deadlines { laws: vec![(Millis(0), limits)], outlived: BTreeMap::new() }
    }

    /// Keeps counting where the judge of the previous server left off.
    pub fn count_on(&mut self, before: Deadlines) {
        self.outlived = before.outlived;
    }

    /// New limits hold from now on.
    pub fn change(&mut self, now: Millis, limits: &Limits) {
        self.laws.push((now, limits.clone()));
    }

    /// Returns the least and the greatest value of a limit since that moment.
    pub fn range(&self, since: Millis, of: impl Fn(&Limits) -> usize) -> (usize, usize) {
        let ended = self.laws.iter().skip(1).take_while(|(from, _)| *from < since).count();
        let values = self.laws.iter().skip(ended).map(|(_, limits)| of(limits));
        values.fold((usize::MAX, 0), |(least, most), value| (least.min(value), most.max(value)))
    }

    /// Something was judged by that value of a limit.
    pub fn note(&mut self, name: &'static str, value: usize) {
        let current = self.laws.last().and_then(|(_, limits)| limits.get(name));
        if current != Some(value) {
            *self.outlived.entry(name).or_default() += 1;
        }
    }
}

impl Judge {
    /// Returns a deadline that starts now.
    pub(super) fn deadline(&self, name: &'static str) -> Deadline {
        Deadline::new(self.now.mono, &self.limits, name)
    }

    /// A connection was judged by this deadline.
    pub(super) fn note_deadline(&mut self, deadline: Deadline) {
        self.deadlines.note(deadline.name, deadline.ms);
    }

    /// Connections are being removed step by step, and there were more per step at the start.
    pub fn note_leaving(&mut self) {
        let first = self.deadlines.laws.first().map_or(0, |(_, limits)| limits.leaves_per_turn);
        self.deadlines.note("leaves_per_turn", first);
    }

    /// How often something was judged by a value that was no longer in force, by limit.
    pub fn outlived(&self) -> &BTreeMap<&'static str, u64> {
        &self.deadlines.outlived
    }
}
