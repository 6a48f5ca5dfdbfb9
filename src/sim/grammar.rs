//! What clients may send: draws commands and events and spells them, rightly and wrongly, in many
//! ways. Owns no state but a counter that makes messages unique.

use super::Prng;
use super::intent::{Auth, Command, Emit, Event, Store};
use super::judge::{Browser, Judge};
use crate::codec::jwt;
use crate::reason::CloseReason;

/// The server key of every run.
pub(super) const SERVER_KEY: &str = "the key of the server";

const SPACES: [&str; 4] = ["shop", "news", "5", "spiel \"ü\""];
const USERS: [&str; 4] = ["1", "2", "bob", "Zoë \"Q\""];
/// Channels in front are drawn more often, as are users and namespaces.
const CHANNELS: [&str; 9] = ["a", "#p", "@a", "c\"\\é😀\u{2028}", "5", "b", "#q", "@m", "d"];
const CLBS: [&str; 4] = ["1", "\"x\"", "-7", "12345678901234567890"];
/// One byte longer than a name may be.
const LONG: &str = "a name that is too long..";

/// Bodies that are always refused: whether authentication is needed first, code and reason.
const WRONG: [(&str, bool, u16, &str); 26] = [
    ("{}", false, 300, "Need action"),
    (" 5 ", false, 300, "Need action"),
    ("[null]", false, 300, "Need action"),
    (r#"{"action":"nope","x":[{}]}"#, false, 312, "Invalid action..."),
    (r#"{"action":["get"]}"#, false, 312, "Invalid action..."),
    (r#"{"action":"get"}"#, true, 300, "Need argument channel"),
    (r#"{"action":"channelInfo","channel":null}"#, true, 300, "Need argument channel"),
    (r#"{"action":"emit","channel":"a"}"#, true, 300, "Need argument data"),
    (r#"{"action":"push","channel":"a","params":{}}"#, true, 300, "Need argument data"),
    (
        r#"{"action":"subscribe","channel":"a","params":{"userId":1}}"#,
        true,
        343,
        "Private channel must begin with #",
    ),
    (r##"{"action":"subscribe","channel":"#p"}"##, true, 300, "Need argument params"),
    (
        r##"{"action":"unsubscribe","channel":"#p","params":[]}"##,
        true,
        300,
        "Need argument params.userId",
    ),
    (
        r#"{"action":"emit","channel":"a","data":1,"params":{"userId":0}}"#,
        true,
        300,
        "Invalid argument params.userId",
    ),
    (
        r#"{"action":"emit","channel":"a","data":1,"userId":""}"#,
        true,
        300,
        "Invalid argument userId",
    ),
    (
        r#"{"action":"emit","channel":"a","data":1,"params":{"exceptCid":"me"}}"#,
        true,
        300,
        "Invalid argument params.exceptCid",
    ),
    (r#"{"action":"emit","channels":[],"data":1}"#, true, 300, "Invalid argument channels"),
    (
        r#"{"action":"emit","channels":["a","b","d",5],"data":1}"#,
        true,
        300,
        "Too many channels, at most 3",
    ),
    (
        r#"{"action":"emit","channel":"a","channels":["b"],"data":1}"#,
        true,
        300,
        "Need argument channel or channels, not both",
    ),
    (
        r#"{"action":"set","channel":"a","data":1,"params":{"ttl":1.5}}"#,
        true,
        300,
        "Invalid argument params.ttl",
    ),
    (
        r#"{"action":"set","channel":"a","data":1,"params":{"ttl":100001}}"#,
        true,
        300,
        "Invalid argument params.ttl",
    ),
    (
        r#"{"action":"get","channel":"a name that is too long.."}"#,
        true,
        300,
        "Argument channel is too long, at most 24 bytes",
    ),
    (r#"{"action":"disconnect","params":null}"#, true, 300, "Need argument params"),
    (r#"{"action":"auth","sKey":"k"}"#, false, 300, "Need name - name space"),
    (r#"{"action":"auth","name":"shop"}"#, false, 300, "Need sKey - secret key"),
    (r#"{"action":"registerNameSpace","key":"k"}"#, false, 300, "Need name"),
    (r#"{"action":"rotateKey","name":"shop"}"#, false, 300, "Need key"),
];

/// Events that the server ignores silently.
const NOTHING: [&str; 8] = [
    "no JSON",
    "[]",
    "{}",
    r#"{"event":"subscribe","data":""}"#,
    r#"{"event":"auth","data":null}"#,
    r#"{"event":"send","data":{"x":1},"clb":4}"#,
    r#"{"event":7,"data":"a"}"#,
    r#"{"event":"Auth","data":{}}"#,
];

/// Draws what clients send.
pub(super) struct Grammar<'a> {
    pub prng: &'a mut Prng,
    pub judge: &'a Judge,
    /// The number of the last message.
    pub serial: &'a mut u64,
}

impl Grammar<'_> {
    /// Draws a command, and its body, for a controller of that namespace or an unauthenticated one.
    pub fn command(&mut self, auth: Option<u32>) -> (Command, String) {
        let is_settled = auth.is_some();
        let settled = |weight| if is_settled { weight } else { 1 };
        let weights = [
            1,
            if is_settled { 1 } else { 6 },
            if is_settled { 1 } else { 20 },
            1,
            settled(1),
            settled(20),
            settled(16),
            settled(6),
            settled(5),
            settled(9),
            settled(1),
            3,
        ];
        match self.prng.weighted(&weights) {
            0 => (Command::Ping, r#"{"action":"ping"}"#.into()),
            1 => self.register(),
            2 => self.auth(),
            3 => self.rotate(),
            4 if self.prng.one_in(3) => self.remove(),
            4 | 5 => self.emit(),
            6 => self.store(),
            7 => self.get(),
            8 => {
                let channel = self.channel();
                let body =
                    format!(r#"{{"channel":{},"action":"channelInfo"}}"#, self.name(&channel));
                (Command::Info { channel }, body)
            }
            9 => self.grant(),
            10 => {
                let user = self.user();
                let name = self.name(&user);
                let body = format!(r#"{{"action":"disconnect","params":{{"userId":{name}}}}}"#);
                (Command::Disconnect { user }, body)
            }
            _ => {
                let (body, needs_auth, code, reason) = *self.prng.pick(&WRONG);
                (Command::Wrong { needs_auth, code, reason: reason.into() }, body.into())
            }
        }
    }

    /// Draws a command that needs the server key.
    pub fn over_namespaces(&mut self) -> (Command, String) {
        match self.prng.below(4) {
            0 => self.remove(),
            1 => self.rotate(),
            _ => self.register(),
        }
    }

    /// Draws JSON data, mostly with a unique number in it.
    pub fn data(&mut self) -> String {
        *self.serial += 1;
        let n = *self.serial;
        match self.prng.weighted(&[10, 4, 2, 4, 1, 2, 1]) {
            0 => format!("{{ \"n\":{n} }}"),
            1 => n.to_string(),
            2 => format!("\"text \\u00e9😀 {n}\""),
            3 => format!("[{n}, {{\"a\":[1.0e+2]}}]"),
            4 => "null".into(),
            5 => format!("\"{}{n}\"", "x".repeat(self.prng.below(300))),
            _ => (*self.prng.pick(&["0", "\"\"", "false", "[]", "{}"])).into(),
        }
    }

    /// Spells a name in JSON: as a number where possible, or as a string with or without escapes.
    pub fn name(&mut self, name: &str) -> String {
        if name.bytes().all(|byte| byte.is_ascii_digit()) && self.prng.one_in(2) {
            return name.to_string();
        }
        let quoted = serde_json::to_string(name).expect("memory takes every byte");
        match name.chars().next() {
            Some(first) if first.is_ascii_alphanumeric() && self.prng.one_in(4) => {
                format!("\"\\u00{:02x}{}", first as u32, &quoted[2..])
            }
            _ => quoted,
        }
    }

    pub fn channel(&mut self) -> String {
        let skew = 1 + self.prng.below(CHANNELS.len());
        CHANNELS[self.prng.below(skew)].into()
    }

    fn user(&mut self) -> String {
        let skew = 1 + self.prng.below(USERS.len());
        USERS[self.prng.below(skew)].into()
    }

    fn maybe_user(&mut self) -> Option<String> {
        if self.prng.one_in(4) { Some(self.user()) } else { None }
    }

    /// Draws the name of a namespace with the server key or a wrong one.
    fn space_and_server_key(&mut self) -> (String, bool, String) {
        let name = (*self.prng.pick(&SPACES)).to_string();
        let has_key = !self.prng.one_in(8);
        let key = if has_key { SERVER_KEY } else { "the key of the servex" };
        let fields = format!(r#""name":{},"key":"{key}""#, self.name(&name));
        (name, has_key, fields)
    }

    fn register(&mut self) -> (Command, String) {
        let (name, has_key, fields) = self.space_and_server_key();
        let body = format!(r#"{{"action":"registerNameSpace",{fields}}}"#);
        (Command::Register { name, has_key }, body)
    }

    fn remove(&mut self) -> (Command, String) {
        let (name, has_key, fields) = self.space_and_server_key();
        (Command::Remove { name, has_key }, format!(r#"{{{fields},"action":"removeNameSpace"}}"#))
    }

    fn rotate(&mut self) -> (Command, String) {
        let (name, has_key, fields) = self.space_and_server_key();
        let grace_seconds = *self.prng.pick(&[0, 0, 1, 10, 3600]);
        let params = match grace_seconds {
            0 => "null".to_string(),
            1 => r#"{"grace":"1"}"#.into(),
            seconds => format!(r#"{{"grace":{seconds}}}"#),
        };
        let body = format!(r#"{{"action":"rotateKey",{fields},"params":{params}}}"#);
        (Command::Rotate { name, has_key, grace_seconds }, body)
    }

    fn auth(&mut self) -> (Command, String) {
        let (name, key) = self.space_and_key();
        let spelled = (self.name(&name), serde_json::to_string(&key).expect("memory"));
        let body = format!(r#"{{"action":"auth","name":{},"sKey":{}}}"#, spelled.0, spelled.1);
        (Command::Auth { name, key }, body)
    }

    /// Draws a namespace and a key: mostly the right one, sometimes an old one or another's.
    fn space_and_key(&mut self) -> (String, String) {
        let record = &self.judge.record;
        let spaces: Vec<_> = record.spaces.values().collect();
        if !spaces.is_empty() && !self.prng.one_in(24) {
            let skew = 1 + self.prng.below(spaces.len());
            let space = spaces[self.prng.below(skew)];
            let old = space.old_key.as_ref().filter(|_| self.prng.one_in(6));
            let key = old.map_or(&space.key, |(old, _)| old);
            return (space.name.clone(), key.clone());
        }
        let name = (*self.prng.pick(&SPACES)).to_string();
        match record.keys.is_empty() {
            false if self.prng.one_in(2) => (name, self.prng.pick(&record.keys).1.clone()),
            _ => (name, "none".into()),
        }
    }

    fn emit(&mut self) -> (Command, String) {
        let count = if self.prng.one_in(4) { 1 + self.prng.below(3) } else { 1 };
        let channels: Vec<String> = (0..count).map(|_| self.channel()).collect();
        let spelled: Vec<String> = channels.iter().map(|channel| self.name(channel)).collect();
        let target = match count {
            1 if !self.prng.one_in(8) => format!(r#""channel":{}"#, spelled[0]),
            _ => format!(r#""channels":[{}]"#, spelled.join(" , ")),
        };
        let (data, user) = (self.data(), self.maybe_user());
        let cids = self.judge.lines.values().filter_map(|line| line.cid().cloned());
        let cids: Vec<String> = cids.collect();
        let is_except = !cids.is_empty() && self.prng.one_in(4);
        let except = is_except.then(|| self.prng.pick(&cids).clone());
        let is_counted = self.prng.one_in(2);
        let (mut params, mut beside) = (Vec::new(), String::new());
        if let Some(user) = &user {
            let user = self.name(user);
            if self.prng.one_in(4) {
                beside = format!(r#","userId":{user}"#);
            } else {
                params.push(format!(r#""userId":{user}"#));
            }
        }
        if let Some(cid) = &except {
            params.push(format!(r#""exceptCid":"{cid}""#));
        }
        if is_counted {
            params.push(r#""count":true"#.into());
        }
        let params = self.params(&params);
        let body = format!(r#"{{"action":"emit",{target}{beside},"data":{data}{params}}}"#);
        (Command::Emit(Emit { channels, data, user, except, is_counted }), body)
    }

    /// Spells `params`; if there are none, they may be left out, or be empty as PHP encodes them.
    fn params(&mut self, params: &[String]) -> String {
        match params.is_empty() {
            true => (*self.prng.pick(&["", ",\"params\":[]", ",\"params\":null"])).into(),
            false => format!(",\"params\":{{{}}}", params.join(",")),
        }
    }

    fn store(&mut self) -> (Command, String) {
        let is_push = self.prng.one_in(2);
        // Few places, so that they are hit again.
        let channel = (*self.prng.pick(&["a", "b", "5", "@a", "#p"])).to_string();
        let (user, data) = (self.maybe_user(), self.data());
        let data = if !is_push && self.prng.one_in(6) { "null".into() } else { data };
        let ttl_seconds = if self.prng.one_in(2) {
            Some(*self.prng.pick(&[1, 2, 30, 3600, 100_000]))
        } else {
            None
        };
        let is_emitted = self.prng.one_in(3);
        let mut params = Vec::new();
        if let Some(user) = &user {
            params.push(format!(r#""userId":{}"#, self.name(user)));
        }
        if let Some(ttl) = ttl_seconds {
            params.push(format!(r#""ttl":{}"#, self.name(&ttl.to_string())));
        }
        if is_emitted {
            params.push(r#""emit":1"#.into());
        }
        let (name, params) = (self.name(&channel), self.params(&params));
        let action = if is_push { "push" } else { "set" };
        let body = format!(r#"{{"action":"{action}","data":{data},"channel":{name}{params}}}"#);
        let store = Store { is_push, channel, user, data, ttl_seconds, is_emitted };
        (Command::Store(store), body)
    }

    fn get(&mut self) -> (Command, String) {
        let channel = (*self.prng.pick(&["a", "b", "5", "@a", "#p"])).to_string();
        let user = self.maybe_user();
        let params = user.as_ref().map(|user| format!(r#""userId":{}"#, self.name(user)));
        let (name, params) = (self.name(&channel), self.params(params.as_slice()));
        (Command::Get { channel, user }, format!(r#"{{"action":"get","channel":{name}{params}}}"#))
    }

    fn grant(&mut self) -> (Command, String) {
        let channel = (*self.prng.pick(&["#p", "#q", "#p", "#r"])).to_string();
        let (user, is_withdrawn) = (self.user(), self.prng.one_in(3));
        let action = if is_withdrawn { "unsubscribe" } else { "subscribe" };
        let params = format!(r#"{{"userId":{}}}"#, self.name(&user));
        let body = format!(r#"{{"action":"{action}","channel":"{channel}","params":{params}}}"#);
        (Command::Grant { channel, user, is_withdrawn }, body)
    }

    /// Draws an event of a browser, and its message.
    pub fn event(&mut self, browser: Option<&Browser>, has_said_auth: bool) -> (Event, String) {
        let weights = if has_said_auth { [2, 24, 5, 3, 2, 1] } else { [50, 4, 1, 1, 1, 1] };
        match self.prng.weighted(&weights) {
            0 => self.browser_auth(browser),
            1 => {
                let channel = self.channel();
                let (clb, field) = self.clb();
                let name = self.name(&channel);
                let message = format!(r#"{{"event":"subscribe","data":{name}{field}}}"#);
                (Event::Subscribe { channel, clb }, message)
            }
            2 => {
                let channel = self.channel();
                let (clb, field) = self.clb();
                let name = self.name(&channel);
                let message = format!(r#"{{"data":{name},"event":"unsubscribe"{field}}}"#);
                (Event::Unsubscribe { channel, clb }, message)
            }
            3 => {
                let (clb, field) = self.clb();
                (Event::Ping { clb }, format!(r#"{{"event":"ping"{field}}}"#))
            }
            4 => (Event::Nothing, (*self.prng.pick(&NOTHING)).into()),
            _ => {
                let (clb, field) = self.clb();
                let (data, reason) = *self.prng.pick(&[
                    ("[\"#p\"]", "channel is not a string"),
                    ("true", "channel is not a string"),
                    ("\"a name that is too long..\"", "channel name is too long, at most 24 bytes"),
                ]);
                let message = format!(r#"{{"event":"subscribe","data":{data}{field}}}"#);
                (Event::BadSubscribe { clb, reason: reason.into() }, message)
            }
        }
    }

    /// Returns a ping with a long answer.
    pub fn ping(&mut self) -> (Event, String) {
        let clb = format!("\"{}\"", "z".repeat(60));
        let message = format!(r#"{{"event":"ping","clb":{clb}}}"#);
        (Event::Ping { clb: Some(clb) }, message)
    }

    /// Draws a valid `auth` of the browser's current user, or now and then of another one.
    pub fn renewal(&mut self, browser: &Browser, expires: Option<u64>) -> (Event, String) {
        let (mut space, mut key) = self.space_and_key();
        let mut user = self.user();
        if let Some((id, name)) = &browser.who
            && let Some(same) = self.judge.record.spaces.get(id)
            && !self.prng.one_in(8)
        {
            (space, key, user) = (same.name.clone(), same.key.clone(), name.clone());
        }
        let (spelled, token) = (self.name(&space), jwt::sign(&user, &key, expires));
        let message = format!(r#"{{"event":"auth","data":{{"i":{spelled},"s":"{token}"}}}}"#);
        (Event::Auth(Auth { fault: None, space, key, user, expires }), message)
    }

    /// Draws a `clb`, none, or one that is not answered.
    fn clb(&mut self) -> (Option<String>, String) {
        match self.prng.below(4) {
            0 => (None, String::new()),
            1 if self.prng.one_in(4) => (None, ",\"clb\":{}".into()),
            _ => {
                let clb = (*self.prng.pick(&CLBS)).to_string();
                let field = format!(",\"clb\":{clb}");
                (Some(clb), field)
            }
        }
    }

    fn browser_auth(&mut self, browser: Option<&Browser>) -> (Event, String) {
        let (mut space, mut key) = self.space_and_key();
        let mut user = self.user();
        if let Some((id, name)) = browser.and_then(|browser| browser.who.as_ref())
            && let Some(same) = self.judge.record.spaces.get(id)
            && !self.prng.one_in(3)
        {
            // The same user, with another expiry of the token.
            (space, key, user) = (same.name.clone(), same.key.clone(), name.clone());
        }
        let seconds = self.judge.now.unix.0 / 1000;
        let expires = match self.prng.below(16) {
            0 => Some(seconds + 2),
            1 => Some(seconds + 40),
            2 => Some(seconds + 86_400),
            _ => None,
        };
        let expires = if self.prng.one_in(40) { Some(seconds) } else { expires };
        if self.prng.one_in(60) {
            user = LONG.into();
        }
        let mut token = jwt::sign(&user, &key, expires);
        let (spelled, mut fault) = (self.name(&space), None);
        let data = match self.prng.below(60) {
            0 => {
                fault = Some(CloseReason::AuthWithoutToken);
                format!(r#"{{"i":{spelled}}}"#)
            }
            1 => {
                fault = Some(CloseReason::AuthWithoutNamespace);
                format!(r#"{{"s":"{token}"}}"#)
            }
            2 => {
                fault = Some(CloseReason::InvalidToken);
                token.insert(token.len() / 2, 'A');
                format!(r#"{{"i":{spelled},"s":"{token}"}}"#)
            }
            3 => {
                fault = Some(CloseReason::InvalidToken);
                format!(r#"{{"i":{spelled},"s":[5]}}"#)
            }
            _ => format!(r#"{{"i":{spelled},"s":"{token}"}}"#),
        };
        let auth = Auth { fault, space, key, user, expires };
        (Event::Auth(auth), format!(r#"{{"event":"auth","data":{data}}}"#))
    }
}
