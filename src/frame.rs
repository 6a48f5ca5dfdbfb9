//! Bytes on their way out. A [`Frame`] is encoded once and shared by all who receive it; an
//! [`OutQueue`] is one peer's list of frames, 8 bytes beside the peer. The frames of all peers are
//! in one [`FramePool`]: one that waits alone costs 16 bytes there, only from the second on is
//! there a record, with a ring, an idle peer costs nothing, and a fan-out makes no allocation
//! once the pool has grown to its size. What one peer waits for lies together: whoever is cut with
//! hundreds of frames in line would otherwise cost a page for each. The pool's [`Ledger`] knows
//! what all publications that wait take together, and what all answers do, each counted once
//! however many wait for it.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::{VecDeque, vec_deque};
use std::io::IoSlice;
use std::ops::Deref;
use std::rc::Rc;

use crate::arena::{NIL, Slots};
use crate::time::Millis;

/// Encoded bytes, immutable and shared.
#[derive(Clone, Debug)]
pub struct Frame(Rc<Body>);

#[derive(Debug)]
struct Body {
    bytes: Box<[u8]>,
    /// In how many places it waits, by [`Kind`].
    waiting: [Cell<u32>; 2],
}

impl Frame {
    /// Whether it is that very one, and not only equal to it.
    pub fn is(&self, other: &Frame) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Whether somebody else has it as well.
    pub fn is_shared(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Frame) -> bool {
        self.0.bytes == other.0.bytes
    }
}
impl Eq for Frame {}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Frame {
        Frame(Rc::new(Body { bytes: bytes.into(), waiting: Default::default() }))
    }
}

impl From<&[u8]> for Frame {
    fn from(bytes: &[u8]) -> Frame {
        Frame::from(bytes.to_vec())
    }
}

impl Deref for Frame {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// What all frames of one kind that wait anywhere take together.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    bytes: usize,
    places: usize,
}

/// What all publications that wait anywhere take together, and what all answers do: each counts
/// once, and each place in which it waits a little.
#[derive(Debug, Default)]
pub struct Ledger {
    totals: [Total; 2],
    /// Bytes of each kind that wait outside of the pool, each frame counted in every place.
    aside: [usize; 2],
}

/// What one more place in which a frame waits costs, in a ring that may be half empty.
pub const PLACE_COST_BYTES: usize = 32;

impl Ledger {
    /// A frame waits in one more place.
    #[inline]
    pub fn add(&mut self, frame: &Frame, kind: Kind) {
        let (total, waiting) = (&mut self.totals[kind as usize], &frame.0.waiting[kind as usize]);
        if waiting.get() == 0 {
            total.bytes += frame.len() + FRAME_COST_BYTES;
        }
        waiting.set(waiting.get() + 1);
        total.places += 1;
    }

    /// It waits there no longer.
    #[inline]
    pub fn remove(&mut self, frame: &Frame, kind: Kind) {
        let (total, waiting) = (&mut self.totals[kind as usize], &frame.0.waiting[kind as usize]);
        debug_assert!(waiting.get() > 0 && total.places > 0);
        if waiting.get() == 1 {
            total.bytes -= frame.len() + FRAME_COST_BYTES;
        }
        waiting.set(waiting.get() - 1);
        total.places -= 1;
    }

    /// A frame waits in one more place, which is no queue of the pool.
    pub fn add_aside(&mut self, frame: &Frame, kind: Kind) {
        self.add(frame, kind);
        self.aside[kind as usize] += frame.len();
    }

    /// It waits there no longer.
    pub fn remove_aside(&mut self, frame: &Frame, kind: Kind) {
        self.remove(frame, kind);
        self.aside[kind as usize] -= frame.len();
    }

    /// Bytes of all of that kind that wait outside of the pool, as often as they do.
    pub fn aside(&self, kind: Kind) -> usize {
        self.aside[kind as usize]
    }

    /// Memory that all take which are of that kind.
    pub fn weight(&self, kind: Kind) -> usize {
        let Total { bytes, places } = self.totals[kind as usize];
        bytes + places * PLACE_COST_BYTES
    }
}

/// A frame in a queue.
#[derive(Debug)]
struct Place {
    frame: Frame,
    kind: Kind,
}

impl Place {
    /// What of it counts as published.
    fn published(&self) -> usize {
        if self.kind == Kind::Published { self.frame.len() } else { 0 }
    }

    /// What of it counts as backlog, behind the head.
    fn counted(&self, counted_max: usize) -> usize {
        self.published().min(counted_max)
    }
}

/// Whether a frame can make a slow consumer of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No: the peer asked for it.
    Asked,
    /// Yes: somebody else sent it.
    Published,
}

/// One peer's frames in the order of sending. They are in a [`FramePool`]; whoever drops a queue
/// calls [`FramePool::clear`] first.
#[derive(Debug)]
pub struct OutQueue {
    /// The place of the one frame that waits, of which nothing has gone out; or the record of
    /// several, marked with [`LIST`]; or [`NIL`].
    first: u32,
    /// Bytes that the socket has taken in all, modulo 2^32.
    taken: u32,
}

/// For so long few frames have waited when the memory of many is given back.
const SHRINK_MS: u64 = 1000;

/// Marks the number of a record among those of frames that wait alone.
const LIST: u32 = 1 << 31;
/// A ring of no more places is kept when all have gone out of it, for who is next; and one with
/// more gives the half of them back that is not used.
const RING_KEPT: usize = 32;
/// Rings that are let go of at a time.
const RINGS_LET_GO: usize = 256;

/// The record of a queue in which several frames wait, or a part of one.
#[derive(Debug)]
struct List {
    places: VecDeque<Place>,
    /// Bytes of the first frame that the socket has taken.
    head_sent: u32,
    /// Bytes of the publications behind the head, as far as they count.
    backlog: usize,
    /// Bytes not yet taken by the socket, over all frames.
    bytes: usize,
    /// Bytes of the publications that have not gone out as a whole.
    published: usize,
}

impl List {
    /// Gives memory back, once half of a large ring is not used.
    fn give_back(&mut self) {
        let (capacity, len) = (self.places.capacity(), self.places.len());
        if capacity > RING_KEPT && len <= capacity / 2 {
            self.places.shrink_to(len + len / 2);
        }
    }
}

/// What waits in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes not yet taken by the socket.
    pub bytes: usize,
    /// How many frames.
    pub frames: usize,
    /// Bytes of the publications, the one that is being sent included.
    pub published: usize,
    /// Bytes of the publications behind the frame that is being sent, of each as many as count:
    /// what makes a slow consumer.
    pub backlog: usize,
    /// Whether a part of the first frame has been sent.
    pub is_begun: bool,
}

impl Waiting {
    /// Memory that waits: the bytes, and the cost of each frame, so that many small ones are not
    /// taken for little.
    pub fn weight(&self) -> usize {
        self.bytes + self.frames * FRAME_COST_BYTES
    }
}

/// What a queued frame costs beside its bytes: its place, and the head of its allocation.
pub const FRAME_COST_BYTES: usize = 64;

impl Default for OutQueue {
    fn default() -> OutQueue {
        OutQueue { first: NIL, taken: 0 }
    }
}

impl OutQueue {
    /// Whether all has been sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first == NIL
    }

    /// Bytes that the socket has taken so far, modulo 2^32.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// The place of its record, if it has one.
    #[inline]
    fn list(&self) -> Option<u32> {
        (self.first != NIL && self.first & LIST != 0).then_some(self.first & !LIST)
    }
}

/// The frames of all queues.
#[derive(Debug)]
pub struct FramePool {
    /// Those that wait alone.
    single: Slots<Place>,
    lists: Slots<List>,
    /// Rings without frames, for the lists that come next.
    rings: Vec<VecDeque<Place>>,
    /// When many frames waited last.
    busy_at: Millis,
    /// How many frames wait, in all queues together.
    len: usize,
    /// Bytes that wait, in all queues together.
    bytes: usize,
    /// So many bytes of one publication count in a backlog.
    counted_max: usize,
    /// The frames that wait, here and wherever else they are kept.
    pub ledger: Ledger,
}

impl FramePool {
    /// An empty pool, in whose queues no more than so many bytes of one publication count as
    /// backlog: nobody is slow because one message is large.
    pub fn new(counted_max: usize) -> FramePool {
        FramePool {
            single: Slots::new(),
            lists: Slots::new(),
            rings: Vec::new(),
            busy_at: Millis(0),
            len: 0,
            bytes: 0,
            counted_max,
            ledger: Ledger::default(),
        }
    }

    /// From now on so many bytes of one publication count. What waits is counted anew.
    pub fn set_counted_max(&mut self, counted_max: usize) {
        self.counted_max = counted_max;
        for (_, list) in self.lists.iter_mut() {
            list.backlog = list.places.iter().skip(1).map(|one| one.counted(counted_max)).sum();
        }
    }

    /// Frames that wait, in all queues together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes that wait, in all queues together: a frame that many share counts for each.
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
                frames: list.places.len(),
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

    /// Bytes that wait in a queue.
    #[inline]
    pub fn bytes_of(&self, queue: &OutQueue) -> usize {
        match queue.list() {
            Some(list) => self.lists[list].bytes,
            None => self.single.get(queue.first).map_or(0, |one| one.frame.len()),
        }
    }

    /// The frame that waits in a queue, if there is one only and nothing of it has gone out.
    #[inline]
    pub fn only(&self, queue: &OutQueue) -> Option<&Frame> {
        match queue.list() {
            Some(_) => None,
            None => self.single.get(queue.first).map(|one| &one.frame),
        }
    }

    /// Puts a frame at the end of a queue. An empty frame is nothing to send.
    #[inline]
    pub fn push(&mut self, queue: &mut OutQueue, frame: Frame, kind: Kind) {
        if frame.is_empty() {
            return;
        }
        self.len += 1;
        self.bytes += frame.len();
        self.ledger.add(&frame, kind);
        let place = Place { frame, kind };
        if queue.is_empty() {
            queue.first = self.single.insert(place);
            assert!(queue.first < LIST, "fewer than 2^31 frames");
        } else {
            self.append(queue, place);
        }
    }

    /// Puts a frame behind others.
    fn append(&mut self, queue: &mut OutQueue, place: Place) {
        let counted = place.counted(self.counted_max);
        let list = self.list(queue);
        let list = &mut self.lists[list];
        list.bytes += place.frame.len();
        list.published += place.published();
        list.backlog += counted;
        list.places.push_back(place);
    }

    /// The record of a queue that is not empty. It is made if there is none yet.
    fn list(&mut self, queue: &mut OutQueue) -> u32 {
        if let Some(list) = queue.list() {
            return list;
        }
        let Waiting { bytes, published, .. } = self.waiting(queue);
        let mut places = self.rings.pop().unwrap_or_default();
        if let Some(first) = self.single.remove(queue.first) {
            places.push_back(first);
        }
        let list = self.lists.insert(List { places, head_sent: 0, backlog: 0, bytes, published });
        queue.first = list | LIST;
        list
    }

    /// Nothing waits in a queue that had a record.
    fn end_list(&mut self, queue: &mut OutQueue) {
        let ended = queue.list().and_then(|list| self.lists.remove(list));
        queue.first = NIL;
        if let Some(List { places, .. }) = ended
            && (1..=RING_KEPT).contains(&places.capacity())
        {
            self.rings.push(places);
        }
    }

    /// The frames that wait in a queue, in their order.
    pub fn frames(&self, queue: &OutQueue) -> impl Iterator<Item = &Frame> {
        self.places(queue).map(|one| &one.frame)
    }

    #[inline]
    fn places(&self, queue: &OutQueue) -> impl Iterator<Item = &Place> {
        let (one, several) = match queue.list() {
            Some(list) => (None, self.lists[list].places.iter()),
            None => (self.single.get(queue.first), vec_deque::Iter::default()),
        };
        one.into_iter().chain(several)
    }

    /// Memory that the answers in a queue take, each shared by all who wait for it.
    pub fn owed(&self, queue: &OutQueue) -> usize {
        let answers = self.places(queue).filter(|one| one.kind == Kind::Asked);
        let share = |Frame(body): &Frame| {
            let places = body.waiting[Kind::Asked as usize].get().max(1) as usize;
            (body.bytes.len() + FRAME_COST_BYTES) / places + PLACE_COST_BYTES
        };
        answers.map(|one| share(&one.frame)).sum()
    }

    /// The unsent bytes of the first frames, as many as `slices` has room for; returns how many
    /// slices were filled.
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

    /// Notes that the socket took `sent` more bytes, and drops the frames that are through.
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

    /// As [`FramePool::sent`], of several frames or a part of one.
    fn sent_of_list(&mut self, queue: &mut OutQueue, sent: usize) {
        let list = self.list(queue);
        let list = &mut self.lists[list];
        debug_assert!(sent <= list.bytes);
        list.bytes -= sent;
        list.head_sent += sent as u32;
        // No frame is as long as 4 GiB, nor is what a kernel takes at once.
        while let Some(one) =
            list.places.front().filter(|one| one.frame.len() as u32 <= list.head_sent)
        {
            list.head_sent -= one.frame.len() as u32;
            list.published -= one.published();
            self.ledger.remove(&one.frame, one.kind);
            self.len -= 1;
            list.places.pop_front();
            if let Some(next) = list.places.front() {
                list.backlog -= next.counted(self.counted_max);
            }
        }
        list.give_back();
        if list.places.is_empty() {
            debug_assert!(
                (list.bytes, list.published, list.backlog, list.head_sent) == (0, 0, 0, 0)
            );
            self.end_list(queue);
        }
    }

    /// Drops the publications that wait in a queue, and if `is_all` the answers as well, but for
    /// one of which a part has gone out: that one is no longer counted among publications. Tells of
    /// each that it drops which frame it was, counted from the front.
    pub fn drop_waiting(
        &mut self,
        queue: &mut OutQueue,
        is_all: bool,
        mut dropped: impl FnMut(usize),
    ) {
        if queue.is_empty() {
            return;
        }
        let list = self.list(queue);
        let (list, ledger) = (&mut self.lists[list], &mut self.ledger);
        let begun = (list.head_sent > 0).then_some(0);
        let (mut number, mut bytes) = (0, 0);
        let before = list.places.len();
        list.places.retain_mut(|Place { frame, kind }| {
            let this = number;
            number += 1;
            if Some(this) == begun {
                ledger.remove(frame, *kind);
                *kind = Kind::Asked;
                ledger.add(frame, *kind);
                return true;
            }
            if !is_all && *kind == Kind::Asked {
                return true;
            }
            ledger.remove(frame, *kind);
            bytes += frame.len();
            dropped(this);
            false
        });
        list.bytes -= bytes;
        (list.published, list.backlog) = (0, 0);
        list.give_back();
        self.bytes -= bytes;
        self.len -= before - list.places.len();
        if list.places.is_empty() {
            self.end_list(queue);
        }
    }

    /// Drops all that waits in a queue.
    pub fn clear(&mut self, queue: &mut OutQueue) {
        self.bytes -= self.bytes_of(queue);
        if let Some(list) = queue.list() {
            let List { places, .. } = &mut self.lists[list];
            self.len -= places.len();
            places.drain(..).for_each(|one| self.ledger.remove(&one.frame, one.kind));
            self.end_list(queue);
        } else if !queue.is_empty() {
            self.drop_single(queue);
        }
        *queue = OutQueue::default();
    }

    /// Gives the memory of a past crowd back, once only few frames have waited at the end of each
    /// turn for a while: a part in each.
    pub fn shrink(&mut self, now: Millis) {
        if !self.has_spare() {
            return;
        }
        // A few who are slow keep their records, and not the rings of the many who were not.
        let has_rings = self.rings.len() > 3 * self.lists.len();
        let is_busy = !has_rings && (self.single.is_busy() || self.lists.is_busy());
        let is_time = self.busy_at.plus(SHRINK_MS) <= now;
        if is_busy || is_time && !(self.let_go() | self.single.trim() | self.lists.trim()) {
            self.busy_at = now;
        }
    }

    /// Lets go of some rings: whether there were any.
    fn let_go(&mut self) -> bool {
        self.rings.truncate(self.rings.len().saturating_sub(RINGS_LET_GO));
        if self.rings.is_empty() {
            self.rings = Vec::new();
        }
        !self.rings.is_empty()
    }

    /// When [`FramePool::shrink`] is wanted at the latest.
    pub fn shrink_at(&self) -> Option<Millis> {
        self.has_spare().then(|| self.busy_at.plus(SHRINK_MS))
    }

    fn has_spare(&self) -> bool {
        self.single.has_spare() || self.lists.has_spare() || !self.rings.is_empty()
    }

    /// Drops the one frame of a queue, which waits there no longer.
    #[inline]
    fn drop_single(&mut self, queue: &mut OutQueue) {
        let one = self.single.remove(std::mem::replace(&mut queue.first, NIL));
        if let Some(Place { frame, kind }) = one {
            self.len -= 1;
            self.ledger.remove(&frame, kind);
        }
    }
}
