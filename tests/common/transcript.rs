//! Transcripts: dialogues with the server as plain text, one file per area of the protocol in
//! `tests/transcripts/`, each case on a fresh server. This module parses and plays them.
//!
//! A line `case NAME` begins a case; its steps follow, one per line, indented. `#` begins a comment
//! line. A step is `WHO VERB REST`. Who: `net1`, `net2`… a connection to the control port; `ws1`… a
//! WebSocket; `http` a separate request. `>` is to the server, `<` from it.
//!
//! | step | |
//! |---|---|
//! | `net1 > BODY` | a control frame with this body |
//! | `net1 bytes> "…"` | these bytes as they are, written as a JSON string |
//! | `net1 hex> 4d00…` | these bytes as they are |
//! | `net1 < BODY` | a reply with exactly this body |
//! | `net1 json< BODY` | a reply that is the same JSON value; the order of keys is free |
//! | `net1 until< BODY` | the same, but the last command is sent again until it is so |
//! | `net1 auth NS` | short for `> {"action":"auth",…}` and `< {"success":true}` |
//! | `net1 fin` | the client will send nothing more |
//! | `net1 closed` | the server closes |
//! | `ws1 open PATH \| HEADER \| …` | opens a WebSocket; the answer is exactly that of RFC 6455 |
//! | `ws1 > TEXT`, `ws1 < TEXT` | a text message, on SockJS a frame |
//! | `ws1 say MESSAGE`, `ws1 hear MESSAGE` | the same, but on SockJS inside `["…"]`, `a["…"]` |
//! | `ws1 auth NS PAYLOAD $cid1` | sends `auth` with such a token, receives `auth ok` |
//! | `ws1 join NS PAYLOAD CHANNEL $cid1` | `open` raw, `auth`, subscribe; there is no state |
//! | `ws1 frame> 81 TEXT` | one masked frame: its first byte in hex, its payload |
//! | `ws1 unmasked> 81 TEXT` | the same without a mask |
//! | `ws1 hex> 8100…` | these bytes as they are |
//! | `ws1 pong TEXT` | receives a pong |
//! | `ws1 close CODE REASON`, `ws1 close` | sends a close frame, the second without a code |
//! | `ws1 closed CODE REASON` | receives a close frame and, after the answer, the end |
//! | `WHO nothing` | nothing has arrived: what is sent now is answered first |
//! | `WHO hold`, `WHO release` | what is sent in between goes out in one write |
//! | `WHO drop`, `WHO reset` | the client ends the TCP connection |
//! | `http > GET /path \| HEADER \| …` | a request |
//! | `http < 200`, `http < name: value` | its status; one of its headers |
//! | `http body "…"` | its body, written as a JSON string |
//!
//! `>"` and `<"` instead of `>` and `<`: the rest is a JSON string; for text with white space at
//! its ends or with characters that cannot be seen.
//!
//! In what is sent and expected, `$name1` is a lower-case version 4 UUID, equal wherever it recurs
//! in the case and different from all others; `$int` an integer, `$u32` one below 2^32;
//! `<<70000 x>>` that many `x`; `<<token NS PAYLOAD>>` a token as the PHP client makes it;
//! `<<server key>>` the server key.
//!
//! A case ends with `nothing` on every connection that is still open.

use super::browser::{Browser, Heard, RAW, auth_message, masked, unmasked};
use super::control::{Control, frame};
use super::http::{Answer, request};
use super::server::{Options, Server, key_of};
use super::token::token;
use super::{DEADLINE, server};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

/// One case of a transcript.
pub struct Case {
    /// Its name, as in the reference where it comes from there.
    pub name: String,
    steps: Vec<Step>,
}

struct Step {
    who: String,
    verb: String,
    rest: String,
}

/// Parses a transcript.
pub fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        let bare = line.trim_start();
        if bare.is_empty() || bare.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("case ") {
            cases.push(Case { name: name.trim().into(), steps: Vec::new() });
            continue;
        }
        let mut words = bare.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (who, verb, rest) = (word(), word(), word());
        let (verb, rest) = match verb.strip_suffix('"') {
            Some(verb) => (verb.to_owned(), serde_json::from_str(&rest).expect("a JSON string")),
            None => (verb, rest),
        };
        let case = cases.last_mut().expect("a case comes first");
        case.steps.push(Step { who, verb, rest });
    }
    cases
}

/// Plays a case on a fresh server.
///
/// # Errors
/// The dialogue so far, and what is wrong with its last line.
pub fn play(case: &Case) -> Result<(), String> {
    let server = Server::start(&Options::default());
    let mut play = Play::new(&server);
    for step in &case.steps {
        let _ = writeln!(play.dialogue, "  {} {} {}", step.who, step.verb, shorten(&step.rest));
        play.step(step).map_err(|error| play.failure(case, &error))?;
    }
    play.fences().map_err(|error| play.failure(case, &error))
}

/// Shortens long bodies for a failure message.
fn shorten(text: &str) -> String {
    if text.len() <= 1000 {
        return text.to_owned();
    }
    let head: String = text.chars().take(200).collect();
    format!("{head}… ({} bytes)", text.len())
}

struct Play<'a> {
    server: &'a Server,
    controls: BTreeMap<String, Control>,
    /// The last command on each control connection.
    commands: BTreeMap<String, String>,
    browsers: BTreeMap<String, Browser>,
    answer: Option<Answer>,
    names: Names,
    dialogue: String,
}

impl<'a> Play<'a> {
    fn new(server: &'a Server) -> Play<'a> {
        Play {
            server,
            controls: BTreeMap::new(),
            commands: BTreeMap::new(),
            browsers: BTreeMap::new(),
            answer: None,
            names: Names::default(),
            dialogue: String::new(),
        }
    }

    fn failure(&self, case: &Case, error: &str) -> String {
        let log = self.server.log().join("\n    ");
        let Case { name, .. } = case;
        format!("case {name}\n{}  ^ {}\n  log:\n    {log}\n", self.dialogue, shorten(error))
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let rest = self.names.fill(&expand(&step.rest));
        match &step.who[..2] {
            "ne" => self.control(&step.who, &step.verb, &rest),
            "ws" => self.browser(&step.who, &step.verb, &rest),
            _ => self.http(&step.verb, &rest),
        }
    }

    fn fences(&mut self) -> Result<(), String> {
        for (who, control) in &mut self.controls {
            control.fence().map_err(|error| format!("at the end, {who}: {error}"))?;
        }
        for (who, browser) in &mut self.browsers {
            browser.fence().map_err(|error| format!("at the end, {who}: {error}"))?;
        }
        Ok(())
    }

    fn control(&mut self, who: &str, verb: &str, rest: &str) -> Result<(), String> {
        let control = self.controls.entry(who.into()).or_insert_with(|| self.server.control());
        let names = &mut self.names;
        match verb {
            ">" => {
                self.commands.insert(who.into(), rest.into());
                control.send(rest);
            }
            "hex>" | "bytes>" => control.send_raw(&raw_bytes(verb, rest)),
            "auth" => {
                control.send(&auth_command(rest));
                names.expect(r#"{"success":true}"#, &reply(control)?)?;
            }
            "<" => names.expect(rest, &reply(control)?)?,
            "json<" => same_json(rest, &reply(control)?)?,
            "until<" => {
                let start = Instant::now();
                let mut last = reply(control)?;
                while same_json(rest, &last).is_err() {
                    if start.elapsed() > DEADLINE {
                        return Err(format!("in vain: last reply {last}"));
                    }
                    std::thread::park_timeout(std::time::Duration::from_millis(5));
                    control.send(&self.commands[who]);
                    last = reply(control)?;
                }
            }
            "nothing" => control.fence()?,
            "hold" => control.wire.hold(),
            "release" => control.wire.release(),
            "fin" => control.wire.half_close(),
            "closed" => {
                let rest = control.wire.read_rest()?;
                self.controls.remove(who);
                if !rest.is_empty() {
                    return Err(format!("closed, but with {:?}", String::from_utf8_lossy(&rest)));
                }
            }
            "drop" | "reset" => {
                let control = self.controls.remove(who).expect("it is there");
                if verb == "reset" {
                    control.wire.reset();
                }
            }
            _ => panic!("no such step of a controller: {verb}"),
        }
        Ok(())
    }

    fn browser(&mut self, who: &str, verb: &str, rest: &str) -> Result<(), String> {
        if matches!(verb, "open" | "join") {
            return self.open(who, verb, rest);
        }
        let browser = self.browsers.get_mut(who).expect("an open WebSocket");
        let names = &mut self.names;
        match verb {
            ">" => browser.send(rest),
            "say" => browser.say(rest),
            "<" => names.expect(rest, &text(browser)?)?,
            "hear" => names.expect(&browser.form(rest), &text(browser)?)?,
            "auth" => authenticate(browser, names, rest)?,
            "frame>" | "unmasked>" => {
                let (first, payload) = rest.split_once(' ').unwrap_or((rest, ""));
                let first = u8::from_str_radix(first, 16).expect("a byte in hex");
                let encode = if verb == "frame>" { masked } else { unmasked };
                browser.send_raw(&encode(first, payload.as_bytes()));
            }
            "pong" => match browser.next()? {
                Heard::Pong(payload) if payload == rest.as_bytes() => {}
                other => return Err(format!("heard {other:?}")),
            },
            "hex>" => browser.send_raw(&raw_bytes(verb, rest)),
            "close" if rest.is_empty() => browser.close(None),
            "close" => {
                let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                browser.close(Some((code.parse().expect("a close code"), reason)));
            }
            "closed" => {
                let (code, reason) = browser.closed()?;
                self.browsers.remove(who);
                names.expect(rest.trim_end(), format!("{code} {reason}").trim_end())?;
            }
            "nothing" => browser.fence()?,
            "hold" => browser.wire().hold(),
            "release" => browser.wire().release(),
            "drop" | "reset" => {
                let browser = self.browsers.remove(who).expect("it is there");
                browser.drop_connection(verb == "reset");
            }
            _ => panic!("no such step of a browser: {verb}"),
        }
        Ok(())
    }

    fn open(&mut self, who: &str, verb: &str, rest: &str) -> Result<(), String> {
        let mut parts = rest.split(" | ");
        let path = if verb == "open" { parts.next().unwrap_or_default() } else { RAW };
        let headers: Vec<&str> = if verb == "open" { parts.collect() } else { Vec::new() };
        let mut browser = Browser::open(self.server.ws, path, &headers, &[])?;
        if verb == "join" {
            let mut words = rest.split(' ');
            let mut word = || words.next().expect("NS PAYLOAD CHANNEL $cid");
            let (namespace, payload, channel, cid) = (word(), word(), word(), word());
            authenticate(&mut browser, &mut self.names, &format!("{namespace} {payload} {cid}"))?;
            let channel = Value::from(channel);
            browser.say(&format!(r#"{{"event":"subscribe","data":{channel}}}"#));
            browser.fence()?;
        }
        self.browsers.insert(who.into(), browser);
        Ok(())
    }

    fn http(&mut self, verb: &str, rest: &str) -> Result<(), String> {
        if verb == ">" {
            let mut parts = rest.split(" | ");
            let line = parts.next().unwrap_or_default();
            self.answer = Some(request(self.server.ws, line, &parts.collect::<Vec<_>>())?);
            return Ok(());
        }
        let answer = self.answer.as_ref().expect("a request comes first");
        let (expected, actual) = match (verb, rest.split_once(": ")) {
            ("body", _) => {
                (serde_json::from_str(rest).expect("a JSON string"), answer.body.clone())
            }
            (_, None) => (rest.to_owned(), answer.status.to_string()),
            (_, Some((name, value))) => {
                (value.to_owned(), answer.header(name).unwrap_or("(no such header)").to_owned())
            }
        };
        self.names.expect(&expected, &actual).map_err(|error| format!("{error}\n{answer:?}"))
    }
}

fn raw_bytes(verb: &str, rest: &str) -> Vec<u8> {
    if verb == "bytes>" {
        let text: String = serde_json::from_str(rest).expect("a JSON string");
        return text.into_bytes();
    }
    let pairs = rest.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("hex"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
}

fn auth_command(namespace: &str) -> String {
    let key = key_of(namespace);
    format!(r#"{{"action":"auth","name":"{namespace}","sKey":"{key}"}}"#)
}

fn reply(control: &mut Control) -> Result<String, String> {
    control.next()?.ok_or("the connection was closed".into())
}

fn text(browser: &mut Browser) -> Result<String, String> {
    match browser.next()? {
        Heard::Text(text) => Ok(text),
        other => Err(format!("heard {other:?}")),
    }
}

fn authenticate(browser: &mut Browser, names: &mut Names, rest: &str) -> Result<(), String> {
    let (rest, cid) = rest.rsplit_once(' ').expect("NS PAYLOAD $cid");
    let (namespace, payload) = rest.split_once(' ').expect("NS PAYLOAD $cid");
    browser.say(&auth_message(namespace, &token(payload, key_of(namespace))));
    let expected = format!(r#"{{"event":"auth ok","data":{{"cid":"{cid}"}}}}"#);
    names.expect(&browser.form(&expected), &text(browser)?)
}

fn same_json(expected: &str, actual: &str) -> Result<(), String> {
    let value = |text: &str| serde_json::from_str::<Value>(text).ok();
    if value(actual).is_some() && value(expected) == value(actual) {
        return Ok(());
    }
    Err(format!("expected {expected}, got {actual}"))
}

/// Expands `<<…>>`.
fn expand(text: &str) -> String {
    let mut parts = text.split("<<");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (macro_text, rest) = part.split_once(">>").expect("<<…>>");
        let (first, second) = macro_text.split_once(' ').expect("<<A B>>");
        out += &match first {
            "token" => {
                let (namespace, payload) = second.split_once(' ').expect("<<token NS PAYLOAD>>");
                token(payload, key_of(namespace))
            }
            "server" => server::SERVER_KEY.to_owned(),
            count => second.repeat(count.parse().expect("<<COUNT TEXT>>")),
        };
        out += rest;
    }
    out
}

/// The `$name1` of a case and their values.
#[derive(Default)]
struct Names(BTreeMap<String, String>);

impl Names {
    /// Inserts the known values.
    fn fill(&self, text: &str) -> String {
        let filled = |text: String, (name, value): (&String, &String)| text.replace(name, value);
        self.0.iter().fold(text.to_owned(), filled)
    }

    /// Compares, and learns the values of new names.
    fn expect(&mut self, expected: &str, actual: &str) -> Result<(), String> {
        self.learn(expected, actual)
            .ok_or_else(|| format!("expected {}, got {}", shorten(expected), shorten(actual)))
    }

    fn learn(&mut self, expected: &str, actual: &str) -> Option<()> {
        let mut parts = expected.split('$');
        let mut rest = actual.strip_prefix(parts.next().unwrap_or_default())?;
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(part.len());
            let (name, literal) = part.split_at(end);
            let value;
            if name == "int" || name == "u32" {
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                (value, rest) = rest.split_at(end);
                let number: u64 = value.parse().ok()?;
                (name == "int" || u32::try_from(number).is_ok()).then_some(())?;
            } else if name.ends_with(|c: char| c.is_ascii_digit()) {
                (value, rest) = rest.split_at_checked(36)?;
                self.name(&format!("${name}"), value)?;
            } else {
                rest = rest.strip_prefix('$')?.strip_prefix(name)?;
            }
            rest = rest.strip_prefix(literal)?;
        }
        rest.is_empty().then_some(())
    }

    fn name(&mut self, name: &str, value: &str) -> Option<()> {
        let is_uuid = value.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            14 => byte == b'4',
            19 => b"89ab".contains(&byte),
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        });
        let fresh = !self.0.values().any(|other| other == value);
        (is_uuid && fresh).then(|| self.0.insert(name.into(), value.into()))?;
        Some(())
    }
}

/// The control stream of a case with only one control connection.
pub struct ControlStream {
    /// All bytes sent.
    pub sent: Vec<u8>,
    /// The replies, each with the verb that expects it.
    replies: Vec<(String, String)>,
}

/// The control stream of a case; `None` if it has other connections, or waits for something.
pub fn control_stream(case: &Case) -> Option<ControlStream> {
    let (mut sent, mut replies) = (Vec::new(), Vec::new());
    for Step { who, verb, rest } in &case.steps {
        let rest = expand(rest);
        if who != "net1" {
            return None;
        }
        match verb.as_str() {
            ">" if rest.contains('$') => return None,
            ">" => sent.extend(frame(rest.as_bytes())),
            "hex>" | "bytes>" => sent.extend(raw_bytes(verb, &rest)),
            "auth" => {
                sent.extend(frame(auth_command(&rest).as_bytes()));
                replies.push(("<".to_owned(), r#"{"success":true}"#.to_owned()));
            }
            "<" | "json<" => replies.push((verb.clone(), rest)),
            "hold" | "release" | "nothing" => {}
            _ => return None,
        }
    }
    Some(ControlStream { sent, replies })
}

/// Sends a stream to a fresh server, byte by byte or in one piece, and compares the replies.
///
/// # Errors
/// The reply that differs.
pub fn replay(stream: &ControlStream, byte_by_byte: bool) -> Result<(), String> {
    let server = Server::new();
    let mut control = server.control();
    let step = if byte_by_byte { 1 } else { stream.sent.len() };
    for piece in stream.sent.chunks(step) {
        control.wire.write_all(piece).map_err(|error| format!("cannot send: {error}"))?;
    }
    let mut names = Names::default();
    for (verb, expected) in &stream.replies {
        let actual = reply(&mut control)?;
        match verb.as_str() {
            "json<" => same_json(expected, &actual)?,
            _ => names.expect(&names.fill(expected), &actual)?,
        }
    }
    control.fence()
}
