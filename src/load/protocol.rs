//! The protocols of the servers under load: how to subscribe, how to publish, and which answer
//! shows success. Owns the bytes; sends none.

use super::scan::{FILL, NUMBER_BYTES};
use super::{Action, Plan, Workload};
use crate::codec::control;
use crate::codec::json::quote;
use crate::codec::jwt;
use crate::codec::ws::{self, Opcode};

/// A kind of server, and the transport to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// fws, raw WebSockets.
    Fws,
    /// fws, SockJS over WebSocket.
    SockJs,
    /// fws, SockJS over HTTP streaming.
    XhrStreaming,
    /// A minimal topic server: text messages over WebSocket, `sub TOPIC`, answered `ok`, and
    /// `pub TOPIC DATA`.
    Topic,
    /// NATS: subscribers over WebSocket, the publisher over TCP.
    Nats,
    /// MQTT 3.1.1, QoS 0: subscribers over WebSocket, the publisher over TCP.
    Mqtt,
    /// nginx with nchan: subscribers use `/sub?id=` over WebSocket, the publisher posts to
    /// `/pub?id=`.
    Nchan,
    /// Redis: only `SET` and `GET`.
    Redis,
}

impl Protocol {
    /// All protocols with their names on the command line.
    pub const ALL: [(&'static str, Protocol); 8] = [
        ("fws", Protocol::Fws),
        ("sockjs", Protocol::SockJs),
        ("xhr-streaming", Protocol::XhrStreaming),
        ("topic", Protocol::Topic),
        ("nats", Protocol::Nats),
        ("mqtt", Protocol::Mqtt),
        ("nchan", Protocol::Nchan),
        ("redis", Protocol::Redis),
    ];

    /// Whether the server is fws, with namespaces, users and tokens.
    pub fn is_ours(self) -> bool {
        matches!(self, Protocol::Fws | Protocol::SockJs | Protocol::XhrStreaming)
    }

    /// Whether messages are a byte stream that ignores the bounds of WebSocket frames.
    pub(super) fn is_stream(self) -> bool {
        matches!(self, Protocol::Nats | Protocol::Mqtt)
    }

    /// Whether the publisher uses the subscribers' port.
    pub fn is_one_port(self) -> bool {
        matches!(self, Protocol::Topic | Protocol::Nchan)
    }
}

/// The answer that shows success.
#[derive(Debug)]
pub(super) enum Until {
    /// The head of an HTTP 101 answer.
    Switched,
    /// An answer that contains these bytes.
    Text(Vec<u8>),
}

/// Bytes to send, and the answer to wait for.
#[derive(Debug)]
pub(super) struct Step {
    pub say: Vec<u8>,
    pub until: Until,
}

fn text(say: Vec<u8>, until: &[u8]) -> Option<Step> {
    Some(Step { say, until: Until::Text(until.to_vec()) })
}

/// The handshake key of RFC 6455, 1.3: with a constant key the answer is constant.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An all-zero mask: servers cannot tell, and no cache on the way needs it (RFC 6455, 10.3).
const MASK: [u8; 4] = [0; 4];

/// A client's frame.
pub(super) fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ws::encode_masked_into(&mut out, opcode, payload, MASK);
    out
}

fn upgrade(path: &str, more: &str) -> Option<Step> {
    let say = format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    );
    Some(Step { say: say.into(), until: Until::Switched })
}

/// Our server's success reply.
pub(super) const SUCCESS: &[u8] = br#"{"success":true}"#;

/// All messages of one run.
#[derive(Debug)]
pub(super) struct Script {
    protocol: Protocol,
    namespace: String,
    key: String,
    /// A header line, or empty.
    origin: String,
    is_unicast: bool,
    has_own_channel: bool,
    /// Distinguishes sessions of different runs.
    run: u32,
    /// By user; if there are more subscribers than tokens, they share them.
    tokens: Vec<String>,
}

/// Maximum number of users, unless each subscriber must have its own.
const USERS_MAX: usize = 20_000;

impl Script {
    pub fn new(plan: &Plan) -> Script {
        let users = match plan.workload {
            Workload::Control => 0,
            Workload::Churn => 4096,
            // A message names its recipient by user.
            Workload::Unicast => plan.subscribers,
            _ => plan.subscribers.min(USERS_MAX),
        };
        let users = if plan.protocol.is_ours() { users } else { 0 };
        let token = |n| jwt::sign(&user(n), &plan.key, None);
        Script {
            protocol: plan.protocol,
            namespace: plan.namespace.clone(),
            key: plan.key.clone(),
            origin: plan.origin.iter().map(|origin| format!("Origin: {origin}\r\n")).collect(),
            is_unicast: plan.workload == Workload::Unicast,
            has_own_channel: plan.has_own_channel,
            run: std::process::id(),
            tokens: (0..users).map(token).collect(),
        }
    }

    /// What subscriber `n` sends at a step; `None` when it has subscribed.
    pub fn subscriber(&self, n: usize, step: usize) -> Option<Step> {
        let topic = self.topic(n);
        match (self.protocol, step) {
            (Protocol::Fws, 0) => upgrade("/socket/websocket", &self.origin),
            (Protocol::SockJs, 0) => upgrade(&(self.session(n) + "/websocket"), &self.origin),
            (Protocol::SockJs, 1) => text(Vec::new(), b"\x81\x01o"),
            (Protocol::XhrStreaming, 0) => text(self.post(n, "xhr", ""), b"o\n"),
            (Protocol::Fws, 1) => {
                let said = self.hello(n).into_iter().map(|it| masked(Opcode::Text, it.as_bytes()));
                text(said.collect::<Vec<_>>().concat(), br#""clb":1,"data":{"ok":true}}"#)
            }
            (Protocol::SockJs, 2) => {
                let said = masked(Opcode::Text, array(&self.hello(n)).as_bytes());
                text(said, br#"\"clb\":1,\"data\":{\"ok\":true}}"]"#)
            }
            (Protocol::XhrStreaming, 1) => {
                let mut say = self.post(n, "xhr_send", &array(&self.hello(n)));
                say.extend(self.again(n));
                text(say, b"\\\"clb\\\":1,\\\"data\\\":{\\\"ok\\\":true}}\"]\n")
            }
            (Protocol::Topic, 0) | (Protocol::Nats, 0) => upgrade("/", ""),
            (Protocol::Topic, 1) => {
                text(masked(Opcode::Text, format!("sub {topic}").as_bytes()), b"\x81\x02ok")
            }
            (Protocol::Nats, 1) => {
                let said = format!("{NATS_CONNECT}SUB {topic} 1\r\nPING\r\n");
                text(masked(Opcode::Binary, said.as_bytes()), b"PONG\r\n")
            }
            (Protocol::Mqtt, 0) => upgrade("/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n"),
            (Protocol::Mqtt, 1) => {
                let mut say = mqtt_connect(&format!("bench-{}-{n}", self.run));
                say.extend(mqtt_subscribe(&topic));
                text(masked(Opcode::Binary, &say), b"\x90\x03\x00\x01\x00")
            }
            (Protocol::Nchan, 0) => upgrade(&format!("/sub?id={topic}"), ""),
            _ => None,
        }
    }

    /// What a publisher or a connection of commands sends at a step.
    pub fn publisher(&self, step: usize) -> Option<Step> {
        match (self.protocol, step) {
            (protocol, 0) if protocol.is_ours() => {
                let (name, key) = (quote(&self.namespace), quote(&self.key));
                let auth = format!(r#"{{"action":"auth","name":{name},"sKey":{key}}}"#);
                text(control::encode(auth.as_bytes()).to_vec(), b"{\"success\":true}\0")
            }
            (Protocol::Topic, 0) => upgrade("/", ""),
            (Protocol::Nats, 0) => text(format!("{NATS_CONNECT}PING\r\n").into(), b"PONG\r\n"),
            (Protocol::Mqtt, 0) => {
                text(mqtt_connect(&format!("bench-{}", self.run)), b"\x20\x02\x00\x00")
            }
            _ => None,
        }
    }

    /// The next request of a subscriber whose streamed answer has ended.
    pub fn again(&self, n: usize) -> Vec<u8> {
        self.post(n, "xhr_streaming", "")
    }

    /// The topic of a subscriber where there are no users: a common one, or in unicast its own.
    fn topic(&self, n: usize) -> String {
        format!("t{:06}", if self.is_unicast { n } else { 0 })
    }

    fn session(&self, n: usize) -> String {
        format!("/socket/000/b{}x{n}", self.run)
    }

    fn post(&self, n: usize, transport: &str, body: &str) -> Vec<u8> {
        let (session, bytes, origin) = (self.session(n), body.len(), &self.origin);
        let head = format!(
            "POST {session}/{transport} HTTP/1.1\r\nHost: bench\r\n{origin}\
             Content-Length: {bytes}\r\n\r\n"
        );
        (head + body).into()
    }

    /// The messages of a browser: auth and subscribe.
    fn hello(&self, n: usize) -> Vec<String> {
        let token = self.tokens.get(n % self.tokens.len().max(1)).map_or("", String::as_str);
        let name = quote(&self.namespace);
        let auth = format!(r#"{{"event":"auth","data":{{"i":{name},"s":"{token}"}}}}"#);
        let last = |name| format!(r#"{{"event":"subscribe","data":"{name}","clb":1}}"#);
        let both = format!(r#"{{"event":"subscribe","data":"{CHANNEL}"}}"#);
        match (self.is_unicast, self.has_own_channel) {
            (true, _) => vec![auth, last(OWN_CHANNEL)],
            (false, false) => vec![auth, last(CHANNEL)],
            (false, true) => vec![auth, both, last(OWN_CHANNEL)],
        }
    }

    /// A publication with `bytes` of data.
    pub fn publication(&self, bytes: usize) -> Template {
        let data = data(bytes);
        let topic = self.topic(0);
        let (channel, params) = match self.is_unicast {
            true => (OWN_CHANNEL, format!(r#""userId":"{}""#, user(0))),
            false => (CHANNEL, String::new()),
        };
        let said = match self.protocol {
            Protocol::Fws | Protocol::SockJs | Protocol::XhrStreaming => {
                command("emit", channel, &data, &params)
            }
            Protocol::Topic => masked(Opcode::Text, format!("pub {topic} {data}").as_bytes()),
            Protocol::Nats => format!("PUB {topic} {bytes}\r\n{data}\r\n").into(),
            Protocol::Mqtt => mqtt_publish(&topic, &data),
            Protocol::Nchan => format!(
                "POST /pub?id={topic} HTTP/1.1\r\nHost: bench\r\nContent-Length: {bytes}\r\n\r\n\
                 {data}"
            )
            .into(),
            Protocol::Redis => Vec::new(),
        };
        let name: &[u8] = if self.protocol.is_ours() { b"user-000000" } else { b"t000000" };
        Template::new(said, self.is_unicast.then_some(name))
    }

    /// A command of fws or Redis on a key, with a value of `bytes`.
    pub fn command(&self, action: Action, bytes: usize) -> Template {
        let data = data(bytes);
        let said = match (self.protocol, action) {
            (Protocol::Redis, Action::Get) => b"*2\r\n$3\r\nGET\r\n$9\r\nkey000000\r\n".to_vec(),
            (Protocol::Redis, _) => {
                format!("*3\r\n$3\r\nSET\r\n$9\r\nkey000000\r\n${bytes}\r\n{data}\r\n").into()
            }
            (_, Action::Get) => {
                control::encode(br#"{"action":"get","channel":"key000000","params":{}}"#).to_vec()
            }
            (_, action) => {
                let action = if action == Action::Set { "set" } else { "emit" };
                command(action, "key000000", &data, "")
            }
        };
        Template::new(said, Some(b"key000000"))
    }
}

/// A control frame.
fn command(action: &str, channel: &str, data: &str, params: &str) -> Vec<u8> {
    let what = format!(r#""action":"{action}","channel":"{channel}","data":"{data}""#);
    control::encode(format!(r#"{{{what},"params":{{{params}}}}}"#).as_bytes()).to_vec()
}

/// Data of `bytes`: room for a number, then fill.
fn data(bytes: usize) -> String {
    let mut data = "0".repeat(NUMBER_BYTES);
    data.extend(std::iter::repeat_n(char::from(FILL), bytes.saturating_sub(NUMBER_BYTES)));
    data
}

/// The channel that all subscribe to, and the one of which each user has its own.
const CHANNEL: &str = "bench";
const OWN_CHANNEL: &str = "@bench";

fn user(n: usize) -> String {
    format!("user-{n:06}")
}

/// Messages as SockJS clients send them: a JSON array of strings.
fn array(messages: &[String]) -> String {
    let quoted: Vec<String> = messages.iter().map(|message| quote(message)).collect();
    format!("[{}]", quoted.join(","))
}

const NATS_CONNECT: &str =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\",\"version\":\"1\"}\r\n";

fn mqtt_packet(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut left: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![kind];
    loop {
        let more = if left > 0x7f { 0x80 } else { 0 };
        out.push((left & 0x7f) as u8 | more);
        left >>= 7;
        if left == 0 {
            break;
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A length-prefixed string (MQTT 3.1.1, 1.5.3).
fn mqtt_text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&length, text.as_bytes()].concat()
}

/// Protocol level 4 (3.1.1), clean session, no keep-alive.
fn mqtt_connect(client: &str) -> Vec<u8> {
    mqtt_packet(0x10, &[b"\0\x04MQTT\x04\x02\0\0", &mqtt_text(client)])
}

fn mqtt_subscribe(topic: &str) -> Vec<u8> {
    mqtt_packet(0x82, &[b"\0\x01", &mqtt_text(topic), b"\0"])
}

fn mqtt_publish(topic: &str, data: &str) -> Vec<u8> {
    mqtt_packet(0x30, &[&mqtt_text(topic), data.as_bytes()])
}

/// Bytes sent repeatedly, with two numbers to fill in.
#[derive(Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    /// Offset of the digits of the message number.
    number_at: Option<usize>,
    /// Offset of the six digits of the name: the recipient or the key.
    name_at: Option<usize>,
}

/// Digits of the number in a name.
const NAME_DIGITS: usize = 6;
/// Number of possible names.
pub(super) const NAMES: usize = 1_000_000;

impl Template {
    /// A template whose name, if any, is the first occurrence of `name`.
    fn new(bytes: Vec<u8>, name: Option<&[u8]>) -> Template {
        let find = |part: &[u8]| bytes.windows(part.len()).position(|it| it == part);
        let number_at = find(&[FILL; 8]).and_then(|at| at.checked_sub(NUMBER_BYTES));
        let name_at = name.and_then(|name| Some(find(name)? + name.len() - NAME_DIGITS));
        Template { bytes, number_at, name_at }
    }

    /// Appends the bytes with these numbers filled in.
    pub fn write(&self, out: &mut Vec<u8>, number: u64, name: usize) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let mut fill = |at: Option<usize>, digits: usize, number: u64| {
            let place = at.map(|at| start + at..start + at + digits);
            let Some(place) = place.and_then(|place| out.get_mut(place)) else { return };
            let mut left = number;
            for digit in place.iter_mut().rev() {
                *digit = b'0' + (left % 10) as u8;
                left /= 10;
            }
        };
        fill(self.number_at, NUMBER_BYTES, number);
        fill(self.name_at, NAME_DIGITS, name as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A unicast message names a user, so that there are as many users as subscribers.
    #[test]
    fn every_unicast_subscriber_is_a_separate_user() {
        let plan = super::super::sample(Workload::Unicast, USERS_MAX + 6);
        let hello = |workload, n| {
            Script::new(&Plan { workload, ..plan.clone() }).subscriber(n, 1).unwrap().say
        };
        let last = USERS_MAX + 5;
        assert_ne!(hello(Workload::Unicast, last), hello(Workload::Unicast, 5));
        assert_eq!(hello(Workload::Broadcast, last), hello(Workload::Broadcast, 5));
    }
}
