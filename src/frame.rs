//! Bytes on their way out. A [`Frame`] is encoded once and shared by all who receive it; an
//! [`OutQueue`] is one peer's list of frames, 8 bytes beside the peer. The frames of all peers are
//! in one [`FramePool`]: one that waits alone costs a node of 16 bytes there, only from the second
//! on is there a record of the list, an idle peer costs nothing, and a fan-out makes no allocation
//! once the pool has grown to its size. The pool's [`Ledger`] knows what all publications that wait
//! take together, and what all answers do, each counted once however many wait for it.

#[cfg(test)]
mod tests;

use std::cell::Cell;
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

/// What one more place in which a frame waits costs: a node, in a pool that may be half empty.
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

#[derive(Debug)]
struct Node {
    frame: Frame,
    next: u32,
    kind: Kind,
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
    /// The node of the one frame that waits, of which nothing has gone out; or the record of
    /// several, marked with [`LIST`]; or [`NIL`].
    first: u32,
    /// Bytes that the socket has taken in all, modulo 2^32.
    taken: u32,
}

/// For so long few frames have waited when the memory of many is given back.
const SHRINK_MS: u64 = 1000;

/// Marks the number of a record among those of nodes.
const LIST: u32 = 1 << 31;

/// The record of a queue in which several frames wait, or a part of one.
#[derive(Debug)]
struct List {
    head: u32,
    tail: u32,
    /// Bytes of the head frame that the socket has taken.
    head_sent: u32,
    frames: u32,
    /// Bytes of the publications behind the head, as far as they count.
    backlog: usize,
    /// Bytes not yet taken by the socket, over all frames.
    bytes: usize,
    /// Bytes of the publications that have not gone out as a whole.
    published: usize,
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

/// What a queued frame costs beside its bytes: its node, and the head of its allocation.
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
    nodes: Slots<Node>,
    lists: Slots<List>,
    /// When many frames waited last.
    busy_at: Millis,
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
            nodes: Slots::new(),
            lists: Slots::new(),
            busy_at: Millis(0),
            bytes: 0,
            counted_max,
            ledger: Ledger::default(),
        }
    }

    /// From now on so many bytes of one publication count. What waits is counted anew.
    pub fn set_counted_max(&mut self, counted_max: usize) {
        self.counted_max = counted_max;
        for (_, list) in self.lists.iter_mut() {
            list.backlog = 0;
            let mut at = self.nodes.get(list.head).map_or(NIL, |head| head.next);
            while let Some(node) = self.nodes.get(at) {
                list.backlog += counted(counted_max, node);
                at = node.next;
            }
        }
    }

    /// Frames that wait, in all queues together.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Bytes that wait, in all queues together: a frame that many share counts for each.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no frame waits anywhere.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.lists.is_empty()
    }

    /// What waits in a queue.
    pub fn waiting(&self, queue: &OutQueue) -> Waiting {
        match queue.list().map(|list| &self.lists[list]) {
            Some(list) => Waiting {
                bytes: list.bytes,
                frames: list.frames as usize,
                published: list.published,
                backlog: list.backlog,
                is_begun: list.head_sent > 0,
            },
            None => self.nodes.get(queue.first).map_or_else(Waiting::default, |node| Waiting {
                bytes: node.frame.len(),
                frames: 1,
                published: if node.kind == Kind::Published { node.frame.len() } else { 0 },
                ..Waiting::default()
            }),
        }
    }

    /// Bytes that wait in a queue.
    #[inline]
    pub fn bytes_of(&self, queue: &OutQueue) -> usize {
        match queue.list() {
            Some(list) => self.lists[list].bytes,
            None => self.nodes.get(queue.first).map_or(0, |node| node.frame.len()),
        }
    }

    /// The frame that waits in a queue, if there is one only and nothing of it has gone out.
    #[inline]
    pub fn only(&self, queue: &OutQueue) -> Option<&Frame> {
        match queue.list() {
            Some(_) => None,
            None => self.nodes.get(queue.first).map(|node| &node.frame),
        }
    }

    /// Puts a frame at the end of a queue. An empty frame is nothing to send.
    #[inline]
    pub fn push(&mut self, queue: &mut OutQueue, frame: Frame, kind: Kind) {
        if frame.is_empty() {
            return;
        }
        self.bytes += frame.len();
        self.ledger.add(&frame, kind);
        let node = self.nodes.insert(Node { frame, next: NIL, kind });
        assert!(node < LIST, "fewer than 2^31 frames");
        match queue.first {
            NIL => queue.first = node,
            _ => self.append(queue, node),
        }
    }

    /// Puts a node behind others.
    fn append(&mut self, queue: &mut OutQueue, node: u32) {
        let list = self.list(queue);
        let (list, Node { frame, kind, .. }) = (&mut self.lists[list], &self.nodes[node]);
        list.bytes += frame.len();
        list.published += if *kind == Kind::Published { frame.len() } else { 0 };
        list.backlog += counted(self.counted_max, &self.nodes[node]);
        list.frames += 1;
        let last = std::mem::replace(&mut list.tail, node);
        self.nodes[last].next = node;
    }

    /// The record of a queue that is not empty. It is made if there is none yet.
    fn list(&mut self, queue: &mut OutQueue) -> u32 {
        if let Some(list) = queue.list() {
            return list;
        }
        let Waiting { bytes, published, .. } = self.waiting(queue);
        let (head, tail) = (queue.first, queue.first);
        let list = List { head, tail, head_sent: 0, backlog: 0, bytes, published, frames: 1 };
        let list = self.lists.insert(list);
        queue.first = list | LIST;
        list
    }

    /// The node at the head of a queue.
    fn head(&self, queue: &OutQueue) -> u32 {
        queue.list().map_or(queue.first, |list| self.lists[list].head)
    }

    /// The frames that wait in a queue, in their order.
    pub fn frames(&self, queue: &OutQueue) -> impl Iterator<Item = &Frame> {
        self.nodes(queue).map(|node| &node.frame)
    }

    fn nodes(&self, queue: &OutQueue) -> impl Iterator<Item = &Node> {
        let mut at = self.head(queue);
        std::iter::from_fn(move || {
            let node = self.nodes.get(at)?;
            at = node.next;
            Some(node)
        })
    }

    /// Memory that the answers in a queue take, each shared by all who wait for it.
    pub fn owed(&self, queue: &OutQueue) -> usize {
        let answers = self.nodes(queue).filter(|node| node.kind == Kind::Asked);
        let share = |Frame(body): &Frame| {
            let places = body.waiting[Kind::Asked as usize].get().max(1) as usize;
            (body.bytes.len() + FRAME_COST_BYTES) / places + PLACE_COST_BYTES
        };
        answers.map(|node| share(&node.frame)).sum()
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
            let node = std::mem::replace(&mut queue.first, NIL);
            return self.drop_node(node);
        }
        if sent > 0 {
            self.sent_of_list(queue, sent);
        }
    }

    /// As [`FramePool::sent`], of several frames or a part of one.
    fn sent_of_list(&mut self, queue: &mut OutQueue, sent: usize) {
        let place = self.list(queue);
        let list = &mut self.lists[place];
        debug_assert!(sent <= list.bytes);
        list.bytes -= sent;
        list.head_sent += sent as u32;
        while let Some(node) = self.nodes.get(list.head) {
            // No frame is as long as 4 GiB, nor is what a kernel takes at once.
            let bytes = node.frame.len() as u32;
            if list.head_sent < bytes {
                return;
            }
            list.head_sent -= bytes;
            list.frames -= 1;
            if node.kind == Kind::Published {
                list.published -= node.frame.len();
            }
            self.ledger.remove(&node.frame, node.kind);
            let head = std::mem::replace(&mut list.head, node.next);
            self.nodes.remove(head);
            if let Some(next) = self.nodes.get(list.head) {
                list.backlog -= counted(self.counted_max, next);
            }
        }
        debug_assert!((list.bytes, list.published, list.backlog, list.head_sent) == (0, 0, 0, 0));
        self.lists.remove(place);
        queue.first = NIL;
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
        let place = self.list(queue);
        let list = &mut self.lists[place];
        let (mut at, mut last, mut number) = (list.head, NIL, 0);
        let begun = if list.head_sent > 0 { list.head } else { NIL };
        while let Some(node) = self.nodes.get_mut(at) {
            let (this, next, bytes) = (at, node.next, node.frame.len());
            at = next;
            number += 1;
            if node.kind == Kind::Published {
                list.published -= bytes;
            }
            if this == begun {
                self.ledger.remove(&node.frame, node.kind);
                node.kind = Kind::Asked;
                self.ledger.add(&node.frame, node.kind);
            } else if is_all || node.kind == Kind::Published {
                self.ledger.remove(&node.frame, node.kind);
                self.nodes.remove(this);
                (list.bytes, self.bytes) = (list.bytes - bytes, self.bytes - bytes);
                list.frames -= 1;
                dropped(number - 1);
                match self.nodes.get_mut(last) {
                    Some(last) => last.next = next,
                    None => list.head = next,
                }
                continue;
            }
            last = this;
        }
        (list.tail, list.backlog) = (last, 0);
        if list.frames == 0 {
            self.lists.remove(place);
            queue.first = NIL;
        }
    }

    /// Drops all that waits in a queue.
    pub fn clear(&mut self, queue: &mut OutQueue) {
        self.bytes -= self.bytes_of(queue);
        let mut at = self.head(queue);
        while let Some(node) = self.nodes.get(at) {
            let this = std::mem::replace(&mut at, node.next);
            self.drop_node(this);
        }
        if let Some(list) = queue.list() {
            self.lists.remove(list);
        }
        *queue = OutQueue::default();
    }

    /// Gives the memory of a past crowd back, once only few frames have waited at the end of each
    /// turn for a while: a part in each.
    pub fn shrink(&mut self, now: Millis) {
        if !self.has_spare() {
            return;
        }
        let is_busy = self.nodes.len() > self.nodes.slots() / 4;
        let is_time = self.busy_at.plus(SHRINK_MS) <= now;
        if is_busy || is_time && !(self.nodes.trim() | self.lists.trim()) {
            self.busy_at = now;
        }
    }

    /// When [`FramePool::shrink`] is wanted at the latest.
    pub fn shrink_at(&self) -> Option<Millis> {
        self.has_spare().then(|| self.busy_at.plus(SHRINK_MS))
    }

    fn has_spare(&self) -> bool {
        self.nodes.has_spare() || self.lists.has_spare()
    }

    /// Drops the frame of a node, which waits there no longer.
    #[inline]
    fn drop_node(&mut self, node: u32) {
        if let Some(Node { frame, kind, .. }) = self.nodes.remove(node) {
            self.ledger.remove(&frame, kind);
        }
    }
}

/// What of a frame behind the head counts as backlog.
fn counted(counted_max: usize, node: &Node) -> usize {
    match node.kind {
        Kind::Asked => 0,
        Kind::Published => node.frame.len().min(counted_max),
    }
}
