//! The journal on a store whose disk fails: refused changes are undone, acknowledged ones are on
//! disk, and when the disk works again the journal goes on without a restart.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fws::hub::{Change, Cursor, Hub, Key, NsId, Outcome};
use fws::journal::store::{Content, StoreJournal, StoreMeta, Writer};
use fws::journal::{Event, Journal, Mark, Proposal, Recorder, Ticket};
use fws::limits::{Limits, SyncPolicy};
use fws::sim::disk::{Failure, SimFile, SimFolder};
use fws::time::{Millis, Now, UnixMillis};

const DEADLINE: Duration = Duration::from_secs(10);

fn meta() -> StoreMeta {
    let start = UnixMillis(1_800_000_000_000);
    StoreMeta { key: [7; 32], term: 1, batch: 0, clock: (start, start) }
}

/// The part of a switch that a journal needs.
struct Loop {
    hub: Hub,
    journal: StoreJournal,
    woken: Receiver<()>,
    folder: SimFolder,
    mono: u64,
    /// Ranges of marks whose changes were lost, and proposals that failed.
    lost: Vec<(Mark, Mark)>,
    failed: Vec<Ticket>,
}

impl Loop {
    fn new(sync: SyncPolicy) -> Loop {
        let limits = Limits { store_retry_ms: 10, ..Limits::default() };
        let folder = SimFolder::new(SimFile::default());
        let writer = Writer::create(folder.store(), &meta()).unwrap();
        let (sender, woken) = channel();
        let wake = Box::new(move || sender.send(()).unwrap_or_default());
        let journal =
            StoreJournal::start(folder.clone(), (meta(), Ok(writer)), sync, &limits, wake).unwrap();
        let hub = Hub::new(limits, meta().clock.0);
        Loop { hub, journal, woken, folder, mono: 0, lost: Vec::new(), failed: Vec::new() }
    }

    fn at(&self) -> UnixMillis {
        meta().clock.0.plus(self.mono)
    }

    fn now(&self) -> Now {
        Now { mono: Millis(self.mono), unix: self.at() }
    }

    fn apply(&mut self, at: UnixMillis, change: &Change<'_>) -> Outcome {
        self.hub.apply(at, change, None, &mut Recorder(&mut self.journal)).unwrap()
    }

    /// Proposes a change; returns its mark, or `None` if it was refused.
    fn propose(&mut self, change: Change<'_>) -> Option<Mark> {
        let at = self.at();
        match self.journal.propose(at, &change) {
            Proposal::Now => {
                self.apply(at, &change);
                Some(self.journal.mark())
            }
            Proposal::Refused => None,
            Proposal::Later(ticket) => panic!("{ticket:?}"),
        }
    }

    fn turn(&mut self) {
        let at = self.at();
        self.hub.advance(at, 1000, &mut Recorder(&mut self.journal));
        self.journal.commit(&self.hub, at, self.now());
        while let Some(event) = self.journal.poll() {
            match event {
                Event::Entry(_, entry, _) => drop(self.apply(entry.at, &entry.change)),
                Event::Failed(ticket) => self.failed.push(ticket),
                Event::Undo(undo) => self.hub.undo(undo, &mut Recorder(&mut self.journal)),
                Event::Lost { from, upto } => {
                    self.lost.push((from, upto));
                    self.hub.undo_finished();
                    self.hub.advance(at, 1000, &mut Recorder(&mut self.journal));
                }
            }
        }
    }

    /// Runs turns until a condition holds.
    #[track_caller]
    fn until(&mut self, what: &str, is_so: impl Fn(&Loop) -> bool) {
        self.turn();
        while !is_so(self) {
            let is_due = self.journal.due().is_some_and(|at| at <= Millis(self.mono))
                || self.hub.next_end().is_some_and(|at| at <= self.at());
            let is_woken = is_due || self.woken.recv_timeout(DEADLINE).is_ok();
            assert!(is_woken, "timed out: {what}");
            self.turn();
        }
    }

    /// Whether a change was kept; waits until that is known.
    #[track_caller]
    fn is_kept(&mut self, mark: Mark) -> bool {
        self.until("it is durable or lost", |this| this.journal.durable() >= mark);
        !self.lost.iter().any(|(from, upto)| *from < mark && mark <= *upto)
    }

    fn ns(&self) -> NsId {
        self.hub.namespace("a").unwrap()
    }

    fn set(&mut self, channel: &str, data: &str) -> Option<Mark> {
        let channel = channel.into();
        let (ns, data) = (self.ns(), data.into());
        self.propose(Change::Set { ns, channel, user: None, data, ttl_ms: None, emit: false })
    }

    fn get(&self, channel: &str) -> Option<String> {
        Some(self.hub.state(self.ns(), channel, None, self.at())?.to_owned())
    }

    fn rows(&self) -> BTreeMap<Key, String> {
        let (mut rows, mut cursor) = (BTreeMap::new(), Some(Cursor::default()));
        while let Some(from) = cursor {
            cursor = self.hub.rows(from, |key, row| {
                rows.insert(key, format!("{row:?}"));
                // Short parts, so that there are several.
                rows.len() % 3 != 0
            });
        }
        rows
    }

    /// The rows that the next start would find.
    fn on_disk(&self) -> BTreeMap<Key, String> {
        let content = Content::read(SimFile::new(self.folder.store().bytes())).unwrap();
        let mut rows = BTreeMap::new();
        content.each(&mut |key, row| drop(rows.insert(key, format!("{row:?}")))).unwrap();
        rows
    }

    fn begin(&mut self) {
        let register = Change::Register { name: "a".into(), key: "k".into() };
        let mark = self.propose(register).unwrap();
        assert!(self.is_kept(mark));
        let mark = self.set("old", "1").unwrap();
        // Durable at once, or at the next sync.
        self.turn();
        self.mono += 100_000;
        assert!(self.is_kept(mark));
        self.until("all is written", |this| this.on_disk() == this.rows());
    }
}

#[test]
fn a_fault_at_any_disk_call_undoes_exactly_what_was_refused() {
    for how in [Failure::Space, Failure::Broken] {
        for call in 0..40 {
            let mut this = Loop::new(SyncPolicy::Always);
            this.begin();
            let store = this.folder.store();
            let count = if how == Failure::Space { u64::MAX } else { 1 };
            store.fail(call, count, how);
            let what = format!("{how:?} at call {call}");
            let mut kept = BTreeMap::from([("old".to_string(), "1".to_string())]);
            for i in 0..6 {
                let (channel, data) = (["old", "new", "third"][i % 3], format!("{i}{i}"));
                let Some(mark) = this.set(channel, &data) else { continue };
                if this.is_kept(mark) {
                    kept.insert(channel.into(), data);
                }
                for channel in ["old", "new", "third"] {
                    assert_eq!(this.get(channel).as_ref(), kept.get(channel), "{what}, set {i}");
                }
            }
            store.mend();
            this.until("the disk works again", |this| !this.journal.is_failing());
            assert_eq!(this.on_disk(), this.rows(), "{what}: after the recovery");
            let mark = this.set("new", "\"goes on\"").unwrap();
            assert!(this.is_kept(mark), "{what}");
            assert_eq!(this.on_disk(), this.rows(), "{what}: afterwards");
        }
    }
}

#[test]
fn all_pending_changes_are_undone_together_in_reverse_order() {
    let mut this = Loop::new(SyncPolicy::Always);
    this.begin();
    let before = this.rows();
    this.folder.store().fail(0, 1, Failure::Broken);
    let (ns, channel) = (this.ns(), Cow::from("list"));
    let mut marks = vec![this.set("old", "2").unwrap(), this.set("old", "null").unwrap()];
    for data in ["1", "2", "3"] {
        let (channel, data) = (channel.clone(), data.into());
        let push = Change::Push { ns, channel, user: None, data, ttl_ms: None, emit: false };
        marks.push(this.propose(push).unwrap());
    }
    marks.push(this.propose(Change::Rotate { ns, key: "new".into(), grace_ms: 5 }).unwrap());
    let (channel, user) = ("#p".into(), "1".into());
    marks.push(this.propose(Change::Grant { ns, channel, user }).unwrap());
    marks.push(this.propose(Change::Register { name: "b".into(), key: "k".into() }).unwrap());
    let removal = this.journal.propose(this.at(), &Change::Remove { ns });
    let Proposal::Later(ticket) = removal else { panic!("{removal:?}") };
    for mark in marks {
        assert!(!this.is_kept(mark));
    }
    assert_eq!(this.failed, [ticket]);
    assert_eq!(this.rows(), before);
    assert_eq!(this.hub.keys(ns, this.at()).collect::<Vec<_>>(), ["k"]);
    assert!(this.set("old", "3").is_none() || !this.journal.is_failing());
    this.until("the disk works again", |this| !this.journal.is_failing());
    assert_eq!(this.on_disk(), before);
}

#[test]
fn a_namespace_ends_once_its_removal_is_durable() {
    let mut this = Loop::new(SyncPolicy::Always);
    this.begin();
    let ns = this.ns();
    let Proposal::Later(_) = this.journal.propose(this.at(), &Change::Remove { ns }) else {
        panic!("a removal must wait until it is durable");
    };
    assert!(this.hub.namespace("a").is_some());
    this.until("it is gone", |this| this.hub.namespace("a").is_none());
    assert!(this.on_disk().is_empty() && this.failed.is_empty());
}

#[test]
fn acknowledged_unsynced_changes_are_written_after_the_disk_recovers() {
    for how in [Failure::Space, Failure::Broken] {
        let mut this = Loop::new(SyncPolicy::Every(1000));
        this.begin();
        let store = this.folder.store();
        store.fail(0, if how == Failure::Space { u64::MAX } else { 1 }, how);
        let mark = this.set("new", "2").unwrap();
        assert!(mark <= this.journal.durable(), "acknowledged at once");
        assert_eq!(this.on_disk().len(), 2, "and not on disk");
        this.turn();
        this.mono += 1000;
        this.until("the disk fails", |this| !this.lost.is_empty());
        assert_eq!(this.get("new").as_deref(), Some("2"), "what was acknowledged stays");
        store.mend();
        this.until("the disk works again", |this| !this.journal.is_failing());
        assert_eq!(this.on_disk(), this.rows());
    }
}

#[test]
fn an_expired_state_and_nothing_else_leaves_the_disk() {
    let mut this = Loop::new(SyncPolicy::Always);
    this.begin();
    let (ns, channel) = (this.ns(), "short".into());
    let data = "1".into();
    let mark =
        this.propose(Change::Set { ns, channel, user: None, data, ttl_ms: Some(100), emit: false });
    assert!(this.is_kept(mark.unwrap()));
    assert_eq!(this.on_disk().len(), 3);
    this.mono += 100;
    this.turn();
    assert_eq!(this.get("short"), None);
    this.mono += 1000;
    this.until("its row is gone", |this| this.on_disk().len() == 2);
    assert_eq!(this.on_disk(), this.rows());
}

/// A value expires while the change that set its expiry is in flight, and that change fails.
#[test]
fn a_failed_change_that_expired_meanwhile_is_undone() {
    let mut this = Loop::new(SyncPolicy::Always);
    this.begin();
    this.folder.store().fail(0, 1, Failure::Broken);
    let (ns, channel) = (this.ns(), "old".into());
    let push =
        Change::Set { ns, channel, user: None, data: "2".into(), ttl_ms: Some(50), emit: false };
    let mark = this.propose(push).unwrap();
    this.mono += 60;
    let at = this.at();
    this.hub.advance(at, 1000, &mut Recorder(&mut this.journal));
    assert_eq!(this.get("old"), None);
    assert!(!this.is_kept(mark));
    assert_eq!(this.get("old").as_deref(), Some("1"));
    this.until("the disk works again", |this| !this.journal.is_failing());
    assert_eq!(this.on_disk(), this.rows());
}

#[test]
fn stopping_writes_all_pending_changes() {
    for sync in [SyncPolicy::Always, SyncPolicy::Every(60_000)] {
        let mut this = Loop::new(sync);
        this.begin();
        this.set("new", "2").unwrap();
        let (hub, at, now) = (&this.hub, this.at(), this.now());
        this.journal.close(hub, at, now, &mut || false);
        assert_eq!(this.on_disk(), this.rows());
        let seal = this.folder.sealed().unwrap();
        let content = Content::read(this.folder.store()).unwrap();
        assert_eq!(content.meta.batch, seal.batch);
    }
}

/// The removal of a namespace becomes durable during the stop, while another change of it is still
/// to be written.
#[test]
fn stopping_leaves_no_row_of_a_removed_namespace() {
    let mut this = Loop::new(SyncPolicy::Always);
    this.begin();
    let (ns, at, now) = (this.ns(), this.at(), this.now());
    let Proposal::Later(_) = this.journal.propose(at, &Change::Remove { ns }) else {
        panic!("a removal must wait until it is durable");
    };
    this.journal.commit(&this.hub, at, now);
    this.propose(Change::Rotate { ns, key: "new".into(), grace_ms: 5 }).unwrap();
    this.set("old", "2").unwrap();
    this.journal.close(&this.hub, at, now, &mut || false);
    assert_eq!(this.on_disk(), BTreeMap::new());
}

/// Many states that expire at once are dropped in parts; none can be read meanwhile.
#[test]
fn many_expired_states_are_dropped_over_several_turns() {
    let mut this = Loop::new(SyncPolicy::Always);
    this.begin();
    let ns = this.ns();
    (0..3000).for_each(|i| this.set_with_ttl(&i.to_string(), 100));
    this.mono += 100;
    this.turn();
    assert_eq!(this.hub.sizes()[4], 2001, "a thousand of them, and the one that stays");
    assert!(this.hub.next_end().is_some_and(|end| end <= this.at()), "the others are due");
    assert_eq!(this.get("0"), None);
    assert_eq!(this.get("2999"), None);
    let channel = "2999".into();
    let push =
        Change::Push { ns, channel, user: None, data: "2".into(), ttl_ms: None, emit: false };
    this.propose(push).unwrap();
    assert_eq!(this.get("2999").as_deref(), Some("[2]"), "not onto the expired list");
    this.turn();
    this.turn();
    this.turn();
    assert_eq!(this.hub.sizes()[4], 2);
    this.hub.check_invariants();
    this.mono += 1000;
    this.until("their rows are gone", |this| this.on_disk() == this.rows());
}

/// The states of a removed namespace are unreachable at once, and dropped in parts.
#[test]
fn a_removed_large_namespace_is_dropped_over_several_turns() {
    let mut this = Loop::new(SyncPolicy::Always);
    this.begin();
    let ns = this.ns();
    for i in 0..3000 {
        let channel = i.to_string().into();
        let (data, ttl_ms) = ("[1]".into(), (i % 2 == 0).then_some(5000));
        this.propose(Change::Set { ns, channel, user: None, data, ttl_ms, emit: false }).unwrap();
    }
    let Proposal::Later(_) = this.journal.propose(this.at(), &Change::Remove { ns }) else {
        panic!("a removal must wait until it is durable");
    };
    this.until("it is gone", |this| this.hub.namespace("a").is_none());
    assert_eq!(this.hub.sizes()[4], 0, "unreachable states do not count");
    this.hub.check_invariants();
    assert!(this.hub.next_end().is_some_and(|end| end <= this.at()), "the others are due");
    let register = Change::Register { name: "a".into(), key: "k".into() };
    let mark = this.propose(register).unwrap();
    assert_eq!(this.get("0"), None);
    assert!(this.is_kept(mark));
    this.mono += 5000;
    this.until("all are dropped", |this| this.hub.next_end().is_none());
    this.hub.check_invariants();
    assert_eq!(this.on_disk(), this.rows());
}

/// After a fault the file is not trusted again, even if there is no space to write the one that
/// replaces it.
#[test]
fn a_broken_file_is_not_reused_even_if_the_disk_is_full() {
    for call in 0..30 {
        let mut this = Loop::new(SyncPolicy::Always);
        this.begin();
        let broken = this.folder.store();
        broken.fail(0, 1, Failure::Broken);
        let mark = this.set("old", "2").unwrap();
        assert!(!this.is_kept(mark));
        let bytes = broken.bytes();
        broken.fail(call, 40, Failure::Space);
        this.until("the disk works again", |this| !this.journal.is_failing());
        this.folder.mend();
        let mark = this.set("old", "3").unwrap();
        assert!(this.is_kept(mark));
        assert!(broken.bytes() == bytes, "Space at call {call}: it was used again");
        assert_eq!(this.on_disk(), this.rows());
    }
}

/// The rows of states that expired while the disk failed are removed when it works again.
#[test]
fn states_expired_while_the_disk_failed_are_removed_later() {
    for how in [Failure::Space, Failure::Broken] {
        let mut this = Loop::new(SyncPolicy::Always);
        this.begin();
        (0..200).for_each(|i| this.set_with_ttl(&i.to_string(), 100));
        assert!(this.is_kept(this.journal.mark()));
        assert_eq!(this.on_disk().len(), 202);
        let store = this.folder.store();
        store.fail(0, if how == Failure::Space { u64::MAX } else { 1 }, how);
        this.mono += 100;
        this.turn();
        this.mono += 1000;
        this.until("the disk fails", |this| !this.lost.is_empty());
        store.mend();
        this.until("the disk works again", |this| !this.journal.is_failing());
        this.mono += 1000;
        this.until("their rows are gone", |this| this.on_disk().len() == 2);
    }
}

impl Loop {
    fn set_with_ttl(&mut self, channel: &str, ttl_ms: u64) {
        let (ns, channel, ttl_ms) = (self.ns(), Cow::from(channel), Some(ttl_ms));
        let change =
            Change::Set { ns, channel, user: None, data: "[1]".into(), ttl_ms, emit: false };
        self.propose(change).unwrap();
    }

    fn push(&mut self, channel: &str) {
        let (ns, channel) = (self.ns(), Cow::from(channel));
        let change =
            Change::Push { ns, channel, user: None, data: "2".into(), ttl_ms: None, emit: false };
        self.propose(change).unwrap();
    }

    fn grant(&mut self, user: &str, is_withdrawn: bool) {
        let (ns, channel, user) = (self.ns(), "#p".into(), user.into());
        let change = match is_withdrawn {
            false => Change::Grant { ns, channel, user },
            true => Change::Revoke { ns, channel, user },
        };
        self.propose(change).unwrap();
    }
}

/// A turn gathers only a part of a large batch, and the batch contains what was recorded when it
/// began, whatever changes meanwhile.
#[test]
fn a_large_batch_is_one_snapshot_gathered_over_several_turns() {
    let mut this = Loop::new(SyncPolicy::Always);
    this.begin();
    for i in 0..7000 {
        match i % 3 {
            0 => drop(this.set(&i.to_string(), "[0]")),
            1 => this.set_with_ttl(&i.to_string(), 10),
            _ => this.push(&i.to_string()),
        }
    }
    (0..9).for_each(|user| this.grant(&user.to_string(), false));
    let (recorded, mark, mut turns) = (this.rows(), this.journal.mark(), 0);
    this.journal.commit(&this.hub, this.at(), this.now());
    while this.journal.due() == Some(Millis(0)) {
        turns += 1;
        for i in (0..7000).skip(turns).step_by(50) {
            match i % 4 {
                0 => drop(this.set(&i.to_string(), "null")),
                1 => drop(this.set(&i.to_string(), "[2,2]")),
                2 => this.push(&i.to_string()),
                _ => this.set_with_ttl(&i.to_string(), 5),
            }
        }
        this.grant(&turns.to_string(), true);
        this.grant(&(8 + turns).to_string(), false);
        let (ns, key) = (this.ns(), turns.to_string().into());
        this.propose(Change::Rotate { ns, key, grace_ms: 5 }).unwrap();
        assert!(
            this.hub.declare(&turns.to_string(), "k", &mut Recorder(&mut this.journal)).is_some()
        );
        this.mono += 4;
        let at = this.at();
        this.hub.advance(at, 100, &mut Recorder(&mut this.journal));
        this.journal.commit(&this.hub, this.at(), this.now());
    }
    assert!(turns >= 3, "all in {turns}");
    while this.journal.durable() < mark {
        this.woken.recv_timeout(DEADLINE).unwrap();
        assert!(this.journal.poll().is_none());
    }
    assert_eq!(this.on_disk(), recorded);
    this.mono += 10_000;
    this.until("all have expired", |this| this.hub.next_end().is_none());
    this.mono += 10_000;
    this.until("all is written", |this| this.on_disk() == this.rows());
}

/// Short-lived states are removed as fast as they come, in memory and on disk.
#[test]
fn expired_states_do_not_accumulate() {
    let mut this = Loop::new(SyncPolicy::Every(1000));
    this.begin();
    for round in 0..4 {
        for i in 0..22_000 {
            this.set_with_ttl(&format!("{round} {i}"), 100);
        }
        this.turn();
        this.mono += 1000;
        this.until("all is written", |this| {
            this.journal.meters(this.now()).unwrap().pending_changes == 0
        });
        let at = this.at();
        this.hub.advance(at, usize::MAX, &mut Recorder(&mut this.journal));
    }
    let rows = this.on_disk().len();
    assert!(rows <= 22_002, "{rows}: more than those of the last round, and what stays");
}

/// The configuration may declare another namespace while the store is being rewritten.
#[test]
fn a_namespace_declared_during_a_rewrite_is_written_too() {
    let mut this = Loop::new(SyncPolicy::Always);
    this.begin();
    for i in 0..5000 {
        this.set(&i.to_string(), "1").unwrap();
    }
    this.until("they are written", |this| this.journal.durable() == this.journal.mark());
    this.folder.store().fail(0, 1, Failure::Broken);
    let mark = this.set("old", "2").unwrap();
    assert!(!this.is_kept(mark));
    for number in 0.. {
        let _ = this.woken.recv_timeout(Duration::from_millis(1));
        this.turn();
        if !this.journal.is_failing() {
            break;
        }
        this.hub.declare(&number.to_string(), "k", &mut Recorder(&mut this.journal)).unwrap();
    }
    this.until("all is written", |this| this.journal.durable() == this.journal.mark());
    assert_eq!(this.on_disk(), this.rows());
}

#[test]
fn rewritten_namespaces_share_batches() {
    let mut this = Loop::new(SyncPolicy::Always);
    this.begin();
    for i in 0..100 {
        this.propose(Change::Register { name: i.to_string().into(), key: "k".into() }).unwrap();
    }
    this.until("they are written", |this| this.journal.durable() == this.journal.mark());
    let batch = this.folder.sealed().unwrap().batch;
    this.folder.store().fail(0, 1, Failure::Broken);
    let mark = this.set("old", "2").unwrap();
    assert!(!this.is_kept(mark));
    this.until("the disk works again", |this| !this.journal.is_failing());
    assert_eq!(this.on_disk(), this.rows());
    let batches = this.folder.sealed().unwrap().batch - batch;
    assert!(batches < 5, "in {batches} batches");
}

/// Names count towards the changes that wait for the disk.
#[test]
fn names_count_towards_the_pending_bytes() {
    for (sync, kept) in [(SyncPolicy::Always, 2), (SyncPolicy::Every(60_000), 1)] {
        let mut this = Loop::new(sync);
        this.begin();
        for i in 0..100 {
            let channel = format!("{i:0>250}");
            this.set(&channel, "1").unwrap();
            this.set(&channel, "2").unwrap();
        }
        let pending = this.journal.meters(this.now()).unwrap().pending_bytes;
        assert!(pending >= 100 * kept * 250, "{sync}: {pending}");
        this.mono += 60_000;
        this.turn();
        this.mono += 60_000;
        this.until("nothing waits", |this| {
            let meters = this.journal.meters(this.now()).unwrap();
            (meters.pending_bytes, meters.pending_changes) == (0, 0)
        });
        assert_eq!(this.on_disk(), this.rows());
    }
}
