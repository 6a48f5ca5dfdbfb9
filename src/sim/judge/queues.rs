//! The queue of each connection, from what was sent and what the kernel took; which connections are
//! slow by that, and since when. Knows nothing of how the server keeps count.

use std::collections::{BTreeMap, VecDeque};

use super::{ConnModel, Judge};
use crate::edge::{ConnId, Door};
use crate::frame::{FRAME_COST_BYTES, Frame, PLACE_COST_BYTES};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::Millis;

/// How long the memory that all share must be short before a connection that takes nothing for as
/// long is evicted, and before even one that takes something is.
const IDLE_MS: u64 = 1000;
const PATIENCE_MS: u64 = 5000;
/// How long before even such a one is, where the memory is that of answers.
const HUNGER_MS: u64 = 60_000;
/// The reasons whose exact due time is known.
const DUE: [CloseReason; 3] =
    [CloseReason::SlowConsumer, CloseReason::Stalled, CloseReason::Lagging];
/// The most time between two checks of the server.
const LOOK_MS: u64 = 100;

/// Frames of up to so many bytes may be in memory that was used before, in steps of so many.
const USED_AGAIN_BYTES: usize = 256;
const STEP_BYTES: usize = 64;

/// What a frame counts: its length, or that of the memory that it was given.
fn memory(frame: &Frame) -> usize {
    let (own, said) = (frame.len() + FRAME_COST_BYTES, frame.memory());
    let given = said - FRAME_COST_BYTES;
    let is_used_again = given <= USED_AGAIN_BYTES && given.is_multiple_of(STEP_BYTES);
    assert!(said == own || said > own && is_used_again, "{} bytes count {said}", frame.len());
    said
}

/// How long a connection may be slow in that way, in milliseconds.
fn patience(reason: CloseReason, limits: &Limits) -> usize {
    match reason {
        CloseReason::SlowConsumer => limits.backlog_ms,
        CloseReason::Stalled => limits.stall_ms,
        _ => limits.backlog_soft_ms,
    }
}

fn limit(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::SlowConsumer => "backlog_ms",
        CloseReason::Stalled => "stall_ms",
        _ => "backlog_soft_ms",
    }
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Each frame, and whether another client published it.
    frames: VecDeque<(Frame, bool)>,
    /// Bytes of the first frame that the kernel has taken.
    head_sent: usize,
    /// The kernel takes no more for now.
    is_blocked: bool,
    /// Since when publications wait that the kernel did not take when they were offered.
    owed_since: Option<Millis>,
    taken_at: Millis,
    /// Bytes that the kernel has taken, and how many pieces that was at the last ping.
    pub taken: usize,
    pub taken_before: usize,
    /// Since when the backlog is above the soft limit, put off by as long as it was served before.
    over_since: Option<Millis>,
    /// Since when the backlog is behind much that the client had asked for.
    served_since: Option<Millis>,
}

impl Queue {
    /// Whether this frame is one that the kernel has not taken completely.
    pub fn has(&self, bytes: &[u8]) -> bool {
        self.frames.iter().any(|(frame, _)| **frame == *bytes)
    }

    pub fn push(&mut self, frame: &Frame, is_published: bool, now: Millis, limits: &Limits) {
        self.frames.push_back((frame.clone(), is_published));
        self.look(now, limits);
    }

    pub fn take(&mut self, bytes: usize, now: Millis, limits: &Limits) {
        self.head_sent += bytes;
        self.taken_at = now;
        self.taken += bytes;
        while let Some((frame, _)) = self.frames.front()
            && self.head_sent >= frame.len()
        {
            self.head_sent -= frame.len();
            self.frames.pop_front();
        }
        assert!(!self.frames.is_empty() || self.head_sent == 0, "more was taken than there was");
        self.look(now, limits);
    }

    /// The kernel takes no more, or takes bytes again.
    pub fn block(&mut self, is_blocked: bool, now: Millis, limits: &Limits) {
        self.is_blocked = is_blocked;
        self.look(now, limits);
    }

    fn look(&mut self, now: Millis, limits: &Limits) {
        // A frame that has not been offered yet is not one that the kernel does not take.
        let is_watched = self.owed() > 0 && (self.is_blocked || self.owed_since.is_some());
        let asked = (self.bytes() - self.head_sent).saturating_sub(self.owed());
        let is_served = is_watched && asked > limits.backlog_soft_bytes;
        let is_behind = is_watched && self.backlog(limits) > limits.backlog_soft_bytes;
        self.over_since = match self.over_since {
            _ if is_served || !is_behind => None,
            None => Some(now.plus(self.served_since.map_or(0, |since| now.0 - since.0))),
            already => already,
        };
        self.served_since = if is_served { self.served_since.or(Some(now)) } else { None };
        self.owed_since = if is_watched { self.owed_since.or(Some(now)) } else { None };
    }

    fn bytes(&self) -> usize {
        self.frames.iter().map(|(frame, _)| frame.len()).sum()
    }

    fn owed(&self) -> usize {
        self.frames.iter().filter(|(_, is_published)| *is_published).map(|(f, _)| f.len()).sum()
    }

    pub fn backlog(&self, limits: &Limits) -> usize {
        let behind = self.frames.iter().skip(1).filter(|(_, is_published)| *is_published);
        behind.map(|(frame, _)| frame.len().min(limits.backlog_bytes / 4)).sum()
    }

    /// When it last took something or, if later, was first owed what it has not taken.
    fn idle_since(&self) -> Option<Millis> {
        self.owed_since.map(|owed| owed.max(self.taken_at))
    }

    /// Since when it is slow in that way, if it is.
    fn since(&self, reason: CloseReason, limits: &Limits) -> Option<Millis> {
        match reason {
            CloseReason::SlowConsumer if self.backlog(limits) > limits.backlog_bytes => {
                self.idle_since()
            }
            CloseReason::Stalled => self.idle_since(),
            CloseReason::Lagging => self.over_since,
            _ => None,
        }
    }

    /// When it must be cut for that reason.
    fn due(&self, reason: CloseReason, limits: &Limits) -> Option<Millis> {
        let since = self.since(reason, limits);
        since.map(|since| since.plus(patience(reason, limits) as u64))
    }

    /// Whether it must be cut for that reason now.
    fn is_due(&self, reason: CloseReason, now: Millis, limits: &Limits) -> bool {
        self.due(reason, limits).is_some_and(|due| due <= now)
    }

    /// Removes the frames at these positions: publications and, if `is_all`, answers. A publication
    /// that is left has been sent in part, and is not counted against the connection any more.
    fn drop_waiting(&mut self, dropped: &[usize], is_all: bool) {
        let must_go = |number: usize, is_published: bool| {
            (is_published || is_all) && !(number == 0 && self.head_sent > 0)
        };
        let due = self.frames.iter().enumerate().filter(|(n, (_, is))| must_go(*n, *is));
        assert_eq!(due.map(|(number, _)| number).collect::<Vec<_>>(), dropped);
        for number in dropped.iter().rev() {
            self.frames.remove(*number);
        }
        self.forgive();
    }

    /// Nothing that is queued counts against the connection any more.
    pub fn forgive(&mut self) {
        self.frames.iter_mut().for_each(|(_, is_published)| *is_published = false);
        (self.owed_since, self.over_since, self.served_since) = (None, None, None);
    }
}

impl ConnModel {
    /// The bytes queued for it, as the server counts them.
    pub(super) fn queued(&self) -> usize {
        let frames = &self.queue.frames;
        let bytes: usize = frames.iter().map(|(frame, _)| frame.len() + FRAME_COST_BYTES).sum();
        bytes - self.queue.head_sent
    }

    /// Frames were dropped from its queue, and the client will not see them.
    pub(super) fn forget_frames(&mut self, dropped: &[usize], is_all: bool) {
        let counts = self.queue.frames.iter().map(|(frame, _)| self.see(frame).len());
        let counts: Vec<usize> = counts.collect();
        self.queue.drop_waiting(dropped, is_all);
        // Backwards, because the client may have received messages of a frame that has begun.
        let mut end = self.wire.len();
        for number in (dropped.first().copied().unwrap_or(counts.len())..counts.len()).rev() {
            let start = end - counts[number];
            if dropped.contains(&number) {
                self.wire.drain(start..end);
            }
            end = start;
        }
    }
}

impl Judge {
    /// The network says that a peer does not take what was published to it.
    pub fn too_slow(&mut self, conn: ConnId, reason: CloseReason) {
        let line = &self.lines[&conn];
        let is_due = line.queue.is_due(reason, self.now.mono, &self.limits);
        assert!(is_due, "{conn:?} is not {reason}: {line:?}");
        self.note_patience(conn, reason);
        if reason == CloseReason::SlowConsumer {
            self.overdue.insert(conn);
        }
        self.dismiss(conn, reason);
    }

    /// Notes if another value of the limit has held since it became slow.
    fn note_patience(&mut self, conn: ConnId, reason: CloseReason) {
        if let Some(since) = self.lines[&conn].queue.since(reason, &self.limits) {
            let (least, most) = self.deadlines.range(since, |limits| patience(reason, limits));
            let other = if least == patience(reason, &self.limits) { most } else { least };
            self.deadlines.note(limit(reason), other);
        }
    }

    /// The network tells the backlog behind a publication, and whether it is too large while memory
    /// is short.
    pub(super) fn backlog_seen(&mut self, conn: ConnId, bytes: usize, is_lost: bool) {
        let (queue, limits, now) = (&self.lines[&conn].queue, &self.limits, self.now.mono);
        assert_eq!(bytes, queue.backlog(limits), "backlog of {conn:?}");
        let is_short = self.kept_bytes() > limits.queued_bytes / 2;
        let is_idle_for = |ms| queue.idle_since().is_some_and(|since| since.plus(ms) <= now);
        let is_due = is_short && bytes > limits.backlog_bytes;
        assert!(!is_lost || is_due && is_idle_for(0), "{conn:?} is given up too early");
        // What was sent in this very turn may not have been offered yet.
        assert!(is_lost || !is_due || !is_idle_for(1), "{conn:?} is not given up");
    }

    /// The server chose a connection to evict, because queued publications take too much memory.
    pub(super) fn chosen(&mut self, conn: Option<ConnId>, since: Millis) {
        let (now, max) = (self.now.mono, self.limits.queued_bytes);
        assert!(self.kept_bytes() > max - max / 4, "there is room");
        let flooded = self.flooded_since.expect("there is too much");
        assert!(now >= flooded.plus(IDLE_MS), "nobody had the time to take anything");
        let idle = Millis(now.0.saturating_sub(IDLE_MS));
        let is_patient = self.flood_known.is_none_or(|known| now < known.plus(PATIENCE_MS));
        let is_impatient = now >= flooded.plus(PATIENCE_MS);
        let is_right = since == idle && is_patient || since == now && is_impatient;
        assert!(is_right, "who is idle?");
        let most = self.most_owed(since);
        let owed = conn.map(|conn| self.lines[&conn].queue.owed());
        assert_eq!(owed, most, "{conn:?} is not the one that is owed most");
        if let Some(conn) = conn {
            self.dismiss(conn, CloseReason::Largest);
        }
    }

    /// The most that any connection is owed, of those that have taken nothing since that moment.
    fn most_owed(&self, since: Millis) -> Option<usize> {
        let open = self.lines.values().filter(|line| line.closing.is_none());
        let idle = open.filter(|line| line.queue.idle_since().is_some_and(|idle| idle <= since));
        idle.map(|line| line.queue.owed()).max()
    }

    /// The memory of all queued publications, each counted once.
    pub fn kept_bytes(&self) -> usize {
        self.weight(true)
    }

    /// The memory of all queued answers, each counted once.
    pub fn answers_bytes(&self) -> usize {
        self.weight(false)
    }

    fn weight(&self, of_published: bool) -> usize {
        let all = self.lines.values().flat_map(|line| &line.queue.frames);
        let counted = all.filter(|(_, is_published)| *is_published == of_published);
        let places: Vec<&Frame> = counted.map(|(frame, _)| frame).collect();
        let once: BTreeMap<*const u8, usize> =
            places.iter().map(|frame| (frame.as_ptr(), memory(frame))).collect();
        once.values().sum::<usize>() + places.len() * PLACE_COST_BYTES
    }

    /// Notes whether publications take too much memory; back ends are not read then.
    pub(super) fn note_flood(&mut self) {
        let (kept, max) = (self.kept_bytes(), self.limits.queued_bytes);
        if kept > max {
            self.flooded_since.get_or_insert(self.now.mono);
        } else if kept <= max - max / 4 {
            (self.flooded_since, self.flood_known) = (None, None);
        }
        if self.flooded_since.is_some() {
            // A back end that is paused for that has its time for a frame once more.
            self.lines.values_mut().for_each(|line| line.half_at_rest = None);
        }
    }

    /// The server checks now, as before each command and at the end of each turn. It need not know
    /// of an excess between two checks that the kernel has taken away.
    pub(super) fn see_flood(&mut self) {
        if self.kept_bytes() > self.limits.queued_bytes {
            self.flood_known.get_or_insert(self.now.mono);
        }
    }

    /// A connection is evicted, because queued answers take too much memory.
    pub(super) fn evicted(&mut self, conn: ConnId) {
        let (now, line) = (self.now.mono, &self.lines[&conn]);
        assert!(!line.queue.frames.is_empty(), "{conn:?} is owed nothing");
        let (since, _) = self.short_at.filter(|_| self.is_short()).expect("there is room");
        let is_idle = line.queue.taken_at.plus(IDLE_MS) <= now;
        let is_late = since.plus(HUNGER_MS) <= now;
        assert!(since.plus(IDLE_MS) <= now && (is_idle || is_late), "{conn:?} takes something");
        self.dismiss(conn, CloseReason::Largest);
        if let Some(line) = self.lines.get_mut(&conn).filter(|line| line.door() == Door::Control) {
            line.expected.clear();
        }
    }

    /// Notes whether answers take too much memory; requests for more wait then.
    pub(super) fn note_shortage(&mut self) {
        let (answers, max) = (self.answers_bytes(), self.limits.answers_bytes);
        if answers > max {
            self.short_since.get_or_insert(self.now.mono);
        }
        // The server looks for room at the end of its turns, and time stands still during one: it
        // has not seen room that was there only within a turn.
        if answers > max - max / 4 {
            self.room_at = None;
        } else if *self.room_at.get_or_insert(self.now.mono) < self.now.mono {
            self.short_since = None;
        }
        if let Some(since) = self.short_since {
            self.short_at = Some((since, self.now.mono));
        }
    }

    /// Whether requests may wait for that reason: the server notices room a little later.
    pub(super) fn is_short(&self) -> bool {
        self.short_at.is_some_and(|(_, at)| self.now.mono <= at.plus(IDLE_MS))
    }

    /// Whether back ends must not be read now.
    pub(super) fn is_there_too_much(&self) -> bool {
        self.flood_known.is_some()
    }

    /// Whether, at rest, back ends may be paused for that reason.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded_since.is_some()
    }

    /// When the next connection is due to be cut, if nothing changes.
    pub fn next_cut(&self) -> Option<Millis> {
        let open = self.lines.values().filter(|line| line.closing.is_none());
        let dues = open.flat_map(|line| DUE.map(|reason| line.queue.due(reason, &self.limits)));
        dues.flatten().min()
    }

    /// Checks at rest that a connection due to be cut has been.
    pub(super) fn nobody_is_slow(&self, conn: ConnId) {
        let (line, now) = (&self.lines[&conn], self.now.mono);
        for reason in DUE {
            // One that was slow before the limit was lowered may have the time of the old limit.
            let since = line.queue.since(reason, &self.limits);
            let ms =
                |since| self.deadlines.range(since, |limits| patience(reason, limits)).1 as u64;
            let is_due = since.is_some_and(|since| since.plus(ms(since)) <= now);
            assert!(!is_due, "{conn:?} is {reason}, and still open");
        }
        let seen = Millis(now.0.saturating_sub(IDLE_MS + LOOK_MS));
        if self.flood_known.is_some_and(|since| since <= seen) {
            let most = self.most_owed(seen);
            assert_eq!(most, None, "too much waits, and those who take nothing are still there");
        }
    }
}
