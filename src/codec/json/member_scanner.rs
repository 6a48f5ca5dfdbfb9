//! Finds the members of an object while its text is still arriving, so that a large one need not be
//! scanned all at once when it is complete. The grammar of [`scan`] as a state machine that can
//! stop after any byte; `oracle` checks that the two agree. Unlike the scan it also reports which
//! error of a text comes first.

use std::ops::Range;

use super::scan::{self, LEVELS_MAX};
use super::{JsonError, Raw, unescaped};

/// Finds the members with these names, like [`raw_members`](super::raw_members).
#[derive(Debug)]
pub struct MemberScanner<const N: usize> {
    names: &'static [&'static str; N],
    depth_max: usize,
    /// Number of bytes that have been read.
    at: usize,
    next: Next,
    /// Nesting depth, and one bit per open level, set for an object; the innermost level is the
    /// lowest bit.
    depth: usize,
    objects: u128,
    /// Whether the text is an object.
    is_object: bool,
    /// Where the current key or value began. Tracked in the outermost object only.
    start: usize,
    has_escapes: bool,
    /// Index of the name whose value is being read.
    place: Option<usize>,
    found: [Option<Range<usize>>; N],
    fault: Option<JsonError>,
}

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A value.
    Value,
    /// A value, or the end of the array that has just begun.
    Element,
    /// A key, or the end of the object that has just begun.
    FirstKey,
    Key,
    Colon,
    /// After a value: a comma, an end, or nothing more.
    Behind,
    /// The rest of a string.
    Text(Of),
    /// The character after a backslash.
    Escape(Of),
    /// This many hexadecimal digits.
    Hex(Of, u8),
    /// The rest of `true`, `false` or `null`.
    Word(&'static [u8]),
    Number(Digits),
}

/// What a string is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Key,
    Value,
}

/// Position within a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

impl<const N: usize> MemberScanner<N> {
    /// Creates a scanner for a text of which nothing has arrived yet.
    pub fn new(names: &'static [&'static str; N], depth_max: usize) -> MemberScanner<N> {
        MemberScanner {
            names,
            depth_max: depth_max.min(LEVELS_MAX),
            at: 0,
            next: Next::Value,
            depth: 0,
            objects: 0,
            is_object: false,
            start: 0,
            has_escapes: false,
            place: None,
            found: [const { None }; N],
            fault: None,
        }
    }

    /// Continues reading. `text` is everything that has arrived, including what was read before;
    /// only the new part costs time.
    pub fn read(&mut self, text: &[u8]) {
        while self.fault.is_none()
            && let Some(byte) = text.get(self.at)
        {
            let step = self.step(*byte, text);
            self.fault = step.err();
        }
    }

    /// Returns all positions in the text that are stored here, in ascending order, so that the
    /// caller can move them to a text that differs only inside strings.
    pub fn places(&mut self) -> Vec<&mut usize> {
        let found = self.found.iter_mut().flatten();
        let ends = found.flat_map(|range| [&mut range.start, &mut range.end]);
        let mut places: Vec<&mut usize> = ends.chain([&mut self.at]).collect();
        places.sort_unstable();
        places
    }

    /// Returns the raw values that were found, in the order of the names; `None` if the text is
    /// JSON but not an object. The whole text must have been read.
    ///
    /// # Errors
    /// The first error in the text.
    pub fn members<'a>(&self, text: &'a str) -> Result<Option<[Option<Raw<'a>>; N]>, JsonError> {
        let is_number = matches!(self.next, Next::Number(digits) if digits.may_end());
        let is_whole = self.depth == 0 && (self.next == Next::Behind || is_number);
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if !is_whole || self.at != text.len() {
            return Err(JsonError::Syntax);
        }
        let raw = |range: &Option<Range<usize>>| Some(Raw::from(text.get(range.clone()?)?));
        let mut found = [None; N];
        for (found, range) in found.iter_mut().zip(&self.found) {
            *found = raw(range);
        }
        Ok(self.is_object.then_some(found))
    }

    /// Returns whether the outermost object is the innermost open level.
    fn is_outermost(&self) -> bool {
        self.is_object && self.depth == 1
    }

    /// Reads one byte, or the whole plain part of a string.
    fn step(&mut self, byte: u8, text: &[u8]) -> Result<(), JsonError> {
        match self.next {
            Next::Text(of) => return self.text(of, text),
            Next::Escape(of) => {
                self.next = match byte {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Next::Text(of),
                    b'u' => Next::Hex(of, 4),
                    _ => return Err(JsonError::Syntax),
                };
            }
            Next::Hex(..) if !byte.is_ascii_hexdigit() => return Err(JsonError::Syntax),
            Next::Hex(of, 1) => self.next = Next::Text(of),
            Next::Hex(of, left) => self.next = Next::Hex(of, left - 1),
            Next::Word(rest) => match rest.split_first() {
                Some((first, rest)) if *first == byte => {
                    self.next = Next::Word(rest);
                    if rest.is_empty() {
                        self.end_value(self.at + 1);
                    }
                }
                _ => return Err(JsonError::Syntax),
            },
            Next::Number(digits) => match digits.then(byte) {
                Some(digits) => self.next = Next::Number(digits),
                None if digits.may_end() => {
                    self.end_value(self.at);
                    return Ok(());
                }
                None => return Err(JsonError::Syntax),
            },
            _ if matches!(byte, b' ' | b'\n' | b'\t' | b'\r') => {}
            Next::Value | Next::Element => self.begin(byte)?,
            Next::Key | Next::FirstKey if byte == b'"' => {
                (self.next, self.has_escapes) = (Next::Text(Of::Key), false);
                if self.is_outermost() {
                    self.start = self.at + 1;
                }
            }
            Next::FirstKey if byte == b'}' => self.close(),
            Next::Colon if byte == b':' => self.next = Next::Value,
            Next::Behind if self.depth > 0 => self.behind(byte)?,
            Next::Key | Next::FirstKey | Next::Colon | Next::Behind => {
                return Err(JsonError::Syntax);
            }
        }
        self.at += 1;
        Ok(())
    }

    /// Reads on in a string, as far as it has arrived.
    fn text(&mut self, of: Of, text: &[u8]) -> Result<(), JsonError> {
        self.at = scan::plain(text, self.at);
        match text.get(self.at) {
            None => return Ok(()),
            Some(b'"') if of == Of::Key => {
                self.end_key(text);
                self.next = Next::Colon;
            }
            Some(b'"') => self.end_value(self.at + 1),
            Some(b'\\') => {
                (self.next, self.has_escapes) = (Next::Escape(of), true);
            }
            Some(_) => return Err(JsonError::Syntax),
        }
        self.at += 1;
        Ok(())
    }

    /// Begins a value.
    fn begin(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.is_outermost() {
            self.start = self.at;
        }
        self.next = match byte {
            b'{' | b'[' => return self.open(byte == b'{'),
            b']' if self.next == Next::Element => {
                self.close();
                return Ok(());
            }
            b'"' => Next::Text(Of::Value),
            b't' => Next::Word(b"rue"),
            b'f' => Next::Word(b"alse"),
            b'n' => Next::Word(b"ull"),
            b'-' => Next::Number(Digits::Minus),
            b'0' => Next::Number(Digits::Zero),
            b'1'..=b'9' => Next::Number(Digits::Whole),
            _ => return Err(JsonError::Syntax),
        };
        Ok(())
    }

    /// Begins an array or object.
    fn open(&mut self, is_object: bool) -> Result<(), JsonError> {
        if self.depth == self.depth_max {
            return Err(JsonError::Depth { max: self.depth_max });
        }
        self.is_object |= self.depth == 0 && is_object;
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(is_object);
        self.next = if is_object { Next::FirstKey } else { Next::Element };
        Ok(())
    }

    /// Ends the innermost array or object with this byte.
    fn close(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
        self.end_value(self.at + 1);
    }

    /// Reads the byte after a value in an array or object.
    fn behind(&mut self, byte: u8) -> Result<(), JsonError> {
        match (byte, self.objects & 1 == 1) {
            (b',', true) => self.next = Next::Key,
            (b',', false) => self.next = Next::Value,
            (b'}', true) | (b']', false) => self.close(),
            _ => return Err(JsonError::Syntax),
        }
        Ok(())
    }

    fn end_key(&mut self, text: &[u8]) {
        if !self.is_outermost() {
            return;
        }
        let key = text.get(self.start..self.at).unwrap_or_default();
        let is_it = |key: &[u8]| self.names.iter().position(|name| name.as_bytes() == key);
        self.place = match self.has_escapes {
            false => is_it(key),
            // A key with a lone surrogate cannot match any name, but is not an error.
            true => {
                str::from_utf8(key).ok().and_then(unescaped).and_then(|key| is_it(key.as_bytes()))
            }
        };
    }

    /// Ends a value before the position `end`.
    fn end_value(&mut self, end: usize) {
        self.next = Next::Behind;
        if !self.is_outermost() {
            return;
        }
        if let Some(found) = self.place.and_then(|place| self.found.get_mut(place)) {
            *found = Some(self.start..end);
        }
    }
}

impl Digits {
    /// Returns whether a number may end here.
    fn may_end(self) -> bool {
        matches!(self, Digits::Zero | Digits::Whole | Digits::Fraction | Digits::Power)
    }

    /// Returns the state after this byte; `None` if the number cannot continue with it.
    fn then(self, byte: u8) -> Option<Digits> {
        use Digits::*;
        match (self, byte) {
            (Minus, b'0') => Some(Zero),
            (Minus, b'1'..=b'9') | (Whole, b'0'..=b'9') => Some(Whole),
            (Zero | Whole, b'.') => Some(Point),
            (Point | Fraction, b'0'..=b'9') => Some(Fraction),
            (Zero | Whole | Fraction, b'e' | b'E') => Some(Exponent),
            (Exponent, b'+' | b'-') => Some(Sign),
            (Exponent | Sign | Power, b'0'..=b'9') => Some(Power),
            _ => None,
        }
    }
}
