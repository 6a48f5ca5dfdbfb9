//! What must be there after a crash. The judge notes what was recorded when each batch was sent to
//! the disk, and what has been acknowledged since; what a server finds in its store must be what
//! one of those batches left, and no batch older than what was promised.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Judge;
use super::full::DiskWait;
use super::replica::Replica;
use crate::hub::{Cursor, Hub, Key, Row};
use crate::journal::store::Content;
use crate::sim::intent::Command;
use crate::sim::record::{Space, State};
use crate::time::{Millis, Now, UnixMillis};

/// How far expiry times may be off after a restart, in milliseconds, if the date was never changed
/// while no server could notice.
const DRIFT_MS: u64 = 500;

/// A batch that was sent to the disk, and what was recorded then.
#[derive(Debug)]
struct Sent {
    number: u64,
    /// Mark of all that is in it.
    mark: u64,
    spaces: BTreeMap<u32, Space>,
    /// It removes namespaces.
    has_removals: bool,
    /// The time on the scale of entries, and the date: a later start goes by these.
    clock: (u64, u64),
    /// It has failed, and the connections that waited for its content were told so.
    is_refused: bool,
}

/// What a server found when it started.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Found {
    /// Number of the last batch in the store.
    pub batch: u64,
    /// What the server takes for the time on the scale of entries, and the clocks at that moment.
    pub at: u64,
    pub now: Now,
    /// The process was killed without a power cut, and every failed commit could be taken back.
    pub is_killed: bool,
    /// The server before was stopped, and could write everything.
    pub is_closed: bool,
    /// For how many milliseconds there was no server, by a clock that nobody changes; `None` if the
    /// date was changed meanwhile.
    pub away_ms: Option<u64>,
}

/// What the judge knows of the disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Batches that may be found, oldest first.
    sent: VecDeque<Sent>,
    /// Clocks that starts have written over those of the batch that they found.
    starts: Vec<(u64, u64)>,
    /// The highest acknowledged mark.
    acknowledged: u64,
    /// Losses that were reported: everything after the first mark, up to the second.
    losses: Vec<(u64, u64)>,
    /// States are acknowledged before they are durable.
    pub is_easy: bool,
    /// Since when something is recorded that is in no batch yet.
    unsent_since: Option<Millis>,
    /// The server has had the time to note the date.
    is_date_noted: bool,
}

impl Disk {
    /// A reply has left: what it reports, up to this mark, must survive.
    pub fn acknowledge(&mut self, mark: u64) {
        // Nothing is promised of what was lost.
        let mark = self.losses.iter().rev().fold(mark, |mark, (from, upto)| match mark {
            lost if lost <= *upto => lost.min(*from),
            mark => mark,
        });
        self.acknowledged = self.acknowledged.max(mark);
    }

    /// Something has been recorded.
    pub fn changed(&mut self, now: Millis) {
        self.unsent_since.get_or_insert(now);
    }

    /// Something that was recorded has been undone; the connections that waited for it were told.
    pub fn lost(&mut self, from: u64, upto: u64) {
        self.losses.push((from, upto));
        for sent in self.sent.iter_mut().skip(1) {
            // A batch that only repeats what is durable has nothing that anybody waits for.
            sent.is_refused |= sent.mark > from || sent.has_removals;
        }
    }
}

impl Judge {
    /// A batch was sent, with everything that is recorded now.
    pub fn batch_sent(&mut self, number: u64) {
        let (mut spaces, removals) = (self.record.spaces.clone(), self.being_removed());
        let has_removals = !removals.is_empty();
        spaces.retain(|space, _| !removals.contains(space));
        let (mark, clock) = (self.mark, (self.at(), self.now.unix.0));
        let sent = Sent { number, mark, spaces, has_removals, clock, is_refused: false };
        self.disk.sent.push_back(sent);
        self.disk.unsent_since = None;
    }

    /// Returns the namespaces whose removal is proposed and not ordered yet.
    fn being_removed(&self) -> BTreeSet<u32> {
        let removals = self.pending.values().filter_map(|pending| match pending.command {
            Command::Remove { .. } => pending.space,
            _ => None,
        });
        removals.filter(|space| self.record.spaces.contains_key(space)).collect()
    }

    /// This batch is durable, and all before it.
    pub fn batch_written(&mut self, number: u64) {
        let sent = &mut self.disk.sent;
        while sent.len() > 1 && sent.get(1).is_some_and(|sent| sent.number <= number) {
            sent.pop_front();
            self.disk.starts.clear();
        }
    }

    /// The date has been changed.
    pub fn date_changed(&mut self) {
        (self.has_date_jumped, self.disk.is_date_noted) = (true, false);
    }

    /// Checks at rest, with a disk that works, that nothing waits for it any more.
    pub fn at_rest_on_disk(&mut self, durable: u64, wait_ms: u64) {
        self.disk.is_date_noted = true;
        assert_eq!(durable, self.mark, "recorded, and not on its way to the disk");
        let until = self.disk.unsent_since.map(|since| since.plus(wait_ms));
        let is_in_time = until.is_none_or(|until| self.now.mono < until);
        assert!(is_in_time, "no batch was sent since {:?}", self.disk.unsent_since);
    }

    /// A server has started on what it found in its store.
    pub fn restarted(&mut self, hub: &Hub, found: Found) {
        let Found { batch, at, now, .. } = found;
        let spaces = self.found_spaces(hub, &found);
        compare(hub, &spaces, at, batch);
        self.check_time(&found, &spaces);
        self.record.spaces = spaces;
        self.record.advance(at);
        let names =
            self.record.spaces.iter().map(|(space, record)| {
                (*space, hub.namespace(&record.name).expect("it was compared"))
            });
        let (limits, is_easy) = (self.limits.clone(), self.disk.is_easy);
        let fresh = Judge {
            replica: Replica::restored(limits.clone(), hub, UnixMillis(at)).keeping(is_easy),
            names: names.collect(),
            disk: Disk { is_easy, starts: vec![(at, now.unix.0)], ..Disk::default() },
            ..Judge::new(limits, now)
        };
        let before = std::mem::replace(self, fresh);
        self.record = before.record;
        self.deadlines.count_on(before.deadlines);
        self.disk_wait = DiskWait { is_full: false, is_met: false, ..before.disk_wait };
        self.epoch = at - now.mono.0;
        let (spaces, clock) = (self.record.spaces.clone(), (at, now.unix.0));
        let (mark, has_removals, is_refused) = (0, false, false);
        let sent = Sent { number: batch, mark, spaces, has_removals, clock, is_refused };
        self.disk.sent.push_back(sent);
    }

    /// A command has read the store beside the server at its end: what is durable and not refused.
    pub fn read_beside(&self, content: &Content) {
        let (at, unix) = content.meta.clock;
        let mut hub = Hub::new(self.limits.clone(), at);
        let read = content.each(&mut |key, row| match row {
            Row::State { expires: Some(end), .. } if end <= at => {}
            row => _ = hub.restore(key, row),
        });
        read.expect("it is a copy");
        let now = Now { mono: Millis(0), unix };
        let (batch, is_killed, is_closed) = (content.meta.batch, true, false);
        let found = Found { batch, at: at.0, now, is_killed, is_closed, away_ms: None };
        compare(&hub, &self.found_spaces(&hub, &found), at.0, batch);
    }

    /// Returns what must be in the store, by the number of its last batch.
    fn found_spaces(&self, hub: &Hub, found: &Found) -> BTreeMap<u32, Space> {
        if found.is_closed {
            let mut spaces = self.record.spaces.clone();
            // No reply has said whether these are gone.
            for space in self.being_removed() {
                if hub.namespace(&spaces[&space].name).is_none() {
                    spaces.remove(&space);
                }
            }
            return spaces;
        }
        let Some(first) = self.disk.sent.front() else { return BTreeMap::new() };
        let batch = found.batch;
        assert!(batch >= first.number, "batch {} was durable, and {batch} is there", first.number);
        let sent = self.disk.sent.iter().find(|sent| sent.number == batch);
        let sent = sent.unwrap_or_else(|| panic!("batch {batch} was never sent"));
        let acknowledged = self.disk.acknowledged;
        assert!(
            sent.mark >= acknowledged,
            "{acknowledged} was acknowledged, and batch {batch} ends with {}",
            sent.mark
        );
        let is_back = sent.is_refused && found.is_killed;
        assert!(!is_back, "batch {batch} was refused with 302, and is there");
        sent.spaces.clone()
    }

    /// Checks that states expire when they did before.
    fn check_time(&self, found: &Found, spaces: &BTreeMap<u32, Space>) {
        let Some(sent) = self.disk.sent.iter().find(|sent| sent.number == found.batch) else {
            return;
        };
        let reckoned =
            |(at, unix): &(u64, u64)| found.at == at + found.now.unix.0.saturating_sub(*unix);
        let is_reckoned = reckoned(&sent.clock) || self.disk.starts.iter().any(reckoned);
        assert!(is_reckoned || found.is_closed, "{} is no time that was noted", found.at);
        // A change that was not sent, or lost, may have removed all ends, and so no date was noted.
        let is_last = self.disk.sent.back().is_some_and(|last| last.number == found.batch);
        let is_noted = self.disk.is_date_noted && is_last && self.disk.unsent_since.is_none();
        let Some(away_ms) = found.away_ms.filter(|_| is_noted) else { return };
        let at = self.at() + away_ms;
        let has_ends = spaces.values().any(|space| has_end(space, at));
        let drift = found.at.abs_diff(at);
        assert!(
            !has_ends || drift <= DRIFT_MS,
            "all ends have moved by {drift} ms: {:?} {found:?}",
            sent.clock
        );
    }
}

/// Whether anything in it expires after that time.
fn has_end(space: &Space, at: u64) -> bool {
    space.states.values().any(|state| state.ends.is_some_and(|end| at < end))
}

/// Checks that the hub holds this, and nothing else.
fn compare(hub: &Hub, spaces: &BTreeMap<u32, Space>, at: u64, batch: u64) {
    let mut there = shape(hub);
    for space in spaces.values() {
        let mut here = space.clone();
        let mut found = there.remove(&space.name);
        for space in [Some(&mut here), found.as_mut()].into_iter().flatten() {
            space.states.retain(|_, state| state.ends.is_none_or(|end| at < end));
        }
        assert_eq!(found.as_ref(), Some(&here), "{:?} as batch {batch} left it", space.name);
    }
    assert!(there.is_empty(), "batch {batch} never left this there: {there:?}");
}

/// Returns everything that a hub has recorded, in the judge's types.
fn shape(hub: &Hub) -> BTreeMap<String, Space> {
    let (mut spaces, mut cursor) = (BTreeMap::<u64, Space>::new(), Some(Cursor::default()));
    while let Some(from) = cursor {
        cursor = hub.rows(from, |key, row| {
            match (key, row) {
                (Key::Namespace { ns }, Row::Namespace { name, key, old_key, .. }) => {
                    let space = Space {
                        name: name.into_owned(),
                        key: key.map(|key| key.into_owned()).unwrap_or_default(),
                        old_key: old_key.map(|(key, until)| (key.into_owned(), until.0)),
                        ..Space::default()
                    };
                    spaces.insert(ns, space);
                }
                (Key::Grant { ns, channel, user }, Row::Grant) => {
                    let space = spaces.get_mut(&ns).expect("namespaces come first");
                    space.grants.insert((channel.into(), user.into()));
                }
                (Key::State { ns, state_key }, Row::State { text, expires }) => {
                    let space = spaces.get_mut(&ns).expect("namespaces come first");
                    let state_key = (state_key.channel.into(), state_key.user.map(String::from));
                    let ends = expires.map(|end| end.0);
                    space.states.insert(state_key, State { text: text.into_owned(), ends });
                }
                (key, row) => panic!("{row:?} under {key:?}"),
            }
            true
        });
    }
    spaces.into_values().map(|space| (space.name.clone(), space)).collect()
}

/// What was recorded before a change, and the mark of the change.
#[derive(Debug)]
pub(super) struct Past {
    pub mark: u64,
    /// The number of the entry.
    pub entry: u64,
    pub spaces: BTreeMap<u32, Space>,
}

impl Past {
    /// Returns what is recorded if this is restored, but states are kept.
    pub fn without_states(&self, now: &BTreeMap<u32, Space>) -> BTreeMap<u32, Space> {
        let mut spaces = self.spaces.clone();
        for (id, space) in &mut spaces {
            if let Some(now) = now.get(id) {
                space.states.clone_from(&now.states);
            }
        }
        spaces
    }
}
