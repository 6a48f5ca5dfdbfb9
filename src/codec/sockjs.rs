//! SockJS (the 0.3 protocol, protocol part 6): the paths under a prefix, the frames inside a
//! WebSocket, and the headers of its HTTP responses.
//!
//! Stateless. Frames are plain text here; the sender wraps them for the transport. Called by the
//! web listener, and by publications for the form that SockJS connections receive.

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

/// The path prefix of all SockJS endpoints.
pub const PREFIX: &str = "/socket";

/// Name of the script of the iframe page, under the prefix.
pub const IFRAME_SCRIPT: &str = "iframe.js";

/// Response body for [`Route::Greeting`].
pub const GREETING: &str = "Welcome to SockJS!\n";

/// Response body (404) for [`Route::NotFound`].
pub const NOT_FOUND: &str = "404 Error: Page not found\n";

/// The frame that opens a session.
pub const OPEN: &str = "o";

/// The heartbeat frame of the HTTP transports.
pub const HEARTBEAT: &str = "h";

/// Close code and reason for a receiver whose session already has another one.
pub const STILL_OPEN: (u16, &str) = (2010, "Another connection still open");

/// Maximum length of requested headers echoed in a response that may have to be queued.
const ECHO_BYTES: usize = 256;

/// One year in seconds, for cacheable responses.
const YEAR: &str = "31536000";

/// `Expires` for cacheable responses. HTTP/1.1 clients use `max-age`, which is sent too (RFC 9111,
/// 5.3), so a fixed date far away suffices and no clock is needed.
const EXPIRES: &str = "Thu, 31 Dec 2037 23:55:55 GMT";

/// What a path under the prefix refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// The prefix itself.
    Greeting,
    /// The capabilities of the server, see [`info_body`].
    Info,
    /// The page for transports inside an iframe.
    Iframe,
    /// The script that this page loads, unless another is configured.
    IframeScript,
    /// A test of old clients for chunked responses.
    ChunkingTest,
    /// A WebSocket without SockJS framing.
    RawWebSocket,
    /// A session.
    Session {
        /// Made up by the client for load balancers; ignored.
        server: &'a str,
        /// Made up by the client; identifies the session on transports that use several requests.
        session: &'a str,
        /// How the session is carried.
        transport: Transport,
    },
    /// No endpoint.
    NotFound,
}

/// How a session is carried. The doc of each variant starts with the last segment of its path.
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
    /// `jsonp_send`: the client's side of it.
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

/// Parses a raw path without its query, under this prefix. One trailing `/` is allowed everywhere.
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

/// First bytes of the characters that [`escape_into`] must examine: all that it escapes, and few
/// others. U+2xxx begins with E2, U+Fxxx with EF, characters outside the BMP with F0 or more.
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

/// Appends a message as a JSON string, byte for byte like the original server: what
/// `JSON.stringify` escapes is escaped the same way (`\n`, `\u001f`), and characters that some
/// browsers lose become lower-case `\uXXXX`: U+200C–200F, 2028–202F, 2060–206F, FFF0–FFFF, and
/// everything above U+FFFF as two surrogates.
pub fn escape_into(out: &mut Vec<u8>, message: &str) {
    escape_parts_into(out, &[message]);
}

/// Like [`escape_into`], for a message in parts.
pub fn escape_parts_into(out: &mut Vec<u8>, parts: &[&str]) {
    out.reserve(parts.iter().map(|part| part.len()).sum::<usize>() + 2);
    out.push(b'"');
    parts.iter().for_each(|part| escape_part_into(out, part));
    out.push(b'"');
}

fn escape_part_into(out: &mut Vec<u8>, part: &str) {
    if part.len() > LARGE {
        out.reserve_exact(EncodedLen::of(part).string + 2);
    }
    let mut rest = part;
    // Runs without such bytes are copied whole.
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

/// Text longer than this is measured before it is escaped: a buffer that grows while it is written
/// would take twice the length.
const LARGE: usize = 64 * 1024;

/// Upper bounds on the encoded length of a message, without what surrounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedLen {
    /// Encoded by [`escape_into`].
    pub string: usize,
    /// That, as an event of [`Envelope::EventSource`].
    pub event: usize,
    /// That, in a script of [`Envelope::HtmlFile`] or of `jsonp`.
    pub script: usize,
}

impl EncodedLen {
    /// No encoding makes a message more than this many times as long.
    pub const FACTOR_MAX: usize = 7;

    /// Counts what would be escaped, without encoding it.
    pub fn of(message: &str) -> EncodedLen {
        let bytes = message.as_bytes();
        let quotes = count(bytes, |byte| byte == b'"' || byte == b'\\');
        let controls = count(bytes, |byte| byte < 0x20);
        // Lead bytes: some characters of three bytes, and all of four, become escapes.
        let threes = count(bytes, |byte| byte == 0xE2 || byte == 0xEF);
        let fours = count(bytes, |byte| byte >= 0xF0);
        let marks = count(bytes, |byte| matches!(byte, b'<' | b'>' | b'&'));
        let percents = count(bytes, |byte| byte == b'%');
        let string = bytes.len() + quotes + 5 * controls + 3 * threes + 8 * fours;
        // Each escape begins with a backslash, which a script escapes again, and quotes as well.
        let script = string + 2 * quotes + controls + threes + 2 * fours + 5 * marks;
        EncodedLen { string, event: string + 2 * percents, script }
    }

    /// Returns the bytes a message occupies on its way to one browser, whatever its transport:
    /// while it is queued, plus while it is sent.
    pub fn on_its_way(&self) -> usize {
        self.string + self.event.max(self.script)
    }
}

/// Counts the bytes that satisfy the predicate, in chunks whose count fits in a byte, so that the
/// compiler vectorizes it.
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

/// Returns the frame that closes a session, `c[3000,"Go away!"]`.
pub fn close_text(code: u16, reason: &str) -> String {
    let mut out = format!("c[{code},").into_bytes();
    escape_into(&mut out, reason);
    out.push(b']');
    // Escaping only adds ASCII and `reason` was UTF-8, so nothing is ever replaced.
    String::from_utf8_lossy(&out).into_owned()
}

/// Characters that may stand between two values of an array.
const BETWEEN: [char; 5] = [' ', '\t', '\r', '\n', ','];

/// The client sent something that is not JSON; its session is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SockJS framing is not JSON")
    }
}

impl std::error::Error for Broken {}

/// Iterator over the messages of one frame from a client, in order. Messages without escapes borrow
/// from the frame.
///
/// A lone surrogate (`\ud800` without its other half), valid in JavaScript but not in UTF-8,
/// becomes U+FFFD: one odd character is no reason to end a session.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    /// JSON values separated by commas, already validated.
    rest: &'a str,
}

/// Parses the messages in a text from a client: a JSON array of strings, or one string. An empty
/// text has no messages. Other JSON is silently ignored, inside the array or in place of it.
///
/// # Errors
/// [`Broken`] if the text is not JSON.
pub fn parse_messages(text: &str) -> Result<Messages<'_>, Broken> {
    if text.is_empty() {
        return Ok(Messages { rest: "" });
    }
    // Everything is validated before the first message is acted on.
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
    /// Returns the messages not yet taken, to be [resumed](Messages::resume) later: one text for
    /// any number of messages, so that queued messages take no more memory than they arrived in.
    pub fn rest(&self) -> &'a str {
        self.rest
    }

    /// Resumes from the result of [`Messages::rest`]; several of them may be joined with commas.
    pub fn resume(rest: &'a str) -> Messages<'a> {
        Messages { rest }
    }

    /// Looks in `rest` (see [`Messages::rest`]) for the first message for which `is_it` returns
    /// `Some`, and removes and returns it if that is `Some(true)`. The others stay in order.
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

    /// Returns whether no message is left.
    pub fn is_over(&self) -> bool {
        self.rest.trim_start_matches(BETWEEN).is_empty()
    }
}

/// Why the body of an `xhr_send` or `jsonp_send` was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// There is no body, or it is not an array.
    Payload,
    /// It is not JSON.
    Broken,
}

impl SendError {
    /// Returns the body of the 500 response.
    pub const fn text(self) -> &'static str {
        match self {
            SendError::Payload => "Payload expected.",
            SendError::Broken => "Broken JSON encoding.",
        }
    }
}

/// Parses the messages in the body of a request: a JSON array of strings. Elements that are not
/// strings are silently ignored.
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

/// Decodes a JSON string: `value` has its quotes, `inside` does not.
fn unescape<'a>(value: &'a str, inside: &'a str) -> Cow<'a, str> {
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    // Valid JSON that is not a `String` has a lone surrogate.
    let unescaped = from_str::<String>(value)
        .or_else(|_| Deserializer::from_str(value).deserialize_bytes(LoneSurrogates));
    Cow::Owned(unescaped.unwrap_or_default())
}

/// Converts the bytes in which serde_json returns a string with lone surrogates. Each surrogate is
/// three bytes, as if it were a character, and so is the U+FFFD that replaces it.
struct LoneSurrogates;

impl Visitor<'_> for LoneSurrogates {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
        let mut bytes = bytes.to_owned();
        for at in 1..bytes.len().saturating_sub(1) {
            // In UTF-8, ED is never followed by a byte above 9F.
            if bytes[at - 1] == 0xED && bytes[at] >= 0xA0 {
                bytes[at - 1..=at + 1].copy_from_slice("\u{fffd}".as_bytes());
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Returns the response body for [`Route::Info`]. `entropy` must be fresh for every response, from
/// the system's random source: clients without a good source of their own mix it in.
pub fn info_body(entropy: u32, websocket: bool, cookie_needed: bool) -> String {
    format!(
        "{{\"websocket\":{websocket},\"origins\":[\"*:*\"],\"cookie_needed\":{cookie_needed},\
         \"entropy\":{entropy}}}"
    )
}

/// Adds the header for a response that is never cached.
pub fn never_cached(response: Response) -> Response {
    let value = "no-store, no-cache, no-transform, must-revalidate, max-age=0";
    response.header("Cache-Control", value)
}

/// Adds the headers for a response that may be cached for a year.
pub fn cached_for_a_year(response: Response) -> Response {
    response.header("Cache-Control", "public, max-age=31536000").header("Expires", EXPIRES)
}

/// Adds the header for a response that may be cached for an hour.
pub fn cached_for_an_hour(response: Response) -> Response {
    response.header("Cache-Control", "public, max-age=3600")
}

/// Adds the headers that let pages of any origin read the response. Requested headers are echoed:
/// all of them in a preflight, where browsers look for them, and also in other responses, as SockJS
/// requires, up to a length that real clients stay below.
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

/// Returns the response to `OPTIONS`. `methods` lists `OPTIONS` and the method of the path, as in
/// `OPTIONS, GET`.
pub fn preflight(request: &Head<'_>, methods: &str) -> Response {
    let response = allow_origin(Response::new(204).answering(request), request);
    cached_for_a_year(response)
        .header("Access-Control-Allow-Methods", methods)
        .header("Access-Control-Max-Age", YEAR)
}

/// Fuzz target. Panics if JSON and [`parse_messages`] disagree about a text, or if a message does
/// not survive escaping.
pub fn fuzz_messages(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut escaped = Vec::new();
    message_into(&mut escaped, text);
    let escaped = str::from_utf8(&escaped).unwrap_or_default();
    let sent = escaped.strip_prefix('a').map(|array| from_str::<Vec<String>>(array).ok());
    assert_eq!(sent, Some(Some(vec![text.to_owned()])));
    assert!(!escaped.contains(|c| matches!(c, '\0'..='\u{1f}' | '\u{fff0}'..)));

    let written = EncodedLen::of(text);
    assert!(escaped.len() <= written.string + r#"a[""]"#.len());
    for (envelope, most) in
        [(Envelope::EventSource, written.event), (Envelope::HtmlFile, written.script)]
    {
        let mut out = Vec::new();
        envelope.frame_into(&mut out, &[escaped.as_bytes()]);
        assert!(out.len() <= most + 64 && most <= EncodedLen::FACTOR_MAX * text.len());
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
        // Lone surrogates, deep nesting and long numbers are JSON, but not serde_json values.
        (Ok(messages), Err(_)) => assert!(messages.count() <= text.len()),
        (Err(broken), value) => assert!(value.is_err() && !broken.to_string().is_empty()),
    }
}
