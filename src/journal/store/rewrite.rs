//! A store that takes the place of the one that is there: written beside it, all of it, and put in
//! its place at the end or not at all. For what changes much at once while no server runs.

use std::io;

use super::disk::Fault;
use super::file::{Batch, Content, Facts, Writer};
use super::folder::{Folder, Home, Medium, Seal};
use super::open::{OpenError, Opened, never_was, new_facts};
use crate::hub::{Key, Row};
use crate::time::{Now, UnixMillis};

/// Rows and bytes of one batch. More than a server gives away at a time: nobody waits, and each
/// costs a sync.
const PART_ROWS: usize = 50_000;
const PART_BYTES: usize = 16 << 20;

/// Puts a store of the format of today in the place of one of the former. It says the same of
/// itself, and a start that is cut short finds either of them.
///
/// # Errors
/// [`OpenError`]
pub(super) fn renew(folder: &impl Home, content: &Content) -> Result<(), OpenError> {
    let fault = |fault| OpenError::Fault(folder.store_path(), fault);
    let facts = &content.facts;
    let mut writer = Writer::create(folder.open_next()?, facts).map_err(fault)?;
    let new = || Batch { number: facts.batch, clock: facts.clock, ..Batch::default() };
    let (mut batch, mut bytes, mut written) = (new(), 0, Ok(()));
    let read = content.each(|key, row| {
        bytes += batch.push(key, Some(row));
        if written.is_ok() && (batch.rows.len() >= PART_ROWS || bytes >= PART_BYTES) {
            written = writer.write(&mut std::mem::replace(&mut batch, new()));
            bytes = 0;
        }
    });
    read.map_err(|damage| fault(Fault::Broken(damage.to_string())))?;
    written.and_then(|()| writer.write(&mut batch)).map_err(fault)?;
    writer.compact().map_err(fault)?;
    drop(writer);
    Ok(folder.install_next()?)
}

/// The next store of a folder. What is not finished is thrown away.
pub struct Rewrite {
    folder: Folder,
    facts: Facts,
    /// Open until the end.
    writer: Option<Writer>,
    batch: Batch,
    batch_bytes: usize,
}

impl Rewrite {
    /// Begins one, and hands out what is in the store now, if there is one: what is to stay must
    /// be put into the next one too.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn begin(folder: Folder, now: Now) -> Result<(Option<Content>, Rewrite), OpenError> {
        let (folder, content, facts) = if folder.has_store()? {
            let (folder, content) = Opened::verify(folder, now)?.into_parts();
            let facts = content.facts.clone();
            let clock = (facts.at(now), now.unix);
            let facts = Facts { batch: facts.batch + 1, clock, ..facts };
            (folder, Some(content), facts)
        } else {
            never_was(&folder, &folder.found()?)?;
            let facts = new_facts(now).map_err(|e| OpenError::Fault(folder.store_path(), e))?;
            (folder, None, Facts { batch: 1, ..facts })
        };
        let writer = Writer::create(folder.open_next()?, &facts);
        let mut rewrite =
            Rewrite { folder, facts, writer: None, batch: Batch::default(), batch_bytes: 0 };
        rewrite.writer = Some(writer.map_err(|fault| rewrite.error(fault))?);
        Ok((content, rewrite))
    }

    /// What the next store says of itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Puts a row there, in place of the one under the same key.
    ///
    /// # Errors
    /// [`OpenError`], if it cannot be written.
    pub fn put(&mut self, key: Key, row: Row<'_>) -> Result<(), OpenError> {
        self.batch_bytes += self.batch.push(key, Some(row));
        if self.batch.rows.len() >= PART_ROWS || self.batch_bytes >= PART_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Puts the next store in its place; it is durable when this returns.
    ///
    /// # Errors
    /// [`OpenError`]; unless it says otherwise, the store is the one that it was.
    pub fn finish(mut self) -> Result<(), OpenError> {
        self.flush()?;
        if let Some(mut writer) = self.writer.take() {
            writer.compact().map_err(|fault| self.error(fault))?;
            // Closed in good order before anybody else opens it.
            drop(writer);
        }
        self.folder.install_next()?;
        self.folder.seal(&Seal { key: self.facts.key, batch: self.facts.batch })?;
        Ok(self.folder.sync_seal()?)
    }

    fn flush(&mut self) -> Result<(), OpenError> {
        let Some(writer) = &mut self.writer else {
            return Err(io::Error::other("the next store is closed").into());
        };
        let mut batch = std::mem::take(&mut self.batch);
        (batch.number, batch.clock) = (self.facts.batch, self.facts.clock);
        self.batch_bytes = 0;
        writer.write(&mut batch).map_err(|fault| self.error(fault))
    }

    fn error(&self, fault: Fault) -> OpenError {
        OpenError::Fault(self.folder.store_path(), fault)
    }

    /// That date on the scale of entries of the next store.
    pub fn moment(&self, date: UnixMillis) -> UnixMillis {
        let (at, unix) = self.facts.clock;
        UnixMillis(date.0.saturating_add(at.0).saturating_sub(unix.0))
    }
}

impl Drop for Rewrite {
    fn drop(&mut self) {
        // Nothing, after the end: it has another name then.
        drop(self.writer.take());
        self.folder.discard_next();
    }
}
