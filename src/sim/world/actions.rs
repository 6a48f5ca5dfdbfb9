//! The actions of the world: a step draws one from a weighted table, and then runs some turns.

use super::World;
use crate::codec::control;
use crate::codec::sockjs;
use crate::codec::ws::Opcode;
use crate::edge::Door;
use crate::publication::Form;
use crate::reason::CloseReason;
use crate::sim::client::{Client, End, SITE, masked};
use crate::sim::grammar::{Grammar, SERVER_KEY};
use crate::sim::intent::{Command, Emit, Event, Intent, Store};
use crate::sim::judge::Role;
use crate::sim::storage::Storage;
use crate::sim::ways::{Way, back_end};
use crate::time::UnixMillis;

/// Maximum number of clients at a time.
const CLIENTS_MAX: usize = 20;
/// Limits that change during a run, with the least value of each: totals, counts and times. The
/// other limits stay as they are, because the clients' messages are built for them.
const RELOADED: [(&str, usize); 31] = [
    ("control_auth_ms", 1000),
    ("control_frame_ms", 2000),
    ("control_replies_ms", 2000),
    ("http_head_ms", 1000),
    ("auth_ms", 2000),
    ("heartbeat_ms", 2000),
    ("heartbeat_answer_ms", 1000),
    ("close_ms", 500),
    ("backlog_ms", 0),
    ("backlog_soft_ms", 500),
    ("stall_ms", 1000),
    ("sessions_unauthenticated", 1),
    ("connections_per_address", 0),
    ("deliveries_per_turn", 1),
    ("leaves_per_turn", 1),
    ("control_connections", 2),
    ("control_unauthenticated_connections", 1),
    ("control_wrong_keys", 1),
    ("control_commands_per_turn", 1),
    ("control_input_bytes", 1024),
    ("channels_per_connection", 1),
    ("subscriptions", 1),
    ("connections_per_user", 1),
    ("namespaces", 1),
    ("grants_per_namespace", 1),
    ("grants", 1),
    ("states_per_namespace", 1),
    ("states_bytes_per_namespace", 100),
    ("states", 1),
    ("states_bytes", 100),
    ("list_items", 1),
];
/// Longest WebSocket message that breaks no limit, before auth or after.
const MESSAGE_BYTES: usize = 512;

impl<G: Storage> World<G> {
    /// Usually begins a run with two namespaces and some clients in them, so that there is soon
    /// something to publish.
    pub fn begin(&mut self) {
        if self.net.prng.one_in(8) {
            return;
        }
        for name in ["shop", "news"] {
            let mut client = Client::new(Door::Control, &mut self.net.prng);
            let body =
                format!(r#"{{"action":"registerNameSpace","name":"{name}","key":"{SERVER_KEY}"}}"#);
            let command = Command::Register { name: name.into(), has_key: true };
            let frame = control::encode(body.as_bytes());
            client.write(&mut self.judge, &frame, Intent::Command(command));
            self.clients.push(client);
        }
        self.drive();
        for _ in 0..8 {
            self.open();
        }
        self.drive();
    }

    /// Does one action, and mostly runs some turns after it.
    pub fn step(&mut self) {
        self.step += 1;
        let of_disk = usize::from(self.storage.store().is_some());
        let often = [110, 600, 50, 20, 40, 80, 40, 5, 5, 24];
        let seldom = [14, 5, 8 * of_disk, 6 * of_disk, 2 * of_disk, 6, 4 * of_disk];
        match self.net.prng.weighted(&[&often[..], &seldom].concat()) {
            0 => self.open(),
            1 => self.speak(),
            2 => self.block(),
            3 => self.depart(),
            4 => self.flood(),
            5 => {
                let ms = self.net.prng.below(1500) as u64;
                self.note(|| format!("{ms} ms pass"));
                self.pass(ms);
            }
            6 => {
                let ms = self.net.prng.below(40_000) as u64;
                self.note(|| format!("{ms} ms pass, turn by turn"));
                self.walk(ms);
            }
            7 => {
                let ms = self.net.prng.below(20_000_000) as u64;
                self.note(|| format!("the machine sleeps {ms} ms"));
                self.pass(ms);
                self.drive();
            }
            9 if self.net.prng.one_in(2) => self.throng(),
            9 => self.chorus(),
            15 => self.linger(),
            10 => self.reload(),
            11 => self.starve(),
            12 => self.trouble(),
            13 => self.crash(),
            14 => self.stop_and_start(),
            16 => self.disk_wait(),
            _ => {
                let ms = self.net.prng.below(200_000) as u64;
                let is_back = self.net.prng.one_in(2);
                self.note(|| format!("the date is changed by {ms} ms, back: {is_back}"));
                let UnixMillis(date) = self.net.now.unix;
                let date = if is_back { date - ms } else { date + ms };
                self.net.now.unix = UnixMillis(date);
                self.judge.date_changed();
            }
        }
        match self.net.prng.below(5) {
            0 => {}
            1 | 2 => {
                for _ in 0..=self.net.prng.below(3) {
                    self.turn();
                }
            }
            _ => self.drive(),
        }
    }

    /// Changes the limits, each to at most its initial value. Connections over a new limit stay.
    fn reload(&mut self) {
        let (mut limits, most) = (self.limits.clone(), crate::sim::limits(self.options.seed));
        for (name, least) in RELOADED {
            let most = most.get(name).unwrap_or(least);
            let value = least + self.net.prng.below(most - least + 1);
            limits.set(name, value).expect("between its bounds");
        }
        let values = RELOADED.map(|(name, _)| (name, limits.get(name).unwrap_or(0)));
        self.note(|| format!("other limits: {values:?}"));
        self.switch.reload(&limits, super::service(&limits), self.net.now);
        self.net.reload(&limits);
        self.judge.now = self.net.now;
        self.judge.reload(&limits);
        self.reloads += 1;
        self.limits = limits;
    }

    /// Connects a client, which often sends something at once.
    fn open(&mut self) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        let kind = self.net.prng.weighted(&[5, 10, 10, 1, 1, 1]);
        let door = if kind == 0 { Door::Control } else { Door::Web };
        let mut client = Client::new(door, &mut self.net.prng);
        self.note(|| format!("a client opens, kind {kind}"));
        let path = match kind {
            1 => "/socket/websocket",
            2 => "/socket/000/abcdefgh/websocket",
            3 => "/socket/info",
            _ => "/elsewhere",
        };
        let is_strange = (1..=3).contains(&kind) && self.net.prng.one_in(16);
        let origin = if is_strange { "https://site.example.org" } else { SITE };
        let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n");
        let way = Way::draw(&mut self.net.prng);
        if door == Door::Control {
            client.from = back_end(&mut self.net.prng);
        } else {
            client.from = way.from;
            way.send_proxy_header(&mut client, &mut self.judge);
        }
        match kind {
            1..=3 if is_strange => {
                let request = format!("{head}\r\n");
                way.request(&mut client, &mut self.judge, &request, Intent::Strange);
            }
            1 | 2 => {
                let form = if kind == 1 { Form::Raw } else { Form::SockJs };
                let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n\
                               Sec-WebSocket-Version: 13\r\n\
                               Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
                let request = format!("{head}{upgrade}");
                way.request(&mut client, &mut self.judge, &request, Intent::Upgrade(form));
                // The first messages may come in the same segment.
                for _ in 0..self.net.prng.below(5) {
                    self.browser_speaks(&mut client, None, form);
                }
            }
            3 | 4 => {
                let status = if kind == 3 { 200 } else { 404 };
                let is_last = self.net.prng.one_in(2);
                let close = if is_last { "Connection: close\r\n" } else { "" };
                let request = format!("{head}{close}\r\n");
                let intent = Intent::Request { status, is_last };
                way.request(&mut client, &mut self.judge, &request, intent);
            }
            5 if self.net.prng.one_in(2) => {
                client.write(&mut self.judge, b"no request\r\n\r\n", Intent::BadRequest(400));
            }
            5 => {
                client.write_half(&mut self.judge, b"GET /socket", 8, Intent::BadRequest(400));
            }
            _ => {}
        }
        self.clients.push(client);
    }

    /// Lets one client send something, or several things at once.
    fn speak(&mut self) {
        if self.clients.is_empty() {
            return self.open();
        }
        let mut i = self.net.prng.below(self.clients.len());
        if self.net.prng.one_in(3) {
            let is_controller = |client: &Client| client.door == Door::Control;
            i = self.clients.iter().position(is_controller).unwrap_or(i);
        }
        if !self.clients[i].can_speak() {
            return;
        }
        let mut client = self.clients.swap_remove(i);
        let count = 1 + self.net.prng.below(4);
        for _ in 0..count {
            let line = client.conn.and_then(|conn| self.judge.lines.get(&conn));
            let form = match line.map(|line| &line.role) {
                Some(Role::Browser(browser)) => Some(browser.form),
                _ => None,
            };
            match form {
                Some(form) => {
                    let conn = client.conn;
                    self.browser_speaks(&mut client, conn, form);
                }
                None if client.door == Door::Control => self.controller_speaks(&mut client),
                None => {}
            }
        }
        self.clients.push(client);
    }

    pub(super) fn controller_speaks(&mut self, client: &mut Client) {
        let line = client.conn.and_then(|conn| self.judge.lines.get(&conn));
        let auth = match line.map(|line| &line.role) {
            Some(Role::Controller(controller)) => controller.auth.as_ref().map(|auth| auth.0),
            _ => None,
        };
        let (judge, prng) = (&self.judge, &mut self.net.prng);
        let (intent, frame) = match prng.below(300) {
            0 => (Intent::NotJson, control::encode(b"{\"action\":").to_vec()),
            1 => {
                let length = *prng.pick(&[0_i32, -1, i32::MAX, 0x7D00_0000]);
                (Intent::Violation(CloseReason::ControlFraming), length.to_le_bytes().to_vec())
            }
            2 => {
                let mut frame = control::encode(br#"{"action":"ping"}"#).to_vec();
                if let Some(last) = frame.last_mut() {
                    *last = b'x';
                }
                (Intent::Violation(CloseReason::ControlFraming), frame)
            }
            3 => {
                let body = format!(r#"{{"action":"ping","x":"{}"}}"#, "x".repeat(2000));
                (Intent::Command(Command::Ping), control::encode(body.as_bytes()).to_vec())
            }
            4 => {
                let frame = control::encode(br#"{"action":"ping"}"#);
                let half = 1 + prng.below(frame.len() - 1);
                let intent = Intent::Command(Command::Ping);
                client.write_half(&mut self.judge, &frame, half, intent);
                return self.note(|| format!("{:?} sends half a command", client.conn));
            }
            _ => {
                let mut grammar = Grammar { prng, judge, serial: &mut self.serial };
                let (command, body) = grammar.command(auth);
                (Intent::Command(command), control::encode(body.as_bytes()).to_vec())
            }
        };
        self.note(|| format!("{:?} says {intent:?}", client.conn));
        client.write(&mut self.judge, &frame, intent);
    }

    fn browser_speaks(
        &mut self,
        client: &mut Client,
        conn: Option<crate::edge::ConnId>,
        form: Form,
    ) {
        let prng = &mut self.net.prng;
        let (intent, frame) = match prng.below(80) {
            0 => (Intent::Ping(b"x".to_vec()), masked(prng, Opcode::Ping, b"x")),
            1 => (Intent::Pong, masked(prng, Opcode::Pong, b"unasked")),
            2 => {
                let payload = [&4000_u16.to_be_bytes()[..], b"bye"].concat();
                let said = Some((4000, "bye".into()));
                (Intent::Close(said), masked(prng, Opcode::Close, &payload))
            }
            3 if prng.one_in(2) => (Intent::Close(None), masked(prng, Opcode::Close, b"")),
            3 => self.violation(form),
            _ => return self.browser_says(client, conn, form),
        };
        self.note(|| format!("{:?} sends {intent:?}", client.conn));
        client.write(&mut self.judge, &frame, intent);
    }

    /// Draws a violation of the transport's rules.
    fn violation(&mut self, form: Form) -> (Intent, Vec<u8>) {
        let prng = &mut self.net.prng;
        let (reason, frame) = match prng.below(6) {
            0 => (CloseReason::WsUtf8, masked(prng, Opcode::Text, b"\"\xC3\x28\"")),
            1 => (CloseReason::WsTooLarge, masked(prng, Opcode::Text, &[b' '; 1025])),
            2 => {
                let mut frame = masked(prng, Opcode::Text, b"reserved");
                frame[0] |= 0x40;
                (CloseReason::WsProtocol, frame)
            }
            3 => (CloseReason::WsProtocol, b"\x81\x02{}".to_vec()),
            4 => {
                let mut frames = Vec::new();
                for i in 0..5 {
                    let opcode = if i == 0 { Opcode::Text } else { Opcode::Continuation };
                    let mut frame = masked(prng, opcode, b"x");
                    frame[0] &= 0x7F;
                    frames.extend(frame);
                }
                (CloseReason::WsTooLarge, frames)
            }
            _ if form == Form::SockJs => {
                (CloseReason::BrokenFraming, masked(prng, Opcode::Text, b"[\"x\""))
            }
            _ => (CloseReason::WsProtocol, masked(prng, Opcode::Continuation, b"stray")),
        };
        (Intent::Violation(reason), frame)
    }

    /// Lets a browser send a message with events.
    fn browser_says(&mut self, client: &mut Client, conn: Option<crate::edge::ConnId>, form: Form) {
        let browser = conn.and_then(|conn| match &self.judge.lines.get(&conn)?.role {
            Role::Browser(browser) => Some(browser),
            _ => None,
        });
        let prng = &mut self.net.prng;
        let count = if form == Form::SockJs { prng.below(4) } else { 1 };
        let is_alone = form == Form::SockJs && prng.one_in(4);
        let mut grammar = Grammar { prng, judge: &self.judge, serial: &mut self.serial };
        let (mut events, mut messages) = (Vec::<Event>::new(), Vec::<Vec<u8>>::new());
        let mut bytes = 2;
        for _ in 0..count.max(usize::from(is_alone)) {
            let (event, message) = grammar.event(browser, client.has_said_auth);
            client.has_said_auth |= matches!(event, Event::Auth(_));
            let spelled = match form {
                Form::Raw => message.into_bytes(),
                _ => {
                    let mut spelled = Vec::new();
                    sockjs::escape_into(&mut spelled, &message);
                    spelled
                }
            };
            bytes += spelled.len() + 1;
            if bytes <= MESSAGE_BYTES && (events.is_empty() || !is_alone) {
                events.push(event);
                messages.push(spelled);
            }
        }
        let payload = match form {
            Form::SockJs if !(is_alone && messages.len() == 1) => {
                [b"[", messages.join(&b","[..]).as_slice(), b"]"].concat()
            }
            _ => messages.concat(),
        };
        self.note(|| format!("{:?} says {events:?}", client.conn));
        let intent = Intent::Message(events);
        client.write_message(&mut self.judge, &mut self.net.prng, &payload, intent);
    }

    /// Makes a client stop reading, or read again.
    fn block(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let i = self.net.prng.below(self.clients.len());
        let is_reading = !self.clients[i].is_reading;
        self.clients[i].is_reading = is_reading;
        let conn = self.clients[i].conn;
        self.note(|| format!("{conn:?} reads: {is_reading}"));
    }

    /// Makes a client leave, in one of several ways.
    fn depart(&mut self) {
        if !self.clients.is_empty() {
            let i = self.net.prng.below(self.clients.len());
            self.leave(i);
        }
    }

    pub(super) fn leave(&mut self, i: usize) {
        let client = &mut self.clients[i];
        let Some(conn) = client.conn else {
            client.end = End::Wanted;
            return;
        };
        match self.net.prng.below(3) {
            0 if client.end != End::Sent => {
                self.clients.swap_remove(i);
                self.net.reset(conn);
                self.note(|| format!("{conn:?} is cut"));
            }
            _ if client.end == End::None => {
                client.end = End::Wanted;
                self.note(|| format!("{conn:?} sends no more"));
            }
            _ => {}
        }
    }

    /// Sends the same command from all controllers, so that changes conflict while in flight.
    pub(super) fn chorus(&mut self) {
        let auths = self.judge.lines.values().filter_map(|line| match &line.role {
            Role::Controller(controller) => controller.auth.as_ref().map(|auth| auth.0),
            _ => None,
        });
        let auth = auths.max();
        let (prng, judge) = (&mut self.net.prng, &self.judge);
        let mut grammar = Grammar { prng, judge, serial: &mut self.serial };
        let (command, body) = match grammar.prng.below(3) {
            0 => grammar.over_namespaces(),
            _ => grammar.command(auth),
        };
        self.note(|| format!("all controllers say {command:?}"));
        let frame = control::encode(body.as_bytes());
        for i in 0..self.clients.len() {
            if self.clients[i].door == Door::Control {
                let intent = Intent::Command(command.clone());
                self.clients[i].write(&mut self.judge, &frame, intent);
            }
        }
    }

    /// Sends large commands from all controllers at once, some of which never end.
    fn throng(&mut self) {
        for i in 0..self.clients.len() {
            let line = self.clients[i].conn.and_then(|conn| self.judge.lines.get(&conn));
            let is_authenticated = matches!(line.map(|line| &line.role),
                Some(Role::Controller(controller)) if controller.auth.is_some());
            if !is_authenticated {
                continue;
            }
            let prng = &mut self.net.prng;
            let (size, is_half) = (*prng.pick(&[1300, 2000, 3000]), prng.one_in(3));
            let frame = control::encode(
                format!(r#"{{"action":"ping","x":"{}"}}"#, "x".repeat(size)).as_bytes(),
            );
            let count = if is_half { 1100 + prng.below(frame.len() - 1100) } else { frame.len() };
            let (client, intent) = (&mut self.clients[i], Intent::Command(Command::Ping));
            match is_half {
                true => client.write_half(&mut self.judge, &frame, count, intent),
                false => client.write(&mut self.judge, &frame, intent),
            }
            let conn = client.conn;
            self.note(|| format!("{conn:?} sends {count} bytes of {size} at once"));
        }
    }

    /// Lets a browser whose token ends soon ask for much, read nothing, and renew the token behind
    /// that; or not renew it, or authenticate as another user.
    fn linger(&mut self) {
        let Some(i) = self.clients.iter().position(|client| {
            let line = client.conn.and_then(|conn| self.judge.lines.get(&conn));
            matches!(line.map(|line| &line.role),
                Some(Role::Browser(browser)) if browser.who.is_some())
                && client.can_speak()
                && client.is_reading
        }) else {
            return;
        };
        let client = &mut self.clients[i];
        client.is_reading = false;
        let line = client.conn.and_then(|conn| self.judge.lines.get(&conn));
        let Some(Role::Browser(browser)) = line.map(|line| &line.role) else { return };
        let seconds = self.judge.now.unix.0 / 1000;
        let (prng, judge, form) = (&mut self.net.prng, &self.judge, browser.form);
        let ends = [Some(seconds + 3), *prng.pick(&[Some(seconds + 60), Some(seconds + 5), None])];
        let mut grammar = Grammar { prng, judge, serial: &mut self.serial };
        let asked = vec![grammar.ping(); 12];
        let [first, again] = ends.map(|end| grammar.renewal(browser, end));
        let more = grammar.event(Some(browser), true);
        let mut said = [vec![first], asked, vec![more, again]].concat();
        said.truncate(said.len() - usize::from(self.net.prng.one_in(4)));
        for (event, message) in said {
            let payload = match form {
                Form::Raw => message.into_bytes(),
                _ => {
                    let mut spelled = Vec::new();
                    sockjs::escape_into(&mut spelled, &message);
                    spelled
                }
            };
            let intent = Intent::Message(vec![event]);
            client.write_message(&mut self.judge, &mut self.net.prng, &payload, intent);
        }
        let conn = client.conn;
        self.note(|| format!("{conn:?} lingers until {ends:?}"));
    }

    /// Returns the first controller that has authenticated and may send.
    pub(super) fn settled_controller(&self) -> Option<usize> {
        self.clients.iter().position(|client| {
            let line = client.conn.and_then(|conn| self.judge.lines.get(&conn));
            matches!(line.map(|line| &line.role),
                Some(Role::Controller(controller)) if controller.auth.is_some())
                && client.can_speak()
        })
    }

    /// Lets a controller publish much at once.
    fn flood(&mut self) {
        let Some(i) = self.settled_controller() else { return };
        if crate::sim::is_crowded(self.options.seed) && self.net.prng.one_in(2) {
            return self.hoard(i);
        }
        let (prng, judge) = (&mut self.net.prng, &self.judge);
        let mut grammar = Grammar { prng, judge, serial: &mut self.serial };
        let channel = grammar.channel();
        let count = 1 + grammar.prng.below(30);
        self.note(|| format!("{count} messages to {channel:?}"));
        for _ in 0..count {
            self.serial += 1;
            let data = format!("\"{}{}\"", "y".repeat(self.net.prng.below(200)), self.serial);
            let name = serde_json::to_string(&channel).expect("memory takes every byte");
            let body = format!(r#"{{"action":"emit","channel":{name},"data":{data}}}"#);
            let emit = Emit {
                channels: vec![channel.clone()],
                data,
                user: None,
                except: None,
                is_counted: false,
            };
            let frame = control::encode(body.as_bytes());
            let intent = Intent::Command(Command::Emit(emit));
            self.clients[i].write(&mut self.judge, &frame, intent);
        }
    }

    /// Lets a controller take all the grants, states or bytes of states that it can get.
    fn hoard(&mut self, i: usize) {
        let what = *self.net.prng.pick(&["grants", "states", "bytes"]);
        self.note(|| format!("it hoards {what}"));
        for number in 0..12 {
            let (command, body) = if what == "grants" {
                let (channel, user) = ("#p".to_string(), format!("u{number}"));
                let params = format!(r#"{{"userId":"{user}"}}"#);
                let body =
                    format!(r##"{{"action":"subscribe","channel":"#p","params":{params}}}"##);
                (Command::Grant { channel, user, is_withdrawn: false }, body)
            } else {
                let long = format!("\"{}\"", "y".repeat(60));
                let data = if what == "bytes" { long } else { number.to_string() };
                let channel = format!("h{number}");
                let body = format!(r#"{{"action":"set","channel":"{channel}","data":{data}}}"#);
                let (is_push, is_emitted, user, ttl_seconds) = (false, false, None, None);
                let store = Store { is_push, channel, user, data, ttl_seconds, is_emitted };
                (Command::Store(store), body)
            };
            let frame = control::encode(body.as_bytes());
            self.clients[i].write(&mut self.judge, &frame, Intent::Command(command));
        }
    }
}
