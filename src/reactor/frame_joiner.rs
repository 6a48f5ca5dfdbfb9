//! Joins frames for one write. In a fan-out most peers have the same frames queued in the same
//! order: these are joined once, and each such peer gets the bytes in one plain write, which costs
//! the kernel less than a list of slices. Output too long for one write is split. Part of the
//! reactor, which writes.

use std::io::IoSlice;

use crate::frame::{Frame, FramePool, OutQueue};

/// Bytes joined at most; above that copying costs more than it saves.
const JOINED_BYTES_MAX: usize = 64 * 1024;

/// Bytes passed to the kernel in one write: a longer one to a single peer would delay all others.
const WRITE_BYTES: usize = 64 * 1024;

/// The bytes joined last, and the frames they were made of. Holding the frames keeps any other
/// frame from being allocated in their place.
#[derive(Debug, Default)]
pub(super) struct FrameJoiner {
    frames: Vec<Frame>,
    bytes: Vec<u8>,
}

impl FrameJoiner {
    /// Returns everything in a queue as one run of bytes, if joining pays: at least two frames,
    /// none of them partly sent, and not too long.
    pub fn join(&mut self, pool: &FramePool, queue: &OutQueue) -> Option<&[u8]> {
        let waiting = pool.waiting(queue);
        if waiting.is_begun || waiting.bytes > JOINED_BYTES_MAX || waiting.frames < 2 {
            return None;
        }
        let is_same = self.frames.len() == waiting.frames
            && pool.frames(queue).zip(&self.frames).all(|(one, other)| one.is(other));
        if !is_same {
            self.clear();
            for frame in pool.frames(queue) {
                self.bytes.extend_from_slice(frame);
                self.frames.push(frame.clone());
            }
        }
        Some(&self.bytes)
    }

    /// Releases the frames: what is queued from now on is for other peers.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.bytes.clear();
    }
}

/// Passes as many of these slices as one write takes, and their total length, to `write`; of a
/// first slice that is too long, a part.
pub(super) fn portion<T>(
    slices: &[IoSlice<'_>],
    write: impl FnOnce(&[IoSlice<'_>], usize) -> T,
) -> T {
    let (mut count, mut bytes) = (0, 0);
    for slice in slices {
        if bytes + slice.len() > WRITE_BYTES {
            break;
        }
        (count, bytes) = (count + 1, bytes + slice.len());
    }
    match slices {
        [first, ..] if count == 0 => write(&[IoSlice::new(&first[..WRITE_BYTES])], WRITE_BYTES),
        _ => write(&slices[..count], bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;

    #[test]
    fn joined_bytes_equal_the_queued_frames() {
        let (mut pool, mut joiner) = (FramePool::new(100), FrameJoiner::default());
        let frames = ["one", "two", "three"].map(|text| Frame::from(text.as_bytes()));
        let queue = |pool: &mut FramePool, which: &[usize]| {
            let mut queue = OutQueue::default();
            for i in which {
                pool.push(&mut queue, frames[*i].clone(), Kind::Published);
            }
            queue
        };
        for (which, joined) in [
            (&[0, 1][..], Some(&b"onetwo"[..])),
            (&[0, 1], Some(b"onetwo")),
            (&[1, 0], Some(b"twoone")),
            (&[1, 0, 2], Some(b"twoonethree")),
            (&[1, 0], Some(b"twoone")),
            (&[2], None),
            (&[], None),
        ] {
            let mut queue = queue(&mut pool, which);
            assert_eq!(joiner.join(&pool, &queue), joined, "{which:?}");
            if joined.is_some() {
                pool.sent(&mut queue, 1);
                assert_eq!(joiner.join(&pool, &queue), None, "the first frame is partly sent");
            }
            pool.clear(&mut queue);
        }
        joiner.clear();
        assert!(frames.iter().all(|frame| !frame.is_shared()));
    }

    #[test]
    fn one_write_takes_a_bounded_portion() {
        let bytes = vec![0; 3 * WRITE_BYTES];
        let taken = |lengths: &[usize]| {
            let slices: Vec<_> = lengths.iter().map(|n| IoSlice::new(&bytes[..*n])).collect();
            portion(&slices, |slices, sum| {
                assert_eq!(slices.iter().map(|slice| slice.len()).sum::<usize>(), sum);
                (slices.len(), sum)
            })
        };
        assert_eq!(taken(&[1, 2, 3]), (3, 6));
        assert_eq!(taken(&[WRITE_BYTES]), (1, WRITE_BYTES));
        assert_eq!(taken(&[1, WRITE_BYTES, 1]), (1, 1));
        assert_eq!(taken(&[3 * WRITE_BYTES, 1]), (1, WRITE_BYTES), "a part of one frame");
        assert_eq!(taken(&[]), (0, 0));
    }

    #[test]
    fn large_queues_are_not_joined() {
        let (mut pool, mut joiner) = (FramePool::new(100), FrameJoiner::default());
        let mut queue = OutQueue::default();
        for _ in 0..2 {
            let frame = Frame::from(vec![0; JOINED_BYTES_MAX / 2 + 1]);
            pool.push(&mut queue, frame, Kind::Published);
        }
        assert_eq!(joiner.join(&pool, &queue), None);
        pool.clear(&mut queue);
    }
}
