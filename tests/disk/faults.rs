//! The store over a disk that loses power, fails or rots. Each file is read as a start reads it:
//! everything acknowledged must be there and nothing else, and damage must be detected.
//!
//! `FWS_POWERCUT_STATES=N` explores `N` states after power cuts (`make powercut`),
//! `FWS_BITROT=all` flips every bit (`make bitrot`).

use std::collections::BTreeMap;

use fws::hub::{Change, Cursor, Hub, Key, NsId, Outbox, Undo};
use fws::journal::store::{Batch, Content, Damage, Fault, Opened, SealState, StoreMeta, Writer};
use fws::journal::{Journal, Proposal};
use fws::limits::{Limits, SyncPolicy};
use fws::sim::Prng;
use fws::sim::disk::{Call, Cut, Failure, SimFile, SimFolder};
use fws::time::{Now, UnixMillis};

const AT: UnixMillis = UnixMillis(1_800_000_000_000);
/// How many states a run explores by default.
const STATES: usize = 12_000;

/// A step of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Register,
    Rotate,
    SetNew,
    SetAgain,
    SetLarge,
    SetWithTtl,
    Delete,
    Push,
    Grant,
    Revoke,
    Remove,
}

const OPS: [Op; 11] = [
    Op::Register,
    Op::Rotate,
    Op::SetNew,
    Op::SetAgain,
    Op::SetLarge,
    Op::SetWithTtl,
    Op::Delete,
    Op::Push,
    Op::Grant,
    Op::Revoke,
    Op::Remove,
];

/// All rows, in their debug format.
type Rows = BTreeMap<Key, String>;

/// A hub, and the batches that its changes make.
struct Source {
    hub: Hub,
    n: u64,
    batch: u64,
}

#[derive(Default)]
struct Changed(Vec<Key>);

impl Outbox for Changed {
    fn after_change(&mut self, undo: Undo) {
        self.0.push(undo.key);
    }
}

impl Source {
    /// Creates a hub with a namespace, a grant, a state and a list.
    fn new() -> (Source, Batch) {
        let mut source = Source { hub: Hub::new(Limits::default(), AT), n: 0, batch: 0 };
        let mut changed = Changed::default();
        source.apply(Change::Register { name: "a".into(), key: "key of a".into() }, &mut changed);
        let ns = source.ns("a").unwrap();
        let grant = Change::Grant { ns, channel: "#p".into(), user: "1".into() };
        source.apply(grant, &mut changed);
        source.apply(set(ns, "c", None, "1"), &mut changed);
        source.apply(set(ns, "list", None, "[1]"), &mut changed);
        let batch = source.batch(changed, Vec::new());
        (source, batch)
    }

    fn ns(&self, name: &str) -> Option<NsId> {
        self.hub.namespace(name)
    }

    fn apply(&mut self, change: Change<'_>, changed: &mut Changed) {
        self.n += 1;
        // A refused change changes nothing, which is a step like any other.
        let _ = self.hub.apply(AT, &change, None, changed);
    }

    /// Applies a step, and returns the batch to write.
    fn step(&mut self, op: Op) -> Batch {
        let mut changed = Changed::default();
        let name = format!("n{}", self.n);
        if op == Op::Register {
            self.apply(Change::Register { name: name.into(), key: "k".into() }, &mut changed);
            return self.batch(changed, Vec::new());
        }
        let Some(ns) = self.ns("a") else { return self.batch(changed, Vec::new()) };
        if op == Op::Remove {
            let number = self.hub.number(ns).unwrap();
            self.apply(Change::Remove { ns }, &mut changed);
            return self.batch(changed, vec![number]);
        }
        let (channel, user) = ("#p".into(), "1".into());
        let change = match op {
            Op::Register | Op::Remove => unreachable!(),
            Op::Rotate => Change::Rotate { ns, key: name.into(), grace_ms: 1000 },
            Op::SetNew => set(ns, &name, Some("u"), "{\"new\":1}"),
            Op::SetAgain => set(ns, "c", None, &format!("{}", self.n)),
            Op::SetLarge => set(ns, "c", None, &format!("\"{}\"", "x".repeat(9000))),
            Op::SetWithTtl => Change::Set {
                ns,
                channel: "c".into(),
                user: None,
                data: "7".into(),
                ttl_ms: Some(1000),
                emit: false,
            },
            Op::Delete => set(ns, "c", None, "null"),
            Op::Push => Change::Push {
                ns,
                channel: "list".into(),
                user: None,
                data: "2.0".into(),
                ttl_ms: None,
                emit: false,
            },
            Op::Grant => Change::Grant { ns, channel, user: name.into() },
            Op::Revoke => Change::Revoke { ns, channel, user },
        };
        self.apply(change, &mut changed);
        self.batch(changed, Vec::new())
    }

    fn batch(&mut self, changed: Changed, removed: Vec<u64>) -> Batch {
        self.batch += 1;
        let mut batch = Batch { number: self.batch, removed, clock: (AT, AT), ..Batch::default() };
        for key in changed.0 {
            let row = self.hub.row(key.as_ref());
            batch.push(key.clone(), row);
        }
        batch
    }

    fn rows(&self) -> Rows {
        let (mut rows, mut cursor) = (Rows::new(), Some(Cursor::default()));
        while let Some(from) = cursor {
            cursor = self.hub.rows(from, |key, row| {
                rows.insert(key, format!("{row:?}"));
                true
            });
        }
        rows
    }
}

fn set(ns: NsId, channel: &str, user: Option<&str>, data: &str) -> Change<'static> {
    let (channel, user) = (channel.to_owned().into(), user.map(|user| user.to_owned().into()));
    Change::Set { ns, channel, user, data: data.to_owned().into(), ttl_ms: None, emit: false }
}

fn meta() -> StoreMeta {
    StoreMeta { key: [7; 32], term: 1, batch: 0, clock: (AT, AT) }
}

/// Creates a store with its first batch, closed in an orderly way.
fn store() -> (Source, SimFile) {
    let (source, mut batch) = Source::new();
    let file = SimFile::default();
    let mut writer = Writer::create(file.clone(), &meta()).unwrap();
    writer.write(&mut batch).unwrap();
    drop(writer);
    (source, SimFile::new(file.bytes()))
}

/// Reads a file as a start does: the number of the last batch, and all rows.
fn read(bytes: Vec<u8>) -> Result<(u64, Rows), Damage> {
    let content = Content::read(SimFile::new(bytes))?;
    let mut rows = Rows::new();
    content.each(&mut |key, row| drop(rows.insert(key, format!("{row:?}"))))?;
    Ok((content.meta.batch, rows))
}

/// A run of a workload: the rows after each batch, and how many disk calls there were by then.
struct Run {
    began: Vec<u8>,
    file: SimFile,
    after: Vec<(u64, Rows, usize)>,
}

fn run(workload: &[Op]) -> Run {
    let (mut source, file) = store();
    let began = file.bytes();
    let mut writer = Writer::open(file.clone(), &meta(), 0).unwrap();
    writer.begin(&StoreMeta { term: 2, ..meta() }).unwrap();
    let mut after = vec![(source.batch, source.rows(), 0)];
    for op in workload {
        let mut batch = source.step(*op);
        writer.write(&mut batch).unwrap();
        after.push((source.batch, source.rows(), file.calls().len()));
    }
    drop(writer);
    Run { began, file, after }
}

/// Checks that a file after a power cut holds what was acknowledged by then, or one batch more.
fn check(found: Result<(u64, Rows), Damage>, run: &Run, calls: usize, what: &str) {
    let (number, rows) = found.unwrap_or_else(|damage| panic!("{what}: {damage}"));
    let acknowledged = run.after.iter().rposition(|(.., by)| *by <= calls).unwrap();
    let place = run.after.iter().position(|(batch, ..)| *batch == number);
    let place = place.unwrap_or_else(|| panic!("{what}: batch {number} was never written"));
    assert!(place >= acknowledged, "{what}: batch {number} is lost");
    assert!(place <= acknowledged + 1, "{what}: batch {number} came before its time");
    assert_eq!(rows, run.after[place].1, "{what}");
}

fn number(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// Returns every workload of `length` operations.
fn workloads(length: usize) -> Vec<Vec<Op>> {
    let mut all = vec![Vec::new()];
    for _ in 0..length {
        all = all
            .iter()
            .flat_map(|start| OPS.map(|op| start.iter().copied().chain([op]).collect()))
            .collect();
    }
    all
}

/// Cuts the power at every call, with every part of what was not synced missing.
#[test]
fn after_a_power_cut_all_acknowledged_batches_are_there() {
    let states = number("FWS_POWERCUT_STATES").unwrap_or(STATES);
    let mut all: Vec<Vec<Op>> = (0..=3).flat_map(workloads).collect();
    // A smaller run takes some; with a stride of a multiple of 11, they would all end alike.
    let stride = (1_200_000 / states.max(1)).max(1);
    if stride > 1 {
        all = all
            .into_iter()
            .step_by(if stride.is_multiple_of(11) { stride + 1 } else { stride })
            .collect();
    }
    let each = (states / (all.len() * 24)).max(8);
    let (mut explored, mut prng) = (0, Prng::new(1));
    for workload in &all {
        let run = run(workload);
        let calls = run.file.calls();
        for count in 0..=calls.len() {
            let cut = Cut::after(&run.began, &calls, count);
            let what = format!("{workload:?}, cut after call {count}");
            let all_subsets = 1 << cut.len().min(20);
            let subsets = all_subsets.min(each as u64 / 2);
            for i in 0..subsets {
                let is_all = subsets == all_subsets;
                let bits = if is_all { i } else { prng.next() };
                check(read(cut.subset(bits)), &run, count, &format!("{what}, subset {bits:b}"));
            }
            let torn = if cut.is_empty() { 0 } else { each as u64 - subsets };
            for i in 0..torn {
                check(read(cut.torn(&mut prng)), &run, count, &format!("{what}, torn {i}"));
            }
            explored += subsets + torn;
        }
        explored += cut_again(&run, workload, &mut prng);
    }
    println!("{explored} states after power cuts, {} workloads", all.len());
    assert!(explored as usize >= states * 9 / 10, "{explored} of {states} states");
}

/// Cuts the power, and again during the repair by the next start.
fn cut_again(run: &Run, workload: &[Op], prng: &mut Prng) -> u64 {
    let calls = run.file.calls();
    let count = prng.below(calls.len() + 1);
    let bytes = Cut::after(&run.began, &calls, count).torn(prng);
    let (_, found) = read(bytes.clone()).unwrap();
    let file = SimFile::new(bytes.clone());
    let writer = Writer::open(file.clone(), &meta(), 0).unwrap();
    writer.begin(&StoreMeta { term: 3, ..meta() }).unwrap();
    let calls = file.calls();
    for again in 0..=calls.len() {
        let bytes = Cut::after(&bytes, &calls, again).torn(prng);
        let (_, rows) = read(bytes).unwrap();
        assert_eq!(rows, found, "{workload:?}, cut after call {count}, and {again} of the repair");
    }
    calls.len() as u64 + 1
}

/// A call fails and the batch is refused. A process that is killed then and starts again must not
/// find it; one that goes on writes what is missing.
#[test]
fn a_failed_batch_is_never_found() {
    for op in OPS {
        // A full disk stays full, but its header can be overwritten; a broken one fails one
        // call, and then works again.
        for (how, calls) in [(Failure::Space, u64::MAX), (Failure::Broken, 1)] {
            let mut at = 0;
            while fail_once(op, how, (at, calls)) {
                at += 1;
            }
            assert!(at > 3, "{op:?}, {how:?}: {at} calls");
        }
    }
}

/// Fails calls of one batch and checks the file. Returns whether there were that many calls.
fn fail_once(op: Op, how: Failure, (at, calls): (u64, u64)) -> bool {
    let what = format!("{op:?}, {how:?} at call {at}");
    let (mut source, file) = store();
    let before = source.rows();
    let mut writer = Writer::open(file.clone(), &meta(), 0).unwrap();
    writer.begin(&meta()).unwrap();
    let mut batch = source.step(op);
    file.fail(at, calls, how);
    let from = file.count();
    let Err(fault) = writer.write(&mut batch) else {
        // It needed fewer calls, or no space.
        assert_eq!(read(file.bytes()).unwrap().1, source.rows(), "{what}");
        return file.count() - from > at;
    };
    assert_eq!(matches!(fault, Fault::Space(_)), how == Failure::Space, "{what}");
    assert_eq!(read(file.bytes()).unwrap().1, before, "{what}: found after a kill");
    assert!(writer.write(&mut batch.clone()).is_err(), "{what}: used again");
    drop(writer);
    assert_eq!(read(file.bytes()).unwrap().1, before, "{what}: found after the close");
    if how == Failure::Space {
        file.mend();
        let last = StoreMeta { batch: batch.number - 1, ..meta() };
        for other in [
            StoreMeta { batch: batch.number, ..meta() },
            StoreMeta { key: [8; 32], ..last.clone() },
        ] {
            let taken = Writer::reopen(file.clone(), &other, 0);
            assert!(matches!(taken, Err(Fault::Broken(_))), "{what}: an older one, or another's");
        }
        let mut writer = Writer::reopen(file.clone(), &last, 0).unwrap();
        writer.write(&mut batch).unwrap();
        drop(writer);
        assert_eq!(read(file.bytes()).unwrap().1, source.rows(), "{what}: mended");
    }
    true
}

/// A call fails, possibly the one that truncates the file after a commit. A refused batch is not
/// found, and every other is.
#[test]
fn a_durable_batch_is_never_refused() {
    for at in 0.. {
        let (mut source, file) = store();
        let mut writer = Writer::open(file.clone(), &meta(), 0).unwrap();
        writer.begin(&meta()).unwrap();
        let (ns, mut changed) = (source.ns("a").unwrap(), Changed::default());
        source.apply(set(ns, "c", None, &format!("\"{}\"", "x".repeat(1 << 20))), &mut changed);
        writer.write(&mut source.batch(changed, Vec::new())).unwrap();
        let from = file.count();
        file.fail(at, 1, Failure::Broken);
        for op in [Op::Delete, Op::SetAgain, Op::SetAgain, Op::SetAgain] {
            let mut kept = source.rows();
            let is_refused = writer.write(&mut source.step(op)).is_err();
            if !is_refused {
                kept = source.rows();
            }
            assert_eq!(read(file.bytes()).unwrap().1, kept, "{op:?}, call {at}");
            if is_refused {
                break;
            }
        }
        if file.count() - from <= at {
            return assert!(at > 10, "{at} calls");
        }
    }
}

/// Nothing works on the disk any more: what was there is there, and of the batch in flight all or
/// nothing.
#[test]
fn a_dead_disk_holds_the_rows_before_or_after_a_batch() {
    for op in OPS {
        for at in 0..12 {
            let (mut source, file) = store();
            let before = source.rows();
            let mut writer = Writer::open(file.clone(), &meta(), 0).unwrap();
            file.fail(at, u64::MAX, Failure::Broken);
            let result = writer.write(&mut source.step(op));
            drop(writer);
            let found = read(file.bytes()).unwrap().1;
            let is_new = found == source.rows();
            assert!(is_new || result.is_err() && found == before, "{op:?} at call {at}");
        }
    }
}

/// A start that fails half-way loses nothing.
#[test]
fn a_failed_start_loses_nothing() {
    let (source, file) = store();
    let (bytes, rows) = (file.bytes(), source.rows());
    for how in [Failure::Space, Failure::Broken] {
        for at in 0.. {
            let file = SimFile::new(bytes.clone());
            file.fail(at, u64::MAX, how);
            let opened = Writer::open(file.clone(), &meta(), 0)
                .and_then(|writer| writer.begin(&StoreMeta { term: 2, ..meta() }));
            assert_eq!(read(file.bytes()).unwrap().1, rows, "{how:?} at call {at}");
            if opened.is_ok() && file.count() <= at {
                break;
            }
        }
    }
}

/// A start on a full disk goes on with what it found, and refuses changes until there is space. A
/// kill meanwhile changes nothing.
#[test]
fn a_start_on_a_full_disk_serves_and_refuses_changes() {
    let (source, file) = store();
    let (bytes, rows, now) = (file.bytes(), source.rows(), Now { unix: AT, ..Now::default() });
    for at in 0.. {
        let folder = SimFolder::new(SimFile::new(bytes.clone()));
        folder.fail(at, u64::MAX, Failure::Space);
        let mut hub = Hub::new(Limits::default(), AT);
        let opened = Opened::verify(folder.clone(), now).unwrap();
        let (sync, limits) = (SyncPolicy::Always, Limits::default());
        let (mut journal, stepper) = opened.start_stepped(&mut hub, now, sync, &limits).unwrap();
        let is_full = journal.is_failing();
        let what = format!("full at call {at}");
        assert_eq!(is_full, !stepper.is_begun(), "{what}");
        assert_eq!(read(folder.store().bytes()).unwrap().1, rows, "{what}");
        if !is_full {
            return assert!(at > 1, "{at} calls");
        }
        // Still full: another attempt fails, and nothing has changed.
        stepper.time_out();
        while journal.poll().is_some() {}
        let ns = hub.namespace("a").unwrap();
        let refused = journal.propose(AT, &set(ns, "c", None, "2"));
        assert!(matches!(refused, Proposal::Refused), "{what}");
        assert_eq!(read(folder.killed().store().bytes()).unwrap().1, rows, "{what}: killed");
        folder.mend();
        stepper.time_out();
        while journal.poll().is_some() {}
        journal.commit(&hub, AT, now);
        assert!(stepper.work(), "{what}");
        while journal.poll().is_some() {}
        assert!(!journal.is_failing(), "{what}");
        assert_eq!(read(folder.store().bytes()).unwrap().1, rows, "{what}: mended");
        let content = Content::read(SimFile::new(folder.store().bytes())).unwrap();
        assert_eq!((content.meta.term, content.meta.batch), (2, source.batch + 1), "{what}");
    }
}

/// A new store counts only once it is complete: one sync, after the last write.
#[test]
fn a_first_start_syncs_its_store_once_and_may_fail_at_any_call() {
    let now = Now { unix: AT, ..Now::default() };
    let folder = SimFolder::with(None, SealState::Nothing);
    let opened = Opened::verify(folder.clone(), now).unwrap();
    assert_eq!(opened.content().counts, [0; 3]);
    let calls = folder.store().calls();
    assert_eq!(calls.iter().filter(|call| **call == Call::Sync).count(), 1);
    assert_eq!(calls.last(), Some(&Call::Sync));
    for how in [Failure::Space, Failure::Broken] {
        for at in 0.. {
            let folder = SimFolder::with(None, SealState::Nothing);
            folder.fail(at, u64::MAX, how);
            let is_made = Opened::verify(folder.clone(), now).is_ok();
            folder.mend();
            assert!(Opened::verify(folder, now).is_ok(), "{how:?} at call {at}");
            if is_made {
                break;
            }
        }
    }
}

/// Every flipped bit is detected, or changes nothing.
#[test]
fn every_flipped_bit_is_detected_or_harmless() {
    let (mut source, file) = store();
    let mut writer = Writer::open(file.clone(), &meta(), 0).unwrap();
    for op in [Op::SetLarge, Op::Register, Op::Push, Op::Grant, Op::SetNew, Op::SetWithTtl] {
        writer.write(&mut source.step(op)).unwrap();
    }
    let as_if_killed = file.bytes();
    drop(writer);
    let as_if_stopped = file.bytes();
    let step = if std::env::var("FWS_BITROT").is_ok_and(|all| all == "all") { 1 } else { 149 };
    let (mut seen, mut harmless) = (0, 0);
    for bytes in [as_if_killed, as_if_stopped] {
        assert_eq!(read(bytes.clone()).unwrap(), (source.batch, source.rows()));
        let mut bit = 0;
        while bit < bytes.len() * 8 {
            // Every bit of the first 320 bytes, which hold the header; beyond, one in `step`.
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match is_harmless(bad, &source) {
                true => harmless += 1,
                false => seen += 1,
            }
            bit += if bit < 320 * 8 { 1 } else { step };
        }
    }
    println!("{seen} flipped bits were seen, {harmless} were harmless");
    assert!(seen > 100 && harmless > 100);
}

/// Returns whether a damaged file reads as if it were whole; panics if it reads as anything else.
/// An older batch counts as detected, because of the seal.
fn is_harmless(bytes: Vec<u8>, source: &Source) -> bool {
    match read(bytes) {
        Err(_) => false,
        Ok((batch, _)) if batch < source.batch => false,
        Ok((batch, rows)) => {
            assert_eq!((batch, rows), (source.batch, source.rows()));
            true
        }
    }
}

/// The same for a larger store: single bits, many bits, zeroed ranges and truncation.
#[test]
fn damage_in_a_larger_store_is_detected() {
    let (mut source, file) = store();
    let mut writer = Writer::open(file.clone(), &meta(), 0).unwrap();
    for _ in 0..4 {
        let mut batch = Batch::default();
        for _ in 0..200 {
            let one = source.step(Op::SetNew);
            batch.rows.extend(one.rows);
            batch.number = one.number;
        }
        batch.clock = (AT, AT);
        writer.write(&mut batch).unwrap();
    }
    drop(writer);
    let bytes = file.bytes();
    assert_eq!(read(bytes.clone()).unwrap(), (source.batch, source.rows()));
    let rounds =
        if std::env::var("FWS_BITROT").is_ok_and(|all| all == "all") { 20_000 } else { 300 };
    let (mut prng, mut seen) = (Prng::new(2), 0);
    for round in 0..rounds {
        let mut bad = bytes.clone();
        match round % 4 {
            0 => bad.truncate(prng.below(bytes.len())),
            1 => {
                let (at, len) = (prng.below(bytes.len()), 1 + prng.below(4096));
                let end = (at + len).min(bytes.len());
                bad[at..end].fill(0);
            }
            2 => {
                for _ in 0..1 + prng.below(64) {
                    let bit = prng.below(bytes.len() * 8);
                    bad[bit / 8] ^= 1 << (bit % 8);
                }
            }
            _ => {
                let bit = prng.below(bytes.len() * 8);
                bad[bit / 8] ^= 1 << (bit % 8);
            }
        }
        seen += usize::from(!is_harmless(bad, &source));
    }
    println!("{seen} of {rounds} damages were seen, the others were harmless");
    assert!(seen > rounds / 4);
}
