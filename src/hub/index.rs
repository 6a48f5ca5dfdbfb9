//! A table from names to what they name. Both stay where they are, in the arena: an entry costs no
//! more than the number of its slot and a byte.

use std::marker::PhantomData;

use hashbrown::{DefaultHashBuilder, HashTable, hash_table};

use crate::arena::{Arena, Id};

/// However few there are, there is room for so many.
const KEPT: usize = 64;

/// What is found by its name.
pub(super) trait Named {
    /// The hash of its name.
    fn hash(&self, hasher: &DefaultHashBuilder) -> u64;
}

/// Slots of an arena, by the hash of the name of what is in them.
#[derive(Debug)]
pub(super) struct Index<T>(HashTable<u32>, PhantomData<fn() -> T>);

impl<T> Default for Index<T> {
    fn default() -> Index<T> {
        Index(HashTable::new(), PhantomData)
    }
}

impl<T: Named> Index<T> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All slots, in no order, one after the other.
    pub fn into_slots(self) -> hash_table::IntoIter<u32> {
        self.0.into_iter()
    }

    /// What has that hash and is it.
    pub fn find(&self, arena: &Arena<T>, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<Id<T>> {
        let is_there = |slot: &u32| arena.in_slot(*slot).is_some_and(|(_, it)| is_it(it));
        self.0.find(hash, is_there).and_then(|slot| arena.at(*slot as usize))
    }

    /// Adds what is not there yet.
    pub fn insert(&mut self, arena: &Arena<T>, id: Id<T>, hasher: &DefaultHashBuilder) {
        let rehash = |slot: &u32| arena.in_slot(*slot).map_or(0, |(_, it)| it.hash(hasher));
        self.0.insert_unique(rehash(&id.slot), id.slot, rehash);
    }

    /// Takes one out, if it is there. When the table has become much too large for those that are
    /// left, it gets smaller.
    pub fn remove(&mut self, arena: &Arena<T>, hash: u64, id: Id<T>, hasher: &DefaultHashBuilder) {
        if let Ok(entry) = self.0.find_entry(hash, |slot| *slot == id.slot) {
            entry.remove();
        }
        let left = self.0.len().max(KEPT);
        if left <= self.0.capacity() / 8 {
            let rehash = |slot: &u32| arena.in_slot(*slot).map_or(0, |(_, it)| it.hash(hasher));
            self.0.shrink_to(2 * left, rehash);
        }
    }
}
