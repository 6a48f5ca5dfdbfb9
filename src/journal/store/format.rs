//! Encoding of keys and values in the file. The encoding of keys is injective. Each value begins
//! with a tag, a keyed checksum (HMAC) over key and value, so that a client who chooses a value
//! cannot craft bytes that pass for another row.
//!
//! Both tables have byte slices as keys and values: redb's code is compiled once for each pair of
//! types, and takes 70 KB each time.

use std::borrow::Cow;
use std::ops::Range;

use hmac::{Hmac, KeyInit, Mac};
use redb::TableDefinition;
use sha2::Sha256;

use crate::hub::{Key, Row, StateKey};
use crate::time::UnixMillis;

/// Version of the format described here.
pub const FORMAT: u64 = 2;

/// Bytes of a tag.
const TAG_BYTES: usize = 16;
/// Bytes of the expiry time of a state; zero if it never expires.
const END_BYTES: usize = 8;

/// A redb table definition.
type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Facts about the store itself, by name.
pub const FACTS: Definition = TableDefinition::new("facts");
/// Namespaces, grants and states.
pub const ROWS: Definition = TableDefinition::new("rows");

/// First byte of the keys of rows, by kind.
const NAMESPACE: u8 = 1;
const GRANT: u8 = 2;
const STATE: u8 = 3;
/// Separates channel and user; never occurs in UTF-8.
const BETWEEN: u8 = 0xFF;

/// A row with an invalid tag or encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow;

/// Computes and verifies tags.
#[derive(Clone)]
pub struct Sealer(Hmac<Sha256>);

impl Sealer {
    /// Creates a sealer with the key of a store.
    pub fn new(key: &[u8; 32]) -> Sealer {
        // HMAC takes keys of any length; a key of one block is used without hashing.
        let mut block = [0; 64];
        block[..32].copy_from_slice(key);
        Sealer(Hmac::new(&block.into()))
    }

    fn tag(&self, table: u8, ns: u64, texts: [Option<&str>; 2], body: &[u8]) -> [u8; TAG_BYTES] {
        let mut mac = self.0.clone();
        mac.update(&[table]);
        mac.update(&ns.to_le_bytes());
        for text in texts {
            // Length prefixes: `None` differs from the empty name, and no text can run into the
            // next.
            mac.update(&text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
            mac.update(text.unwrap_or_default().as_bytes());
        }
        mac.update(body);
        let tag = mac.finalize().into_bytes();
        let mut short = [0; TAG_BYTES];
        short.copy_from_slice(&tag[..TAG_BYTES]);
        short
    }

    fn tag_of(&self, key: &Key, body: &[u8]) -> [u8; TAG_BYTES] {
        match key {
            Key::Namespace { ns } => self.tag(NAMESPACE, *ns, [None, None], body),
            Key::Grant { ns, channel, user } => {
                self.tag(GRANT, *ns, [Some(&**channel), Some(&**user)], body)
            }
            Key::State { ns, state_key } => {
                self.tag(STATE, *ns, [Some(&*state_key.channel), state_key.user.as_deref()], body)
            }
        }
    }

    /// Fills in the tag of a value that [`value`] made.
    pub fn seal(&self, key: &Key, value: &mut [u8]) {
        let (tag, body) = value.split_at_mut(TAG_BYTES);
        tag.copy_from_slice(&self.tag_of(key, body));
    }

    /// Verifies and decodes the value of a row.
    ///
    /// # Errors
    /// If it is not exactly what was written under this key.
    pub fn open<'a>(&self, key: &Key, value: &'a [u8]) -> Result<Row<'a>, BadRow> {
        let (tag, body) = value.split_at_checked(TAG_BYTES).ok_or(BadRow)?;
        if self.tag_of(key, body) != tag {
            return Err(BadRow);
        }
        match key {
            Key::Namespace { .. } => namespace(body),
            Key::Grant { .. } if body.is_empty() => Ok(Row::Grant),
            Key::Grant { .. } => Err(BadRow),
            Key::State { .. } => {
                let (end, text) = body.split_first_chunk::<END_BYTES>().ok_or(BadRow)?;
                let text = str::from_utf8(text).map_err(|_| BadRow)?.into();
                let end = u64::from_le_bytes(*end);
                Ok(Row::State { text, expires: (end > 0).then_some(UnixMillis(end)) })
            }
        }
    }

    /// Returns the value of a fact, with its tag.
    pub fn seal_fact(&self, name: &str, body: &[u8]) -> Vec<u8> {
        let mut value = self.tag(0, 0, [Some(name), None], body).to_vec();
        value.extend_from_slice(body);
        value
    }

    /// Verifies the value of a fact and returns its body.
    ///
    /// # Errors
    /// If it is not what was written under this name.
    pub fn open_fact<'a>(&self, name: &str, value: &'a [u8]) -> Result<&'a [u8], BadRow> {
        let (tag, body) = value.split_at_checked(TAG_BYTES).ok_or(BadRow)?;
        if self.tag(0, 0, [Some(name), None], body) == tag { Ok(body) } else { Err(BadRow) }
    }
}

/// Encodes the value of a row, with room for its tag.
pub fn value(row: &Row<'_>) -> Vec<u8> {
    let mut out = vec![0; TAG_BYTES];
    match row {
        Row::Grant => {}
        Row::State { text, expires } => {
            out.reserve_exact(END_BYTES + text.len());
            out.extend_from_slice(&expires.map_or(0, |end| end.0.max(1)).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        Row::Namespace { name, key, replaces, old_key } => {
            let (old_key, until) = match old_key {
                Some((old_key, until)) => (Some(old_key), until.0),
                None => (None, 0),
            };
            for text in [Some(name), key.as_ref(), replaces.as_ref(), old_key] {
                put(&mut out, text.map(|text| &**text));
            }
            out.extend_from_slice(&until.to_le_bytes());
        }
    }
    out
}

fn put(out: &mut Vec<u8>, text: Option<&str>) {
    let length = text.map_or(u32::MAX, |text| text.len() as u32);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.unwrap_or_default().as_bytes());
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<Option<Cow<'a, str>>, BadRow> {
    let (length, behind) = rest.split_first_chunk().ok_or(BadRow)?;
    let length = u32::from_le_bytes(*length);
    if length == u32::MAX {
        *rest = behind;
        return Ok(None);
    }
    let (text, behind) = behind.split_at_checked(length as usize).ok_or(BadRow)?;
    *rest = behind;
    Ok(Some(str::from_utf8(text).map_err(|_| BadRow)?.into()))
}

fn namespace(body: &[u8]) -> Result<Row<'_>, BadRow> {
    let mut rest = body;
    let name = take(&mut rest)?.ok_or(BadRow)?;
    let (key, replaces, old_key) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
    let until = UnixMillis(u64::from_le_bytes(rest.try_into().map_err(|_| BadRow)?));
    let old_key = old_key.map(|old_key| (old_key, until));
    Ok(Row::Namespace { name, key, replaces, old_key })
}

/// Returns the prefix of all keys of one kind in a namespace.
fn start(kind: u8, ns: u64) -> [u8; 9] {
    let mut start = [kind; 9];
    start[1..].copy_from_slice(&ns.to_be_bytes());
    start
}

/// Returns the key ranges of the grants and the states of a namespace.
pub fn ranges_of(ns: u64) -> [Range<[u8; 9]>; 2] {
    [GRANT, STATE].map(|kind| start(kind, ns)..start(kind, ns.saturating_add(1)))
}

/// Encodes the key of a row into `out`, replacing its content.
pub fn encode_key(key: &Key, out: &mut Vec<u8>) {
    let (kind, ns, channel, user) = match key {
        Key::Namespace { ns } => (NAMESPACE, ns, None, None),
        Key::Grant { ns, channel, user } => (GRANT, ns, Some(channel), Some(user)),
        Key::State { ns, state_key } => {
            (STATE, ns, Some(&state_key.channel), state_key.user.as_ref())
        }
    };
    out.clear();
    out.extend_from_slice(&start(kind, *ns));
    out.extend_from_slice(channel.map_or(&[], |channel| channel.as_bytes()));
    if let Some(user) = user {
        out.push(BETWEEN);
        out.extend_from_slice(user.as_bytes());
    }
}

/// Decodes the key of a row; `None` if it is not a valid key.
pub fn decode_key(key: &[u8]) -> Option<Key> {
    let (kind, rest) = key.split_first()?;
    let (ns, names) = rest.split_first_chunk()?;
    let ns = u64::from_be_bytes(*ns);
    let mut names = names.splitn(2, |byte| *byte == BETWEEN).map(str::from_utf8);
    let channel: Box<str> = names.next()?.ok()?.into();
    let user = names.next().transpose().ok()?.map(Box::from);
    match (*kind, user) {
        (NAMESPACE, None) if channel.is_empty() => Some(Key::Namespace { ns }),
        (GRANT, Some(user)) => Some(Key::Grant { ns, channel, user }),
        (STATE, user) => Some(Key::State { ns, state_key: StateKey { channel, user } }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<(Key, Row<'static>)> {
        let state_key = |channel: &str, user: Option<&str>| StateKey {
            channel: channel.into(),
            user: user.map(Into::into),
        };
        let state = |text: &'static str, expires| Row::State {
            text: text.into(),
            expires: Some(expires).filter(|end| *end > 0).map(UnixMillis),
        };
        vec![
            (
                Key::Namespace { ns: 1 },
                Row::Namespace {
                    name: "shop".into(),
                    key: Some("k".into()),
                    replaces: Some("r".into()),
                    old_key: Some(("o".into(), UnixMillis(7))),
                },
            ),
            (
                Key::Namespace { ns: 2 },
                Row::Namespace { name: "".into(), key: None, replaces: None, old_key: None },
            ),
            (Key::Grant { ns: 1, channel: "#a".into(), user: "b".into() }, Row::Grant),
            (Key::Grant { ns: 1, channel: "#".into(), user: "ab".into() }, Row::Grant),
            (Key::State { ns: 1, state_key: state_key("c", None) }, state("[1.0]", 0)),
            (Key::State { ns: 1, state_key: state_key("c", Some("")) }, state("[1.0]", 0)),
            (Key::State { ns: 1, state_key: state_key("", Some("c")) }, state("[1.0]", 99)),
        ]
    }

    #[test]
    fn rows_are_restored_and_any_change_is_detected() {
        let sealer = Sealer::new(&[7; 32]);
        for (key, row) in rows() {
            let mut bytes = value(&row);
            sealer.seal(&key, &mut bytes);
            assert_eq!(sealer.open(&key, &bytes), Ok(row.clone()));
            let mut name = Vec::new();
            encode_key(&key, &mut name);
            assert_eq!(decode_key(&name), Some(key.clone()));
            assert_eq!(Sealer::new(&[8; 32]).open(&key, &bytes), Err(BadRow), "another key");
            for (other, _) in rows().iter().filter(|(other, _)| *other != key) {
                assert_eq!(sealer.open(other, &bytes), Err(BadRow), "{other:?}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(sealer.open(&key, &bad), Err(BadRow), "bit {bit} of {key:?}");
            }
            for end in 0..bytes.len() {
                assert_eq!(sealer.open(&key, &bytes[..end]), Err(BadRow));
            }
        }
        let fact = sealer.seal_fact("term", b"1");
        assert_eq!(sealer.open_fact("term", &fact), Ok(&b"1"[..]));
        assert_eq!(sealer.open_fact("batch", &fact), Err(BadRow));
    }
}
