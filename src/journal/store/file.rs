//! One store file: reading all of it and being sure of it, and writing batches into it. Knows redb;
//! knows neither folders nor threads.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hashbrown::HashSet;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableError};

use super::disk::{Discard, Fault, Guard, Overlay, Watch};
use super::format::{
    FORMAT, GRANTS, META, NAMESPACES, STATES, Sealer, grant_key, state_key, value,
};
use crate::hub::{Key, Row};
use crate::time::{Now, UnixMillis};

/// Memory for pages of the file. Reads are answered elsewhere, so it only has to hold the way down
/// to the pages that a batch changes.
pub(super) const CACHE_BYTES: usize = 512 * 1024;

/// What is wrong with a file, as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage(pub String);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn damage(what: impl fmt::Display) -> Damage {
    Damage(what.to_string())
}

/// What a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Key of the tags.
    pub key: [u8; 32],
    /// Counts the starts of servers on it.
    pub term: u64,
    /// Counts the batches written.
    pub batch: u64,
    /// A moment on the scale of entries, and the date of the same moment.
    pub clock: (UnixMillis, UnixMillis),
}

impl Facts {
    /// That moment on the scale of entries.
    pub fn at(&self, now: Now) -> UnixMillis {
        let (at, unix) = self.clock;
        at.plus(now.unix.0.saturating_sub(unix.0))
    }

    /// The date of a moment on the scale of entries.
    pub fn date(&self, moment: UnixMillis) -> UnixMillis {
        let (at, unix) = self.clock;
        UnixMillis(moment.0.saturating_add(unix.0).saturating_sub(at.0))
    }
}

/// What changed in some turns of the loop: each row as it is at their end.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Its number.
    pub number: u64,
    /// Rows with their values, still without tags; `None` for those that are no more.
    pub rows: Vec<(Key, Option<Vec<u8>>)>,
    /// Namespaces that are no more, with all that was in them.
    pub removed: Vec<u64>,
    /// As in [`Facts`].
    pub clock: (UnixMillis, UnixMillis),
}

impl Batch {
    /// Adds a row, as it is now.
    pub fn push(&mut self, key: Key, row: Option<Row<'_>>) {
        self.rows.push((key, row.as_ref().map(value)));
    }
}

/// Is given each row, unless it is not as it was written, and the bytes of its value.
type Visit<'v> = dyn FnMut(Key, Option<Row<'_>>, usize) -> Result<(), Damage> + 'v;

/// All that is in a file, verified: every page by redb, every row by its tag, and what belongs
/// together. The file is not touched.
pub struct Content {
    pub(super) db: Database,
    sealer: Sealer,
    /// What the store says of itself.
    pub facts: Facts,
    /// How many namespaces, grants and states there are.
    pub counts: [u64; 3],
    /// Bytes of all rows.
    pub bytes: u64,
}

impl Content {
    /// Reads and verifies all of it.
    ///
    /// # Errors
    /// [`Damage`], also if the file cannot be read.
    pub fn read(backend: impl StorageBackend) -> Result<Content, Damage> {
        without_panic(|| {
            let mut content = Content::open(backend)?;
            content.verify()?;
            Ok(content)
        })
    }

    fn open(backend: impl StorageBackend) -> Result<Content, Damage> {
        let overlay = Overlay::new(backend).map_err(damage)?;
        if overlay.len().map_err(damage)? == 0 {
            return Err(damage("the file is empty"));
        }
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(overlay)
            .map_err(damage)?;
        let facts = facts(&db)?;
        let sealer = Sealer::new(&facts.key);
        Ok(Content { db, sealer, facts, counts: [0; 3], bytes: 0 })
    }

    fn verify(&mut self) -> Result<(), Damage> {
        let (mut numbers, mut names) = (HashSet::new(), HashSet::new());
        let (mut counts, mut bytes) = ([0; 3], 0);
        self.walk(&mut |key, row, size| {
            bytes += (size + key_bytes(&key)) as u64;
            let Some(row) = row else { return Err(damage(format!("{}: a wrong tag", what(&key)))) };
            let ns = match (&key, row) {
                (Key::Namespace { ns }, Row::Namespace { name, .. }) => {
                    counts[0] += 1;
                    numbers.insert(*ns);
                    let is_new = names.insert(name.into_owned());
                    return is_new.then_some(()).ok_or_else(|| damage("a namespace stands twice"));
                }
                (Key::Grant { ns, .. }, _) => {
                    counts[1] += 1;
                    ns
                }
                (Key::State { ns, .. } | Key::Namespace { ns }, _) => {
                    counts[2] += 1;
                    ns
                }
            };
            let is_home = numbers.contains(ns);
            is_home
                .then_some(())
                .ok_or_else(|| damage(format!("{}: no such namespace", what(&key))))
        })?;
        (self.counts, self.bytes) = (counts, bytes);
        Ok(())
    }

    /// All rows, namespaces first. Returns how many were not as they had been written, which is
    /// none in a file that was verified.
    ///
    /// # Errors
    /// [`Damage`], if reading stops in the middle.
    pub fn each(&self, mut each: impl FnMut(Key, Row<'_>)) -> Result<u64, Damage> {
        let mut bad = 0;
        without_panic(|| {
            self.walk(&mut |key, row, _| {
                match row {
                    Some(row) => each(key, row),
                    None => bad += 1,
                }
                Ok(())
            })
        })?;
        Ok(bad)
    }

    fn walk(&self, each: &mut Visit<'_>) -> Result<(), Damage> {
        let txn = self.db.begin_read().map_err(damage)?;
        let mut visit = |key: Key, value: &[u8]| {
            let row = self.sealer.open(&key, value).ok();
            each(key, row, value.len())
        };
        for entry in txn.open_table(NAMESPACES).map_err(damage)?.iter().map_err(damage)? {
            let (key, value) = entry.map_err(damage)?;
            visit(Key::Namespace { ns: key.value() }, value.value())?;
        }
        for entry in txn.open_table(GRANTS).map_err(damage)?.iter().map_err(damage)? {
            let (key, value) = entry.map_err(damage)?;
            visit(grant_key(key.value()), value.value())?;
        }
        for entry in txn.open_table(STATES).map_err(damage)?.iter().map_err(damage)? {
            let (key, value) = entry.map_err(damage)?;
            visit(state_key(key.value()), value.value())?;
        }
        Ok(())
    }
}

/// For a person, without a name that a tenant chose.
fn what(key: &Key) -> String {
    match key {
        Key::Namespace { ns } => format!("namespace number {ns}"),
        Key::Grant { ns, .. } => format!("a grant in namespace number {ns}"),
        Key::State { ns, .. } => format!("a state in namespace number {ns}"),
    }
}

/// redb promises errors, not panics, for a file that it checks as it opens it; this is for the day
/// on which it breaks that promise.
pub(super) fn without_panic<T>(read: impl FnOnce() -> Result<T, Damage>) -> Result<T, Damage> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(damage("reading it ended in a panic of the library")))
}

pub(super) fn facts(db: &impl ReadableDatabase) -> Result<Facts, Damage> {
    let txn = db.begin_read().map_err(damage)?;
    let table = match txn.open_table(META) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Err(damage("it is no store of fws")),
        Err(error) => return Err(damage(error)),
    };
    let get = |name: &str| -> Result<Vec<u8>, Damage> {
        let value = table.get(name).map_err(damage)?;
        let value = value.ok_or_else(|| damage(format!("the fact {name:?} is missing")))?;
        Ok(value.value().to_vec())
    };
    let wrong = |name: &str| damage(format!("the fact {name:?} is not as it was written"));
    let key: [u8; 32] = get("key")?.try_into().map_err(|_| wrong("key"))?;
    let sealer = Sealer::new(&key);
    let numbers = |name: &str| -> Result<[u64; 2], Damage> {
        let value = get(name)?;
        let body = sealer.open_fact(name, &value).map_err(|_| wrong(name))?;
        let number = |part: &[u8]| part.try_into().map(u64::from_le_bytes).unwrap_or_default();
        let (one, two) = body.split_at(body.len().min(8));
        Ok([number(one), number(two)])
    };
    let [format, _] = numbers("format")?;
    if format != FORMAT {
        let text = format!("it has format {format}, and this version knows format {FORMAT} alone");
        return Err(damage(text));
    }
    let ([term, _], [batch, _], [at, unix]) =
        (numbers("term")?, numbers("batch")?, numbers("clock")?);
    Ok(Facts { key, term, batch, clock: (UnixMillis(at), UnixMillis(unix)) })
}

/// A file that is written to.
pub struct Writer {
    db: Database,
    watch: Watch,
    sealer: Sealer,
    /// Bytes of all rows.
    live: u64,
}

impl Writer {
    /// Opens a file that [`Content::read`] has verified, `live` bytes of rows in it.
    ///
    /// # Errors
    /// The [`Fault`] that stands in the way.
    pub fn open(
        backend: impl StorageBackend + Discard,
        facts: &Facts,
        live: u64,
    ) -> Result<Writer, Fault> {
        Writer::new(backend, facts, live, false)
    }

    /// Opens a file again after a fault, and verifies its pages.
    ///
    /// # Errors
    /// The [`Fault`] that stands in the way.
    pub fn reopen(
        backend: impl StorageBackend + Discard,
        facts: &Facts,
        live: u64,
    ) -> Result<Writer, Fault> {
        Writer::new(backend, facts, live, true)
    }

    /// Makes a store of an empty file.
    ///
    /// # Errors
    /// The [`Fault`] that stands in the way.
    pub fn create(backend: impl StorageBackend + Discard, facts: &Facts) -> Result<Writer, Fault> {
        let writer = Writer::new(backend, facts, 0, false)?;
        writer.transact(|txn| {
            let mut meta = txn.open_table(META)?;
            meta.insert("key", &facts.key[..])?;
            for (name, number) in [("format", FORMAT), ("batch", facts.batch)] {
                meta.insert(name, &*writer.sealer.seal_fact(name, &number.to_le_bytes()))?;
            }
            txn.open_table(NAMESPACES)?;
            txn.open_table(GRANTS)?;
            txn.open_table(STATES)?;
            Ok(())
        })?;
        writer.begin(facts)?;
        Ok(writer)
    }

    fn new(
        backend: impl StorageBackend + Discard,
        facts: &Facts,
        live: u64,
        is_checked: bool,
    ) -> Result<Writer, Fault> {
        let broken = |error: std::io::Error| Fault::Broken(error.to_string());
        let (guard, watch) = Guard::new(backend).map_err(broken)?;
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(is_checked)
            .create_with_backend(guard)
            .map_err(|error| watch.fault().unwrap_or(Fault::Broken(error.to_string())))?;
        Ok(Writer { db, watch, sealer: Sealer::new(&facts.key), live })
    }

    /// Writes term and clock of a new start.
    ///
    /// # Errors
    /// The [`Fault`] for which it was not written.
    pub fn begin(&self, facts: &Facts) -> Result<(), Fault> {
        self.transact(|txn| {
            let mut meta = txn.open_table(META)?;
            let term = facts.term.to_le_bytes();
            meta.insert("term", &*self.sealer.seal_fact("term", &term))?;
            meta.insert("clock", &*self.clock(facts.clock))?;
            Ok(())
        })
    }

    /// Writes a batch: all of it is durable when this returns, or none of it ever will be.
    ///
    /// # Errors
    /// The [`Fault`] for which it was not written. The writer is of no more use then.
    pub fn write(&mut self, batch: &mut Batch) -> Result<(), Fault> {
        let mut live = self.live as i64;
        // In the order of the file, so that pages are not looked for again and again. Of two rows
        // under one key the last must stay the last.
        batch.rows.sort_by(|(one, _), (two, _)| one.cmp(two));
        for (key, value) in &mut batch.rows {
            if let Some(value) = value {
                self.sealer.seal(key, value);
            }
        }
        self.transact(|txn| {
            let mut namespaces = txn.open_table(NAMESPACES)?;
            let mut grants = txn.open_table(GRANTS)?;
            let mut states = txn.open_table(STATES)?;
            for (key, value) in &batch.rows {
                let (value, size) = (value.as_deref(), key_bytes(key) as i64);
                live += value.map_or(0, |value| value.len() as i64 + size);
                let before = match key {
                    Key::Namespace { ns } => put(&mut namespaces, *ns, value)?,
                    Key::Grant { ns, channel, user } => {
                        put(&mut grants, (*ns, &**channel, &**user), value)?
                    }
                    Key::State { ns, place } => {
                        let key = (*ns, &*place.channel, place.user.as_deref());
                        put(&mut states, key, value)?
                    }
                };
                live -= before.map_or(0, |before| before + size);
            }
            for ns in &batch.removed {
                let size = key_bytes(&Key::Namespace { ns: *ns }) as i64;
                live -= put(&mut namespaces, *ns, None)?.map_or(0, |before| before + size);
                grants.retain_in((*ns, "", "")..(ns + 1, "", ""), |key, value| {
                    live -= (value.len() + key_bytes(&grant_key(key))) as i64;
                    false
                })?;
                states.retain_in((*ns, "", None)..(ns + 1, "", None), |key, value| {
                    live -= (value.len() + key_bytes(&state_key(key))) as i64;
                    false
                })?;
            }
            let mut meta = txn.open_table(META)?;
            let number = batch.number.to_le_bytes();
            meta.insert("batch", &*self.sealer.seal_fact("batch", &number))?;
            meta.insert("clock", &*self.clock(batch.clock))?;
            Ok(())
        })?;
        self.live = u64::try_from(live).unwrap_or_default();
        Ok(())
    }

    /// Moves what is in the file to its beginning and cuts it off there.
    ///
    /// # Errors
    /// The [`Fault`] on which it stopped. The writer is of no more use then.
    pub fn compact(&mut self) -> Result<(), Fault> {
        match self.db.compact() {
            Ok(_) => Ok(()),
            Err(error) => Err(self.fault(error.to_string())),
        }
    }

    /// Length of the file, and bytes of all rows in it.
    pub fn size(&self) -> (u64, u64) {
        (self.watch.file_bytes(), self.live)
    }

    fn clock(&self, (at, unix): (UnixMillis, UnixMillis)) -> Vec<u8> {
        let mut body = at.0.to_le_bytes().to_vec();
        body.extend_from_slice(&unix.0.to_le_bytes());
        self.sealer.seal_fact("clock", &body)
    }

    fn transact(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), Fault> {
        let written = || -> Result<(), redb::Error> {
            let txn = self.db.begin_write()?;
            change(&txn)?;
            Ok(txn.commit()?)
        };
        written().map_err(|error| self.fault(error.to_string()))
    }

    fn fault(&self, error: String) -> Fault {
        self.watch.fault().unwrap_or(Fault::Broken(error))
    }
}

/// Puts a value under a key, or takes it away; returns the bytes of the one before.
fn put<'k, K: redb::Key + 'static>(
    table: &mut redb::Table<'_, K, &'static [u8]>,
    key: K::SelfType<'k>,
    value: Option<&[u8]>,
) -> Result<Option<i64>, redb::Error> {
    let before = match value {
        Some(value) => table.insert(key, value)?,
        None => table.remove(key)?,
    };
    Ok(before.map(|before| before.value().len() as i64))
}

/// What a key takes in the file.
fn key_bytes(key: &Key) -> usize {
    size_of::<u64>()
        + match key {
            Key::Namespace { .. } => 0,
            Key::Grant { channel, user, .. } => channel.len() + user.len(),
            Key::State { place, .. } => {
                place.channel.len() + place.user.as_ref().map_or(0, |user| user.len())
            }
        }
}
