//! The subscribers: which of them are connected, at which step of their greeting, and on which
//! connection.

use std::fmt;

use super::protocol::{ACCEPT, Script, Step, Until};
use super::{Fault, OPENING_MAX};
use crate::edge::{ConnId, Net};
use crate::frame::Frame;

/// Longest answer before it must show what is waited for, in bytes.
const ANSWER_BYTES: usize = 16_384;

/// How the reply to a command of ours begins that was not carried out.
const REFUSAL: &[u8] = br#"{"success":false"#;

/// How far somebody has come with introducing themselves.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    step: usize,
    until: Option<Until>,
    /// The start of an answer that was not what is waited for, or not all of it.
    said: Vec<u8>,
}

impl Greeting {
    /// Says the first thing. Whether there is nothing to wait for.
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

    /// Listens for answers and says what comes next. How much of the input is done with, and
    /// whether nothing more is waited for.
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

    /// What there is to be said when it was closed before it was done. `who` was closed.
    pub fn cut_short(&self, who: impl fmt::Display) -> Fault {
        let why = match self.said.as_slice() {
            [] => ", without a word (is it the right port?)".into(),
            [0x88, _, close @ ..] => format!(": {}", words(close)),
            said => format!(": {}", words(said)),
        };
        Fault::new(format!("{who} was closed too early{why}"))
    }
}

/// Where what was waited for ends, if it is there.
fn heard(until: &Until, input: &[u8]) -> Result<Option<usize>, Fault> {
    let find = |part: &[u8]| {
        let at = input.windows(part.len()).position(|it| it == part);
        at.map(|at| at + part.len())
    };
    // Errors of servers over HTTP.
    if input.starts_with(b"HTTP/1.1 4") || input.starts_with(b"HTTP/1.1 5") {
        return Err(unexpected(input));
    }
    // Errors of ours on the control port, behind which the connection stays.
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

/// The frame of SockJS with which a server closes, without what is around it on its transport.
fn sockjs_close(said: &[u8]) -> Option<&[u8]> {
    let from = said.get(said.windows(2).position(|two| two == b"c[")?..)?;
    from.get(..=from.iter().position(|byte| *byte == b']')?)
}

/// As much of what a server says as a line has room for.
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

/// What a server says, for a person: a close code as a number, and what is to be looked at.
pub(super) fn words(said: &[u8]) -> String {
    let plain = |bytes| start(bytes).escape_ascii().to_string().replace("\\\"", "\"");
    let code = said.first_chunk().map(|code| u16::from_be_bytes(*code));
    let text = match code {
        // RFC 6455, 7.4: no text begins like that.
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

/// Subscribers from first to last, opened a few at a time.
#[derive(Debug)]
pub(super) struct Crowd {
    script: Script,
    greetings: Vec<Greeting>,
    conns: Vec<ConnId>,
    /// Who sits on which slot of the reactor, one more than the number.
    seats: Vec<u32>,
    total: usize,
    /// Dialed so far; those who have subscribed, and those who have left.
    asked: usize,
    subscribed: usize,
    left: usize,
    /// Answers that were waited for, and ends.
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

    /// Whether one more is to connect now.
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

    /// Who that is.
    pub fn number(&self, conn: ConnId) -> Option<usize> {
        let seat = *self.seats.get(conn.index())?;
        (seat as usize).checked_sub(1)
    }

    /// The connection of that one.
    pub fn conn(&self, n: usize) -> Option<ConnId> {
        self.conns.get(n).copied()
    }

    /// Hears somebody who has not subscribed yet. How much is done with.
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

    /// Whether that one has subscribed.
    pub fn is_there(&self, n: usize) -> bool {
        self.greetings.get(n).is_some_and(|greeting| greeting.until.is_none())
    }

    /// Whether all have subscribed.
    pub fn is_complete(&self) -> bool {
        self.subscribed == self.total
    }

    /// The fault that somebody was closed.
    pub fn closed(&self, n: usize) -> Fault {
        match self.greetings.get(n).filter(|greeting| greeting.until.is_some()) {
            Some(greeting) => greeting.cut_short(format_args!("subscriber {n}")),
            None => Fault::new(format!("the server has closed subscriber {n}")),
        }
    }

    /// Somebody is gone.
    pub fn leaves(&mut self, conn: ConnId) -> Option<usize> {
        let n = self.number(conn)?;
        if let Some(seat) = self.seats.get_mut(conn.index()) {
            *seat = 0;
        }
        self.left += 1;
        self.heard += 1;
        Some(n)
    }

    /// How much has come that was waited for.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// Whether all are gone.
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
    fn that_there_is_no_room_is_said_in_words() {
        let full =
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n\r\nThe server is full\n";
        let said = heard(&Until::Switched, full).unwrap_err().to_string();
        assert_eq!(said, "the server has no room now: HTTP 503 The server is full");
    }
}
