//! The simulation: the real switch, hub and journal on an in-memory network, with clients that draw
//! their actions from a seed, and a shadow model that knows what must come out. Owns the randomness
//! and the clock of a run; the same seed gives the same run. `tests/simulate.rs` runs it; `script`
//! and `rot` are fuzz targets, and tests of the store use `disk` on its own. Sockets are simulated
//! here, sessions over HTTP in `sessions`; `disk` is the disk, `storage` is what happens to it.
//!
//! How it checks: everything that the switch does at its two seams, network and journal, is written
//! to one *tape*: every entry that the journal orders, every frame sent, every connection closed.
//! After each call into the switch the *judge* applies the same call to its own, much simpler
//! record of the world, in the order of the entries on the tape, and compares: every frame must be
//! the expected one, none may be missing, and no connection may be closed for a reason that the
//! judge does not know. At the other end of the network the *clients* must receive what was sent,
//! in order, up to the point where they were cut.
//!
//! A run on the store has several lives: the server is stopped, killed or loses power, also in the
//! middle of a batch or of a start, and the next one begins with what is left on the disk. The
//! judge knows what was recorded when each batch was sent (`judge/recovery`), and what has been
//! acknowledged since. At the end of a run nothing is left but states.

mod client;
pub mod disk;
mod grammar;
mod intent;
mod judge;
mod net;
mod record;
mod rot;
mod script;
mod sessions;
mod storage;
mod tape;
mod ways;
mod world;

pub use rot::fuzz_store_recovery;
pub use script::{fuzz_browser, fuzz_commands, fuzz_server};
pub use sessions::{Met, run_sessions, run_sessions_on_store};
pub use storage::Misfortunes;

use std::collections::BTreeMap;

use crate::journal::Journal;
use crate::limits::{Limits, SyncPolicy};
use crate::reason::CloseReason;
use storage::{Diskless, FaultyStore, Storage};
use world::World;

/// A pseudo-random number generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Prng(u64);

impl Prng {
    /// Creates a generator; equal seeds give equal sequences.
    pub const fn new(seed: u64) -> Prng {
        Prng(seed)
    }

    /// Returns 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ bits >> 31
    }

    /// Returns a number from 0 to below `end`, which must not be 0.
    pub const fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Returns true once in `times` calls on average.
    pub const fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Returns one of the choices, which must not be empty.
    pub const fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Returns an index into the table; each is as likely as its weight says.
    fn weighted(&mut self, weights: &[usize]) -> usize {
        let mut left = self.below(weights.iter().sum());
        weights
            .iter()
            .position(|weight| {
                let is_here = left < *weight;
                left = left.saturating_sub(*weight);
                is_here
            })
            .expect("less than the sum of the weights")
    }
}

/// Which run to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The seed of all random choices.
    pub seed: u64,
    /// How many actions there are before all clients leave.
    pub steps: usize,
    /// Whether each action is printed to standard error.
    pub is_verbose: bool,
}

/// The result of a run in which all checks held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// A hash of everything that happened.
    pub trace: u64,
    /// Connections closed, by [`CloseReason`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Commands executed.
    pub commands: u64,
    /// Messages delivered to subscribers.
    pub deliveries: u64,
    /// Emits to several channels that took more than one turn.
    pub long_emits: u64,
    /// Times that a browser was not read because it sent too fast.
    pub browsers_held: u64,
    /// Times that back ends had to wait because too much was queued for browsers.
    pub floods: u64,
    /// Times that requests had to wait because queued answers took too much memory.
    pub shortages: u64,
    /// Times that a large command was not read for a while because others were arriving.
    pub control_input_waits: u64,
    /// Times that a partly read command was evicted to make room for others.
    pub control_input_evicted: u64,
    /// How often there was no room, by the text of the refusal before its number and by cause: the
    /// limit was reached (`limit`), or the rest is kept for others (`share`).
    pub full: BTreeMap<String, u64>,
    /// Tokens renewed by an `auth` queued behind answers that were unread when the token ended.
    pub renewed: u64,
    /// Times that, at rest, a back end waited for a hung disk because its next command would be
    /// recorded; and commands that were executed meanwhile.
    pub waited: u64,
    /// See [`Report::waited`].
    pub heard_beside: u64,
    /// Turns that ended with peers still being removed step by step.
    pub leaving_turns: u64,
    /// Times that the limits were changed.
    pub reloads: u64,
    /// Times that a connection was judged by a value of a limit that is no longer in force, as is
    /// right for one that was there before the change; by the limit's name.
    pub outlived: BTreeMap<&'static str, u64>,
    /// Calls into the switch.
    pub calls: u64,
    /// Simulated time that has passed, in milliseconds.
    pub simulated_ms: u64,
    /// What happened to the disk, if there is one.
    pub misfortunes: Misfortunes,
}

/// Runs one seed on a journal without a disk.
///
/// # Panics
/// If the server does anything wrong; seed and step are printed to standard error.
pub fn run(options: Options, journal: impl Journal + 'static) -> Report {
    run_on(options, Diskless::new(journal))
}

/// Runs one seed on the store, through several lives of the server, over a disk that fails, tears
/// writes and loses power.
///
/// # Panics
/// As [`run`].
pub fn run_on_store(options: Options, sync: SyncPolicy) -> Report {
    run_on(options, FaultyStore::new(sync))
}

fn run_on(options: Options, storage: impl Storage) -> Report {
    crate::log::mute(true);
    let mut world = World::new(options, limits(options.seed), storage);
    world.begin();
    for _ in 0..options.steps {
        world.step();
    }
    let report = world.finish();
    crate::log::mute(false);
    report
}

/// Whether one namespace may use up the limits that all namespaces share.
fn is_crowded(seed: u64) -> bool {
    seed % 8 == 3
}

/// Limits so small that every run reaches some; memory is short in every second or third run.
fn limits(seed: u64) -> Limits {
    let is_crowded = is_crowded(seed);
    Limits {
        control_connections: 4,
        control_unauthenticated_connections: 3,
        control_wrong_keys: 3,
        control_frame_bytes: 4096,
        control_frame_unauthenticated_bytes: 1024,
        // Room for two of the larger commands, or for one.
        control_input_bytes: if seed.is_multiple_of(3) { 4500 } else { 2100 },
        control_replies_pause_bytes: 1024,
        control_replies_ms: 20_000,
        control_commands_per_turn: 4,
        deliveries_per_turn: 2,
        leaves_per_turn: 4,
        sessions_unauthenticated: 3,
        message_bytes: 1024,
        message_unauthenticated_bytes: 512,
        message_fragments: 4,
        messages_per_second: 4,
        messages_burst: 16,
        connections_per_address: 3,
        backlog_bytes: 1024,
        backlog_soft_bytes: 300,
        backlog_soft_ms: 4000,
        stall_ms: 6000,
        backlog_ms: 1500,
        queued_bytes: if seed.is_multiple_of(2) { 1600 } else { 20_000 },
        answers_bytes: if seed.is_multiple_of(3) { 1600 } else { 20_000 },
        answers_pause_bytes: 1024,
        answers_unauthenticated_bytes: 512,
        channels_per_connection: 4,
        subscriptions: if is_crowded { 12 } else { 240 },
        connections_per_user: 3,
        namespaces: 3,
        name_bytes: 24,
        grants_per_namespace: if is_crowded { 16 } else { 4 },
        grants: if is_crowded { 11 } else { 6 },
        states_per_namespace: if is_crowded { 16 } else { 6 },
        states_bytes_per_namespace: if is_crowded { 800 } else { 400 },
        states: if is_crowded { 11 } else { 9 },
        states_bytes: 600,
        state_bytes: 200,
        list_items: 4,
        ttl_seconds: 100_000,
        grace_seconds: 100_000,
        channels_per_emit: 3,
        store_pending_changes: 24,
        store_pending_bytes: 4096,
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_choices_follow_the_seed_and_the_weights() {
        let (mut one, mut two) = (Prng::new(7), Prng::new(7));
        assert!((0..100).all(|_| one.next() == two.next()));
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            counts[one.weighted(&[1, 0, 3])] += 1;
        }
        assert!(counts[1] == 0 && counts[0] > 2000 && counts[2] > 7000, "{counts:?}");
    }
}
