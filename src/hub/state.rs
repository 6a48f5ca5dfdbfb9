//! The value of a state: JSON text, or a list that grows by `push`.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use super::index::Named;
use super::{NsId, Place, Row};
use crate::codec::json;
use crate::time::UnixMillis;
use crate::wheel::Timer;

/// A longer text is not looked into for what a `push` would drop of it, because whoever is refused
/// may ask again: that takes as long as reading as much does.
const LOOKED_INTO_BYTES: usize = 64 * 1024;

/// One state of a channel, or of a user in a channel.
#[derive(Debug)]
pub(super) struct State {
    pub ns: NsId,
    pub place: Place,
    pub value: Value,
    /// Most states have no end, and pay only for the pointer.
    pub end: Option<Box<End>>,
}

impl Named for State {
    fn hash(&self, hasher: &DefaultHashBuilder) -> u64 {
        hasher.hash_one(self.place.spot())
    }
}

/// The end of a state.
#[derive(Debug)]
pub(super) struct End {
    /// Not readable from this moment on.
    pub at: UnixMillis,
    /// In the hub's wheel, until it has come.
    pub timer: Option<Timer>,
}

/// A JSON value.
#[derive(Debug)]
pub(super) enum Value {
    Json(Box<str>),
    List(Box<List>),
}

/// Raw JSON elements, the newest last.
#[derive(Debug, Default)]
pub(super) struct List {
    items: VecDeque<Box<str>>,
    /// Length of the list as text: the elements, a comma or bracket before each, a bracket.
    bytes: usize,
}

impl State {
    /// Not readable from this moment on.
    pub fn expires(&self) -> Option<UnixMillis> {
        self.end.as_ref().map(|end| end.at)
    }

    /// What counts against the limits: its name and its value.
    pub fn bytes(&self) -> usize {
        self.place.bytes() + self.value.bytes()
    }

    pub fn row(&self) -> Row<'_> {
        Row::State { text: self.value.text(), expires: self.expires() }
    }
}

impl Value {
    /// The value as JSON text.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Value::Json(text) => Cow::Borrowed(text),
            Value::List(list) => Cow::Owned(list.text()),
        }
    }

    /// Length of the text.
    pub fn bytes(&self) -> usize {
        match self {
            Value::Json(text) => text.len(),
            Value::List(list) => list.text_bytes(),
        }
    }

    /// Whether it is that text, as it was set.
    pub fn is(&self, text: &str) -> bool {
        matches!(self, Value::Json(own) if **own == *text)
    }

    /// Takes another text in place of the one before: in the same memory, if it is as long.
    pub fn overwrite(&mut self, text: &str) {
        match self {
            Value::Json(own) if own.len() == text.len() => {
                let mut bytes = std::mem::take(own).into_string();
                bytes.clear();
                bytes.push_str(text);
                *own = bytes.into();
            }
            _ => *self = Value::Json(text.into()),
        }
    }

    /// Whether `push` can append to it.
    pub fn is_list(&self) -> bool {
        match self {
            Value::Json(text) => text.starts_with('['),
            Value::List(_) => true,
        }
    }

    /// Whether the list gets no longer by one more element of that length, because as much is
    /// dropped for it by these bounds. A text that is long is not looked into, and gets longer.
    pub fn stays_as_short(&self, item: usize, items_max: usize, bytes_max: usize) -> bool {
        match self {
            Value::Json(text) if text.len() <= LOOKED_INTO_BYTES => {
                let last = json::last_elements(text, items_max).unwrap_or_default();
                let lengths = last.iter().map(|item| item.len());
                let bytes = lengths.clone().map(|length| length + 1).sum::<usize>() + item + 2;
                is_no_longer(lengths, bytes, text.len(), (items_max, bytes_max))
            }
            Value::Json(_) => false,
            Value::List(list) => {
                let (lengths, before) =
                    (list.items.iter().map(|item| item.len()), list.text_bytes());
                is_no_longer(lengths, before + item + 1, before, (items_max, bytes_max))
            }
        }
    }

    /// The value as a list, made one if it is the text of one, which is given back: of no more than
    /// so many of its last elements, because as a list they take far more memory, and what stands
    /// in front of them would take far more time. `None` if it is neither.
    pub fn as_list(&mut self, items_max: usize) -> Option<(&mut List, Option<Value>)> {
        let mut was = None;
        if let Value::Json(text) = self {
            let mut list = List::default();
            let last = json::last_elements(text, items_max)?;
            last.into_iter().for_each(|item| list.push(item.into()));
            was = Some(std::mem::replace(self, Value::List(Box::new(list))));
        }
        match self {
            Value::List(list) => Some((list, was)),
            Value::Json(_) => None,
        }
    }
}

/// Whether a list of that length, with elements of these lengths and one more behind them, is no
/// longer than it was before when as many of the first have gone as must. Looks at no more of them
/// than make up for that one.
fn is_no_longer(
    lengths: impl ExactSizeIterator<Item = usize>,
    mut bytes: usize,
    before: usize,
    (items_max, bytes_max): (usize, usize),
) -> bool {
    let mut left = lengths.len() + 1;
    for length in lengths {
        if bytes <= before || left <= items_max && bytes <= bytes_max {
            break;
        }
        (left, bytes) = (left - 1, bytes - length - 1);
    }
    bytes <= before
}

impl List {
    /// Length of the list as text.
    pub fn text_bytes(&self) -> usize {
        self.bytes + 1
    }

    pub fn push(&mut self, item: Box<str>) {
        self.bytes += item.len() + 1;
        self.items.push_back(item);
    }

    /// Drops the oldest elements until the list has at most that many and is at most that long;
    /// returns them, the oldest first.
    pub fn bound(&mut self, items_max: usize, bytes_max: usize) -> Vec<Box<str>> {
        let mut dropped = Vec::new();
        while self.items.len() > items_max || self.bytes + 1 > bytes_max {
            let Some(item) = self.items.pop_front() else { break };
            self.bytes -= item.len() + 1;
            dropped.push(item);
        }
        dropped
    }

    /// Takes back a `push` and what [`List::bound`] dropped for it.
    pub fn unpush(&mut self, dropped: Vec<Box<str>>) {
        if let Some(item) = self.items.pop_back() {
            self.bytes -= item.len() + 1;
        }
        for item in dropped.into_iter().rev() {
            self.bytes += item.len() + 1;
            self.items.push_front(item);
        }
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(self.bytes + 1);
        text.push('[');
        for (i, item) in self.items.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            text.push_str(item);
        }
        text.push(']');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_stays_small() {
        assert!(size_of::<State>() <= 64, "{}", size_of::<State>());
    }

    #[test]
    fn a_list_drops_its_oldest() {
        let mut value = Value::Json("[ 1, {\"a\":[2]} ]".into());
        let (list, was) = value.as_list(9).unwrap();
        assert!(was.unwrap().is("[ 1, {\"a\":[2]} ]"));
        list.push("3.0".into());
        let dropped = list.bound(2, 100);
        assert_eq!((list.text(), dropped.len()), ("[{\"a\":[2]},3.0]".into(), 1));
        list.unpush(dropped);
        assert_eq!((list.text(), list.bytes + 1), ("[1,{\"a\":[2]}]".into(), 13));
        list.push("3.0".into());
        list.bound(9, 14);
        assert_eq!(list.text(), "[3.0]");
        assert_eq!(list.bytes + 1, 5);
        list.bound(0, 100);
        assert_eq!(value.text(), "[]");
        assert!(Value::Json("{}".into()).as_list(9).is_none());
    }

    #[test]
    fn a_push_that_drops_as_much_makes_no_list_longer() {
        let stays = |text: &str, item, items, bytes| {
            let mut value = Value::Json(text.into());
            let before = value.stays_as_short(item, items, bytes);
            let (list, _) = value.as_list(items).unwrap();
            list.push("x".repeat(item).into());
            list.bound(items, bytes);
            assert_eq!(list.text_bytes() <= text.len(), before, "{text} {item} {items} {bytes}");
            before
        };
        assert!(!stays("[1,2,3]", 1, 4, 100) && stays("[1,2,3]", 1, 3, 100));
        assert!(!stays("[1,2,3]", 2, 3, 100) && stays("[1,2,3]", 3, 2, 100));
        assert!(!stays("[1,2,3]", 1, 9, 9) && stays("[1,2,3]", 1, 9, 8));
        assert!(stays("[ 1 , 2 ]", 3, 9, 100), "without the spaces");
        let mut value = Value::Json("[1,2,3]".into());
        value.as_list(3).unwrap().0.push("4".into());
        for (item, items, stays) in [(1, 4, true), (2, 4, false), (3, 3, true), (9, 0, false)] {
            assert_eq!(value.stays_as_short(item, items, 100), stays, "{item} {items}");
        }
        let long = Value::Json(format!("[{}7]", "1,".repeat(LOOKED_INTO_BYTES)).into());
        assert!(!long.stays_as_short(1, 1, 100));
    }

    #[test]
    fn of_a_long_text_no_more_elements_are_made_than_stay() {
        let mut value = Value::Json(format!("[{}7]", "1,".repeat(100_000)).into());
        let (list, _) = value.as_list(3).unwrap();
        assert_eq!((list.text(), list.text_bytes()), ("[1,1,7]".into(), 7));
        assert!(list.items.capacity() < 100, "{}", list.items.capacity());
    }
}
