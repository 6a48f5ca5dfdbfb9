//! Checks of streaming over HTTP, for browsers without WebSocket: whether the pieces of an answer
//! arrive without delay. And of idle time: whether a silent connection stays open.

use super::answer::{BUFFERING, TIMEOUT, failed, refused};
use super::find::{ANSWER_MS, CLOSE, PACKED, ask, head};
use super::sockets::{ANSWER, PING};
use super::{Finding, Site, session, time};
use crate::client::{ClientError, Message, Response, Socket};
use crate::codec::json;
use crate::time::Stopwatch;

/// A piece that takes longer than this, in milliseconds, was held back by a proxy.
const AT_ONCE_MS: u64 = 2000;

/// After this long without a piece, in milliseconds, no more are on their way.
const QUIET_MS: u64 = 500;

/// Interval at which silent connections are polled, in milliseconds.
const LOOK_MS: u64 = 500;

/// Silence in which a heartbeat must come, in seconds, with a margin.
const HEARTBEAT_SECONDS: u64 = 27;

/// A transport with a streamed answer.
pub(super) struct Stream {
    name: &'static str,
    method: &'static str,
    query: &'static str,
    /// The first frame, as this transport encodes it.
    open: &'static str,
}

pub(super) const STREAMS: [Stream; 3] = [
    Stream { name: "xhr_streaming", method: "POST", query: "", open: "\no\n" },
    Stream { name: "eventsource", method: "GET", query: "", open: "data: o\r\n" },
    Stream { name: "htmlfile", method: "GET", query: "?c=doctor", open: "p(\"o\");" },
];

impl Stream {
    /// Whether the first frame, and a later one, arrive without delay.
    pub fn check(&self, site: &Site) -> Finding {
        let check = self.name;
        let watch = Stopwatch::start();
        let (session, mut response) = match self.begin(site, PACKED) {
            Ok(begun) => begun,
            Err(ClientError::Silence) => return kept_back(check, "not even the head of it"),
            Err(error) => return failed(site, check, &error),
        };
        if response.status == 404 && check == "htmlfile" {
            return Finding::unknown(check, "not there: switched off, or the proxy has no rule");
        }
        if response.status != 200 {
            return refused(site, check, &mut response);
        }
        if let Some(coding) = response.header("content-encoding").map(str::to_owned) {
            return packed(site, check, &coding, &session, &mut response);
        }
        match response.read_until(self.open, AT_ONCE_MS) {
            Ok(true) => {}
            Ok(false) => return ended(check),
            Err(ClientError::Silence) => return kept_back(check, "its first frame does not come"),
            Err(error) => return failed(site, check, &error),
        }
        let first = time(watch.elapsed_us());
        let watch = Stopwatch::start();
        if let Err(finding) = send(site, check, &session, PING) {
            return finding;
        }
        match response.read_until(ANSWER, AT_ONCE_MS) {
            Ok(true) => {
                let second = time(watch.elapsed_us());
                Finding::ok(check, format!("first frame in {first}, a later one in {second}"))
            }
            Ok(false) => ended(check),
            Err(ClientError::Silence) => kept_back(check, "a later frame does not come"),
            Err(error) => failed(site, check, &error),
        }
    }

    /// Opens the stream; returns its session and answer. `more`: further headers, each with its
    /// CRLF.
    fn begin(&self, site: &Site, more: &str) -> Result<(String, Response), ClientError> {
        let session = session()?;
        let below = format!("/{session}/{}{}", self.name, self.query);
        let response = ask(site, [self.method, &below], more)?;
        Ok((session, response))
    }
}

/// Whether a compressed answer arrives piece by piece, as it does where nginx compresses without
/// buffering. Nothing here decompresses: only arrival times are judged.
fn packed(
    site: &Site,
    check: &'static str,
    coding: &str,
    session: &str,
    response: &mut Response,
) -> Finding {
    let judged = |error| match error {
        ClientError::Silence => kept_back(check, &format!("{coding} compresses it")),
        error => failed(site, check, &error),
    };
    // Read the prelude and the first frame to the end: the rest would pass for the later frame.
    let watch = Stopwatch::start();
    match response.read_more(AT_ONCE_MS) {
        Ok(true) => {}
        Ok(false) => return ended(check),
        Err(error) => return judged(error),
    }
    while watch.elapsed_us() < AT_ONCE_MS * 1000 {
        match response.read_more(QUIET_MS) {
            Ok(true) => {}
            Ok(false) => return ended(check),
            Err(ClientError::Silence) => break,
            Err(error) => return judged(error),
        }
    }
    let watch = Stopwatch::start();
    if let Err(finding) = send(site, check, session, PING) {
        return finding;
    }
    match response.read_more(AT_ONCE_MS) {
        Ok(true) => {
            let later = time(watch.elapsed_us());
            let says =
                format!("{coding} compresses it, and its pieces come at once: one in {later}");
            Finding::ok(check, says)
        }
        Ok(false) => ended(check),
        Err(error) => judged(error),
    }
}

fn kept_back(check: &'static str, what: &str) -> Finding {
    Finding::wrong(check, format!("the answer does not come piece by piece: {what}"), BUFFERING)
}

fn ended(check: &'static str) -> Finding {
    let advice = ["let the proxy forward streaming answers, in chunks and without a length"];
    Finding::wrong(check, "the answer ends before its time", &advice)
}

/// Posts a message to a SockJS session.
fn send(site: &Site, check: &'static str, session: &str, message: &str) -> Result<(), Finding> {
    let body = format!("[{}]", json::quote(message));
    let request = format!(
        "{}Content-Type: text/plain\r\n{CLOSE}Content-Length: {}\r\n\r\n{body}",
        head(site, "POST", &format!("/{session}/xhr_send")),
        body.len()
    );
    match Response::ask(&site.address, request.as_bytes(), ANSWER_MS) {
        Ok(response) if response.status == 204 => Ok(()),
        Ok(response) if response.status == 404 => Err(Finding::wrong(
            check,
            "messages reach a server that does not know the session",
            &["with a load balancer, all requests of one session must go to the same server: by \
               the path, or by a cookie (JSESSIONID)"],
        )),
        Ok(mut response) => Err(refused(site, check, &mut response)),
        Err(error) => Err(failed(site, check, &error)),
    }
}

/// Whether the server is another SockJS server: it serves polls and accepts `ping`, but does not
/// answer it, which ours does at once. Answers to polls end, so that no proxy holds them back.
pub(super) fn is_another(site: &Site) -> bool {
    let Ok(session) = session() else { return false };
    let poll = || {
        let mut response = ask(site, ["POST", &format!("/{session}/xhr")], CLOSE)?;
        response.read_all(ANSWER_MS).map(|()| response.text())
    };
    if !matches!(poll(), Ok(text) if text == "o\n") || send(site, "path", &session, PING).is_err() {
        return false;
    }
    match poll() {
        Ok(text) => text.starts_with("a[") && !text.contains(ANSWER),
        Err(error) => matches!(error, ClientError::Silence),
    }
}

/// Whether long polling works, the last resort.
pub(super) fn polling(site: &Site) -> Finding {
    let check = "xhr";
    let polled = session().and_then(|session| ask(site, ["POST", &format!("/{session}/xhr")], ""));
    match polled {
        Ok(mut response) if response.status == 200 => {
            match response.read_until("o\n", AT_ONCE_MS) {
                Ok(true) => Finding::ok(check, "a poll is answered"),
                Ok(false) => ended(check),
                Err(error) => failed(site, check, &error),
            }
        }
        Ok(mut response) => refused(site, check, &mut response),
        Err(error) => failed(site, check, &error),
    }
}

/// What became of a silent connection.
enum Silence {
    /// Still open, with this many heartbeats received.
    Stays(u64),
    /// Cut after this many seconds.
    Cut(u64),
    /// Closed by the server itself, with this reason.
    Closed(String),
    /// It could not be opened.
    Failed(Finding),
}

/// Whether a silent WebSocket and a silent stream stay open for `site.wait`, both at the same time.
/// `is_in`: the token is good; without one the server closes after 10 s.
pub(super) fn silence(site: &Site, has_socket: bool, is_in: bool) -> Vec<Finding> {
    const CHECKS: [&str; 2] = ["idle", "idle_stream"];
    if site.wait == 0 {
        let says = match site.pass {
            Some(_) => "not checked: --wait 60 shows whether silent connections are cut",
            None => {
                "not checked: `fws doctor URL NAME --wait 60`, with the name of a namespace, \
                     shows whether silent connections are cut"
            }
        };
        return vec![Finding::unknown("idle", says)];
    }
    let [socket, stream] = std::thread::scope(|scope| {
        let socket = has_socket.then(|| scope.spawn(|| silent_socket(site, is_in)));
        let stream = silent_stream(site, is_in);
        [socket.and_then(|thread| thread.join().ok()), Some(stream)]
    });
    let told = [socket, stream].into_iter().zip(CHECKS);
    told.filter_map(|(silence, check)| Some(judge(site, check, silence?))).collect()
}

fn judge(site: &Site, check: &'static str, silence: Silence) -> Finding {
    let wait = site.wait;
    match silence {
        Silence::Stays(0) if wait >= HEARTBEAT_SECONDS => Finding::wrong(
            check,
            format!("stays open for {wait} s, but no heartbeat comes through"),
            BUFFERING,
        ),
        Silence::Stays(0) => Finding::unknown(
            check,
            format!("stays open for {wait} s, too short for a heartbeat: --wait 60"),
        ),
        Silence::Stays(beats) => {
            Finding::ok(check, format!("stays open for {wait} s; heartbeats: {beats}"))
        }
        Silence::Closed(words) if words.contains("no auth in time") => Finding::unknown(
            check,
            match site.pass {
                Some(_) => "closed by the server, for want of a token that it takes",
                None => {
                    "closed by the server, for want of a token: name a namespace to look for \
                         longer, as in `fws doctor URL NAME --wait 60`"
                }
            },
        ),
        Silence::Closed(words) => Finding::wrong(
            check,
            format!("closed by the server: {words}"),
            &["the table of close codes in docs/operations.md says what that means"],
        ),
        Silence::Cut(after) => {
            Finding::wrong(check, format!("cut after {after} s of silence"), TIMEOUT)
        }
        Silence::Failed(finding) => Finding { check, ..finding },
    }
}

fn seconds(watch: &Stopwatch) -> u64 {
    watch.elapsed_us() / 1_000_000
}

fn silent_socket(site: &Site, is_in: bool) -> Silence {
    let opened = Socket::open(&site.address, &head(site, "GET", "/websocket"));
    let mut socket = match opened {
        Ok(Ok(socket)) => socket,
        Ok(Err(mut response)) => return Silence::Failed(refused(site, "idle", &mut response)),
        Err(error) => return Silence::Failed(failed(site, "idle", &error)),
    };
    if is_in
        && let Some(pass) = &site.pass
        && let Err(error) = socket.send(pass.message().as_bytes())
    {
        return Silence::Failed(failed(site, "idle", &error));
    }
    let watch = Stopwatch::start();
    while seconds(&watch) < site.wait {
        match socket.next_within(LOOK_MS) {
            Ok(Some(Message::Closed(1006 | 1011 | 1012, _))) | Err(_) => {
                return Silence::Cut(seconds(&watch));
            }
            Ok(Some(Message::Closed(code, reason))) => {
                return Silence::Closed(format!("{code} {reason}"));
            }
            Ok(_) => {}
        }
    }
    Silence::Stays(socket.pings())
}

fn silent_stream(site: &Site, is_in: bool) -> Silence {
    let [stream, ..] = &STREAMS;
    // Without compression, so that heartbeats can be counted.
    let (session, mut response) = match stream.begin(site, "") {
        Ok(begun) => begun,
        Err(error) => return Silence::Failed(failed(site, "idle_stream", &error)),
    };
    if response.status != 200 {
        return Silence::Failed(refused(site, "idle_stream", &mut response));
    }
    if is_in
        && let Some(pass) = &site.pass
        && let Err(finding) = send(site, "idle_stream", &session, &pass.message())
    {
        return Silence::Failed(finding);
    }
    let watch = Stopwatch::start();
    while seconds(&watch) < site.wait {
        let is_over = match response.read(LOOK_MS) {
            Ok(is_open) => !is_open,
            Err(ClientError::Silence) => false,
            Err(_) => true,
        };
        let text = response.text();
        if let Some((_, words)) = text.split_once("\nc[") {
            return Silence::Closed(words.trim_end().trim_end_matches(']').to_owned());
        }
        if is_over {
            return Silence::Cut(seconds(&watch));
        }
    }
    let text = response.text();
    // The first line is the prelude.
    let beats = text.lines().skip(1).filter(|line| *line == "h").count();
    Silence::Stays(beats as u64)
}
