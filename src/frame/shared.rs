//! A [`Frame`], and the spare ones. A turn that sends sixty-four messages to as many users has as
//! many frames at a time, more than the allocator keeps at hand of one size: so small frames that
//! nobody needs any more are kept here, and used again.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use super::{FRAME_COST_BYTES, Kind};

/// Capacities of small frames are multiples of this.
const STEP_BYTES: usize = 64;
/// Number of such capacities.
const SIZES: usize = 4;
/// Spare frames of each capacity.
const SPARE_MAX: usize = 64;

thread_local! {
    static SPARE: RefCell<[Vec<Rc<Body>>; SIZES]> =
        const { RefCell::new([const { Vec::new() }; SIZES]) };
}

/// Encoded bytes, immutable and shared.
#[derive(Clone, Debug)]
pub struct Frame(Rc<Body>);

#[derive(Debug, Default)]
struct Body {
    bytes: Vec<u8>,
    /// In how many places it waits, by [`Kind`].
    waiting: [Cell<u32>; 2],
}

impl Frame {
    /// Encodes a frame of about so many bytes: `write` appends them to an empty vector, which has
    /// room for as many.
    pub fn with(bytes: usize, write: impl FnOnce(&mut Vec<u8>)) -> Frame {
        let Some(size) = bytes.div_ceil(STEP_BYTES).checked_sub(1).filter(|size| *size < SIZES)
        else {
            let mut out = Vec::with_capacity(bytes);
            write(&mut out);
            return Frame::from(out);
        };
        let spare = SPARE.try_with(|spare| spare.borrow_mut()[size].pop());
        let mut body = spare.ok().flatten().unwrap_or_default();
        if let Some(body) = Rc::get_mut(&mut body) {
            body.bytes.reserve_exact((size + 1) * STEP_BYTES);
            write(&mut body.bytes);
        }
        Frame(body)
    }

    /// Whether both are the same frame, not only equal ones.
    pub fn is(&self, other: &Frame) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Whether there are other references to it.
    pub fn is_shared(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }

    /// Memory that it takes, however many places it waits in.
    pub fn memory(&self) -> usize {
        self.0.bytes.capacity() + FRAME_COST_BYTES
    }

    /// In how many places it waits as one of that kind.
    pub(super) fn waiting(&self, kind: Kind) -> &Cell<u32> {
        &self.0.waiting[kind as usize]
    }

    /// Keeps a small frame for the next one, unless there are enough.
    #[inline(never)]
    fn keep(&mut self) {
        let Some(body) = Rc::get_mut(&mut self.0) else { return };
        let size = (body.bytes.capacity() / STEP_BYTES).wrapping_sub(1);
        if body.bytes.capacity() % STEP_BYTES != 0 || size >= SIZES {
            return;
        }
        body.bytes.clear();
        // It may have waited in a pool that is gone.
        body.waiting = Default::default();
        // While a thread ends there is no place to keep it.
        let _ = SPARE.try_with(|spare| {
            let spare = &mut spare.borrow_mut()[size];
            if spare.len() < SPARE_MAX {
                spare.push(Rc::clone(&self.0));
            }
        });
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        if !self.is_shared() {
            self.keep();
        }
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Frame) -> bool {
        self.0.bytes == other.0.bytes
    }
}
impl Eq for Frame {}

impl From<Vec<u8>> for Frame {
    fn from(mut bytes: Vec<u8>) -> Frame {
        bytes.shrink_to_fit();
        Frame(Rc::new(Body { bytes, ..Body::default() }))
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
