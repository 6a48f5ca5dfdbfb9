//! Bytes on their way out. A [`Frame`] is encoded once and shared by all who receive it; an
//! [`OutQueue`] is one peer's list of frames. The lists of all peers live in one [`FramePool`], so
//! a queued frame costs a peer one node of 16 bytes, an idle peer nothing, and a fan-out makes no
//! allocation once the pool has grown to its size. The pool's [`Ledger`] knows what all
//! publications that wait take together, each counted once however many wait for it.

use std::cell::Cell;
use std::io::IoSlice;
use std::ops::Deref;
use std::rc::Rc;

use slab::Slab;

/// Encoded bytes, immutable and shared.
#[derive(Clone, Debug)]
pub struct Frame(Rc<Body>);

#[derive(Debug)]
struct Body {
    bytes: Box<[u8]>,
    /// In how many places it waits as a publication.
    waiting: Cell<u32>,
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
        Frame(Rc::new(Body { bytes: bytes.into(), waiting: Cell::new(0) }))
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

/// What all publications that wait anywhere take together: each counts once, and each place in
/// which it waits a little.
#[derive(Debug, Default)]
pub struct Ledger {
    bytes: usize,
    places: usize,
    /// Bytes of those that wait outside of the pool, each counted in every place.
    aside: usize,
}

/// What one more place in which a publication waits costs: a node, in a pool that may be half
/// empty.
pub const PLACE_COST_BYTES: usize = 32;

impl Ledger {
    /// A publication waits in one more place.
    pub fn add(&mut self, frame: &Frame) {
        let waiting = frame.0.waiting.get();
        if waiting == 0 {
            self.bytes += frame.len() + FRAME_COST_BYTES;
        }
        frame.0.waiting.set(waiting + 1);
        self.places += 1;
    }

    /// It waits there no longer.
    pub fn remove(&mut self, frame: &Frame) {
        let waiting = frame.0.waiting.get();
        debug_assert!(waiting > 0 && self.places > 0);
        if waiting == 1 {
            self.bytes -= frame.len() + FRAME_COST_BYTES;
        }
        frame.0.waiting.set(waiting - 1);
        self.places -= 1;
    }

    /// A publication waits in one more place, which is no queue of the pool.
    pub fn add_aside(&mut self, frame: &Frame) {
        self.add(frame);
        self.aside += frame.len();
    }

    /// It waits there no longer.
    pub fn remove_aside(&mut self, frame: &Frame) {
        self.remove(frame);
        self.aside -= frame.len();
    }

    /// Bytes of all that wait outside of the pool, as often as they do.
    pub fn aside(&self) -> usize {
        self.aside
    }

    /// Memory that they take.
    pub fn weight(&self) -> usize {
        self.bytes + self.places * PLACE_COST_BYTES
    }
}

/// No node: the end of a list.
const NIL: u32 = u32::MAX;

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

/// One peer's frames in the order of sending. Its nodes are in a [`FramePool`]; whoever drops a
/// queue calls [`FramePool::clear`] first.
#[derive(Debug)]
pub struct OutQueue {
    head: u32,
    tail: u32,
    /// Bytes of the head frame that the socket has taken.
    head_sent: usize,
    /// Bytes not yet taken by the socket, over all frames.
    bytes: usize,
    /// Bytes of the publications that have not gone out as a whole.
    published: usize,
    /// What of that waits behind the head, as far as it counts.
    backlog: u32,
    /// How many frames wait.
    frames: u32,
}

/// What a queued frame costs beside its bytes: its node, and the head of its allocation.
pub const FRAME_COST_BYTES: usize = 64;

impl Default for OutQueue {
    fn default() -> OutQueue {
        OutQueue {
            head: NIL,
            tail: NIL,
            head_sent: 0,
            bytes: 0,
            published: 0,
            backlog: 0,
            frames: 0,
        }
    }
}

impl OutQueue {
    /// Whether all has been sent.
    pub fn is_empty(&self) -> bool {
        self.head == NIL
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames that wait.
    pub fn frames(&self) -> usize {
        self.frames as usize
    }

    /// Whether a part of the first frame has been sent.
    pub fn is_begun(&self) -> bool {
        self.head_sent > 0
    }

    /// Memory that waits: the bytes, and the cost of each frame, so that many small ones are not
    /// taken for little.
    pub fn weight(&self) -> usize {
        self.bytes + self.frames as usize * FRAME_COST_BYTES
    }

    /// Bytes of the publications that wait, the one that is being sent included.
    pub fn published(&self) -> usize {
        self.published
    }

    /// Bytes of the publications that wait behind the frame that is being sent, of each as many as
    /// count: what makes a slow consumer.
    pub fn backlog(&self) -> usize {
        self.backlog as usize
    }
}

/// The nodes of all queues.
#[derive(Debug)]
pub struct FramePool {
    nodes: Slab<Node>,
    /// Bytes that wait, in all queues together.
    bytes: usize,
    /// So many bytes of one publication count in a backlog.
    counted_max: usize,
    /// The publications that wait, here and wherever else they are kept.
    pub ledger: Ledger,
}

impl FramePool {
    /// An empty pool, in whose queues no more than so many bytes of one publication count as
    /// backlog: nobody is slow because one message is large.
    pub fn new(counted_max: usize) -> FramePool {
        FramePool { nodes: Slab::new(), bytes: 0, counted_max, ledger: Ledger::default() }
    }

    /// From now on so many bytes of one publication count. Whoever changes that has every queue
    /// that is not empty counted anew.
    pub fn set_counted_max(&mut self, counted_max: usize) {
        self.counted_max = counted_max;
    }

    /// Counts the backlog of a queue anew.
    pub fn recount(&self, queue: &mut OutQueue) {
        queue.backlog = 0;
        let mut at = queue.head;
        while let Some(node) = self.nodes.get(at as usize) {
            let is_behind = at != queue.head;
            queue.backlog += if is_behind { self.counted(node.frame.len(), node.kind) } else { 0 };
            at = node.next;
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
        self.nodes.is_empty()
    }

    /// Puts a frame at the end of a queue. An empty frame is nothing to send.
    pub fn push(&mut self, queue: &mut OutQueue, frame: Frame, kind: Kind) {
        if frame.is_empty() {
            return;
        }
        let bytes = frame.len();
        queue.bytes += bytes;
        self.bytes += bytes;
        queue.frames += 1;
        if kind == Kind::Published {
            queue.published += bytes;
            self.ledger.add(&frame);
        }
        let node = self.nodes.insert(Node { frame, next: NIL, kind }) as u32;
        match queue.tail {
            NIL => queue.head = node,
            tail => {
                self.nodes[tail as usize].next = node;
                queue.backlog += self.counted(bytes, kind);
            }
        }
        queue.tail = node;
    }

    /// The frames that wait in a queue, in their order.
    pub fn frames(&self, queue: &OutQueue) -> impl Iterator<Item = &Frame> {
        let mut at = queue.head;
        std::iter::from_fn(move || {
            let node = self.nodes.get(at as usize)?;
            at = node.next;
            Some(&node.frame)
        })
    }

    /// The unsent bytes of the first frames, as many as `slices` has room for; returns how many
    /// slices were filled.
    pub fn slices<'a>(&'a self, queue: &OutQueue, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut at, mut skip, mut filled) = (queue.head, queue.head_sent, 0);
        for slice in slices {
            let Some(node) = self.nodes.get(at as usize) else { break };
            *slice = IoSlice::new(&node.frame[skip..]);
            (at, skip) = (node.next, 0);
            filled += 1;
        }
        filled
    }

    /// Notes that the socket took `sent` more bytes, and drops the frames that are through.
    pub fn sent(&mut self, queue: &mut OutQueue, sent: usize) {
        debug_assert!(sent <= queue.bytes);
        queue.bytes -= sent;
        self.bytes -= sent;
        queue.head_sent += sent;
        while let Some(node) = self.nodes.get(queue.head as usize) {
            if queue.head_sent < node.frame.len() {
                return;
            }
            queue.head_sent -= node.frame.len();
            self.pop(queue);
        }
        debug_assert!(queue.bytes == 0 && queue.head_sent == 0);
        debug_assert!(queue.published == 0 && queue.backlog == 0);
    }

    /// Drops the publications that wait in a queue, but for one of which a part has gone out: that
    /// one is no longer counted among them. Tells of each that it drops which frame it was, counted
    /// from the front.
    pub fn drop_published(&mut self, queue: &mut OutQueue, mut dropped: impl FnMut(usize)) {
        let (mut at, mut last, mut number) = (queue.head, NIL, 0);
        let begun = if queue.head_sent > 0 { queue.head } else { NIL };
        while let Some(node) = self.nodes.get_mut(at as usize) {
            let (this, next) = (at, node.next);
            at = next;
            number += 1;
            if node.kind == Kind::Published {
                queue.published -= node.frame.len();
                self.ledger.remove(&node.frame);
                if this != begun {
                    let bytes = self.nodes.remove(this as usize).frame.len();
                    (queue.bytes, self.bytes) = (queue.bytes - bytes, self.bytes - bytes);
                    queue.frames -= 1;
                    dropped(number - 1);
                    match self.nodes.get_mut(last as usize) {
                        Some(last) => last.next = next,
                        None => queue.head = next,
                    }
                    continue;
                }
                node.kind = Kind::Asked;
            }
            last = this;
        }
        (queue.tail, queue.backlog) = (last, 0);
    }

    /// Drops all that waits in a queue.
    pub fn clear(&mut self, queue: &mut OutQueue) {
        self.bytes -= queue.bytes;
        while !queue.is_empty() {
            self.pop(queue);
        }
        *queue = OutQueue::default();
    }

    /// Gives the memory of a past crowd back once nothing waits.
    pub fn shrink_when_empty(&mut self) {
        if self.nodes.is_empty() && self.nodes.capacity() > 4096 {
            self.nodes = Slab::new();
        }
    }

    /// What of a frame behind the head counts as backlog.
    fn counted(&self, bytes: usize, kind: Kind) -> u32 {
        match kind {
            Kind::Asked => 0,
            Kind::Published => u32::try_from(bytes.min(self.counted_max)).unwrap_or(u32::MAX),
        }
    }

    fn pop(&mut self, queue: &mut OutQueue) {
        let node = self.nodes.remove(queue.head as usize);
        queue.head = node.next;
        queue.frames -= 1;
        if node.kind == Kind::Published {
            queue.published -= node.frame.len();
            self.ledger.remove(&node.frame);
        }
        match self.nodes.get(node.next as usize) {
            None => queue.tail = NIL,
            Some(Node { frame, kind, .. }) => queue.backlog -= self.counted(frame.len(), *kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(pool: &FramePool, queue: &OutQueue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = pool.slices(queue, &mut slices);
        slices[..filled].iter().flat_map(|s| s.to_vec()).collect()
    }

    #[test]
    fn any_short_write_continues_where_it_stopped() {
        let frames: [&[u8]; 4] = [b"abc", b"d", b"", b"efghi"];
        for step in 1..=9 {
            let (mut pool, mut queue) = (FramePool::new(100), OutQueue::default());
            frames.iter().for_each(|f| pool.push(&mut queue, Frame::from(*f), Kind::Published));
            let mut wire = Vec::new();
            while !queue.is_empty() {
                let rest = gather(&pool, &queue);
                assert_eq!((rest.len(), rest.len()), (queue.bytes(), pool.bytes()));
                let take = step.min(rest.len());
                wire.extend_from_slice(&rest[..take]);
                pool.sent(&mut queue, take);
            }
            assert_eq!(wire, b"abcdefghi");
            assert!(pool.is_empty() && pool.bytes() == 0 && pool.ledger.weight() == 0);
        }
    }

    #[test]
    fn backlog_is_what_waits_behind_the_head() {
        let (mut pool, mut queue) = (FramePool::new(100), OutQueue::default());
        let mut push = |queue: &mut _, text: &[u8], kind| pool.push(queue, Frame::from(text), kind);
        push(&mut queue, b"0123456789", Kind::Published);
        assert_eq!((queue.bytes(), queue.backlog()), (10, 0), "however large it is");
        push(&mut queue, b"abc", Kind::Published);
        push(&mut queue, b"a state", Kind::Asked);
        push(&mut queue, b"de", Kind::Published);
        pool.sent(&mut queue, 4);
        assert_eq!((queue.bytes(), queue.backlog()), (18, 5), "what it asked for does not count");
        assert_eq!((queue.weight(), queue.published()), (18 + 4 * FRAME_COST_BYTES, 15));
        pool.sent(&mut queue, 7);
        assert_eq!((queue.bytes(), queue.backlog()), (11, 2), "nor what it is busy with");
        pool.clear(&mut queue);
        assert!(queue.is_empty() && pool.is_empty() && pool.bytes() == 0);
        assert_eq!(pool.ledger.weight(), 0);
        // Of a large one counts a part.
        pool.push(&mut queue, Frame::from(&[0; 5][..]), Kind::Published);
        pool.push(&mut queue, Frame::from(&[0; 5000][..]), Kind::Published);
        pool.push(&mut queue, Frame::from(&[0; 50][..]), Kind::Published);
        assert_eq!((queue.backlog(), queue.published()), (150, 5055));
        pool.sent(&mut queue, 5);
        assert_eq!(queue.backlog(), 50);
        pool.clear(&mut queue);
    }

    #[test]
    fn a_publication_counts_once_wherever_it_waits() {
        let mut pool = FramePool::new(100);
        let frame = Frame::from(&[7; 1000][..]);
        let mut queues: Vec<OutQueue> = (0..3).map(|_| OutQueue::default()).collect();
        for queue in &mut queues {
            pool.push(queue, frame.clone(), Kind::Published);
            pool.push(queue, Frame::from(&b"a state"[..]), Kind::Asked);
        }
        pool.ledger.add(&frame);
        let once = 1000 + FRAME_COST_BYTES;
        assert_eq!(pool.ledger.weight(), once + 4 * PLACE_COST_BYTES);
        pool.ledger.remove(&frame);
        queues.iter_mut().for_each(|queue| pool.sent(queue, 999));
        assert_eq!(pool.ledger.weight(), once + 3 * PLACE_COST_BYTES);
        pool.sent(&mut queues[0], 1);
        pool.clear(&mut queues[1]);
        assert_eq!(pool.ledger.weight(), once + PLACE_COST_BYTES);
        pool.sent(&mut queues[2], 8);
        assert_eq!((pool.ledger.weight(), pool.len()), (0, 1));
        pool.clear(&mut queues[0]);
    }

    #[test]
    fn publications_are_dropped_but_for_one_that_is_on_its_way() {
        for sent in 0..=4 {
            let (mut pool, mut queue) = (FramePool::new(100), OutQueue::default());
            for (text, kind) in [
                (&b"one"[..], Kind::Published),
                (b"[two]", Kind::Asked),
                (b"three", Kind::Published),
                (b"four", Kind::Published),
                (b"[five]", Kind::Asked),
                (b"six", Kind::Published),
            ] {
                pool.push(&mut queue, Frame::from(text), kind);
            }
            pool.sent(&mut queue, sent);
            let mut dropped = Vec::new();
            pool.drop_published(&mut queue, |number| dropped.push(number));
            let (rest, numbers) = match sent {
                0 => ("[two][five]", vec![0, 2, 3, 5]),
                1 | 2 => (&"one[two][five]"[sent..], vec![2, 3, 5]),
                _ => (&"[two][five]"[sent - 3..], vec![1, 2, 4]),
            };
            assert_eq!((&*gather(&pool, &queue), dropped), (rest.as_bytes(), numbers));
            assert_eq!((queue.published(), queue.backlog(), pool.ledger.weight()), (0, 0, 0));
            pool.push(&mut queue, Frame::from(&b"bye"[..]), Kind::Asked);
            assert_eq!(gather(&pool, &queue), [rest.as_bytes(), b"bye"].concat());
            assert_eq!((queue.bytes(), pool.bytes()), (rest.len() + 3, rest.len() + 3));
            pool.sent(&mut queue, rest.len() + 3);
            assert!(queue.is_empty() && pool.is_empty() && queue.weight() == 0);
        }
    }

    #[test]
    fn a_node_stays_small() {
        assert!(size_of::<Node>() <= 16 && size_of::<OutQueue>() <= 40);
    }
}
