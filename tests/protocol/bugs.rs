//! The bugs of the original server (B1 to B38, protocol part 13), each with a test that they do not
//! exist here. Uses the real binary, from outside; for bugs of a store that fws does not have, the
//! nearest equivalent. After whatever crashed the original, the same server must still serve.

mod correctness;
mod crashes;
mod security;

use serde_json::json;

/// The reply to a refused command.
fn refusal(code: u16, reason: &str) -> String {
    format!(r#"{{"success":false,"reason":"{reason}","code":{code}}}"#)
}

/// The command that publishes `data`, raw JSON, to a channel.
fn emit(channel: &str, data: &str) -> String {
    format!(r#"{{"action":"emit","channel":{},"data":{data},"params":{{}}}}"#, json!(channel))
}

/// The command that sets a state to `data`, raw JSON, with these `params`.
fn set(channel: &str, data: &str, params: &str) -> String {
    let channel = json!(channel);
    format!(r#"{{"action":"set","channel":{channel},"data":{data},"params":{params}}}"#)
}

/// The command that gets a channel's state.
fn get(channel: &str) -> String {
    json!({ "action": "get", "channel": channel, "params": {} }).to_string()
}

/// The command that grants a user access (`subscribe`) or revokes it (`unsubscribe`).
fn grant(action: &str, channel: &str, user: &str) -> String {
    json!({ "action": action, "channel": channel, "params": { "userId": user } }).to_string()
}

/// The event that subscribes to a channel.
fn subscribe(channel: &str) -> String {
    json!({ "event": "subscribe", "data": channel }).to_string()
}
