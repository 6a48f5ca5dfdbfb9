//! One HTTP/1.1 request and its answer, byte by byte.

use super::wire::Wire;
use std::io::Write;
use std::net::SocketAddr;

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Lower-case names and values, in their order.
    pub headers: Vec<(String, String)>,
    /// The body as received.
    pub body: String,
}

impl Answer {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Sends a request (`GET /path`) with `Connection: close` and reads to the end of the stream.
///
/// # Errors
/// What is wrong with the answer, or that there is none.
pub fn request(server: SocketAddr, line: &str, headers: &[&str]) -> Result<Answer, String> {
    let mut wire = Wire::tcp(server);
    let mut head = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    wire.write_all(head.as_bytes()).map_err(|error| format!("cannot send: {error}"))?;
    let bytes = wire.read_rest()?;
    if line.starts_with("HEAD ") {
        return head_of(&bytes);
    }
    answer(&bytes)
}

/// Parses an answer that has no body, whatever its headers say.
fn head_of(bytes: &[u8]) -> Result<Answer, String> {
    let text = String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(format!("no head in {text:?}"))?;
    if !body.is_empty() {
        return Err(format!("a body where there must be none: {body:?}"));
    }
    parse_head(head)
}

/// Parses an answer.
///
/// # Errors
/// What is wrong with it.
pub fn answer(bytes: &[u8]) -> Result<Answer, String> {
    let text = String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(format!("no head in {text:?}"))?;
    let mut answer = parse_head(head)?;
    answer.body = body.into();
    match answer.header("content-length").map(str::parse::<usize>) {
        Some(Ok(length)) if length == body.len() => Ok(answer),
        None if body.is_empty() => Ok(answer),
        _ => Err(format!("a body that its length does not tell: {answer:?}")),
    }
}

fn parse_head(head: &str) -> Result<Answer, String> {
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or(format!("no status in {head:?}"))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or(format!("header {line:?}"))?;
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    Ok(Answer { status, headers, body: String::new() })
}
