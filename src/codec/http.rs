//! HTTP/1.1 (RFC 9110, RFC 9112): request heads and responses.
//!
//! Stateless: a [`Head`] borrows from the input, a [`Response`] becomes a frame. Bodies are read by
//! [`BodyReader`] as they arrive. The meaning of a path is decided elsewhere. Called by the web
//! listener for connections that are not WebSockets, and by the SockJS codec for its headers.

use std::fmt;
use std::mem::MaybeUninit;

use httparse::{Header, Request};

use super::ws;

mod body;
mod response;
#[cfg(test)]
mod tests;

pub use body::{BodyError, BodyReader, fuzz_body};
pub use response::{
    CONTINUE, LAST_CHUNK, Response, chunk_header, chunk_payload_bytes, switching_protocols,
};

/// Maximum number of header lines in a request, whatever limit is configured.
pub const HEADERS_MAX: usize = 128;

/// Limits of a head, apart from its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadBounds {
    /// Maximum number of header lines, at most [`HEADERS_MAX`].
    pub headers: usize,
    /// Maximum bytes of the target.
    pub target_bytes: usize,
}

/// Returns where the head of a request ends: after its empty line. The first `scanned` bytes were
/// searched before, without success, and are not searched again.
pub fn find_head_end(input: &[u8], scanned: usize) -> Option<usize> {
    // The empty line may begin in the last three of them.
    let mut at = scanned.saturating_sub(3);
    loop {
        let four = input.get(at..)?.first_chunk()?;
        at += match four {
            b"\r\n\r\n" => return Some(at + 4),
            [.., b'\r' | b'\n'] => 1,
            // It cannot begin in any of these.
            _ => 4,
        };
    }
}

/// Returns whether a line ends in anything but CR LF. A recipient may accept a bare LF as the end
/// of a line (RFC 9112, 2.2); two recipients that differ in this see different requests. The first
/// `scanned` bytes were searched before, without success.
pub fn has_bare_end(input: &[u8], scanned: usize) -> bool {
    // Whether a CR is bare depends on the byte after it.
    let input = &input[scanned.saturating_sub(1).min(input.len())..];
    let is_first_bare = scanned == 0 && input.starts_with(b"\n");
    // Without an early exit, so that it compiles to sixteen bytes at a time.
    let is_bare =
        |is_bare, (byte, next): (&u8, &u8)| is_bare | ((*byte == b'\r') != (*next == b'\n'));
    input.iter().zip(input.iter().skip(1)).fold(is_first_bare, is_bare)
}

/// Returns whether this can be the start of a request. Anything else is rejected before more of it
/// arrives: TLS, the PROXY protocol from an untrusted peer, a frame of the control port.
pub fn may_be_request(input: &[u8]) -> bool {
    let is_in_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match input {
        [] | b"\r" => true,
        [b' ', ..] => false,
        _ => {
            let mut method = input.iter().take(4).take_while(|byte| **byte != b' ');
            method.all(|byte| is_in_token(*byte)) && !input.starts_with(b"PROXY ")
        }
    }
}

/// Why a request is rejected before its content is considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// Not HTTP, or HTTP that two recipients could interpret differently.
    Malformed,
    /// No `Host`, more than one, or one that is neither a name nor an address.
    Host,
    /// `Content-Length` that is repeated, not a number, or combined with `Transfer-Encoding`.
    ContentLength,
    /// A transfer coding other than `chunked`.
    TransferEncoding,
    /// A version other than 1.0 and 1.1, or no version.
    Version,
    /// More header lines than [`HeadBounds::headers`].
    TooManyHeaders,
    /// A head longer than the limit. Reported by the caller, which knows the limit and buffers the
    /// head until it is complete.
    HeadTooLarge,
    /// A target longer than [`HeadBounds::target_bytes`].
    TargetTooLong,
    /// A body longer than the limit, either as declared or as received.
    BodyTooLarge,
    /// Malformed chunked coding.
    Chunks,
    /// An `Expect` other than `100-continue`.
    Expectation,
}

impl HttpError {
    /// Returns the status of the response.
    pub const fn status(&self) -> u16 {
        match self {
            HttpError::Malformed
            | HttpError::Host
            | HttpError::ContentLength
            | HttpError::Chunks => 400,
            HttpError::BodyTooLarge => 413,
            HttpError::TargetTooLong => 414,
            HttpError::Expectation => 417,
            HttpError::TooManyHeaders | HttpError::HeadTooLarge => 431,
            HttpError::TransferEncoding => 501,
            HttpError::Version => 505,
        }
    }

    /// Returns the response. It closes the connection: what follows a bad head has no meaning.
    pub fn response(&self) -> Response {
        Response::new(self.status()).text(&format!("{self}\n")).close()
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HttpError::Malformed => "malformed request",
            HttpError::Host => "exactly one valid Host header expected",
            HttpError::ContentLength => "contradictory or invalid Content-Length",
            HttpError::TransferEncoding => "unknown Transfer-Encoding",
            HttpError::Version => "unknown HTTP version",
            HttpError::TooManyHeaders => "too many headers",
            HttpError::HeadTooLarge => "request head too large",
            HttpError::TargetTooLong => "request target too long",
            HttpError::BodyTooLarge => "request body too large",
            HttpError::Chunks => "malformed chunk",
            HttpError::Expectation => "unknown expectation",
        })
    }
}

impl std::error::Error for HttpError {}

impl From<BodyError> for HttpError {
    fn from(error: BodyError) -> HttpError {
        match error {
            BodyError::Chunks => HttpError::Chunks,
            BodyError::TooLarge => HttpError::BodyTooLarge,
        }
    }
}

impl From<httparse::Error> for HttpError {
    fn from(error: httparse::Error) -> HttpError {
        match error {
            httparse::Error::TooManyHeaders => HttpError::TooManyHeaders,
            httparse::Error::Version => HttpError::Version,
            _ => HttpError::Malformed,
        }
    }
}

/// The body that follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    None,
    /// A body of this many bytes.
    Length(u64),
    /// A body in chunked coding.
    Chunked,
}

/// The head of a request.
#[derive(Debug)]
pub struct Head<'a> {
    /// The method as sent; methods are case-sensitive.
    pub method: &'a str,
    /// The target as sent: printable ASCII, at most [`HeadBounds::target_bytes`].
    pub target: &'a str,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor_version: u8,
    /// The body that follows.
    pub content: Content,
    headers: &'a [Header<'a>],
}

/// Room for the headers of a [`Head`].
#[derive(Debug)]
pub struct HeaderRoom<'a>([MaybeUninit<Header<'a>>; HEADERS_MAX]);

impl Default for HeaderRoom<'_> {
    fn default() -> Self {
        HeaderRoom([const { MaybeUninit::uninit() }; HEADERS_MAX])
    }
}

impl<'a> Head<'a> {
    /// Returns the first header with this name, in any case, if its value is UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.values(name).next().and_then(|value| str::from_utf8(value).ok())
    }

    /// Returns whether the client waits for `100 Continue` before it sends the body (RFC 9110,
    /// 10.1.1). Ignored from HTTP/1.0 clients, which do not know it.
    pub fn expects_continue(&self) -> bool {
        self.minor_version > 0 && self.list_has("expect", "100-continue")
    }

    /// Returns whether a header with this name exists, on one line or several.
    pub fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// Returns the header with this name if it occurs exactly once and its value is UTF-8.
    pub fn only(&self, name: &str) -> Option<&'a str> {
        let mut values = self.values(name);
        let value = values.next()?;
        if values.next().is_some() { None } else { str::from_utf8(value).ok() }
    }

    /// Returns whether a list header (RFC 9110, 5.6.1) contains this token, on any of its lines and
    /// in any case.
    pub fn list_has(&self, name: &str, token: &str) -> bool {
        self.elements(name).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Returns whether the connection stays open after the response (RFC 9112, 9.3).
    pub fn keep_alive(&self) -> bool {
        let is_asked = self.minor_version > 0 || self.list_has("connection", "keep-alive");
        is_asked && !self.list_has("connection", "close")
    }

    /// Returns the path without the query, never normalised; `*` for `OPTIONS *`.
    pub fn path(&self) -> &'a str {
        let path = self.origin_form();
        match path.split_once('?') {
            Some(("", _)) => "/",
            Some((path, _)) => path,
            None if path.is_empty() => "/",
            None => path,
        }
    }

    /// Returns the query, if there is one.
    pub fn query(&self) -> Option<&'a str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// Returns the target without scheme and authority (RFC 9112, 3.2.2).
    fn origin_form(&self) -> &'a str {
        if self.target.starts_with('/') {
            return self.target;
        }
        match self.target.split_once("://") {
            Some((_, rest)) => &rest[rest.find(['/', '?']).unwrap_or(rest.len())..],
            None => self.target,
        }
    }

    fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let named = move |header: &&Header<'a>| header.name.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|header| header.value)
    }

    /// Returns the non-empty elements of a list header, on all its lines.
    pub fn elements(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let elements = self.values(name).flat_map(|value| value.split(|byte| *byte == b','));
        elements.map(|element| element.trim_ascii()).filter(|element| !element.is_empty())
    }
}

/// Parses a complete head, up to and including its empty line (see [`find_head_end`]).
///
/// Stricter than httparse where leniency would allow request smuggling past a proxy: lines must end
/// in CR LF, and there must be one `Host` and one interpretation of the body's length.
///
/// # Errors
/// [`HttpError`].
pub fn parse_head<'a, 'input: 'a>(
    input: &'input [u8],
    room: &'a mut HeaderRoom<'input>,
    bounds: &HeadBounds,
) -> Result<Head<'a>, HttpError> {
    if has_bare_end(input, 0) {
        return Err(HttpError::Malformed);
    }
    let room = &mut room.0[..bounds.headers.min(HEADERS_MAX)];
    let mut request = Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(input, room)?;
    if parsed != httparse::Status::Complete(input.len()) {
        return Err(HttpError::Malformed);
    }
    let (Some(method), Some(target), Some(minor_version)) =
        (request.method, request.path, request.version)
    else {
        return Err(HttpError::Malformed);
    };
    let (content, headers) = (Content::None, &*request.headers);
    let mut head = Head { method, target, minor_version, content, headers };
    if target.len() > bounds.target_bytes {
        return Err(HttpError::TargetTooLong);
    }
    check_target(target)?;
    check_host(&head)?;
    head.content = content_of(&head)?;
    let is_continue = |what: &[u8]| what.eq_ignore_ascii_case(b"100-continue");
    if minor_version > 0 && !head.elements("expect").all(is_continue) {
        return Err(HttpError::Expectation);
    }
    Ok(head)
}

fn check_target(target: &str) -> Result<(), HttpError> {
    let is_absolute = || {
        target.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphabetic())
        })
    };
    if target.is_ascii() && (target.starts_with('/') || target == "*" || is_absolute()) {
        return Ok(());
    }
    Err(HttpError::Malformed)
}

/// Checks `Host` (RFC 9112, 3.2).
fn check_host(head: &Head<'_>) -> Result<(), HttpError> {
    let mut hosts = head.values("host");
    let is_good = match (hosts.next(), hosts.next()) {
        (None, _) => head.minor_version == 0,
        (Some(host), None) => is_host(host),
        (Some(_), Some(_)) => false,
    };
    is_good.then_some(()).ok_or(HttpError::Host)
}

/// Checks `uri-host [ ":" port ]` (RFC 3986, 3.2.2), which may be empty. Unlike the grammar it
/// allows no comma in names: a recipient could take one for the end of a name.
fn is_host(value: &[u8]) -> bool {
    let is_port = |rest: &str| {
        rest.is_empty()
            || rest.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
    };
    let Ok(text) = str::from_utf8(value) else { return false };
    if let Some((ip, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return ip.parse::<std::net::Ipv6Addr>().is_ok() && is_port(rest);
    }
    let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
    let is_in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(&byte);
    let mut escapes = name.split('%').skip(1);
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    name.bytes().all(is_in_name)
        && escapes.all(|rest| is_hex(rest.as_bytes().first()) && is_hex(rest.as_bytes().get(1)))
        && is_port(rest)
}

/// Determines the framing of the body (RFC 9112, 6.3, for requests).
fn content_of(head: &Head<'_>) -> Result<Content, HttpError> {
    let is_encoded = head.values("transfer-encoding").next().is_some();
    let mut lengths = head.values("content-length");
    let length = lengths.next();
    if lengths.next().is_some() || (is_encoded && length.is_some()) {
        return Err(HttpError::ContentLength);
    }
    if is_encoded {
        return transfer_encoding(head);
    }
    let Some(length) = length else { return Ok(Content::None) };
    if !length.iter().all(u8::is_ascii_digit) {
        return Err(HttpError::ContentLength);
    }
    let length = str::from_utf8(length).ok().and_then(|length| length.parse().ok());
    length.map(Content::Length).ok_or(HttpError::ContentLength)
}

/// Accepts `chunked` once, and not from an HTTP/1.0 client, which cannot know it (RFC 9112, 6.1).
fn transfer_encoding(head: &Head<'_>) -> Result<Content, HttpError> {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if !head.elements("transfer-encoding").all(is_chunked) {
        return Err(HttpError::TransferEncoding);
    }
    if head.elements("transfer-encoding").count() != 1 || head.minor_version == 0 {
        return Err(HttpError::Malformed);
    }
    Ok(Content::Chunked)
}

/// Classifies a request on a WebSocket path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade<'a> {
    /// An opening handshake: respond with [`switching_protocols`].
    Accept {
        /// `Sec-WebSocket-Key`, the base64 of 16 bytes.
        key: &'a str,
    },
    /// Not a handshake.
    NotUpgrade,
    /// A handshake with a version other than 13, or with none.
    BadVersion(Option<&'a str>),
    /// A handshake without a key.
    NoKey,
    /// A handshake with an invalid key, or with several.
    BadKey,
}

impl Upgrade<'_> {
    /// Returns the closing response to a rejected request (protocol part 5); `None` for `Accept`.
    /// For another version: the status of RFC 6455, 4.2.2, with the text that clients know.
    pub fn refusal(&self) -> Option<Response> {
        let response = match self {
            Upgrade::Accept { .. } => return None,
            Upgrade::NotUpgrade => Response::new(400).text("Not a valid websocket request"),
            Upgrade::BadVersion(_) => Response::new(426)
                .header("Upgrade", "websocket")
                .header("Connection", "Upgrade")
                .header("Sec-WebSocket-Version", "13")
                .text("Only supported WebSocket protocol is RFC 6455."),
            Upgrade::NoKey => {
                Response::new(400).text("Missing handshake request header: Sec-WebSocket-Key")
            }
            Upgrade::BadKey => {
                Response::new(400).text("Invalid handshake request header: Sec-WebSocket-Key")
            }
        };
        Some(response.close())
    }
}

/// Checks whether a request opens a WebSocket (RFC 6455, 4.2.1). A request with a body does not:
/// its bytes would be taken for frames.
pub fn upgrade<'a>(head: &Head<'a>) -> Upgrade<'a> {
    let is_upgrade = head.method == "GET"
        && head.minor_version > 0
        && head.list_has("upgrade", "websocket")
        && head.list_has("connection", "upgrade")
        && matches!(head.content, Content::None | Content::Length(0));
    if !is_upgrade {
        return Upgrade::NotUpgrade;
    }
    let version = head.only("sec-websocket-version");
    if version != Some("13") {
        return Upgrade::BadVersion(version);
    }
    if head.values("sec-websocket-key").next().is_none() {
        return Upgrade::NoKey;
    }
    match head.only("sec-websocket-key") {
        Some(key) if ws::is_valid_key(key) => Upgrade::Accept { key },
        _ => Upgrade::BadKey,
    }
}

/// Fuzz target. The first byte sets the step size of the search for the end of the head. Panics if
/// the steps make a difference, or if something parsed does not lie within the input.
pub fn fuzz_head(data: &[u8]) {
    let Some((step, input)) = data.split_first() else { return };
    let end = find_head_end(input, 0);
    let mut scanned = 0;
    let stepwise = loop {
        let next = (scanned + 1 + *step as usize).min(input.len());
        let found = find_head_end(&input[..next], scanned);
        if found.is_some() || next == input.len() {
            break found;
        }
        scanned = next;
    };
    assert_eq!(stepwise, end);
    let Some(end) = end else { return };
    let input = &input[..end];
    let bounds = HeadBounds { headers: 64, target_bytes: 2048 };
    let mut room = HeaderRoom::default();
    let head = match parse_head(input, &mut room, &bounds) {
        Ok(head) => head,
        Err(error) => {
            let answer = error.response();
            assert!(answer.closes());
            return assert!(answer.encode(None).ends_with(format!("\r\n\r\n{error}\n").as_bytes()));
        }
    };
    let range = input.as_ptr_range();
    let check = |part: &[u8]| {
        let part = part.as_ptr_range();
        assert!(range.start <= part.start && part.end <= range.end);
    };
    check(head.method.as_bytes());
    check(head.target.as_bytes());
    assert!(head.target.ends_with(head.query().unwrap_or_default()));
    assert!(head.path().starts_with('/') || head.path() == "*");
    for header in head.headers {
        check(header.name.as_bytes());
        check(header.value);
        assert!(!header.value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        assert!(!header.name.ends_with([' ', '\t']));
    }
    assert!(head.minor_version == 0 || head.values("host").count() == 1);
    assert!(head.headers.iter().all(|header| head.has(header.name)));
    assert_eq!(
        upgrade(&head).refusal().is_none(),
        matches!(upgrade(&head), Upgrade::Accept { .. })
    );
    head.keep_alive();
}
