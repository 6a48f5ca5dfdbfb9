//! One pass over JSON text (RFC 8259) that finds where values begin and end and validates
//! everything in between. Nothing is decoded, copied or allocated, and nothing recurses. Called by
//! [`json`](super) only. `None` always means that the text is not JSON or is nested too deep.

use super::Raw;

/// Maximum depth of a scan: one bit per level.
pub(super) const LEVELS_MAX: usize = u128::BITS as usize;

/// A position in a text. The code that every member needs is inlined and keeps this in registers;
/// the rest takes a position by value and returns a new one.
#[derive(Clone, Copy)]
pub(super) struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    pub fn new(text: &'a str) -> Scan<'a> {
        Scan { text, at: 0 }
    }

    /// Skips white space and returns the next byte without taking it.
    #[inline(always)]
    pub fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        if byte > b' ' {
            return Some(byte);
        }
        self.at = behind_space(self.text.as_bytes(), self.at);
        self.peek()
    }

    /// Takes this byte if it is the next one after white space.
    #[inline(always)]
    pub fn take(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then(|| self.at += 1)
    }

    /// Takes the current byte.
    #[inline(always)]
    pub fn skip(&mut self) {
        self.at += 1;
    }

    /// Returns the byte after the current one.
    #[inline(always)]
    pub fn second(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at + 1).copied()
    }

    /// Takes these bytes if they are next.
    #[inline(always)]
    pub fn takes(&mut self, bytes: &[u8]) -> bool {
        let rest = self.text.as_bytes().get(self.at..);
        let is_here = rest.is_some_and(|rest| rest.starts_with(bytes));
        self.at += if is_here { bytes.len() } else { 0 };
        is_here
    }

    /// Returns whether only white space is left.
    pub fn is_over(&mut self) -> bool {
        self.next().is_none()
    }

    /// Returns whether nothing is left.
    pub fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    /// Takes a value. Arrays and objects may be nested `depth_max` deep, and at most
    /// [`LEVELS_MAX`].
    #[inline(always)]
    pub fn value(&mut self, depth_max: usize) -> Option<Raw<'a>> {
        let byte = self.next()?;
        let (start, mut is_plain) = (self.at, false);
        match byte {
            b'"' => is_plain = !self.string()?,
            _ => self.at = other(self.text, start, depth_max)?,
        }
        Some(Raw { text: self.text.get(start..self.at)?, is_plain })
    }

    /// Returns the text between the position `before` and this one.
    #[inline(always)]
    pub fn behind(&self, before: Scan<'a>) -> Option<Raw<'a>> {
        Some(self.text.get(before.at..self.at)?.into())
    }

    /// Takes a key and the colon after it. Returns the text between its quotes, and whether it has
    /// escapes.
    #[inline(always)]
    pub fn key(&mut self) -> Option<(&'a [u8], bool)> {
        if self.next()? != b'"' {
            return None;
        }
        let start = self.at + 1;
        let has_escapes = self.string()?;
        let key = self.text.as_bytes().get(start..self.at - 1)?;
        self.take(b':')?;
        Some((key, has_escapes))
    }

    /// Takes a string whose opening quote is next. Returns whether it has escapes.
    #[inline(always)]
    fn string(&mut self) -> Option<bool> {
        let bytes = self.text.as_bytes();
        let mut end = plain(bytes, self.at + 1);
        let has_escapes = *bytes.get(end)? != b'"';
        if has_escapes {
            end = behind_escapes(bytes, end)?;
        }
        self.at = end + 1;
        Some(has_escapes)
    }

    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Takes an array or object with everything in it.
    fn nest(&mut self, depth_max: usize) -> Option<()> {
        // One bit per open level, set for an object; the innermost level is the lowest bit.
        let (mut objects, mut depth) = (0_u128, 0);
        loop {
            let byte = self.next()?;
            if matches!(byte, b'{' | b'[') {
                if depth == depth_max {
                    return None;
                }
                self.at += 1;
                depth += 1;
                objects = objects << 1 | u128::from(byte == b'{');
                // In ASCII, the closing bracket is the opening one plus 2.
                if self.next()? != byte + 2 {
                    if byte == b'{' {
                        self.key()?;
                    }
                    continue;
                }
            } else if byte == b'"' {
                self.string()?;
            } else {
                self.at = scalar(self.text.as_bytes(), self.at)?;
            }
            // A value is complete; the arrays and objects around it may be as well.
            loop {
                let is_object = objects & 1 == 1;
                match (self.next()?, is_object) {
                    (b',', _) => {
                        self.at += 1;
                        if is_object {
                            self.key()?;
                        }
                        break;
                    }
                    (b'}', true) | (b']', false) => {}
                    _ => return None,
                }
                self.at += 1;
                depth -= 1;
                objects >>= 1;
                if depth == 0 {
                    return Some(());
                }
            }
        }
    }
}

/// Returns the end of a value that begins at `at` and is not a string.
#[inline(never)]
fn other(text: &str, at: usize, depth_max: usize) -> Option<usize> {
    let mut scan = Scan { text, at };
    match scan.peek()? {
        b'{' | b'[' => scan.nest(depth_max.min(LEVELS_MAX))?,
        _ => return scalar(text.as_bytes(), at),
    }
    Some(scan.at)
}

/// Returns the end of a number or literal that begins at `at`.
#[inline(never)]
fn scalar(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let word: &[u8] = match rest.first()? {
        b't' => b"true",
        b'f' => b"false",
        b'n' => b"null",
        _ => return number(bytes, at),
    };
    rest.starts_with(word).then_some(at + word.len())
}

/// Returns the end of a number that begins at `at`.
fn number(bytes: &[u8], mut at: usize) -> Option<usize> {
    let peek = |at: usize| bytes.get(at).copied();
    if peek(at)? == b'-' {
        at += 1;
    }
    match peek(at)? {
        b'0' => at += 1,
        _ => at = behind_digits(bytes, at)?,
    }
    if peek(at) == Some(b'.') {
        at = behind_digits(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = peek(at) {
        at += 1;
        if let Some(b'+' | b'-') = peek(at) {
            at += 1;
        }
        at = behind_digits(bytes, at)?;
    }
    Some(at)
}

/// Returns the end of the digits that begin at `at`; there must be at least one.
fn behind_digits(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = bytes.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (digits > 0).then_some(at + digits)
}

/// Returns the end of the white space that begins at `at`.
#[cold]
fn behind_space(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\t' | b'\r')).count()
}

/// Returns the position of the closing quote, from the first byte on that is not plain.
#[cold]
fn behind_escapes(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += match bytes.get(at..)? {
            [b'"', ..] => return Some(at),
            [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'\\', b'u', a, b, c, d, ..]
                if [a, b, c, d].into_iter().all(u8::is_ascii_hexdigit) =>
            {
                6
            }
            _ => return None,
        };
        at = plain(bytes, at);
    }
}

/// Bytes examined at once when a string has turned out to be long.
const BLOCK_BYTES: usize = 32;

/// Returns the position, from `at` on, of the first byte that a string cannot contain as it is: a
/// quote, backslash or control character. Eight bytes are examined inline, enough for most keys.
#[inline(always)]
pub(super) fn plain(bytes: &[u8], at: usize) -> usize {
    within_eight(bytes, at, plain_name)
}

/// Like [`plain`], after the first eight bytes; eight more are enough for most names.
#[inline(never)]
fn plain_name(bytes: &[u8], at: usize) -> usize {
    within_eight(bytes, at, plain_beyond)
}

/// Looks at the next eight bytes only; calls `beyond` if they are plain or if fewer are left.
#[inline(always)]
fn within_eight(bytes: &[u8], at: usize, beyond: impl Fn(&[u8], usize) -> usize) -> usize {
    match bytes.get(at..).and_then(<[u8]>::first_chunk).map(|eight| first_marked(*eight)) {
        Some(place @ ..8) => at + place,
        Some(_) => beyond(bytes, at + 8),
        None => plain_rest(bytes, at),
    }
}

/// Like [`plain`], after the first sixteen bytes; a long string is examined in larger blocks.
#[inline(never)]
fn plain_beyond(bytes: &[u8], start: usize) -> usize {
    let mut rest = behind_blocks(bytes.get(start..).unwrap_or_default());
    while let Some((eight, more)) = rest.split_first_chunk() {
        let place = first_marked(*eight);
        if place < 8 {
            return bytes.len() - rest.len() + place;
        }
        rest = more;
    }
    plain_rest(bytes, bytes.len() - rest.len())
}

/// Like [`plain`], if fewer than eight bytes are left: `at` is at most the length.
#[inline(never)]
fn plain_rest(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    // What is not filled is like control characters.
    let mut eight = [0; 8];
    for (to, from) in eight.iter_mut().zip(rest) {
        *to = *from;
    }
    at + first_marked(eight)
}

/// Skips the blocks that have no special byte and returns the rest.
fn behind_blocks(mut rest: &[u8]) -> &[u8] {
    while let Some((block, more)) = rest.split_first_chunk::<BLOCK_BYTES>()
        && !block.iter().fold(false, |found, byte| found | is_special(*byte))
    {
        rest = more;
    }
    rest
}

/// Returns whether a string cannot contain this byte unescaped: a quote, backslash or control
/// character. Of a minimum the compiler makes fewer instructions for a block than of comparisons.
#[inline(always)]
pub(super) fn is_special(byte: u8) -> bool {
    (byte ^ b'"').min(byte ^ b'\\').min(byte.saturating_sub(0x1f)) == 0
}

/// Returns the index of the first special byte of eight, or 8.
#[inline]
const fn first_marked(eight: [u8; 8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let eight = u64::from_le_bytes(eight);
    // The high bit is set in each special byte, and perhaps in some after the first: a subtraction
    // borrows from the next byte only at a marked one. With bit 1 flipped the quote is adjacent to
    // the control characters, and the space is not.
    let quote_or_control = (eight ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let backslash = (eight ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    // Non-ASCII bytes already have the high bit set.
    let marks = (quote_or_control | backslash) & !eight & (ONES * 0x80);
    (marks.trailing_zeros() / 8) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_bytes_are_found_at_every_position() {
        for length in (0..40).chain([64, 71, 96, 105]) {
            for byte in 0..=u8::MAX {
                let is_plain = !matches!(byte, b'"' | b'\\' | 0..0x20);
                for at in 0..length {
                    for around in [b'a', 0x7f, 0x80, 0xff, b'!', b'#', b'[', b']', b' '] {
                        let mut bytes = vec![around; length];
                        bytes[at] = byte;
                        let expected = if is_plain { length } else { at };
                        assert_eq!(plain(&bytes, 0), expected, "{byte} at {at} among {around}");
                        let behind = [&[b'"'; 3][..], &bytes].concat();
                        assert_eq!(plain(&behind, 3), 3 + expected);
                    }
                }
            }
        }
    }

    #[test]
    fn a_value_is_scanned_to_its_end_and_no_further() {
        for (text, value) in [
            ("1,2", "1"),
            (" \t[1 , {\"a\":[]}] ]", "[1 , {\"a\":[]}]"),
            ("\"a\\\"\" \"", "\"a\\\"\""),
            ("-0.5e+10x", "-0.5e+10"),
            ("01", "0"),
            ("nullx", "null"),
            ("{}{}", "{}"),
        ] {
            let found = Scan::new(text).value(3).map(Raw::get);
            assert_eq!(found, Some(value), "{text}");
        }
        for text in
            ["", " ", "[[[[]]]]", "[1}", "{]", "{\"a\"}", "-", "1.", "1e", "nul", "\"\\u12\""]
        {
            assert_eq!(Scan::new(text).value(3), None, "{text}");
        }
    }
}
