//! Messages that wait to be handled.

use std::fmt::Write;

/// Messages in one string, so that they take hardly more memory than their frames did. Each is
/// prefixed by its length in bytes and a colon: no more than the header of a raw frame, and from a
/// hundred bytes on one or two bytes more than in a SockJS array.
#[derive(Debug, Default)]
pub(super) struct DeferredMessages(String);

impl DeferredMessages {
    /// Appends a message.
    pub fn push(&mut self, message: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{}:{message}", message.len());
    }

    /// Appends the messages that are left of an iterator.
    pub fn append(&mut self, messages: Waiting<'_>) {
        self.0.push_str(messages.0);
    }

    /// Iterates over all messages, in order.
    pub fn iter(&self) -> Waiting<'_> {
        Waiting(&self.0)
    }

    /// Removes the first message for which `is_it` returns `Some`, if that is `Some(true)`.
    pub fn take(&mut self, is_it: impl Fn(&str) -> Option<bool>) -> Option<String> {
        let (mut messages, all) = (self.iter(), self.0.len());
        loop {
            let start = all - messages.0.len();
            let message = messages.next()?;
            let Some(is_it) = is_it(message) else { continue };
            let (message, end) = (is_it.then(|| message.to_owned())?, all - messages.0.len());
            self.0.replace_range(start..end, "");
            return Some(message);
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
pub(super) struct Waiting<'a>(&'a str);

impl<'a> Iterator for Waiting<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (length, rest) = self.0.split_once(':')?;
        let (message, rest) = rest.split_at_checked(length.parse().ok()?)?;
        self.0 = rest;
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: [&str; 6] = ["", "3:", "\0\u{1f}\"\\", "ü:😀", "", "12"];

    fn said() -> DeferredMessages {
        let mut said = DeferredMessages::default();
        MESSAGES.iter().for_each(|message| said.push(message));
        said
    }

    #[test]
    fn messages_come_back_as_they_were_said() {
        let said = said();
        assert_eq!(said.iter().collect::<Vec<_>>(), MESSAGES);
        let mut messages = said.iter();
        assert_eq!(messages.by_ref().take(2).collect::<Vec<_>>(), MESSAGES[..2]);
        let mut other = DeferredMessages::default();
        other.push("first");
        other.append(messages);
        let others: Vec<_> = ["first"].iter().chain(&MESSAGES[2..]).copied().collect();
        assert_eq!(other.iter().collect::<Vec<_>>(), others);
        assert_eq!(DeferredMessages::default().iter().next(), None);
    }

    #[test]
    fn the_first_that_is_meant_is_taken_out() {
        for (at, message) in MESSAGES.iter().enumerate().filter(|(at, _)| *at != 4) {
            let mut said = said();
            assert_eq!(said.take(|_| Some(false)), None);
            let is_it = |other: &str| (other == *message).then_some(true);
            assert_eq!(said.take(is_it).as_deref(), Some(*message));
            let mut others = MESSAGES.to_vec();
            others.remove(at);
            assert_eq!(said.iter().collect::<Vec<_>>(), others);
            assert_eq!(said.take(|_| None), None);
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
            let mut said = DeferredMessages::default();
            said.push(&"\0".repeat(length));
            assert!(said.bytes() <= header + length, "{length}");
        }
    }
}
