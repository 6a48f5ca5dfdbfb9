//! Large states on their way to subscribers: encoded once for each wire form, however many
//! subscribe. It holds only references to frames, and drops those that no connection has queued any
//! more. The switch asks it at each subscribe and tells it of each change.
//!
//! A state that nobody asks for costs nothing here. A small one is not worth sharing: what a
//! connection may have queued beside one state is bounded anyway.

use hashbrown::HashMap;

use crate::frame::Frame;
use crate::hub::{Key, KeyRef};
use crate::limits::Limits;
use crate::publication::{Form, Publication};
use crate::time::Millis;

/// Interval between two sweeps for frames that nobody else holds any more.
const SWEEP_MS: u64 = 1000;
/// Unused frames that may be held until then: one part in so many of the limit on queued answers.
const HELD_PART: usize = 4;

/// States shorter than this are not shared: the queue limit of each connection bounds them already.
const fn bytes_min(limits: &Limits) -> usize {
    limits.answers_pause_bytes / 64
}

/// Frames of states, by the key of their row.
#[derive(Debug)]
pub(super) struct SharedStates {
    /// States shorter than this are not shared.
    bytes_min: usize,
    frames: HashMap<Key, Vec<(Form, Frame)>>,
    /// Bytes of all frames, and the number of bytes above which a sweep does not wait for its time.
    bytes: usize,
    bytes_max: usize,
    held_max: usize,
    sweep_at: Option<Millis>,
}

impl SharedStates {
    /// Creates a store with the thresholds that follow from these limits.
    pub fn new(limits: &Limits) -> SharedStates {
        let (bytes_min, held_max) = (bytes_min(limits), limits.answers_bytes / HELD_PART);
        let (frames, bytes_max) = (HashMap::new(), held_max);
        SharedStates { bytes_min, frames, bytes: 0, bytes_max, held_max, sweep_at: None }
    }

    /// Applies new limits.
    pub fn reload(&mut self, limits: &Limits) {
        self.bytes_min = bytes_min(limits);
        self.held_max = limits.answers_bytes / HELD_PART;
        self.bytes_max = self.bytes_max.min(self.bytes + self.held_max);
    }

    /// Whether a state of so many bytes is large enough to be shared.
    pub fn is_worth(&self, bytes: usize) -> bool {
        bytes >= self.bytes_min
    }

    /// Gives the frames encoded earlier for the state under that key to a publication of it.
    pub fn lend(&self, key: &Key, publication: &Publication<'_>) {
        for (form, frame) in self.frames.get(key).into_iter().flatten() {
            publication.lend(*form, frame);
        }
    }

    /// Remembers the frames that a publication of the state under that key has encoded.
    pub fn keep(&mut self, key: Key, publication: &Publication<'_>, now: Millis) {
        let kept = self.frames.entry(key).or_default();
        for (form, frame) in publication.encoded() {
            if kept.iter().all(|(other, _)| *other != form) {
                self.bytes += frame.len();
                kept.push((form, frame.clone()));
            }
        }
        self.sweep_at.get_or_insert(now.plus(SWEEP_MS));
        if self.bytes > self.bytes_max {
            self.sweep(now);
        }
    }

    /// Drops the frames of a state that has changed.
    pub fn forget(&mut self, key: KeyRef<'_>) {
        if self.frames.is_empty() {
            return;
        }
        for (_, frame) in self.frames.remove(&key).into_iter().flatten() {
            self.bytes -= frame.len();
            // If the frame was in use, `bytes_max` included it.
            self.bytes_max = self.held_max.max(self.bytes_max - frame.len());
        }
    }

    /// Drops all frames: any state may have changed.
    pub fn clear(&mut self) {
        (self.frames, self.sweep_at) = (HashMap::new(), None);
        (self.bytes, self.bytes_max) = (0, self.held_max);
    }

    /// When [`SharedStates::tick`] is wanted.
    pub fn due(&self) -> Option<Millis> {
        self.sweep_at
    }

    /// Sweeps if it is time to.
    pub fn tick(&mut self, now: Millis) {
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep(now);
        }
    }

    /// Drops frames that nobody else holds.
    fn sweep(&mut self, now: Millis) {
        self.frames.retain(|_, kept| {
            kept.retain(|(_, frame)| frame.is_shared());
            !kept.is_empty()
        });
        if self.frames.is_empty() {
            self.clear();
        } else {
            self.bytes = self.frames.values().flatten().map(|(_, frame)| frame.len()).sum();
            self.sweep_at = Some(now.plus(SWEEP_MS));
        }
        // What is left is in use by others, and costs nothing more here.
        self.bytes_max = self.bytes + self.held_max;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::StateKey;

    /// Shares every state that is not empty.
    fn shared() -> SharedStates {
        SharedStates::new(&Limits { answers_pause_bytes: 64, ..Limits::default() })
    }

    fn key(channel: &str) -> Key {
        Key::State { ns: 1, state_key: StateKey { channel: channel.into(), user: None } }
    }

    #[test]
    fn a_state_is_encoded_once_while_a_client_waits_for_it() {
        let mut shared = shared();
        let ask = |shared: &mut SharedStates, form, data, now| {
            let publication = Publication::new("c", data);
            shared.lend(&key("c"), &publication);
            let frame = publication.frame(form).clone();
            shared.keep(key("c"), &publication, Millis(now));
            frame
        };
        let first = ask(&mut shared, Form::Raw, "1", 0);
        assert_eq!(ask(&mut shared, Form::Raw, "1", 5).as_ptr(), first.as_ptr());
        let other = ask(&mut shared, Form::SockJs, "1", 5);
        assert_ne!(first, other);
        shared.tick(Millis(1000));
        assert_eq!(ask(&mut shared, Form::Raw, "1", 1001).as_ptr(), first.as_ptr(), "still there");
        assert_eq!(shared.bytes, first.len() + other.len());
        drop(other);
        shared.tick(Millis(2000));
        assert_eq!(shared.bytes, first.len(), "the other is dropped: no client waits for it");
        shared.forget(key("c").as_ref());
        assert_ne!(ask(&mut shared, Form::Raw, "2", 2000), first, "the state has changed");
        drop(first);
        shared.tick(Millis(3000));
        assert_eq!((shared.bytes, shared.frames.len(), shared.due()), (0, 0, None));
    }

    #[test]
    fn unreferenced_frames_are_bounded_between_ticks() {
        let mut shared = shared();
        let held_max = Limits::default().answers_bytes / HELD_PART;
        let data = "x".repeat(held_max / 4);
        for number in 0..100 {
            let publication = Publication::new("c", &data);
            publication.frame(Form::Raw);
            shared.keep(key(&number.to_string()), &publication, Millis(0));
            // The frame just added is not handed over yet.
            assert!(shared.bytes <= held_max + data.len() + 64);
        }
    }

    #[test]
    fn forgotten_frames_do_not_raise_the_bound_of_unreferenced_ones() {
        let mut shared = shared();
        let held_max = Limits::default().answers_bytes / HELD_PART;
        let data = "x".repeat(held_max / 4);
        let ask = |shared: &mut SharedStates, number: usize| {
            let publication = Publication::new("c", &data);
            let frame = publication.frame(Form::Raw).clone();
            shared.keep(key(&number.to_string()), &publication, Millis(0));
            frame
        };
        let waited: Vec<Frame> = (0..16).map(|number| ask(&mut shared, number)).collect();
        shared.tick(Millis(1000));
        assert!(shared.bytes >= 4 * held_max, "all of that is waited for");
        (0..waited.len()).for_each(|number| shared.forget(key(&number.to_string()).as_ref()));
        for number in 100..200 {
            ask(&mut shared, number);
            assert!(shared.bytes <= held_max + data.len() + 64, "{} are held", shared.bytes);
        }
    }
}
