//! SockJS (the 0.3 protocol, protocol part 6): the paths under a prefix, the frames inside a
//! WebSocket, the headers of its HTTP answers.
//!
//! Owns nothing. Frames are text here; who sends them wraps them for the transport. Called by the
//! web door, and by publications for the form that SockJS connections receive.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, Visitor};
use serde_json::value::RawValue;
use serde_json::{Deserializer, from_str};

use super::http::{Head, Response};

mod envelope;
#[cfg(test)]
mod tests;

pub use envelope::{CallbackError, Envelope, form_field, iframe_page, jsonp_into, parse_callback};

/// The path that everything is under.
pub const PREFIX: &str = "/socket";

/// Name of the script of the iframe page, under the prefix.
pub const IFRAME_SCRIPT: &str = "iframe.js";

/// Body of the answer to [`Route::Greeting`].
pub const GREETING: &str = "Welcome to SockJS!\n";

/// Body of the 404 for [`Route::NotFound`].
pub const NOT_FOUND: &str = "404 Error: Page not found\n";

/// The frame that opens a session.
pub const OPEN: &str = "o";

/// The frame that shows that somebody is there, on transports over HTTP.
pub const HEARTBEAT: &str = "h";

/// What a receiver is told for whose session another one is there.
pub const STILL_OPEN: (u16, &str) = (2010, "Another connection still open");

/// So many bytes of the headers that somebody asks for are repeated in an answer that may wait.
const ECHO_BYTES: usize = 256;

/// One year, in seconds: for what a client may cache.
const YEAR: &str = "31536000";

/// `Expires` for what a client may cache. Clients of HTTP/1.1 go by `max-age` beside it (RFC 9111,
/// 5.3), so a fixed moment far away serves without a clock.
const EXPIRES: &str = "Thu, 31 Dec 2037 23:55:55 GMT";

/// What a path under the prefix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// The prefix itself.
    Greeting,
    /// What the server offers, see [`info_body`].
    Info,
    /// The page for transports inside an iframe.
    Iframe,
    /// The script that this page loads, unless it is told to load another.
    IframeScript,
    /// A test of old clients for chunked answers.
    ChunkingTest,
    /// A WebSocket without SockJS.
    RawWebSocket,
    /// A session.
    Session {
        /// Made up by the client, and ignored: it is there for load balancers.
        server: &'a str,
        /// Made up by the client; names the session on transports that take many requests.
        session: &'a str,
        /// How the session is carried.
        transport: Transport,
    },
    /// Nothing.
    NotFound,
}

/// How a session is carried; each has the last segment of its path as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `websocket`
    WebSocket,
    /// `xhr`: polling.
    Xhr,
    /// `xhr_streaming`
    XhrStreaming,
    /// `xhr_send`: the client's side of both.
    XhrSend,
    /// `eventsource`
    EventSource,
    /// `htmlfile`
    HtmlFile,
    /// `jsonp`: polling.
    Jsonp,
    /// `jsonp_send`: its client's side.
    JsonpSend,
}

impl Transport {
    fn parse(name: &str) -> Option<Transport> {
        Some(match name {
            "websocket" => Transport::WebSocket,
            "xhr" => Transport::Xhr,
            "xhr_streaming" => Transport::XhrStreaming,
            "xhr_send" => Transport::XhrSend,
            "eventsource" => Transport::EventSource,
            "htmlfile" => Transport::HtmlFile,
            "jsonp" => Transport::Jsonp,
            "jsonp_send" => Transport::JsonpSend,
            _ => return None,
        })
    }
}

/// What a path (raw, without its query) under [`PREFIX`] is.
pub fn route(path: &str) -> Route<'_> {
    route_under(PREFIX, path)
}

/// What a path (raw, without its query) under this prefix is. One `/` at the end is allowed
/// everywhere.
pub fn route_under<'a>(prefix: &str, path: &'a str) -> Route<'a> {
    let Some(below) = path.strip_prefix(prefix) else { return Route::NotFound };
    let below = below.strip_suffix('/').unwrap_or(below);
    if below.is_empty() {
        return Route::Greeting;
    }
    let Some(below) = below.strip_prefix('/') else { return Route::NotFound };
    let mut segments = below.split('/');
    match (segments.next(), segments.next(), segments.next(), segments.next()) {
        (Some(page), None, None, None) => route_of_page(page),
        (Some(server), Some(session), Some(transport), None) => {
            let is_id = |id: &str| !id.is_empty() && !id.contains('.');
            match Transport::parse(transport) {
                Some(transport) if is_id(server) && is_id(session) => {
                    Route::Session { server, session, transport }
                }
                _ => Route::NotFound,
            }
        }
        _ => Route::NotFound,
    }
}

fn route_of_page(page: &str) -> Route<'static> {
    match page {
        "info" => Route::Info,
        "websocket" => Route::RawWebSocket,
        IFRAME_SCRIPT => Route::IframeScript,
        "chunking_test" => Route::ChunkingTest,
        _ => {
            let version = page.strip_prefix("iframe").and_then(|page| page.strip_suffix(".html"));
            let is_known = |byte| matches!(byte, b'0'..=b'9' | b'-' | b'.' | b'a'..=b'z' | b'_');
            match version {
                Some(version) if version.bytes().all(is_known) => Route::Iframe,
                _ => Route::NotFound,
            }
        }
    }
}

/// First bytes of the characters that [`escape_into`] must look at: all that it escapes, and few
/// others. U+2xxx begins with E2, U+Fxxx with EF, what is beyond the BMP with F0 or more.
const LOOK_AT: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte < 0x20
            || byte == b'"' as usize
            || byte == b'\\' as usize
            || byte == 0xE2
            || byte >= 0xEF;
        byte += 1;
    }
    table
};

/// Appends a message as a JSON string, byte for byte as the original writes it: what JavaScript's
/// `JSON.stringify` escapes as that does (`\n`, `\u001f`), and as lower-case `\uXXXX` what some
/// browsers lose on the way: U+200C–200F, 2028–202F, 2060–206F, FFF0–FFFF and, by its two
/// surrogates, everything beyond U+FFFF.
pub fn escape_into(out: &mut Vec<u8>, message: &str) {
    escape_parts_into(out, &[message]);
}

/// As [`escape_into`], of a message in parts.
pub fn escape_parts_into(out: &mut Vec<u8>, parts: &[&str]) {
    out.reserve(parts.iter().map(|part| part.len()).sum::<usize>() + 2);
    out.push(b'"');
    parts.iter().for_each(|part| escape_part_into(out, part));
    out.push(b'"');
}

fn escape_part_into(out: &mut Vec<u8>, part: &str) {
    if part.len() > LARGE {
        out.reserve_exact(Written::of(part).string + 2);
    }
    let mut rest = part;
    // Runs without any such byte are copied whole.
    while let Some(at) = rest.bytes().position(|byte| LOOK_AT[byte as usize]) {
        let (run, special) = rest.split_at(at);
        out.extend_from_slice(run.as_bytes());
        let mut characters = special.chars();
        if let Some(character) = characters.next() {
            escape_character_into(out, character);
        }
        rest = characters.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Of what is longer it is counted what it becomes before it is written: what grows while it is
/// written takes twice its length.
const LARGE: usize = 64 * 1024;

/// How many bytes a message is, at most, once it is written. What stands around it is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// By [`escape_into`].
    pub string: usize,
    /// That as an event of [`Envelope::EventSource`].
    pub event: usize,
    /// That in a script of [`Envelope::HtmlFile`], or for `jsonp`.
    pub script: usize,
}

impl Written {
    /// No message becomes more than so many times as long in any of them.
    pub const FACTOR_MAX: usize = 7;

    /// Counts what would have to be escaped, without writing it.
    pub fn of(message: &str) -> Written {
        let bytes = message.as_bytes();
        let quotes = count(bytes, |byte| byte == b'"' || byte == b'\\');
        let controls = count(bytes, |byte| byte < 0x20);
        // Characters of three bytes some of which, and of four all of which, become escapes.
        let threes = count(bytes, |byte| byte == 0xE2 || byte == 0xEF);
        let fours = count(bytes, |byte| byte >= 0xF0);
        let marks = count(bytes, |byte| matches!(byte, b'<' | b'>' | b'&'));
        let percents = count(bytes, |byte| byte == b'%');
        let string = bytes.len() + quotes + 5 * controls + 3 * threes + 8 * fours;
        // Each escape begins with a backslash, which a script escapes once more, and quotes too.
        let script = string + 2 * quotes + controls + threes + 2 * fours + 5 * marks;
        Written { string, event: string + 2 * percents, script }
    }

    /// Bytes that a message takes on its way to one browser, whichever transport that has: as it
    /// waits, and as it goes out.
    pub fn on_its_way(&self) -> usize {
        self.string + self.event.max(self.script)
    }
}

/// How many of these bytes are such. In pieces whose count a byte holds, which the compiler turns
/// into instructions for many bytes at a time.
fn count(bytes: &[u8], is_such: impl Fn(u8) -> bool) -> usize {
    let in_piece = |piece: &[u8]| piece.iter().map(|byte| u8::from(is_such(*byte))).sum::<u8>();
    bytes.chunks(255).map(|piece| usize::from(in_piece(piece))).sum()
}

fn escape_character_into(out: &mut Vec<u8>, character: char) {
    let short = match character {
        '"' => b"\\\"",
        '\\' => b"\\\\",
        '\n' => b"\\n",
        '\r' => b"\\r",
        '\t' => b"\\t",
        '\u{8}' => b"\\b",
        '\u{c}' => b"\\f",
        '\0'..='\u{1f}'
        | '\u{200c}'..='\u{200f}'
        | '\u{2028}'..='\u{202f}'
        | '\u{2060}'..='\u{206f}'
        | '\u{fff0}'.. => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            for unit in character.encode_utf16(&mut [0; 2]) {
                let digit = |shift: u16| HEX[usize::from(*unit >> shift & 0xF)];
                out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
            }
            return;
        }
        _ => {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return;
        }
    };
    out.extend_from_slice(short);
}

/// Appends the frame of one message, `a["…"]`.
pub fn message_into(out: &mut Vec<u8>, message: &str) {
    out.extend_from_slice(b"a[");
    escape_into(out, message);
    out.push(b']');
}

/// The frame that closes a session, `c[3000,"Go away!"]`.
pub fn close_text(code: u16, reason: &str) -> String {
    let mut out = format!("c[{code},").into_bytes();
    escape_into(&mut out, reason);
    out.push(b']');
    // Escaping adds ASCII alone, and reason was UTF-8: nothing is ever replaced.
    String::from_utf8_lossy(&out).into_owned()
}

/// What may stand between two values of an array.
const BETWEEN: [char; 5] = [' ', '\t', '\r', '\n', ','];

/// What a client sent is not JSON: its session is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SockJS framing is not JSON")
    }
}

impl std::error::Error for Broken {}

/// The messages of one frame from a client, in order. Those without escapes are slices of it.
///
/// A lone surrogate (`\ud800` without its other half), which JavaScript knows and UTF-8 does not,
/// comes out as U+FFFD: one odd character is no reason to end a session.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    /// JSON values with commas between them, known to be good.
    rest: &'a str,
}

/// The messages in a text from a client: a JSON array of strings, or one string. No text is no
/// messages; JSON that is no string is lost without a word, in the array or instead of it.
///
/// # Errors
/// [`Broken`] if the text is not JSON.
pub fn parse_messages(text: &str) -> Result<Messages<'_>, Broken> {
    if text.is_empty() {
        return Ok(Messages { rest: "" });
    }
    // All of it is checked before the first message is acted on.
    from_str::<IgnoredAny>(text).map_err(|_| Broken)?;
    let value = text.trim_ascii();
    let rest = match value.strip_prefix('[') {
        Some(elements) => elements.strip_suffix(']').unwrap_or(elements),
        None if value.starts_with('"') => value,
        None => "",
    };
    Ok(Messages { rest })
}

impl<'a> Messages<'a> {
    /// What has not been handed out, to be [resumed](Messages::resume) later: one text, whatever
    /// the number of messages in it, so that those that wait take no more memory than they came in.
    pub fn rest(&self) -> &'a str {
        self.rest
    }

    /// Goes on where [`Messages::rest`] left off. Several such, with commas between them, are one.
    pub fn resume(rest: &'a str) -> Messages<'a> {
        Messages { rest }
    }

    /// Takes the first of these messages of which that can be said out of what is
    /// [left](Messages::rest), if it holds; the others stay in their order.
    pub fn take(rest: &mut String, is_it: impl Fn(&str) -> Option<bool>) -> Option<String> {
        let mut messages = Messages::resume(rest);
        loop {
            let before = rest.len() - messages.rest.len();
            let message = messages.next()?;
            let Some(is_it) = is_it(&message) else { continue };
            let message = is_it.then(|| message.into_owned())?;
            let after = messages.rest.len();
            rest.replace_range(before..rest.len() - after, "");
            if Messages::resume(rest).is_over() {
                rest.clear();
            }
            return Some(message);
        }
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.rest.trim_start_matches(BETWEEN).is_empty()
    }
}

/// Why nothing was sent with the body of an `xhr_send` or `jsonp_send`; the text is the answer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// There is no body, or it is no array.
    Payload,
    /// It is not JSON.
    Broken,
}

impl SendError {
    /// The body of the answer, 500.
    pub const fn text(self) -> &'static str {
        match self {
            SendError::Payload => "Payload expected.",
            SendError::Broken => "Broken JSON encoding.",
        }
    }
}

/// The messages in the body of a request: a JSON array of strings. What is no string in it is lost
/// without a word.
///
/// # Errors
/// [`SendError`].
pub fn parse_body(body: &[u8]) -> Result<Messages<'_>, SendError> {
    if body.is_empty() {
        return Err(SendError::Payload);
    }
    let text = str::from_utf8(body).map_err(|_| SendError::Broken)?;
    let messages = parse_messages(text).map_err(|Broken| SendError::Broken)?;
    if text.trim_ascii_start().starts_with('[') { Ok(messages) } else { Err(SendError::Payload) }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Cow<'a, str>;

    fn next(&mut self) -> Option<Cow<'a, str>> {
        loop {
            let next = self.rest.trim_start_matches(BETWEEN);
            let mut values = Deserializer::from_str(next).into_iter::<&'a RawValue>();
            let value = values.next()?.ok()?.get();
            self.rest = &next[values.byte_offset()..];
            if let Some(inside) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'))
            {
                return Some(unescape(value, inside));
            }
        }
    }
}

/// The value of a JSON string: `value` with its quotes, `inside` without.
fn unescape<'a>(value: &'a str, inside: &'a str) -> Cow<'a, str> {
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    // What is good JSON and yet no `String` has a lone surrogate.
    let unescaped = from_str::<String>(value)
        .or_else(|_| Deserializer::from_str(value).deserialize_bytes(LoneSurrogates));
    Cow::Owned(unescaped.unwrap_or_default())
}

/// Makes a string of the bytes that serde_json has for one with lone surrogates: each is three
/// bytes, as if it were a character, and so is the U+FFFD that takes its place.
struct LoneSurrogates;

impl Visitor<'_> for LoneSurrogates {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
        let mut bytes = bytes.to_owned();
        for at in 1..bytes.len().saturating_sub(1) {
            // In UTF-8 the byte behind ED is at most 9F.
            if bytes[at - 1] == 0xED && bytes[at] >= 0xA0 {
                bytes[at - 1..=at + 1].copy_from_slice("\u{fffd}".as_bytes());
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The answer to [`Route::Info`]. The entropy is fresh for every answer, from the system's random
/// source: clients without a good one of their own mix it in.
pub fn info_body(entropy: u32, websocket: bool, cookie_needed: bool) -> String {
    format!(
        "{{\"websocket\":{websocket},\"origins\":[\"*:*\"],\"cookie_needed\":{cookie_needed},\
         \"entropy\":{entropy}}}"
    )
}

/// Adds the header of an answer that is never cached.
pub fn never_cached(response: Response) -> Response {
    let value = "no-store, no-cache, no-transform, must-revalidate, max-age=0";
    response.header("Cache-Control", value)
}

/// Adds the headers of an answer that may be cached for a year.
pub fn cached_for_a_year(response: Response) -> Response {
    response.header("Cache-Control", "public, max-age=31536000").header("Expires", EXPIRES)
}

/// Adds the header of an answer that may be cached for an hour.
pub fn cached_for_an_hour(response: Response) -> Response {
    response.header("Cache-Control", "public, max-age=3600")
}

/// Adds the headers that let a page of any origin read the answer to this request. The headers that
/// it asks for are repeated: all of them to a preflight, where browsers look for them, and
/// elsewhere, where SockJS wants them nevertheless, if they are no more than a client has.
pub fn allow_origin(response: Response, request: &Head<'_>) -> Response {
    let response = match request.header("origin") {
        Some(origin) => response
            .header("Access-Control-Allow-Origin", origin)
            .header("Access-Control-Allow-Credentials", "true"),
        None => response.header("Access-Control-Allow-Origin", "*"),
    };
    let response = response.header("Vary", "Origin");
    let most = if request.method == "OPTIONS" { usize::MAX } else { ECHO_BYTES };
    match request.header("access-control-request-headers") {
        Some(headers) if (1..=most).contains(&headers.len()) => {
            response.header("Access-Control-Allow-Headers", headers)
        }
        _ => response,
    }
}

/// The answer to `OPTIONS`: `methods` are `OPTIONS` and the one that the path is for, as in
/// `OPTIONS, GET`.
pub fn preflight(request: &Head<'_>, methods: &str) -> Response {
    let response = allow_origin(Response::new(204).answering(request), request);
    cached_for_a_year(response)
        .header("Access-Control-Allow-Methods", methods)
        .header("Access-Control-Max-Age", YEAR)
}

/// Fuzz target. Panics where what JSON says about a text and what [`parse_messages`] makes of it
/// differ, or where a message does not survive escaping.
pub fn fuzz_messages(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut escaped = Vec::new();
    message_into(&mut escaped, text);
    let escaped = str::from_utf8(&escaped).unwrap_or_default();
    let sent = escaped.strip_prefix('a').map(|array| from_str::<Vec<String>>(array).ok());
    assert_eq!(sent, Some(Some(vec![text.to_owned()])));
    assert!(!escaped.contains(|c| matches!(c, '\0'..='\u{1f}' | '\u{fff0}'..)));

    let written = Written::of(text);
    assert!(escaped.len() <= written.string + r#"a[""]"#.len());
    for (envelope, most) in
        [(Envelope::EventSource, written.event), (Envelope::HtmlFile, written.script)]
    {
        let mut out = Vec::new();
        envelope.frame_into(&mut out, &[escaped.as_bytes()]);
        assert!(out.len() <= most + 64 && most <= Written::FACTOR_MAX * text.len());
    }

    let mut script = Vec::new();
    jsonp_into(&mut script, "c", &[data]);
    let script = str::from_utf8(&script).unwrap_or_default();
    let string = script.strip_prefix("/**/c(").and_then(|rest| rest.strip_suffix(");\r\n"));
    assert_eq!(string.map(|string| from_str::<String>(string).ok()), Some(Some(text.to_owned())));
    assert!(!script.contains(['<', '>', '&', '\u{2028}', '\u{2029}']));

    let value = from_str::<serde_json::Value>(text);
    match (parse_messages(text), value) {
        (Ok(messages), Ok(serde_json::Value::Array(elements))) => {
            let strings: Vec<_> = elements.iter().filter_map(|value| value.as_str()).collect();
            assert_eq!(messages.collect::<Vec<_>>(), strings);
        }
        (Ok(mut messages), Ok(value)) => {
            assert_eq!(messages.next().as_deref(), value.as_str());
            assert_eq!(messages.next(), None);
        }
        // Lone surrogates, deep nests and long numbers are JSON, but no values of serde_json.
        (Ok(messages), Err(_)) => assert!(messages.count() <= text.len()),
        (Err(broken), value) => assert!(value.is_err() && !broken.to_string().is_empty()),
    }
}
