//! Messages that wait to be heard.

use std::fmt::Write;

/// Messages as they were said, in one text, so that they take hardly more than they came in: in
/// front of each stand its length in bytes and a colon, which is no more than a raw frame has
/// around it, and one or two bytes more than an array of SockJS from a hundred bytes on.
#[derive(Debug, Default)]
pub(super) struct Said(String);

impl Said {
    /// One more waits behind the others.
    pub fn push(&mut self, message: &str) {
        // Memory takes all that is written.
        let _ = write!(self.0, "{}:{message}", message.len());
    }

    /// All these wait behind the others.
    pub fn append(&mut self, messages: Waiting<'_>) {
        self.0.push_str(messages.0);
    }

    /// All of them, in order.
    pub fn iter(&self) -> Waiting<'_> {
        Waiting(&self.0)
    }

    /// Takes the first of which that can be said, if it holds; the others stay in their order.
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

    /// How long all of them are, in bytes, with what stands in front of each.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Memory for them, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.0.capacity()
    }
}

/// Messages that have not been handed out.
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

    fn said() -> Said {
        let mut said = Said::default();
        MESSAGES.iter().for_each(|message| said.push(message));
        said
    }

    #[test]
    fn messages_come_back_as_they_were_said() {
        let said = said();
        assert_eq!(said.iter().collect::<Vec<_>>(), MESSAGES);
        let mut messages = said.iter();
        assert_eq!(messages.by_ref().take(2).collect::<Vec<_>>(), MESSAGES[..2]);
        let mut other = Said::default();
        other.push("first");
        other.append(messages);
        let others: Vec<_> = ["first"].iter().chain(&MESSAGES[2..]).copied().collect();
        assert_eq!(other.iter().collect::<Vec<_>>(), others);
        assert_eq!(Said::default().iter().next(), None);
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

    /// With the header of its frame, which is masked, none takes more than it came in.
    #[test]
    fn no_message_takes_more_than_its_frame() {
        for length in [0, 1, 9, 10, 125, 126, 9999, 65_535, 65_536, 100_000] {
            let header = 4 + match length {
                0..126 => 2,
                126..65_536 => 4,
                _ => 10,
            };
            let mut said = Said::default();
            said.push(&"\0".repeat(length));
            assert!(said.bytes() <= header + length, "{length}");
        }
    }
}
