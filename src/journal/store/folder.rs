//! The data folder of a store: its lock, the file that is the store, and the small seal beside it
//! that remembers the last known state of the store. Owns names, modes and the order of file
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

/// The store.
const STORE: &str = "store.redb";
/// The next store, while it is being written.
const NEXT: &str = "store.redb.new";
/// A store that was found damaged, as it was found.
const DAMAGED: &str = "store.redb.damaged";
/// What somebody has put in the place of the store of a server that runs.
const STRANGE: &str = "store.redb.strange";
/// So many of these are kept.
const DAMAGED_MAX: usize = 9;
/// What the store was last known to be.
const SEAL: &str = "store.seal";
/// Held by whoever uses the folder.
const LOCK: &str = "lock";

const SEAL_MAGIC: &[u8; 8] = b"fwsseal1";
/// Two copies, each in a sector of its own.
const SEAL_COPY_BYTES: u64 = 512;
const SEAL_BODY_BYTES: usize = 8 + 32 + 8;
const SEAL_SUM_BYTES: usize = 8;

/// Where the bytes of a store are, and where the next ones would be.
pub trait Medium: Send + 'static {
    /// What redb reads and writes.
    type Backend: StorageBackend + Discard;

    /// The store, as it is.
    ///
    /// # Errors
    /// Those of the file system.
    fn open(&self) -> io::Result<Self::Backend>;

    /// An empty one beside it. If there is another folder of that name by now, it is taken first.
    ///
    /// # Errors
    /// Those of the file system, and `ResourceBusy` with the name of who holds such a folder.
    fn open_next(&self) -> io::Result<Self::Backend>;

    /// Puts the one beside it in its place, durably.
    ///
    /// # Errors
    /// Those of the file system; it is unknown then which of them is in place.
    fn install_next(&self) -> io::Result<()>;

    /// Whether the store that was opened, or put in place, last is still where [`Medium::open`]
    /// looks for one. Costs no more than a look at its name and that of its folder.
    ///
    /// # Errors
    /// `NotFound` if it is not, and those of the file system.
    fn is_in_place(&self) -> io::Result<()> {
        Ok(())
    }

    /// Remembers that this batch is durable. Costs no sync: what is remembered is never more than
    /// what is durable, and after a power cut may be less.
    ///
    /// # Errors
    /// Those of the file system.
    fn seal(&self, seal: &Seal) -> io::Result<()>;

    /// Makes the seal durable.
    ///
    /// # Errors
    /// Those of the file system.
    fn sync_seal(&self) -> io::Result<()>;
}

/// Where a store is at home between two runs: what a start wants to know of it.
pub trait Home: Medium {
    /// The store, to read it.
    ///
    /// # Errors
    /// Those of the file system.
    fn read(&self) -> io::Result<Self::Backend>;

    /// Whether there is a store.
    ///
    /// # Errors
    /// Those of the file system.
    fn has_store(&self) -> io::Result<bool>;

    /// What is remembered of the store.
    ///
    /// # Errors
    /// Those of the file system.
    fn found(&self) -> io::Result<Found>;

    /// Keeps a copy of a damaged store, as it was found, unless there is one already; says where.
    ///
    /// # Errors
    /// Those of the file system, and `AlreadyExists` if too many others are kept.
    fn quarantine(&self) -> io::Result<PathBuf>;

    /// Where the store is, or would be.
    fn store_path(&self) -> PathBuf;

    /// Where the seal is.
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
pub enum Found {
    /// No seal: there has never been a store.
    Nothing,
    /// This.
    Seal(Seal),
    /// Something that is no seal.
    Damaged,
}

impl Found {
    /// What the bytes of `store.seal` say: the later of its two copies, if either is whole.
    pub fn in_file(bytes: &[u8]) -> Found {
        if bytes.is_empty() {
            return Found::Nothing;
        }
        let copies = bytes.chunks(SEAL_COPY_BYTES as usize).filter_map(Seal::decode);
        copies.max_by_key(|seal| seal.batch).map_or(Found::Damaged, Found::Seal)
    }
}

impl Seal {
    /// One copy, as it stands in `store.seal`.
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

/// A data folder that is ours alone for as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// What others are told of us.
    holder: String,
    held: RefCell<Held>,
    /// The store and the next one, since they were opened: kept open, because another file may get
    /// the number of one that is gone.
    store: RefCell<Option<Arc<File>>>,
    next: RefCell<Option<Arc<File>>>,
}

/// What is held of a folder. One that is removed and made again is another.
#[derive(Debug)]
struct Held {
    /// The folder itself, whose lock goes with it.
    folder: File,
    /// `None` only where nothing may be made.
    seal: Option<File>,
}

impl Held {
    /// Locks a folder that is there, and makes what belongs into it.
    fn take(path: &Path, holder: &str) -> io::Result<Held> {
        let lock_path = path.join(LOCK);
        let mut lock = open(&lock_path).map_err(|e| at(&lock_path, e))?;
        let folder = hold(Some(&lock), path)?;
        // Only for people to read: if it cannot be written, the lock holds all the same.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{holder}"));
        let seal_path = path.join(SEAL);
        let seal = open(&seal_path).map_err(|e| at(&seal_path, e))?;
        Ok(Held { folder, seal: Some(seal) })
    }
}

impl Folder {
    /// Makes the folder (mode 0700) if it is not there, and takes it. `holder` is what others are
    /// told of us.
    ///
    /// # Errors
    /// Those of the file system, and `ResourceBusy` with the name of who holds it.
    pub fn take(path: &Path, holder: &str) -> io::Result<Folder> {
        make_folder(path)?;
        let folder = Folder::new(path, holder, Held::take(path, holder)?);
        // Whoever began to write one is gone.
        folder.discard_next();
        Ok(folder)
    }

    /// Takes a folder that has been a server's, to look at it: makes nothing, and works where
    /// nothing can be written.
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
        // A folder that was only ever taken has a seal without a word in it.
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

    /// That the folder under this name is the one that is held.
    fn is_ours(&self) -> io::Result<()> {
        stays(&self.path, &self.held.borrow().folder)
    }

    /// Takes the folder under this name, if it is not the one that is held. That one is let go when
    /// this one is ours; whoever has removed it does not make it come back.
    fn take_again(&self) -> io::Result<()> {
        let Err(error) = self.is_ours() else { return Ok(()) };
        if !self.path.exists() {
            return Err(error);
        }
        let held = Held::take(&self.path, &self.holder)?;
        if let Some(seal) = &held.seal {
            // Whatever it remembers is of another store.
            seal.set_len(0)?;
            seal.sync_all()?;
        }
        self.held.replace(held);
        Ok(())
    }

    /// Removes the next store, if one was begun.
    pub fn discard_next(&self) {
        // The next one that is begun would overwrite it all the same.
        let _ = fs::remove_file(self.path.join(NEXT));
    }

    /// The folder.
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
        // The next store of whoever has another one is not ours.
        self.is_ours()?;
        let path = self.store_path();
        let is_gone = |store: &Arc<File>| stays(&path, store).is_err();
        if self.store.borrow().as_ref().is_some_and(is_gone) && path.exists() {
            // Somebody has put it there, for some reason.
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
        let path = self.store_path();
        File::open(&path).map(Disk::new).map_err(|e| at(&path, e))
    }

    fn has_store(&self) -> io::Result<bool> {
        self.store_path().try_exists().map_err(|e| at(&self.store_path(), e))
    }

    fn found(&self) -> io::Result<Found> {
        let mut bytes = Vec::new();
        if let Some(mut seal) = self.held.borrow().seal.as_ref() {
            seal.rewind()?;
            seal.take(2 * SEAL_COPY_BYTES).read_to_end(&mut bytes)?;
        }
        Ok(Found::in_file(&bytes))
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

/// Device and inode: under one name there may be another file by now.
fn file_id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// That under this name there is still that file, or folder.
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

/// Locks the folder, or says who has done so. It is the folder itself that is locked, which nobody
/// removes by mistake; the file `lock` only tells who did it.
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
    let text = format!("the data folder {} is in use by {who}", path.display());
    Err(Error::new(ErrorKind::ResourceBusy, text))
}

/// Opens a file if it is there, for writing too if that can be; whether it can.
fn open_existing(path: &Path) -> io::Result<Option<(File, bool)>> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => return Ok(Some((file, true))),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(_) => {}
    }
    File::open(path).map(|file| Some((file, false))).map_err(|e| at(path, e))
}

/// Opens a file for reading and writing, and makes it if it is not there.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Makes an empty file, in place of whatever is there.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Whether two files have the same bytes.
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
    fn a_seal_is_found_as_often_as_it_is_looked_for() {
        let (path, folder) = folder();
        assert_eq!(folder.found().unwrap(), Found::Nothing);
        folder.seal(&SEALED).unwrap();
        for _ in 0..2 {
            assert_eq!(folder.found().unwrap(), Found::Seal(SEALED));
        }
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_folder_that_is_made_again_is_taken_before_it_is_written_in() {
        let (path, folder) = folder();
        folder.is_in_place().unwrap();
        fs::remove_dir_all(&path).unwrap();
        assert!(folder.open_next().is_err(), "there is none");
        fs::create_dir(&path).unwrap();
        let error = folder.is_in_place().unwrap_err().to_string();
        assert!(error.contains("was replaced while"), "{error}");
        folder.open_next().unwrap();
        assert!(holder_of(&path).ends_with("in use by one"));
        folder.install_next().unwrap();
        folder.is_in_place().unwrap();
        folder.seal(&SEALED).unwrap();
        drop(folder);
        assert_eq!(Folder::take(&path, "two").unwrap().found().unwrap(), Found::Seal(SEALED));
        fs::remove_dir_all(path).unwrap();
    }

    /// Also where it becomes theirs between two of our steps.
    #[test]
    fn nothing_is_written_in_a_folder_that_is_another_s() {
        let (path, folder) = folder();
        folder.open_next().unwrap();
        fs::remove_dir_all(&path).unwrap();
        let theirs = Folder::take(&path, "two").unwrap();
        theirs.open_next().unwrap();
        assert!(folder.install_next().is_err(), "their next store");
        let busy = folder.open_next().unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
        assert!(busy.to_string().ends_with("in use by two"), "{busy}");
        theirs.install_next().unwrap();
        theirs.is_in_place().unwrap();
        drop(theirs);
        folder.open_next().unwrap();
        folder.install_next().unwrap();
        assert!(path.join(STRANGE).exists());
        fs::remove_dir_all(path).unwrap();
    }
}
