//! Opening a store: does it exist, is it intact, and what is in it? A file is not changed before
//! all of it has been verified.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::StoreJournal;
use super::disk::{Fault, Overlay};
use super::file::{Content, Damage, Opening, StoreMeta, Writer};
use super::folder::{Folder, Home, Seal, SealState};
use super::format::FORMAT;
use super::rewrite;
use super::worker::{Stepper, Wake};
use crate::durable::at;
use crate::hub::{Hub, Key, Row};
use crate::limits::{Limits, SyncPolicy};
use crate::time::{Now, UnixMillis};

/// What to do about a damaged store.
pub const DAMAGED_ADVICE: &str = "Put a backup in its place, or save what can be read with `fws \
     store export --damaged` and take that into an empty folder with `fws store import`";

/// Why a store cannot be used. Each message says what to do about it.
#[derive(Debug)]
pub enum OpenError {
    /// A file system error, or another process holds the folder.
    Io(io::Error),
    /// The file is not as it was written.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        damage: Damage,
        /// Where a copy was kept, or why there is none.
        copy: Result<PathBuf, String>,
    },
    /// There was a store, and it is gone.
    Gone {
        /// Where the store should be.
        store: PathBuf,
        /// The seal that remembers it.
        seal: PathBuf,
        /// The last batch of the store, if known.
        batch: Option<u64>,
    },
    /// The file cannot be written.
    Fault(PathBuf, Fault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io(error) => error.fmt(f),
            OpenError::Damaged { path, damage, copy } => {
                write!(f, "the store {} is damaged: {damage}. It is not served. ", path.display())?;
                match copy {
                    Ok(copy) => write!(f, "A copy is in {}. ", copy.display())?,
                    Err(why) => write!(f, "It could not be copied ({why}). ")?,
                }
                f.write_str(DAMAGED_ADVICE)
            }
            OpenError::Gone { store, seal, batch } => {
                let (store, seal) = (store.display(), seal.display());
                write!(f, "the store {store} is gone, but {seal} says that there was one")?;
                if let Some(batch) = batch {
                    write!(f, " (of {})", crate::log::Count(*batch, "batch", "batches"))?;
                }
                write!(f, ". Put it back; or, to start with nothing, remove {seal}")
            }
            OpenError::Fault(path, fault) => {
                write!(f, "the store {} cannot be written: {fault}", path.display())
            }
        }
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> OpenError {
        OpenError::Io(error)
    }
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> io::Error {
        match error {
            OpenError::Io(error) => error,
            error => io::Error::other(error.to_string()),
        }
    }
}

/// A folder, what the journal starts from there, and the states that have expired meanwhile.
type Begun<F> = (F, (StoreMeta, Opening), Vec<Key>);

/// A verified store: every row is as it was written.
pub struct Opened<F = Folder> {
    folder: F,
    content: Content,
    /// Something unusual that does no harm, as one line.
    pub warning: Option<String>,
}

impl<F: Home> Opened<F> {
    /// Verifies the store of a folder. Creates one if there has never been one.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn verify(folder: F, now: Now) -> Result<Opened<F>, OpenError> {
        let (path, found) = (folder.store_path(), folder.seal_state()?);
        if !folder.has_store()? {
            never_was(&folder, &found)?;
            create(&folder, now).map_err(|fault| OpenError::Fault(path.clone(), fault))?;
        }
        match read(&folder, &found)? {
            Ok(content) => Ok(Opened::new(folder, content, &found)),
            Err(damage) => {
                let copy = folder.quarantine().map_err(|error| error.to_string());
                Err(OpenError::Damaged { path, damage, copy })
            }
        }
    }

    /// Verifies an existing store without changing anything, damaged or not.
    ///
    /// # Errors
    /// [`OpenError`], except for [`Damage`], which is returned in the inner `Result`.
    pub fn look(folder: F) -> Result<Result<Opened<F>, Damage>, OpenError> {
        let found = folder.seal_state()?;
        if !folder.has_store()? {
            never_was(&folder, &found)?;
        }
        let content = read(&folder, &found)?;
        Ok(content.map(|content| Opened::new(folder, content, &found)))
    }

    fn new(folder: F, content: Content, found: &SealState) -> Opened<F> {
        let warning = (*found == SealState::Damaged).then(|| {
            let seal = folder.seal_path();
            format!("{} is damaged and is written anew; the store is whole", seal.display())
        });
        Opened { folder, content, warning }
    }

    /// Returns what is in the store.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Returns the folder of the store.
    pub fn folder(&self) -> &F {
        &self.folder
    }

    pub(super) fn into_parts(self) -> (F, Content) {
        (self.folder, self.content)
    }

    /// Returns this moment in entry time (see [`StoreMeta::clock`]). The time during which no
    /// server ran is taken from the wall clock; how wrong that clock was in an earlier run does not
    /// matter.
    pub fn at(&self, now: Now) -> UnixMillis {
        self.content.meta.at(now)
    }

    /// Loads what has not expired into the hub, begins a new term and starts the journal.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn start(
        self,
        hub: &mut Hub,
        now: Now,
        sync: SyncPolicy,
        limits: &Limits,
        wake: Wake,
    ) -> Result<StoreJournal, OpenError> {
        let (folder, begun, ended) = self.begin(hub, now)?;
        let mut journal = StoreJournal::start(folder, begun, sync, limits, wake)?;
        journal.ended = ended.into();
        Ok(journal)
    }

    /// [`Opened::start`] without a thread: the stepper runs the worker.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn start_stepped(
        self,
        hub: &mut Hub,
        now: Now,
        sync: SyncPolicy,
        limits: &Limits,
    ) -> Result<(StoreJournal, Stepper), OpenError> {
        let (folder, begun, ended) = self.begin(hub, now)?;
        let (mut journal, stepper) = StoreJournal::start_stepped(folder, begun, sync, limits);
        journal.ended = ended.into();
        Ok((journal, stepper))
    }

    /// Loads what has not expired into the hub and begins a new term. Returns what the journal
    /// starts from, and the states that have expired.
    fn begin(self, hub: &mut Hub, now: Now) -> Result<Begun<F>, OpenError> {
        let (at, path) = (self.at(now), self.folder.store_path());
        let Opened { folder, content, .. } = self;
        let mut ended = Vec::new();
        let loaded = content.each(&mut |key, row| match row {
            Row::State { expires: Some(end), .. } if end <= at => ended.push(key),
            row => {
                hub.restore(key, row);
            }
        });
        loaded.map_err(|damage| OpenError::Damaged {
            path: path.clone(),
            damage,
            copy: folder.quarantine().map_err(|error| error.to_string()),
        })?;
        let meta = StoreMeta { term: content.meta.term + 1, clock: (at, now.unix), ..content.meta };
        let live = content.bytes;
        let fault = |fault| OpenError::Fault(path.clone(), fault);
        if content.format() != FORMAT {
            rewrite::renew(&folder, &content)?;
        }
        drop(content);
        let opened = Writer::open(folder.open()?, &meta, live);
        let begun = opened.and_then(|writer| writer.begin(&meta).map(|()| writer));
        let writer = match begun {
            Ok(writer) => {
                seal(&folder, &meta)?;
                Ok(writer)
            }
            // Reads can still be served, and space may be freed soon.
            Err(full @ Fault::Space(_)) => Err((full, live)),
            Err(broken) => return Err(fault(broken)),
        };
        Ok((folder, (meta, writer), ended))
    }
}

/// Seals a store that is in place. On a full disk it keeps the seal that it has, or has none until
/// a batch is written: the seal is only a second witness.
pub(super) fn seal(folder: &impl Home, meta: &StoreMeta) -> io::Result<()> {
    let sealed = folder.seal(&Seal { key: meta.key, batch: meta.batch });
    match sealed.and_then(|()| folder.sync_seal()) {
        Err(error) if !matches!(Fault::of_write(&error), Fault::Space(_)) => {
            Err(at(&folder.seal_path(), error))
        }
        _ => Ok(()),
    }
}

/// Checks that there is no store because there never was one.
pub(super) fn never_was(folder: &impl Home, found: &SealState) -> Result<(), OpenError> {
    let batch = match found {
        SealState::Nothing => return Ok(()),
        SealState::Seal(seal) => Some(seal.batch),
        SealState::Damaged => None,
    };
    Err(OpenError::Gone { store: folder.store_path(), seal: folder.seal_path(), batch })
}

/// Reads and verifies the whole store.
fn read(folder: &impl Home, found: &SealState) -> Result<Result<Content, Damage>, OpenError> {
    let content = Content::read(folder.read()?);
    Ok(content.and_then(|content| witness(&content.meta, found).map(|()| content)))
}

/// Returns the facts of a new store.
pub(super) fn new_meta(now: Now) -> Result<StoreMeta, Fault> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|e| Fault::Broken(format!("no random numbers: {e}")))?;
    Ok(StoreMeta { key, term: 0, batch: 0, clock: (now.unix, now.unix) })
}

/// Creates an empty store atomically. It is built in memory, because redb syncs nine times while
/// creating one, and then written to disk in one go.
fn create(folder: &impl Home, now: Now) -> Result<(), Fault> {
    let broken = |error: io::Error| Fault::Broken(error.to_string());
    let meta = new_meta(now)?;
    let next = Overlay::new(folder.open_next().map_err(broken)?).map_err(broken)?;
    drop(Writer::create(next.clone(), &meta)?);
    next.write_through().map_err(|error| Fault::of_write(&error))?;
    folder.install_next().map_err(broken)
}

/// Checks the file against its seal. redb takes a commit whose pages have rotted for one that a
/// crash cut short, and falls back to the commit before. The seal remembers that it was durable.
fn witness(meta: &StoreMeta, found: &SealState) -> Result<(), Damage> {
    let SealState::Seal(seal) = found else { return Ok(()) };
    if seal.key != meta.key {
        return Err(Damage("its seal belongs to another store".into()));
    }
    if meta.batch < seal.batch {
        let (batch, known) = (meta.batch, seal.batch);
        return Err(Damage(format!(
            "it ends with batch {batch}, and batch {known} was durable; if this is a backup, \
             remove store.seal"
        )));
    }
    Ok(())
}
