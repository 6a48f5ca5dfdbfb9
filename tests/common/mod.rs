//! Drives the real binary in the protocol tests. Owns child processes and blocking sockets, each
//! with a read deadline; never looks inside the server. Used by the test crates beside it.
// Each test crate compiles this module and uses a part of it.
#![allow(dead_code)]
// Test helpers panic on failure, like tests.
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

/// How long a reply may take before a test fails. Long, to tolerate a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A JSON string of this many bytes.
pub fn text(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

/// Calls `attempt` until it returns a value; panics with `what` at the deadline.
///
/// For what the server does in its own time, such as noticing that a peer has gone: the test is not
/// told and must poll.
#[track_caller]
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, attempt)
}

/// As [`eventually`], with another deadline.
#[track_caller]
pub fn within<T>(deadline: Duration, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < deadline, "in vain: {what}");
        // Yields the processor to the server; this is no fixed wait.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
