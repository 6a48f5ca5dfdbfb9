//! Parses a server's output into messages without copying: WebSocket frames and their contents,
//! lines of a streamed answer, numbers inside messages. Pure over slices.

use super::Fault;
use super::protocol::Protocol;
use crate::codec::ws::Opcode;

/// An item that a subscriber received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// A message, without the protocol's framing.
    Message(&'a [u8]),
    /// A WebSocket ping: the pong must have this payload.
    Ping(&'a [u8]),
    /// A ping of the protocol above, whose answer is constant.
    Poll,
    /// A streamed HTTP answer has ended; the next one must be requested.
    AnswerOver,
    /// The server closes, with this close frame.
    Close(&'a [u8]),
}

type Found<'f> = &'f mut dyn FnMut(Said<'_>) -> Result<(), Fault>;

/// State of one connection between two reads, beside the few unconsumed bytes in the read buffer.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// The start of a message that continues in another WebSocket frame.
    partial: Vec<u8>,
    /// The start of an item that may exceed a read: SockJS puts all queued messages into one frame.
    long: Vec<u8>,
}

/// More unconsumed bytes than this are moved to [`Kept::long`].
const LONG_BYTES: usize = 16_384;

/// Calls `found` for each complete item; returns how much of the input was consumed.
pub(super) fn scan(
    protocol: Protocol,
    input: &[u8],
    kept: &mut Kept,
    found: Found<'_>,
) -> Result<usize, Fault> {
    if kept.long.is_empty() {
        let used = cut(protocol, input, &mut kept.partial, found)?;
        if input.len() - used <= LONG_BYTES {
            return Ok(used);
        }
        kept.long.extend_from_slice(&input[used..]);
    } else {
        kept.long.extend_from_slice(input);
        let used = cut(protocol, &kept.long, &mut kept.partial, found)?;
        kept.long.drain(..used);
    }
    Ok(input.len())
}

fn cut(
    protocol: Protocol,
    input: &[u8],
    partial: &mut Vec<u8>,
    found: Found<'_>,
) -> Result<usize, Fault> {
    if protocol == Protocol::XhrStreaming {
        return lines(input, found);
    }
    let (mut at, mut length) = (0, 0);
    while let Some((first, payload, end)) = frame(&input[at..]) {
        let payload = &input[at + payload..at + end];
        at += end;
        match first {
            TEXT | BINARY if protocol.is_stream() => stream(protocol, payload, partial, found)?,
            TEXT | BINARY if protocol == Protocol::SockJs => {
                framed(payload, &mut length, found)?;
            }
            TEXT | BINARY => found(Said::Message(payload))?,
            PING => found(Said::Ping(payload))?,
            CLOSE => found(Said::Close(payload))?,
            PONG => {}
            _ => return Err(Fault::new("a frame came that is a fragment or compressed")),
        }
    }
    Ok(at)
}

const WHOLE: u8 = 0x80;
const TEXT: u8 = WHOLE | Opcode::Text as u8;
const BINARY: u8 = WHOLE | Opcode::Binary as u8;
const PING: u8 = WHOLE | Opcode::Ping as u8;
const PONG: u8 = WHOLE | Opcode::Pong as u8;
const CLOSE: u8 = WHOLE | Opcode::Close as u8;

/// The first byte of the WebSocket frame at the start of the input, and where its payload begins
/// and ends; `None` if it is incomplete.
fn frame(input: &[u8]) -> Option<(u8, usize, usize)> {
    let (start, bytes) = match *input {
        [_, short, ..] if short < 126 => (2, u64::from(short)),
        [_, 126, a, b, ..] => (4, u64::from(u16::from_be_bytes([a, b]))),
        [_, 127, a, b, c, d, e, f, g, h, ..] => (10, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => return None,
    };
    let end = usize::try_from(bytes).ok()?.checked_add(start)?;
    input.first().filter(|_| end <= input.len()).map(|first| (*first, start, end))
}

/// A SockJS frame: messages, a close, or a heartbeat. Most messages are as long as the one before,
/// so the end is first expected there.
fn framed(frame: &[u8], length: &mut usize, found: Found<'_>) -> Result<(), Fault> {
    if frame.starts_with(b"c[") {
        return found(Said::Close(frame));
    }
    let mut rest = frame.strip_prefix(b"a[").unwrap_or_default();
    while let Some(string) = rest.strip_prefix(b"\"") {
        let is_end = |at: usize| {
            let behind = string.get(at..).unwrap_or_default();
            let is_quoted = at > 0 && string.get(at - 1) == Some(&b'\\');
            !is_quoted && (behind.starts_with(b"\",") || behind == b"\"]")
        };
        if !is_end(*length) {
            // A quote inside a message follows a backslash, and our messages do not end in one.
            *length = (0..string.len()).find(|at| is_end(*at)).unwrap_or(string.len());
        }
        let (message, behind) = string.split_at(*length);
        found(Said::Message(message))?;
        rest = behind.get(2..).unwrap_or_default();
    }
    Ok(())
}

/// Lines of a streamed answer: SockJS frames between chunk sizes and heads of further answers,
/// which never begin like a frame. Our server sends each frame as one chunk; a proxy may split it,
/// which is a fault here.
fn lines(input: &[u8], found: Found<'_>) -> Result<usize, Fault> {
    let (mut at, mut length, mut message) = (0, 0, 0);
    loop {
        let rest = &input[at..];
        // Most message lines are as long as the one before.
        let is_alike = rest.get(length) == Some(&b'\n') && rest.starts_with(b"a[");
        let end = match is_alike {
            true => length,
            false => match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => end,
                None => return Ok(at),
            },
        };
        match &rest[..end] {
            line if line.starts_with(b"a[") && line.ends_with(b"\r") => {
                return Err(Fault::new(
                    "its answers are cut into other chunks on the way: xhr-streaming is measured \
                     past every proxy",
                ));
            }
            line if line.starts_with(b"a[") => {
                length = end;
                framed(line, &mut message, found)?;
            }
            b"0\r" => found(Said::AnswerOver)?,
            line if line.starts_with(b"c[") => framed(line, &mut message, found)?,
            _ => {}
        }
        at += end + 1;
    }
}

/// Messages of a protocol that uses WebSocket frames as a byte stream: a frame may hold many, and a
/// message may span two.
fn stream(
    protocol: Protocol,
    payload: &[u8],
    partial: &mut Vec<u8>,
    found: Found<'_>,
) -> Result<(), Fault> {
    let messages = if protocol == Protocol::Mqtt { mqtt } else { nats };
    if partial.is_empty() {
        let used = messages(payload, found)?;
        partial.extend_from_slice(&payload[used..]);
        return Ok(());
    }
    let mut joined = std::mem::take(partial);
    joined.extend_from_slice(payload);
    let used = messages(&joined, found)?;
    joined.drain(..used);
    *partial = joined;
    Ok(())
}

/// `MSG subject sid bytes\r\n…\r\n`, and the other lines of a NATS server.
pub(super) fn nats(input: &[u8], found: Found<'_>) -> Result<usize, Fault> {
    let mut at = 0;
    loop {
        let rest = &input[at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(at) };
        let line = rest[..end].trim_ascii_end();
        let mut whole = end + 1;
        if line.starts_with(b"MSG ") {
            let bytes = line.rsplit(|byte| *byte == b' ').next().and_then(digits);
            let bytes = bytes.ok_or_else(|| Fault::new("a message of NATS has no length"))?;
            whole += usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(2);
            let Some(message) = rest.get(..whole) else { return Ok(at) };
            found(Said::Message(message))?;
        } else if line == b"PING" {
            found(Said::Poll)?;
        } else if line.starts_with(b"-ERR") {
            return Err(Fault::new(format!("the server says {}", line.escape_ascii())));
        }
        at += whole;
    }
}

/// Packets of MQTT 3.1.1 (2.2.3: a length of up to four bytes, seven bits each).
fn mqtt(input: &[u8], found: Found<'_>) -> Result<usize, Fault> {
    let mut at = 0;
    loop {
        let rest = &input[at..];
        let Some(kind) = rest.first() else { return Ok(at) };
        let (mut bytes, mut head) = (0, 1);
        loop {
            let Some(byte) = rest.get(head) else { return Ok(at) };
            bytes |= usize::from(byte & 0x7f) << (7 * (head - 1));
            head += 1;
            if byte & 0x80 == 0 || head > 4 {
                break;
            }
        }
        let Some(packet) = rest.get(..head + bytes) else { return Ok(at) };
        if kind >> 4 == 3 {
            found(Said::Message(packet))?;
        }
        at += head + bytes;
    }
}

/// A decimal number.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    };
    (!text.is_empty()).then(|| text.iter().try_fold(0, digit)).flatten()
}

/// Where a message holds the published data, and how long the message is: the same for all messages
/// of a run, so it is determined once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    bytes: usize,
    data_at: usize,
    data_bytes: usize,
}

/// Digits of a message's number.
pub(super) const NUMBER_BYTES: usize = 10;
/// Follows the number, repeated, and occurs in no protocol's framing.
pub(super) const FILL: u8 = b'x';
/// This many in a row are not a coincidence.
const FILL_BYTES: usize = 8;

impl Shape {
    /// The shape of a message with `data_bytes` of data, if it is one of ours.
    pub fn of(message: &[u8], data_bytes: usize) -> Option<Shape> {
        let at = message.windows(FILL_BYTES).position(|part| part == [FILL; FILL_BYTES])?;
        let data_at = at.checked_sub(NUMBER_BYTES)?;
        Some(Shape { bytes: message.len(), data_at, data_bytes })
    }

    /// The number of a message, if it has this shape.
    pub fn number(&self, message: &[u8]) -> Option<u64> {
        let data_at = self.data_at..self.data_at + self.data_bytes;
        if message.len() != self.bytes { None } else { data_number(message.get(data_at)?) }
    }
}

/// The number in the data of a message or value, if only fill follows it.
pub(super) fn data_number(data: &[u8]) -> Option<u64> {
    let (number, fill) = data.split_at_checked(NUMBER_BYTES)?;
    // Compared with itself shifted by one, in one go: each byte equals the one before it.
    let is_fill = fill.first().is_none_or(|first| *first == FILL)
        && fill.get(1..) == fill.len().checked_sub(1).and_then(|all| fill.get(..all));
    if is_fill { digits(number) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All items found, as text, which must be the same for pieces of any size.
    fn items_of(protocol: Protocol, input: &[u8]) -> Vec<String> {
        let mut results = Vec::new();
        for piece in [1, 7, input.len()] {
            let (mut said, mut kept, mut tail) = (Vec::new(), Kept::default(), Vec::new());
            for piece in input.chunks(piece) {
                tail.extend_from_slice(piece);
                let mut found = |it: Said<'_>| {
                    said.push(match it {
                        Said::Message(it) => format!("message {}", it.escape_ascii()),
                        Said::Ping(it) => format!("ping {}", it.escape_ascii()),
                        Said::Close(it) => format!("close {}", it.escape_ascii()),
                        other => format!("{other:?}"),
                    });
                    Ok(())
                };
                let used = scan(protocol, &tail, &mut kept, &mut found).unwrap();
                tail.drain(..used);
            }
            results.push(said);
        }
        assert!(results.windows(2).all(|two| two[0] == two[1]), "{results:?}");
        results.remove(0)
    }

    #[test]
    fn websocket_frames_and_sockjs_messages_are_found() {
        let long = "y".repeat(70_000);
        let mut input = b"\x81\x01a\x89\x01p\x81\x7e\x00\x80".to_vec();
        input.extend([b'z'; 128]);
        input.extend(b"\x81\x7f\0\0\0\0\0\x01\x11\x70");
        input.extend(long.as_bytes());
        input.extend(b"\x88\x02\x03\xe9");
        let [z, y] = ["z".repeat(128), long].map(|text| format!("message {text}"));
        let expected = ["message a", "ping p", &z, &y, "close \\x03\\xe9"];
        assert_eq!(items_of(Protocol::Fws, &input), expected);
        let two = b"\x81\x01h\x81\x0fa[\"b\\\",\",\"cde\"]\x81\x07a[\"fg\"]\x81\x02c[";
        let expected = ["message b\\\\\\\",", "message cde", "message fg", "close c["];
        assert_eq!(items_of(Protocol::SockJs, two), expected);
        let fragment = scan(Protocol::Fws, b"\x01\x01a", &mut Kept::default(), &mut |_| Ok(()));
        assert!(fragment.is_err());
    }

    #[test]
    fn messages_in_nats_mqtt_and_http_streams_are_found() {
        let nats =
            b"\x82\x16MSG b 1 3\r\nabc\r\nPING\r\n\x82\x04MSG \x82\x09b 1 1\r\nd\r\x82\x01\n";
        let expected =
            ["message MSG b 1 3\\r\\nabc\\r\\n", "Poll", "message MSG b 1 1\\r\\nd\\r\\n"];
        assert_eq!(items_of(Protocol::Nats, nats), expected);
        let mqtt = b"\x82\x09\x30\x05\x00\x01bhi\xd0\x00\x82\x01\x30\x82\x04\x03\x00\x01b";
        let expected = ["message 0\\x05\\x00\\x01bhi", "message 0\\x03\\x00\\x01b"];
        assert_eq!(items_of(Protocol::Mqtt, mqtt), expected);
        let http =
            b"\r\n8\r\na[\"m\"]\n\r\n8\r\na[\"n\"]\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n2\r\nh\n";
        let expected = ["message m", "message n", "AnswerOver"];
        assert_eq!(items_of(Protocol::XhrStreaming, http), expected);
        let cut = b"\r\n4\r\na[\"m\r\n3\r\n\"]\n\r\n";
        let fault = scan(Protocol::XhrStreaming, cut, &mut Kept::default(), &mut |_| Ok(()));
        assert!(fault.unwrap_err().to_string().contains("past every proxy"));
    }

    #[test]
    fn sequence_numbers_are_read_at_their_known_position() {
        let message = |number: &str| format!("{{\"data\":\"{number}xxxxxxxxxx\"}}").into_bytes();
        let shape = Shape::of(&message("0000000017"), 20).unwrap();
        assert_eq!(shape.number(&message("0000000018")), Some(18));
        assert_eq!(shape.number(&message("000000018")), None, "shorter");
        assert_eq!(shape.number(&message("00000000-8")), None);
        assert!(Shape::of(b"xxxxxxxx", 8).is_none() && Shape::of(b"hello", 8).is_none());
        let garbled = String::from_utf8(message("0000000018")).unwrap().replace("xx\"", "x?\"");
        assert_eq!(shape.number(garbled.as_bytes()), None, "another byte behind the number");
        assert_eq!((data_number(b"0000000018"), data_number(b"18")), (Some(18), None));
        assert_eq!((digits(b"0120"), digits(b""), digits(b"1a")), (Some(120), None, None));
    }
}
