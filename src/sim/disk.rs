//! A disk that exists only in memory: it fails when it is told to, and loses power. It remembers
//! each call that changed something, so that after a run every moment of it can be looked at, with
//! any part of what had not been synced missing.

use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::Prng;
use crate::journal::store::{Discard, Found, Home, Medium, Seal};

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

/// What is wrong with a disk.
#[derive(Debug, Default)]
struct Trouble {
    /// How many calls that change something have come, failed ones too.
    count: u64,
    /// Calls from the first number to below the second fail like this.
    failing: Option<(u64, u64, Failure)>,
    /// From the call of this number on nothing has an effect any more: who calls is no more.
    halts_at: Option<u64>,
    /// A header could not be written where it would have had to be put back.
    has_lost_header: bool,
}

impl Trouble {
    /// A call comes; whether it is one of those that fail.
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

/// One file, and what has happened to it.
#[derive(Clone, Debug, Default)]
pub struct SimFile {
    state: Arc<Mutex<State>>,
    /// That of the disk, which may have other files.
    trouble: Arc<Mutex<Trouble>>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    calls: Vec<Call>,
    /// What was there before those calls, if only the calls since the last sync are remembered.
    durable: Option<Vec<u8>>,
}

impl SimFile {
    /// A file with these bytes, all of them durable.
    pub fn new(bytes: Vec<u8>) -> SimFile {
        let state = State { bytes, ..State::default() };
        SimFile { state: Arc::new(Mutex::new(state)), ..SimFile::default() }
    }

    /// One that remembers no more than what a power cut could still change.
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

    /// What is in it, as whoever reads it now finds it: after a kill as well.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// How many calls that change something have come to the disk, failed ones too.
    pub fn count(&self) -> u64 {
        self.trouble().count
    }

    /// Lets calls fail from now on, so many of them after so many.
    pub fn fail(&self, after: u64, count: u64, how: Failure) {
        self.trouble().fail(after, count, how);
    }

    /// Lets no more calls fail.
    pub fn mend(&self) {
        self.trouble().failing = None;
    }

    fn enter(&self, needs_space: bool) -> Result<()> {
        self.trouble().enter(needs_space)
    }

    /// What is in it after a power cut.
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
        // What is there already needs no more space.
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
        // Zeros at once, so that whoever still needs them is found out.
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
pub struct SimFolder(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    /// The store, if there is one, and the one beside it.
    store: Option<SimFile>,
    next: SimFile,
    /// The store under that name, if a power cut could bring it back.
    before: Option<Option<SimFile>>,
    /// What has been remembered of it: what is durable first, and what was written since.
    seals: Vec<Found>,
    trouble: Arc<Mutex<Trouble>>,
    /// Files remember no more than what a power cut could still change.
    is_forgetful: bool,
}

impl Files {
    /// Which of the next calls will fail, counted anew.
    fn still_failing(&self) -> Option<(u64, u64, Failure)> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let left = |number: u64| number.saturating_sub(trouble.count);
        trouble.failing.map(|(from, to, how)| (left(from), left(to), how))
    }

    /// A call comes that changes what a name stands for; whether it is one of those that fail.
    fn enter(&self) -> Result<()> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).enter(false)
    }
}

/// Seals that a power cut may choose from, at most.
const SEALS_MAX: usize = 8;

impl SimFolder {
    /// With this file as its store.
    pub fn new(store: SimFile) -> SimFolder {
        let trouble = store.trouble.clone();
        let files = Files { store: Some(store), trouble, ..Files::default() };
        SimFolder(Arc::new(Mutex::new(files)))
    }

    /// With this file, if there is one, and this beside it.
    pub fn found(store: Option<Vec<u8>>, seal: Found) -> SimFolder {
        let store = store.map(SimFile::new);
        let trouble = store.as_ref().map(|file| file.trouble.clone()).unwrap_or_default();
        let files = Files { store, seals: vec![seal], trouble, ..Files::default() };
        SimFolder(Arc::new(Mutex::new(files)))
    }

    /// An empty one, on which runs can be long.
    pub fn forgetful() -> SimFolder {
        let files = Files { is_forgetful: true, seals: vec![Found::Nothing], ..Files::default() };
        SimFolder(Arc::new(Mutex::new(files)))
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store as it is now; an empty file if there is none.
    pub fn store(&self) -> SimFile {
        self.lock().store.clone().unwrap_or_default()
    }

    /// What is remembered of it.
    pub fn sealed(&self) -> Option<Seal> {
        match self.lock().seals.last() {
            Some(Found::Seal(seal)) => Some(seal.clone()),
            _ => None,
        }
    }

    fn trouble<T>(&self, change: impl FnOnce(&mut Trouble) -> T) -> T {
        let files = self.lock();
        change(&mut files.trouble.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets calls fail from now on, so many of them after so many.
    pub fn fail(&self, after: u64, count: u64, how: Failure) {
        self.trouble(|trouble| trouble.fail(after, count, how));
    }

    /// Lets no more calls fail.
    pub fn mend(&self) {
        self.trouble(|trouble| trouble.failing = None);
    }

    /// Whether a header could not be put back since it was last asked.
    pub fn take_lost_header(&self) -> bool {
        self.trouble(|trouble| std::mem::take(&mut trouble.has_lost_header))
    }

    /// After so many calls more, nothing of what is called has an effect: whoever calls has been
    /// killed by then.
    pub fn halt(&self, after: u64) {
        self.trouble(|trouble| trouble.halts_at = Some(trouble.count + after));
    }

    /// Whether whoever calls is no more.
    pub fn is_halted(&self) -> bool {
        self.trouble(|trouble| trouble.halts_at.is_some_and(|at| at <= trouble.count))
    }

    /// Whoever calls goes on, after all.
    pub fn spare(&self) {
        self.trouble(|trouble| trouble.halts_at = None);
    }

    /// What whoever comes next finds after a kill: all that was written, synced or not. It can be
    /// used as if nobody else did.
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

    /// What is there after a power cut: of all that was not durable some, as chance has it.
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
        // It is on the same disk.
        let trouble = files.trouble.clone();
        files.next = match files.is_forgetful {
            true => SimFile::forgetful(Vec::new(), trouble),
            false => SimFile { trouble, ..SimFile::default() },
        };
        Ok(files.next.clone())
    }

    fn install_next(&self) -> Result<()> {
        let mut files = self.lock();
        files.enter()?;
        let next = std::mem::take(&mut files.next);
        let before = files.store.replace(next);
        files.before.get_or_insert(before);
        files.enter()?;
        files.before = None;
        Ok(())
    }

    fn seal(&self, seal: &Seal) -> Result<()> {
        let mut files = self.lock();
        files.enter()?;
        files.seals.push(Found::Seal(seal.clone()));
        if files.seals.len() > SEALS_MAX {
            files.seals.remove(1);
        }
        Ok(())
    }

    fn sync_seal(&self) -> Result<()> {
        let mut files = self.lock();
        files.enter()?;
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

    fn found(&self) -> Result<Found> {
        Ok(self.lock().seals.last().cloned().unwrap_or(Found::Nothing))
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
