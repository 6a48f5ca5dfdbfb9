//! The subscribers: which are connected, on which connection, and how far their handshake is.

use std::fmt;

use super::protocol::{ACCEPT, Script, Step, Until};
use super::{Fault, OPENING_MAX};
use crate::edge::{ConnId, Net};
use crate::frame::Frame;

/// Longest answer that may precede the awaited bytes.
const ANSWER_BYTES: usize = 16_384;

/// How our server's reply begins if it refuses a command.
const REFUSAL: &[u8] = br#"{"success":false"#;

/// The state of one connection's handshake.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    step: usize,
    until: Option<Until>,
    /// The start of an answer that is not, or not yet, the awaited one.
    said: Vec<u8>,
}

impl Greeting {
    /// Sends the first step; returns whether there is nothing to wait for.
    pub fn begin(
        &mut self,
        net: &mut dyn Net,
        conn: ConnId,
        script: impl Fn(usize) -> Option<Step>,
    ) -> bool {
        *self = Greeting::default();
        self.say(net, conn, script(0));
        self.until.is_none()
    }

    fn say(&mut self, net: &mut dyn Net, conn: ConnId, step: Option<Step>) {
        self.until = step.map(|step| {
            net.send(conn, Frame::from(step.say));
            step.until
        });
    }

    /// Checks answers and sends the next steps. Returns how much of the input was consumed, and
    /// whether the handshake is complete.
    pub fn hear(
        &mut self,
        net: &mut dyn Net,
        conn: ConnId,
        input: &[u8],
        script: impl Fn(usize) -> Option<Step>,
    ) -> Result<(usize, bool), Fault> {
        let mut at = 0;
        while let Some(until) = &self.until {
            let rest = &input[at..];
            let Some(used) = heard(until, rest)? else {
                if rest.len() > ANSWER_BYTES {
                    return Err(unexpected(rest));
                }
                self.said = sockjs_close(rest).unwrap_or(start(rest)).to_vec();
                return Ok((at, false));
            };
            at += used;
            self.step += 1;
            self.said = Vec::new();
            self.say(net, conn, script(self.step));
        }
        Ok((at, true))
    }

    /// The fault if the server closes the connection during the handshake. `who`: the peer closed.
    pub fn cut_short(&self, who: impl fmt::Display) -> Fault {
        let why = match self.said.as_slice() {
            [] => ", without a word (is it the right port?)".into(),
            [0x88, _, close @ ..] => format!(": {}", words(close)),
            said => format!(": {}", words(said)),
        };
        Fault::new(format!("{who} was closed too early{why}"))
    }
}

/// Where the awaited answer ends, if it is in the input.
fn heard(until: &Until, input: &[u8]) -> Result<Option<usize>, Fault> {
    let find = |part: &[u8]| {
        let at = input.windows(part.len()).position(|it| it == part);
        at.map(|at| at + part.len())
    };
    // HTTP errors.
    if input.starts_with(b"HTTP/1.1 4") || input.starts_with(b"HTTP/1.1 5") {
        return Err(unexpected(input));
    }
    // Errors of our control port, which leave the connection open.
    if let Some(end) = find(REFUSAL) {
        let body = input.get(end - REFUSAL.len()..).unwrap_or_default();
        let body = body.split(|byte| *byte == 0).next().unwrap_or_default();
        return Err(Fault::new(format!("the server refuses: {}", words(body))));
    }
    match until {
        Until::Text(text) => Ok(find(text)),
        Until::Switched => {
            let Some(end) = find(b"\r\n\r\n") else { return Ok(None) };
            let is_good = input.starts_with(b"HTTP/1.1 101") && find(ACCEPT).is_some();
            if is_good { Ok(Some(end)) } else { Err(unexpected(input)) }
        }
    }
}

/// The SockJS close frame in the input, without the transport's framing.
fn sockjs_close(said: &[u8]) -> Option<&[u8]> {
    let from = said.get(said.windows(2).position(|two| two == b"c[")?..)?;
    from.get(..=from.iter().position(|byte| *byte == b']')?)
}

/// The first 200 bytes.
fn start(said: &[u8]) -> &[u8] {
    said.get(..200).unwrap_or(said)
}

fn unexpected(input: &[u8]) -> Fault {
    if input.starts_with(b"HTTP/1.1 503") {
        let body = input.windows(4).position(|it| it == b"\r\n\r\n").map(|at| at + 4);
        let body = body.and_then(|at| input.get(at..)).unwrap_or_default();
        let body = words(body.trim_ascii());
        return Fault::new(format!("the server has no room now: HTTP 503 {body}"));
    }
    Fault::new(format!("the server says something unexpected: {}", words(input)))
}

/// A server's message for a person: with the close code as a number, and a hint on what to check.
pub(super) fn words(said: &[u8]) -> String {
    let plain = |bytes| start(bytes).escape_ascii().to_string().replace("\\\"", "\"");
    let code = said.first_chunk().map(|code| u16::from_be_bytes(*code));
    let text = match code {
        // RFC 6455, 7.4: close codes. No text begins with these bytes.
        Some(code @ 1000..5000) => format!("{code} {}", plain(&said[2..])),
        _ => plain(said),
    };
    let is_key = ["invalid JWT", "Invalid sKey"].iter().any(|part| text.contains(part));
    let is_site = said.starts_with(b"HTTP/1.1 403");
    let hint = match (is_key, is_site) {
        (true, _) => " (is the key the one of that namespace?)",
        (_, true) => " (a site that may connect is given with --origin)",
        _ => "",
    };
    text + hint
}

/// Subscribers numbered from 0, opened a few at a time.
#[derive(Debug)]
pub(super) struct Crowd {
    script: Script,
    greetings: Vec<Greeting>,
    conns: Vec<ConnId>,
    /// Subscriber number plus one, by the reactor's slot index; 0 for none.
    seats: Vec<u32>,
    total: usize,
    /// Counts of connections dialed, subscribed, and closed.
    asked: usize,
    subscribed: usize,
    left: usize,
    /// Awaited answers, and closed connections.
    heard: u64,
}

impl Crowd {
    pub fn new(script: Script, total: usize) -> Crowd {
        Crowd {
            script,
            greetings: Vec::with_capacity(total),
            conns: Vec::with_capacity(total),
            seats: Vec::new(),
            total,
            asked: 0,
            subscribed: 0,
            left: 0,
            heard: 0,
        }
    }

    pub fn script(&self) -> &Script {
        &self.script
    }

    /// Whether to open one more connection now; counts it as dialed.
    pub fn wants_one(&mut self) -> bool {
        let is_wanted = self.asked < self.total && self.asked - self.subscribed < OPENING_MAX;
        self.asked += usize::from(is_wanted);
        is_wanted
    }

    pub fn opened(&mut self, net: &mut dyn Net, conn: ConnId) {
        let n = self.conns.len();
        self.conns.push(conn);
        let seat = u32::try_from(n + 1).unwrap_or_default();
        if self.seats.len() <= conn.index() {
            self.seats.resize(conn.index() + 1, 0);
        }
        if let Some(place) = self.seats.get_mut(conn.index()) {
            *place = seat;
        }
        let mut greeting = Greeting::default();
        greeting.begin(net, conn, |step| self.script.subscriber(n, step));
        self.greetings.push(greeting);
    }

    /// The number of the subscriber on a connection.
    pub fn number(&self, conn: ConnId) -> Option<usize> {
        let seat = *self.seats.get(conn.index())?;
        (seat as usize).checked_sub(1)
    }

    /// The connection of a subscriber.
    pub fn conn(&self, n: usize) -> Option<ConnId> {
        self.conns.get(n).copied()
    }

    /// Handles input of a subscriber during its handshake; returns how much was consumed.
    pub fn hear(
        &mut self,
        net: &mut dyn Net,
        conn: ConnId,
        n: usize,
        input: &[u8],
    ) -> Result<usize, Fault> {
        let Some(greeting) = self.greetings.get_mut(n) else { return Ok(input.len()) };
        let (script, mut used) = (&self.script, 0);
        if greeting.until.is_some() {
            let is_done;
            (used, is_done) = greeting.hear(net, conn, input, |step| script.subscriber(n, step))?;
            self.subscribed += usize::from(is_done);
            self.heard += u64::from(used > 0);
        }
        Ok(used)
    }

    /// Whether the subscriber's handshake is complete.
    pub fn is_there(&self, n: usize) -> bool {
        self.greetings.get(n).is_some_and(|greeting| greeting.until.is_none())
    }

    /// Whether all have subscribed.
    pub fn is_complete(&self) -> bool {
        self.subscribed == self.total
    }

    /// The fault if the server closes a subscriber's connection.
    pub fn closed(&self, n: usize) -> Fault {
        match self.greetings.get(n).filter(|greeting| greeting.until.is_some()) {
            Some(greeting) => greeting.cut_short(format_args!("subscriber {n}")),
            None => Fault::new(format!("the server has closed subscriber {n}")),
        }
    }

    /// Notes that a connection has closed; returns its subscriber.
    pub fn leaves(&mut self, conn: ConnId) -> Option<usize> {
        let n = self.number(conn)?;
        if let Some(seat) = self.seats.get_mut(conn.index()) {
            *seat = 0;
        }
        self.left += 1;
        self.heard += 1;
        Some(n)
    }

    /// How much that was awaited has arrived.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// Whether all connections have closed.
    pub fn is_gone(&self) -> bool {
        self.left == self.conns.len()
    }

    /// `5 of 10 have subscribed`.
    pub fn progress(&self) -> String {
        format!("{} of {} have subscribed", self.subscribed, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_503_response_is_reported_as_a_full_server() {
        let full =
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n\r\nThe server is full\n";
        let said = heard(&Until::Switched, full).unwrap_err().to_string();
        assert_eq!(said, "the server has no room now: HTTP 503 The server is full");
    }
}
