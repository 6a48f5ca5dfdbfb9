//! The store of the real binary: what is kept, for whom, and what its commands say about it.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

#[path = "../common/mod.rs"]
mod common;

mod cli;
mod crash;
mod damage;
mod durable;
mod former;
mod import_redis;
mod live;
mod replaced;
mod running;
