//! Writes a new store beside the existing one and atomically puts it in its place. For large
//! changes while no server runs.

use redb::StorageBackend;

use super::disk::{Discard, Fault};
use super::file::{Batch, Content, StoreMeta, Writer};
use super::folder::{Folder, Home, Medium};
use super::open::{OpenError, Opened, never_was, new_meta, seal};
use crate::hub::{Key, Row};
use crate::time::{Now, UnixMillis};

/// Maximum rows and bytes of one batch. More than a running server sends at once: nobody waits, and
/// each batch costs a sync.
const PART_ROWS: usize = 50_000;
const PART_BYTES: usize = 16 << 20;

/// Replaces a store of an older format by one of the current format, with the same facts. A start
/// that is cut short leaves one or the other in place.
///
/// # Errors
/// [`OpenError`]
pub(super) fn renew(folder: &impl Home, content: &Content) -> Result<(), OpenError> {
    let fault = |fault| OpenError::Fault(folder.store_path(), fault);
    let mut next = Next::create(folder.open_next()?, &content.meta).map_err(fault)?;
    let mut written = Ok(());
    let read = content.each(&mut |key, row| {
        if written.is_ok() {
            written = next.put(key, row);
        }
    });
    read.map_err(|damage| fault(Fault::Broken(damage.to_string())))?;
    written.and_then(|()| next.finish()).map_err(fault)?;
    Ok(folder.install_next()?)
}

/// A store that is being written, batch by batch.
struct Next {
    writer: Writer,
    batch: Batch,
    batch_bytes: usize,
}

impl Next {
    fn create(backend: impl StorageBackend + Discard, meta: &StoreMeta) -> Result<Next, Fault> {
        let batch = Batch { number: meta.batch, clock: meta.clock, ..Batch::default() };
        Ok(Next { writer: Writer::create(backend, meta)?, batch, batch_bytes: 0 })
    }

    fn put(&mut self, key: Key, row: Row<'_>) -> Result<(), Fault> {
        self.batch_bytes += self.batch.push(key, Some(row));
        let is_full = self.batch.rows.len() >= PART_ROWS || self.batch_bytes >= PART_BYTES;
        if is_full { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.writer.write(&mut self.batch)?;
        self.batch.rows.clear();
        self.batch_bytes = 0;
        Ok(())
    }

    /// Writes the rest, compacts the file, and closes it before anything else opens it.
    fn finish(mut self) -> Result<(), Fault> {
        self.flush()?;
        self.writer.compact()
    }
}

/// Deletes the next store when dropped, unless it has been installed.
struct Unfinished(Folder);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After installation this does nothing: the file has another name then.
        self.0.discard_next();
    }
}

/// The next store of a folder. It is deleted unless it is finished.
pub struct Rewrite {
    // Declared first: it is closed before it is deleted.
    next: Next,
    meta: StoreMeta,
    folder: Unfinished,
}

impl Rewrite {
    /// Begins a rewrite, and returns the content of the current store, if there is one. Rows that
    /// are to stay must be put into the next store as well.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn begin(folder: Folder, now: Now) -> Result<(Option<Content>, Rewrite), OpenError> {
        let (folder, content, meta) = if folder.has_store()? {
            let (folder, content) = Opened::verify(folder, now)?.into_parts();
            let meta = content.meta.clone();
            let clock = (meta.at(now), now.unix);
            let meta = StoreMeta { batch: meta.batch + 1, clock, ..meta };
            (folder, Some(content), meta)
        } else {
            never_was(&folder, &folder.seal_state()?)?;
            let meta = new_meta(now).map_err(|e| OpenError::Fault(folder.store_path(), e))?;
            (folder, None, StoreMeta { batch: 1, ..meta })
        };
        let folder = Unfinished(folder);
        let next = Next::create(folder.0.open_next()?, &meta);
        let next = next.map_err(|fault| OpenError::Fault(folder.0.store_path(), fault))?;
        Ok((content, Rewrite { next, meta, folder }))
    }

    /// Returns the facts of the next store.
    pub fn meta(&self) -> &StoreMeta {
        &self.meta
    }

    /// Inserts a row, replacing one with the same key.
    ///
    /// # Errors
    /// [`OpenError`], if it cannot be written.
    pub fn put(&mut self, key: Key, row: Row<'_>) -> Result<(), OpenError> {
        let written = self.next.put(key, row);
        written.map_err(|fault| OpenError::Fault(self.folder.0.store_path(), fault))
    }

    /// Installs the next store; it is durable when this returns.
    ///
    /// # Errors
    /// [`OpenError`]. Unless the error says otherwise, the old store is unchanged.
    pub fn finish(self) -> Result<(), OpenError> {
        let Rewrite { next, meta, folder: Unfinished(ref folder) } = self;
        next.finish().map_err(|fault| OpenError::Fault(folder.store_path(), fault))?;
        folder.install_next()?;
        Ok(seal(folder, &meta)?)
    }

    /// Converts a date to the entry time of the next store.
    pub fn moment(&self, date: UnixMillis) -> UnixMillis {
        let (at, unix) = self.meta.clock;
        UnixMillis(date.0.saturating_add(at.0).saturating_sub(unix.0))
    }
}
