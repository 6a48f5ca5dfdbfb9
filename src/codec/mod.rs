//! The wire formats. Every module is pure over the slices it is given: no sockets, no clock, no
//! state beyond its own decoder's.

pub mod control;
pub mod http;
pub mod json;
pub mod jwt;
pub mod prometheus;
pub mod proxy;
pub mod sockjs;
pub mod ws;
