//! Reads Redis and passes what it finds to the importer. Sends only read commands, and none that
//! block a large Redis.

use std::io;

use hashbrown::HashSet;

use super::super::importer::Importer;
use super::super::line::Namespace;
use super::super::{REPLACE, count, holder, now};
use super::COLON;
use super::key::{Colon, Meaning, meaning};
use super::resp::{Redis, Value};
use super::url;
use crate::cli::output::{out, tell};
use crate::cli::{Call, Stop, owner};
use crate::codec::json::{self, JsonError};
use crate::config::Secret;
use crate::hub::StateKey;
use crate::time::UnixMillis;

const NAMESPACES: &str = "LaWS_Server:name_spaces:";
const STATES: &str = "LaWS_Server:store:";
/// Number of keys that one SCAN asks for.
const SCAN_KEYS: usize = 1000;
/// Number of keys that one pipeline reads: a state may be some megabytes.
const PAGE_KEYS: usize = 64;
/// Timeout for an answer of Redis, in milliseconds.
const ANSWER_MS: u64 = 30_000;

/// Why a key is left out; each is counted.
#[derive(Clone, Copy, Debug)]
enum Why {
    Ambiguous,
    NotJson,
    NoNamespace,
    Unusable,
}

/// Names of the reasons, in the order of [`Why`].
const KINDS: [&str; 4] = ["ambiguous", "not JSON", "of no namespace", "of no use"];

/// Keys that were left out. SCAN may repeat a key while Redis rehashes; each is reported once.
#[derive(Default)]
struct Left {
    keys: HashSet<Vec<u8>>,
    counts: [u64; KINDS.len()],
}

impl Left {
    /// Reports a key on standard error; never its value.
    fn out(&mut self, key: &[u8], why: Why, text: &str) {
        if self.keys.insert(key.into()) {
            self.counts[why as usize] += 1;
            tell(&format!("left out {:?}: {text}", String::from_utf8_lossy(key)));
        }
    }

    fn finish(&self) {
        if self.keys.is_empty() {
            return;
        }
        let said = KINDS.iter().zip(self.counts).filter(|(_, number)| *number > 0);
        let said = said.map(|(kind, number)| format!("{number} {kind}"));
        let said: Vec<String> = said.collect();
        let keys = count(self.keys.len() as u64, "key");
        tell(&format!("{keys} left out: {}", said.join(", ")));
    }
}

pub(super) fn run(call: &Call) -> Result<(), Stop> {
    let [address] = call.words()?;
    let colon = match call.flag(COLON.name) {
        None => Colon::Unknown,
        Some("channel") => Colon::InChannel,
        Some("user") => Colon::BehindUser,
        Some(word) => {
            return Err(Stop::Usage(format!("--colon: {word:?} is neither channel nor user")));
        }
    };
    let (config, now) = (call.config()?, now());
    let place = url::parse(address).ok_or_else(|| {
        // Without the URL, which may hold a password.
        let form = "write redis://HOST:PORT/DATABASE or unix:///PATH";
        Stop::Usage(format!("that is no URL of a Redis: {form}"))
    })?;
    let mut redis = Redis::connect(&place, ANSWER_MS)
        .map_err(|e| Stop::Failed(format!("Redis at {}: {e}", place.place)))?;
    let is_replacing = call.flag(REPLACE.name).is_some();
    owner::refuse_root(call, &config.data)?;
    let mut importer = Importer::start(&config, &holder(call, now), now, is_replacing)?;
    let mut left = Left::default();
    let names = namespaces(&mut redis, &mut importer, &mut left)?;
    states(&mut redis, &names, colon, &mut importer, &mut left)?;
    if names.is_empty() && left.keys.is_empty() {
        return Err(Stop::Failed(format!(
            "Redis at {}: there is nothing of an original server in database {}, no key begins \
             with {NAMESPACES}: is it another one?",
            place.place, place.database
        )));
    }
    let done = importer.finish()?;
    left.finish();
    out(&done)
}

fn away(error: io::Error) -> Stop {
    Stop::Failed(format!("Redis: {error}"))
}

/// Imports the namespaces; returns their names.
fn namespaces(
    redis: &mut Redis,
    importer: &mut Importer,
    left: &mut Left,
) -> Result<HashSet<String>, Stop> {
    let mut names = HashSet::new();
    scan(redis, NAMESPACES, |redis, keys| {
        let questions: Vec<Vec<&[u8]>> = keys.iter().map(|key| vec![&b"GET"[..], key]).collect();
        let values = redis.ask(&questions).map_err(away)?;
        for (key, value) in keys.iter().zip(&values) {
            let name =
                str::from_utf8(&key[NAMESPACES.len()..]).ok().filter(|name| !name.is_empty());
            let Some(name) = name else {
                left.out(key, Why::Unusable, "this is no name");
                continue;
            };
            let secret = match value {
                Value::Bytes(bytes) => str::from_utf8(bytes).ok(),
                // Removed since SCAN.
                Value::Nil => continue,
                _ => None,
            };
            let Some(secret) = secret.and_then(|secret| Secret::new(secret).ok()) else {
                left.out(key, Why::Unusable, "there is no key in it");
                continue;
            };
            if !names.insert(name.to_owned()) {
                continue;
            }
            let (name, secret) = (name.into(), Some(secret.expose().into()));
            let namespace = Namespace { name, key: secret, replaces: None, old_key: None };
            let place = || format!("{:?}", String::from_utf8_lossy(key));
            importer.namespace(namespace).map_err(|refused| refused.at(place))?;
        }
        Ok(())
    })?;
    Ok(names)
}

fn states(
    redis: &mut Redis,
    names: &HashSet<String>,
    colon: Colon,
    importer: &mut Importer,
    left: &mut Left,
) -> Result<(), Stop> {
    scan(redis, STATES, |redis, keys| {
        let both = |key| [vec![&b"GET"[..], key], vec![&b"PTTL"[..], key]];
        let questions: Vec<Vec<&[u8]>> = keys.iter().flat_map(|key| both(key)).collect();
        let values = redis.ask(&questions).map_err(away)?;
        let date = now().unix;
        for (key, answers) in keys.iter().zip(values.chunks_exact(2)) {
            let expires = match answers[1] {
                Value::Int(ms) if ms >= 0 => Some(date.plus(ms.unsigned_abs())),
                Value::Int(-1) => None,
                // Expired between GET and PTTL.
                Value::Int(-2) => continue,
                _ => return Err(foreign("PTTL")),
            };
            if matches!(answers[0], Value::Nil) {
                continue;
            }
            state(key, &answers[0], expires, (names, colon), importer, left)?;
        }
        Ok(())
    })
}

/// Imports a state, if its key and value are understood.
fn state(
    key: &[u8],
    value: &Value,
    expires: Option<UnixMillis>,
    (names, colon): (&HashSet<String>, Colon),
    importer: &mut Importer,
    left: &mut Left,
) -> Result<(), Stop> {
    let Ok(rest) = str::from_utf8(&key[STATES.len()..]) else {
        left.out(key, Why::Unusable, "the key is not UTF-8");
        return Ok(());
    };
    let (namespace, user, channel) = match meaning(rest, names, colon) {
        Meaning::State { namespace, user, channel } => (namespace, user, channel),
        Meaning::Orphan => {
            left.out(key, Why::NoNamespace, "there is no such namespace");
            return Ok(());
        }
        Meaning::Nameless => {
            left.out(key, Why::Unusable, "the name of its channel is empty");
            return Ok(());
        }
        Meaning::Ambiguous(text) => {
            left.out(key, Why::Ambiguous, &text);
            return Ok(());
        }
    };
    let text = match value {
        Value::Bytes(bytes) => str::from_utf8(bytes).ok().map(str::trim_ascii),
        _ => {
            left.out(key, Why::Unusable, "it holds no text");
            return Ok(());
        }
    };
    let text = match text.map(|text| json::members(text, &[]).map(|_| text)) {
        Some(Ok(text)) => text,
        Some(Err(deep @ JsonError::Depth { .. })) => {
            left.out(key, Why::Unusable, &format!("it holds {deep}"));
            return Ok(());
        }
        Some(Err(JsonError::Syntax)) | None => {
            left.out(key, Why::NotJson, "what it holds is not JSON");
            return Ok(());
        }
    };
    if json::is_null(text) {
        // Null means no state.
        return Ok(());
    }
    let state_key = StateKey { channel: channel.into(), user: user.map(Into::into) };
    let told = || format!("{:?}", String::from_utf8_lossy(key));
    importer.state(namespace, state_key, expires, text).map_err(|refused| refused.at(told))
}

/// Calls `each` with all keys that start with `start`, page by page.
fn scan(
    redis: &mut Redis,
    start: &str,
    mut each: impl FnMut(&mut Redis, &[Vec<u8>]) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut cursor = 0_u64;
    loop {
        let (from, count) = (cursor.to_string(), SCAN_KEYS.to_string());
        let pattern = format!("{start}*");
        let words = ["SCAN", &from, "MATCH", &pattern, "COUNT", &count].map(str::as_bytes);
        let answer = redis.ask(&[words.to_vec()]).map_err(away)?.pop();
        let (next, keys) = page_of(answer, start).ok_or_else(|| foreign("SCAN"))?;
        for page in keys.chunks(PAGE_KEYS) {
            each(redis, page)?;
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

/// Parses an answer to SCAN: the next cursor, and the keys that start with `start`.
fn page_of(answer: Option<Value>, start: &str) -> Option<(u64, Vec<Vec<u8>>)> {
    let Some(Value::List(parts)) = answer else { return None };
    let Ok([Value::Bytes(next), Value::List(keys)]) = <[Value; 2]>::try_from(parts) else {
        return None;
    };
    let keys = keys.into_iter().map(|key| match key {
        Value::Bytes(bytes) if bytes.starts_with(start.as_bytes()) => Some(bytes),
        _ => None,
    });
    Some((str::from_utf8(&next).ok()?.parse().ok()?, keys.collect::<Option<_>>()?))
}

fn foreign(command: &str) -> Stop {
    Stop::Failed(format!("Redis: that is no answer to {command}"))
}
