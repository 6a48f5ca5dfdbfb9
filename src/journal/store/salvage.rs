//! Reads what is left of a damaged file. A row is valid if its tag is; an unreadable page loses the
//! rows below it and no others. Changes nothing.
//!
//! redb does not help here: it opens a file after a crash only once it has verified all of it, and
//! a damaged file not at all. When it follows a rotten page, it allocates as much memory as the
//! page says.

use redb::StorageBackend;

use super::file::{Damage, StoreMeta, damage};
use super::format::Sealer;
use super::tables::Tables;
use crate::hub::{Key, Row};
use crate::time::UnixMillis;

/// What could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Rows that are not as they were written.
    pub rows: u64,
    /// Why tables could not be read to their end; how many rows they had is unknown.
    pub gaps: Vec<Damage>,
}

/// A damaged store, open for reading.
pub struct Salvage {
    tables: Tables,
    sealer: Sealer,
    /// What the store records about itself; trustworthy if `doubt` is `None`.
    pub meta: StoreMeta,
    /// Why the facts could not be read. The key is then that of the seal, and the rest is made up.
    pub doubt: Option<Damage>,
}

impl Salvage {
    /// Opens whichever of the last two commits loses less; the last one if they are equal. `open`
    /// opens the file; `key` is the key in the seal.
    ///
    /// # Errors
    /// [`Damage`], if neither commit can be read.
    pub fn open<B: StorageBackend>(
        open: impl Fn() -> std::io::Result<B>,
        key: Option<[u8; 32]>,
    ) -> Result<Salvage, Damage> {
        let ways = [false, true].map(|is_other| {
            let salvage = Salvage::new(open().map_err(damage)?, is_other, key)?;
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
        let tables = Tables::open(backend, is_other)?;
        let (meta, doubt) = match (tables.meta(), key) {
            (Ok(meta), _) => (meta, None),
            (Err(damage), Some(key)) => {
                let clock = (UnixMillis(0), UnixMillis(0));
                (StoreMeta { key, term: 0, batch: 0, clock }, Some(damage))
            }
            (Err(damage), None) => return Err(damage),
        };
        Ok(Salvage { tables, sealer: Sealer::new(&meta.key), meta, doubt })
    }

    /// Visits all rows that can be read, namespaces first. Returns what could not be read.
    pub fn each(&self, each: &mut dyn FnMut(Key, Row<'_>)) -> Lost {
        let mut bad = 0;
        let (no_rows, gaps) = self.tables.each(&self.sealer, &mut |key, row, _| match row {
            Some(row) => each(key, row),
            None => bad += 1,
        });
        Lost { rows: bad + no_rows, gaps }
    }
}
