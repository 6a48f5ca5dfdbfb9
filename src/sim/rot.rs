//! Fuzz target for starts on a damaged store. Owns a store of a few batches, built once in each
//! process and always the same, and knows the rows recorded by each batch. Called by the fuzzer and
//! by the test that replays its corpus, never by the server.
//!
//! An input lists what happens to the files: a letter and its arguments, one after the other. A
//! place is three bytes, little-endian, modulo the length of the store; `b` is a byte.
//!
//! | letter | what happens |
//! |---|---|
//! | `x` place b | flips the bits `b` of the byte there |
//! | `w` place b bytes | overwrites `b` bytes |
//! | `z` place | fills the page around the place with zeros |
//! | `o` place b | sets the page around the place to its content after batch `b` |
//! | `g` b | sets the whole store to its content after batch `b` |
//! | `t` place | truncates the store there |
//! | `l` b | appends `b` pages of zeros |
//! | `n` | removes the store |
//! | `s` b b | flips bits of the seal: position, bits |
//! | `S` b | replaces the seal by that of batch `b` |
//! | `N` | removes the seal |
//! | `=` b bytes | takes `b` bytes as the seal and the rest of the input as the store |

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::disk::{SimFile, SimFolder};
use crate::hub::{Cursor, Hub, Key, Row, StateKey};
use crate::journal::store::{Batch, Home, Opened, Salvage, Seal, SealState, StoreMeta, Writer};
use crate::limits::{Limits, SyncPolicy};
use crate::time::{Millis, Now, UnixMillis};

const AT: UnixMillis = UnixMillis(1_800_000_000_000);
const NOW: Now = Now { mono: Millis(0), unix: AT };
const KEY: [u8; 32] = [7; 32];
/// Batches of the store after the empty one.
const BATCHES: usize = 5;
/// Page size of redb.
const PAGE_BYTES: usize = 4096;
/// Maximum size to which a script may grow the store, far above that of the undamaged one.
const STORE_BYTES_MAX: usize = 16 << 20;

/// All rows, in their debug format.
type Rows = BTreeMap<Key, String>;

/// The store after one of its batches.
struct Moment {
    store: Vec<u8>,
    rows: Rows,
}

/// Returns the store after each batch; the index is the batch number.
fn history() -> &'static [Moment] {
    static HISTORY: OnceLock<Vec<Moment>> = OnceLock::new();
    HISTORY.get_or_init(|| {
        let meta = |batch| StoreMeta { key: KEY, term: 1, batch, clock: (AT, AT) };
        let file = SimFile::default();
        let writer = Writer::create(file.clone(), &meta(0));
        drop(writer.expect("the disk is well"));
        let mut moments = vec![Moment { store: file.bytes(), rows: Rows::new() }];
        for number in 1..=BATCHES {
            let mut rows = moments[number - 1].rows.clone();
            let mut batch = batch(number as u64, &mut rows);
            let writer = Writer::open(file.clone(), &meta(number as u64 - 1), 0);
            writer.and_then(|mut writer| writer.write(&mut batch)).expect("the disk is well");
            moments.push(Moment { store: file.bytes(), rows });
        }
        moments
    })
}

/// Builds a batch with rows of every kind, and changes to earlier rows.
fn batch(number: u64, rows: &mut Rows) -> Batch {
    let mut batch = Batch { number, clock: (AT, AT), ..Batch::default() };
    let mut put = |key: Key, row: Row<'_>| {
        rows.insert(key.clone(), format!("{row:?}"));
        batch.push(key, Some(row));
    };
    let (name, key) = (format!("site {number}"), format!("key {number}"));
    let namespace = Row::Namespace {
        name: name.into(),
        key: (number != 2).then(|| key.clone().into()),
        replaces: (number == 3).then(|| "configured".into()),
        old_key: (number == 4).then(|| (Cow::from("before"), AT.plus(1000))),
    };
    put(Key::Namespace { ns: number }, namespace);
    for ns in 1..=number {
        let (channel, user) = (format!("#{number}").into(), "1".into());
        put(Key::Grant { ns, channel, user }, Row::Grant);
        let text = format!("\"{}\"", "x".repeat(700 * number as usize)).into();
        let state_key = StateKey { channel: "c".into(), user: None };
        put(Key::State { ns, state_key }, Row::State { text, expires: None });
        let state_key =
            StateKey { channel: "@c".into(), user: Some(format!("user {number}").into()) };
        let expires = Some(AT.plus(60_000 * number));
        put(Key::State { ns, state_key }, Row::State { text: "[1,2]".into(), expires });
    }
    batch
}

fn seal_of(batch: usize) -> Vec<u8> {
    Seal { key: KEY, batch: batch as u64 }.encode()
}

/// The two files, as the script changes them.
struct Damaged {
    store: Option<Vec<u8>>,
    seal: Vec<u8>,
}

impl Damaged {
    fn by(mut script: &[u8]) -> Damaged {
        let store = history()[BATCHES].store.clone();
        let mut damaged = Damaged { store: Some(store), seal: seal_of(BATCHES) };
        while damaged.one(&mut script).is_some() {}
        damaged
    }

    /// Applies one step of the script; `None` at its end.
    fn one(&mut self, script: &mut &[u8]) -> Option<()> {
        let letter = byte(script)?;
        match letter {
            b's' => {
                let at = usize::from(byte(script)?) % self.seal.len().max(1);
                let bits = byte(script)?;
                self.seal.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
            }
            b'S' => self.seal = seal_of(usize::from(byte(script)?)),
            b'N' => self.seal.clear(),
            b'n' => self.store = None,
            b'g' => self.store = Some(moment(script)?.store.clone()),
            b'=' => {
                let most = usize::from(byte(script)?).min(script.len());
                let (seal, store) = script.split_at(most);
                self.seal = seal.to_vec();
                (self.store, *script) = (Some(store.to_vec()), &[]);
            }
            _ => self.bytes(letter, script)?,
        }
        Some(())
    }

    /// Changes the bytes of the store.
    fn bytes(&mut self, letter: u8, script: &mut &[u8]) -> Option<()> {
        let Some(store) = &mut self.store else { return Some(()) };
        if letter == b'l' {
            let more = usize::from(byte(script)?) * PAGE_BYTES;
            store.resize((store.len() + more).min(STORE_BYTES_MAX), 0);
            return Some(());
        }
        if !b"xwzot".contains(&letter) {
            return Some(());
        }
        let place = script.split_off(..3)?;
        let place = place.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let at = place % store.len().max(1);
        let page = at / PAGE_BYTES * PAGE_BYTES;
        match letter {
            b'x' => {
                let bits = byte(script)?;
                store.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
            }
            b'w' => {
                let most = usize::from(byte(script)?).min(script.len());
                let bytes = script.split_off(..most)?;
                store.iter_mut().skip(at).zip(bytes).for_each(|(old, new)| *old = *new);
            }
            b'z' => store.iter_mut().skip(page).take(PAGE_BYTES).for_each(|byte| *byte = 0),
            b'o' => {
                let before = moment(script)?.store.iter().skip(page).take(PAGE_BYTES);
                store.iter_mut().skip(page).zip(before).for_each(|(new, old)| *new = *old);
            }
            _ => store.truncate(at),
        }
        Some(())
    }
}

fn byte(script: &mut &[u8]) -> Option<u8> {
    script.split_off_first().copied()
}

fn moment(script: &mut &[u8]) -> Option<&'static Moment> {
    let number = usize::from(byte(script)?);
    history().get(number % history().len())
}

/// Fuzz target: starts on damaged files. The start either fails with an error, or serves exactly
/// what was recorded with one of the batches, none older than the seal's. Every row that can be
/// salvaged must be one that was written.
///
/// # Panics
/// If anything else is served, or if the next start does not serve the same.
pub fn fuzz_store_recovery(data: &[u8]) {
    crate::log::mute(true);
    let Damaged { store, seal } = Damaged::by(data);
    let found = SealState::in_file(&seal);
    let folder = SimFolder::with(store, found.clone());
    save(&folder, &found);
    match start(&folder) {
        Ok((batch, rows)) => {
            let there = history().get(batch as usize).map(|moment| &moment.rows);
            assert_eq!(Some(&rows), there, "what was recorded with batch {batch}");
            if let SealState::Seal(seal) = found {
                assert!(seal.batch <= batch, "batch {} was durable", seal.batch);
            }
            assert_eq!(start(&folder), Ok((batch, rows)), "the next start");
        }
        Err(error) => assert!(!error.is_empty()),
    }
    let size = folder.store().bytes().len();
    assert!(size <= STORE_BYTES_MAX + PAGE_BYTES, "{size} bytes");
}

/// Salvages a damaged file, and checks that each row found is one that was written.
fn save(folder: &SimFolder, found: &SealState) {
    let key = match found {
        SealState::Seal(seal) => Some(seal.key),
        SealState::Nothing | SealState::Damaged => None,
    };
    let Ok(salvage) = Salvage::open(|| folder.read(), key) else { return };
    salvage.each(&mut |key, row| {
        let row = format!("{row:?}");
        let is_known = history().iter().any(|moment| moment.rows.get(&key) == Some(&row));
        assert!(is_known, "{key:?}: {row}");
    });
}

/// Starts, and returns the last batch found and the rows of the hub; or why the start failed.
fn start(folder: &SimFolder) -> Result<(u64, Rows), String> {
    let opened = Opened::verify(folder.clone(), NOW).map_err(|error| error.to_string())?;
    let batch = opened.content().meta.batch;
    let mut hub = Hub::new(Limits::default(), opened.at(NOW));
    let started = opened.start_stepped(&mut hub, NOW, SyncPolicy::Always, &Limits::default());
    started.map_err(|error| error.to_string())?;
    let (mut rows, mut cursor) = (Rows::new(), Some(Cursor::default()));
    while let Some(from) = cursor {
        cursor = hub.rows(from, |key, row| {
            rows.insert(key, format!("{row:?}"));
            true
        });
    }
    Ok((batch, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(script: &[u8]) -> Result<u64, String> {
        let Damaged { store, seal } = Damaged::by(script);
        let folder = SimFolder::with(store, SealState::in_file(&seal));
        start(&folder).map(|(batch, rows)| {
            assert_eq!(rows, history()[batch as usize].rows);
            batch
        })
    }

    #[test]
    fn intact_stores_are_served_and_damaged_ones_refused() {
        let last = BATCHES as u64;
        assert_eq!(served(b""), Ok(last));
        assert_eq!(served(b"g\x02S\x01"), Ok(2));
        assert_eq!(served(b"l\x02"), served(b""));
        assert_eq!(served(b"nN"), Ok(0), "neither a store nor a seal: a new folder");
        for (script, error) in [
            (&b"g\x02"[..], "it ends with batch 2, and batch 5 was durable"),
            (b"n", "is gone"),
            (b"ns\x00\x01", "is gone"),
            (b"t\0\0\0", "the file is empty"),
            (b"x\0\0\0\x01", "is damaged"),
            (b"=\x04sealnonsense", "is damaged"),
        ] {
            let found = served(script);
            assert!(found.as_ref().is_err_and(|found| found.contains(error)), "{found:?}");
        }
    }

    #[test]
    fn the_fuzz_target_accepts_any_input() {
        for script in [&b""[..], b"=", b"=\xff", b"x", b"w\x01\x02\x03\xffabc", b"o\0\x10\0\x01"] {
            fuzz_store_recovery(script);
        }
    }
}
