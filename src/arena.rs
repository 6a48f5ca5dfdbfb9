//! Slots that are used again. [`Slots`] are bare, for lists that link their own elements; in an
//! [`Arena`] each has a generation, and whoever keeps an [`Id`] past the life of what it names
//! finds nothing, never a stranger in the same slot. Both give memory back when a crowd has gone, a
//! part each time that their owner says so: all of it when nobody is left, as other tables do,
//! because a block that only shrinks stays where the crowd has pushed it, and the allocator gives
//! back nothing that lies in front of it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

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

/// No slot: the end of a list.
pub const NIL: u32 = u32::MAX;
/// So much memory is kept, however few slots are used, so that a few that come and go cost nothing.
const KEEP_BYTES: usize = 16 * 1024;
/// Slots that are let go of at a time: some 20 µs.
pub const TRIMMED_MAX: usize = 1024;
/// Slots whose memory is given back at a time: the kernel takes 50 µs for a megabyte.
const SHRUNK_MAX: usize = 16 * 1024;

/// Gives a part of the memory of a list back, on the way to as much as is wanted.
pub fn shrink_some<T>(list: &mut Vec<T>, wanted: usize) {
    list.shrink_to(wanted.max(list.capacity().saturating_sub(SHRUNK_MAX)));
}

/// Values in numbered slots, for crowds: unlike a slab's, the memory of those that are freed comes
/// back without a search ([`Slots::trim`]). The slot that was freed last is used first. All takes
/// constant time, but for what a vector takes to grow.
#[derive(Debug)]
pub struct Slots<T> {
    entries: Vec<Entry<T>>,
    /// The free slot that is used next.
    free: u32,
    used: usize,
}

#[derive(Debug)]
enum Entry<T> {
    /// With its neighbours in the list of those that are free.
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
    /// Memory of one.
    pub const SLOT_BYTES: usize = size_of::<Entry<T>>();
    /// So many are kept.
    const KEPT: usize = KEEP_BYTES / Self::SLOT_BYTES;

    /// None yet. Allocates nothing.
    pub const fn new() -> Slots<T> {
        Slots { entries: Vec::new(), free: NIL, used: 0 }
    }

    /// How many are in use.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// How many there are, those in use and those that are free.
    pub fn slots(&self) -> usize {
        self.entries.len()
    }

    /// How many there is memory for.
    pub fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Puts a value into a free slot, and returns which.
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

    /// All slots are in use: one more.
    fn add(&mut self, value: T) -> u32 {
        let slot = self.entries.len() as u32;
        assert!(self.entries.len() < NIL as usize, "fewer than 2^32 slots");
        self.entries.push(Entry::Used(value));
        slot
    }

    /// The value in that slot.
    #[inline]
    pub fn get(&self, slot: u32) -> Option<&T> {
        match self.entries.get(slot as usize) {
            Some(Entry::Used(value)) => Some(value),
            _ => None,
        }
    }

    /// The value in that slot.
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        match self.entries.get_mut(slot as usize) {
            Some(Entry::Used(value)) => Some(value),
            _ => None,
        }
    }

    /// Takes the value out of that slot.
    #[inline]
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let entry = self.entries.get_mut(slot as usize)?;
        if matches!(entry, Entry::Free { .. }) {
            return None;
        }
        let free = Entry::Free { previous: NIL, next: self.free };
        let Entry::Used(value) = std::mem::replace(entry, free) else { return None };
        // The link back is for whoever leaves the list from its middle: the first one has none.
        if let Some(Entry::Free { previous, .. }) = self.entries.get_mut(self.free as usize) {
            *previous = slot;
        }
        self.free = slot;
        self.used -= 1;
        Some(value)
    }

    /// Whether there are more than are kept.
    pub fn has_spare(&self) -> bool {
        let (len, capacity) = (self.entries.len(), self.entries.capacity());
        len > Self::KEPT || capacity > 4 * Self::KEPT || (self.used == 0 && capacity > Self::KEPT)
    }

    /// Whether there are more than are kept, and a quarter of them is in use.
    pub fn is_busy(&self) -> bool {
        self.has_spare() && self.used > self.entries.len() / 4
    }

    /// Once three quarters are free, lets go of those behind the highest in use, and gives the
    /// memory back: a part of it. Whether there may be more.
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

    /// All that are in use, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.iter_from(0)
    }

    /// All that are in use, in their order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..).zip(&mut self.entries).filter_map(|(slot, entry)| match entry {
            Entry::Used(value) => Some((slot, value)),
            Entry::Free { .. } => None,
        })
    }

    /// That slot and those behind it that are in use, in their order.
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

/// Slots whose keys carry a generation. `K` is the kind of its ids, by default the value itself.
#[derive(Debug)]
pub struct Arena<T, K = T> {
    slots: Slots<(u32, T)>,
    /// Generation of the next value. 2^32 insertions pass before one returns, and then it would
    /// have to meet an id of that age in the same slot.
    next: u32,
    kind: PhantomData<fn() -> K>,
}

impl<T, K> Default for Arena<T, K> {
    fn default() -> Self {
        Arena { slots: Slots::new(), next: 0, kind: PhantomData }
    }
}

impl<T, K> Arena<T, K> {
    /// Memory of one value.
    pub const SLOT_BYTES: usize = Slots::<(u32, T)>::SLOT_BYTES;

    /// How many values live.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many slots there are, those in use and those that are free.
    pub fn slots(&self) -> usize {
        self.slots.slots()
    }

    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes a value in.
    ///
    /// # Panics
    /// As [`Slots::insert`].
    pub fn insert(&mut self, value: T) -> Id<K> {
        let generation = self.next;
        self.next = self.next.wrapping_add(1);
        Id::new(self.slots.insert((generation, value)), generation)
    }

    /// The value of that id, if it still lives.
    #[inline]
    pub fn get(&self, id: Id<K>) -> Option<&T> {
        let (generation, value) = self.slots.get(id.slot)?;
        (*generation == id.generation).then_some(value)
    }

    /// The value of that id, if it still lives.
    #[inline]
    pub fn get_mut(&mut self, id: Id<K>) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(id.slot)?;
        (*generation == id.generation).then_some(value)
    }

    /// Takes the value of that id out, if it still lives.
    pub fn remove(&mut self, id: Id<K>) -> Option<T> {
        self.get(id)?;
        self.slots.remove(id.slot).map(|(_, value)| value)
    }

    /// As [`Slots::trim`].
    #[inline]
    pub fn trim(&mut self) -> bool {
        self.slots.trim()
    }

    /// Whether that id still names a value.
    pub fn contains(&self, id: Id<K>) -> bool {
        self.get(id).is_some()
    }

    /// The id of whatever lives in that slot now.
    pub fn at(&self, slot: usize) -> Option<Id<K>> {
        let slot = u32::try_from(slot).ok()?;
        self.slots.get(slot).map(|(generation, _)| Id::new(slot, *generation))
    }

    /// What lives in that slot now, and its id.
    #[inline]
    pub fn in_slot(&self, slot: u32) -> Option<(Id<K>, &T)> {
        self.slots.get(slot).map(|(generation, value)| (Id::new(slot, *generation), value))
    }

    /// The same, to be changed.
    #[inline]
    pub fn in_slot_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot).map(|(_, value)| value)
    }

    /// All that live, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Id<K>, &T)> {
        self.iter_from(0)
    }

    /// All that live, in the order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Id<K>, &mut T)> {
        self.slots.iter_mut().map(|(slot, (g, value))| (Id::new(slot, *g), value))
    }

    /// Those that live in that slot or behind it, in the order of their slots.
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

    /// Those that are free, in the order in which they will be used.
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
    fn the_last_freed_is_used_first() {
        let mut slots = Slots::new();
        assert_eq!((0..5).map(|n| slots.insert(n)).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!([1, 4, 2].map(|slot| slots.remove(slot)), [Some(1), Some(4), Some(2)]);
        assert_eq!((slots.remove(1), slots.remove(9), slots.get(4)), (None, None, None));
        assert_eq!((free(&slots), slots.len()), (vec![2, 4, 1], 2));
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(0, &0), (3, &3)]);
        assert_eq!(slots.iter_from(1).collect::<Vec<_>>(), [(3, &3)]);
        assert_eq!([7, 8, 9, 10].map(|value| slots.insert(value)), [2, 4, 1, 5]);
    }

    /// As often as there is something, a bounded part each time. How often.
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
    fn a_large_crowd_leaves_in_parts() {
        let mut slots = Slots::new();
        (0..300_000).for_each(|n| _ = slots.insert(Box::new(n)));
        assert_eq!(trim(&mut slots), 0, "nobody has gone");
        for n in 0..300_000 {
            let (before, memory) = (slots.slots(), slots.capacity());
            slots.remove(n);
            assert_eq!((before, memory), (slots.slots(), slots.capacity()));
        }
        assert!(trim(&mut slots) >= 300_000 / TRIMMED_MAX);
        assert_eq!((slots.slots(), slots.capacity()), (0, 0));
    }

    #[test]
    fn a_crowd_leaves_no_memory_behind_in_whatever_order_it_goes() {
        const ALL: u32 = 20_000;
        // None has a factor in common with that: each order meets all.
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
