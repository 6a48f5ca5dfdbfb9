//! A second hub that gets nothing but the entries: no peers, and no time but theirs. It stands for
//! another node, or for this one after a restart, and must hold the same.

use std::collections::{BTreeMap, BTreeSet};

use super::Judge;
use crate::hub::{Change, Cursor, Hub, Key, NsId, Outbox, Route, Row, StateKey, Undo};
use crate::limits::Limits;
use crate::publication::Publication;
use crate::reason::CloseReason;
use crate::sim::record::Record;
use crate::sim::tape::{Item, Place as Order};
use crate::time::UnixMillis;

#[derive(Debug)]
pub(super) struct Replica {
    hub: Hub,
    /// Every place that has ever had a state.
    places: BTreeSet<(NsId, Box<str>, Option<Box<str>>)>,
    /// How to undo the last entries, each with its mark.
    undos: Vec<(u64, Undo)>,
    /// The same for what has no mark yet: the changes of the entry that is being replayed, and
    /// states that have expired, which get the mark of the next entry.
    fresh: Vec<Undo>,
    /// Changes of states are never undone.
    are_states_kept: bool,
}

/// An outbox without peers, which collects how to undo an entry.
#[derive(Default)]
struct Nobody(Vec<Undo>);

impl Outbox for Nobody {
    fn deliver(&mut self, _: Route, _: &Publication<'_>) {
        panic!("nobody is here");
    }

    fn close(&mut self, _: Route, _: CloseReason) {
        panic!("nobody is here");
    }

    fn after_change(&mut self, undo: Undo) {
        self.0.push(undo);
    }
}

impl Replica {
    pub fn new(limits: Limits, at: u64) -> Replica {
        Replica {
            hub: Hub::new(limits, UnixMillis(at)),
            places: BTreeSet::new(),
            undos: Vec::new(),
            fresh: Vec::new(),
            are_states_kept: false,
        }
    }

    /// Sets whether changes of states stay, whatever is lost.
    pub fn keeping(self, are_states_kept: bool) -> Replica {
        Replica { are_states_kept, ..self }
    }

    pub fn set_limits(&mut self, limits: Limits) {
        self.hub.set_limits(limits);
    }

    /// Creates a replica of what a server found in its store.
    pub fn restored(limits: Limits, found: &Hub, at: UnixMillis) -> Replica {
        let mut replica = Replica::new(limits, at.0);
        let (mut names, mut cursor) = (BTreeMap::new(), Some(Cursor::default()));
        while let Some(from) = cursor {
            cursor = found.rows(from, |key, row| {
                let name = match &row {
                    Row::Namespace { name, .. } => Some(name.to_string()),
                    _ => None,
                };
                assert!(replica.hub.restore(key.clone(), row), "a row without a place");
                match (key, name) {
                    (Key::Namespace { ns }, Some(name)) => drop(names.insert(ns, name)),
                    (Key::State { ns, state_key: StateKey { channel, user } }, _) => {
                        let ns = replica.hub.namespace(&names[&ns]).expect("it was restored");
                        replica.places.insert((ns, channel, user));
                    }
                    _ => {}
                }
                true
            });
        }
        replica
    }

    /// Applies the entries on the tape, and undoes what was lost.
    pub fn replay(&mut self, items: &[Item]) {
        for item in items {
            let is_kept =
                |undo: &Undo| self.are_states_kept && matches!(undo.key, Key::State { .. });
            match item {
                // An expired state comes back if the change that made it expire is lost.
                Item::Changed { stays: true, .. } => self.fresh.retain(Undo::is_end),
                Item::Changed { mark, .. } => {
                    self.fresh.retain(|undo| !is_kept(undo));
                    self.undos.extend(self.fresh.drain(..).map(|undo| (*mark, undo)));
                }
                Item::Undone { is_end: false } => {
                    self.fresh.retain(|undo| !is_kept(undo));
                    // Together with what has expired since.
                    while let Some(undo) = self.fresh.pop().or_else(|| Some(self.undos.pop()?.1)) {
                        let is_end = undo.is_end();
                        self.hub.undo(undo, &mut Nobody::default());
                        if !is_end {
                            break;
                        }
                    }
                }
                Item::Lost { from, .. } => {
                    self.fresh.retain(|undo| !is_kept(undo));
                    let first = self.undos.partition_point(|(mark, _)| mark <= from);
                    let lost = self.undos.drain(first..).map(|(_, undo)| undo);
                    let lost: Vec<Undo> = lost.chain(self.fresh.drain(..)).collect();
                    for undo in lost.into_iter().rev() {
                        self.hub.undo(undo, &mut Nobody::default());
                    }
                    self.hub.undo_finished();
                }
                _ => {}
            }
            let (at, change) = match item {
                Item::Proposed { at, change, place: Order::Now } => (*at, change),
                Item::Ordered { entry, .. } => (entry.at, &entry.change),
                _ => continue,
            };
            if let Change::Set { ns, channel, user, .. } | Change::Push { ns, channel, user, .. } =
                change
            {
                let user = user.as_deref().map(Into::into);
                self.places.insert((*ns, (&**channel).into(), user));
            }
            // What was refused there is refused here.
            let mut out = Nobody(std::mem::take(&mut self.fresh));
            let _ = self.hub.apply(at, change, None, &mut out);
            self.fresh = out.0;
        }
    }

    /// Checks that the replica holds what the record holds at that time.
    pub fn compare(&self, record: &Record, at: u64) {
        let at = UnixMillis(at);
        assert_eq!(self.hub.sizes()[0], record.spaces.len(), "namespaces of the replica");
        for space in record.spaces.values() {
            let ns = self.hub.namespace(&space.name).expect("the replica has the namespace");
            let keys: Vec<&str> = self.hub.keys(ns, at).collect();
            assert!(keys.iter().all(|key| space.opens(key, at.0)), "keys of the replica");
            assert_eq!(keys.first(), Some(&&*space.key), "key of the replica");
            for (_, channel, user) in self.places.iter().filter(|(of, ..)| *of == ns) {
                let there = self.hub.state(ns, channel, user.as_deref(), at);
                let here = space.state(channel, user.as_deref(), at.0).map(|state| &*state.text);
                assert_eq!(there, here, "state of {channel:?} {user:?} in the replica");
            }
        }
    }
}

impl Judge {
    /// Checks that a hub that knows only the entries holds the same.
    pub fn compare_replica(&self) {
        self.replica.compare(&self.record, self.at());
    }
}
