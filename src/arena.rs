//! Slots with a generation. Whoever keeps an [`Id`] past the life of what it names finds nothing,
//! never a stranger in the same slot.

use std::fmt;
use std::marker::PhantomData;

use slab::Slab;

/// Names one value of an [`Arena`] for as long as that value lives, and nothing afterwards.
///
/// `K` only tells ids of different kinds apart.
pub struct Id<K> {
    /// Index of the slot; reused.
    pub slot: u32,
    /// Which life of the slot.
    pub generation: u32,
    kind: PhantomData<fn() -> K>,
}

impl<K> Id<K> {
    /// An id from its two numbers, for arenas that live elsewhere (a simulator's).
    pub const fn new(slot: u32, generation: u32) -> Id<K> {
        Id { slot, generation, kind: PhantomData }
    }

    /// The slot as an index.
    pub const fn index(self) -> usize {
        self.slot as usize
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Id<K> {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Id<K>) -> bool {
        (self.slot, self.generation) == (other.slot, other.generation)
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Id<K>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Id<K>) -> std::cmp::Ordering {
        (self.slot, self.generation).cmp(&(other.slot, other.generation))
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// A slab whose keys carry a generation. `K` is the kind of its ids, by default the value itself.
#[derive(Debug)]
pub struct Arena<T, K = T> {
    slots: Slab<(u32, T)>,
    /// Generation of the next value. 2^32 insertions pass before one returns, and then it would
    /// have to meet an id of that age in the same slot.
    next: u32,
    kind: PhantomData<fn() -> K>,
}

impl<T, K> Default for Arena<T, K> {
    fn default() -> Self {
        Arena { slots: Slab::new(), next: 0, kind: PhantomData }
    }
}

impl<T, K> Arena<T, K> {
    /// How many values live.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many slots there are, those in use and those that are free.
    pub fn slots(&self) -> usize {
        self.slots.capacity()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Puts a value into a free slot.
    ///
    /// # Panics
    /// At 2^32 values at a time, which no machine of this kind holds.
    pub fn insert(&mut self, value: T) -> Id<K> {
        let generation = self.next;
        self.next = self.next.wrapping_add(1);
        let slot = self.slots.insert((generation, value));
        Id::new(u32::try_from(slot).expect("fewer than 2^32 slots"), generation)
    }

    /// The value of that id, if it still lives.
    pub fn get(&self, id: Id<K>) -> Option<&T> {
        self.slots.get(id.index()).filter(|(g, _)| *g == id.generation).map(|(_, value)| value)
    }

    /// The value of that id, if it still lives.
    pub fn get_mut(&mut self, id: Id<K>) -> Option<&mut T> {
        self.slots.get_mut(id.index()).filter(|(g, _)| *g == id.generation).map(|(_, value)| value)
    }

    /// Takes the value of that id out, if it still lives.
    pub fn remove(&mut self, id: Id<K>) -> Option<T> {
        self.get(id)?;
        self.slots.try_remove(id.index()).map(|(_, value)| value)
    }

    /// Whether that id still names a value.
    pub fn contains(&self, id: Id<K>) -> bool {
        self.get(id).is_some()
    }

    /// The id of whatever lives in that slot now.
    pub fn at(&self, slot: usize) -> Option<Id<K>> {
        self.slots.get(slot).map(|(generation, _)| Id::new(slot as u32, *generation))
    }

    /// What lives in that slot now, and its id.
    pub fn in_slot(&self, slot: u32) -> Option<(Id<K>, &T)> {
        self.slots.get(slot as usize).map(|(generation, value)| (Id::new(slot, *generation), value))
    }

    /// The same, to be changed.
    pub fn in_slot_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize).map(|(_, value)| value)
    }

    /// All that live, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Id<K>, &T)> {
        self.slots.iter().map(|(slot, (g, value))| (Id::new(slot as u32, *g), value))
    }

    /// All that live, in the order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Id<K>, &mut T)> {
        self.slots.iter_mut().map(|(slot, (g, value))| (Id::new(slot as u32, *g), value))
    }

    /// Those that live in that slot or behind it, in the order of their slots.
    pub fn iter_from(&self, slot: usize) -> impl Iterator<Item = (Id<K>, &T)> {
        (slot..self.slots.capacity()).filter_map(|slot| {
            let (generation, value) = self.slots.get(slot)?;
            Some((Id::new(slot as u32, *generation), value))
        })
    }

    /// Gives unused memory back, as far as the highest used slot allows.
    pub fn shrink(&mut self) {
        self.slots.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_finds_nothing() {
        let mut arena: Arena<&str> = Arena::default();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(first.slot, second.slot, "the slot is reused");
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&"second"));
        assert_eq!(arena.at(second.index()), Some(second));
    }
}
