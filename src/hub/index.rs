//! A hash table from names to values. Both stay in the arena: an entry costs only a slot number and
//! a byte. A large index is split into many tables, which grow one by one: moving a million names
//! at once would take a hundred milliseconds.

use std::marker::PhantomData;

use hashbrown::{DefaultHashBuilder, HashTable, hash_table};

use crate::arena::{Arena, Id};

/// No table is shrunk below room for this many entries.
const KEPT: usize = 64;
/// A table with this many entries is split; an eighth of that is joined again.
const ONE_MAX: usize = 32_768;
/// Number of tables after the split.
const TABLES: usize = 128;

/// What is found by its name.
pub(super) trait Named {
    /// The hash of its name.
    fn hash(&self, hasher: &DefaultHashBuilder) -> u64;
}

/// Slots of an arena, hashed by the names of the values in them.
#[derive(Debug)]
pub(super) struct Index<T>(Tables, PhantomData<fn() -> T>);

/// Hashes the value in a slot, for a table that moves its entries. `dyn`, so that the table code is
/// not compiled anew for each kind of index.
type Rehash<'a> = &'a dyn Fn(&u32) -> u64;

#[derive(Debug)]
enum Tables {
    One(HashTable<u32>),
    Many(Box<Many>),
}

#[derive(Debug)]
struct Many {
    tables: [HashTable<u32>; TABLES],
    /// Entries in all of them.
    len: usize,
}

impl Many {
    fn new() -> Many {
        let tables = std::array::from_fn(|_| HashTable::with_capacity(ONE_MAX / TABLES));
        Many { tables, len: 0 }
    }
}

/// Which of the tables: by bits of the hash that a table itself does not use.
fn number(hash: u64) -> usize {
    (hash >> 32) as usize % TABLES
}

impl Tables {
    fn of(&self, hash: u64) -> &HashTable<u32> {
        match self {
            Tables::One(table) => table,
            Tables::Many(many) => &many.tables[number(hash)],
        }
    }

    fn of_mut(&mut self, hash: u64) -> &mut HashTable<u32> {
        match self {
            Tables::One(table) => table,
            Tables::Many(many) => &mut many.tables[number(hash)],
        }
    }

    fn len(&self) -> usize {
        match self {
            Tables::One(table) => table.len(),
            Tables::Many(many) => many.len,
        }
    }

    /// Adds a slot that is not there yet.
    fn insert(&mut self, slot: u32, rehash: Rehash<'_>) {
        if matches!(self, Tables::One(table) if table.len() == ONE_MAX) {
            self.turn_into(Tables::Many(Box::new(Many::new())), rehash);
        }
        self.put(slot, rehash);
    }

    fn put(&mut self, slot: u32, rehash: Rehash<'_>) {
        let hash = rehash(&slot);
        self.of_mut(hash).insert_unique(hash, slot, rehash);
        if let Tables::Many(many) = self {
            many.len += 1;
        }
    }

    /// Removes a slot, if it is there, and shrinks the table when it has become much too large for
    /// what is left.
    fn remove(&mut self, slot: u32, rehash: Rehash<'_>) {
        let (hash, is_one) = (rehash(&slot), matches!(self, Tables::One(_)));
        let table = self.of_mut(hash);
        let Ok(entry) = table.find_entry(hash, |it| *it == slot) else { return };
        entry.remove();
        let left = table.len().max(KEPT);
        // Many tables get shorter at the same pace: not all of them shrink at about the same time.
        let part = if is_one { 8 } else { 8 + number(hash) % 8 };
        if left <= table.capacity() / part {
            table.shrink_to(2 * left, rehash);
        }
        if let Tables::Many(many) = self {
            many.len -= 1;
            if many.len == ONE_MAX / 8 {
                self.turn_into(Tables::One(HashTable::with_capacity(ONE_MAX / 8)), rehash);
            }
        }
    }

    /// Splits one table into many, or joins many into one.
    fn turn_into(&mut self, tables: Tables, rehash: Rehash<'_>) {
        for slot in std::mem::replace(self, tables).into_slots() {
            self.put(slot, rehash);
        }
    }

    fn into_slots(self) -> Slots {
        let left = self.len();
        let tables = match self {
            Tables::One(table) => vec![table],
            Tables::Many(many) => many.tables.into(),
        };
        Slots { tables: tables.into_iter(), table: HashTable::new().into_iter(), left }
    }
}

/// All slots of an index.
#[derive(Debug)]
pub(super) struct Slots {
    tables: std::vec::IntoIter<HashTable<u32>>,
    table: hash_table::IntoIter<u32>,
    left: usize,
}

impl Slots {
    /// How many are left.
    pub fn len(&self) -> usize {
        self.left
    }
}

impl Iterator for Slots {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        loop {
            if let Some(slot) = self.table.next() {
                self.left -= 1;
                return Some(slot);
            }
            self.table = self.tables.next()?.into_iter();
        }
    }
}

impl<T> Default for Index<T> {
    fn default() -> Index<T> {
        Index(Tables::One(HashTable::new()), PhantomData)
    }
}

impl<T: Named> Index<T> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All slots, in no particular order.
    pub fn into_slots(self) -> Slots {
        self.0.into_slots()
    }

    /// Finds the value with this hash for which `is_it` holds, and its id.
    pub fn find<'a>(
        &self,
        arena: &'a Arena<T>,
        hash: u64,
        is_it: impl Fn(&T) -> bool,
    ) -> Option<(Id<T>, &'a T)> {
        let is_there = |slot: &u32| arena.in_slot(*slot).is_some_and(|(_, it)| is_it(it));
        self.0.of(hash).find(hash, is_there).and_then(|slot| arena.in_slot(*slot))
    }

    /// Adds a value that is not there yet.
    pub fn insert(&mut self, arena: &Arena<T>, id: Id<T>, hasher: &DefaultHashBuilder) {
        self.0.insert(id.slot, &|slot| hash_of(arena, *slot, hasher));
    }

    /// Removes a value, if it is there; the arena still has it.
    pub fn remove(&mut self, arena: &Arena<T>, id: Id<T>, hasher: &DefaultHashBuilder) {
        if arena.contains(id) {
            self.0.remove(id.slot, &|slot| hash_of(arena, *slot, hasher));
        }
    }
}

fn hash_of<T: Named>(arena: &Arena<T>, slot: u32, hasher: &DefaultHashBuilder) -> u64 {
    arena.in_slot(slot).map_or(0, |(_, it)| it.hash(hasher))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::hash::BuildHasher;

    use super::*;

    thread_local!(static HASHED: Cell<usize> = const { Cell::new(0) });

    struct Number(u32);

    impl Named for Number {
        fn hash(&self, hasher: &DefaultHashBuilder) -> u64 {
            HASHED.set(HASHED.get() + 1);
            hasher.hash_one(self.0)
        }
    }

    /// How many names `work` hashed.
    fn hashed(work: impl FnOnce()) -> usize {
        let before = HASHED.get();
        work();
        HASHED.get() - before
    }

    #[test]
    fn insertions_and_removals_move_few_entries_at_a_time() {
        let (mut arena, mut index) = (Arena::default(), Index::default());
        let hasher = DefaultHashBuilder::default();
        let mut ids = Vec::new();
        for number in 0..150_000 {
            let id = arena.insert(Number(number));
            assert!(hashed(|| index.insert(&arena, id, &hasher)) < 2 * ONE_MAX);
            ids.push(id);
        }
        let find = |arena: &Arena<Number>, index: &Index<Number>, number: u32| {
            index.find(arena, hasher.hash_one(number), |it| it.0 == number).map(|(id, _)| id)
        };
        for (number, id) in (0..).zip(&ids) {
            assert_eq!(find(&arena, &index, number), Some(*id));
        }
        assert_eq!((index.len(), find(&arena, &index, 150_000)), (150_000, None));
        for (number, id) in (0..).zip(ids).skip(100) {
            assert!(hashed(|| index.remove(&arena, id, &hasher)) < 2 * ONE_MAX);
            index.remove(&arena, id, &hasher);
            arena.remove(id);
            assert_eq!(find(&arena, &index, number), None);
        }
        assert!((0..100).all(|number| find(&arena, &index, number).is_some()));
        let slots = index.into_slots();
        assert_eq!((slots.len(), slots.count()), (100, 100));
    }

    #[test]
    fn tables_shrink_one_by_one_when_a_crowd_leaves() {
        let (mut arena, mut index) = (Arena::default(), Index::default());
        let hasher = DefaultHashBuilder::default();
        let crowd: Vec<_> = (0..300_000).map(|number| arena.insert(Number(number))).collect();
        crowd.iter().for_each(|id| index.insert(&arena, *id, &hasher));
        for some in crowd[..290_000].chunks(2000) {
            let moved = hashed(|| some.iter().for_each(|id| index.remove(&arena, *id, &hasher)));
            assert!(moved < 8000 + some.len(), "{moved} were moved for one chunk");
            some.iter().for_each(|id| _ = arena.remove(*id));
        }
        assert_eq!(index.len(), 10_000);
    }

    #[test]
    fn a_small_index_is_no_larger_than_its_table() {
        assert_eq!(size_of::<Index<Number>>(), size_of::<HashTable<u32>>());
    }
}
