//! Bytes on their way out. A [`Frame`] is encoded once and shared by all who receive it; an
//! [`OutQueue`] is one peer's list of frames. The lists of all peers live in one [`FramePool`], so
//! a queued frame costs a peer one node of 24 bytes, an idle peer nothing, and a fan-out makes no
//! allocation once the pool has grown to its size.

use std::io::IoSlice;
use std::ops::Deref;
use std::rc::Rc;

use slab::Slab;

/// Encoded bytes, immutable and shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Rc<[u8]>);

impl Frame {
    /// Whether somebody else has it as well.
    pub fn is_shared(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Frame {
        Frame(bytes.into())
    }
}

impl From<&[u8]> for Frame {
    fn from(bytes: &[u8]) -> Frame {
        Frame(bytes.into())
    }
}

impl Deref for Frame {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
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
    /// No: the peer asked for it, or the kernel had not yet refused anything when it came.
    Free,
    /// Yes: somebody else sent it, to a peer that has not taken what was there before.
    Backlog,
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
    /// Bytes of kind [`Kind::Backlog`] behind the head.
    backlog: usize,
    /// How many frames wait.
    frames: usize,
}

/// What a queued frame costs beside its bytes: its node, and the head of its allocation.
pub const FRAME_COST_BYTES: usize = 64;

impl Default for OutQueue {
    fn default() -> OutQueue {
        OutQueue { head: NIL, tail: NIL, head_sent: 0, bytes: 0, backlog: 0, frames: 0 }
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

    /// Memory that waits: the bytes, and the cost of each frame, so that many small ones are not
    /// taken for little.
    pub fn weight(&self) -> usize {
        self.bytes + self.frames * FRAME_COST_BYTES
    }

    /// Bytes of kind [`Kind::Backlog`] that wait behind the frame that is being sent: what counts
    /// against a slow consumer.
    pub fn backlog(&self) -> usize {
        self.backlog
    }
}

/// The nodes of all queues.
#[derive(Debug, Default)]
pub struct FramePool {
    nodes: Slab<Node>,
    /// Bytes that wait, in all queues together.
    bytes: usize,
}

impl FramePool {
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
        let node = self.nodes.insert(Node { frame, next: NIL, kind }) as u32;
        match queue.tail {
            NIL => queue.head = node,
            tail => {
                self.nodes[tail as usize].next = node;
                if kind == Kind::Backlog {
                    queue.backlog += bytes;
                }
            }
        }
        queue.tail = node;
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
        debug_assert!(queue.bytes == 0 && queue.head_sent == 0 && queue.backlog == 0);
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

    fn pop(&mut self, queue: &mut OutQueue) {
        let node = self.nodes.remove(queue.head as usize);
        queue.head = node.next;
        queue.frames -= 1;
        match self.nodes.get(node.next as usize) {
            None => queue.tail = NIL,
            Some(Node { frame, kind: Kind::Backlog, .. }) => queue.backlog -= frame.len(),
            Some(_) => {}
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
            let (mut pool, mut queue) = (FramePool::default(), OutQueue::default());
            frames.iter().for_each(|f| pool.push(&mut queue, Frame::from(*f), Kind::Backlog));
            let mut wire = Vec::new();
            while !queue.is_empty() {
                let rest = gather(&pool, &queue);
                assert_eq!((rest.len(), rest.len()), (queue.bytes(), pool.bytes()));
                let take = step.min(rest.len());
                wire.extend_from_slice(&rest[..take]);
                pool.sent(&mut queue, take);
            }
            assert_eq!(wire, b"abcdefghi");
            assert!(pool.is_empty() && pool.bytes() == 0);
        }
    }

    #[test]
    fn backlog_is_what_waits_behind_the_head() {
        let (mut pool, mut queue) = (FramePool::default(), OutQueue::default());
        let mut push = |queue: &mut _, text: &[u8], kind| pool.push(queue, Frame::from(text), kind);
        push(&mut queue, b"0123456789", Kind::Backlog);
        assert_eq!((queue.bytes(), queue.backlog()), (10, 0), "however large it is");
        push(&mut queue, b"abc", Kind::Backlog);
        push(&mut queue, b"a state", Kind::Free);
        push(&mut queue, b"de", Kind::Backlog);
        pool.sent(&mut queue, 4);
        assert_eq!((queue.bytes(), queue.backlog()), (18, 5), "what it asked for does not count");
        assert_eq!(queue.weight(), 18 + 4 * FRAME_COST_BYTES);
        pool.sent(&mut queue, 7);
        assert_eq!((queue.bytes(), queue.backlog()), (11, 2), "nor what it is busy with");
        pool.clear(&mut queue);
        assert!(queue.is_empty() && pool.is_empty() && pool.bytes() == 0);
    }

    #[test]
    fn a_node_stays_small() {
        assert!(size_of::<Node>() <= 24 && size_of::<OutQueue>() <= 40);
    }
}
