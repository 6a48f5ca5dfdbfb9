//! Reads the B-trees of a redb file without redb and without trusting them: for damaged files, and
//! for files with tables of an older format. It never reads outside the file, never visits a page
//! at two places of a tree, and ignores pages that do not belong to a tree. Changes nothing, and
//! knows nothing of rows.
//!
//! The page layout is in `docs/design.md` of redb. Page checksums are not verified: each row has a
//! tag of its own.

use std::cmp::Ordering;

use hashbrown::HashSet;
use redb::StorageBackend;

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
/// Within a slot: whether the commit has tables, and the page number of their tree's root.
const HAS_ROOT_AT: usize = 1;
const ROOT_AT: usize = 8;
/// The same within an entry of the tree of tables.
const TABLE_HAS_ROOT_AT: usize = 9;
const TABLE_ROOT_AT: usize = 10;
/// First byte of a leaf page and of a branch page.
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// Bytes before the first field of each, and of a checksum.
const LEAF_HEAD: usize = 4;
const BRANCH_HEAD: usize = 8;
const SUM_BYTES: usize = 16;
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

/// A redb file.
pub struct Pages {
    backend: Box<dyn StorageBackend>,
    len: u64,
}

impl Pages {
    /// Opens a file that nobody writes to.
    ///
    /// # Errors
    /// If its length cannot be read.
    pub fn new(backend: impl StorageBackend) -> Result<Pages, Damage> {
        let len = backend.len().map_err(damage)?;
        Ok(Pages { backend: Box::new(backend), len })
    }

    /// Returns the tables of the last commit, or of the one before, by name, each with the page
    /// number of its root unless it is empty.
    ///
    /// # Errors
    /// [`Damage`], if no table can be read.
    pub fn tables(&self, is_other: bool) -> Result<Vec<(String, Option<u64>)>, Damage> {
        let header = self.bytes(0, PAGE_BYTES)?;
        let broken = || damage("the header is not whole");
        let flags = header.get(FLAGS_AT).ok_or_else(broken)?;
        let commit = COMMITS_AT[usize::from((flags & 1 == 1) != is_other)];
        let root = root(&header, commit + HAS_ROOT_AT, commit + ROOT_AT).ok_or_else(broken)?;
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
    pub fn walk(&self, root: u64, shape: Shape, visit: &mut Visit<'_>) -> Option<Damage> {
        let mut walk =
            Walk { pages: self, shape, visit, taken: HashSet::new(), last: None, gap: None };
        walk.page(root, None, None, 0);
        walk.gap
    }

    /// Reads a page. Returns an error without reading if it does not lie in the file.
    fn page(&self, number: u64) -> Result<Vec<u8>, Damage> {
        let size = number >> SIZE_SHIFT;
        let bytes = PAGE_BYTES << size;
        let place = number & (((1 << PLACE_BITS) - 1) >> size);
        let region = (number >> PLACE_BITS) & ((1 << PLACE_BITS) - 1);
        self.bytes(PAGE_BYTES + region * REGION_BYTES + place * bytes, bytes)
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
    fn page(&mut self, number: u64, low: Option<&[u8]>, high: Option<&[u8]>, depth: usize) {
        if self.taken.contains(&number) || depth > DEPTH_MAX {
            return self.miss(damage("a page leads back to another one"));
        }
        let page = match self.pages.page(number) {
            Ok(page) => page,
            Err(error) => return self.miss(error),
        };
        let is_read = match page.first() {
            Some(&LEAF) => self.leaf(&page, number, low, high),
            Some(&BRANCH) => match children(&page, self.shape.key_bytes) {
                Some(children) => {
                    // Free the page before descending.
                    drop(page);
                    self.taken.insert(number);
                    self.children(children, low, high, depth);
                    Some(())
                }
                None => None,
            },
            _ => None,
        };
        if is_read.is_none() {
            self.miss(damage("a page is not one of a tree"));
        }
    }

    fn children(
        &mut self,
        children: Vec<(u64, Option<Vec<u8>>)>,
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

/// Returns the children of a branch, each with the last key that it may have; `None` if they cannot
/// be decoded.
fn children(page: &[u8], key_bytes: Option<usize>) -> Option<Vec<(u64, Option<Vec<u8>>)>> {
    let keys = u16_at(page, 2)?;
    let numbers_at = BRANCH_HEAD + SUM_BYTES * (keys + 1);
    let ends_at = numbers_at + 8 * (keys + 1);
    let mut key_at = ends_at + if key_bytes.is_none() { 4 * keys } else { 0 };
    let mut children = Vec::with_capacity(keys + 1);
    for n in 0..=keys {
        let number = u64_at(page, numbers_at + 8 * n)?;
        let mut last = None;
        if n < keys {
            let end = match key_bytes {
                Some(bytes) => key_at + bytes,
                None => u32_at(page, ends_at + 4 * n)?,
            };
            last = page.get(key_at..end).map(<[u8]>::to_vec);
            key_at = end;
        }
        children.push((number, last));
    }
    Some(children)
}

/// Decodes a page number that is preceded by a flag saying whether there is one.
fn root(bytes: &[u8], flag_at: usize, at: usize) -> Option<Option<u64>> {
    let (flag, number) = (*bytes.get(flag_at)?, u64_at(bytes, at)?);
    Some((flag != 0).then_some(number))
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
