//! A disk that exists only in memory: it fails when it is told to, and loses power. It remembers
//! each call that changed something, so that after a run every moment of it can be looked at, with
//! any part of what had not been synced missing.

use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::Prng;
use crate::journal::store::{Discard, Medium, Seal};

/// What a power cut leaves whole.
const SECTOR_BYTES: usize = 512;

/// A call that changed a file, or made its changes durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// These bytes were written there.
    Write(u64, Vec<u8>),
    /// The file has this length.
    SetLen(u64),
    /// All before is durable.
    Sync,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// ENOSPC: nothing is written, nothing grows.
    Space,
    /// EIO.
    Broken,
}

impl Failure {
    fn error(self) -> Error {
        // As Linux numbers them.
        Error::from_raw_os_error(match self {
            Failure::Space => 28,
            Failure::Broken => 5,
        })
    }
}

/// One file, and what has happened to it.
#[derive(Clone, Debug, Default)]
pub struct SimFile(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    calls: Vec<Call>,
    /// How many calls that change something have come, failed ones too.
    count: u64,
    /// Calls from the first number to below the second fail like this.
    failing: Option<(u64, u64, Failure)>,
}

impl SimFile {
    /// A file with these bytes, all of them durable.
    pub fn new(bytes: Vec<u8>) -> SimFile {
        SimFile(Arc::new(Mutex::new(State { bytes, ..State::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in it, as whoever reads it now finds it: after a kill as well.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// How many calls that change something have come, failed ones too.
    pub fn count(&self) -> u64 {
        self.lock().count
    }

    /// Lets calls fail from now on, so many of them after so many.
    pub fn fail(&self, after: u64, count: u64, how: Failure) {
        let mut state = self.lock();
        let from = state.count + after;
        state.failing = Some((from, from.saturating_add(count), how));
    }

    /// Lets no more calls fail.
    pub fn mend(&self) {
        self.lock().failing = None;
    }

    /// A call comes; whether it is one of those that fail.
    fn enter(&self, needs_space: bool) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        let number = state.count;
        state.count += 1;
        match state.failing {
            Some((from, to, how)) if (from..to).contains(&number) => {
                if how == Failure::Broken || needs_space { Err(how.error()) } else { Ok(state) }
            }
            _ => Ok(state),
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
        let mut state = self.enter(is_longer)?;
        state.bytes.resize(len as usize, 0);
        state.calls.push(Call::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        let mut state = self.enter(false)?;
        state.calls.push(Call::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        // What is there already needs no more space.
        let needs_space = offset > 0;
        let mut state = self.enter(needs_space)?;
        write_at(&mut state.bytes, offset, data);
        state.calls.push(Call::Write(offset, data.to_vec()));
        Ok(())
    }
}

impl Discard for SimFile {
    fn discard(&self, offset: u64, bytes: u64) {
        // Zeros at once, so that whoever still needs them is found out.
        let mut state = self.lock();
        write_at(&mut state.bytes, offset, &vec![0; bytes as usize]);
        state.calls.push(Call::Write(offset, vec![0; bytes as usize]));
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
    /// What is certain.
    durable: Vec<u8>,
    /// What is not: writes and lengths since the last sync.
    pending: Vec<Call>,
}

impl Cut {
    /// The power goes after the first `count` of these calls, which began on these bytes.
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

    /// Whether there is only one thing that can be on disk.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// What is on disk if those calls were carried out whose bit is set, and no others.
    pub fn subset(&self, bits: u64) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (i, call) in self.pending.iter().enumerate() {
            if bits >> i & 1 == 1 {
                apply(&mut bytes, call);
            }
        }
        bytes
    }

    /// What is on disk if each sector of each write got there or not as chance has it.
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

/// A folder with a store in it.
#[derive(Clone, Debug, Default)]
pub struct SimFolder {
    /// The store, and the one beside it.
    files: Arc<Mutex<(SimFile, SimFile)>>,
    seal: Arc<Mutex<Option<Seal>>>,
}

impl SimFolder {
    /// With this file as its store.
    pub fn new(store: SimFile) -> SimFolder {
        let folder = SimFolder::default();
        folder.lock().0 = store;
        folder
    }

    fn lock(&self) -> MutexGuard<'_, (SimFile, SimFile)> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store as it is now.
    pub fn store(&self) -> SimFile {
        self.lock().0.clone()
    }

    /// What is remembered of it.
    pub fn sealed(&self) -> Option<Seal> {
        self.seal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Medium for SimFolder {
    type Backend = SimFile;

    fn open(&self) -> Result<SimFile> {
        Ok(self.store())
    }

    fn open_next(&self) -> Result<SimFile> {
        let next = SimFile::default();
        // It is on the same disk.
        let failing = self.lock().0.lock().failing;
        if let Some((_, _, how)) = failing.filter(|(_, to, _)| *to == u64::MAX) {
            next.fail(0, u64::MAX, how);
        }
        self.lock().1 = next.clone();
        Ok(next)
    }

    fn install_next(&self) -> Result<()> {
        let mut files = self.lock();
        files.0 = std::mem::take(&mut files.1);
        Ok(())
    }

    fn seal(&self, seal: &Seal) -> Result<()> {
        *self.seal.lock().unwrap_or_else(PoisonError::into_inner) = Some(seal.clone());
        Ok(())
    }

    fn sync_seal(&self) -> Result<()> {
        Ok(())
    }
}
