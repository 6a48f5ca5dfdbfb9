//! The value of a state: JSON text, or a list that grows by `push`.

use std::borrow::Cow;
use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use super::index::Named;
use super::{NsId, Row, StateKey};
use crate::codec::json;
use crate::time::UnixMillis;
use crate::wheel::Timer;

/// Longer texts are not searched for the elements that a `push` would drop: that takes as long as
/// reading a command of that length, and a caller that is refused may ask again and again.
pub const LOOKED_INTO_BYTES: usize = 64 * 1024;

/// One state of a channel, or of a user in a channel.
#[derive(Debug)]
pub(super) struct State {
    pub ns: NsId,
    pub state_key: StateKey,
    pub value: Value,
    /// Most states never expire, and pay only for the pointer.
    pub end: Option<Box<End>>,
}

impl Named for State {
    fn hash(&self, hasher: &DefaultHashBuilder) -> u64 {
        hasher.hash_one(self.state_key.as_ref())
    }
}

/// The expiry of a state.
#[derive(Debug)]
pub(super) struct End {
    /// Not readable from this moment on.
    pub at: UnixMillis,
    /// Its timer in the hub's wheel, until that has expired.
    pub timer: Option<Timer>,
}

/// A JSON value.
#[derive(Debug)]
pub(super) enum Value {
    Json(Box<str>),
    List(Box<List>),
}

/// JSON text of an array that grows at its end and loses elements at its front. Stored in one
/// piece: a list takes little more memory than its text, however short its elements are.
#[derive(Debug)]
pub(super) struct List {
    /// Unused bytes up to `start`, such as dropped elements, then the text, without white space
    /// between its elements.
    all: String,
    start: usize,
    /// Number of elements.
    items: usize,
}

impl State {
    /// Not readable from this moment on.
    pub fn expires(&self) -> Option<UnixMillis> {
        self.end.as_ref().map(|end| end.at)
    }

    /// Whether it is readable at that moment.
    pub fn lives(&self, at: UnixMillis) -> bool {
        self.expires().is_none_or(|end| at < end)
    }

    /// What counts against the limits: its name and its value.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.state_key.bytes() + self.value.bytes()
    }

    pub fn row(&self) -> Row<'_> {
        Row::State { text: Cow::Borrowed(self.value.text()), expires: self.expires() }
    }
}

impl Value {
    /// The value as JSON text.
    pub fn text(&self) -> &str {
        match self {
            Value::Json(text) => text,
            Value::List(list) => list.text(),
        }
    }

    /// Length of the text.
    pub fn bytes(&self) -> usize {
        self.text().len()
    }

    /// Whether it is exactly this text, and not a list.
    pub fn is(&self, text: &str) -> bool {
        matches!(self, Value::Json(own) if **own == *text)
    }

    /// Replaces the value by another text: in the same memory, if that is as long.
    pub fn overwrite(&mut self, text: &str) {
        match self {
            Value::Json(own) if own.len() == text.len() => {
                let mut bytes = std::mem::take(own).into_string();
                bytes.clear();
                bytes.push_str(text);
                *own = bytes.into_boxed_str();
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

    /// Whether one more element of `item` bytes makes the list no longer, because these bounds drop
    /// as much for it. A text above [`LOOKED_INTO_BYTES`] is not searched, and counts as longer.
    pub fn stays_as_short(&self, item: usize, items_max: usize, bytes_max: usize) -> bool {
        let bounds = (items_max, bytes_max);
        match self {
            Value::Json(text) if text.len() <= LOOKED_INTO_BYTES => {
                let last = json::last_elements(text, items_max).unwrap_or_default();
                let bytes = last.iter().map(|item| item.len() + 1).sum::<usize>() + item + 2;
                is_no_longer((last.len(), bytes, text.len()), bounds, |tell| {
                    let _ = last.iter().all(|item| tell(item));
                })
            }
            Value::Json(_) => false,
            Value::List(list) => {
                let before = list.text().len();
                is_no_longer((list.items, before + item + 1, before), bounds, |tell| {
                    let _ = json::each_element(list.text(), tell);
                })
            }
        }
    }

    /// Returns the value as a list. The text of an array is converted and returned as well. Only
    /// its last `items_max` elements are kept, because converting all of them would take far more
    /// time. `None` if it is neither.
    pub fn as_list(&mut self, items_max: usize) -> Option<(&mut List, Option<Value>)> {
        let mut was = None;
        if let Value::Json(text) = self {
            let mut list = List::default();
            let last = json::last_elements(text, items_max)?;
            list.make_room(text.len());
            last.into_iter().for_each(|item| list.push(item));
            list.tidy(2);
            was = Some(std::mem::replace(self, Value::List(Box::new(list))));
        }
        match self {
            Value::List(list) => Some((list, was)),
            Value::Json(_) => None,
        }
    }
}

/// Whether a list of `items` elements and one more, `bytes` long with that, is no longer than
/// `before` once the bounds have dropped its first elements. `each` passes these to its callback
/// while that returns `true`, which is until they make up for the new one.
fn is_no_longer(
    (items, mut bytes, before): (usize, usize, usize),
    (items_max, bytes_max): (usize, usize),
    each: impl FnOnce(&mut dyn FnMut(&str) -> bool),
) -> bool {
    let mut left = items + 1;
    each(&mut |first| {
        if bytes <= before || left <= items_max && bytes <= bytes_max {
            return false;
        }
        (left, bytes) = (left - 1, bytes - first.len() - 1);
        true
    });
    bytes <= before
}

impl Default for List {
    fn default() -> List {
        List { all: "[]".into(), start: 0, items: 0 }
    }
}

impl List {
    /// The list as JSON text.
    pub fn text(&self) -> &str {
        self.all.get(self.start..).unwrap_or("[]")
    }

    /// Appends an element, as raw JSON.
    pub fn push(&mut self, item: &str) {
        self.make_room(item.len() + 1);
        self.all.pop();
        if self.items > 0 {
            self.all.push(',');
        }
        self.all.push_str(item);
        self.all.push(']');
        self.items += 1;
    }

    /// Makes room for `bytes` more at the end: by removing unused bytes in front if they are more
    /// than a quarter of the text, else by allocating at least that quarter.
    fn make_room(&mut self, bytes: usize) {
        let spare = self.text().len() / 4;
        if self.all.len() + bytes > self.all.capacity() && self.start > spare {
            self.all.drain(..self.start);
            self.start = 0;
        }
        if self.all.len() + bytes > self.all.capacity() {
            self.all.reserve_exact(bytes.max(spare));
        }
    }

    /// Gives memory back, if the capacity is more than `times` the length of the text.
    fn tidy(&mut self, times: usize) {
        if self.all.capacity() > times * self.text().len() {
            (self.all, self.start) = (self.text().into(), 0);
        }
    }

    /// Drops the oldest elements until the list is within both bounds; returns them, the oldest
    /// first.
    pub fn bound(&mut self, items_max: usize, bytes_max: usize) -> Vec<Box<str>> {
        let mut dropped = Vec::new();
        while self.items > items_max || self.text().len() > bytes_max {
            let Some(item) = self.pop_front() else { break };
            dropped.push(item);
        }
        if !dropped.is_empty() {
            self.tidy(2);
        }
        dropped
    }

    fn pop_front(&mut self) -> Option<Box<str>> {
        let mut first = None;
        json::each_element(self.text(), |item| {
            first = Some(Box::from(item));
            false
        })?;
        let first: Box<str> = first?;
        self.items -= 1;
        if self.items == 0 {
            *self = List::default();
        } else {
            // The comma behind it becomes the opening bracket of the rest.
            self.start += 1 + first.len();
            self.all.replace_range(self.start..=self.start, "[");
        }
        Some(first)
    }

    /// Undoes a `push` of `bytes` bytes, and restores what [`List::bound`] dropped for it.
    pub fn unpush(&mut self, bytes: usize, dropped: &[Box<str>]) {
        let behind = bytes + 1 + usize::from(self.items > 1);
        self.all.truncate(self.all.len().saturating_sub(behind));
        self.all.push(']');
        self.items = self.items.saturating_sub(1);
        if dropped.is_empty() {
            return self.tidy(4);
        }
        let mut front = format!("[{}", dropped.join(","));
        if self.items > 0 {
            front.push(',');
        }
        // Overwrites the bracket and what precedes it, where the dropped text mostly still is.
        let rest = self.start + 1;
        match rest.checked_sub(front.len()).filter(|at| self.all.is_char_boundary(*at)) {
            Some(at) => {
                self.all.replace_range(at..rest, &front);
                self.start = at;
            }
            None => {
                let rest = self.all.get(rest..).unwrap_or("]");
                // Leaves room in front for the next ones.
                self.start = front.len() + rest.len();
                self.all = format!("{:1$}{front}{rest}", "", self.start);
            }
        }
        self.items += dropped.len();
        self.tidy(4);
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
    fn a_bounded_list_drops_its_oldest_elements() {
        let mut value = Value::Json("[ 1, {\"a\":[2]} ]".into());
        let (list, was) = value.as_list(9).unwrap();
        assert!(was.unwrap().is("[ 1, {\"a\":[2]} ]"));
        list.push("3.0");
        let dropped = list.bound(2, 100);
        assert_eq!((list.text(), dropped.len()), ("[{\"a\":[2]},3.0]", 1));
        list.unpush(3, &dropped);
        assert_eq!((list.text(), list.items), ("[1,{\"a\":[2]}]", 2));
        list.push("3.0");
        list.bound(9, 14);
        assert_eq!((list.text(), list.items), ("[3.0]", 1));
        list.bound(0, 100);
        assert_eq!(value.text(), "[]");
        assert!(Value::Json("{}".into()).as_list(9).is_none());
    }

    #[test]
    fn stays_as_short_tells_whether_a_push_lengthens_the_list() {
        let stays = |text: &str, item, items, bytes| {
            let mut value = Value::Json(text.into());
            let before = value.stays_as_short(item, items, bytes);
            let (list, _) = value.as_list(items).unwrap();
            list.push(&"7".repeat(item));
            list.bound(items, bytes);
            assert_eq!(list.text().len() <= text.len(), before, "{text} {item} {items} {bytes}");
            before
        };
        assert!(!stays("[1,2,3]", 1, 4, 100) && stays("[1,2,3]", 1, 3, 100));
        assert!(!stays("[1,2,3]", 2, 3, 100) && stays("[1,2,3]", 3, 2, 100));
        assert!(!stays("[1,2,3]", 1, 9, 9) && stays("[1,2,3]", 1, 9, 8));
        assert!(stays("[ 1 , 2 ]", 3, 9, 100), "without the spaces");
        let mut value = Value::Json("[1,2,3]".into());
        value.as_list(3).unwrap().0.push("4");
        for (item, items, stays) in [(1, 4, true), (2, 4, false), (3, 3, true), (9, 0, false)] {
            assert_eq!(value.stays_as_short(item, items, 100), stays, "{item} {items}");
        }
        let long = Value::Json(format!("[{}7]", "1,".repeat(LOOKED_INTO_BYTES)).into());
        assert!(!long.stays_as_short(1, 1, 100));
    }

    #[test]
    fn only_elements_that_stay_are_built_from_a_long_text() {
        let mut value = Value::Json(format!("[{}7]", "1,".repeat(100_000)).into());
        let (list, _) = value.as_list(3).unwrap();
        assert_eq!((list.text(), list.items), ("[1,1,7]", 3));
        assert!(list.all.capacity() < 100, "{}", list.all.capacity());
    }

    /// After any sequence of push, drop and undo the list has the expected elements, and takes
    /// little more memory than its text.
    #[test]
    fn a_list_stays_correct_and_compact_under_push_drop_and_undo() {
        let elements =
            ["1", "\"\u{e9},]\"", "[[],{\"a\":\"\u{1f600}\"}]", &"9".repeat(3000), "null"];
        let (mut list, mut all, mut random) = (List::default(), Vec::<Box<str>>::new(), 7_u64);
        let mut undos = Vec::<(usize, Vec<Box<str>>, Vec<Box<str>>)>::new();
        let mut next = |below: u64| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            ((random >> 33) % below) as usize
        };
        for round in 0..20_000 {
            let few = if round / 2000 % 2 == 0 { 5 } else { 3 };
            if round % 500 > 450
                && let Some((bytes, before, dropped)) = undos.pop()
            {
                list.unpush(bytes, &dropped);
                all = before;
            } else {
                let item = elements[next(few)];
                let before = all.clone();
                list.push(item);
                all.push(item.into());
                let dropped = list.bound(20, 20_000);
                all.drain(..dropped.len());
                undos.push((item.len(), before, dropped));
            }
            assert_eq!((list.text(), list.items), (&*format!("[{}]", all.join(",")), all.len()));
            let (takes, bytes) = (list.all.capacity(), list.text().len());
            assert!(takes <= 4 * bytes + 3100, "{takes} for {bytes}");
            undos.drain(..undos.len().saturating_sub(60));
        }
    }
}
