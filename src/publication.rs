//! One message to many: its JSON once, each wire form at most once, and only if somebody needs it.
//! The hub passes publications on without looking inside.

use std::cell::OnceCell;

use crate::codec::{json, sockjs, ws};
use crate::frame::Frame;

/// How a peer wants its messages wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One WebSocket text message is one JSON message.
    Raw,
    /// SockJS over WebSocket: `a["…"]` in a text message.
    SockJs,
}

/// One message on its way to any number of peers.
#[derive(Debug)]
pub struct Publication<'a> {
    channel: &'a str,
    data: &'a str,
    raw: OnceCell<Frame>,
    sockjs: OnceCell<Frame>,
}

impl<'a> Publication<'a> {
    /// `data` is JSON text and goes out as it is.
    pub fn new(channel: &'a str, data: &'a str) -> Publication<'a> {
        Publication { channel, data, raw: OnceCell::new(), sockjs: OnceCell::new() }
    }

    /// The bytes for peers of that form; encoded at the first call, shared afterwards.
    pub fn frame(&self, form: Form) -> &Frame {
        match form {
            Form::Raw => self.raw.get_or_init(|| {
                let mut scratch = Vec::with_capacity(self.message_bytes() + ws::HEADER_BYTES);
                ws::text_frame_with(&mut scratch, |out| self.write_message(out))
            }),
            Form::SockJs => self.sockjs.get_or_init(|| {
                let mut message = Vec::with_capacity(self.message_bytes());
                self.write_message(&mut message);
                message_frame(Form::SockJs, str::from_utf8(&message).unwrap_or_default())
            }),
        }
    }

    /// The forms that have been encoded so far.
    pub fn encoded(&self) -> impl Iterator<Item = (Form, &Frame)> {
        let forms = [(Form::Raw, &self.raw), (Form::SockJs, &self.sockjs)];
        forms.into_iter().filter_map(|(form, cell)| Some((form, cell.get()?)))
    }

    /// Takes a frame that an equal publication has encoded before.
    pub fn lend(&self, form: Form, frame: &Frame) {
        let cell = match form {
            Form::Raw => &self.raw,
            Form::SockJs => &self.sockjs,
        };
        cell.get_or_init(|| frame.clone());
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
    match form {
        Form::Raw => ws::text_frame(message.as_bytes()),
        Form::SockJs => {
            // Quotes are the most that most messages have to escape.
            let mut scratch = Vec::with_capacity(message.len() + message.len() / 4 + 16);
            ws::text_frame_with(&mut scratch, |out| sockjs::message_into(out, message))
        }
    }
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
        assert_eq!(&sockjs[2..], br#"a["{\"event\":\"n\\\"1\",\"data\":{\"a\": 1.0}}"]"#);
        assert_eq!(publication.encodings(), 2);
    }
}
