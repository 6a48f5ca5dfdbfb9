//! Times that run while limits change. A deadline that the server sets once is a [`Term`]: it keeps
//! the value by which it was set. Of what the server looks at again, the judge knows all values
//! that have held since it began.

use std::collections::BTreeMap;

use super::Judge;
use crate::limits::Limits;
use crate::time::Millis;

/// By when something must be, and the limit that says so.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::sim) struct Term {
    pub by: Millis,
    name: &'static str,
    ms: usize,
}

impl Term {
    /// From now on for as long as that limit says.
    pub fn new(now: Millis, limits: &Limits, name: &'static str) -> Term {
        let ms = limits.get(name).expect("a limit");
        Term { by: now.plus(ms as u64), name, ms }
    }

    pub fn is_over(&self, now: Millis) -> bool {
        self.by <= now
    }
}

/// The first bytes of something whose end is awaited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half {
    pub since: Millis,
    /// For how long, at least and at most: what the limit was when the server may have noticed.
    pub ms: (usize, usize),
    /// It has noticed for certain.
    pub is_certain: bool,
}

/// The limits that have held in this life of the server, each from its moment on; and how often
/// something was judged by a value that holds no more, by the limit's name.
#[derive(Debug)]
pub(super) struct Terms {
    laws: Vec<(Millis, Limits)>,
    outlived: BTreeMap<&'static str, u64>,
}

impl Terms {
    pub fn new(limits: Limits) -> Terms {
        Terms { laws: vec![(Millis(0), limits)], outlived: BTreeMap::new() }
    }

    /// Another server has begun: what was counted before it counts on.
    pub fn count_on(&mut self, before: Terms) {
        self.outlived = before.outlived;
    }

    /// These hold from now on.
    pub fn change(&mut self, now: Millis, limits: &Limits) {
        self.laws.push((now, limits.clone()));
    }

    /// The least and the most that a limit has been since that moment.
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
    /// A deadline that is set now.
    pub(super) fn term(&self, name: &'static str) -> Term {
        Term::new(self.now.mono, &self.limits, name)
    }

    /// Somebody was judged by this deadline.
    pub(super) fn note_term(&mut self, term: Term) {
        self.terms.note(term.name, term.ms);
    }

    /// Somebody is on the way out, in steps of which there were more at the start.
    pub fn note_leaving(&mut self) {
        let first = self.terms.laws.first().map_or(0, |(_, limits)| limits.leaves_per_turn);
        self.terms.note("leaves_per_turn", first);
    }

    /// How often something was judged by a value of a limit that held no more.
    pub fn outlived(&self) -> &BTreeMap<&'static str, u64> {
        &self.terms.outlived
    }
}
