//! Fire Web Socket: a real-time push server in one small binary.
//!
//! The layers, top to bottom; a module uses only modules below it:
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`], [`config`] | argv, environment and file → a command, a checked `Config` |
//! | [`client`] | blocking clients of both ports, for the command line |
//! | [`load`] | the load generator of `fws bench`, over the reactor |
//! | [`server`], [`demo`] | joins reactor, switch and journal, and runs them |
//! | [`admin`] | the admin listener in front of the switch: metrics and health |
//! | [`switch`] | what a byte means: roles of connections, commands, browser messages |
//! | [`journal`] | every change passes through it and comes back in order |
//! | [`hub`] | namespaces, channels, users, grants, states; no sockets, no clock |
//! | [`web`] | HTTP, WebSocket, SockJS and their sessions, for any application |
//! | [`publication`] | one message, each wire form of it encoded at most once |
//! | [`codec`] | control frames, HTTP, WebSocket, SockJS, tokens, JSON: pure over slices |
//! | leaves | [`edge`], [`frame`], [`slow`], [`wheel`], [`arena`], [`reason`], [`durable`] |
//! | more leaves | [`address`], [`limits`], [`uuid`], [`time`], [`log`], [`mailbox`], [`metrics`] |
//!
//! The [`reactor`] stands beside them: sockets and deadlines, over the leaves alone. The server is
//! its handler, and so is the load generator. [`sim`] replaces it in tests: the same interface over
//! a network that exists only in memory.
#![forbid(unsafe_code)]

pub mod address;
pub mod admin;
pub mod arena;
pub mod cli;
pub mod client;
pub mod codec;
pub mod config;
pub mod demo;
pub mod durable;
pub mod edge;
pub mod frame;
pub mod hub;
pub mod journal;
pub mod keys;
pub mod limits;
#[cfg(feature = "bench")]
pub mod load;
pub mod log;
pub mod mailbox;
pub mod metrics;
pub mod publication;
pub mod reactor;
pub mod reason;
pub mod server;
#[doc(hidden)]
pub mod sim;
pub mod slow;
pub mod switch;
pub mod time;
pub mod uuid;
pub mod web;
pub mod wheel;
