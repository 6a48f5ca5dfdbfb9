//! What the protocol tests drive the real binary with. Owns child processes and blocking sockets,
//! each with a read deadline; never looks inside the server. Used by the test crates beside it.
// Each test crate compiles this module for itself and uses a part of it.
#![allow(dead_code)]
// A test that cannot go on panics, in its helpers as in itself.
#![allow(clippy::unwrap_used)]

pub mod browser;
pub mod command;
pub mod control;
pub mod export;
pub mod http;
pub mod server;
pub mod token;
pub mod transcript;
pub mod web;
pub mod wire;

use std::time::{Duration, Instant};

/// How long a reply may take before a test fails. Long, because a busy machine is no fault.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Calls `attempt` until it gives something; panics with `what` at the deadline.
///
/// For what the server does in its own time, as noticing that a peer has gone: nothing tells the
/// test, so it must ask again.
#[track_caller]
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "in vain: {what}");
        // Gives the processor to the server; the condition above decides, not this time.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
