//! The store inside the library, on disks that fail.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

mod again;
mod faults;
mod journal;
mod salvage;
mod snapshot;
