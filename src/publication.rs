//! A message for many peers, or a run of messages for the same many: the JSON is built once, and
//! each wire form at most once, when a peer needs it. The hub passes it on without looking inside.

use std::cell::OnceCell;

use crate::codec::http;
use crate::codec::sockjs::{self, EncodedLen, Envelope};
use crate::codec::{json, ws};
use crate::frame::Frame;

/// How a peer wants its messages framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One WebSocket text message is one JSON message.
    Raw,
    /// SockJS over WebSocket: `a["…"]` in a text message.
    SockJs,
    /// SockJS message that waits in a session for a receiver: a JSON string, an array element.
    Item,
    /// SockJS over a streaming response, `a["…"]` in its envelope; in a chunk of its own, or
    /// without one for HTTP/1.0 clients.
    Stream {
        /// What the frame is wrapped in.
        envelope: Envelope,
        /// Whether that is sent as a chunk.
        is_chunked: bool,
    },
}

impl Form {
    /// Number of forms.
    const COUNT: usize = 9;

    /// All forms, in the order of their numbers.
    const ALL: [Form; Form::COUNT] = {
        let mut all = [Form::Raw; Form::COUNT];
        (all[1], all[2]) = (Form::SockJs, Form::Item);
        let mut at = 0;
        while at < Envelope::ALL.len() {
            let envelope = Envelope::ALL[at];
            all[3 + 2 * at] = Form::Stream { envelope, is_chunked: false };
            all[4 + 2 * at] = Form::Stream { envelope, is_chunked: true };
            at += 1;
        }
        all
    };

    /// Its number, below [`Form::COUNT`].
    const fn number(self) -> usize {
        match self {
            Form::Raw => 0,
            Form::SockJs => 1,
            Form::Item => 2,
            Form::Stream { envelope, is_chunked } => {
                3 + 2 * envelope as usize + is_chunked as usize
            }
        }
    }
}

/// The numbers of sessions, by how they are carried: each way takes messages in forms of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Raw WebSockets.
    pub raw: usize,
    /// SockJS over WebSocket.
    pub sockjs: usize,
    /// Sessions over HTTP, including those without a receiver.
    pub http: usize,
}

impl Ways {
    /// Upper bound of [`Ways::bytes`] for any data of that length and any sessions.
    pub fn bytes_max(data_bytes: usize) -> usize {
        data_bytes.saturating_mul(Form::COUNT * EncodedLen::FACTOR_MAX)
    }

    /// How many bytes a message with this data takes at most in all forms in use together,
    /// not counting its channel and framing.
    pub fn bytes(self, data: &str) -> usize {
        let raw = if self.raw > 0 { data.len() } else { 0 };
        if self.sockjs + self.http == 0 {
            return raw;
        }
        let EncodedLen { string, event, script } = EncodedLen::of(data);
        let sockjs = if self.sockjs > 0 { string } else { 0 };
        // Each envelope, chunked and unchunked, and the items that wait in sessions.
        let http = if self.http > 0 { string + 2 * (string + event + script) } else { 0 };
        raw + sockjs + http
    }
}

/// Upper bound of the WebSocket frames of a run together.
pub const RUN_BYTES_MAX: usize = 64 * 1024;

/// Messages published on one channel, one directly after the other.
#[derive(Debug, Default)]
pub struct Run {
    /// What each message begins with: `{"event":CHANNEL,"data":`.
    head: Vec<u8>,
    /// The messages as WebSocket frames, one after the other.
    frames: Vec<u8>,
    /// Where each message begins and ends in `frames`.
    messages: Vec<(usize, usize)>,
}

impl Run {
    /// Whether it has no messages.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether there is room for one more message with that data.
    pub fn has_room(&self, data: &str) -> bool {
        self.frames.len() + self.head.len() + data.len() + ws::HEADER_BYTES < RUN_BYTES_MAX
    }

    /// Starts an empty run for a channel.
    pub fn begin(&mut self, channel: &str) {
        self.clear();
        write_head(&mut self.head, channel);
    }

    /// Appends a message. `data` is JSON text and goes out as it is.
    pub fn push(&mut self, data: &str) {
        let bytes = self.head.len() + data.len() + 1;
        let (header, header_bytes) = ws::header(ws::Opcode::Text, bytes);
        self.frames.reserve(header_bytes + bytes);
        self.frames.extend_from_slice(&header[..header_bytes]);
        let start = self.frames.len();
        self.frames.extend_from_slice(&self.head);
        self.frames.extend_from_slice(data.as_bytes());
        self.frames.push(b'}');
        self.messages.push((start, self.frames.len()));
    }

    /// Removes all messages, but keeps the memory.
    pub fn clear(&mut self) {
        self.head.clear();
        self.frames.clear();
        self.messages.clear();
    }

    fn messages(&self) -> impl Iterator<Item = &str> {
        let slices = self.messages.iter().map(|(start, end)| &self.frames[*start..*end]);
        slices.map(|message| str::from_utf8(message).unwrap_or_default())
    }
}

/// The content of a publication.
#[derive(Clone, Copy, Debug)]
enum Said<'a> {
    One { channel: &'a str, data: &'a str },
    Run(&'a Run),
}

/// One message, or a run of them, on its way to any number of peers.
#[derive(Debug)]
pub struct Publication<'a> {
    said: Said<'a>,
    frames: [OnceCell<Frame>; Form::COUNT],
}

impl<'a> Publication<'a> {
    /// A single message. `data` is JSON text and goes out as it is.
    pub fn new(channel: &'a str, data: &'a str) -> Publication<'a> {
        Publication { said: Said::One { channel, data }, frames: Default::default() }
    }

    /// All messages of a run, as one frame.
    pub fn of(run: &'a Run) -> Publication<'a> {
        Publication { said: Said::Run(run), frames: Default::default() }
    }

    /// The frame for peers of this form; encoded at the first call, shared afterwards.
    #[inline]
    pub fn frame(&self, form: Form) -> &Frame {
        self.frames[form.number()].get_or_init(|| match form {
            Form::Raw | Form::SockJs | Form::Item => match self.said {
                Said::One { channel, data } => one_frame(form, channel, data),
                Said::Run(run) => run_frame(form, run),
            },
            // Escaping costs most: it is done once for all forms over HTTP.
            Form::Stream { envelope, is_chunked } => {
                stream_frame(envelope, is_chunked, &[b"a[", self.frame(Form::Item), b"]"])
            }
        })
    }

    /// The forms that have been encoded so far.
    pub fn encoded(&self) -> impl Iterator<Item = (Form, &Frame)> {
        let frames = Form::ALL.into_iter().zip(&self.frames);
        frames.filter_map(|(form, cell)| Some((form, cell.get()?)))
    }

    /// Uses a frame that an equal publication has encoded before.
    pub fn lend(&self, form: Form, frame: &Frame) {
        self.frames[form.number()].get_or_init(|| frame.clone());
    }
}

/// Writes `{"event":CHANNEL,"data":`; the data and `}` follow (protocol part 7).
fn write_head(out: &mut Vec<u8>, channel: &str) {
    out.extend_from_slice(b"{\"event\":");
    json::quote_into(out, channel);
    out.extend_from_slice(b",\"data\":");
}

/// Encodes a single message.
fn one_frame(form: Form, channel: &str, data: &str) -> Frame {
    // Exact if the channel name needs no escapes.
    let bytes = channel.len() + data.len() + r#"{"event":"","data":}"#.len();
    if form == Form::Raw {
        let (header, header_bytes) = ws::header(ws::Opcode::Text, bytes);
        let frame = Frame::with(header_bytes + bytes, |frame| {
            frame.extend_from_slice(&header[..header_bytes]);
            write_head(frame, channel);
            frame.extend_from_slice(data.as_bytes());
            frame.push(b'}');
        });
        return match frame.len() == header_bytes + bytes {
            true => frame,
            false => ws::text_frame(&frame[header_bytes..]),
        };
    }
    let mut head = Vec::with_capacity(bytes - data.len());
    write_head(&mut head, channel);
    message_parts_frame(form, &[str::from_utf8(&head).unwrap_or_default(), data, "}"])
}

/// Encodes a run: its frames one after the other, or its strings separated by commas.
fn run_frame(form: Form, run: &Run) -> Frame {
    if form == Form::Raw {
        return Frame::with(run.frames.len(), |out| out.extend_from_slice(&run.frames));
    }
    // Most messages have nothing to escape but quotes.
    let mut out = Vec::with_capacity(run.frames.len() + run.frames.len() / 4);
    let mut scratch = Vec::new();
    for message in run.messages() {
        if form == Form::SockJs {
            scratch.clear();
            sockjs::message_into(&mut scratch, message);
            ws::encode_into(&mut out, ws::Opcode::Text, &scratch);
        } else {
            if !out.is_empty() {
                out.push(b',');
            }
            sockjs::escape_into(&mut out, message);
        }
    }
    Frame::from(out)
}

/// Encodes one JSON message for a peer of this form.
pub fn message_frame(form: Form, message: &str) -> Frame {
    match form {
        // A message in one piece needs no intermediate buffer.
        Form::Raw => ws::text_frame(message.as_bytes()),
        _ => message_parts_frame(form, &[message]),
    }
}

/// The same for a message in parts.
fn message_parts_frame(form: Form, parts: &[&str]) -> Frame {
    // Most messages have nothing to escape but quotes.
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let capacity = bytes + bytes / 4 + 16;
    match form {
        Form::Raw => ws::text_frame_with(&mut Vec::with_capacity(capacity), |out| {
            parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        }),
        Form::SockJs => ws::text_frame_with(&mut Vec::with_capacity(capacity), |out| {
            out.extend_from_slice(b"a[");
            sockjs::escape_parts_into(out, parts);
            out.push(b']');
        }),
        Form::Item => {
            let mut item = Vec::with_capacity(capacity);
            sockjs::escape_parts_into(&mut item, parts);
            Frame::from(item)
        }
        Form::Stream { envelope, is_chunked } => {
            let item = message_parts_frame(Form::Item, parts);
            stream_frame(envelope, is_chunked, &[b"a[", &item, b"]"])
        }
    }
}

/// The SockJS frame of all these items (see [`Form::Item`]), `a["…","…"]`, with room for a line
/// end.
pub fn array<'a>(items: impl IntoIterator<Item = &'a Frame> + Clone) -> Vec<u8> {
    let bytes: usize = items.clone().into_iter().map(|item| item.len() + 1).sum();
    let mut out = Vec::with_capacity(bytes + 3);
    out.extend_from_slice(b"a[");
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.push(b']');
    out
}

/// Wraps a SockJS frame of any kind, in parts, for a streaming response.
pub fn stream_frame(envelope: Envelope, is_chunked: bool, frame: &[&[u8]]) -> Frame {
    let bytes: usize = frame.iter().map(|part| part.len()).sum();
    let mut payload = Vec::with_capacity(bytes + bytes / 8 + 64);
    envelope.frame_into(&mut payload, frame);
    if is_chunked { chunk(payload) } else { Frame::from(payload) }
}

/// Makes a chunk of a chunked response.
pub fn chunk(mut payload: Vec<u8>) -> Frame {
    let header = http::chunk_header(payload.len());
    payload.reserve_exact(header.len() + 2);
    payload.splice(..0, header.into_bytes());
    payload.extend_from_slice(b"\r\n");
    Frame::from(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_encoded_once_and_only_on_demand() {
        let publication = Publication::new("n\"1", "{\"a\": 1.0}");
        assert_eq!(publication.encoded().count(), 0);
        let raw = publication.frame(Form::Raw).clone();
        assert_eq!(&raw[2..], br#"{"event":"n\"1","data":{"a": 1.0}}"#);
        assert_eq!(publication.frame(Form::Raw).as_ptr(), raw.as_ptr());
        assert_eq!(publication.encoded().count(), 1);
        let sockjs = publication.frame(Form::SockJs);
        let item = br#""{\"event\":\"n\\\"1\",\"data\":{\"a\": 1.0}}""#;
        assert_eq!(sockjs[2..], [&b"a["[..], item, b"]"].concat());
        assert_eq!(publication.encoded().count(), 2);
        assert_eq!(&**publication.frame(Form::Item), item);
        let all = Envelope::ALL.into_iter().flat_map(|envelope| {
            [true, false].map(|is_chunked| Form::Stream { envelope, is_chunked })
        });
        for form in all {
            let frame = publication.frame(form).clone();
            assert_eq!(publication.frame(form).as_ptr(), frame.as_ptr());
        }
        assert_eq!(publication.encoded().count(), Form::COUNT);
        for (number, (form, frame)) in publication.encoded().enumerate() {
            assert_eq!((form.number(), frame), (number, publication.frame(form)));
        }
        let line = Form::Stream { envelope: Envelope::Xhr, is_chunked: false };
        assert_eq!(**publication.frame(line), *[&b"a["[..], item, b"]\n"].concat());
    }

    #[test]
    fn the_size_of_a_message_is_estimated_before_encoding() {
        for data in ["\"<a\\\"b>\"", "\"%\u{2028}😀\"", "[1]"] {
            let data = format!("[{}0]", format!("{data},").repeat(1000));
            let publication = Publication::new("c", &data);
            let bytes = |forms: &[Form]| -> usize {
                forms.iter().map(|form| publication.frame(*form).len()).sum()
            };
            let (raw, sockjs) = (bytes(&[Form::Raw]), bytes(&[Form::SockJs]));
            let http = bytes(&Form::ALL[2..]);
            let all = Ways { raw: 1, sockjs: 1, http: 1 };
            let near = |bytes: usize, counted: usize| bytes.abs_diff(counted) < 100 * Form::COUNT;
            assert!(near(raw, Ways { raw: 1, ..Ways::default() }.bytes(&data)));
            assert!(near(sockjs, Ways { sockjs: 1, ..Ways::default() }.bytes(&data)));
            assert!(near(http, Ways { http: 1, ..Ways::default() }.bytes(&data)));
            assert!(near(raw + sockjs + http, all.bytes(&data)));
            assert!(all.bytes(&data) <= Ways::bytes_max(data.len()));
            assert_eq!(Ways::default().bytes(&data), 0);
        }
    }

    #[test]
    fn a_run_is_encoded_as_its_messages_are() {
        let (mut run, data) = (Run::default(), ["1", "\"\\u00e9\"", "{\"a\":[]}"]);
        run.begin("n\"1");
        data.iter().for_each(|data| run.push(data));
        let all = Publication::of(&run);
        let each = data.map(|data| Publication::new("n\"1", data));
        for form in [Form::Raw, Form::SockJs] {
            let expected: Vec<&[u8]> = each.iter().map(|one| &**one.frame(form)).collect();
            assert_eq!(**all.frame(form), *expected.concat());
        }
        let items = each.each_ref().map(|one| one.frame(Form::Item));
        let stream = Form::Stream { envelope: Envelope::Xhr, is_chunked: false };
        assert_eq!(**all.frame(stream), *[&array(items)[..], b"\n"].concat());
        assert_eq!(array([all.frame(Form::Item)]), array(items));
        run.begin("other");
        assert!(run.is_empty() && run.has_room("1") && !run.has_room(&"1".repeat(RUN_BYTES_MAX)));
    }

    #[test]
    fn stream_frames_are_chunks_and_items_form_an_array() {
        let frame = stream_frame(Envelope::Xhr, true, &[b"a[", b"\"0123456789\"]"]);
        assert_eq!(&*frame, b"10\r\na[\"0123456789\"]\n\r\n");
        let items = [message_frame(Form::Item, "x"), message_frame(Form::Item, "\"")];
        assert_eq!(array(&items), br#"a["x","\""]"#);
        assert_eq!(array(&[]), b"a[]");
    }
}
