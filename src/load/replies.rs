//! A server's replies to publications and commands: each is checked, and an error fails the run.

use super::crowd::words;
use super::protocol::{Protocol, SUCCESS};
use super::scan::{self, Said};
use super::{Action, Fault};

/// The replies found in some input.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Replies {
    /// How much of the input was consumed.
    pub used: usize,
    /// The number of replies.
    pub count: usize,
    /// The number of pings to answer.
    pub polls: usize,
}

fn refused(answer: &[u8]) -> Fault {
    Fault::new(format!("the server refuses: {}", words(answer)))
}

/// The server sent more replies than requests.
pub(super) fn too_many() -> Fault {
    Fault::new("the server replies more often than it was asked")
}

/// Parses replies to publications.
pub(super) fn to_publications(protocol: Protocol, input: &[u8]) -> Result<Replies, Fault> {
    match protocol {
        Protocol::Fws | Protocol::SockJs | Protocol::XhrStreaming => frames(input, None),
        Protocol::Nchan => heads(input),
        Protocol::Nats => {
            let mut polls = 0;
            let used = scan::nats(input, &mut |said| {
                polls += usize::from(said == Said::Poll);
                Ok(())
            })?;
            Ok(Replies { used, count: 0, polls })
        }
        Protocol::Topic | Protocol::Mqtt | Protocol::Redis => {
            Ok(Replies { used: input.len(), ..Replies::default() })
        }
    }
}

/// Parses replies to commands with values of `bytes`.
pub(super) fn to_commands(
    protocol: Protocol,
    action: Action,
    bytes: usize,
    input: &[u8],
) -> Result<Replies, Fault> {
    let is_get = action == Action::Get;
    if protocol != Protocol::Redis {
        return frames(input, is_get.then_some(bytes));
    }
    if !is_get {
        return alike(b"+OK\r\n", 0, input);
    }
    alike(format!("${bytes}\r\n").as_bytes(), bytes, input)
}

/// Parses replies that begin with `start` and, if `bytes` is not 0, go on with a value and CRLF.
fn alike(start: &[u8], bytes: usize, input: &[u8]) -> Result<Replies, Fault> {
    let mut replies = Replies::default();
    let more = if bytes > 0 { bytes + 2 } else { 0 };
    while let Some(answer) = input.get(replies.used..replies.used + start.len() + more) {
        let value = answer.strip_prefix(start).and_then(|value| value.get(..bytes));
        if !value.is_some_and(|value| bytes == 0 || scan::data_number(value).is_some()) {
            return Err(refused(&input[replies.used..]));
        }
        replies.used += answer.len();
        replies.count += 1;
    }
    let rest = &input[replies.used..];
    if !start.starts_with(rest.get(..start.len()).unwrap_or(rest)) {
        return Err(refused(rest));
    }
    Ok(replies)
}

/// Parses our replies: success, or values of `bytes` as they were set.
fn frames(input: &[u8], bytes: Option<usize>) -> Result<Replies, Fault> {
    let mut replies = Replies::default();
    loop {
        let rest = &input[replies.used..];
        let &[a, b, c, d, ..] = rest else { return Ok(replies) };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some(body) = rest.get(4..4 + length) else { return Ok(replies) };
        let Some(0) = rest.get(4 + length) else { return Ok(replies) };
        let is_good = match bytes {
            Some(bytes) => {
                let value = body.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\""));
                let value = value.filter(|value| value.len() == bytes);
                value.is_some_and(|value| scan::data_number(value).is_some())
            }
            None => body == SUCCESS,
        };
        if !is_good {
            return Err(refused(body));
        }
        replies.used += 4 + length + 1;
        replies.count += 1;
    }
}

/// Parses HTTP answers; the status must be 200 to 299.
fn heads(input: &[u8]) -> Result<Replies, Fault> {
    let mut replies = Replies::default();
    loop {
        let rest = &input[replies.used..];
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end) = end else { return Ok(replies) };
        let head = &rest[..end];
        if !head.starts_with(b"HTTP/1.1 2") {
            return Err(refused(head));
        }
        let length = head.split(|byte| *byte == b'\n').find_map(|line| {
            let name = b"content-length:";
            let is_it = line.get(..name.len())?.eq_ignore_ascii_case(name);
            is_it.then(|| scan::digits(line.get(name.len()..)?.trim_ascii())).flatten()
        });
        let whole = end + 4 + usize::try_from(length.unwrap_or_default()).unwrap_or_default();
        if rest.len() < whole {
            return Ok(replies);
        }
        replies.used += whole;
        replies.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::control;

    #[test]
    fn successes_are_counted_and_other_replies_are_errors() {
        let good = control::encode(SUCCESS);
        let three = [&good[..], &good[..], &good[..9]].concat();
        let found = to_publications(Protocol::Fws, &three).unwrap();
        assert_eq!(found, Replies { used: 2 * good.len(), count: 2, polls: 0 });
        let bad = control::encode(br#"{"success":false}"#);
        assert!(to_publications(Protocol::Fws, &bad).is_err());
        let get = |bytes, value: &[u8]| {
            let value = control::encode(value);
            to_commands(Protocol::Fws, Action::Get, bytes, &value).map(|it| it.count)
        };
        assert_eq!(get(13, b"\"0000000017xxx\""), Ok(1));
        assert!(get(14, b"\"0000000017xxx\"").is_err());
        assert!(get(13, b"\"0000000017x?x\"").is_err(), "the value differs");
        let set = |said: &[u8]| to_commands(Protocol::Redis, Action::Set, 3, said);
        assert_eq!(set(b"+OK\r\n+OK\r\n+O").unwrap().count, 2);
        let refusal = Fault::new("the server refuses: -DENIED no\\r\\n");
        assert_eq!(set(b"+OK\r\n-DENIED no\r\n"), Err(refusal));
        let get = |said: &[u8]| to_commands(Protocol::Redis, Action::Get, 12, said);
        assert_eq!(get(b"$12\r\n0000000017xx\r\n$12\r\n00").unwrap().count, 1);
        assert!(get(b"$-1\r\n").is_err() && get(b"$12\r\n0000000017x?\r\n").is_err());
        let http = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 202 A\r\n\r\nHTT";
        assert_eq!(to_publications(Protocol::Nchan, http).unwrap().count, 2);
        assert!(to_publications(Protocol::Nchan, b"HTTP/1.1 404 N\r\n\r\n").is_err());
        let nats = to_publications(Protocol::Nats, b"INFO {}\r\nPING\r\nPI").unwrap();
        assert_eq!((nats.used, nats.polls), (15, 1));
        assert!(to_publications(Protocol::Nats, b"-ERR 'no'\r\n").is_err());
    }
}
