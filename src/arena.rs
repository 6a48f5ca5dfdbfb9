//! Reusable slots. [`Slots`] are bare, for lists that link their own elements; in an [`Arena`] each
//! value has a generation, so an [`Id`] that outlives its value is stale and finds nothing, never
//! another value in the same slot. Both give memory back after a crowd, a part per call of `trim`,
//! and all of it when nothing is left, as other tables do: a block that only shrinks stays where
//! the crowd has pushed it, and the allocator returns nothing that lies in front of it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// Names one value of an [`Arena`] for as long as that value lives, and nothing afterwards.
///
/// `K` only tells ids of different kinds apart.
pub struct Id<K> {
    /// Index of the slot; reused.
    pub slot: u32,
    /// Tells the successive values of a slot apart.
    pub generation: u32,
    kind: PhantomData<fn() -> K>,
}

impl<K> Id<K> {
    /// Makes an id from its two numbers, for arenas that live elsewhere (a simulator's).
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

/// No slot; the end of a list.
pub const NIL: u32 = u32::MAX;
/// This much is kept, however few slots are used, so that a few that come and go cost nothing.
const KEEP_BYTES: usize = 16 * 1024;
/// Slots that are removed at a time: some 20 µs.
pub const TRIMMED_MAX: usize = 1024;
/// Slots whose memory is returned at a time: the kernel takes 50 µs for a megabyte.
const SHRUNK_MAX: usize = 16 * 1024;

/// Gives back a part of the capacity of a vector, on the way to the `wanted` one.
pub fn shrink_some<T>(list: &mut Vec<T>, wanted: usize) {
    list.shrink_to(wanted.max(list.capacity().saturating_sub(SHRUNK_MAX)));
}

/// Values in numbered slots, for crowds: unlike a slab, it gives the memory of freed slots back
/// without a search ([`Slots::trim`]). The slot freed last is reused first. All operations take
/// constant time, except for the growth of a vector.
#[derive(Debug)]
pub struct Slots<T> {
    entries: Vec<Entry<T>>,
    /// The free slot to be used next: the head of the free list.
    free: u32,
    used: usize,
}

#[derive(Debug)]
enum Entry<T> {
    /// With its neighbours in the free list.
    Free {
        previous: u32,
        next: u32,
    },
    Used(T),
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots::new()
    }
}

impl<T> Slots<T> {
    /// Memory of one slot.
    pub const SLOT_BYTES: usize = size_of::<Entry<T>>();
    /// Slots that are kept.
    const KEPT: usize = KEEP_BYTES / Self::SLOT_BYTES;

    /// Creates an empty set. Allocates nothing.
    pub const fn new() -> Slots<T> {
        Slots { entries: Vec::new(), free: NIL, used: 0 }
    }

    /// Number of slots in use.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Number of slots, in use and free.
    pub fn slots(&self) -> usize {
        self.entries.len()
    }

    /// Number of slots that there is memory for.
    pub fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Puts a value into a free slot; returns the slot.
    ///
    /// # Panics
    /// At 2^32 - 1 values, which no machine of this kind holds.
    #[inline]
    pub fn insert(&mut self, value: T) -> u32 {
        self.used += 1;
        let slot = self.free;
        match self.entries.get_mut(slot as usize) {
            Some(entry) => {
                if let Entry::Free { next, .. } = *entry {
                    self.free = next;
                }
                *entry = Entry::Used(value);
                slot
            }
            None => self.add(value),
        }
    }

    /// Adds a slot, because all are in use.
    fn add(&mut self, value: T) -> u32 {
        let slot = self.entries.len() as u32;
        assert!(self.entries.len() < NIL as usize, "fewer than 2^32 slots");
        self.entries.push(Entry::Used(value));
        slot
    }

    /// The value in this slot.
    #[inline]
    pub fn get(&self, slot: u32) -> Option<&T> {
        match self.entries.get(slot as usize) {
            Some(Entry::Used(value)) => Some(value),
            _ => None,
        }
    }

    /// The value in this slot.
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        match self.entries.get_mut(slot as usize) {
            Some(Entry::Used(value)) => Some(value),
            _ => None,
        }
    }

    /// Removes the value from this slot.
    #[inline]
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let entry = self.entries.get_mut(slot as usize)?;
        if matches!(entry, Entry::Free { .. }) {
            return None;
        }
        let free = Entry::Free { previous: NIL, next: self.free };
        let Entry::Used(value) = std::mem::replace(entry, free) else { return None };
        // The link back is for removal from the middle of the list; that of the head is never used.
        if let Some(Entry::Free { previous, .. }) = self.entries.get_mut(self.free as usize) {
            *previous = slot;
        }
        self.free = slot;
        self.used -= 1;
        Some(value)
    }

    /// Whether there is more than is kept.
    pub fn has_spare(&self) -> bool {
        let (len, capacity) = (self.entries.len(), self.entries.capacity());
        len > Self::KEPT || capacity > 4 * Self::KEPT || (self.used == 0 && capacity > Self::KEPT)
    }

    /// Whether there is more than is kept, and more than a quarter of the slots is in use.
    pub fn is_busy(&self) -> bool {
        self.has_spare() && self.used > self.entries.len() / 4
    }

    /// Once three quarters are free, removes slots behind the highest in use, and gives memory
    /// back: a part per call. Returns whether there may be more.
    #[inline]
    pub fn trim(&mut self) -> bool {
        self.has_spare() && self.used <= self.entries.capacity() / 4 && self.trim_some()
    }

    #[cold]
    fn trim_some(&mut self) -> bool {
        let before = (self.entries.len(), self.entries.capacity());
        let end = Self::KEPT.max(before.0.saturating_sub(TRIMMED_MAX));
        while self.entries.len() > end
            && let Some(&Entry::Free { previous, next }) = self.entries.last()
        {
            let slot = self.entries.len() as u32 - 1;
            if let Some(Entry::Free { previous: link, .. }) = self.entries.get_mut(next as usize) {
                *link = previous;
            }
            if self.free == slot {
                self.free = next;
            } else if let Some(Entry::Free { next: link, .. }) =
                self.entries.get_mut(previous as usize)
            {
                *link = next;
            }
            self.entries.pop();
        }
        if self.used == 0 && self.entries.len() <= Self::KEPT {
            self.entries.clear();
            self.free = NIL;
        }
        let wanted = 2 * self.entries.len();
        if wanted <= before.1 / 2 {
            shrink_some(&mut self.entries, wanted);
        }
        before != (self.entries.len(), self.entries.capacity())
    }

    /// The slots in use, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.iter_from(0)
    }

    /// The slots in use, in order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..).zip(&mut self.entries).filter_map(|(slot, entry)| match entry {
            Entry::Used(value) => Some((slot, value)),
            Entry::Free { .. } => None,
        })
    }

    /// The slots in use from `first` on, in order.
    pub fn iter_from(&self, first: u32) -> impl Iterator<Item = (u32, &T)> {
        let rest = self.entries.get(first as usize..).unwrap_or_default();
        (first..).zip(rest).filter_map(|(slot, entry)| match entry {
            Entry::Used(value) => Some((slot, value)),
            Entry::Free { .. } => None,
        })
    }
}

impl<T> Index<u32> for Slots<T> {
    type Output = T;
    fn index(&self, slot: u32) -> &T {
        self.get(slot).expect("a slot in use")
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        self.get_mut(slot).expect("a slot in use")
    }
}

/// Slots whose ids carry a generation. `K` is the kind of its ids, by default the value itself.
#[derive(Debug)]
pub struct Arena<T, K = T> {
    slots: Slots<(u32, T)>,
    /// Generation of the next value. It repeats after 2^32 insertions, which only matters to an id
    /// of that age for the same slot.
    next: u32,
    kind: PhantomData<fn() -> K>,
}

impl<T, K> Default for Arena<T, K> {
    fn default() -> Self {
        Arena { slots: Slots::new(), next: 0, kind: PhantomData }
    }
}

impl<T, K> Arena<T, K> {
    /// Memory of one slot.
    pub const SLOT_BYTES: usize = Slots::<(u32, T)>::SLOT_BYTES;

    /// Number of values.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Number of slots, in use and free.
    pub fn slots(&self) -> usize {
        self.slots.slots()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds a value.
    ///
    /// # Panics
    /// As [`Slots::insert`].
    pub fn insert(&mut self, value: T) -> Id<K> {
        let generation = self.next;
        self.next = self.next.wrapping_add(1);
        Id::new(self.slots.insert((generation, value)), generation)
    }

    /// The value with this id; `None` if the id is stale.
    #[inline]
    pub fn get(&self, id: Id<K>) -> Option<&T> {
        let (generation, value) = self.slots.get(id.slot)?;
        (*generation == id.generation).then_some(value)
    }

    /// The value with this id; `None` if the id is stale.
    #[inline]
    pub fn get_mut(&mut self, id: Id<K>) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(id.slot)?;
        (*generation == id.generation).then_some(value)
    }

    /// Removes the value with this id; `None` if the id is stale.
    pub fn remove(&mut self, id: Id<K>) -> Option<T> {
        self.get(id)?;
        self.slots.remove(id.slot).map(|(_, value)| value)
    }

    /// As [`Slots::trim`].
    #[inline]
    pub fn trim(&mut self) -> bool {
        self.slots.trim()
    }

    /// Whether this id names a value, and is not stale.
    pub fn contains(&self, id: Id<K>) -> bool {
        self.get(id).is_some()
    }

    /// The id of the value in this slot.
    pub fn at(&self, slot: usize) -> Option<Id<K>> {
        let slot = u32::try_from(slot).ok()?;
        self.slots.get(slot).map(|(generation, _)| Id::new(slot, *generation))
    }

    /// The value in this slot, with its id.
    #[inline]
    pub fn in_slot(&self, slot: u32) -> Option<(Id<K>, &T)> {
        self.slots.get(slot).map(|(generation, value)| (Id::new(slot, *generation), value))
    }

    /// The value in this slot.
    #[inline]
    pub fn in_slot_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot).map(|(_, value)| value)
    }

    /// All values, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Id<K>, &T)> {
        self.iter_from(0)
    }

    /// The values in this slot and behind it, in the order of their slots.
    pub fn iter_from(&self, slot: usize) -> impl Iterator<Item = (Id<K>, &T)> {
        let first = u32::try_from(slot).unwrap_or(NIL);
        self.slots.iter_from(first).map(|(slot, (g, value))| (Id::new(slot, *g), value))
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

    /// The free slots, in the order in which they will be used.
    fn free<T>(slots: &Slots<T>) -> Vec<u32> {
        let (mut at, mut before, mut all) = (slots.free, NIL, Vec::new());
        while let Some(Entry::Free { previous, next }) = slots.entries.get(at as usize) {
            assert!(at == slots.free || *previous == before, "{at} is linked back");
            all.push(at);
            (before, at) = (at, *next);
        }
        assert_eq!(all.len() + slots.len(), slots.slots());
        all
    }

    #[test]
    fn the_slot_freed_last_is_reused_first() {
        let mut slots = Slots::new();
        assert_eq!((0..5).map(|n| slots.insert(n)).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!([1, 4, 2].map(|slot| slots.remove(slot)), [Some(1), Some(4), Some(2)]);
        assert_eq!((slots.remove(1), slots.remove(9), slots.get(4)), (None, None, None));
        assert_eq!((free(&slots), slots.len()), (vec![2, 4, 1], 2));
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(0, &0), (3, &3)]);
        assert_eq!(slots.iter_from(1).collect::<Vec<_>>(), [(3, &3)]);
        assert_eq!([7, 8, 9, 10].map(|value| slots.insert(value)), [2, 4, 1, 5]);
    }

    /// Trims until nothing is left to do, checking the bounds of each part; returns the calls.
    fn trim<T>(slots: &mut Slots<T>) -> usize {
        let mut times = 0;
        loop {
            let (before, memory) = (slots.slots(), slots.capacity());
            let has_more = slots.trim();
            assert!(before - slots.slots() <= TRIMMED_MAX + Slots::<T>::KEPT);
            assert!(memory - slots.capacity() <= SHRUNK_MAX);
            if !has_more {
                return times;
            }
            times += 1;
        }
    }

    #[test]
    fn many_free_slots_are_trimmed_in_bounded_steps() {
        let mut slots = Slots::new();
        (0..300_000).for_each(|n| _ = slots.insert(Box::new(n)));
        assert_eq!(trim(&mut slots), 0, "no slot is free");
        for n in 0..300_000 {
            let (before, memory) = (slots.slots(), slots.capacity());
            slots.remove(n);
            assert_eq!((before, memory), (slots.slots(), slots.capacity()));
        }
        assert!(trim(&mut slots) >= 300_000 / TRIMMED_MAX);
        assert_eq!((slots.slots(), slots.capacity()), (0, 0));
    }

    #[test]
    fn trimming_returns_memory_whatever_the_order_of_removal() {
        const ALL: u32 = 20_000;
        // No step has a factor in common with `ALL`: each order visits all slots.
        for step in [1, ALL - 1, 7, 12_347, 9_999] {
            let mut slots = Slots::new();
            (0..ALL).for_each(|n| assert_eq!(slots.insert(n), n));
            let stays = 100;
            for n in (0..ALL).map(|n| (u64::from(n) * u64::from(step) % u64::from(ALL)) as u32) {
                if n != stays {
                    assert_eq!(slots.remove(n), Some(n));
                }
            }
            trim(&mut slots);
            let kept = Slots::<u32>::KEPT;
            assert!(slots.slots() <= kept && slots.capacity() <= 4 * kept);
            assert_eq!((slots.get(stays), free(&slots).len()), (Some(&stays), slots.slots() - 1));
            (0..2000).for_each(|n| _ = slots.insert(n));
            assert_eq!((free(&slots), slots.len()), (Vec::new(), 2001));
            (0..20_000).for_each(|n| _ = slots.remove(n));
            trim(&mut slots);
            assert_eq!((slots.slots(), slots.capacity()), (0, 0));
            assert_eq!((slots.insert(7), slots.insert(8), free(&slots)), (0, 1, Vec::new()));
        }
    }
}
