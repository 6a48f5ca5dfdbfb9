//! Reads Redis and hands what it says to the importer. The client is that of the crate `redis`;
//! only reading commands are sent, and none of those that hold up a large Redis.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use redis::{Client, Connection, RedisResult, Value};

use super::super::importer::Importer;
use super::super::line::Namespace;
use super::super::{REPLACE, count, holder, now};
use super::COLON;
use super::key::{Colon, Meaning, meaning};
use super::url;
use crate::cli::output::{out, tell};
use crate::cli::{Call, Stop};
use crate::codec::json;
use crate::config::Secret;
use crate::hub::Place;
use crate::time::UnixMillis;

const NAMESPACES: &str = "LaWS_Server:name_spaces:";
const STATES: &str = "LaWS_Server:store:";
/// Keys that one SCAN asks for.
const SCAN_KEYS: usize = 1000;
/// Keys that one pipeline reads: a state may be some megabytes.
const PAGE_KEYS: usize = 64;
/// Redis has so long to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a key is left out; each is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Why {
    Ambiguous,
    NotJson,
    NoNamespace,
    Unusable,
}

/// What was left out. Keys come twice if Redis is busy with its table; they are told once.
#[derive(Default)]
struct Left {
    keys: HashSet<Vec<u8>>,
    counts: HashMap<Why, u64>,
}

impl Left {
    /// Tells the person; never what is in the key.
    fn out(&mut self, key: &[u8], why: Why, text: &str) {
        if self.keys.insert(key.into()) {
            *self.counts.entry(why).or_default() += 1;
            tell(&format!("left out {:?}: {text}", String::from_utf8_lossy(key)));
        }
    }

    fn finish(&self) {
        if self.keys.is_empty() {
            return;
        }
        let kinds = [
            (Why::Ambiguous, "ambiguous"),
            (Why::NotJson, "not JSON"),
            (Why::NoNamespace, "of no namespace"),
            (Why::Unusable, "of no use"),
        ];
        let said = kinds.iter().filter_map(|(why, name)| {
            self.counts.get(why).map(|number| format!("{number} {name}"))
        });
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
        // Said without the URL, which may hold a password.
        let form = "write redis://HOST:PORT/DATABASE or unix:///PATH";
        Stop::Usage(format!("that is no URL of a Redis: {form}"))
    })?;
    let mut redis = Client::open(place).and_then(|client| connect(&client)).map_err(away)?;
    let is_replacing = call.flag(REPLACE.name).is_some();
    let mut importer = Importer::start(&config, &holder(call, now), now, is_replacing)?;
    let mut left = Left::default();
    let names = namespaces(&mut redis, &mut importer, &mut left)?;
    states(&mut redis, &names, colon, &mut importer, &mut left)?;
    let done = importer.finish()?;
    left.finish();
    out(&done)
}

fn connect(client: &Client) -> RedisResult<Connection> {
    let redis = client.get_connection_with_timeout(ANSWER)?;
    redis.set_read_timeout(Some(ANSWER))?;
    redis.set_write_timeout(Some(ANSWER))?;
    Ok(redis)
}

fn away(error: redis::RedisError) -> Stop {
    Stop::Failed(format!("Redis: {error}"))
}

/// Takes the namespaces in; returns their names.
fn namespaces(
    redis: &mut Connection,
    importer: &mut Importer,
    left: &mut Left,
) -> Result<HashSet<String>, Stop> {
    let mut names = HashSet::new();
    scan(redis, NAMESPACES, |redis, keys| {
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.cmd("GET").arg(key);
        }
        let values = ask(redis, &pipeline, keys.len())?;
        for (key, value) in keys.iter().zip(&values) {
            let name =
                str::from_utf8(&key[NAMESPACES.len()..]).ok().filter(|name| !name.is_empty());
            let Some(name) = name else {
                left.out(key, Why::Unusable, "this is no name");
                continue;
            };
            let secret = match value {
                Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
                // Removed meanwhile.
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
    redis: &mut Connection,
    names: &HashSet<String>,
    colon: Colon,
    importer: &mut Importer,
    left: &mut Left,
) -> Result<(), Stop> {
    scan(redis, STATES, |redis, keys| {
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.cmd("GET").arg(key).cmd("PTTL").arg(key);
        }
        let values = ask(redis, &pipeline, 2 * keys.len())?;
        let date = now().unix;
        for (key, answers) in keys.iter().zip(values.chunks_exact(2)) {
            let expires = match answers[1] {
                Value::Int(ms) if ms >= 0 => Some(date.plus(ms.unsigned_abs())),
                Value::Int(-1) => None,
                // It ended between the two questions.
                _ => continue,
            };
            if matches!(answers[0], Value::Nil) {
                continue;
            }
            state(key, &answers[0], expires, (names, colon), importer, left)?;
        }
        Ok(())
    })
}

/// Takes a state in, if it can be known whose it is and what.
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
        Meaning::Ambiguous(text) => {
            left.out(key, Why::Ambiguous, &text);
            return Ok(());
        }
    };
    let text = match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok().map(str::trim_ascii),
        _ => {
            left.out(key, Why::Unusable, "it holds no text");
            return Ok(());
        }
    };
    let Some(text) = text.filter(|text| json::members(text, &[]).is_ok()) else {
        left.out(key, Why::NotJson, "what it holds is not JSON");
        return Ok(());
    };
    if json::is_null(text) {
        // The same as none.
        return Ok(());
    }
    let place = Place { channel: channel.into(), user: user.map(Into::into) };
    let told = || format!("{:?}", String::from_utf8_lossy(key));
    importer.state(namespace, place, expires, text).map_err(|refused| refused.at(told))
}

/// Calls `each` with all keys that begin so, page by page.
fn scan(
    redis: &mut Connection,
    start: &str,
    mut each: impl FnMut(&mut Connection, &[Vec<u8>]) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut cursor = 0_u64;
    loop {
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(format!("{start}*")).arg("COUNT").arg(SCAN_KEYS);
        let (next, keys): (u64, Vec<Vec<u8>>) = command.query(redis).map_err(away)?;
        for page in keys.chunks(PAGE_KEYS) {
            each(redis, page)?;
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

/// The answers to a pipeline; one that is an error stands in the place of its answer.
fn ask(
    redis: &mut Connection,
    pipeline: &redis::Pipeline,
    answers: usize,
) -> Result<Vec<Value>, Stop> {
    let packed = pipeline.get_packed_pipeline();
    let values = redis::ConnectionLike::req_packed_commands(redis, &packed, 0, answers);
    let values = values.map_err(away)?;
    if values.len() == answers {
        return Ok(values);
    }
    Err(Stop::Failed(format!("Redis: {} answers to {answers} questions", values.len())))
}
