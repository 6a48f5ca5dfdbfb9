//! The real binary as a process, and the commands of its operator.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

#[path = "../common/mod.rs"]
mod common;

mod activation;
mod admin;
mod bench;
mod cli;
mod doctor;
mod itself;
mod manage;
mod memory;
mod packaging;
mod panic;
mod reload;
mod standstill;
mod stat;
mod stop;
mod streams;
mod watch;
