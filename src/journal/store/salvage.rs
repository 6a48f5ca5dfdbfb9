//! What can still be read of a damaged file. A row is taken for what its tag says of it and nothing
//! else; where a page leads nowhere, reading goes on from the other end of the table. Changes
//! nothing.
//!
//! redb opens a file that a crash left behind only after it has verified all of it, and a damaged
//! one then not at all. But it lets readers in beside a writer, without a look at anything: so it
//! is told that there is one.

use std::io::{self, ErrorKind};
use std::ops::Bound;

use redb::{
    BackendError, Builder, ConcurrencyMode, ReadOnlyDatabase, ReadableDatabase, ReadableTable,
    StorageBackend,
};

use super::file::{Damage, Facts, damage, facts, without_panic};
use super::format::{GRANTS, NAMESPACES, STATES, Sealer, grant_key, state_key};
use crate::hub::{Key, Row};
use crate::time::UnixMillis;

/// Where redb says which of two commits is the last (the lowest bit), and whether the file was left
/// behind by a crash.
const FLAGS_AT: u64 = 9;
const SECOND: u8 = 1;
const UNCLEAN: u8 = 2;

/// How much could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Rows that are not as they had been written.
    pub rows: u64,
    /// Why tables could not be read to their end: what was there is not known.
    pub gaps: Vec<Damage>,
}

/// A damaged store, open for reading.
pub struct Salvage {
    db: ReadOnlyDatabase,
    sealer: Sealer,
    /// What the store says of itself. Without `doubt`, this is as it was written.
    pub facts: Facts,
    /// Why the facts could not be read. The key is that of the seal then, and the rest made up.
    pub doubt: Option<Damage>,
}

impl Salvage {
    /// Finds the way in through which most can be read: of the last two commits, the last unless
    /// less is lost of the other. `open` opens the file; `key` is the key in the seal.
    ///
    /// # Errors
    /// [`Damage`], if there is no way in at all.
    pub fn open<B: StorageBackend>(
        open: impl Fn() -> io::Result<B>,
        key: Option<[u8; 32]>,
    ) -> Result<Salvage, Damage> {
        let ways = [false, true].map(|is_other| {
            let salvage = without_panic(|| Salvage::new(open().map_err(damage)?, is_other, key))?;
            let lost = salvage.each(&mut |_, _| ());
            Ok::<_, Damage>((
                lost.gaps.len() + usize::from(salvage.doubt.is_some()),
                lost.rows,
                salvage,
            ))
        });
        match ways {
            [Ok(last), Ok(other)] if (other.0, other.1) < (last.0, last.1) => Ok(other.2),
            [Ok(last), _] => Ok(last.2),
            [Err(_), Ok(other)] => Ok(other.2),
            [Err(damage), Err(_)] => Err(damage),
        }
    }

    fn new(
        backend: impl StorageBackend,
        is_other: bool,
        key: Option<[u8; 32]>,
    ) -> Result<Salvage, Damage> {
        let db = Builder::new()
            .set_cache_size(super::file::CACHE_BYTES)
            .set_concurrency_mode(ConcurrencyMode::SingleWriter)
            .open_read_only_with_backend(Beside { inner: backend, is_other })
            .map_err(damage)?;
        let (facts, doubt) = match (without_panic(|| facts(&db)), key) {
            (Ok(facts), _) => (facts, None),
            (Err(damage), Some(key)) => {
                let clock = (UnixMillis(0), UnixMillis(0));
                (Facts { key, term: 0, batch: 0, clock }, Some(damage))
            }
            (Err(damage), None) => return Err(damage),
        };
        Ok(Salvage { db, sealer: Sealer::new(&facts.key), facts, doubt })
    }

    /// All rows that can be read, namespaces first; says what could not.
    pub fn each(&self, each: &mut dyn FnMut(Key, Row<'_>)) -> Lost {
        let (mut rows, mut gaps) = (0, Vec::new());
        let mut visit = |key: Key, value: &[u8]| match self.sealer.open(&key, value) {
            Ok(row) => each(key, row),
            Err(_) => rows += 1,
        };
        match without_panic(|| self.db.begin_read().map_err(damage)) {
            Ok(txn) => {
                let namespace = |ns| Key::Namespace { ns };
                gaps.extend(table(|| txn.open_table(NAMESPACES), namespace, &mut visit));
                gaps.extend(table(|| txn.open_table(GRANTS), grant_key, &mut visit));
                gaps.extend(table(|| txn.open_table(STATES), state_key, &mut visit));
            }
            Err(damage) => gaps.push(damage),
        }
        Lost { rows, gaps }
    }
}

/// Reads a table from its beginning, and if that does not lead to its end, from there as well, as
/// far as nothing comes twice.
fn table<K, T>(
    open: impl Fn() -> Result<T, redb::TableError>,
    key_of: impl Fn(K::SelfType<'_>) -> Key,
    visit: &mut dyn FnMut(Key, &[u8]),
) -> Option<Damage>
where
    K: redb::Key + 'static,
    T: ReadableTable<K, &'static [u8]>,
{
    let mut last: Option<Key> = None;
    let gap = without_panic(|| {
        for entry in open().map_err(damage)?.iter().map_err(damage)? {
            let (key, value) = entry.map_err(damage)?;
            let key = key_of(key.value());
            // Of a page that rotted, the order may be gone, and with it the end.
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(damage("rows out of order"));
            }
            visit(key.clone(), value.value());
            last = Some(key);
        }
        Ok(())
    })
    .err()?;
    let mut first: Option<Key> = None;
    let from_behind = without_panic(|| {
        for entry in open().map_err(damage)?.iter().map_err(damage)?.rev() {
            let (key, value) = entry.map_err(damage)?;
            let key = key_of(key.value());
            let is_known = last.as_ref().is_some_and(|last| key <= *last);
            if is_known || first.as_ref().is_some_and(|first| key >= *first) {
                break;
            }
            visit(key.clone(), value.value());
            first = Some(key);
        }
        Ok(())
    });
    // Why it stopped here too does not matter: that there is a gap is known.
    drop(from_behind);
    Some(gap)
}

/// A file, as it looks to who reads beside a writer.
#[derive(Debug)]
struct Beside<B> {
    inner: B,
    /// Whether the commit before the last one is to be read.
    is_other: bool,
}

impl<B: StorageBackend> StorageBackend for Beside<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)?;
        let flags =
            FLAGS_AT.checked_sub(offset).and_then(|at| out.get_mut(usize::try_from(at).ok()?));
        if let Some(flags) = flags {
            *flags = (*flags & !UNCLEAN) ^ if self.is_other { SECOND } else { 0 };
        }
        Ok(())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    // The lock of the folder keeps everybody else out.

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}
