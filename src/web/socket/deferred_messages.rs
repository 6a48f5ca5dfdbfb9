//! Messages that wait to be handled.

use std::io::Write;

use crate::web::Message;

/// Messages in one buffer, so that they take hardly more memory than their frames did. Each is
/// prefixed by its length in bytes and its kind, a colon for text or a semicolon for binary: no
/// more than the header of a raw frame, and from a hundred bytes on one or two bytes more than in a
/// SockJS array.
#[derive(Debug, Default)]
pub(super) struct DeferredMessages(Vec<u8>);

impl DeferredMessages {
    /// Appends a message.
    pub fn push(&mut self, message: Message<'_>) {
        let (bytes, kind) = match message {
            Message::Text(text) => (text.as_bytes(), ':'),
            Message::Binary(bytes) => (bytes, ';'),
        };
        // Writing to memory cannot fail.
        let _ = write!(self.0, "{}{kind}", bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Appends the messages that are left of an iterator.
    pub fn append(&mut self, messages: Waiting<'_>) {
        self.0.extend_from_slice(messages.0);
    }

    /// Iterates over all messages, in order.
    pub fn iter(&self) -> Waiting<'_> {
        Waiting(&self.0)
    }

    /// Removes the first message for which `is_it` returns `Some`, if that is `Some(true)`. Bytes
    /// that are not UTF-8 are none of those.
    pub fn take(&mut self, is_it: impl Fn(&str) -> Option<bool>) -> Option<DeferredMessages> {
        let (mut messages, all) = (self.iter(), self.0.len());
        loop {
            let start = all - messages.0.len();
            let message = messages.next()?;
            let Some(is_it) = message.as_text().and_then(&is_it) else { continue };
            let end = all - messages.0.len();
            return is_it.then(|| DeferredMessages(self.0.drain(start..end).collect()));
        }
    }

    /// The length of all messages with their prefixes, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The memory they take, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.0.capacity()
    }
}

/// The messages that an iterator has not yielded yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting<'a>(&'a [u8]);

impl<'a> Iterator for Waiting<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let end = self.0.iter().position(|byte| !byte.is_ascii_digit())?;
        let (length, rest) = self.0.split_at_checked(end)?;
        let (kind, rest) = rest.split_first()?;
        let length = str::from_utf8(length).ok()?.parse().ok()?;
        let (message, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        match kind {
            b':' => str::from_utf8(message).ok().map(Message::Text),
            _ => Some(Message::Binary(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Message::{Binary, Text};

    const MESSAGES: [Message<'static>; 8] = [
        Text(""),
        Text("3:"),
        Text("\0\u{1f}\"\\"),
        Text("ü:😀"),
        Text(""),
        Binary(b"12"),
        Binary(b"3;\xff"),
        Text("12"),
    ];

    fn deferred() -> DeferredMessages {
        let mut deferred = DeferredMessages::default();
        MESSAGES.iter().for_each(|message| deferred.push(*message));
        deferred
    }

    #[test]
    fn messages_are_returned_as_received() {
        let deferred = deferred();
        assert_eq!(deferred.iter().collect::<Vec<_>>(), MESSAGES);
        let mut messages = deferred.iter();
        assert_eq!(messages.by_ref().take(2).collect::<Vec<_>>(), MESSAGES[..2]);
        let mut other = DeferredMessages::default();
        other.push(Text("first"));
        other.append(messages);
        let others: Vec<_> = [Text("first")].iter().chain(&MESSAGES[2..]).copied().collect();
        assert_eq!(other.iter().collect::<Vec<_>>(), others);
        assert_eq!(DeferredMessages::default().iter().next(), None);
    }

    #[test]
    fn the_first_matching_message_is_removed() {
        for at in [0, 1, 2, 3, 5] {
            let mut deferred = deferred();
            assert!(deferred.take(|_| Some(false)).is_none());
            let is_it = |other: &str| (Some(other) == MESSAGES[at].as_text()).then_some(true);
            let taken = deferred.take(is_it).unwrap();
            assert_eq!(taken.iter().collect::<Vec<_>>(), [MESSAGES[at]]);
            let mut others = MESSAGES.to_vec();
            others.remove(at);
            assert_eq!(deferred.iter().collect::<Vec<_>>(), others);
            assert!(deferred.take(|_| None).is_none());
        }
    }

    /// No message takes more than its frame did, with the header of a masked frame.
    #[test]
    fn no_message_takes_more_than_its_frame() {
        for length in [0, 1, 9, 10, 125, 126, 9999, 65_535, 65_536, 100_000] {
            let header = 4 + match length {
                0..126 => 2,
                126..65_536 => 4,
                _ => 10,
            };
            let mut deferred = DeferredMessages::default();
            deferred.push(Text(&"\0".repeat(length)));
            assert!(deferred.bytes() <= header + length, "{length}");
        }
    }
}
