//! The tables of a file, in the current format or in the former one, which a start converts. Reads
//! pages itself ([`Pages`]), whether the file is verified, damaged or being written to.

use std::cmp::Ordering;

use redb::StorageBackend;

use super::file::{Damage, StoreMeta, damage};
use super::format::{FORMAT, Sealer, decode_key};
use super::pages::{PageRef, Pages, Shape};
use crate::hub::{Key, Row, StateKey};
use crate::time::UnixMillis;

/// A table of rows.
struct Table {
    name: &'static str,
    /// Length of every key, if fixed.
    key_bytes: Option<usize>,
    key_of: fn(&[u8]) -> Option<Key>,
    order: fn(&[u8], &[u8]) -> Option<Ordering>,
}

/// A format: its number, its table of facts, and its tables of rows, namespaces first.
struct Format {
    number: u64,
    meta: &'static str,
    rows: &'static [Table],
}

const FORMATS: [Format; 2] = [
    Format {
        number: FORMAT,
        meta: "facts",
        rows: &[Table {
            name: "rows",
            key_bytes: None,
            key_of: decode_key,
            order: Shape::BYTES.order,
        }],
    },
    Format {
        number: 1,
        meta: "meta",
        rows: &[
            Table {
                name: "namespaces",
                key_bytes: Some(8),
                key_of: former_namespace,
                order: |one, two| Some(former_namespace(one)?.cmp(&former_namespace(two)?)),
            },
            Table {
                name: "grants",
                key_bytes: None,
                key_of: former_grant,
                order: |one, two| Some(former_grant(one)?.cmp(&former_grant(two)?)),
            },
            Table {
                name: "states",
                key_bytes: None,
                key_of: former_state,
                order: |one, two| Some(former_state(one)?.cmp(&former_state(two)?)),
            },
        ],
    },
];

/// Called with each key, its row and the bytes of its value; `None` instead of the row if the value
/// is not what was written under that key.
pub type Visit<'v> = dyn FnMut(Key, Option<Row<'_>>, usize) + 'v;

/// The tables of one commit of a file.
pub struct Tables {
    pages: Pages,
    format: &'static Format,
    /// The root page of each table; `None` if the table is empty.
    roots: Vec<(String, Option<PageRef>)>,
}

impl Tables {
    /// Opens the last commit of a file, or the one before it.
    ///
    /// # Errors
    /// [`Damage`], if it has no tables of a known format.
    pub fn open(backend: impl StorageBackend, is_other: bool) -> Result<Tables, Damage> {
        let pages = Pages::new(backend)?;
        let root = pages.root(is_other)?;
        Tables::of(pages, root)
    }

    /// Opens the commit with this root.
    ///
    /// # Errors
    /// [`Damage`], if it has no tables of a known format.
    pub fn of(pages: Pages, root: Option<PageRef>) -> Result<Tables, Damage> {
        let roots = pages.tables(root)?;
        let is_ours = |format: &&Format| {
            let mut names = format.rows.iter().map(|table| table.name).chain([format.meta]);
            names.any(|name| roots.iter().any(|(other, _)| other == name))
        };
        let format = FORMATS.iter().find(is_ours).ok_or(damage("it is no store of fws"))?;
        Ok(Tables { pages, format, roots })
    }

    /// Returns the root of the table of facts, unless it is empty.
    pub fn facts(&self) -> Option<PageRef> {
        self.root(self.format.meta)
    }

    /// Returns the root of each table of rows that is not empty, with the length of its keys, if it
    /// is fixed.
    pub fn rows(&self) -> impl Iterator<Item = (PageRef, Option<usize>)> {
        let tables = self.format.rows.iter();
        tables.filter_map(|table| Some((self.root(table.name)?, table.key_bytes)))
    }

    fn root(&self, table: &str) -> Option<PageRef> {
        self.roots.iter().find(|(name, _)| name == table).and_then(|(_, root)| *root)
    }

    /// Returns the number of the format.
    pub fn format(&self) -> u64 {
        self.format.number
    }

    /// Visits all rows, namespaces first. Returns how many keys could not be decoded, and why
    /// tables could not be read to their end.
    pub fn each(&self, sealer: &Sealer, each: &mut Visit<'_>) -> (u64, Vec<Damage>) {
        let (mut bad, mut gaps) = (0, Vec::new());
        for table in self.format.rows {
            let shape = Shape { key_bytes: table.key_bytes, order: table.order };
            gaps.extend(self.walk(table.name, shape, &mut |entry| {
                let key = entry.and_then(|(key, value)| Some(((table.key_of)(key)?, value)));
                match key {
                    Some((key, value)) => {
                        let row = sealer.open(&key, value).ok();
                        each(key, row, value.len());
                    }
                    None => bad += 1,
                }
            }));
        }
        (bad, gaps)
    }

    fn walk(
        &self,
        table: &str,
        shape: Shape,
        visit: &mut super::pages::Visit<'_>,
    ) -> Option<Damage> {
        match self.roots.iter().find(|(name, _)| name == table) {
            Some((_, Some(root))) => self.pages.walk(*root, shape, visit),
            Some((_, None)) => None,
            None => Some(damage(format!("there is no table {table:?}"))),
        }
    }

    /// Reads the facts of the store.
    ///
    /// # Errors
    /// [`Damage`]
    pub fn meta(&self) -> Result<StoreMeta, Damage> {
        let mut meta = Vec::new();
        let gap = self.walk(self.format.meta, Shape::BYTES, &mut |entry| {
            meta.extend(entry.map(|(name, value)| (name.to_vec(), value.to_vec())));
        });
        let get = |name: &str| -> Result<Vec<u8>, Damage> {
            let missing = || gap.clone().unwrap_or(damage(format!("the fact {name:?} is missing")));
            let fact = meta.iter().find(|(known, _)| known == name.as_bytes());
            fact.map(|(_, value)| value.clone()).ok_or_else(missing)
        };
        let wrong = |name: &str| damage(format!("the fact {name:?} is not as it was written"));
        let key: [u8; 32] = get("key")?.try_into().map_err(|_| wrong("key"))?;
        let sealer = Sealer::new(&key);
        let numbers = |name: &str| -> Result<[u64; 2], Damage> {
            let value = get(name)?;
            let body = sealer.open_fact(name, &value).map_err(|_| wrong(name))?;
            let number = |part: &[u8]| part.try_into().map(u64::from_le_bytes).unwrap_or_default();
            let (one, two) = body.split_at(body.len().min(8));
            Ok([number(one), number(two)])
        };
        let ([format, _], known) = (numbers("format")?, self.format.number);
        if format != known {
            let text = format!("it has format {format}, and this version knows up to {FORMAT}");
            return Err(damage(text));
        }
        let ([term, _], [batch, _], [at, unix]) =
            (numbers("term")?, numbers("batch")?, numbers("clock")?);
        Ok(StoreMeta { key, term, batch, clock: (UnixMillis(at), UnixMillis(unix)) })
    }
}

// Keys of the former format were tuples encoded by redb: the length of the channel in one, three or
// five bytes, the number of the namespace, and the names.

fn former_namespace(key: &[u8]) -> Option<Key> {
    Some(Key::Namespace { ns: u64::from_le_bytes(key.try_into().ok()?) })
}

fn former_grant(key: &[u8]) -> Option<Key> {
    let (ns, channel, user) = former_names(key)?;
    let user = str::from_utf8(user).ok()?.into();
    Some(Key::Grant { ns, channel, user })
}

fn former_state(key: &[u8]) -> Option<Key> {
    let (ns, channel, user) = former_names(key)?;
    let user = match user.split_first()? {
        (0, []) => None,
        (1, user) => Some(str::from_utf8(user).ok()?.into()),
        _ => return None,
    };
    Some(Key::State { ns, state_key: StateKey { channel, user } })
}

fn former_names(key: &[u8]) -> Option<(u64, Box<str>, &[u8])> {
    let (length, rest) = match key.split_first()? {
        (254, rest) => {
            let (length, rest) = rest.split_first_chunk()?;
            (u16::from_le_bytes(*length) as usize, rest)
        }
        (255, rest) => {
            let (length, rest) = rest.split_first_chunk()?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        (length, rest) => (usize::from(*length), rest),
    };
    let (ns, names) = rest.split_first_chunk()?;
    let (channel, user) = names.split_at_checked(length)?;
    Some((u64::from_le_bytes(*ns), str::from_utf8(channel).ok()?.into(), user))
}
