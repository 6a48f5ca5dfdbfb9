//! The data folder of a store: its lock, the store file, and the small seal beside it that
//! remembers the last known state of the store. Owns file names, modes and the order of file
//! operations; knows nothing of rows.

use std::cell::RefCell;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Error, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::StorageBackend;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::disk::{Discard, Disk};
use crate::durable::{at, make_folder, sync_name};

/// The store file.
const STORE: &str = "store.redb";
/// The next store, while it is being written.
const NEXT: &str = "store.redb.new";
/// A copy of a store that was found damaged.
const DAMAGED: &str = "store.redb.damaged";
/// A foreign file that was found in place of the store of a running server.
const STRANGE: &str = "store.redb.strange";
/// Maximum number of damaged copies kept.
const DAMAGED_MAX: usize = 9;
/// The seal: what the store was last known to be.
const SEAL: &str = "store.seal";
/// Names the process that holds the folder.
const LOCK: &str = "lock";

const SEAL_MAGIC: &[u8; 8] = b"fwsseal1";
/// The seal is stored twice, each copy in a sector of its own.
const SEAL_COPY_BYTES: u64 = 512;
const SEAL_BODY_BYTES: usize = 8 + 32 + 8;
const SEAL_SUM_BYTES: usize = 8;

/// Where the bytes of a store are, and where those of its successor would be.
pub trait Medium: Send + 'static {
    /// The backend that redb reads and writes.
    type Backend: StorageBackend + Discard;

    /// Opens the store as it is.
    ///
    /// # Errors
    /// File system errors.
    fn open(&self) -> io::Result<Self::Backend>;

    /// Opens an empty store beside it. If the folder has been replaced by now, locks the new one.
    ///
    /// # Errors
    /// File system errors, and `ResourceBusy` naming the holder if that folder is in use.
    fn open_next(&self) -> io::Result<Self::Backend>;

    /// Moves the store beside it into its place, durably.
    ///
    /// # Errors
    /// File system errors; it is then unknown which of the two is in place.
    fn install_next(&self) -> io::Result<()>;

    /// Checks that the store that was last opened or installed is still where [`Medium::open`]
    /// looks for it. Costs only a `stat` of the file and of its folder.
    ///
    /// # Errors
    /// `NotFound` if it is not, and file system errors.
    fn is_in_place(&self) -> io::Result<()> {
        Ok(())
    }

    /// Records in the seal that this batch is durable. Does not sync: the seal never claims more
    /// than what is durable, and after a power failure it may claim less.
    ///
    /// # Errors
    /// File system errors.
    fn seal(&self, seal: &Seal) -> io::Result<()>;

    /// Makes the seal durable.
    ///
    /// # Errors
    /// File system errors.
    fn sync_seal(&self) -> io::Result<()>;
}

/// A [`Medium`] that outlives a run: what opening a store needs to know about it.
pub trait Home: Medium {
    /// Opens the store for reading.
    ///
    /// # Errors
    /// File system errors.
    fn read(&self) -> io::Result<Self::Backend>;

    /// Returns whether there is a store.
    ///
    /// # Errors
    /// File system errors.
    fn has_store(&self) -> io::Result<bool>;

    /// Reads the seal.
    ///
    /// # Errors
    /// File system errors.
    fn seal_state(&self) -> io::Result<SealState>;

    /// Keeps a copy of a damaged store, unless there already is one, and returns its path.
    ///
    /// # Errors
    /// File system errors, and `AlreadyExists` if too many other copies are kept.
    fn quarantine(&self) -> io::Result<PathBuf>;

    /// Returns the path of the store, whether or not it exists.
    fn store_path(&self) -> PathBuf;

    /// Returns the path of the seal.
    fn seal_path(&self) -> PathBuf;
}

/// What is remembered beside a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Key of the tags in the store.
    pub key: [u8; 32],
    /// The last batch known to be durable.
    pub batch: u64,
}

/// What was found where the seal should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealState {
    /// No seal: there has never been a store.
    Nothing,
    /// A valid seal.
    Seal(Seal),
    /// Something that is not a valid seal.
    Damaged,
}

impl SealState {
    /// Parses the bytes of `store.seal`: the later of its two copies, if either is intact.
    pub fn in_file(bytes: &[u8]) -> SealState {
        if bytes.is_empty() {
            return SealState::Nothing;
        }
        let copies = bytes.chunks(SEAL_COPY_BYTES as usize).filter_map(Seal::decode);
        copies.max_by_key(|seal| seal.batch).map_or(SealState::Damaged, SealState::Seal)
    }
}

impl Seal {
    /// Encodes one copy, as it is stored in `store.seal`.
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = SEAL_MAGIC.to_vec();
        copy.extend_from_slice(&self.key);
        copy.extend_from_slice(&self.batch.to_le_bytes());
        let sum = Sha256::digest(&copy);
        copy.extend_from_slice(&sum[..SEAL_SUM_BYTES]);
        copy
    }

    fn decode(copy: &[u8]) -> Option<Seal> {
        let (body, sum) = copy.split_at_checked(SEAL_BODY_BYTES)?;
        let is_whole = Sha256::digest(body)[..SEAL_SUM_BYTES] == *sum.get(..SEAL_SUM_BYTES)?;
        let rest = body.strip_prefix(SEAL_MAGIC).filter(|_| is_whole)?;
        let (key, batch) = rest.split_first_chunk::<32>()?;
        Some(Seal { key: *key, batch: u64::from_le_bytes(batch.try_into().ok()?) })
    }
}

/// A data folder, locked exclusively for as long as this value lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// How we name ourselves to others that want the folder.
    holder: String,
    held: RefCell<Held>,
    /// The store and the next one, once opened. They are kept open because the inode number of a
    /// deleted file may be reused.
    store: RefCell<Option<Arc<File>>>,
    next: RefCell<Option<Arc<File>>>,
}

/// Open files of the locked folder. A folder that is removed and created again is a different one.
#[derive(Debug)]
struct Held {
    /// The folder itself; closing it releases the lock.
    folder: File,
    /// `None` only if [`Folder::take_existing`] found no seal: it creates nothing.
    seal: Option<File>,
}

impl Held {
    /// Locks an existing folder and creates the files that belong in it.
    fn take(path: &Path, holder: &str) -> io::Result<Held> {
        let lock_path = path.join(LOCK);
        let mut lock = open(&lock_path).map_err(|e| at(&lock_path, e))?;
        let folder = hold(Some(&lock), path)?;
        // The text only informs people: if it cannot be written, the lock holds all the same.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{holder}"));
        let seal_path = path.join(SEAL);
        let seal = open(&seal_path).map_err(|e| at(&seal_path, e))?;
        Ok(Held { folder, seal: Some(seal) })
    }
}

impl Folder {
    /// Creates the folder (mode 0700) if it does not exist, and locks it. `holder` is how we name
    /// ourselves to others.
    ///
    /// # Errors
    /// File system errors, and `ResourceBusy` naming the holder.
    pub fn take(path: &Path, holder: &str) -> io::Result<Folder> {
        make_folder(path)?;
        let folder = Folder::new(path, holder, Held::take(path, holder)?);
        // Left by a process that no longer runs.
        folder.discard_next();
        Ok(folder)
    }

    /// Locks the existing folder of a server in order to read it. Creates nothing, and works
    /// where nothing can be written.
    ///
    /// # Errors
    /// As [`Folder::take`], and `NotFound` if there is no trace of a store.
    pub fn take_existing(path: &Path, holder: &str) -> io::Result<Folder> {
        let missing = |what: &str| Error::new(ErrorKind::NotFound, what.to_owned());
        if !path.try_exists().map_err(|e| at(path, e))? {
            return Err(missing(&format!("there is no data folder {}", path.display())));
        }
        let seal = open_existing(&path.join(SEAL))?;
        let has_store = path.join(STORE).try_exists().map_err(|e| at(path, e))?;
        // A folder that was locked but never had a store has an empty seal.
        let is_sealed = match &seal {
            Some((seal, _)) => seal.metadata()?.len() > 0,
            None => false,
        };
        if !has_store && !is_sealed {
            return Err(missing(&format!("there is no store in {}", path.display())));
        }
        let lock_path = path.join(LOCK);
        let lock = open_existing(&lock_path)?;
        let folder = hold(lock.as_ref().map(|(lock, _)| lock), path)?;
        if let Some((mut lock, true)) =
            lock.as_ref().map(|(lock, is_writable)| (lock, *is_writable))
        {
            let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{holder}"));
        }
        let seal = seal.map(|(seal, _)| seal);
        Ok(Folder::new(path, holder, Held { folder, seal }))
    }

    fn new(path: &Path, holder: &str, held: Held) -> Folder {
        let (path, holder, held) = (path.into(), holder.into(), RefCell::new(held));
        Folder { path, holder, held, store: RefCell::default(), next: RefCell::default() }
    }

    /// Checks that the folder under this path is still the one that is locked.
    fn is_ours(&self) -> io::Result<()> {
        stays(&self.path, &self.held.borrow().folder)
    }

    /// Locks the folder under this path if it is not the locked one, which is then released. If the
    /// folder was removed, it is not created again.
    fn take_again(&self) -> io::Result<()> {
        let Err(error) = self.is_ours() else { return Ok(()) };
        if !self.path.exists() {
            return Err(error);
        }
        let held = Held::take(&self.path, &self.holder)?;
        if let Some(seal) = &held.seal {
            // Whatever it contains describes another store.
            seal.set_len(0)?;
            seal.sync_all()?;
        }
        self.held.replace(held);
        Ok(())
    }

    /// Removes the next store if one was begun.
    pub fn discard_next(&self) {
        // Errors do not matter: the next attempt truncates the file.
        let _ = fs::remove_file(self.path.join(NEXT));
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn copy_aside(&self, from: &Path, to: &Path) -> io::Result<PathBuf> {
        let next = self.path.join("store.redb.damaged.new");
        let copied = (|| {
            let (mut from, mut to) = (File::open(from)?, create(&next)?);
            io::copy(&mut from, &mut to)?;
            to.sync_all()
        })();
        if let Err(error) = copied.and_then(|()| fs::rename(&next, to)) {
            let _ = fs::remove_file(&next);
            return Err(at(to, error));
        }
        Ok(to.into())
    }
}

impl Medium for Folder {
    type Backend = Disk;

    fn open(&self) -> io::Result<Disk> {
        let path = self.store_path();
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = Arc::new(file.map_err(|e| at(&path, e))?);
        self.store.replace(Some(file.clone()));
        Ok(Disk::new(file))
    }

    fn open_next(&self) -> io::Result<Disk> {
        self.take_again()?;
        let path = self.path.join(NEXT);
        let file = Arc::new(create(&path).map_err(|e| at(&path, e))?);
        self.next.replace(Some(file.clone()));
        Ok(Disk::new(file))
    }

    fn install_next(&self) -> io::Result<()> {
        // In a folder that is not ours the next store is not ours either.
        self.is_ours()?;
        let path = self.store_path();
        let is_gone = |store: &Arc<File>| stays(&path, store).is_err();
        if self.store.borrow().as_ref().is_some_and(is_gone) && path.exists() {
            // Somebody else put this file there: move it aside rather than lose it.
            let aside = self.path.join(STRANGE);
            fs::rename(&path, &aside).map_err(|e| at(&aside, e))?;
        }
        let renamed = fs::rename(self.path.join(NEXT), &path);
        renamed.and_then(|()| sync_name(&path)).map_err(|e| at(&path, e))?;
        self.store.replace(self.next.take());
        Ok(())
    }

    fn is_in_place(&self) -> io::Result<()> {
        self.is_ours()?;
        let store = self.store.borrow();
        store.as_ref().map_or(Ok(()), |store| stays(&self.store_path(), store))
    }

    fn seal(&self, seal: &Seal) -> io::Result<()> {
        let copy = seal.encode();
        let held = self.held.borrow();
        let seal = held.seal.as_ref().ok_or(ErrorKind::NotFound)?;
        seal.write_all_at(&copy, 0)?;
        seal.write_all_at(&copy, SEAL_COPY_BYTES)
    }

    fn sync_seal(&self) -> io::Result<()> {
        self.held.borrow().seal.as_ref().ok_or(ErrorKind::NotFound)?.sync_all()?;
        sync_name(&self.seal_path())
    }
}

impl Home for Folder {
    fn read(&self) -> io::Result<Disk> {
        Beside(self.path.clone()).read()
    }

    fn has_store(&self) -> io::Result<bool> {
        self.store_path().try_exists().map_err(|e| at(&self.store_path(), e))
    }

    fn seal_state(&self) -> io::Result<SealState> {
        let mut bytes = Vec::new();
        if let Some(mut seal) = self.held.borrow().seal.as_ref() {
            seal.rewind()?;
            seal.take(2 * SEAL_COPY_BYTES).read_to_end(&mut bytes)?;
        }
        Ok(SealState::in_file(&bytes))
    }

    fn quarantine(&self) -> io::Result<PathBuf> {
        let from = self.store_path();
        for number in 1..=DAMAGED_MAX {
            let suffix = if number > 1 { format!(".{number}") } else { String::new() };
            let to = self.path.join(format!("{DAMAGED}{suffix}"));
            if !to.try_exists()? {
                return self.copy_aside(&from, &to);
            }
            if is_same(&from, &to)? {
                return Ok(to);
            }
        }
        let text = format!("{DAMAGED_MAX} others are kept there already; move them away");
        Err(Error::new(ErrorKind::AlreadyExists, text))
    }

    fn store_path(&self) -> PathBuf {
        self.path.join(STORE)
    }

    fn seal_path(&self) -> PathBuf {
        self.path.join(SEAL)
    }
}

/// A data folder that another process has locked: what may be read beside it.
#[derive(Clone, Debug)]
pub struct Beside(pub PathBuf);

impl Beside {
    /// Opens the store, which may change at any time.
    ///
    /// # Errors
    /// File system errors.
    pub fn read(&self) -> io::Result<Disk> {
        let path = self.store_path();
        File::open(&path).map(Disk::new).map_err(|e| at(&path, e))
    }

    /// Reads the seal as it is now.
    ///
    /// # Errors
    /// File system errors.
    pub fn seal_state(&self) -> io::Result<SealState> {
        let (path, mut bytes) = (self.0.join(SEAL), Vec::new());
        let opened = File::open(&path);
        match opened.and_then(|seal| seal.take(2 * SEAL_COPY_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => Ok(SealState::in_file(&bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(SealState::Nothing),
            Err(e) => Err(at(&path, e)),
        }
    }

    /// Returns the path of the store.
    pub fn store_path(&self) -> PathBuf {
        self.0.join(STORE)
    }
}

/// Returns device and inode, which tell whether a path still names the same file.
fn file_id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Checks that this path still names that file or folder.
fn stays(path: &Path, file: &File) -> io::Result<()> {
    let then = file_id(&file.metadata()?);
    let what = match fs::metadata(path) {
        Ok(now) if file_id(&now) == then => return Ok(()),
        Ok(_) => "was replaced",
        Err(e) if e.kind() == ErrorKind::NotFound => "was removed",
        Err(e) => return Err(at(path, e)),
    };
    let text = format!("{} {what} while the server runs", path.display());
    Err(Error::new(ErrorKind::NotFound, text))
}

/// Locks the folder, or says who holds it. The lock is on the folder itself, which nobody removes
/// by mistake; the file `lock` only names the holder.
fn hold(lock: Option<&File>, path: &Path) -> io::Result<File> {
    let folder = File::open(path).map_err(|e| at(path, e))?;
    let Err(errno) = flock(&folder, FlockOperation::NonBlockingLockExclusive) else {
        return Ok(folder);
    };
    if errno != rustix::io::Errno::WOULDBLOCK {
        return Err(at(path, errno.into()));
    }
    let mut text = String::new();
    let _ = lock.map(|lock| lock.take(256).read_to_string(&mut text));
    let who = match text.trim() {
        "" => "another process",
        text => text,
    };
    let text = format!(
        "the data folder {} is in use by {who}: stop that first, or wait until it ends",
        path.display()
    );
    Err(Error::new(ErrorKind::ResourceBusy, text))
}

/// Opens a file if it exists, for writing too if permitted. Returns whether it is writable.
fn open_existing(path: &Path) -> io::Result<Option<(File, bool)>> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => return Ok(Some((file, true))),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(_) => {}
    }
    File::open(path).map(|file| Some((file, false))).map_err(|e| at(path, e))
}

/// Opens a file for reading and writing; creates it if it does not exist.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Creates an empty file, replacing whatever is there.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Returns whether two files have the same content.
fn is_same(one: &Path, two: &Path) -> io::Result<bool> {
    let (mut one, mut two) = (File::open(one)?, File::open(two)?);
    if one.metadata()?.len() != two.metadata()?.len() {
        return Ok(false);
    }
    let (mut these, mut those) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        let count = one.read(&mut these)?;
        if count == 0 {
            return Ok(true);
        }
        two.read_exact(&mut those[..count])?;
        if these[..count] != those[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEALED: Seal = Seal { key: [7; 32], batch: 3 };

    fn folder() -> (PathBuf, Folder) {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        let name = format!("fws-folder-{:x}", u64::from_le_bytes(bytes));
        let path = std::env::temp_dir().join(name);
        let folder = Folder::take(&path, "one").unwrap();
        folder.open_next().unwrap();
        folder.install_next().unwrap();
        (path, folder)
    }

    fn holder_of(path: &Path) -> String {
        Folder::take(path, "two").unwrap_err().to_string()
    }

    #[test]
    fn a_seal_can_be_read_repeatedly() {
        let (path, folder) = folder();
        assert_eq!(folder.seal_state().unwrap(), SealState::Nothing);
        folder.seal(&SEALED).unwrap();
        for _ in 0..2 {
            assert_eq!(folder.seal_state().unwrap(), SealState::Seal(SEALED));
        }
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_recreated_folder_is_locked_before_it_is_written() {
        let (path, folder) = folder();
        folder.is_in_place().unwrap();
        fs::remove_dir_all(&path).unwrap();
        assert!(folder.open_next().is_err(), "the folder is missing");
        fs::create_dir(&path).unwrap();
        let error = folder.is_in_place().unwrap_err().to_string();
        assert!(error.contains("was replaced while"), "{error}");
        folder.open_next().unwrap();
        assert!(holder_of(&path).contains("in use by one: stop"));
        folder.install_next().unwrap();
        folder.is_in_place().unwrap();
        folder.seal(&SEALED).unwrap();
        drop(folder);
        assert_eq!(
            Folder::take(&path, "two").unwrap().seal_state().unwrap(),
            SealState::Seal(SEALED)
        );
        fs::remove_dir_all(path).unwrap();
    }

    /// Even if the folder is replaced by another process between two of our steps.
    #[test]
    fn nothing_is_written_into_a_folder_locked_by_another_process() {
        let (path, folder) = folder();
        folder.open_next().unwrap();
        fs::remove_dir_all(&path).unwrap();
        let theirs = Folder::take(&path, "two").unwrap();
        theirs.open_next().unwrap();
        assert!(folder.install_next().is_err(), "the next store belongs to the other process");
        let busy = folder.open_next().unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
        assert!(busy.to_string().contains("in use by two: stop"), "{busy}");
        theirs.install_next().unwrap();
        theirs.is_in_place().unwrap();
        drop(theirs);
        folder.open_next().unwrap();
        folder.install_next().unwrap();
        assert!(path.join(STRANGE).exists());
        fs::remove_dir_all(path).unwrap();
    }
}
