//! One store file: reading and verifying all of it, and writing batches to it. Knows redb; knows
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

/// Size of redb's page cache. Clients' reads do not go to the file, so the cache only has to hold
/// the path to the pages that a batch changes.
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

/// What a store records about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreMeta {
    /// Key of the tags.
    pub key: [u8; 32],
    /// Number of server starts on this store.
    pub term: u64,
    /// Number of batches written.
    pub batch: u64,
    /// One moment in entry time and as a date. Entry time is the clock of `Entry::at` and of
    /// expiry: it is advanced by the monotonic clock and does not follow steps of the date.
    pub clock: (UnixMillis, UnixMillis),
}

impl StoreMeta {
    /// Returns this moment in entry time.
    pub fn at(&self, now: Now) -> UnixMillis {
        let (at, unix) = self.clock;
        at.plus(now.unix.0.saturating_sub(unix.0))
    }

    /// Returns the date of a moment in entry time.
    pub fn date(&self, moment: UnixMillis) -> UnixMillis {
        let (at, unix) = self.clock;
        UnixMillis(moment.0.saturating_add(unix.0).saturating_sub(at.0))
    }
}

/// The changes of some turns of the loop: each changed row as it is at their end.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Its number.
    pub number: u64,
    /// Keys and values, the tags not filled in yet; `None` for deleted rows.
    pub rows: Vec<(Key, Option<Vec<u8>>)>,
    /// Namespaces that were removed with everything in them.
    pub removed: Vec<u64>,
    /// As in [`StoreMeta`].
    pub clock: (UnixMillis, UnixMillis),
}

impl Batch {
    /// Adds a row as it is now and returns the bytes of its value.
    pub fn push(&mut self, key: Key, row: Option<Row<'_>>) -> usize {
        let value = row.as_ref().map(value);
        let bytes = value.as_ref().map_or(0, Vec::len);
        self.rows.push((key, value));
        bytes
    }
}

/// The verified content of a file: every page has been checked, by redb, or for a snapshot by our
/// reader; and so have every row's tag and the references between rows. The file is not modified.
pub struct Content {
    tables: Tables,
    sealer: Sealer,
    /// What the store records about itself.
    pub meta: StoreMeta,
    /// Number of namespaces, grants and states.
    pub counts: [u64; 3],
    /// Bytes of all rows: keys and values.
    pub bytes: u64,
}

impl Content {
    /// Reads and verifies the whole file.
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
            // redb has verified every page, and repaired in memory what a crash left unfinished.
            drop(db);
            Ok(())
        })?;
        Content::of(Tables::open(overlay, false)?)
    }

    /// Verifies every row of tables whose pages are verified.
    ///
    /// # Errors
    /// [`Damage`]
    pub(super) fn of(tables: Tables) -> Result<Content, Damage> {
        let meta = tables.meta()?;
        let sealer = Sealer::new(&meta.key);
        let mut content = Content { tables, sealer, meta, counts: [0; 3], bytes: 0 };
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

    /// Visits all rows, namespaces first.
    ///
    /// # Errors
    /// [`Damage`], if a row cannot be read or has changed since it was verified.
    pub fn each(&self, each: &mut dyn FnMut(Key, Row<'_>)) -> Result<(), Damage> {
        self.walk(&mut |key, row, _| each(key, row))
    }

    /// Like [`Content::each`], with the bytes of each value.
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

    /// Returns the number of the file's format. Only [`FORMAT`] is ever written.
    pub fn format(&self) -> u64 {
        self.tables.format()
    }
}

/// Describes a row without naming anything that a tenant chose.
fn what(key: &Key) -> String {
    match key {
        Key::Namespace { ns } => format!("namespace number {ns}"),
        Key::Grant { ns, .. } => format!("a grant in namespace number {ns}"),
        Key::State { ns, .. } => format!("a state in namespace number {ns}"),
    }
}

/// Turns a panic into an error. redb promises to return errors for a file that it verifies on
/// opening; this guards against the day it breaks that promise.
fn without_panic<T>(read: impl FnOnce() -> Result<T, Damage>) -> Result<T, Damage> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(damage("reading it ended in a panic of the library")))
}

/// A file opened for writing.
pub struct Writer {
    db: Database,
    watch: Watch,
    sealer: Sealer,
    /// Bytes of all rows.
    live: u64,
}

/// A file opened for writing; or, if the disk is full, the fault and the bytes of all rows in the
/// file.
pub type Opening = Result<Writer, (Fault, u64)>;

impl Writer {
    /// Opens a file that [`Content::read`] has verified and that has `live` bytes of rows.
    ///
    /// # Errors
    /// The [`Fault`] that prevents it.
    pub fn open(
        backend: impl StorageBackend + Discard,
        meta: &StoreMeta,
        live: u64,
    ) -> Result<Writer, Fault> {
        Writer::new(backend, meta, live, false)
    }

    /// Opens a file again after a fault, and verifies its pages and that it ends with the last
    /// batch: what is there now need not be what was written.
    ///
    /// # Errors
    /// The [`Fault`] that prevents it.
    pub fn reopen(
        backend: impl StorageBackend + Discard,
        meta: &StoreMeta,
        live: u64,
    ) -> Result<Writer, Fault> {
        let writer = Writer::new(backend, meta, live, true)?;
        match writer.ends_with(meta.batch) {
            Ok(true) => Ok(writer),
            Ok(false) => Err(Fault::Broken("it is another store by now, or an older copy".into())),
            Err(error) => Err(writer.fault(error.to_string())),
        }
    }

    /// Returns whether this is the last batch of the file, with the tag of this store.
    fn ends_with(&self, batch: u64) -> Result<bool, redb::Error> {
        let meta = self.db.begin_read()?.open_table(FACTS)?;
        let last = self.sealer.seal_fact("batch", &batch.to_le_bytes());
        Ok(meta.get(&b"batch"[..])?.is_some_and(|found| found.value() == last))
    }

    /// Creates a store in an empty file.
    ///
    /// # Errors
    /// The [`Fault`] that prevents it.
    pub fn create(
        backend: impl StorageBackend + Discard,
        meta: &StoreMeta,
    ) -> Result<Writer, Fault> {
        let writer = Writer::new(backend, meta, 0, false)?;
        writer.found(meta)?;
        Ok(writer)
    }

    /// Creates the tables and writes the facts.
    fn found(&self, meta: &StoreMeta) -> Result<(), Fault> {
        self.transact(|txn| {
            let mut table = txn.open_table(FACTS)?;
            table.insert(&b"key"[..], &meta.key[..])?;
            for (name, number) in [("format", FORMAT), ("batch", meta.batch)] {
                self.note(&mut table, name, &number.to_le_bytes())?;
            }
            txn.open_table(ROWS)?;
            Ok(())
        })?;
        self.begin(meta)
    }

    fn new(
        backend: impl StorageBackend + Discard,
        meta: &StoreMeta,
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
        Ok(Writer { db, watch, sealer: Sealer::new(&meta.key), live })
    }

    /// Writes the term and the clock of a new start.
    ///
    /// # Errors
    /// The [`Fault`] that prevented it.
    pub fn begin(&self, meta: &StoreMeta) -> Result<(), Fault> {
        self.transact(|txn| {
            let mut table = txn.open_table(FACTS)?;
            self.note(&mut table, "term", &meta.term.to_le_bytes())?;
            self.note(&mut table, "clock", &clock(meta.clock))
        })
    }

    /// Writes a batch: all of it is durable when this returns `Ok`, or none of it ever will be.
    ///
    /// # Errors
    /// The [`Fault`] that prevented it. The writer is then useless.
    pub fn write(&mut self, batch: &mut Batch) -> Result<(), Fault> {
        let mut live = self.live as i64;
        // Sorted in the order of the file, so that redb does not search the same pages again and
        // again. The sort is stable: of two rows with the same key the last one must stay last.
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
            let mut meta = txn.open_table(FACTS)?;
            self.note(&mut meta, "batch", &batch.number.to_le_bytes())?;
            self.note(&mut meta, "clock", &clock(batch.clock))
        })?;
        self.live = u64::try_from(live).unwrap_or_default();
        Ok(())
    }

    /// Moves the content to the beginning of the file and truncates it.
    ///
    /// # Errors
    /// The [`Fault`] that stopped it. The writer is then useless.
    pub fn compact(&mut self) -> Result<(), Fault> {
        match self.db.compact() {
            Ok(_) => Ok(()),
            Err(error) => Err(self.fault(error.to_string())),
        }
    }

    /// Returns the length of the file, and the bytes of all rows in it.
    pub fn size(&self) -> (u64, u64) {
        (self.watch.file_bytes(), self.live)
    }

    fn note(&self, meta: &mut Rows<'_>, name: &str, body: &[u8]) -> Result<(), redb::Error> {
        meta.insert(name.as_bytes(), &*self.sealer.seal_fact(name, body))?;
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

type Rows<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;

/// Inserts a value, or removes it if `None`; returns the length of the previous value.
fn put(rows: &mut Rows<'_>, key: &[u8], value: Option<&[u8]>) -> Result<Option<i64>, redb::Error> {
    let before = match value {
        Some(value) => rows.insert(key, value)?,
        None => rows.remove(key)?,
    };
    Ok(before.map(|before| before.value().len() as i64))
}

/// Returns date minus entry time, in milliseconds.
pub(super) fn skew((at, unix): (UnixMillis, UnixMillis)) -> i64 {
    (unix.0 as i64).wrapping_sub(at.0 as i64)
}

fn clock((at, unix): (UnixMillis, UnixMillis)) -> [u8; 16] {
    let mut body = [0; 16];
    body[..8].copy_from_slice(&at.0.to_le_bytes());
    body[8..].copy_from_slice(&unix.0.to_le_bytes());
    body
}

/// Returns the bytes that a key takes in the file.
fn key_bytes(key: &Key) -> usize {
    size_of::<u64>() + key.bytes()
}
