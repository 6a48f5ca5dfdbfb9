//! Rings of queued frames. A queue fills one ring, and further ones behind it, so it grows without
//! moving what it holds: a thousand peers that take nothing from the same channel have queues of
//! the same length, and if all of these doubled in one turn, that turn would take ten milliseconds.

use std::collections::VecDeque;

use super::QueuedFrame;
use crate::arena::{NIL, Slots};

/// Frames in order.
pub(super) type Ring = VecDeque<QueuedFrame>;

/// Frames in a ring, at most, except for first rings, which have up to twice as many. They lie
/// together, because closing a peer with hundreds of queued frames would otherwise touch a page for
/// each.
pub(super) const RING_MAX: usize = 32;
/// Spare rings that are freed at a time.
const LET_GO: usize = 256;

/// Frames in the first ring of the queue with this record, at most: not the same for all, so that
/// queues of the same length do not get their next ring in the same turn.
fn first_max(list: u32) -> usize {
    RING_MAX + list as usize % RING_MAX
}

/// The rings behind the first one of a queue. The last one is at hand, because a message for a
/// thousand peers that take nothing is appended to as many queues, and every step on the way to its
/// place takes as long as the processor waits for memory.
#[derive(Debug, Default)]
struct Behind {
    /// In order, all full.
    full: VecDeque<Ring>,
    last: Ring,
}

impl Behind {
    fn into_rings(self) -> impl Iterator<Item = Ring> {
        self.full.into_iter().chain(std::iter::once(self.last))
    }
}

/// The rings behind the first one of each long queue, and spare ones.
#[derive(Debug, Default)]
pub(super) struct Rings {
    behind: Slots<Behind>,
    /// Emptied rings, for the next queues.
    spare: Vec<Ring>,
}

impl Rings {
    /// An empty ring.
    pub fn take(&mut self) -> Ring {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a ring back.
    pub fn put_back(&mut self, mut ring: Ring) {
        ring.clear();
        if ring.capacity() > 0 {
            self.spare.push(ring);
        }
    }

    /// Appends a frame to the queue with the record in the slot `list`, this first ring, and those
    /// `behind` it.
    #[inline]
    pub fn push(&mut self, list: u32, first: &mut Ring, behind: &mut u32, one: QueuedFrame) {
        if *behind == NIL && first.len() < first_max(list) {
            first.push_back(one);
        } else {
            self.push_behind(behind, one);
        }
    }

    fn push_behind(&mut self, behind: &mut u32, one: QueuedFrame) {
        if *behind == NIL {
            *behind = self.behind.insert(Behind::default());
        }
        let Behind { full, last } = &mut self.behind[*behind];
        if last.len() == RING_MAX {
            full.push_back(std::mem::take(last));
        }
        if last.is_empty() {
            *last = self.spare.pop().unwrap_or_default();
            last.reserve_exact(RING_MAX);
        }
        last.push_back(one);
    }

    /// Goes on with the next ring of a queue, if there is one and the first is empty.
    #[inline]
    pub fn go_on(&mut self, first: &mut Ring, behind: &mut u32) {
        if *behind != NIL && first.is_empty() {
            let Behind { full, last } = &mut self.behind[*behind];
            let next = full.pop_front().unwrap_or_else(|| std::mem::take(last));
            if last.is_empty() {
                self.behind.remove(std::mem::replace(behind, NIL));
            }
            self.put_back(std::mem::replace(first, next));
        }
    }

    /// Takes all rings of a queue, which is empty then.
    pub fn take_all(
        &mut self,
        first: &mut Ring,
        behind: &mut u32,
    ) -> impl Iterator<Item = Ring> + use<> {
        let rings = self.behind.remove(std::mem::replace(behind, NIL));
        let rings = rings.into_iter().flat_map(Behind::into_rings);
        std::iter::once(std::mem::take(first)).chain(rings)
    }

    /// How many frames are behind the first ring of a queue.
    #[inline]
    pub fn len_behind(&self, behind: u32) -> usize {
        self.behind.get(behind).map_or(0, |rings| rings.full.len() * RING_MAX + rings.last.len())
    }

    /// The frames behind the first ring of a queue, in order.
    pub fn frames_behind(&self, behind: u32) -> impl Iterator<Item = &QueuedFrame> {
        let rings = self.behind.get(behind).into_iter();
        rings.flat_map(|rings| rings.full.iter().chain([&rings.last]).flatten())
    }

    /// Number of spare rings.
    pub fn spare(&self) -> usize {
        self.spare.len()
    }

    /// Whether there is memory to give back.
    pub fn has_spare(&self) -> bool {
        !self.spare.is_empty() || self.behind.has_spare()
    }

    /// Frees some spare rings. Returns whether there are more.
    pub fn trim(&mut self) -> bool {
        self.spare.truncate(self.spare.len().saturating_sub(LET_GO));
        if self.spare.is_empty() {
            self.spare = Vec::new();
        }
        self.behind.trim() | !self.spare.is_empty()
    }

    /// Frames for which the rings of a queue have room.
    #[cfg(test)]
    pub fn capacity(&self, first: &Ring, behind: u32) -> usize {
        let rings = self.behind.get(behind).into_iter();
        let behind = rings.flat_map(|rings| rings.full.iter().chain([&rings.last]));
        first.capacity() + behind.map(VecDeque::capacity).sum::<usize>()
    }
}
