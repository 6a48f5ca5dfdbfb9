//! A store that recovers from a write failure while something else happens: refused changes are
//! never written, and acknowledged ones are.

use std::cell::Cell;
use std::collections::BTreeMap;

use fws::hub::{Change, Hub, Key};
use fws::journal::store::{
    Content, Home, NoSnapshot, Opened, SealState, Stepper, StoreJournal, snapshot,
};
use fws::journal::{Event, Journal, Proposal, Recorder};
use fws::limits::{Limits, SyncPolicy};
use fws::sim::disk::{Failure, SimFile, SimFolder};
use fws::time::{Millis, Now, UnixMillis};

const AT: UnixMillis = UnixMillis(1_800_000_000_000);

/// A server without listeners, whose worker runs only when stepped.
struct Server {
    hub: Hub,
    journal: StoreJournal,
    stepper: Stepper,
    folder: SimFolder,
    mono: u64,
}

impl Server {
    fn start(sync: SyncPolicy) -> Server {
        let (now, limits) = (Now { unix: AT, ..Now::default() }, Limits::default());
        let folder = SimFolder::with(None, SealState::Nothing);
        let opened = Opened::verify(folder.clone(), now).unwrap();
        let mut hub = Hub::new(limits.clone(), AT);
        let (journal, stepper) = opened.start_stepped(&mut hub, now, sync, &limits).unwrap();
        Server { hub, journal, stepper, folder, mono: 0 }
    }

    fn now(&self) -> Now {
        Now { mono: Millis(self.mono), unix: AT }
    }

    fn change(&mut self, change: &Change<'_>) {
        assert!(matches!(self.journal.propose(AT, change), Proposal::Now));
        self.hub.apply(AT, change, None, &mut Recorder(&mut self.journal)).unwrap();
    }

    fn set(&mut self, data: &str) {
        let (ns, channel) = (self.hub.namespace("a").unwrap(), "c".into());
        let (user, data) = (None, data.into());
        self.change(&Change::Set { ns, channel, user, data, ttl_ms: None, emit: false });
    }

    /// Ends a turn, which sends the changes to the worker, and lets the worker write them.
    fn write(&mut self) {
        self.journal.commit(&self.hub, AT, self.now());
        assert!(self.stepper.work(), "nothing was sent");
    }

    /// Handles the worker's events.
    fn hear(&mut self) {
        while let Some(event) = self.journal.poll() {
            match event {
                Event::Undo(undo) => self.hub.undo(undo, &mut Recorder(&mut self.journal)),
                Event::Lost { .. } => self.hub.undo_finished(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// What a start would find if the server were killed now.
    fn on_disk(&self) -> BTreeMap<Key, String> {
        rows_of(&Content::read(SimFile::new(self.folder.store().bytes())).unwrap())
    }
}

fn rows_of(content: &Content) -> BTreeMap<Key, String> {
    let mut rows = BTreeMap::new();
    content.each(&mut |key, row| drop(rows.insert(key, format!("{row:?}")))).unwrap();
    rows
}

/// For a file that can be written again, and for one that another replaces.
#[test]
fn a_batch_from_before_a_write_failure_is_not_written_after_it() {
    for how in [Failure::Space, Failure::Broken] {
        check_batch_from_before(how);
    }
}

fn check_batch_from_before(how: Failure) {
    let mut server = Server::start(SyncPolicy::Always);
    server.change(&Change::Register { name: "a".into(), key: "k".into() });
    // So much space becomes free that the file is compacted as soon as the worker is idle.
    for data in [format!("\"{}\"", "x".repeat(1 << 20)), "1".into()] {
        server.set(&data);
        server.write();
        server.hear();
    }
    let rows = server.on_disk();
    server.folder.fail(0, u64::MAX, how);
    server.stepper.time_out();
    let retry = Limits::default().store_retry();
    assert_eq!(server.stepper.idle(), Some(retry), "it has failed and will retry");
    server.folder.mend();
    server.stepper.time_out();
    assert_ne!(server.stepper.idle(), Some(retry), "it can write again");
    // The event loop knows of neither the failure nor the recovery.
    assert!(!server.journal.is_failing());
    server.set("2");
    server.write();
    assert_eq!(server.on_disk(), rows, "the change is about to be refused");
    server.hear();
    assert!(server.journal.is_failing());
    server.write();
    server.hear();
    assert!(!server.journal.is_failing());
    assert_eq!(server.on_disk(), rows);
    server.set("3");
    server.write();
    server.hear();
    assert_ne!(server.on_disk(), rows);
    assert_eq!(server.journal.durable(), server.journal.mark());
}

/// A file that replaces another is complete before the seal names its last batch.
#[test]
fn a_snapshot_of_a_file_that_has_just_replaced_another_is_not_empty() {
    let mut server = Server::start(SyncPolicy::Always);
    server.change(&Change::Register { name: "a".into(), key: "k".into() });
    server.write();
    server.hear();
    server.set("1");
    server.write();
    server.hear();
    let rows = server.on_disk();
    let before = server.folder.seal_state().unwrap();
    server.folder.fail(0, 1, Failure::Broken);
    server.set("2");
    server.write();
    server.hear();
    server.stepper.time_out();
    server.hear();
    server.write();
    let after = server.folder.seal_state().unwrap();
    assert_ne!(before, after, "it was written anew");
    let taken = |pauses_max: usize| {
        let pauses = Cell::new(0);
        let is_late = || pauses.get() < pauses_max;
        let pause = || pauses.set(pauses.get() + 1);
        let seal = || Ok(if is_late() { before.clone() } else { after.clone() });
        snapshot(|| server.folder.read(), seal, SimFile::default(), pause)
    };
    assert!(matches!(taken(usize::MAX), Err(NoSnapshot::Busy(_))), "the seal is never written");
    assert_eq!(rows_of(&taken(3).unwrap()), rows);
}

#[test]
fn a_stop_during_store_recovery_keeps_acknowledged_changes() {
    for how in [Failure::Space, Failure::Broken] {
        let mut server = Server::start(SyncPolicy::Every(1000));
        server.change(&Change::Register { name: "a".into(), key: "k".into() });
        server.write();
        server.hear();
        server.set("1");
        server.journal.commit(&server.hub, AT, server.now());
        assert!(!server.stepper.work(), "the sync is not due yet");
        server.folder.fail(0, u64::MAX, how);
        server.mono = 1000;
        server.write();
        server.hear();
        assert!(server.journal.is_failing());
        server.folder.mend();
        server.stepper.time_out();
        server.hear();
        assert!(server.journal.is_failing(), "the missing rows have not been sent yet");
        let unkept = server.journal.close(&server.hub, AT, server.now(), &mut || false);
        let kept = format!("{:?}", server.on_disk());
        assert_eq!((unkept, kept.contains(r#"text: \"1\""#)), (0, true), "{how:?}: {kept}");
    }
}
