//! Output queues. A [`Frame`] is encoded once and shared by all peers that receive it; an
//! [`OutQueue`] is one peer's queue of frames, 8 bytes beside the peer. The frames of all queues
//! are in one [`FramePool`]: a frame that is alone in its queue costs 16 bytes there, a record with
//! a ring buffer is made only for the second, an idle peer costs nothing, and a fan-out allocates
//! nothing once the pool has grown. The pool's [`Ledger`] knows the memory of all waiting
//! publications, and of all waiting answers, each frame counted once however many peers wait for
//! it.

mod rings;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::vec_deque;
use std::io::IoSlice;

use crate::arena::{NIL, Slots};
use crate::time::Millis;
use rings::{Ring, Rings};
pub use shared::Frame;

/// Total of the waiting frames of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    bytes: usize,
    places: usize,
}

/// Memory of frames that wait to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueMemory {
    /// Memory of all publications that wait, each counted once, plus a small cost for each place
    /// in which one waits.
    pub bytes: usize,
    /// Bytes of those publications handed to [`Ledger::add_outside`], counted once for each call.
    pub outside: usize,
    /// Memory of all answers that wait, those to back ends included, counted in the same way.
    pub answers: usize,
    /// Bytes of those answers handed to [`Ledger::add_outside`], counted once for each call.
    pub answers_outside: usize,
}

/// Memory of all waiting publications, and of all waiting answers: each frame counts once, and each
/// place in which it waits counts a little.
#[derive(Debug, Default)]
pub struct Ledger {
    totals: [Total; 2],
    /// Bytes of each kind that wait outside the pool; a frame counts in every place.
    outside: [usize; 2],
}

/// Cost of one more place in which a frame waits, in a ring that may be half empty.
pub const PLACE_COST_BYTES: usize = 32;

impl Ledger {
    /// Counts a frame in one more place.
    #[inline]
    pub fn add(&mut self, frame: &Frame, kind: Kind) {
        let (total, waiting) = (&mut self.totals[kind as usize], frame.waiting(kind));
        if waiting.get() == 0 {
            total.bytes += frame.memory();
        }
        waiting.set(waiting.get() + 1);
        total.places += 1;
    }

    /// Counts a frame in one place less.
    #[inline]
    pub fn remove(&mut self, frame: &Frame, kind: Kind) {
        let (total, waiting) = (&mut self.totals[kind as usize], frame.waiting(kind));
        debug_assert!(waiting.get() > 0 && total.places > 0);
        if waiting.get() == 1 {
            total.bytes -= frame.memory();
        }
        waiting.set(waiting.get() - 1);
        total.places -= 1;
    }

    /// Counts a frame in one more place that is not a queue of the pool.
    pub fn add_outside(&mut self, frame: &Frame, kind: Kind) {
        self.add(frame, kind);
        self.outside[kind as usize] += frame.len();
    }

    /// Counts a frame in one such place less.
    pub fn remove_outside(&mut self, frame: &Frame, kind: Kind) {
        self.remove(frame, kind);
        self.outside[kind as usize] -= frame.len();
    }

    /// The memory of all waiting frames.
    pub fn memory(&self) -> QueueMemory {
        let [answers_outside, outside] = self.outside;
        let (bytes, answers) = (self.weight(Kind::Published), self.weight(Kind::Asked));
        QueueMemory { bytes, outside, answers, answers_outside }
    }

    /// Memory of all waiting frames of this kind.
    pub fn weight(&self, kind: Kind) -> usize {
        let Total { bytes, places } = self.totals[kind as usize];
        bytes + places * PLACE_COST_BYTES
    }
}

/// A frame in a queue.
#[derive(Debug)]
struct QueuedFrame {
    frame: Frame,
    kind: Kind,
}

impl QueuedFrame {
    /// Bytes that count as published.
    fn published(&self) -> usize {
        if self.kind == Kind::Published { self.frame.len() } else { 0 }
    }

    /// Bytes that count as backlog, if it is behind the head.
    fn counted(&self, counted_max: usize) -> usize {
        self.published().min(counted_max)
    }
}

/// Whether a frame can make its peer a slow consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No: the peer asked for it.
    Asked,
    /// Yes: someone else published it.
    Published,
}

/// One peer's frames in the order of sending. They are stored in a [`FramePool`]: call
/// [`FramePool::clear`] before dropping a queue.
#[derive(Debug)]
pub struct OutQueue {
    /// Slot of the only frame, if nothing of it has been sent; or of the record, marked with
    /// [`LIST`]; or [`NIL`].
    first: u32,
    /// Bytes that the socket has taken in all, modulo 2^32.
    taken: u32,
}

/// How long only few frames must have waited before memory is given back.
const SHRINK_MS: u64 = 1000;

/// Marks the slot of a record, as opposed to that of a single frame.
const LIST: u32 = 1 << 31;

/// The record of a queue with several frames, or one that is sent in part.
#[derive(Debug)]
struct List {
    /// The first frames.
    queued: Ring,
    /// The rings with further frames; [`NIL`] if there are none.
    behind: u32,
    /// Bytes of the first frame that the socket has taken.
    head_sent: u32,
    /// Bytes of the publications behind the head, each up to [`FramePool::counted_max`].
    backlog: usize,
    /// Bytes not yet taken by the socket, over all frames.
    bytes: usize,
    /// Bytes of the publications that have not been sent completely.
    published: usize,
}

/// What waits in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes not yet taken by the socket.
    pub bytes: usize,
    /// How many frames.
    pub frames: usize,
    /// Bytes of the publications, including the one being sent.
    pub published: usize,
    /// Bytes of the publications behind the frame being sent, each up to the bound that counts:
    /// what makes a slow consumer.
    pub backlog: usize,
    /// Whether the first frame has been sent in part.
    pub is_begun: bool,
}

impl Waiting {
    /// Memory that waits: the bytes plus the cost of each frame, so that many small frames do not
    /// pass for little.
    pub fn weight(&self) -> usize {
        self.bytes + self.frames * FRAME_COST_BYTES
    }
}

/// Cost of a queued frame besides its bytes: its place, and the header of its allocation.
pub const FRAME_COST_BYTES: usize = 64;

impl Default for OutQueue {
    fn default() -> OutQueue {
        OutQueue { first: NIL, taken: 0 }
    }
}

impl OutQueue {
    /// Whether everything has been sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first == NIL
    }

    /// Bytes that the socket has taken so far, modulo 2^32.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// Slot of its record, if it has one.
    #[inline]
    fn list(&self) -> Option<u32> {
        (self.first != NIL && self.first & LIST != 0).then_some(self.first & !LIST)
    }
}

/// The frames of all queues.
#[derive(Debug)]
pub struct FramePool {
    /// Frames that are alone in their queues.
    single: Slots<QueuedFrame>,
    lists: Slots<List>,
    rings: Rings,
    /// When many frames last waited.
    busy_at: Millis,
    /// How many frames wait, in all queues together.
    len: usize,
    /// Bytes that wait, in all queues together.
    bytes: usize,
    /// At most this many bytes of one publication count as backlog.
    counted_max: usize,
    /// Counts the frames that wait, here and elsewhere.
    pub ledger: Ledger,
}

impl FramePool {
    /// Creates an empty pool. At most `counted_max` bytes of one publication count as backlog: no
    /// peer is slow because one message is large.
    pub fn new(counted_max: usize) -> FramePool {
        FramePool {
            single: Slots::new(),
            lists: Slots::new(),
            rings: Rings::default(),
            busy_at: Millis(0),
            len: 0,
            bytes: 0,
            counted_max,
            ledger: Ledger::default(),
        }
    }

    /// Sets how many bytes of one publication count as backlog, and recounts what waits.
    pub fn set_counted_max(&mut self, counted_max: usize) {
        self.counted_max = counted_max;
        for (_, list) in self.lists.iter_mut() {
            let frames = list.queued.iter().chain(self.rings.frames_behind(list.behind));
            list.backlog = frames.skip(1).map(|one| one.counted(counted_max)).sum();
        }
    }

    /// Number of waiting frames, in all queues together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Waiting bytes, in all queues together: a shared frame counts in each.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no frame waits anywhere.
    pub fn is_empty(&self) -> bool {
        self.single.is_empty() && self.lists.is_empty()
    }

    /// What waits in a queue.
    pub fn waiting(&self, queue: &OutQueue) -> Waiting {
        match queue.list().map(|list| &self.lists[list]) {
            Some(list) => Waiting {
                bytes: list.bytes,
                frames: list.queued.len() + self.rings.len_behind(list.behind),
                published: list.published,
                backlog: list.backlog,
                is_begun: list.head_sent > 0,
            },
            None => self.single.get(queue.first).map_or_else(Waiting::default, |one| Waiting {
                bytes: one.frame.len(),
                frames: 1,
                published: one.published(),
                ..Waiting::default()
            }),
        }
    }

    /// Waiting bytes of a queue.
    #[inline]
    pub fn bytes_of(&self, queue: &OutQueue) -> usize {
        match queue.list() {
            Some(list) => self.lists[list].bytes,
            None => self.single.get(queue.first).map_or(0, |one| one.frame.len()),
        }
    }

    /// The frame of a queue, if it is the only one and nothing of it has been sent.
    #[inline]
    pub fn only(&self, queue: &OutQueue) -> Option<&Frame> {
        match queue.list() {
            Some(_) => None,
            None => self.single.get(queue.first).map(|one| &one.frame),
        }
    }

    /// Appends a frame to a queue. An empty frame is ignored.
    #[inline]
    pub fn push(&mut self, queue: &mut OutQueue, frame: Frame, kind: Kind) {
        if frame.is_empty() {
            return;
        }
        self.len += 1;
        self.bytes += frame.len();
        self.ledger.add(&frame, kind);
        let one = QueuedFrame { frame, kind };
        if queue.is_empty() {
            queue.first = self.single.insert(one);
            assert!(queue.first < LIST, "fewer than 2^31 frames");
        } else {
            self.append(queue, one);
        }
    }

    /// Appends a frame to a queue that is not empty.
    fn append(&mut self, queue: &mut OutQueue, one: QueuedFrame) {
        let counted = one.counted(self.counted_max);
        let slot = self.list(queue);
        let list = &mut self.lists[slot];
        list.bytes += one.frame.len();
        list.published += one.published();
        list.backlog += counted;
        self.rings.push(slot, &mut list.queued, &mut list.behind, one);
    }

    /// The record of a queue that is not empty; made if there is none yet.
    fn list(&mut self, queue: &mut OutQueue) -> u32 {
        if let Some(list) = queue.list() {
            return list;
        }
        let Waiting { bytes, published, .. } = self.waiting(queue);
        let mut queued = self.rings.take();
        if let Some(first) = self.single.remove(queue.first) {
            queued.push_back(first);
        }
        let new = List { queued, behind: NIL, head_sent: 0, backlog: 0, bytes, published };
        let list = self.lists.insert(new);
        queue.first = list | LIST;
        list
    }

    /// Removes the record of a queue in which nothing waits any more.
    fn end_list(&mut self, queue: &mut OutQueue) {
        let ended = queue.list().and_then(|list| self.lists.remove(list));
        queue.first = NIL;
        if let Some(List { queued, .. }) = ended {
            self.rings.put_back(queued);
        }
    }

    /// The frames of a queue, in order.
    pub fn frames(&self, queue: &OutQueue) -> impl Iterator<Item = &Frame> {
        self.queued(queue).map(|one| &one.frame)
    }

    #[inline]
    fn queued(&self, queue: &OutQueue) -> impl Iterator<Item = &QueuedFrame> {
        let (one, several, behind) = match queue.list().map(|list| &self.lists[list]) {
            Some(list) => (None, list.queued.iter(), list.behind),
            None => (self.single.get(queue.first), vec_deque::Iter::default(), NIL),
        };
        one.into_iter().chain(several).chain(self.rings.frames_behind(behind))
    }

    /// Memory of the answers in a queue, each divided among all places in which it waits.
    pub fn owed(&self, queue: &OutQueue) -> usize {
        let answers = self.queued(queue).filter(|one| one.kind == Kind::Asked);
        let share = |frame: &Frame| {
            let places = frame.waiting(Kind::Asked).get().max(1) as usize;
            frame.memory() / places + PLACE_COST_BYTES
        };
        answers.map(|one| share(&one.frame)).sum()
    }

    /// Fills `slices` with the unsent bytes of the first frames; returns how many slices were
    /// filled.
    pub fn slices<'a>(&'a self, queue: &OutQueue, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = queue.list().map_or(0, |list| self.lists[list].head_sent as usize);
        let mut filled = 0;
        for (slice, frame) in slices.iter_mut().zip(self.frames(queue)) {
            *slice = IoSlice::new(frame.get(skip..).unwrap_or_default());
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// Notes that the socket took `sent` more bytes, and drops the frames sent completely.
    #[inline]
    pub fn sent(&mut self, queue: &mut OutQueue, sent: usize) {
        queue.taken = queue.taken.wrapping_add(sent as u32);
        self.bytes -= sent;
        if self.only(queue).is_some_and(|frame| frame.len() == sent) {
            return self.drop_single(queue);
        }
        if sent > 0 {
            self.sent_of_list(queue, sent);
        }
    }

    /// The same for several frames, or a part of one.
    fn sent_of_list(&mut self, queue: &mut OutQueue, sent: usize) {
        let list = self.list(queue);
        let list = &mut self.lists[list];
        debug_assert!(sent <= list.bytes);
        list.bytes -= sent;
        list.head_sent += sent as u32;
        // 32 bits suffice: no frame is 4 GiB long, and no kernel takes as much at once.
        while let Some(one) =
            list.queued.front().filter(|one| one.frame.len() as u32 <= list.head_sent)
        {
            list.head_sent -= one.frame.len() as u32;
            list.published -= one.published();
            self.ledger.remove(&one.frame, one.kind);
            self.len -= 1;
            list.queued.pop_front();
            self.rings.go_on(&mut list.queued, &mut list.behind);
            if let Some(next) = list.queued.front() {
                list.backlog -= next.counted(self.counted_max);
            }
        }
        if list.queued.is_empty() {
            debug_assert!(
                (list.bytes, list.published, list.backlog, list.head_sent) == (0, 0, 0, 0)
            );
            self.end_list(queue);
        }
    }

    /// Drops the publications in a queue, with `is_all` also the answers, but no frame that has
    /// been sent in part: that one stays, and no longer counts as a publication. Calls `dropped`
    /// with the index of each frame that it drops, counted from the front.
    pub fn drop_waiting(
        &mut self,
        queue: &mut OutQueue,
        is_all: bool,
        mut dropped: impl FnMut(usize),
    ) {
        if queue.is_empty() {
            return;
        }
        let slot = self.list(queue);
        let list = &mut self.lists[slot];
        let begun = (list.head_sent > 0).then_some(0);
        let (mut number, mut bytes, mut count) = (0, 0, 0);
        for mut ring in self.rings.take_all(&mut list.queued, &mut list.behind) {
            for mut one in ring.drain(..) {
                let this = number;
                number += 1;
                if Some(this) == begun {
                    self.ledger.remove(&one.frame, one.kind);
                    one.kind = Kind::Asked;
                    self.ledger.add(&one.frame, one.kind);
                } else if is_all || one.kind == Kind::Published {
                    self.ledger.remove(&one.frame, one.kind);
                    bytes += one.frame.len();
                    count += 1;
                    dropped(this);
                    continue;
                }
                self.rings.push(slot, &mut list.queued, &mut list.behind, one);
            }
            self.rings.put_back(ring);
        }
        list.bytes -= bytes;
        (list.published, list.backlog) = (0, 0);
        self.bytes -= bytes;
        self.len -= count;
        if list.queued.is_empty() {
            self.end_list(queue);
        }
    }

    /// Drops all frames of a queue.
    pub fn clear(&mut self, queue: &mut OutQueue) {
        self.bytes -= self.bytes_of(queue);
        if let Some(list) = queue.list() {
            let List { queued, behind, .. } = &mut self.lists[list];
            for ring in self.rings.take_all(queued, behind) {
                self.len -= ring.len();
                ring.iter().for_each(|one| self.ledger.remove(&one.frame, one.kind));
                self.rings.put_back(ring);
            }
            self.end_list(queue);
        } else if !queue.is_empty() {
            self.drop_single(queue);
        }
        *queue = OutQueue::default();
    }

    /// Gives back the memory of a past crowd, a part in each turn, once only few frames have waited
    /// at the end of each turn for a while.
    pub fn shrink(&mut self, now: Millis) {
        if !self.has_spare() {
            return;
        }
        // A few slow peers keep their records, but not the rings of the many that were not slow.
        let has_rings = self.rings.spare() > 3 * self.lists.len();
        let is_busy = !has_rings && (self.single.is_busy() || self.lists.is_busy());
        let is_time = self.busy_at.plus(SHRINK_MS) <= now;
        if is_busy || is_time && !(self.rings.trim() | self.single.trim() | self.lists.trim()) {
            self.busy_at = now;
        }
    }

    /// When [`FramePool::shrink`] should be called at the latest.
    pub fn shrink_at(&self) -> Option<Millis> {
        self.has_spare().then(|| self.busy_at.plus(SHRINK_MS))
    }

    fn has_spare(&self) -> bool {
        self.single.has_spare() || self.lists.has_spare() || self.rings.has_spare()
    }

    /// Drops the only frame of a queue.
    #[inline]
    fn drop_single(&mut self, queue: &mut OutQueue) {
        let one = self.single.remove(std::mem::replace(&mut queue.first, NIL));
        if let Some(QueuedFrame { frame, kind }) = one {
            self.len -= 1;
            self.ledger.remove(&frame, kind);
        }
    }
}
