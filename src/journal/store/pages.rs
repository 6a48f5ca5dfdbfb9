//! Reads the B-trees of a redb file without redb and without trusting them: for damaged files, for
//! files with tables of an older format, and for a file that a server writes to meanwhile. It never
//! reads outside the file, never visits a page at two places of a tree, and ignores pages that do
//! not belong to a tree. Changes nothing, and knows nothing of rows.
//!
//! The page layout is in `docs/design.md` of redb. The checksum of a page, which is in the page
//! above it, is verified where pages may be of different moments. In a damaged file it is not: each
//! row has a tag of its own, so one bit need not lose a page of them.

use std::cmp::Ordering;
use std::sync::Arc;

use hashbrown::HashSet;
use redb::StorageBackend;
use twox_hash::xxhash3_128;

use super::file::{Damage, damage};

/// The smallest page size; the header takes one such page.
const PAGE_BYTES: u64 = 4096;
/// A page number packs the index among the pages of its size, the region of the file, and the size
/// as a power of two.
const PLACE_BITS: u32 = 20;
const SIZE_SHIFT: u32 = 59;
/// Size of a region.
const REGION_BYTES: u64 = PAGE_BYTES << PLACE_BITS;
/// Offset of the flags in the header; the lowest bit says which of two commits is the last.
const FLAGS_AT: usize = 9;
/// Offsets of the two commit slots in the header.
const COMMITS_AT: [usize; 2] = [64, 192];
/// Within a slot: whether the commit has tables, the reference to their tree's root, the number of
/// the transaction, and the checksum of all before it.
const HAS_ROOT_AT: usize = 1;
const ROOT_AT: usize = 8;
const TRANSACTION_AT: usize = 104;
const SLOT_SUM_AT: usize = 112;
/// The same within an entry of the tree of tables.
const TABLE_HAS_ROOT_AT: usize = 9;
const TABLE_ROOT_AT: usize = 10;
/// First byte of a leaf page and of a branch page.
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// Bytes before the first field of each.
const LEAF_HEAD: usize = 4;
const BRANCH_HEAD: usize = 8;
/// Deeper than any tree that fits on a disk.
const DEPTH_MAX: usize = 24;

/// What is needed to read a tree.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Length of every key, if fixed.
    pub key_bytes: Option<usize>,
    /// Compares two keys; `None` if either is not a valid key.
    pub order: fn(&[u8], &[u8]) -> Option<Ordering>,
}

impl Shape {
    /// Keys are byte strings, ordered as such.
    pub const BYTES: Shape = Shape { key_bytes: None, order: |one, two| Some(one.cmp(two)) };
}

/// Called with each key and its value; `None` for an entry that cannot be decoded.
pub type Visit<'v> = dyn FnMut(Option<(&[u8], &[u8])>) + 'v;

/// The checksum of a page: XXH3 of 128 bits, with the default secret and seed. redb does not export
/// its own.
pub type Sum = [u8; SUM_BYTES];
const SUM_BYTES: usize = 16;

fn sum(bytes: &[u8]) -> Sum {
    xxhash3_128::Hasher::oneshot(bytes).to_le_bytes()
}

/// A page, as the page above it refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRef {
    /// Its number, which says where it is and how long.
    pub number: u64,
    /// The checksum of its content.
    pub sum: Sum,
}

/// A redb file. Clones read the same one.
#[derive(Clone)]
pub struct Pages {
    backend: Arc<dyn StorageBackend>,
    len: u64,
    /// Whether a page is an error if its checksum is not that of its reference.
    is_verified: bool,
}

impl Pages {
    /// Opens a file that nobody writes to. Checksums are not verified.
    ///
    /// # Errors
    /// If its length cannot be read.
    pub fn new(backend: impl StorageBackend) -> Result<Pages, Damage> {
        let len = backend.len().map_err(damage)?;
        Ok(Pages { backend: Arc::new(backend), len, is_verified: false })
    }

    /// Opens a file whose pages may be of different moments, and verifies checksums.
    ///
    /// # Errors
    /// If its length cannot be read.
    pub fn verified(backend: impl StorageBackend) -> Result<Pages, Damage> {
        Ok(Pages { is_verified: true, ..Pages::new(backend)? })
    }

    /// Returns the length of the file when it was opened, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.len
    }

    /// Returns the root of the tree of tables in the last commit, or in the one before; `None` if
    /// it has no tables.
    ///
    /// # Errors
    /// [`Damage`], if the header cannot be read.
    pub fn root(&self, is_other: bool) -> Result<Option<PageRef>, Damage> {
        let header = self.bytes(0, PAGE_BYTES)?;
        let broken = || damage("the header is not whole");
        let flags = header.get(FLAGS_AT).ok_or_else(broken)?;
        let commit = COMMITS_AT[usize::from((flags & 1 == 1) != is_other)];
        root(&header, commit + HAS_ROOT_AT, commit + ROOT_AT).ok_or_else(broken)
    }

    /// Returns the roots of both commits in the header, the later one first, except for those that
    /// are not as they were written.
    ///
    /// # Errors
    /// [`Damage`], if the header cannot be read.
    pub fn roots(&self) -> Result<Vec<Option<PageRef>>, Damage> {
        let header = self.bytes(0, PAGE_BYTES)?;
        let commits = COMMITS_AT.iter().filter_map(|at| {
            let slot = header.get(*at..)?;
            let is_whole = sum(slot.get(..SLOT_SUM_AT)?) == *slot[SLOT_SUM_AT..].first_chunk()?;
            let commit = (u64_at(slot, TRANSACTION_AT)?, root(slot, HAS_ROOT_AT, ROOT_AT)?);
            is_whole.then_some(commit)
        });
        let mut commits: Vec<_> = commits.collect();
        commits.sort_by_key(|(transaction, _)| std::cmp::Reverse(*transaction));
        Ok(commits.into_iter().map(|(_, root)| root).collect())
    }

    /// Returns the tables in a tree of tables by name, each with its root unless it is empty.
    ///
    /// # Errors
    /// [`Damage`], if no table can be read.
    pub fn tables(&self, root: Option<PageRef>) -> Result<Vec<(String, Option<PageRef>)>, Damage> {
        let mut tables = Vec::new();
        let mut gap = None;
        if let Some(root) = root {
            gap = self.walk(root, Shape::BYTES, &mut |entry| {
                let Some((name, table)) = entry else { return };
                let name = String::from_utf8_lossy(name).into_owned();
                if let Some(root) = self::root(table, TABLE_HAS_ROOT_AT, TABLE_ROOT_AT) {
                    tables.push((name, root));
                }
            });
        }
        // One known table is enough to go on with.
        gap.filter(|_| tables.is_empty()).map_or(Ok(tables), Err)
    }

    /// Visits everything readable in a tree, in order. Returns the first error, if there was one.
    pub fn walk(&self, root: PageRef, shape: Shape, visit: &mut Visit<'_>) -> Option<Damage> {
        let mut walk =
            Walk { pages: self, shape, visit, taken: HashSet::new(), last: None, gap: None };
        walk.page(root, None, None, 0);
        walk.gap
    }

    /// Reads a page of a tree whose keys have this length, if it is fixed. Returns an error without
    /// reading if the page does not lie in the file.
    ///
    /// # Errors
    /// [`Damage`]
    pub fn page(&self, page: PageRef, key_bytes: Option<usize>) -> Result<Vec<u8>, Damage> {
        let (at, bytes) = place(page.number);
        let content = self.bytes(at, bytes)?;
        let is_right = || {
            let used = used_bytes(&content, key_bytes).and_then(|used| content.get(..used));
            used.map(sum) == Some(page.sum)
        };
        if self.is_verified && !is_right() {
            return Err(damage("a page does not have the checksum in the page above it"));
        }
        Ok(content)
    }

    fn bytes(&self, from: u64, bytes: u64) -> Result<Vec<u8>, Damage> {
        if bytes > self.len || from > self.len - bytes {
            return Err(damage("a page is not in the file"));
        }
        let mut page = Vec::new();
        page.try_reserve_exact(usize::try_from(bytes).map_err(damage)?).map_err(damage)?;
        page.resize(page.capacity(), 0);
        page.truncate(bytes as usize);
        self.backend.read(from, &mut page).map_err(damage)?;
        Ok(page)
    }
}

/// State of a walk through a tree.
struct Walk<'w, 'v> {
    pages: &'w Pages,
    shape: Shape,
    visit: &'w mut Visit<'v>,
    /// Pages that were accepted as part of the tree.
    taken: HashSet<u64>,
    /// The last key visited.
    last: Option<Vec<u8>>,
    /// The first error.
    gap: Option<Damage>,
}

impl Walk<'_, '_> {
    fn miss(&mut self, what: Damage) {
        self.gap.get_or_insert(what);
    }

    /// Visits a page and everything below it; its keys must lie above `low` and not above `high`.
    fn page(&mut self, page: PageRef, low: Option<&[u8]>, high: Option<&[u8]>, depth: usize) {
        let number = page.number;
        if self.taken.contains(&number) || depth > DEPTH_MAX {
            return self.miss(damage("a page leads back to another one"));
        }
        let page = match self.pages.page(page, self.shape.key_bytes) {
            Ok(page) => page,
            Err(error) => return self.miss(error),
        };
        let is_read = match page.first() {
            Some(&LEAF) => self.leaf(&page, number, low, high),
            _ => children(&page, self.shape.key_bytes).map(|children| {
                // Free the page before descending.
                drop(page);
                self.taken.insert(number);
                self.children(children, low, high, depth);
            }),
        };
        if is_read.is_none() {
            self.miss(damage("a page is not one of a tree"));
        }
    }

    fn children(
        &mut self,
        children: Vec<(PageRef, Option<Vec<u8>>)>,
        low: Option<&[u8]>,
        high: Option<&[u8]>,
        depth: usize,
    ) {
        let mut low = low.map(<[u8]>::to_vec);
        for (child, end) in children {
            self.page(child, low.as_deref(), end.as_deref().or(high), depth + 1);
            low = end.or(low);
        }
    }

    /// Visits the rows of a leaf; `None` if it cannot be decoded.
    fn leaf(
        &mut self,
        page: &[u8],
        number: u64,
        low: Option<&[u8]>,
        high: Option<&[u8]>,
    ) -> Option<()> {
        let count = u16_at(page, 2)?;
        let key_bytes = self.shape.key_bytes;
        let values_at = LEAF_HEAD + if key_bytes.is_none() { 4 * count } else { 0 };
        let keys_at = values_at + 4 * count;
        let key_end = |n: usize| match key_bytes {
            Some(bytes) => Some(keys_at + bytes * (n + 1)),
            None => u32_at(page, LEAF_HEAD + 4 * n),
        };
        let (mut key_at, mut value_at) = (keys_at, key_end(count.checked_sub(1)?)?);
        for n in 0..count {
            let (key_end, value_end) = (key_end(n)?, u32_at(page, values_at + 4 * n)?);
            match page.get(key_at..key_end).zip(page.get(value_at..value_end)) {
                Some((key, value)) if self.is_next(key, low, high) => {
                    self.taken.insert(number);
                    self.last = Some(key.to_vec());
                    (self.visit)(Some((key, value)));
                }
                Some(_) => self.miss(damage("a row is not where it belongs")),
                None => (self.visit)(None),
            }
            (key_at, value_at) = (key_end, value_end);
        }
        Some(())
    }

    /// Returns whether a key is valid here: within its bounds, and after all keys visited.
    fn is_next(&self, key: &[u8], low: Option<&[u8]>, high: Option<&[u8]>) -> bool {
        // A bound that is not a valid key excludes nothing.
        let order = |other: &[u8]| (self.shape.order)(key, other);
        let is_above = |other| order(other).is_none_or(Ordering::is_gt);
        low.is_none_or(is_above)
            && high.and_then(order).is_none_or(Ordering::is_le)
            && self.last.as_deref().is_none_or(is_above)
    }
}

/// Returns where a page is, and how many bytes it has.
pub fn place(number: u64) -> (u64, u64) {
    let size = number >> SIZE_SHIFT;
    let bytes = PAGE_BYTES << size;
    let place = number & (((1 << PLACE_BITS) - 1) >> size);
    let region = (number >> PLACE_BITS) & ((1 << PLACE_BITS) - 1);
    (PAGE_BYTES + region * REGION_BYTES + place * bytes, bytes)
}

/// Returns how many bytes of a page its checksum covers; `None` if that cannot be decoded.
fn used_bytes(page: &[u8], key_bytes: Option<usize>) -> Option<usize> {
    let count = u16_at(page, 2)?;
    let last = count.checked_sub(1)?;
    match (page.first()?, key_bytes) {
        (&LEAF, None) => u32_at(page, LEAF_HEAD + 4 * (count + last)),
        (&LEAF, Some(_)) => u32_at(page, LEAF_HEAD + 4 * last),
        (&BRANCH, None) => u32_at(page, BRANCH_HEAD + (SUM_BYTES + 8) * (count + 1) + 4 * last),
        (&BRANCH, Some(bytes)) => Some(BRANCH_HEAD + (SUM_BYTES + 8) * (count + 1) + bytes * count),
        _ => None,
    }
}

/// Returns the children of a branch, each with the last key that it may have; `None` if the page is
/// no branch, or they cannot be decoded.
pub fn children(page: &[u8], key_bytes: Option<usize>) -> Option<Vec<(PageRef, Option<Vec<u8>>)>> {
    let keys = u16_at(page, 2).filter(|_| page.first() == Some(&BRANCH))?;
    let numbers_at = BRANCH_HEAD + SUM_BYTES * (keys + 1);
    let ends_at = numbers_at + 8 * (keys + 1);
    let mut key_at = ends_at + if key_bytes.is_none() { 4 * keys } else { 0 };
    let mut children = Vec::with_capacity(keys + 1);
    for n in 0..=keys {
        let number = u64_at(page, numbers_at + 8 * n)?;
        let sum = sum_at(page, BRANCH_HEAD + SUM_BYTES * n)?;
        let mut last = None;
        if n < keys {
            let end = match key_bytes {
                Some(bytes) => key_at + bytes,
                None => u32_at(page, ends_at + 4 * n)?,
            };
            last = page.get(key_at..end).map(<[u8]>::to_vec);
            key_at = end;
        }
        children.push((PageRef { number, sum }, last));
    }
    Some(children)
}

/// Decodes a reference that is preceded by a flag saying whether there is one.
fn root(bytes: &[u8], flag_at: usize, at: usize) -> Option<Option<PageRef>> {
    let (flag, number, sum) = (*bytes.get(flag_at)?, u64_at(bytes, at)?, sum_at(bytes, at + 8)?);
    Some((flag != 0).then_some(PageRef { number, sum }))
}

fn sum_at(bytes: &[u8], at: usize) -> Option<Sum> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().and_then(|bytes| u32::from_le_bytes(*bytes).try_into().ok())
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
