//! One message to many: its JSON once, each wire form at most once, and only if somebody needs it.
//! The hub passes publications on without looking inside.

use std::cell::OnceCell;

use crate::codec::http;
use crate::codec::sockjs::{self, Envelope};
use crate::codec::{json, ws};
use crate::frame::Frame;

/// How a peer wants its messages wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One WebSocket text message is one JSON message.
    Raw,
    /// SockJS over WebSocket: `a["…"]` in a text message.
    SockJs,
    /// What waits in a SockJS session for somebody to collect it: the string of an array.
    Item,
    /// SockJS over an answer that goes on and on, `a["…"]` in its envelope; in a chunk of its own,
    /// or, for clients of HTTP/1.0, without one.
    Stream {
        /// What the frame is wrapped in.
        envelope: Envelope,
        /// Whether that is a chunk.
        is_chunked: bool,
    },
}

impl Form {
    /// How many there are.
    const COUNT: usize = 9;

    /// Every one, in the order of their numbers.
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

/// One message on its way to any number of peers.
#[derive(Debug)]
pub struct Publication<'a> {
    channel: &'a str,
    data: &'a str,
    frames: [OnceCell<Frame>; Form::COUNT],
}

impl<'a> Publication<'a> {
    /// `data` is JSON text and goes out as it is.
    pub fn new(channel: &'a str, data: &'a str) -> Publication<'a> {
        Publication { channel, data, frames: Default::default() }
    }

    /// The bytes for peers of that form; encoded at the first call, shared afterwards.
    pub fn frame(&self, form: Form) -> &Frame {
        self.frames[form.number()].get_or_init(|| match form {
            Form::Raw => {
                let mut scratch = Vec::with_capacity(self.message_bytes() + ws::HEADER_BYTES);
                ws::text_frame_with(&mut scratch, |out| self.write_message(out))
            }
            Form::SockJs | Form::Item => {
                let mut message = Vec::with_capacity(self.message_bytes());
                self.write_message(&mut message);
                message_frame(form, str::from_utf8(&message).unwrap_or_default())
            }
            // Escaping is what costs most: it is done once for all forms over HTTP.
            Form::Stream { envelope, is_chunked } => {
                let items = std::slice::from_ref(self.frame(Form::Item));
                stream_frame(envelope, is_chunked, &array(items))
            }
        })
    }

    /// The forms that have been encoded so far.
    pub fn encoded(&self) -> impl Iterator<Item = (Form, &Frame)> {
        let frames = Form::ALL.into_iter().zip(&self.frames);
        frames.filter_map(|(form, cell)| Some((form, cell.get()?)))
    }

    /// Takes a frame that an equal publication has encoded before.
    pub fn lend(&self, form: Form, frame: &Frame) {
        self.frames[form.number()].get_or_init(|| frame.clone());
    }

    /// How many forms have been encoded so far.
    pub fn encodings(&self) -> usize {
        self.encoded().count()
    }

    /// Length of the message, if the channel's name needs no escapes.
    fn message_bytes(&self) -> usize {
        self.channel.len() + self.data.len() + r#"{"event":"","data":}"#.len()
    }

    /// `{"event":CHANNEL,"data":DATA}` (protocol part 7).
    fn write_message(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"event\":");
        json::quote_into(out, self.channel);
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(self.data.as_bytes());
        out.push(b'}');
    }
}

/// One JSON message, wrapped for a peer of that form.
pub fn message_frame(form: Form, message: &str) -> Frame {
    // Quotes are the most that most messages have to escape.
    let capacity = message.len() + message.len() / 4 + 16;
    match form {
        Form::Raw => ws::text_frame(message.as_bytes()),
        Form::SockJs => {
            let mut scratch = Vec::with_capacity(capacity);
            ws::text_frame_with(&mut scratch, |out| sockjs::message_into(out, message))
        }
        Form::Item => {
            let mut item = Vec::with_capacity(capacity);
            sockjs::escape_into(&mut item, message);
            Frame::from(item)
        }
        Form::Stream { envelope, is_chunked } => {
            let item = message_frame(Form::Item, message);
            stream_frame(envelope, is_chunked, &array(&[item]))
        }
    }
}

/// The SockJS frame of all these items (see [`Form::Item`]), `a["…","…"]`.
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

/// A SockJS frame of any kind, wrapped for an answer that goes on.
pub fn stream_frame(envelope: Envelope, is_chunked: bool, frame: &[u8]) -> Frame {
    let mut payload = Vec::with_capacity(frame.len() + frame.len() / 8 + 32);
    envelope.frame_into(&mut payload, frame);
    if is_chunked { chunk(&payload) } else { Frame::from(payload) }
}

/// A chunk of an answer.
pub fn chunk(payload: &[u8]) -> Frame {
    let header = http::chunk_header(payload.len());
    Frame::from([header.as_bytes(), payload, b"\r\n"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_encoded_once_and_only_on_demand() {
        let publication = Publication::new("n\"1", "{\"a\": 1.0}");
        assert_eq!(publication.encodings(), 0);
        let raw = publication.frame(Form::Raw).clone();
        assert_eq!(&raw[2..], br#"{"event":"n\"1","data":{"a": 1.0}}"#);
        assert_eq!(publication.frame(Form::Raw).as_ptr(), raw.as_ptr());
        assert_eq!(publication.encodings(), 1);
        let sockjs = publication.frame(Form::SockJs);
        let item = br#""{\"event\":\"n\\\"1\",\"data\":{\"a\": 1.0}}""#;
        assert_eq!(sockjs[2..], [&b"a["[..], item, b"]"].concat());
        assert_eq!(publication.encodings(), 2);
        assert_eq!(&**publication.frame(Form::Item), item);
        let all = Envelope::ALL.into_iter().flat_map(|envelope| {
            [true, false].map(|is_chunked| Form::Stream { envelope, is_chunked })
        });
        for form in all {
            let frame = publication.frame(form).clone();
            assert_eq!(publication.frame(form).as_ptr(), frame.as_ptr());
        }
        assert_eq!(publication.encodings(), Form::COUNT);
        for (number, (form, frame)) in publication.encoded().enumerate() {
            assert_eq!((form.number(), frame), (number, publication.frame(form)));
        }
        let line = Form::Stream { envelope: Envelope::Xhr, is_chunked: false };
        assert_eq!(**publication.frame(line), *[&b"a["[..], item, b"]\n"].concat());
    }

    #[test]
    fn a_chunk_is_a_frame_of_its_own() {
        let frame = stream_frame(Envelope::Xhr, true, b"a[\"0123456789\"]");
        assert_eq!(&*frame, b"10\r\na[\"0123456789\"]\n\r\n");
        let items = [message_frame(Form::Item, "x"), message_frame(Form::Item, "\"")];
        assert_eq!(array(&items), br#"a["x","\""]"#);
        assert_eq!(array(&[]), b"a[]");
    }
}
