//! Takes a snapshot of a file while a server writes to it, without the server's help.
//!
//! The file is copy on write: pages are written only where the last durable commit has none, and
//! each page has its checksum in the page above it. So whatever is reached from the root of one
//! commit, each page verified, is exactly what that commit left, whenever each of them was read.
//!
//! Under load a page may be reused before it is read. What has been read is therefore kept, in a
//! scratch file, and the next attempt, with the newest root, reads only what has changed. Unless
//! more changes in the time of an attempt than can be read in it, attempts become shorter, until
//! one ends before a page that it needs is reused. How much is read in all is bounded.
//!
//! What is met, and what happens:
//!
//! - A commit that is not durable: the header is in the file, and perhaps not all of its pages. Its
//!   batch is not in the seal, or a page fails. Then the one before it is taken, whose pages stay
//!   as they are until then.
//! - A batch that is acknowledged and not in the seal, which could not be written: it looks the
//!   same. So nothing older is taken than the newest batch that was in the first header, durable or
//!   not, unless the header shows by then that it was taken back.
//! - A header that is being written: the slot that changes fails its checksum.
//! - The file grows, shrinks, or is replaced by another: it is opened anew for each attempt, and
//!   pages are known by their checksums.
//! - A page that has rotted: it fails again and again, although it belongs to commit after commit,
//!   and so was not reused between them.

use std::io;

use hashbrown::{HashMap, HashSet};
use redb::StorageBackend;

use super::file::{Content, Damage, StoreMeta, damage};
use super::folder::SealState;
use super::pages::{PageRef, Pages, Sum, children, place};
use super::tables::Tables;

/// How many attempts are made, and with how many pauses.
const ATTEMPTS: u32 = 1000;
const PAUSES: u32 = 250;
/// How many times the length of the file is read in all, and at least how many bytes.
const READ_TIMES: u64 = 8;
const READ_BYTES_MIN: u64 = 64 << 20;
const UNSEALED: &str = "store.seal does not say that its last batch is durable";
const SEAL_GONE: &str = "store.seal, which says what is durable, is gone or damaged";
const FAST: &str = "it changes faster than it can be read";
/// What fails so many times in a row, with a pause before each, is damage.
const STRIKES: u32 = 5;

/// Why there is no snapshot.
#[derive(Debug)]
pub enum NoSnapshot {
    /// The file or the seal cannot be opened.
    Unread(io::Error),
    /// The scratch file cannot be written.
    Unwritten(io::Error),
    /// The file is not as it was written.
    Damaged(Damage),
    /// No attempt was fast enough, or nothing says what is durable.
    Busy(&'static str),
}

/// Why an attempt has failed.
enum Miss {
    /// Pages are not what they were, or not yet; or the seal has passed by the batch.
    Pages,
    /// Nothing says that the commit is durable, or that it is the last that may be acknowledged.
    Unsealed(&'static str),
    /// All pages are as they were written, and what they say is wrong.
    Wrong(Damage),
    /// No other attempt would do better.
    Final(NoSnapshot),
}

impl From<NoSnapshot> for Miss {
    fn from(why: NoSnapshot) -> Miss {
        Miss::Final(why)
    }
}

impl From<Damage> for Miss {
    fn from(damage: Damage) -> Miss {
        Miss::Wrong(damage)
    }
}

/// Takes a snapshot of what is durable now: of a batch that the seal names, and none before what is
/// acknowledged at the beginning.
///
/// `open` opens the file, and `seal` reads the seal; `scratch` is an empty file for a copy of the
/// pages, which the content is then read from. `pause` waits for some milliseconds.
///
/// # Errors
/// [`NoSnapshot`]
pub fn snapshot<B: StorageBackend>(
    open: impl Fn() -> io::Result<B>,
    seal: impl Fn() -> io::Result<SealState>,
    scratch: impl StorageBackend + Clone,
    pause: impl Fn(),
) -> Result<Content, NoSnapshot> {
    let mut copy = Copy::new(scratch);
    let (mut stuck, mut strikes, mut wrongs) = (HashSet::new(), 0, 0);
    let (mut pauses, mut why) = (0, FAST);
    for _ in 0..ATTEMPTS {
        let is_fresh = copy.known.is_empty();
        let found = copy.attempt(&open, &seal);
        // Where pages are overwritten before they are read, the next attempt must come soon.
        let is_hasty = matches!(found, Err(Miss::Pages)) || !copy.missed.is_empty();
        match found {
            Ok(content) => return Ok(content),
            Err(Miss::Final(why)) => return Err(why),
            // The seal has passed by.
            Err(Miss::Pages) if copy.missed.is_empty() => why = FAST,
            Err(Miss::Pages) => {
                why = FAST;
                stuck.retain(|page| copy.missed.contains(page));
                strikes += 1;
                if stuck.is_empty() {
                    (stuck, strikes) = (std::mem::take(&mut copy.missed), 1);
                }
                if strikes >= STRIKES {
                    return Err(NoSnapshot::Damaged(damage("a page is not as it was written")));
                }
            }
            Err(Miss::Unsealed(text)) => why = text,
            Err(Miss::Wrong(damage)) => {
                // Or what an earlier attempt has copied was overwritten by another attempt.
                copy.known.clear();
                wrongs += u32::from(is_fresh);
                if wrongs >= STRIKES {
                    return Err(NoSnapshot::Damaged(damage));
                }
            }
        }
        if copy.has_read_enough() {
            break;
        }
        if copy.is_still || !is_hasty {
            pauses += 1;
            if pauses == PAUSES {
                break;
            }
            pause();
        }
    }
    Err(NoSnapshot::Busy(why))
}

/// A copy of pages, each where it is in the file.
struct Copy<S> {
    scratch: S,
    /// Pages that have been copied with everything below them.
    known: HashMap<u64, Sum>,
    /// Pages that could not be read in this attempt.
    missed: HashSet<PageRef>,
    /// How many bytes of pages have been read in all, and the length of the file.
    read_bytes: u64,
    file_bytes: u64,
    /// The commits in the header, and whether they are those of the attempt before.
    roots: Vec<Option<PageRef>>,
    is_still: bool,
    /// The newest batch in the first header: nothing after it was acknowledged before. `None` until
    /// it could be read.
    least: Option<u64>,
    /// The seal before the header was read.
    sealed: SealState,
}

impl<S: StorageBackend + Clone> Copy<S> {
    fn new(scratch: S) -> Copy<S> {
        let (known, missed, roots) = (HashMap::new(), HashSet::new(), Vec::new());
        let (read_bytes, file_bytes, is_still) = (0, 0, false);
        let (least, sealed) = (None, SealState::Nothing);
        Copy { scratch, known, missed, read_bytes, file_bytes, roots, is_still, least, sealed }
    }

    /// Tries the last commit, and the one before it unless there is a later one by then.
    fn attempt<B: StorageBackend>(
        &mut self,
        open: impl Fn() -> io::Result<B>,
        seal: impl Fn() -> io::Result<SealState>,
    ) -> Result<Content, Miss> {
        self.missed.clear();
        self.sealed = seal().map_err(NoSnapshot::Unread)?;
        let file = open().map_err(NoSnapshot::Unread)?;
        if !matches!(self.sealed, SealState::Seal(_)) {
            return Err(Miss::Unsealed(SEAL_GONE));
        }
        let file = Pages::verified(file).map_err(NoSnapshot::Damaged)?;
        self.file_bytes = file.file_bytes();
        let roots = file.roots().map_err(NoSnapshot::Damaged)?;
        self.is_still = roots == self.roots;
        self.roots.clone_from(&roots);
        let mut miss = None;
        for (place, root) in roots.iter().enumerate() {
            let why = match self.commit(&file, *root, place == 0, &seal) {
                Err(why) if !matches!(why, Miss::Final(_)) => why,
                over => return over,
            };
            // Nothing is damaged while nobody knows of a commit whether it is durable.
            let is_unsealed = matches!(why, Miss::Unsealed(_));
            miss = miss.filter(|_| !is_unsealed).or(Some(why));
            if file.roots().map_err(NoSnapshot::Damaged)? != roots {
                break;
            }
        }
        Err(miss.unwrap_or_else(|| Miss::Wrong(damage("the header is not whole"))))
    }

    /// Returns whether so much has been read that there is no end in sight.
    fn has_read_enough(&self) -> bool {
        self.read_bytes >= READ_BYTES_MIN.max(self.file_bytes.saturating_mul(READ_TIMES))
    }

    /// Copies one commit: the last one, or the one before it.
    fn commit(
        &mut self,
        file: &Pages,
        root: Option<PageRef>,
        is_last: bool,
        seal: impl Fn() -> io::Result<SealState>,
    ) -> Result<Content, Miss> {
        self.tree(file, root, None)?;
        let facts = self.tables(root)?.facts();
        self.tree(file, facts, None)?;
        let tables = self.tables(root)?;
        let meta = tables.meta()?;
        if is_last {
            self.least.get_or_insert(meta.batch);
        }
        let now = seal().map_err(NoSnapshot::Unread)?;
        is_durable(&meta, &self.sealed, &now)?;
        if !is_last && self.least.is_none_or(|least| meta.batch < least) {
            return Err(Miss::Unsealed(UNSEALED));
        }
        for (root, key_bytes) in tables.rows() {
            self.tree(file, Some(root), key_bytes)?;
        }
        Ok(Content::of(self.tables(root)?)?)
    }

    /// Opens what has been copied of a commit.
    fn tables(&self, root: Option<PageRef>) -> Result<Tables, Damage> {
        Tables::of(Pages::verified(self.scratch.clone())?, root)
    }

    /// Copies a tree, except for what is known. Fails once all of it that can be read is copied.
    ///
    /// One level after the other, because the branches are what changes most often; and each in the
    /// order of the file.
    fn tree(
        &mut self,
        file: &Pages,
        root: Option<PageRef>,
        key_bytes: Option<usize>,
    ) -> Result<(), Miss> {
        let mut is_whole = true;
        let mut branches: Vec<(u64, Option<u32>)> = Vec::new();
        let mut level: Vec<(PageRef, Option<u32>)> =
            root.map(|root| (root, None)).into_iter().collect();
        while !level.is_empty() {
            level.sort_unstable_by_key(|(page, _)| place(page.number));
            let mut below = Vec::new();
            for (page, parent) in level {
                if self.known.get(&page.number) == Some(&page.sum) {
                    continue;
                }
                let (at, bytes) = place(page.number);
                self.read_bytes += bytes;
                let Ok(content) = file.page(page, key_bytes) else {
                    is_whole = false;
                    self.miss(page, parent, &branches);
                    continue;
                };
                self.scratch.write(at, &content).map_err(NoSnapshot::Unwritten)?;
                self.known.insert(page.number, page.sum);
                let children = children(&content, key_bytes).unwrap_or_default();
                if !children.is_empty() {
                    let this = Some(branches.len() as u32);
                    branches.push((page.number, parent));
                    below.extend(children.into_iter().map(|(child, _)| (child, this)));
                }
            }
            level = below;
        }
        if is_whole { Ok(()) } else { Err(Miss::Pages) }
    }

    /// A page could not be read, so that what is above it is not known with everything below.
    fn miss(&mut self, page: PageRef, parent: Option<u32>, branches: &[(u64, Option<u32>)]) {
        self.missed.insert(page);
        let mut above = parent;
        while let Some((number, parent)) = above.and_then(|at| branches.get(at as usize))
            && self.known.remove(number).is_some()
        {
            above = *parent;
        }
    }
}

/// Checks a commit against the seal, as it was before the header was read and is now.
fn is_durable(meta: &StoreMeta, before: &SealState, now: &SealState) -> Result<(), Miss> {
    let (SealState::Seal(before), SealState::Seal(now)) = (before, now) else {
        return Err(Miss::Unsealed(SEAL_GONE));
    };
    if meta.key != now.key {
        return Err(damage("its seal belongs to another store").into());
    }
    // A batch that was refused is never named, but one after it is.
    if meta.batch == before.batch || meta.batch == now.batch {
        return Ok(());
    }
    if meta.batch < before.batch {
        let (batch, known) = (meta.batch, before.batch);
        let text = format!("it ends with batch {batch}, and batch {known} was durable");
        return Err(Damage(text).into());
    }
    if meta.batch < now.batch {
        // The seal has named it meanwhile, or it was refused.
        return Err(Miss::Pages);
    }
    Err(Miss::Unsealed(UNSEALED))
}
