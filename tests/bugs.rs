//! The bugs of the original server (B1 to B38, protocol part 13), each with a test that shows it
//! is not here. The real binary, from outside; where a bug is about a store that we have not, its
//! nearest meaning. After whatever ended the original's process, the same server must still serve.

// A test that cannot go on panics, in its helpers as in itself.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "bugs/correctness.rs"]
mod correctness;
#[path = "bugs/crashes.rs"]
mod crashes;
#[path = "bugs/security.rs"]
mod security;

use common::control::Control;
use serde_json::{Value, json};

/// The reply to a command that was carried out.
const SUCCESS: &str = r#"{"success":true}"#;

/// The reply to a command that was refused.
fn refusal(code: u16, reason: &str) -> String {
    format!(r#"{{"success":false,"reason":"{reason}","code":{code}}}"#)
}

/// The command that sends `data`, raw JSON, to a channel.
fn emit(channel: &str, data: &str) -> String {
    format!(r#"{{"action":"emit","channel":{},"data":{data},"params":{{}}}}"#, json!(channel))
}

/// The command that stores `data`, raw JSON, with these `params`.
fn set(channel: &str, data: &str, params: &str) -> String {
    let channel = json!(channel);
    format!(r#"{{"action":"set","channel":{channel},"data":{data},"params":{params}}}"#)
}

/// The command that asks for the state of a channel.
fn get(channel: &str) -> String {
    json!({ "action": "get", "channel": channel, "params": {} }).to_string()
}

/// The command that gives a user a grant (`subscribe`) or takes it (`unsubscribe`).
fn grant(action: &str, channel: &str, user: &str) -> String {
    json!({ "action": action, "channel": channel, "params": { "userId": user } }).to_string()
}

/// The event that subscribes to a channel.
fn subscribe(channel: &str) -> String {
    json!({ "event": "subscribe", "data": channel }).to_string()
}

/// A message of a channel, with raw JSON as data.
fn message(channel: &str, data: &str) -> String {
    format!(r#"{{"event":{},"data":{data}}}"#, json!(channel))
}

/// How many connections a channel has.
#[track_caller]
fn connections(control: &mut Control, channel: &str) -> u64 {
    let command = json!({ "action": "channelInfo", "channel": channel });
    let info: Value = serde_json::from_str(&control.ask(&command.to_string())).unwrap();
    info["countConnection"].as_u64().unwrap()
}
