//! `kill -9` at random moments, repeatedly on the same data folder: nothing acknowledged is lost,
//! nothing is invented, and every start succeeds. `FWS_KILLS=N` sets the number of kills
//! (`make crash KILLS=N`), `FWS_CRASH_SEED` the seed of the moments.
//!
//! Each round sends a burst of commands on two connections, kills the server while it works on
//! them, restarts it and reads everything. On each connection the state must be that after one of
//! its commands, not earlier than the last one acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::common::control::{Control, DONE, frame};
use crate::common::server::{Dir, OTHER_KEY, Options, SERVER_KEY, Server, key_of};
use fws::sim::Prng;
use serde_json::{Value, json};

const KILLS: usize = 200;
const BURST: usize = 200;
const CHANNELS: [&str; 5] = ["a", "b", "@c", "list", "#p"];
const USERS: [&str; 2] = ["1", "two"];

/// The contents of one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
struct Space {
    /// By channel and user: the data, and whether the state may have expired meanwhile.
    states: BTreeMap<(String, Option<String>), (String, bool)>,
    grants: BTreeSet<String>,
}

/// A command that changes a namespace.
#[derive(Clone, Debug)]
enum Op {
    Set { channel: String, user: Option<String>, data: String, ttl: Option<u32> },
    Push { data: String },
    Grant { user: String, is_withdrawn: bool },
}

impl Op {
    fn draw(prng: &mut Prng, serial: usize) -> Op {
        let user = prng.one_in(2).then(|| prng.pick(&USERS).to_string());
        match prng.below(10) {
            0 => Op::Push { data: serial.to_string() },
            1 | 2 => {
                let user = prng.pick(&USERS).to_string();
                Op::Grant { user, is_withdrawn: prng.one_in(2) }
            }
            kind => {
                let size = *prng.pick(&[1, 1, 30, 300, 5000]);
                let data = match kind {
                    3 => "null".into(),
                    _ => format!("\"{serial} {}\"", "x".repeat(size)),
                };
                let ttl = [None, None, Some(1000), Some(1)][prng.below(4)];
                let channel = prng.pick(&CHANNELS[..3]).to_string();
                Op::Set { channel, user, data, ttl }
            }
        }
    }

    fn body(&self) -> String {
        match self {
            Op::Set { channel, user, data, ttl } => format!(
                r#"{{"action":"set","channel":"{channel}","data":{data},"params":{}}}"#,
                json!({ "userId": user, "ttl": ttl })
            ),
            Op::Push { data } => format!(r#"{{"action":"push","channel":"list","data":{data}}}"#),
            Op::Grant { user, is_withdrawn } => {
                let action = if *is_withdrawn { "unsubscribe" } else { "subscribe" };
                let params = json!({ "userId": user });
                json!({ "action": action, "channel": "#p", "params": params }).to_string()
            }
        }
    }

    fn apply(&self, space: &mut Space) {
        match self {
            Op::Set { channel, user, data, ttl } => {
                let place = (channel.clone(), user.clone());
                match data.as_str() {
                    "null" => drop(space.states.remove(&place)),
                    _ => drop(space.states.insert(place, (data.clone(), *ttl == Some(1)))),
                }
            }
            Op::Push { data } => {
                let place = ("list".to_string(), None);
                let (list, _) = space.states.entry(place).or_insert(("[]".into(), false));
                let mut items: Vec<Value> = serde_json::from_str(list).unwrap();
                items.push(serde_json::from_str(data).unwrap());
                // The limit of items in a list.
                let from = items.len().saturating_sub(20);
                *list = json!(items[from..]).to_string();
            }
            Op::Grant { user, is_withdrawn: true } => drop(space.grants.remove(user)),
            Op::Grant { user, .. } => drop(space.grants.insert(user.clone())),
        }
    }
}

/// Reads the contents of a namespace from the server.
fn read_back(server: &Server, namespace: &str) -> Space {
    let mut control = server.controller(namespace);
    let mut space = Space::default();
    for channel in &CHANNELS[..4] {
        for user in [None, Some(USERS[0]), Some(USERS[1])] {
            let params = json!({ "userId": user });
            let get = json!({ "action": "get", "channel": channel, "params": params });
            let data = control.ask(&get.to_string());
            if data != "null" {
                let place = (channel.to_string(), user.map(str::to_string));
                space.states.insert(place, (data, false));
            }
        }
    }
    for user in USERS {
        let mut browser =
            server.browser_of(namespace, key_of(namespace), &json!({ "i": user }).to_string());
        browser.say(r##"{"event":"subscribe","data":"#p","clb":1}"##);
        let answer: Value = serde_json::from_str(&browser.hear()).unwrap();
        if answer["data"]["ok"] == true {
            space.grants.insert(user.to_string());
        }
    }
    space
}

/// Whether the contents are those of the model, except for states that may have expired.
fn is_same(found: &Space, model: &Space) -> bool {
    let has = |(place, (data, may_end)): (&_, &(String, bool))| match found.states.get(place) {
        Some((there, _)) => there == data,
        None => *may_end,
    };
    found.grants == model.grants
        && model.states.iter().all(has)
        && found.states.keys().all(|place| model.states.contains_key(place))
}

/// Counts the replies up to the end of the stream.
fn replies(control: &mut Control) -> usize {
    let mut count = 0;
    while let Ok(Some(reply)) = control.next() {
        assert_eq!(reply, DONE);
        count += 1;
    }
    count
}

/// Registered namespaces: each one acknowledged must open with its key.
#[derive(Default)]
struct Registered(Vec<(String, String)>);

impl Registered {
    fn send(control: &mut Control, name: &str) {
        let register = json!({ "action": "registerNameSpace", "name": name, "key": SERVER_KEY });
        control.send(&register.to_string());
    }

    fn hear(&mut self, control: &mut Control, name: &str) {
        if let Ok(Some(reply)) = control.next() {
            let reply: Value = serde_json::from_str(&reply).unwrap();
            self.0.push((name.into(), reply["secretKey"].as_str().unwrap().into()));
        }
    }

    fn check(&self, server: &Server) {
        let mut control = server.control();
        for (name, key) in self.0.iter().rev().take(20) {
            let auth = json!({ "action": "auth", "name": name, "sKey": key });
            assert_eq!(control.ask(&auth.to_string()), DONE, "the namespace {name} is lost");
        }
    }
}

fn number(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number")),
        Err(_) => default,
    }
}

/// A namespace, as it was last read, and what was sent to it since.
struct Site {
    name: &'static str,
    seen: Space,
    sent: Vec<Op>,
    acknowledged: usize,
}

impl Site {
    /// Checks that the contents are those last read plus a prefix of what was sent since, which
    /// includes everything acknowledged.
    fn check(&mut self, server: &Server, what: &str) {
        let found = read_back(server, self.name);
        let mut model = self.seen.clone();
        let mut is_found = false;
        for count in 0..=self.sent.len() {
            if count >= self.acknowledged && is_same(&found, &model) {
                is_found = true;
                break;
            }
            if let Some(op) = self.sent.get(count) {
                op.apply(&mut model);
            }
        }
        let Site { name, seen, sent, acknowledged } = self;
        assert!(
            is_found,
            "{what}: {name} is as after none of {} commands, of which {acknowledged} were \
             acknowledged\nbefore: {seen:?}\nfound: {found:?}\nsent: {sent:?}",
            sent.len()
        );
        // A state that may expire still exists: next time it may be gone.
        let may_end = |place: &_| model.states.get(place).is_some_and(|(_, may_end)| *may_end);
        *seen = found.clone();
        seen.states.iter_mut().for_each(|(place, (_, ends))| *ends = may_end(place));
        sent.clear();
        *acknowledged = 0;
    }
}

#[test]
fn kills_at_random_moments_lose_nothing_acknowledged() {
    let kills = number("FWS_KILLS", KILLS);
    let seed = number("FWS_CRASH_SEED", 1) as u64;
    let mut prng = Prng::new(seed);
    let options = Options::limits(&[("list_items", 20)]);
    let mut sites = ["demo", "other"].map(|name| Site {
        name,
        seen: Space::default(),
        sent: Vec::new(),
        acknowledged: 0,
    });
    assert_eq!(key_of("other"), OTHER_KEY);
    let (mut registered, mut serial, mut acknowledged, mut sent) = (Registered::default(), 0, 0, 0);
    let mut dir = Dir::new();
    let start = Instant::now();
    for kill in 0..kills {
        if prng.one_in(10) {
            // Kill it during its start too.
            let mut child = options.command(&dir).spawn().unwrap();
            std::thread::park_timeout(Duration::from_micros(prng.below(30_000) as u64));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let server = Server::start_in(dir, &options);
        let what = format!("seed {seed}, kill {kill}");
        sites.iter_mut().for_each(|site| site.check(&server, &what));
        registered.check(&server);
        let mut lines = sites.each_ref().map(|site| server.controller(site.name));
        let (mut third, name) = (server.control(), format!("site {kill}"));
        for (site, line) in sites.iter_mut().zip(&mut lines) {
            let count = 1 + prng.below(BURST);
            site.sent = (0..count).map(|i| Op::draw(&mut prng, serial + i)).collect();
            serial += count;
            let frames = site.sent.iter().flat_map(|op| frame(op.body().as_bytes()));
            line.send_raw(&frames.collect::<Vec<u8>>());
        }
        Registered::send(&mut third, &name);
        std::thread::park_timeout(Duration::from_micros(prng.below(12_000) as u64));
        dir = server.crash();
        for (site, line) in sites.iter_mut().zip(&mut lines) {
            site.acknowledged = replies(line);
            (acknowledged, sent) = (acknowledged + site.acknowledged, sent + site.sent.len());
        }
        registered.hear(&mut third, &name);
    }
    let server = Server::start_in(dir, &options);
    sites.iter_mut().for_each(|site| site.check(&server, "at the end"));
    let seconds = start.elapsed().as_secs();
    println!(
        "{kills} kills in {seconds} s: {sent} commands, {acknowledged} of them acknowledged, none \
         lost; {} namespaces registered",
        registered.0.len()
    );
    // Kills before or after all the work would show nothing.
    assert!(acknowledged > sent / 20 && acknowledged < sent, "{acknowledged} of {sent}");
}
