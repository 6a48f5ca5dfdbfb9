//! Salvage of a damaged store: whatever is broken in the file, every row read is one that was
//! written, and most of the written rows are read.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use fws::hub::{Key, Row, StateKey};
use fws::journal::store::{Batch, Content, Lost, Salvage, StoreMeta, Writer};
use fws::sim::disk::SimFile;
use fws::time::UnixMillis;
use redb::StorageBackend;

const KEY: [u8; 32] = [7; 32];
const STATES: usize = 150;

fn rows() -> BTreeMap<Key, Row<'static>> {
    let mut rows = BTreeMap::new();
    let (replaces, old_key) = (None, None);
    let row = Row::Namespace { name: "shop".into(), key: Some("k".into()), replaces, old_key };
    rows.insert(Key::Namespace { ns: 1 }, row);
    for i in 0..STATES {
        let user = (i % 2 == 0).then(|| format!("{i}").into());
        let state_key = StateKey { channel: format!("channel {i}").into(), user };
        let text = format!("\"{i} {}\"", "x".repeat(i % 300)).into();
        rows.insert(Key::State { ns: 1, state_key }, Row::State { text, expires: None });
        let (channel, user) = ("#vip".into(), format!("user {i}").into());
        rows.insert(Key::Grant { ns: 1, channel, user }, Row::Grant);
    }
    rows
}

/// The bytes of a store with these rows, closed cleanly or as a crash leaves it.
fn file(is_clean: bool) -> Vec<u8> {
    let file = SimFile::new(Vec::new());
    let clock = (UnixMillis(1), UnixMillis(1));
    let meta = StoreMeta { key: KEY, term: 1, batch: 0, clock };
    let mut writer = Writer::create(file.clone(), &meta).unwrap();
    let rows: Vec<(Key, Row<'static>)> = rows().into_iter().collect();
    for (i, part) in rows.chunks(50).enumerate() {
        let mut batch = Batch { number: i as u64 + 1, clock, ..Batch::default() };
        for (key, row) in part {
            batch.push(key.clone(), Some(row.clone()));
        }
        writer.write(&mut batch).unwrap();
    }
    if is_clean {
        drop(writer);
        return file.bytes();
    }
    let bytes = file.bytes();
    drop(writer);
    bytes
}

/// How many rows can be read, each verified to be as written; `None` if the file cannot be opened.
fn read(bytes: &[u8], key: Option<[u8; 32]>) -> Option<(usize, Lost, bool)> {
    static EXPECTED: LazyLock<BTreeMap<Key, Row<'static>>> = LazyLock::new(rows);
    let expected = &*EXPECTED;
    let salvage = Salvage::open(|| Ok(SimFile::new(bytes.to_vec())), key).ok()?;
    let mut found = BTreeMap::new();
    let lost = salvage.each(&mut |key, row| {
        assert_eq!(expected.get(&key), Some(&row), "{key:?}");
        assert!(found.insert(key, ()).is_none(), "a row came twice");
    });
    Some((found.len(), lost, salvage.doubt.is_some()))
}

#[test]
fn an_intact_file_is_read_completely() {
    for is_clean in [true, false] {
        let found = read(&file(is_clean), None).unwrap();
        assert_eq!(found, (rows().len(), Lost::default(), false));
    }
}

#[test]
fn a_flipped_bit_loses_few_rows_and_invents_none() {
    let bytes = file(false);
    let (mut tries, mut shut, mut most, mut silent) = (0, 0, 0, 0);
    for at in (0..bytes.len()).step_by(419) {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        tries += 1;
        let Some((found, lost, _)) = read(&bad, Some(KEY)) else {
            shut += 1;
            continue;
        };
        most += usize::from(found * 10 >= rows().len() * 9);
        // The commit before the last one is also valid, but lacks the last rows.
        silent += usize::from(found + 1 < rows().len() && lost == Lost::default());
    }
    assert!(tries > 100, "{tries}");
    assert!(shut * 50 <= tries, "{shut} of {tries} could not be opened");
    assert!(most * 100 >= tries * 95, "most rows were read only for {most} of {tries}");
    assert!(silent * 50 <= tries, "rows were lost unreported for {silent} of {tries}");
}

/// A file that records the size of its largest read.
#[derive(Debug)]
struct Counted(SimFile, Arc<AtomicUsize>);

impl StorageBackend for Counted {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.1.fetch_max(out.len(), Ordering::Relaxed);
        self.0.read(offset, out)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// Corrupts a byte of a page's size, which may then claim 8 TiB, and a byte of its entry count.
#[test]
fn a_corrupt_page_size_does_not_cause_large_reads() {
    let (bytes, expected) = (file(false), rows());
    let most = Arc::new(AtomicUsize::new(0));
    let mut tries = 0;
    let heads = (0..bytes.len() / 4096).filter(|page| [1, 2].contains(&bytes[page * 4096]));
    for page in heads.map(|page| page * 4096).chain([64, 192]) {
        // Page numbers are in the file header, and after the head of a branch page.
        for at in (page..page + 512).filter(|at| at % 8 == 7 && bytes[*at] == 0) {
            let mut bad = bytes.clone();
            bad[at] = 0xF8;
            bad[page + 2] ^= 0x40;
            let open = || Ok(Counted(SimFile::new(bad.clone()), most.clone()));
            if let Ok(salvage) = Salvage::open(open, Some(KEY)) {
                salvage.each(&mut |key, row| assert_eq!(expected.get(&key), Some(&row)));
            }
            tries += 1;
        }
    }
    let most = most.load(Ordering::Relaxed);
    assert!(tries > 100 && most <= bytes.len(), "a read of {most} bytes in {tries} tries");
}

#[test]
fn torn_files_do_not_panic() {
    let bytes = file(false);
    for part in 1..16 {
        let _ = read(&bytes[..bytes.len() * part / 16], Some(KEY));
        let mut bad = bytes.clone();
        let from = bytes.len() * part / 16;
        bad[from..(from + 8192).min(bytes.len())].fill(0);
        let _ = read(&bad, Some(KEY));
    }
    assert_eq!(read(&[], Some(KEY)), None);
    assert_eq!(read(&[1; 10_000], Some(KEY)), None);
}

#[test]
fn salvage_works_with_the_key_from_the_seal() {
    let mut bytes = file(true);
    // The key is stored in the clear; older pages have copies of it.
    let places: Vec<usize> =
        bytes.windows(KEY.len()).enumerate().filter(|(_, w)| *w == KEY).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 1;
    }
    let (found, lost, is_doubtful) = read(&bytes, Some(KEY)).unwrap();
    assert_eq!((found, lost, is_doubtful), (rows().len(), Lost::default(), true));
    assert_eq!(read(&bytes, None), None, "without a key no row can be verified");
}

/// A start and an export read a verified store a second time, and must report a row that they
/// cannot read by then.
#[test]
fn a_row_corrupted_after_verification_is_an_error() {
    let store = SimFile::new(file(true));
    let content = Content::read(store.clone()).unwrap();
    let (bytes, text) = (store.bytes(), b"\"77 xxx");
    let places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text));
    places.for_each(|at| store.write(at as u64, b"?").unwrap());
    let mut count = 0;
    let wrong = content.each(&mut |_, _| count += 1).unwrap_err().to_string();
    assert_eq!((wrong.as_str(), count), ("a state in namespace number 1: a wrong tag", 2 * STATES));
}
