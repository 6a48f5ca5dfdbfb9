//! What clients and back ends see of the protocol on the real binary. `FWS_TEST_BINARY` names
//! another one with the same flags: `make test` runs all of this with a delayed journal as well.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

#[path = "../common/mod.rs"]
mod common;

mod bugs;
mod chaos;
mod pressure;
mod sessions;
mod transcripts;
