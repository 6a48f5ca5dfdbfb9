//! A table from names to ids. The names stay where they are, in the arena: an entry costs no more
//! than its id and a byte.

use hashbrown::{HashTable, hash_table};

use crate::arena::Id;

/// Ids by the hash of what they are called.
#[derive(Debug)]
pub(super) struct Index<T>(HashTable<Id<T>>);

impl<T> Default for Index<T> {
    fn default() -> Index<T> {
        Index(HashTable::new())
    }
}

impl<T> Index<T> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All ids, in no order, one after the other.
    pub fn into_ids(self) -> hash_table::IntoIter<Id<T>> {
        self.0.into_iter()
    }

    /// The id with that hash for which `is_it` holds.
    pub fn find(&self, hash: u64, is_it: impl Fn(Id<T>) -> bool) -> Option<Id<T>> {
        self.0.find(hash, |id| is_it(*id)).copied()
    }

    /// Adds an id that is not there yet. `rehash` is asked for the hashes of the others when the
    /// table grows.
    pub fn insert(&mut self, hash: u64, id: Id<T>, rehash: impl Fn(Id<T>) -> u64) {
        self.0.insert_unique(hash, id, |id| rehash(*id));
    }

    /// Takes an id out, if it is there.
    pub fn remove(&mut self, hash: u64, id: Id<T>) {
        if let Ok(entry) = self.0.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
    }
}
