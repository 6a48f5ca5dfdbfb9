//! The states of the hub: how they are found, how their bytes are counted, and how they expire.

use super::record::{Before, Key, KeyRef, Undo};
use super::state::{End, State, Value};
use super::{Hub, NsId, Outbox, StateKeyRef};
use crate::arena::Id;
use crate::time::UnixMillis;

impl Hub {
    /// The state at a place, as JSON text, at the time `at`.
    pub fn state(
        &self,
        ns: NsId,
        channel: &str,
        user: Option<&str>,
        at: UnixMillis,
    ) -> Option<&str> {
        let (_, state) = self.find_state(ns, StateKeyRef { channel, user })?;
        state.lives(at).then(|| state.value.text())
    }

    pub(super) fn find_state(
        &self,
        ns: NsId,
        state_key: StateKeyRef<'_>,
    ) -> Option<(Id<State>, &State)> {
        let table = &self.namespaces.get(ns)?.states;
        table
            .find(&self.states, self.hash(state_key), |state| state.state_key.as_ref() == state_key)
    }

    /// Drops up to `count` expired states; the rest come next, and cannot be read meanwhile either.
    /// [`Hub::next_end`] tells whether there are any. Drops none while changes are being undone:
    /// the expiry may be what one of these set.
    #[inline(always)]
    pub fn advance(&mut self, at: UnixMillis, count: usize, out: &mut impl Outbox) {
        if self.is_undoing {
            return;
        }
        self.ends.advance(at.0);
        if self.ends.has_expired() || self.leaving.has_garbage() {
            self.drop_ended(count, out);
        }
    }

    /// Drops expired states, then the contents of removed namespaces.
    fn drop_ended(&mut self, count: usize, out: &mut impl Outbox) {
        for _ in 0..count {
            let Some((_, id)) = self.ends.pop_expired() else { return self.free_garbage(count) };
            if let Some(end) = self.states.get_mut(id).and_then(|state| state.end.as_mut()) {
                end.timer = None;
            }
            if let Some(state) = self.states.get(id)
                && let Some(ns) = self.number(state.ns)
            {
                self.show(KeyRef::State { ns, state_key: state.state_key.as_ref() }, out);
            }
            let Some(state) = self.take_state(id) else { continue };
            let (expires, State { ns, state_key, value, .. }) = (state.expires(), state);
            if let Some(ns) = self.number(ns) {
                let before = Before::Ended { value, expires };
                out.after_change(Undo::new(Key::State { ns, state_key }, 0, before));
            }
        }
    }

    /// When [`Hub::advance`] or [`Hub::reap`] is wanted next; 0: at once.
    pub fn next_end(&self) -> Option<UnixMillis> {
        let is_busy = self.is_leaving() || self.is_shrinking;
        if is_busy { Some(UnixMillis(0)) } else { self.ends.next_at().map(UnixMillis) }
    }

    /// Whether anything expires after that time: a state, or the grace period of an old key.
    pub fn has_ends(&self, at: UnixMillis) -> bool {
        !self.ends.is_empty() || at < self.graces_end
    }

    /// Sets the state at a place, replacing the one that is there.
    pub(super) fn put_state(
        &mut self,
        ns: NsId,
        state_key: StateKeyRef<'_>,
        value: Value,
        expires: Option<UnixMillis>,
    ) {
        let id = match self.find_state(ns, state_key) {
            Some((id, _)) => {
                self.replace_value(id, value);
                id
            }
            None => {
                self.weigh(ns, 0, state_key.bytes() + value.bytes());
                let Some(space) = self.namespaces.get_mut(ns) else { return };
                let state = State { ns, state_key: state_key.to_key(), value, end: None };
                let id = self.states.insert(state);
                self.state_count += 1;
                space.states.insert(&self.states, id, &self.hasher);
                id
            }
        };
        self.end_at(id, expires);
    }

    /// Replaces the value of a state; returns the previous one.
    pub(super) fn replace_value(&mut self, id: Id<State>, value: Value) -> Option<Value> {
        let state = self.states.get_mut(id)?;
        let before = std::mem::replace(&mut state.value, value);
        let (ns, after) = (state.ns, state.value.bytes());
        self.weigh(ns, before.bytes(), after);
        Some(before)
    }

    /// Replaces the text of a state; the previous one is not needed any more.
    #[inline]
    pub(super) fn overwrite(&mut self, id: Id<State>, text: &str) {
        let Some(state) = self.states.get_mut(id) else { return };
        let (ns, before) = (state.ns, state.value.bytes());
        state.value.overwrite(text);
        self.weigh(ns, before, text.len());
    }

    /// Replaces `before` bytes by `after` in the counts of a namespace and of the hub.
    #[inline]
    pub(super) fn weigh(&mut self, ns: NsId, before: usize, after: usize) {
        if before != after
            && let Some(space) = self.namespaces.get_mut(ns)
        {
            self.states_bytes = self.states_bytes + after - before;
            space.states_bytes = space.states_bytes + after - before;
        }
    }

    /// Replaces the expiry of a state.
    #[inline]
    pub(super) fn end_at(&mut self, id: Id<State>, expires: Option<UnixMillis>) {
        let Some(state) = self.states.get_mut(id) else { return };
        if state.end.is_some() || expires.is_some() {
            self.replace_end(id, expires);
        }
    }

    fn replace_end(&mut self, id: Id<State>, expires: Option<UnixMillis>) {
        let Some(state) = self.states.get_mut(id) else { return };
        if let Some(timer) = state.end.take().and_then(|end| end.timer) {
            self.ends.cancel(timer);
        }
        state.end = expires.map(|at| {
            let timer = Some(self.ends.insert(at.0, id));
            Box::new(End { at, timer })
        });
    }

    pub(super) fn take_state(&mut self, id: Id<State>) -> Option<State> {
        let ns = self.states.get(id)?.ns;
        if let Some(space) = self.namespaces.get_mut(ns) {
            space.states.remove(&self.states, id, &self.hasher);
            self.state_count -= 1;
        }
        let mut state = self.states.remove(id)?;
        if let Some(timer) = state.end.as_mut().and_then(|end| end.timer.take()) {
            self.ends.cancel(timer);
        }
        self.weigh(ns, state.bytes(), 0);
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Outcome, Undo};
    use super::*;
    use crate::limits::Limits;

    struct Nobody;

    impl Outbox for Nobody {}

    #[test]
    fn a_state_may_expire_between_check_and_apply() {
        let mut hub = Hub::new(Limits::default(), UnixMillis(0));
        assert!(hub.declare("a", "k", &mut Nobody).is_some());
        let ns = hub.namespace("a").unwrap();
        let set = |data: &'static str, ttl_ms| {
            let (channel, data) = ("c".into(), data.into());
            Change::Set { ns, channel, user: None, data, ttl_ms, emit: false }
        };
        let push = |data: &'static str| {
            let (channel, data) = ("c".into(), data.into());
            Change::Push { ns, channel, user: None, data, ttl_ms: Some(1), emit: false }
        };
        let changes = [
            (set("[0]", Some(1)), "[0]"),
            (set("[1]", Some(1)), "[1]"),
            (push("2"), "[2]"),
            (push("3"), "[3]"),
            (set("4", None), "4"),
            (set("5", None), "5"),
        ];
        for (at, (change, state)) in (0..).step_by(10).map(UnixMillis).zip(changes) {
            let checked = hub.check(&change, at).unwrap();
            let outcome = hub.apply(at, &change, Some(checked), &mut Nobody);
            assert_eq!(outcome, Ok(Outcome::Done));
            assert_eq!(hub.state(ns, "c", None, at), Some(state));
            hub.check_invariants();
        }
    }

    /// The undo of a push needs the list to be there.
    #[test]
    fn no_state_expires_while_changes_are_being_undone() {
        struct Undos(Vec<Undo>);
        impl Outbox for Undos {
            fn after_change(&mut self, undo: Undo) {
                self.0.push(undo);
            }
        }
        let mut hub = Hub::new(Limits::default(), UnixMillis(0));
        assert!(hub.declare("a", "k", &mut Nobody).is_some());
        let ns = hub.namespace("a").unwrap();
        let mut undos = Undos(Vec::new());
        for (channel, ttl_ms) in [("c", None), ("c", None), ("c", Some(1)), ("d", None)] {
            let (channel, data) = (channel.into(), "1".into());
            let change = Change::Push { ns, channel, user: None, data, ttl_ms, emit: false };
            hub.apply(UnixMillis(0), &change, None, &mut undos).unwrap();
        }
        let at = UnixMillis(9);
        hub.undo(undos.0.pop().unwrap(), &mut Nobody);
        hub.advance(at, 9, &mut Nobody);
        hub.undo(undos.0.pop().unwrap(), &mut Nobody);
        hub.undo_finished();
        hub.advance(at, 9, &mut Nobody);
        assert_eq!(hub.state(ns, "c", None, at), Some("[1,1]"));
        hub.check_invariants();
    }
}
