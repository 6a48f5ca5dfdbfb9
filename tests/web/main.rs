//! Browsers, proxies and HTTP clients of the real binary.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod http;
mod leave;
mod pace;
mod proxies;
mod renewal;
mod slow;
mod sockjs;
mod unauthenticated;
