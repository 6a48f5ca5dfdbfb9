//! What has changed and is not durable yet: row by row, and as the batch that is being written. A
//! batch holds what was recorded at one moment. A large one is gathered over several turns; a row
//! that changes meanwhile goes into it as it was.

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
    /// The last change that somebody waits for; the default if nobody does.
    pub mark: Mark,
    bytes: usize,
    /// The last batch that it is in.
    batch: u64,
}

/// Rows that have changed: found by their keys, and walked in the order in which they came.
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

    /// Memory that is kept for them, and what their values take.
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

    /// A change of a row that has changed before.
    fn note_again(&mut self, place: usize, mark: Mark, bytes: usize) {
        if let Some(row) = self.list.get_mut(place) {
            self.bytes = self.bytes - row.bytes + bytes;
            (row.mark, row.bytes) = (row.mark.max(mark), bytes);
        }
    }

    /// Notes a change, the last one of its row.
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

    /// The same, if that row is one of these and nobody waits for the change. Whether it is.
    pub fn note_easily(&mut self, key: KeyRef<'_>, bytes: usize) -> bool {
        let place = self.place(self.hasher.hash_one(key), key);
        place.map(|place| self.note_again(place, Mark::default(), bytes)).is_some()
    }

    /// Takes in what changed before: those of which there are more stay where they are.
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

    /// Keeps those whose keys are like this.
    pub fn retain(&mut self, is_kept: impl Fn(&Key) -> bool) {
        for row in std::mem::take(self).list {
            if is_kept(&row.key) {
                self.note(row.key, row.mark, row.bytes);
            }
        }
    }

    /// The states among them.
    pub fn states(&self) -> impl Iterator<Item = &Key> {
        self.list.iter().map(|row| &row.key).filter(|key| matches!(key, Key::State { .. }))
    }
}

/// What is on its way to the disk.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub upto: Mark,
    /// When the oldest of its changes came.
    pub since: Option<Millis>,
    pub rows: Rows,
    /// States that have ended, and leave with it.
    pub ended: Vec<Key>,
    pub removals: usize,
    /// What there is of the batch, until all of it is there and it goes.
    pub gathering: Option<Gathering>,
}

/// A batch that is being gathered.
#[derive(Debug)]
pub(super) struct Gathering {
    batch: Batch,
    /// So many of the rows, and of those that have ended, have been looked at.
    rows: usize,
    ended: usize,
}

impl Flight {
    /// Begins to gather a batch.
    pub fn begin(&mut self, mut batch: Batch) {
        batch.rows.reserve(self.rows.len());
        self.gathering = Some(Gathering { batch, rows: 0, ended: 0 });
    }

    /// A row is about to be another: it is gathered as it is now.
    pub fn changes<'a>(&mut self, key: KeyRef<'_>, row: &dyn Fn() -> Option<Row<'a>>) {
        let Some(gathering) = &mut self.gathering else { return };
        let place = self.rows.place(self.rows.hasher.hash_one(key), key);
        let changed = place.and_then(|place| self.rows.list.get_mut(place));
        if let Some(changed) = changed.filter(|row| row.batch != gathering.batch.number) {
            changed.batch = gathering.batch.number;
            gathering.batch.push(changed.key.clone(), row());
        }
    }

    /// Gathers at most so many rows, of not much more bytes than that. Returns the batch when all
    /// are in it.
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
            // Unless it is there again, and has its own entry.
            if self.rows.get(key.as_ref()).is_none() && hub.row(key.as_ref()).is_none() {
                batch.push(key.clone(), None);
            }
        }
        self.gathering.take().map(|gathering| gathering.batch)
    }

    /// Frees so many rows, once they are durable. Whether that was all.
    pub fn shed(&mut self, count: usize) -> bool {
        self.rows.list.truncate(self.rows.len().saturating_sub(count));
        self.ended.truncate(self.ended.len().saturating_sub(count));
        self.rows.is_empty() && self.ended.is_empty()
    }
}

/// Limits of what waits for the disk.
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
