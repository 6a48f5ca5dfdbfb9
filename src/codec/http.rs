//! HTTP/1.1 (RFC 9110, RFC 9112): the head of a request, and whole responses.
//!
//! Owns nothing: a [`Head`] is slices of the input, a [`Response`] becomes a frame. Bodies are read
//! by [`BodyReader`] as they arrive. What a path means is decided elsewhere. Called by the web door
//! for connections that have not become a WebSocket, and by the SockJS codec for its headers.

use std::fmt;

use httparse::{EMPTY_HEADER, Header, Request};

use super::ws;

mod body;
mod response;
#[cfg(test)]
mod tests;

pub use body::{BodyError, BodyReader, fuzz_body};
pub use response::{
    CONTINUE, LAST_CHUNK, Response, chunk_header, chunk_payload_bytes, switching_protocols,
};

/// Most header lines of a request that can be had, whatever the limit is.
pub const HEADERS_MAX: usize = 128;

/// What a head may be at most, beside its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadBounds {
    /// Header lines, at most [`HEADERS_MAX`].
    pub headers: usize,
    /// Bytes of the target.
    pub target_bytes: usize,
}

/// Where the head of a request ends: behind its empty line. `scanned` bytes were looked at before,
/// without success, and are not looked at again.
pub fn find_head_end(input: &[u8], scanned: usize) -> Option<usize> {
    // The empty line may have begun in the last three of them.
    let start = scanned.saturating_sub(3);
    let at = input.get(start..)?.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(start + at + 4)
}

/// Whether a line ends otherwise than in CR LF. A recipient may take a LF alone for the end of one
/// (RFC 9112, 2.2); two recipients that differ in this see two requests. `scanned` bytes were
/// looked at before, without success.
pub fn has_bare_end(input: &[u8], scanned: usize) -> bool {
    // Whether a CR is bare shows only behind it.
    let input = &input[scanned.saturating_sub(1).min(input.len())..];
    let is_first_bare = scanned == 0 && input.starts_with(b"\n");
    // All of it without a way out in between: that goes sixteen bytes at a time.
    let is_bare =
        |is_bare, (byte, next): (&u8, &u8)| is_bare | ((*byte == b'\r') != (*next == b'\n'));
    input.iter().zip(input.iter().skip(1)).fold(is_first_bare, is_bare)
}

/// Whether this can be the start of a request. What is none is refused before more of it comes:
/// TLS, the PROXY protocol of somebody who is not believed, a frame of the control port, anything.
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

/// Why a request is refused before anybody looks at what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// Not HTTP, or HTTP that two readers could understand in two ways.
    Malformed,
    /// No `Host`, more than one, or one that is no name and no address.
    Host,
    /// `Content-Length` more than once, not a number, or beside `Transfer-Encoding`.
    ContentLength,
    /// A transfer coding other than `chunked`.
    TransferEncoding,
    /// A version other than 1.0 and 1.1, or something else in its place.
    Version,
    /// More header lines than [`HeadBounds::headers`].
    TooManyHeaders,
    /// A head longer than the limit. For the caller, who knows the limit and keeps the head until
    /// it is complete.
    HeadTooLarge,
    /// A target over [`HeadBounds::target_bytes`].
    TargetTooLong,
    /// A body longer than the limit, declared or come.
    BodyTooLarge,
    /// A body in chunks that are none.
    Chunks,
    /// An `Expect` of something other than `100-continue`.
    Expectation,
}

impl HttpError {
    /// The status to answer with.
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

    /// The answer. It closes: what comes behind a bad head has no meaning.
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

/// What follows the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    None,
    /// A body of so many bytes.
    Length(u64),
    /// A body in chunks.
    Chunked,
}

/// The head of a request.
#[derive(Debug)]
pub struct Head<'a> {
    /// The method, as sent; methods are case-sensitive.
    pub method: &'a str,
    /// The target, as sent: printable ASCII, at most [`HeadBounds::target_bytes`].
    pub target: &'a str,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor_version: u8,
    /// What follows.
    pub content: Content,
    headers: [Header<'a>; HEADERS_MAX],
    header_count: usize,
}

impl<'a> Head<'a> {
    /// The first header of that name (in any case); `None` too if its value is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.values(name).next().and_then(|value| str::from_utf8(value).ok())
    }

    /// Whether the client waits for `100 Continue` before it sends the body (RFC 9110, 10.1.1).
    /// A client of HTTP/1.0 cannot mean it.
    pub fn expects_continue(&self) -> bool {
        self.minor_version > 0 && self.list_has("expect", "100-continue")
    }

    /// Whether there is a header of that name, on however many lines.
    pub fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// The header of that name if it stands there once, with a value that is UTF-8.
    pub fn only(&self, name: &str) -> Option<&'a str> {
        let mut values = self.values(name);
        let value = values.next()?;
        if values.next().is_some() { None } else { str::from_utf8(value).ok() }
    }

    /// Whether a header that is a list (RFC 9110, 5.6.1), on all its lines, has this token in any
    /// case.
    pub fn list_has(&self, name: &str, token: &str) -> bool {
        self.elements(name).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Whether the connection lives on after the answer (RFC 9112, 9.3).
    pub fn keep_alive(&self) -> bool {
        let is_asked = self.minor_version > 0 || self.list_has("connection", "keep-alive");
        is_asked && !self.list_has("connection", "close")
    }

    /// The path, without the query and never normalised; `*` for `OPTIONS *`.
    pub fn path(&self) -> &'a str {
        let path = self.origin_form();
        match path.split_once('?') {
            Some(("", _)) => "/",
            Some((path, _)) => path,
            None if path.is_empty() => "/",
            None => path,
        }
    }

    /// What stands behind the `?` of the target, if there is one.
    pub fn query(&self) -> Option<&'a str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The target without scheme and authority (RFC 9112, 3.2.2).
    fn origin_form(&self) -> &'a str {
        if self.target.starts_with('/') {
            return self.target;
        }
        match self.target.split_once("://") {
            Some((_, rest)) => &rest[rest.find(['/', '?']).unwrap_or(rest.len())..],
            None => self.target,
        }
    }

    fn headers(&self) -> &[Header<'a>] {
        &self.headers[..self.header_count]
    }

    fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let named = move |header: &&Header<'a>| header.name.eq_ignore_ascii_case(name);
        self.headers().iter().filter(named).map(|header| header.value)
    }

    /// The elements of a header that is a list, on all its lines; empty ones do not count.
    pub fn elements(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let elements = self.values(name).flat_map(|value| value.split(|byte| *byte == b','));
        elements.map(|element| element.trim_ascii()).filter(|element| !element.is_empty())
    }
}

/// Parses a complete head, up to and including its empty line (see [`find_head_end`]).
///
/// Stricter than httparse where leniency is a way to smuggle a request past a proxy: lines end in
/// CR LF, there is one `Host` and one meaning of the body's length.
///
/// # Errors
/// [`HttpError`].
pub fn parse_head<'a>(input: &'a [u8], bounds: &HeadBounds) -> Result<Head<'a>, HttpError> {
    if has_bare_end(input, 0) {
        return Err(HttpError::Malformed);
    }
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers[..bounds.headers.min(HEADERS_MAX)]);
    if request.parse(input)? != httparse::Status::Complete(input.len()) {
        return Err(HttpError::Malformed);
    }
    let (Some(method), Some(target), Some(minor_version)) =
        (request.method, request.path, request.version)
    else {
        return Err(HttpError::Malformed);
    };
    let header_count = request.headers.len();
    let content = Content::None;
    let mut head = Head { method, target, minor_version, content, headers, header_count };
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

/// RFC 9112, 3.2.
fn check_host(head: &Head<'_>) -> Result<(), HttpError> {
    let mut hosts = head.values("host");
    let is_good = match (hosts.next(), hosts.next()) {
        (None, _) => head.minor_version == 0,
        (Some(host), None) => is_host(host),
        (Some(_), Some(_)) => false,
    };
    is_good.then_some(()).ok_or(HttpError::Host)
}

/// `uri-host [ ":" port ]` (RFC 3986, 3.2.2), which may be empty. A comma, which the grammar has
/// in names, is no part of any: two readers could take it for the end of one.
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

/// RFC 9112, 6.3, for requests.
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

/// `chunked`, once, and not from a client of HTTP/1.0, which cannot know it (RFC 9112, 6.1).
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

/// What a request on a WebSocket path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade<'a> {
    /// An opening handshake: answer with [`switching_protocols`].
    Accept {
        /// `Sec-WebSocket-Key`, the base64 of 16 bytes.
        key: &'a str,
    },
    /// Something else.
    NotUpgrade,
    /// A handshake of another version than 13, or of none.
    BadVersion(Option<&'a str>),
    /// A handshake without a key.
    NoKey,
    /// A handshake with a key that is none, or with several.
    BadKey,
}

impl Upgrade<'_> {
    /// The answer to what is no handshake (protocol part 5; the status for another version is the
    /// one of RFC 6455, 4.2.2, the text the one clients know). It closes. `None` for `Accept`.
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

/// Whether a request opens a WebSocket (RFC 6455, 4.2.1). A request with a body does not: its
/// bytes would be taken for frames.
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

/// Fuzz target. The first byte says in what steps the end of the head is searched. Panics where
/// the steps make a difference, or where something parsed does not lie within the input.
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
    let head = match parse_head(input, &bounds) {
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
    for header in head.headers() {
        check(header.name.as_bytes());
        check(header.value);
        assert!(!header.value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        assert!(!header.name.ends_with([' ', '\t']));
    }
    assert!(head.minor_version == 0 || head.values("host").count() == 1);
    assert!(head.headers().iter().all(|header| head.has(header.name)));
    assert_eq!(
        upgrade(&head).refusal().is_none(),
        matches!(upgrade(&head), Upgrade::Accept { .. })
    );
    head.keep_alive();
}
