//! Snapshots of a store beside its writer. The disk is a recording of what the writer did to its
//! file, played back sector by sector between the reads of the snapshot. Each snapshot must be
//! exactly what one durable batch left, not one before the last that was durable when it began.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fws::hub::{Key, Row, StateKey};
use fws::journal::store::{
    Batch, Content, NoSnapshot, Seal, SealState, StoreMeta, Writer, snapshot,
};
use fws::sim::Prng;
use fws::sim::disk::{Call, Failure, SimFile};
use fws::time::UnixMillis;
use redb::StorageBackend;

const AT: UnixMillis = UnixMillis(1_800_000_000_000);
const KEY: [u8; 32] = [7; 32];
/// The unit in which a write becomes visible.
const SECTOR_BYTES: usize = 512;

/// All rows, in their debug format.
type Rows = BTreeMap<Key, String>;

fn meta(batch: u64) -> StoreMeta {
    StoreMeta { key: KEY, term: 1, batch, clock: (AT, AT) }
}

fn seal(batch: u64) -> SealState {
    SealState::Seal(Seal { key: KEY, batch })
}

fn state(number: usize) -> Key {
    let state_key = StateKey { channel: format!("channel {number}").into(), user: None };
    Key::State { ns: 1, state_key }
}

fn batch(number: u64) -> Batch {
    Batch { number, clock: (AT, AT.plus(number)), ..Batch::default() }
}

/// A store with one namespace and so many states.
fn first(states: usize) -> Batch {
    let mut first = batch(1);
    let (name, key) = ("a".into(), Some("k".into()));
    first.push(
        Key::Namespace { ns: 1 },
        Some(Row::Namespace { name, key, replaces: None, old_key: None }),
    );
    for number in 0..states {
        first.push(state(number), Some(Row::State { text: "0".into(), expires: None }));
    }
    first
}

fn rows(content: &Content) -> Rows {
    let mut rows = Rows::new();
    content.each(&mut |key, row| drop(rows.insert(key, format!("{row:?}")))).unwrap();
    rows
}

fn read(bytes: Vec<u8>) -> (u64, Rows) {
    let content = Content::read(SimFile::new(bytes)).unwrap();
    (content.meta.batch, rows(&content))
}

/// What a writer did to its file.
struct Recording {
    began: Vec<u8>,
    calls: Vec<Call>,
    /// Each batch that became durable, the rows after it, and how many calls there were before the
    /// seal named it.
    batches: Vec<(u64, Rows, usize)>,
}

/// Records batches of a few changes each, with compactions, restarts and full disks among them.
fn record(states: usize, count: u64, prng: &mut Prng) -> Recording {
    let file = SimFile::default();
    let mut writer = Writer::create(file.clone(), &meta(0)).unwrap();
    writer.write(&mut first(states)).unwrap();
    drop(writer);
    let began = file.bytes();
    let (mut number, mut now) = read(began.clone());
    let mut batches = vec![(number, now.clone(), 0)];
    let file = SimFile::new(began.clone());
    let mut writer = Writer::open(file.clone(), &meta(number), 0).unwrap();
    for _ in 0..count {
        let (mut next, mut rows) = (batch(number + 1), now.clone());
        for _ in 0..=prng.below(4) {
            let key = state(prng.below(states * 2));
            let longest = if prng.one_in(20) { 20_000 } else { 40 };
            let text = format!("\"{}\"", "x".repeat(prng.below(longest)));
            let row = Row::State { text: text.into(), expires: None };
            let is_gone = prng.one_in(4);
            rows.remove(&key);
            if !is_gone {
                rows.insert(key.clone(), format!("{row:?}"));
            }
            next.rows.retain(|(other, _)| *other != key);
            next.push(key, Some(row).filter(|_| !is_gone));
        }
        if prng.one_in(10) {
            file.fail(prng.below(12) as u64, 1, Failure::Space);
        }
        let written = writer.write(&mut next);
        file.mend();
        // As the server does, which refuses what is in the batch and never uses its number again.
        number += 1;
        if written.is_ok() {
            now = rows;
            batches.push((number, now.clone(), file.calls().len()));
        }
        let durable = batches.last().unwrap().0;
        if written.is_err() {
            drop(writer);
            writer = Writer::reopen(file.clone(), &meta(durable), 0).unwrap();
        } else if prng.one_in(12) {
            writer.compact().unwrap();
        } else if prng.one_in(12) {
            drop(writer);
            writer = Writer::open(file.clone(), &meta(durable), 0).unwrap();
            writer.begin(&StoreMeta { term: 2, ..meta(durable) }).unwrap();
        }
    }
    drop(writer);
    Recording { began, calls: file.calls(), batches }
}

/// A file that is played back.
#[derive(Debug)]
struct Playing {
    bytes: Vec<u8>,
    calls: Vec<Call>,
    /// The next call, and how much of it has been done.
    next: usize,
    done: usize,
    prng: Prng,
    /// So many steps before each read, on average, as a fraction.
    pace: (usize, usize),
}

impl Playing {
    fn step(&mut self) {
        let Some(call) = self.calls.get(self.next) else { return };
        match call {
            Call::Write(offset, data) => {
                let part = &data[self.done..data.len().min(self.done + SECTOR_BYTES)];
                let at = *offset as usize + self.done;
                let end = at + part.len();
                self.bytes.resize(self.bytes.len().max(end), 0);
                self.bytes[at..end].copy_from_slice(part);
                self.done += part.len();
                if self.done < data.len() {
                    return;
                }
            }
            Call::SetLen(len) => self.bytes.resize(*len as usize, 0),
            Call::Sync => {}
        }
        (self.next, self.done) = (self.next + 1, 0);
    }

    fn play(&mut self) {
        let (steps, of) = self.pace;
        for _ in 0..steps {
            if self.prng.one_in(of) {
                self.step();
            }
        }
    }
}

/// A handle to the file that is played back.
#[derive(Clone, Debug)]
struct Player(Arc<Mutex<Playing>>);

/// The part of a backend that a snapshot never uses.
macro_rules! refuse_changes {
    () => {
        fn set_len(&self, _: u64) -> Result<()> {
            Err(Error::other("a snapshot changes nothing"))
        }

        fn sync_data(&self) -> Result<()> {
            self.set_len(0)
        }

        fn write(&self, _: u64, _: &[u8]) -> Result<()> {
            self.set_len(0)
        }
    };
}

impl StorageBackend for Player {
    fn len(&self) -> Result<u64> {
        let mut playing = self.0.lock().unwrap();
        playing.play();
        Ok(playing.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut playing = self.0.lock().unwrap();
        // A read may see a part of what is being written.
        for (n, part) in out.chunks_mut(SECTOR_BYTES).enumerate() {
            if n % 4 == 0 {
                playing.play();
            }
            let from = offset as usize + n * SECTOR_BYTES;
            let there = playing.bytes.get(from..from + part.len());
            part.copy_from_slice(there.ok_or(ErrorKind::UnexpectedEof)?);
        }
        Ok(())
    }

    refuse_changes!();
}

impl Recording {
    fn player(&self, pace: (usize, usize), from: usize, seed: u64) -> Player {
        let (bytes, calls, prng) = (self.began.clone(), self.calls.clone(), Prng::new(seed));
        let mut playing = Playing { bytes, calls, next: 0, done: 0, prng, pace };
        while playing.next < from {
            playing.step();
        }
        Player(Arc::new(Mutex::new(playing)))
    }

    /// The last batch that the seal names at this moment.
    fn sealed(&self, player: &Player) -> u64 {
        let next = player.0.lock().unwrap().next;
        self.batches.iter().rfind(|(.., calls)| *calls <= next).unwrap().0
    }
}

#[test]
fn a_snapshot_is_what_one_durable_batch_left() {
    let mut prng = Prng::new(1);
    let (mut at_once, mut during, mut last) = (0, 0, 0);
    for round in 0..24 {
        let recording = record([3, 40, 400][round % 3], 150, &mut prng);
        for pace in [(1, 400), (1, 40), (1, 4), (1, 1), (8, 1), (60, 1)] {
            let from = prng.below(recording.calls.len());
            let player = recording.player(pace, from, prng.next());
            let begun = recording.sealed(&player);
            let content = snapshot(
                || Ok(player.clone()),
                || Ok(seal(recording.sealed(&player))),
                SimFile::default(),
                || (0..50).for_each(|_| player.0.lock().unwrap().step()),
            );
            let content = content.unwrap_or_else(|why| panic!("{round}, {pace:?}: {why:?}"));
            let (number, ended) = (content.meta.batch, recording.sealed(&player));
            assert!((begun..=ended).contains(&number), "{begun} {number} {ended}");
            let (_, known, _) =
                recording.batches.iter().find(|(known, ..)| *known == number).unwrap();
            assert_eq!(rows(&content), *known, "{round}, {pace:?}, batch {number}");
            let is_over = ended == recording.batches.last().unwrap().0;
            *(if number == begun {
                &mut at_once
            } else if is_over {
                &mut last
            } else {
                &mut during
            }) += 1;
        }
    }
    // All of them happen: the first attempt, a later one, and only when nothing changes any more.
    println!("{at_once} {during} {last}");
    assert!(at_once > 10 && during > 10 && last > 10, "{at_once} {during} {last}");
}

/// A writer that changes everything between any two reads, for ever.
#[derive(Clone, Debug)]
struct Restless(SimFile, Arc<Mutex<(Option<WriterBox>, u64)>>);

struct WriterBox(Writer);

impl std::fmt::Debug for WriterBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Restless {
    fn new(states: usize) -> Restless {
        let file = SimFile::default();
        let mut writer = Writer::create(file.clone(), &meta(0)).unwrap();
        writer.write(&mut first(states)).unwrap();
        Restless(file, Arc::new(Mutex::new((Some(WriterBox(writer)), 1))))
    }

    /// Writes a batch that changes some states, and returns its number.
    fn change(&self, states: std::ops::Range<usize>) -> u64 {
        let (writer, number) = &mut *self.1.lock().unwrap();
        *number += 1;
        let mut batch = batch(*number);
        for state_number in states {
            let text = number.to_string().into();
            batch.push(state(state_number), Some(Row::State { text, expires: None }));
        }
        writer.as_mut().unwrap().0.write(&mut batch).unwrap();
        *number
    }

    /// Writes a batch that makes one state so long.
    fn enlarge(&self, bytes: usize) {
        let (writer, number) = &mut *self.1.lock().unwrap();
        *number += 1;
        let mut batch = batch(*number);
        let text = format!("\"{number} {}\"", "x".repeat(bytes)).into();
        batch.push(state(0), Some(Row::State { text, expires: None }));
        writer.as_mut().unwrap().0.write(&mut batch).unwrap();
    }

    fn sealed(&self) -> u64 {
        self.1.lock().unwrap().1
    }
}

/// Reads a file, and does something before each read.
#[derive(Clone)]
struct Before(SimFile, Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Before {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl StorageBackend for Before {
    fn len(&self) -> Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        (self.1)();
        self.0.read(offset, out)
    }

    refuse_changes!();
}

fn text(found: std::result::Result<Content, NoSnapshot>) -> String {
    match found {
        Ok(content) => format!("batch {}", content.meta.batch),
        Err(NoSnapshot::Unread(error)) => format!("unread: {error}"),
        Err(NoSnapshot::Unwritten(error)) => format!("unwritten: {error}"),
        Err(NoSnapshot::Damaged(damage)) => format!("damaged: {damage}"),
        Err(NoSnapshot::Busy(why)) => format!("busy: {why}"),
    }
}

#[test]
fn a_file_that_never_rests_is_given_up() {
    let file = Restless::new(30);
    let writer = file.clone();
    let reader =
        Before(file.0.clone(), Arc::new(move || (0..2).for_each(|_| _ = writer.change(0..3))));
    let found =
        snapshot(|| Ok(reader.clone()), || Ok(seal(file.sealed())), SimFile::default(), || ());
    assert_eq!(text(found), "busy: it changes faster than it can be read");
    // Without a seal that is not why.
    let open = || {
        file.change(0..3);
        Ok(reader.clone())
    };
    let found = snapshot(open, || Ok(SealState::Nothing), SimFile::default(), || ());
    assert_eq!(text(found), "busy: store.seal, which says what is durable, is gone or damaged");
}

#[test]
fn a_page_that_rots_is_found_whether_the_file_rests_or_not() {
    for changed in [0..0, 0..1, 0..20] {
        let file = Restless::new(2000);
        // Far from the states that change: `channel 0` sorts before `channel 999`.
        let bytes = file.0.bytes();
        let at = bytes.windows(11).rposition(|bytes| bytes == b"channel 999").unwrap();
        file.0.write(at as u64 + 7, b"#").unwrap();
        let writer = file.clone();
        let (states, reads) = (changed.clone(), AtomicU64::new(0));
        let reader = Before(
            file.0.clone(),
            Arc::new(move || {
                if !states.is_empty() && reads.fetch_add(1, Ordering::Relaxed) % 20 == 19 {
                    writer.change(states.clone());
                }
            }),
        );
        let pauses = Cell::new(0);
        let found = snapshot(
            || Ok(reader.clone()),
            || Ok(seal(file.sealed())),
            SimFile::default(),
            || pauses.set(pauses.get() + 1),
        );
        assert_eq!(text(found), "damaged: a page is not as it was written", "{changed:?}");
        assert!(pauses.get() < 20, "{} pauses", pauses.get());
    }
}

#[test]
fn a_batch_that_the_seal_does_not_name_is_not_read() {
    let file = Restless::new(10);
    let taken = |sealed: &dyn Fn() -> SealState, pause: &dyn Fn()| {
        text(snapshot(|| Ok(file.0.clone()), || Ok(sealed()), SimFile::default(), pause))
    };
    let last = file.change(0..3);
    assert_eq!(taken(&|| seal(last), &|| ()), format!("batch {last}"));
    // The last batch may be acknowledged, and the seal not be written; unless it is named soon.
    let unsealed = "busy: store.seal does not say that its last batch is durable";
    assert_eq!(taken(&|| seal(last - 1), &|| ()), unsealed);
    let pauses = Cell::new(0);
    let late = || seal(if pauses.get() < 3 { last - 1 } else { last });
    let found = taken(&late, &|| pauses.set(pauses.get() + 1));
    assert_eq!((found, pauses.get()), (format!("batch {last}"), 3));
    // Neither commit is named; the seal is written during the third pause.
    let (last, pauses) = (file.change(0..3), Cell::new(0));
    let late = || seal(if pauses.get() < 3 { last - 2 } else { last });
    assert_eq!(taken(&late, &|| pauses.set(pauses.get() + 1)), format!("batch {last}"));
    assert_eq!(pauses.get(), 3);
    assert_eq!(taken(&|| seal(last - 2), &|| ()), unsealed);
    let text = "busy: store.seal, which says what is durable, is gone or damaged";
    assert_eq!(taken(&|| SealState::Nothing, &|| ()), text);
    assert_eq!(taken(&|| SealState::Damaged, &|| ()), text);
    let text = format!("damaged: it ends with batch {last}, and batch {} was durable", last + 1);
    assert_eq!(taken(&|| seal(last + 1), &|| ()), text);
    let other = SealState::Seal(Seal { key: [8; 32], batch: last });
    assert_eq!(taken(&|| other.clone(), &|| ()), "damaged: its seal belongs to another store");
}

/// The last batch is acknowledged and not in the seal, which could not be written. That the seal is
/// written again says nothing of it.
#[test]
fn nothing_older_than_what_may_be_acknowledged_is_read() {
    let file = Restless::new(10);
    let unnamed = file.change(0..3);
    let (pauses, sealed) = (Cell::new(0), Cell::new(unnamed - 1));
    let found = snapshot(
        || Ok(file.0.clone()),
        || Ok(seal(sealed.get())),
        SimFile::default(),
        || {
            pauses.set(pauses.get() + 1);
            if pauses.get() == 3 {
                sealed.set(file.change(0..3));
            }
        },
    );
    assert_eq!((text(found), pauses.get()), (format!("batch {}", unnamed + 1), 3));
    // The next one is on its way when the seal names what came after the first header.
    let (unnamed, before) = (file.change(0..3), sealed.get());
    let (pauses, sealed) = (Cell::new(0), Cell::new(before));
    let found = snapshot(
        || Ok(file.0.clone()),
        || Ok(seal(sealed.get())),
        SimFile::default(),
        || {
            pauses.set(pauses.get() + 1);
            if pauses.get() == 3 {
                sealed.set(file.change(0..3));
                file.change(0..3);
            }
        },
    );
    assert_eq!((text(found), pauses.get()), (format!("batch {}", unnamed + 1), 3));
}

/// The server fails to write the last batch and takes it back, as the guard of its file does.
#[test]
fn a_batch_that_is_taken_back_is_not_waited_for() {
    let file = Restless::new(10);
    let (header, last) = (file.0.bytes()[..4096].to_vec(), file.sealed());
    let pauses = Cell::new(0);
    // A batch that is not durable overwrites no page of the one before it.
    file.change(0..3);
    let found = snapshot(
        || Ok(file.0.clone()),
        || Ok(seal(last)),
        SimFile::default(),
        || {
            pauses.set(pauses.get() + 1);
            if pauses.get() == 3 {
                file.0.write(0, &header).unwrap();
            }
        },
    );
    assert_eq!((text(found), pauses.get()), (format!("batch {last}"), 3));
}

/// How often the file is read through is bounded, whatever part of it changes.
#[test]
fn a_large_file_that_never_rests_is_given_up_soon() {
    let file = Restless::new(30);
    let (writer, reads) = (file.clone(), Arc::new(AtomicU64::new(0)));
    let counter = reads.clone();
    let reader = Before(
        file.0.clone(),
        Arc::new(move || {
            // After the header and the roots of the tables.
            if counter.fetch_add(1, Ordering::Relaxed) >= 4 {
                (0..3).for_each(|_| _ = writer.change(1..4));
            }
        }),
    );
    let opened = Cell::new(0);
    let open = || {
        opened.set(opened.get() + 1);
        file.enlarge(2 << 20);
        reads.store(0, Ordering::Relaxed);
        Ok(reader.clone())
    };
    let found = snapshot(open, || Ok(seal(file.sealed())), SimFile::default(), || ());
    assert_eq!(text(found), "busy: it changes faster than it can be read");
    assert!(opened.get() < 100, "{} attempts", opened.get());
}

#[test]
fn a_file_that_is_replaced_meanwhile_is_read_from_the_start() {
    let (one, two) = (Restless::new(500), Restless::new(500));
    while two.sealed() < 30 {
        two.change(0..500);
    }
    let file = Arc::new(Mutex::new((one.0.clone(), one.sealed(), 0)));
    // The pages of the first one are overwritten once the second is in its place.
    let (shared, first) = (file.clone(), one.clone());
    let found = snapshot(
        || {
            let (shared, first, second) = (shared.clone(), first.clone(), two.clone());
            let path = shared.lock().unwrap().0.clone();
            Ok(Before(
                path,
                Arc::new(move || {
                    let (file, sealed, reads) = &mut *shared.lock().unwrap();
                    *reads += 1;
                    if *reads == 6 {
                        (*file, *sealed) = (second.0.clone(), second.sealed());
                        (0..5).for_each(|_| _ = first.change(0..500));
                    }
                }),
            ))
        },
        || Ok(seal(file.lock().unwrap().1)),
        SimFile::default(),
        || (),
    );
    assert_eq!(text(found), "batch 30");
}

#[test]
fn a_scratch_file_that_is_full_ends_it() {
    let file = Restless::new(2000);
    let scratch = SimFile::default();
    scratch.fail(5, u64::MAX, Failure::Space);
    let found = snapshot(|| Ok(file.0.clone()), || Ok(seal(1)), scratch, || ());
    assert!(text(found).starts_with("unwritten: No space left on device"));
    let opened = RefCell::new(Vec::new());
    let gone = || {
        opened.borrow_mut().push(());
        Err::<SimFile, _>(ErrorKind::NotFound.into())
    };
    let found = snapshot(gone, || Ok(seal(1)), SimFile::default(), || ());
    assert!(text(found).starts_with("unread: ") && opened.borrow().len() == 1);
}
