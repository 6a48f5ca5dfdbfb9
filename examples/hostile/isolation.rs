//! A million messages to random triples of namespace, user and channel, whose names are prefixes
//! and parts of each other: each browser receives its own messages, in order, and nothing else.

use std::time::{Duration, Instant};

use fws::codec::ws::Opcode;
use serde_json::{Value, json};

use crate::crowd::{Crowd, ReadMode};
use crate::report::{Bounds, Findings};
use crate::stage::Field;
use crate::words::{SUBSCRIBED, auth, command, control_auth, frame, frames, has};
use crate::{Attack, Outcome, Run};

/// The attacks of this file.
pub const ATTACKS: &[Attack] = &[Attack {
    name: "isolation",
    about: "a million messages to random namespaces, users and channels, none delivered elsewhere",
    run: Run::Beside(triples, Bounds::DEFAULT),
}];

/// With any usual separator, some pairs of name and channel join to the same text.
const SPACES: [&str; 8] = ["a", "a:b", "b", "A", "1", "a/b", "@a", "ä"];
const USERS: [&str; 16] = [
    "1", "b:1", "01", "u", "U", "a", "a:b", "c", "c:1", "@1", "#1", "1.5", "null", "true", "ü",
    "-1",
];
const CHANNELS: [&str; 24] = [
    "c",
    "b:c",
    "a:b:c",
    "C",
    "1",
    "01",
    "c:1",
    "c/1",
    "@c",
    "@b:c",
    "@1",
    "@@c",
    "#c",
    "#b:c",
    "#1",
    "##c",
    "null",
    "true",
    "auth",
    "ç",
    "c ",
    " c",
    "[object Object]",
    "__proto__",
];
/// Connections of each user.
const EACH: usize = 4;
/// Messages of one namespace that may wait for their reply.
const WINDOW: u64 = 64;
/// Messages per batch, and messages per second in all.
const BATCH: u64 = 8;
const PER_SECOND: f64 = 8_000.0;
/// Size of a reply.
const REPLY_BYTES: u64 = 16 + 5;

/// Names and keys of the namespaces.
pub fn namespaces() -> impl Iterator<Item = (&'static str, String)> {
    let key = |number| format!("66666666-6666-4666-8666-{number:012}");
    SPACES.iter().enumerate().map(move |(number, name)| (*name, key(number)))
}

/// A pseudo-random generator, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % most
    }
}

/// Whether a user may subscribe: to private channels, one user in two.
fn may_join(user: usize, channel: usize) -> bool {
    !CHANNELS[channel].starts_with('#') || user.is_multiple_of(2)
}

/// Whether a connection subscribes to a channel: one in three.
fn asks(number: usize, channel: usize) -> bool {
    (number * 7 + channel * 5 + number / 3).is_multiple_of(3)
}

/// One browser: its namespace and user, and how many messages it is due and has received.
struct Seat {
    space: usize,
    user: usize,
    number: usize,
    due: u64,
    got: u64,
    last: u64,
    wrong: Option<String>,
}

impl Seat {
    fn hears(&self, user: Option<usize>, channel: usize) -> bool {
        user.is_none_or(|user| user == self.user)
            && asks(self.number, channel)
            && may_join(self.user, channel)
    }

    /// Checks a message: `{"event":CHANNEL,"data":[SPACE,USER,CHANNEL,NUMBER]}`.
    fn check(&mut self, payload: &[u8]) {
        let value: Value = serde_json::from_slice(payload).unwrap_or_default();
        let data = &value["data"];
        let number = |at: usize| data[at].as_u64();
        let place = |at: usize| number(at).and_then(|number| usize::try_from(number).ok());
        let channel = place(2).filter(|channel| *channel < CHANNELS.len());
        let is_named = channel.is_some_and(|channel| value["event"] == CHANNELS[channel]);
        let is_ours = place(0) == Some(self.space)
            && channel.is_some_and(|channel| self.hears(place(1), channel));
        let is_next = number(3).is_some_and(|number| number > self.last);
        if !(is_named && is_ours && is_next) {
            self.wrong = Some(String::from_utf8_lossy(payload).into_owned());
        }
        self.last = number(3).unwrap_or(0);
        self.got += 1;
    }
}

/// A browser's first bytes: `auth`, and a subscribe for each channel, the last one answered.
fn hello(seat: &Seat, key: &str) -> Vec<u8> {
    let mut out = auth(SPACES[seat.space], key, USERS[seat.user]);
    let wanted = (0..CHANNELS.len()).filter(|channel| asks(seat.number, *channel));
    for channel in wanted {
        let subscribe = json!({ "event": "subscribe", "data": CHANNELS[channel] });
        out.extend(frame(Opcode::Text, subscribe.to_string().as_bytes()));
    }
    // The answered subscribe is for another channel, to which nothing is published.
    out.extend(crate::words::subscribe("last", true));
    out
}

fn seats() -> Vec<Seat> {
    let count = SPACES.len() * USERS.len() * EACH;
    let seat = |number: usize| Seat {
        space: number % SPACES.len(),
        user: number / SPACES.len() % USERS.len(),
        number,
        due: 0,
        got: 0,
        last: 0,
        wrong: None,
    };
    (0..count).map(seat).collect()
}

/// Browsers and back ends, and the expectations for each browser.
struct Hall {
    browsers: Crowd,
    back_ends: Crowd,
    seats: Vec<Seat>,
}

impl Hall {
    fn open(field: &Field) -> Outcome<Hall> {
        let keys: Vec<String> = namespaces().map(|(_, key)| key).collect();
        for (name, key) in namespaces() {
            let (mut control, _) = field.back_end(name, &key)?;
            for (user, channel) in all_pairs().filter(|(user, channel)| may_join(*user, *channel)) {
                if CHANNELS[channel].starts_with('#') {
                    let params = json!({ "userId": USERS[user] });
                    let (action, channel) = ("subscribe", CHANNELS[channel]);
                    let grant = json!({ "action": action, "channel": channel, "params": params });
                    control.ask(grant.to_string().as_bytes())?;
                }
            }
        }
        let mut hall = Hall {
            browsers: Crowd::new(field.web)?,
            back_ends: Crowd::new(field.control)?,
            seats: seats(),
        };
        let Hall { browsers, seats, .. } = &mut hall;
        browsers.gather(
            seats.len(),
            ReadMode::KeepLast(usize::MAX),
            Some(SUBSCRIBED),
            |number| hello(&seats[number], &keys[seats[number].space]).into(),
        )?;
        let first = |number: usize| control_auth(SPACES[number], &keys[number]).into();
        hall.back_ends.gather(SPACES.len(), ReadMode::KeepLast(512), Some(b"true}\0"), first)?;
        hall.browsers.members.iter_mut().for_each(|member| member.got.clear());
        Ok(hall)
    }

    /// Publishes a batch to one namespace, and notes which browsers should receive it.
    fn publish(&mut self, space: usize, dice: &mut Dice, number: &mut u64) {
        let mut bytes = Vec::new();
        for _ in 0..BATCH {
            *number += 1;
            let channel = dice.below(CHANNELS.len());
            let user = Some(dice.below(USERS.len())).filter(|_| dice.below(8) > 0);
            let params = user.map_or(json!({}), |user| json!({ "userId": USERS[user] }));
            let data = json!([space, user, channel, number]);
            let (action, name) = ("emit", CHANNELS[channel]);
            let emit = json!({ "action": action, "channel": name, "params": params, "data": data });
            bytes.extend(command(&emit.to_string()));
            for seat in self.seats.iter_mut().skip(space).step_by(SPACES.len()) {
                seat.due += u64::from(seat.hears(user, channel));
            }
        }
        self.back_ends.say(space, &bytes.into());
    }

    fn pump(&mut self) -> Outcome<()> {
        self.back_ends.pump(Duration::from_millis(1))?;
        self.browsers.pump(Duration::from_millis(1))?;
        // Waiting for its replies would never end.
        if let Some(gone) = self.back_ends.members.iter().find(|back_end| !back_end.is_open()) {
            let heard = gone.heard;
            return Err(format!("a back end was closed when it had heard {heard} bytes").into());
        }
        let mut pings = Vec::new();
        for (at, seat) in self.seats.iter_mut().enumerate() {
            let member = &mut self.browsers.members[at];
            let (frames, used) = frames(&member.got);
            for (opcode, payload) in frames {
                match opcode {
                    1 if !has(payload, b"\"clb\"") => seat.check(payload),
                    9 => pings.push((at, frame(Opcode::Pong, payload))),
                    _ => {}
                }
            }
            member.got.drain(..used);
        }
        for (at, pong) in pings {
            self.browsers.say(at, &pong.into());
        }
        Ok(())
    }
}

fn all_pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..USERS.len()).flat_map(|user| (0..CHANNELS.len()).map(move |channel| (user, channel)))
}

fn triples(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let mut hall = Hall::open(field)?;
    let count = field.many(1_000_000) as u64;
    let (mut dice, mut number, start) = (Dice(0x9e37_79b9_7f4a_7c15), 0, Instant::now());
    let mut asked = [0; SPACES.len()];
    while number < count {
        for (space, asked) in asked.iter_mut().enumerate() {
            // Less the reply to `auth`.
            let replied = hall.back_ends.members[space].heard / REPLY_BYTES - 1;
            let due = start.elapsed().as_secs_f64() * PER_SECOND;
            if *asked - replied < WINDOW && (number as f64) < due && number < count {
                hall.publish(space, &mut dice, &mut number);
                *asked += BATCH;
            }
        }
        hall.pump()?;
    }
    let end = Instant::now() + Duration::from_secs(5);
    while hall.seats.iter().any(|seat| seat.got < seat.due) && Instant::now() < end {
        hall.pump()?;
    }
    let rate = number as f64 / start.elapsed().as_secs_f64();
    let heard = hall.seats.iter().map(|seat| seat.got).sum::<u64>();
    findings.note(format!("{number} messages, {rate:.0} a second, {heard} deliveries"));
    let wrong: Vec<&Seat> = hall.seats.iter().filter(|seat| seat.wrong.is_some()).collect();
    findings
        .expect(wrong.is_empty(), format!("{} browsers received what is not theirs", wrong.len()));
    for seat in wrong.iter().take(3) {
        let (space, user) = (SPACES[seat.space], USERS[seat.user]);
        findings.faults.push(format!("{user} of {space} received {:?}", seat.wrong));
    }
    let missing = hall.seats.iter().filter(|seat| seat.got != seat.due).count();
    findings
        .expect(missing == 0, format!("{missing} browsers received too few or too many messages"));
    hall.browsers.close_all();
    hall.back_ends.close_all();
    Ok(findings)
}
