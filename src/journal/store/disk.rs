//! Storage backends between redb and the disk. A [`Guard`] enforces one rule: what a failed commit
//! has written is never found again, and a backend that has failed once is not used any more. An
//! [`Overlay`] reads a file and keeps all writes in memory, so that a file in any state can be read
//! without changing a byte of it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use redb::StorageBackend;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::durable;

/// The first bytes of the file, in which redb records which of two commits is the last. They fit
/// into one sector of any disk.
const HEADER_BYTES: usize = 512;

/// Page size of an overlay.
const PAGE_BYTES: u64 = 4096;

/// Why the store cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No space: what was durable is untouched, and the file can be used again.
    Space(String),
    /// Anything else: nothing in the file can be trusted.
    Broken(String),
}

impl Fault {
    /// Returns the same fault for a file that is not trusted any more anyway.
    pub(super) fn broken(self) -> Fault {
        let (Fault::Space(text) | Fault::Broken(text)) = self;
        Fault::Broken(text)
    }

    pub(super) fn of_write(error: &Error) -> Fault {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        match errno {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Fault::Space(error.to_string()),
            _ => Fault::Broken(error.to_string()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Fault::Space(text) | Fault::Broken(text)) = self;
        f.write_str(text)
    }
}

/// A file as a redb backend. Clones are the same file.
#[derive(Clone, Debug)]
pub struct Disk(Arc<File>);

impl Disk {
    /// Wraps a file that is open for reading and writing.
    pub fn new(file: impl Into<Arc<File>>) -> Disk {
        Disk(file.into())
    }

    /// Creates a file without a name in this folder, which is gone when it is closed.
    ///
    /// # Errors
    /// Those of the file system and of the random source.
    pub fn unnamed(folder: &Path) -> io::Result<Disk> {
        let (file, path) = durable::temporary(folder, "".as_ref())?;
        fs::remove_file(&path)?;
        Ok(Disk::new(file))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// A backend that can release the space of unused bytes.
pub trait Discard {
    /// Releases the space of these bytes, which may read as zeros from now on. Best effort: if the
    /// file system cannot do it, redb reuses the space later.
    fn discard(&self, offset: u64, bytes: u64);
}

impl Discard for Disk {
    fn discard(&self, offset: u64, bytes: u64) {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = fallocate(&self.0, how, offset, bytes);
    }
}

/// What a guard has observed; shared with callers that need to know why an operation failed.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// The first fault. Once it is set, every operation fails.
    fault: Option<Fault>,
    /// The header as last synced, and as last written.
    synced: Vec<u8>,
    written: Vec<u8>,
    /// Length of the file now, and at the last sync.
    len: u64,
    synced_len: u64,
    /// Offsets and lengths written since then. Except for the header, none of it belongs to the
    /// durable state.
    unsynced: Vec<(u64, u64)>,
}

impl Watch {
    /// Returns the fault, if there was one.
    pub fn fault(&self) -> Option<Fault> {
        self.lock().fault.clone()
    }

    /// Returns the length of the file.
    pub fn file_bytes(&self) -> u64 {
        self.lock().len
    }

    /// Returns whether everything is synced and setting this length would only truncate the file.
    fn is_cut_only(&self, len: u64) -> bool {
        let seen = self.lock();
        len < seen.len && seen.synced == seen.written && seen.unsynced.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // A thread that panicked while holding the lock left nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A backend that refuses all work after a fault.
///
/// For a commit, redb writes the header, writes pages beside the old ones, and then syncs all of it
/// at once. If the sync fails, all of it may still be in the kernel's memory, and a server that is
/// killed and restarted would find a commit that it had reported as failed. So the guard puts the
/// last synced header back.
#[derive(Debug)]
pub struct Guard<B> {
    inner: B,
    watch: Watch,
}

impl<B: StorageBackend + Discard> Guard<B> {
    /// Wraps a backend. The [`Watch`] reports what the guard observes.
    ///
    /// # Errors
    /// If the header cannot be read.
    pub fn new(inner: B) -> io::Result<(Guard<B>, Watch)> {
        let len = inner.len()?;
        let mut header = vec![0; len.min(HEADER_BYTES as u64) as usize];
        inner.read(0, &mut header)?;
        let (synced, written) = (header.clone(), header);
        let (fault, unsynced) = (None, Vec::new());
        let seen = Seen { fault, synced, written, len, synced_len: len, unsynced };
        let watch = Watch(Arc::new(Mutex::new(seen)));
        Ok((Guard { inner, watch: watch.clone() }, watch))
    }

    fn check(&self) -> io::Result<()> {
        match &self.watch.lock().fault {
            Some(fault) => Err(Error::other(fault.to_string())),
            None => Ok(()),
        }
    }

    /// Records what is about to be written: a write that fails may have written a part.
    fn note(&self, offset: u64, bytes: u64) {
        let unsynced = &mut self.watch.lock().unsynced;
        match unsynced.last_mut() {
            Some((at, before)) if *at + *before == offset => *before += bytes,
            _ => unsynced.push((offset, bytes)),
        }
    }

    fn fail(&self, fault: Fault, error: Error) -> Error {
        let mut seen = self.watch.lock();
        if seen.fault.is_none() {
            seen.fault = Some(fault);
            if seen.written != seen.synced && !seen.synced.is_empty() {
                // If this fails too, there is nothing left to try: nothing more is written, and the
                // next start finds out.
                let _ = self.inner.write(0, &seen.synced);
            }
            // On a full disk the space that the commit took is missing for everyone, us first.
            if seen.len > seen.synced_len {
                let _ = self.inner.set_len(seen.synced_len);
            }
            for (offset, bytes) in std::mem::take(&mut seen.unsynced) {
                let from = offset.max(PAGE_BYTES);
                let end = (offset + bytes).min(seen.synced_len);
                if from < end {
                    self.inner.discard(from, end - from);
                }
            }
        }
        error
    }
}

impl<B: StorageBackend + Discard> StorageBackend for Guard<B> {
    fn len(&self) -> io::Result<u64> {
        self.check()?;
        self.inner.len().map_err(|error| self.fail(Fault::Broken(error.to_string()), error))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check()?;
        let result = self.inner.read(offset, out);
        result.map_err(|error| self.fail(Fault::Broken(error.to_string()), error))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        if let Err(error) = self.inner.set_len(len) {
            // redb truncates after a commit, which is durable by then. The commit has not failed;
            // only the next operation will.
            let is_cut_only = self.watch.is_cut_only(len);
            let error = self.fail(Fault::of_write(&error), error);
            return if is_cut_only { Ok(()) } else { Err(error) };
        }
        self.watch.lock().len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        match self.inner.sync_data() {
            Ok(()) => {
                let seen = &mut *self.watch.lock();
                seen.synced.clone_from(&seen.written);
                seen.synced_len = seen.len;
                seen.unsynced.clear();
                Ok(())
            }
            Err(error) => {
                // Always `Broken`, whatever the error: what was not synced may be gone, and another
                // sync would not report it again.
                Err(self.fail(Fault::Broken(format!("sync: {error}")), error))
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.note(offset, data.len() as u64);
        let written = self.inner.write(offset, data);
        written.map_err(|error| self.fail(Fault::of_write(&error), error))?;
        let end = offset + data.len() as u64;
        let mut seen = self.watch.lock();
        seen.len = seen.len.max(end);
        if offset < HEADER_BYTES as u64 {
            let from = offset as usize;
            let to = HEADER_BYTES.min(from + data.len());
            if seen.written.len() < to {
                seen.written.resize(to, 0);
            }
            seen.written[from..to].copy_from_slice(&data[..to - from]);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

/// A backend that reads from another one and writes only to memory. Clones share their state.
#[derive(Debug)]
pub struct Overlay<B>(Arc<Layers<B>>);

#[derive(Debug)]
struct Layers<B> {
    inner: B,
    written: Mutex<Written>,
}

impl<B> Clone for Overlay<B> {
    fn clone(&self) -> Overlay<B> {
        Overlay(self.0.clone())
    }
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// Up to here pages below are still visible; truncation lowers it.
    inner_len: u64,
    pages: HashMap<u64, Box<[u8]>>,
}

impl<B: StorageBackend> Overlay<B> {
    /// Lays an overlay over a backend that nobody writes to.
    ///
    /// # Errors
    /// If the length of the backend cannot be read.
    pub fn new(inner: B) -> io::Result<Overlay<B>> {
        let len = inner.len()?;
        let written = Written { len, inner_len: len, pages: HashMap::new() };
        Ok(Overlay(Arc::new(Layers { inner, written: Mutex::new(written) })))
    }

    /// Writes everything to the backend below, durably.
    ///
    /// # Errors
    /// Those of the backend, which is then useless.
    pub fn write_through(&self) -> io::Result<()> {
        let (written, inner) = (self.lock(), &self.0.inner);
        inner.set_len(written.len)?;
        for number in 0..written.len.div_ceil(PAGE_BYTES) {
            let start = number * PAGE_BYTES;
            let bytes = (written.len - start).min(PAGE_BYTES) as usize;
            if let Some(page) = written.pages.get(&number) {
                inner.write(start, &page[..bytes])?;
            }
        }
        inner.sync_data()
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a page from below, with zeros past its end.
    fn page_below(&self, inner_len: u64, number: u64) -> io::Result<Box<[u8]>> {
        let mut page = vec![0; PAGE_BYTES as usize].into_boxed_slice();
        self.read_below(inner_len, number * PAGE_BYTES, &mut page)?;
        Ok(page)
    }

    /// Reads from below; past the end, fills with zeros without reading.
    fn read_below(&self, inner_len: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = inner_len.saturating_sub(offset).min(out.len() as u64) as usize;
        let (part, behind) = out.split_at_mut(there);
        behind.fill(0);
        if part.is_empty() { Ok(()) } else { self.0.inner.read(offset, part) }
    }
}

impl<B: StorageBackend> StorageBackend for Overlay<B> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.lock();
        if offset.saturating_add(out.len() as u64) > written.len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut rest) = (offset, out);
        while !rest.is_empty() {
            let (number, skip) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let bytes = rest.len().min(PAGE_BYTES as usize - skip);
            let (part, behind) = rest.split_at_mut(bytes);
            match written.pages.get(&number) {
                Some(page) => part.copy_from_slice(&page[skip..skip + bytes]),
                None => self.read_below(written.inner_len, at, part)?,
            }
            (at, rest) = (at + bytes as u64, behind);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.lock();
        if len < written.len {
            written.inner_len = written.inner_len.min(len);
            written.pages.retain(|number, _| number * PAGE_BYTES < len);
            let (last, keep) = (len / PAGE_BYTES, (len % PAGE_BYTES) as usize);
            if let Some(page) = written.pages.get_mut(&last) {
                page[keep..].fill(0);
            }
        }
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.lock();
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (number, skip) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let bytes = rest.len().min(PAGE_BYTES as usize - skip);
            if !written.pages.contains_key(&number) {
                let page = self.page_below(written.inner_len, number)?;
                written.pages.insert(number, page);
            }
            let (part, behind) = rest.split_at(bytes);
            if let Some(page) = written.pages.get_mut(&number) {
                page[skip..skip + bytes].copy_from_slice(part);
            }
            (at, rest) = (at + bytes as u64, behind);
        }
        written.len = written.len.max(offset + data.len() as u64);
        Ok(())
    }
}

/// Memory has nothing to release.
impl<B> Discard for Overlay<B> {
    fn discard(&self, _: u64, _: u64) {}
}
