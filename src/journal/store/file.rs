//! One store file: reading and verifying all of it, and writing batches into it. Knows redb; knows
//! neither folders nor threads.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hashbrown::HashSet;
use redb::{Database, ReadableDatabase, StorageBackend};

use super::disk::{Discard, Fault, Guard, Overlay, Watch};
use super::format::{FACTS, FORMAT, ROWS, Sealer, decode_key, encode_key, ranges_of, value};
use super::tables::Tables;
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
    /// Adds a row, as it is now; returns the bytes of its value.
    pub fn push(&mut self, key: Key, row: Option<Row<'_>>) -> usize {
        let value = row.as_ref().map(value);
        let bytes = value.as_ref().map_or(0, Vec::len);
        self.rows.push((key, value));
        bytes
    }
}

/// All that is in a file, verified: every page by redb, every row by its tag, and what belongs
/// together. The file is not touched.
pub struct Content {
    tables: Tables,
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
        let overlay = Overlay::new(backend).map_err(damage)?;
        if overlay.len().map_err(damage)? == 0 {
            return Err(damage("the file is empty"));
        }
        without_panic(|| {
            let db = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create_with_backend(overlay.clone())
                .map_err(damage)?;
            // Every page is as it was written, and what a crash left is mended, in memory.
            drop(db);
            Ok(())
        })?;
        let tables = Tables::open(overlay, false)?;
        let facts = tables.facts()?;
        let sealer = Sealer::new(&facts.key);
        let mut content = Content { tables, sealer, facts, counts: [0; 3], bytes: 0 };
        content.verify()?;
        Ok(content)
    }

    fn verify(&mut self) -> Result<(), Damage> {
        let (mut numbers, mut names) = (HashSet::new(), HashSet::new());
        let (mut counts, mut bytes) = ([0; 3], 0);
        let mut wrong = None;
        let walked = self.walk(&mut |key, row, size| {
            bytes += (size + key_bytes(&key)) as u64;
            let (kind, is_right, what_is_not) = match (&key, row) {
                (Key::Namespace { ns }, Row::Namespace { name, .. }) => {
                    numbers.insert(*ns);
                    (0, names.insert(name.into_owned()), "its name stands twice")
                }
                (Key::Grant { ns, .. }, _) => (1, numbers.contains(ns), "no such namespace"),
                (Key::State { ns, .. } | Key::Namespace { ns }, _) => {
                    (2, numbers.contains(ns), "no such namespace")
                }
            };
            counts[kind] += 1;
            if !is_right {
                wrong.get_or_insert_with(|| damage(format!("{}: {what_is_not}", what(&key))));
            }
        });
        (self.counts, self.bytes) = (counts, bytes);
        walked.and(wrong.map_or(Ok(()), Err))
    }

    /// All rows, namespaces first.
    ///
    /// # Errors
    /// [`Damage`], if not all can be read, or one is by now not as it was verified.
    pub fn each(&self, each: &mut dyn FnMut(Key, Row<'_>)) -> Result<(), Damage> {
        self.walk(&mut |key, row, _| each(key, row))
    }

    /// The same, with the bytes of each value.
    fn walk(&self, each: &mut dyn FnMut(Key, Row<'_>, usize)) -> Result<(), Damage> {
        let mut wrong = None;
        let (bad, gaps) = self.tables.each(&self.sealer, &mut |key, row, size| match row {
            Some(row) => each(key, row, size),
            None => _ = wrong.get_or_insert_with(|| damage(format!("{}: a wrong tag", what(&key)))),
        });
        if bad > 0 {
            let rows = crate::log::Count(bad, "row has", "rows have");
            return Err(damage(format!("{rows} no key")));
        }
        wrong.into_iter().chain(gaps).next().map_or(Ok(()), Err)
    }

    /// The number of its format. Only [`FORMAT`] is written.
    pub fn format(&self) -> u64 {
        self.tables.format()
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
fn without_panic<T>(read: impl FnOnce() -> Result<T, Damage>) -> Result<T, Damage> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(damage("reading it ended in a panic of the library")))
}

/// A file that is written to.
pub struct Writer {
    db: Database,
    watch: Watch,
    sealer: Sealer,
    /// Bytes of all rows.
    live: u64,
}

/// A file that is written to; or why it cannot be yet, because a disk is full, and the bytes of all
/// rows in it.
pub type Opening = Result<Writer, (Fault, u64)>;

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

    /// Opens a file again after a fault, and verifies its pages, and that it ends with the last
    /// batch: whatever stands there now need not be what was written.
    ///
    /// # Errors
    /// The [`Fault`] that stands in the way.
    pub fn reopen(
        backend: impl StorageBackend + Discard,
        facts: &Facts,
        live: u64,
    ) -> Result<Writer, Fault> {
        let writer = Writer::new(backend, facts, live, true)?;
        match writer.ends_with(facts.batch) {
            Ok(true) => Ok(writer),
            Ok(false) => Err(Fault::Broken("it is another store by now, or an older copy".into())),
            Err(error) => Err(writer.fault(error.to_string())),
        }
    }

    /// Whether this is the last batch, in the hand of this store.
    fn ends_with(&self, batch: u64) -> Result<bool, redb::Error> {
        let facts = self.db.begin_read()?.open_table(FACTS)?;
        let last = self.sealer.seal_fact("batch", &batch.to_le_bytes());
        Ok(facts.get(&b"batch"[..])?.is_some_and(|found| found.value() == last))
    }

    /// Makes a store of an empty file.
    ///
    /// # Errors
    /// The [`Fault`] that stands in the way.
    pub fn create(backend: impl StorageBackend + Discard, facts: &Facts) -> Result<Writer, Fault> {
        let writer = Writer::new(backend, facts, 0, false)?;
        writer.found(facts)?;
        Ok(writer)
    }

    /// Makes the tables, and writes what the store says of itself.
    fn found(&self, facts: &Facts) -> Result<(), Fault> {
        self.transact(|txn| {
            let mut table = txn.open_table(FACTS)?;
            table.insert(&b"key"[..], &facts.key[..])?;
            for (name, number) in [("format", FORMAT), ("batch", facts.batch)] {
                self.note(&mut table, name, &number.to_le_bytes())?;
            }
            txn.open_table(ROWS)?;
            Ok(())
        })?;
        self.begin(facts)
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
            let mut table = txn.open_table(FACTS)?;
            self.note(&mut table, "term", &facts.term.to_le_bytes())?;
            self.note(&mut table, "clock", &clock(facts.clock))
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
            let mut rows = txn.open_table(ROWS)?;
            let mut name = Vec::new();
            for (key, value) in &batch.rows {
                let (value, size) = (value.as_deref(), key_bytes(key) as i64);
                live += value.map_or(0, |value| value.len() as i64 + size);
                encode_key(key, &mut name);
                live -= put(&mut rows, &name, value)?.map_or(0, |before| before + size);
            }
            for ns in &batch.removed {
                let key = Key::Namespace { ns: *ns };
                encode_key(&key, &mut name);
                let size = key_bytes(&key) as i64;
                live -= put(&mut rows, &name, None)?.map_or(0, |before| before + size);
                for range in ranges_of(*ns) {
                    rows.retain_in(&range.start[..]..&range.end[..], |key, value| {
                        let size = decode_key(key).as_ref().map_or(0, key_bytes);
                        live -= (value.len() + size) as i64;
                        false
                    })?;
                }
            }
            let mut facts = txn.open_table(FACTS)?;
            self.note(&mut facts, "batch", &batch.number.to_le_bytes())?;
            self.note(&mut facts, "clock", &clock(batch.clock))
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

    fn note(&self, facts: &mut Rows<'_>, name: &str, body: &[u8]) -> Result<(), redb::Error> {
        facts.insert(name.as_bytes(), &*self.sealer.seal_fact(name, body))?;
        Ok(())
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

/// A table that is written to.
type Rows<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;

/// Puts a value under a key, or takes it away; returns the bytes of the one before.
fn put(rows: &mut Rows<'_>, key: &[u8], value: Option<&[u8]>) -> Result<Option<i64>, redb::Error> {
    let before = match value {
        Some(value) => rows.insert(key, value)?,
        None => rows.remove(key)?,
    };
    Ok(before.map(|before| before.value().len() as i64))
}

fn clock((at, unix): (UnixMillis, UnixMillis)) -> [u8; 16] {
    let mut body = [0; 16];
    body[..8].copy_from_slice(&at.0.to_le_bytes());
    body[8..].copy_from_slice(&unix.0.to_le_bytes());
    body
}

/// What a key takes in the file.
fn key_bytes(key: &Key) -> usize {
    size_of::<u64>() + key.bytes()
}
