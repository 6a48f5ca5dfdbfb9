//! Changes that are not durable yet: the changed rows, and the batch that is being written. A batch
//! is a snapshot of one moment. A large one is gathered over several turns; a row that changes
//! meanwhile goes into it with its old value.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::file::Batch;
use crate::hub::{Hub, Key, KeyRef, Row};
use crate::journal::Mark;
use crate::limits::Limits;
use crate::time::Millis;

/// A row that has changed.
#[derive(Debug)]
pub(super) struct Changed {
    pub key: Key,
    hash: u64,
    /// The last change that a reply waits for; the default if none does.
    pub mark: Mark,
    bytes: usize,
    /// The last batch that contains the row.
    batch: u64,
}

/// Changed rows: looked up by key, iterated in insertion order.
#[derive(Debug, Default)]
pub(super) struct Rows {
    list: Vec<Changed>,
    places: HashTable<u32>,
    hasher: DefaultHashBuilder,
    bytes: usize,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns the memory held for these rows plus the size of their values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn place(&self, hash: u64, key: KeyRef<'_>) -> Option<usize> {
        let is_it =
            |place: &u32| self.list.get(*place as usize).is_some_and(|row| row.key.as_ref() == key);
        self.places.find(hash, is_it).map(|place| *place as usize)
    }

    pub fn get(&self, key: KeyRef<'_>) -> Option<&Changed> {
        self.list.get(self.place(self.hasher.hash_one(key), key)?)
    }

    /// Records another change of a row that is already in the list.
    fn note_again(&mut self, place: usize, mark: Mark, bytes: usize) {
        if let Some(row) = self.list.get_mut(place) {
            self.bytes = self.bytes - row.bytes + bytes;
            (row.mark, row.bytes) = (row.mark.max(mark), bytes);
        }
    }

    /// Records a change, the latest of its row.
    pub fn note(&mut self, key: Key, mark: Mark, bytes: usize) {
        let hash = self.hasher.hash_one(key.as_ref());
        if let Some(place) = self.place(hash, key.as_ref()) {
            return self.note_again(place, mark, bytes);
        }
        let hash_of = |place: &u32| self.list.get(*place as usize).map_or(0, |row| row.hash);
        self.places.insert_unique(hash, self.list.len() as u32, hash_of);
        self.bytes += size_of::<Changed>() + key.bytes() + bytes;
        self.list.push(Changed { key, hash, mark, bytes, batch: 0 });
    }

    /// Notes a change that no reply waits for, if the row is in the list. Returns whether it is.
    pub fn note_easily(&mut self, key: KeyRef<'_>, bytes: usize) -> bool {
        let place = self.place(self.hasher.hash_one(key), key);
        place.map(|place| self.note_again(place, Mark::default(), bytes)).is_some()
    }

    /// Merges rows that changed earlier. The larger of the two lists stays in place.
    pub fn join(&mut self, older: Rows) {
        if older.len() <= self.len() {
            for row in older.list {
                let bytes = self.get(row.key.as_ref()).map_or(row.bytes, |newer| newer.bytes);
                self.note(row.key, row.mark, bytes);
            }
            return;
        }
        for row in std::mem::replace(self, older).list {
            self.note(row.key, row.mark, row.bytes);
        }
    }

    /// Keeps only the rows whose keys satisfy the predicate.
    pub fn retain(&mut self, is_kept: impl Fn(&Key) -> bool) {
        for row in std::mem::take(self).list {
            if is_kept(&row.key) {
                self.note(row.key, row.mark, row.bytes);
            }
        }
    }

    /// Returns the keys of the states among the rows.
    pub fn states(&self) -> impl Iterator<Item = &Key> {
        self.list.iter().map(|row| &row.key).filter(|key| matches!(key, Key::State { .. }))
    }
}

/// A batch in flight to the disk.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub upto: Mark,
    /// When the oldest of its changes was made.
    pub since: Option<Millis>,
    pub rows: Rows,
    /// Expired states that the batch deletes.
    pub ended: Vec<Key>,
    pub removals: usize,
    /// The part of the batch gathered so far, until it is complete and sent.
    pub gathering: Option<Gathering>,
}

/// A batch that is being gathered.
#[derive(Debug)]
pub(super) struct Gathering {
    batch: Batch,
    /// How many of the rows and of the expired states have been looked at.
    rows: usize,
    ended: usize,
}

impl Flight {
    /// Begins to gather a batch.
    pub fn begin(&mut self, mut batch: Batch) {
        batch.rows.reserve(self.rows.len());
        self.gathering = Some(Gathering { batch, rows: 0, ended: 0 });
    }

    /// Puts a row that is about to change into the batch as it is now.
    pub fn before_change<'a>(&mut self, key: KeyRef<'_>, row: &dyn Fn() -> Option<Row<'a>>) {
        let Some(gathering) = &mut self.gathering else { return };
        let place = self.rows.place(self.rows.hasher.hash_one(key), key);
        let changed = place.and_then(|place| self.rows.list.get_mut(place));
        if let Some(changed) = changed.filter(|row| row.batch != gathering.batch.number) {
            changed.batch = gathering.batch.number;
            gathering.batch.push(changed.key.clone(), row());
        }
    }

    /// Gathers at most `rows_max` rows, and stops once it has `bytes_max` bytes. Returns the batch
    /// when it is complete.
    pub fn gather(&mut self, hub: &Hub, rows_max: usize, bytes_max: usize) -> Option<Batch> {
        let Gathering { batch, rows, ended } = self.gathering.as_mut()?;
        let (mut count, mut bytes) = (0, 0);
        while let Some(row) = self.rows.list.get_mut(*rows) {
            if count >= rows_max || bytes >= bytes_max {
                return None;
            }
            (*rows, count) = (*rows + 1, count + 1);
            if std::mem::replace(&mut row.batch, batch.number) != batch.number {
                bytes += batch.push(row.key.clone(), hub.row(row.key.as_ref()));
            }
        }
        while let Some(key) = self.ended.get(*ended) {
            if count >= rows_max {
                return None;
            }
            (*ended, count) = (*ended + 1, count + 1);
            // Unless the state exists again and has an entry of its own.
            if self.rows.get(key.as_ref()).is_none() && hub.row(key.as_ref()).is_none() {
                batch.push(key.clone(), None);
            }
        }
        self.gathering.take().map(|gathering| gathering.batch)
    }

    /// Frees this many rows of a durable flight. Returns whether nothing is left.
    pub fn shed(&mut self, count: usize) -> bool {
        self.rows.list.truncate(self.rows.len().saturating_sub(count));
        self.ended.truncate(self.ended.len().saturating_sub(count));
        self.rows.is_empty() && self.ended.is_empty()
    }
}

/// Limits on what may wait for the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub bytes: usize,
    pub changes: usize,
}

impl Bounds {
    pub fn new(limits: &Limits) -> Bounds {
        Bounds { bytes: limits.store_pending_bytes, changes: limits.store_pending_changes }
    }
}
