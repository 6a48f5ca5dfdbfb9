//! An in-memory disk that fails on demand and loses power. It records every call that changes
//! something, so that after a run the file can be inspected as of any call, with any part of what
//! had not been synced missing.

use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::Prng;
use crate::journal::store::{Discard, Home, Medium, Seal, SealState};

/// The unit that a power cut writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A call that changed a file, or made its changes durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// These bytes were written at this offset.
    Write(u64, Vec<u8>),
    /// The file was set to this length.
    SetLen(u64),
    /// Everything before is durable.
    Sync,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// ENOSPC: no write beyond the header succeeds, and no growth.
    Space,
    /// EIO.
    Broken,
}

impl Failure {
    fn error(self) -> Error {
        // As on Linux.
        Error::from_raw_os_error(match self {
            Failure::Space => 28,
            Failure::Broken => 5,
        })
    }
}

/// The faults of a disk.
#[derive(Debug, Default)]
struct Trouble {
    /// How many calls that change something have come, failed ones included.
    count: u64,
    /// Calls from the first number to below the second fail in this way.
    failing: Option<(u64, u64, Failure)>,
    /// From the call with this number on, no call has an effect: the calling process is dead.
    halts_at: Option<u64>,
    /// A write of the header failed, perhaps the one that puts it back after a failed commit.
    has_lost_header: bool,
}

impl Trouble {
    /// Counts a call, and fails if it is one of those that must.
    fn enter(&mut self, needs_space: bool) -> Result<()> {
        let number = self.count;
        self.count += 1;
        if self.halts_at.is_some_and(|at| at <= number) {
            return Err(Failure::Broken.error());
        }
        match self.failing {
            Some((from, to, how)) if (from..to).contains(&number) => {
                if how == Failure::Broken || needs_space { Err(how.error()) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn fail(&mut self, after: u64, count: u64, how: Failure) {
        let from = self.count + after;
        self.failing = Some((from, from.saturating_add(count), how));
    }
}

/// One file, and the calls that changed it.
#[derive(Clone, Debug, Default)]
pub struct SimFile {
    state: Arc<Mutex<State>>,
    /// The faults of the disk, which it shares with other files.
    trouble: Arc<Mutex<Trouble>>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    calls: Vec<Call>,
    /// The content before `calls`, if only the calls since the last sync are kept.
    durable: Option<Vec<u8>>,
}

impl SimFile {
    /// Creates a file with these bytes, all durable.
    pub fn new(bytes: Vec<u8>) -> SimFile {
        let state = State { bytes, ..State::default() };
        SimFile { state: Arc::new(Mutex::new(state)), ..SimFile::default() }
    }

    /// Creates a file that keeps only the calls that a power cut could still undo.
    fn forgetful(bytes: Vec<u8>, trouble: Arc<Mutex<Trouble>>) -> SimFile {
        let state = State { durable: Some(bytes.clone()), bytes, calls: Vec::new() };
        SimFile { state: Arc::new(Mutex::new(state)), trouble }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the content as a reader sees it now, or after a kill.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// Returns the calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// How many calls that change something have come to the disk, failed ones included.
    pub fn count(&self) -> u64 {
        self.trouble().count
    }

    /// Makes `count` calls fail, after the next `after`.
    pub fn fail(&self, after: u64, count: u64, how: Failure) {
        self.trouble().fail(after, count, how);
    }

    /// Makes no more calls fail.
    pub fn mend(&self) {
        self.trouble().failing = None;
    }

    fn enter(&self, needs_space: bool) -> Result<()> {
        self.trouble().enter(needs_space)
    }

    /// Returns what may be in the file after a power cut.
    fn torn(&self, prng: &mut Prng) -> Vec<u8> {
        let state = self.lock();
        let durable = state.durable.clone().unwrap_or_default();
        Cut { durable, pending: state.calls.clone() }.torn(prng)
    }
}

impl State {
    fn note(&mut self, call: Call) {
        let Some(durable) = &mut self.durable else { return self.calls.push(call) };
        match call {
            Call::Sync => self.calls.drain(..).for_each(|call| apply(durable, &call)),
            call => self.calls.push(call),
        }
    }
}

impl StorageBackend for SimFile {
    fn len(&self) -> Result<u64> {
        Ok(self.lock().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let state = self.lock();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = state.bytes.get(from..from.saturating_add(out.len()));
        out.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let is_longer = len > self.lock().bytes.len() as u64;
        self.enter(is_longer)?;
        let mut state = self.lock();
        state.bytes.resize(len as usize, 0);
        state.note(Call::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        self.enter(false)?;
        self.lock().note(Call::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        // The header, at offset 0, is overwritten in place and needs no space.
        let needs_space = offset > 0;
        let entered = self.enter(needs_space);
        self.trouble().has_lost_header |= entered.is_err() && !needs_space;
        entered?;
        let mut state = self.lock();
        write_at(&mut state.bytes, offset, data);
        state.note(Call::Write(offset, data.to_vec()));
        Ok(())
    }
}

impl Discard for SimFile {
    fn discard(&self, offset: u64, bytes: u64) {
        let trouble = self.trouble();
        if trouble.halts_at.is_some_and(|at| at <= trouble.count) {
            return;
        }
        // Zeros at once, so that a later use of these bytes is noticed.
        let mut state = self.lock();
        write_at(&mut state.bytes, offset, &vec![0; bytes as usize]);
        state.note(Call::Write(offset, vec![0; bytes as usize]));
    }
}

fn write_at(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + data.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(data);
}

/// What may be on disk after a power cut.
#[derive(Clone, Debug)]
pub struct Cut {
    /// What is certainly there.
    durable: Vec<u8>,
    /// Writes and lengths since the last sync, each of which may be missing.
    pending: Vec<Call>,
}

impl Cut {
    /// Cuts the power after the first `count` of these calls, which began on these bytes.
    pub fn after(bytes: &[u8], calls: &[Call], count: usize) -> Cut {
        let calls = &calls[..count];
        let synced = calls.iter().rposition(|call| *call == Call::Sync).map_or(0, |at| at + 1);
        let mut durable = bytes.to_vec();
        calls[..synced].iter().for_each(|call| apply(&mut durable, call));
        Cut { durable, pending: calls[synced..].to_vec() }
    }

    /// How many calls may be missing.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether nothing may be missing.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns the content if exactly the calls whose bits are set were carried out.
    pub fn subset(&self, bits: u64) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (i, call) in self.pending.iter().enumerate() {
            if bits >> i & 1 == 1 {
                apply(&mut bytes, call);
            }
        }
        bytes
    }

    /// Returns the content if each sector of each write was written or not at random.
    pub fn torn(&self, prng: &mut Prng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let (one, of) = (1 + prng.below(4), 5);
        for call in &self.pending {
            match call {
                Call::Write(offset, data) => {
                    for (i, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        if prng.below(of) < one {
                            let at = offset + (i * SECTOR_BYTES) as u64;
                            write_at(&mut bytes, at, sector);
                        }
                    }
                }
                call if prng.one_in(2) => apply(&mut bytes, call),
                _ => {}
            }
        }
        bytes
    }
}

fn apply(bytes: &mut Vec<u8>, call: &Call) {
    match call {
        Call::Write(offset, data) => write_at(bytes, *offset, data),
        Call::SetLen(len) => bytes.resize(*len as usize, 0),
        Call::Sync => {}
    }
}

/// A directory with a store in it.
#[derive(Clone, Debug, Default)]
pub struct SimFolder(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    /// The store, if there is one, and the file that is to replace it.
    store: Option<SimFile>,
    next: SimFile,
    /// The store before a rename that is not durable yet, which a power cut could bring back.
    before: Option<Option<SimFile>>,
    /// The seals written: the durable one first, then those since.
    seals: Vec<SealState>,
    trouble: Arc<Mutex<Trouble>>,
    /// Whether files keep only the calls that a power cut could still undo.
    is_forgetful: bool,
}

impl Files {
    /// Which of the next calls will fail, counted from the next one.
    fn still_failing(&self) -> Option<(u64, u64, Failure)> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let left = |number: u64| number.saturating_sub(trouble.count);
        trouble.failing.map(|(from, to, how)| (left(from), left(to), how))
    }

    /// Counts a change to the directory, and fails if it is one of those that must.
    fn enter(&self, needs_space: bool) -> Result<()> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).enter(needs_space)
    }
}

/// Maximum number of seals that a power cut may choose from.
const SEALS_MAX: usize = 8;

impl SimFolder {
    /// Creates a directory with this file as its store.
    pub fn new(store: SimFile) -> SimFolder {
        let trouble = store.trouble.clone();
        let files = Files { store: Some(store), trouble, ..Files::default() };
        SimFolder(Arc::new(Mutex::new(files)))
    }

    /// Creates a directory with this store, if there is one, and this seal.
    pub fn with(store: Option<Vec<u8>>, seal: SealState) -> SimFolder {
        let store = store.map(SimFile::new);
        let trouble = store.as_ref().map(|file| file.trouble.clone()).unwrap_or_default();
        let files = Files { store, seals: vec![seal], trouble, ..Files::default() };
        SimFolder(Arc::new(Mutex::new(files)))
    }

    /// Creates an empty directory for long runs.
    pub fn forgetful() -> SimFolder {
        let files =
            Files { is_forgetful: true, seals: vec![SealState::Nothing], ..Files::default() };
        SimFolder(Arc::new(Mutex::new(files)))
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the store as it is now; an empty file if there is none.
    pub fn store(&self) -> SimFile {
        self.lock().store.clone().unwrap_or_default()
    }

    /// Returns the last seal written, if there is a valid one.
    pub fn sealed(&self) -> Option<Seal> {
        match self.lock().seals.last() {
            Some(SealState::Seal(seal)) => Some(seal.clone()),
            _ => None,
        }
    }

    fn trouble<T>(&self, change: impl FnOnce(&mut Trouble) -> T) -> T {
        let files = self.lock();
        change(&mut files.trouble.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes `count` calls fail, after the next `after`.
    pub fn fail(&self, after: u64, count: u64, how: Failure) {
        self.trouble(|trouble| trouble.fail(after, count, how));
    }

    /// Makes no more calls fail.
    pub fn mend(&self) {
        self.trouble(|trouble| trouble.failing = None);
    }

    /// Returns whether a write of the header has failed since the last call of this function.
    pub fn take_lost_header(&self) -> bool {
        self.trouble(|trouble| std::mem::take(&mut trouble.has_lost_header))
    }

    /// After `after` more calls, no call has an effect: the calling process has been killed.
    pub fn halt(&self, after: u64) {
        self.trouble(|trouble| trouble.halts_at = Some(trouble.count + after));
    }

    /// Whether the calling process is dead.
    pub fn is_halted(&self) -> bool {
        self.trouble(|trouble| trouble.halts_at.is_some_and(|at| at <= trouble.count))
    }

    /// Cancels a halt: the calling process lives on.
    pub fn spare(&self) {
        self.trouble(|trouble| trouble.halts_at = None);
    }

    /// Returns what the next process finds after a kill: everything written, synced or not. It is a
    /// copy, independent of this directory.
    pub fn killed(&self) -> SimFolder {
        let files = self.lock();
        let failing = files.still_failing();
        let trouble = Arc::new(Mutex::new(Trouble { failing, ..Trouble::default() }));
        let copy = |file: &SimFile| {
            let State { bytes, calls, durable } = &*file.lock();
            let (bytes, calls, durable) = (bytes.clone(), calls.clone(), durable.clone());
            let state = Arc::new(Mutex::new(State { bytes, calls, durable }));
            SimFile { state, trouble: trouble.clone() }
        };
        let store = files.store.as_ref().map(copy);
        let before = files.before.as_ref().map(|before| before.as_ref().map(copy));
        let seals = files.seals.clone();
        let (next, is_forgetful) = (SimFile::default(), files.is_forgetful);
        let files = Files { store, next, before, seals, trouble: trouble.clone(), is_forgetful };
        SimFolder(Arc::new(Mutex::new(files)))
    }

    /// Returns what is there after a power cut: a random part of all that was not durable.
    pub fn torn(&self, prng: &mut Prng) -> SimFolder {
        let files = self.lock();
        let store = match &files.before {
            Some(before) if prng.one_in(2) => before,
            _ => &files.store,
        };
        let failing = files.still_failing();
        let trouble = Arc::new(Mutex::new(Trouble { failing, ..Trouble::default() }));
        let store = store.as_ref().map(|file| SimFile::forgetful(file.torn(prng), trouble.clone()));
        let seals = vec![prng.pick(&files.seals).clone()];
        let files = Files { store, trouble, seals, is_forgetful: true, ..Files::default() };
        SimFolder(Arc::new(Mutex::new(files)))
    }
}

impl Medium for SimFolder {
    type Backend = SimFile;

    fn open(&self) -> Result<SimFile> {
        self.lock().store.clone().ok_or(ErrorKind::NotFound.into())
    }

    fn open_next(&self) -> Result<SimFile> {
        let mut files = self.lock();
        // On the same disk, with the same faults.
        let trouble = files.trouble.clone();
        files.next = match files.is_forgetful {
            true => SimFile::forgetful(Vec::new(), trouble),
            false => SimFile { trouble, ..SimFile::default() },
        };
        Ok(files.next.clone())
    }

    fn install_next(&self) -> Result<()> {
        let mut files = self.lock();
        files.enter(false)?;
        let next = std::mem::take(&mut files.next);
        let before = files.store.replace(next);
        files.before.get_or_insert(before);
        files.enter(false)?;
        files.before = None;
        Ok(())
    }

    fn seal(&self, seal: &Seal) -> Result<()> {
        let mut files = self.lock();
        // Later ones are written over the first.
        let needs_space = !matches!(files.seals.last(), Some(SealState::Seal(_)));
        files.enter(needs_space)?;
        files.seals.push(SealState::Seal(seal.clone()));
        if files.seals.len() > SEALS_MAX {
            files.seals.remove(1);
        }
        Ok(())
    }

    fn sync_seal(&self) -> Result<()> {
        let mut files = self.lock();
        files.enter(false)?;
        let last = files.seals.len().saturating_sub(1);
        files.seals.drain(..last);
        Ok(())
    }
}

impl Home for SimFolder {
    fn read(&self) -> Result<SimFile> {
        self.open()
    }

    fn has_store(&self) -> Result<bool> {
        Ok(self.lock().store.is_some())
    }

    fn seal_state(&self) -> Result<SealState> {
        Ok(self.lock().seals.last().cloned().unwrap_or(SealState::Nothing))
    }

    fn quarantine(&self) -> Result<PathBuf> {
        Err(ErrorKind::Unsupported.into())
    }

    fn store_path(&self) -> PathBuf {
        "the store".into()
    }

    fn seal_path(&self) -> PathBuf {
        "the seal".into()
    }
}
