//! One pass over JSON text (RFC 8259) that finds where values begin and end and checks all that is
//! in between. Nothing is decoded, copied or allocated, and nothing recurses. Called by
//! [`json`](super) alone; `None` is everywhere the answer to what is no JSON, or nested too deep.

/// How deep a scan can go: a bit for each level.
pub(super) const LEVELS_MAX: usize = u128::BITS as usize;

/// Where in a text we are.
pub(super) struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    pub fn new(text: &'a str) -> Scan<'a> {
        Scan { text, at: 0 }
    }

    /// The next byte that is no white space, which is not taken.
    pub fn next(&mut self) -> Option<u8> {
        loop {
            match self.peek()? {
                b' ' | b'\n' | b'\t' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// Takes that byte, if it is the next one that is no white space.
    pub fn take(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then(|| self.at += 1)
    }

    /// Whether nothing but white space is left.
    pub fn is_over(&mut self) -> bool {
        self.next().is_none()
    }

    /// Whether nothing at all is left.
    pub fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    /// A string that begins here: what is between its quotes, and whether that has escapes.
    pub fn string(&mut self) -> Option<(&'a str, bool)> {
        self.take(b'"')?;
        let (start, mut has_escapes) = (self.at, false);
        loop {
            self.at += plain(self.text.as_bytes().get(self.at..)?);
            match self.peek()? {
                b'"' => break,
                b'\\' => self.escape()?,
                _ => return None,
            }
            has_escapes = true;
        }
        let inner = self.text.get(start..self.at)?;
        self.at += 1;
        Some((inner, has_escapes))
    }

    /// A value that begins here, as it is written; arrays and objects lie in each other no deeper
    /// than that, nor than [`LEVELS_MAX`].
    pub fn value(&mut self, depth_max: usize) -> Option<&'a str> {
        let byte = self.next()?;
        let start = self.at;
        match byte {
            b'{' | b'[' => self.nest(depth_max.min(LEVELS_MAX))?,
            _ => self.scalar(byte)?,
        }
        self.text.get(start..self.at)
    }

    /// The key of a member and the colon behind it: what is between its quotes, and whether that
    /// has escapes.
    pub fn key(&mut self) -> Option<(&'a str, bool)> {
        let key = self.string()?;
        self.take(b':')?;
        Some(key)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// An array or object, with all that is in it.
    fn nest(&mut self, depth_max: usize) -> Option<()> {
        // Of each level that is open whether it is an object, the innermost in the lowest bit.
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
                // The bracket that closes is two behind the one that opens.
                if self.next()? != byte + 2 {
                    if byte == b'{' {
                        self.key()?;
                    }
                    continue;
                }
            } else {
                self.scalar(byte)?;
            }
            // A value is over, and with it perhaps those that it is in.
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

    /// A value that has no others in it, and begins with that byte.
    fn scalar(&mut self, byte: u8) -> Option<()> {
        match byte {
            b'"' => self.string().map(|_| ()),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        let is_it = self.text.as_bytes().get(self.at..)?.starts_with(word);
        is_it.then(|| self.at += word.len())
    }

    fn number(&mut self) -> Option<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// At least one digit.
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// An escape, whose backslash is here.
    fn escape(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes().get(self.at + 1..)?;
        self.at += match bytes {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'u', a, b, c, d, ..] if [a, b, c, d].into_iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return None,
        };
        Some(())
    }
}

/// Bytes that are looked at together, once a string has turned out to be long.
const BLOCK_BYTES: usize = 32;

/// How many bytes there are before the first that a string cannot just have: a quote, a backslash
/// or a control character. Eight are looked at together, and more of a long string.
fn plain(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((eight, more)) = rest.split_first_chunk() {
        let found = marked(u64::from_le_bytes(*eight));
        if found != 0 {
            // The lowest mark is never a false one.
            return bytes.len() - rest.len() + (found.trailing_zeros() / 8) as usize;
        }
        rest = more;
        if bytes.len() - rest.len() == BLOCK_BYTES {
            while let Some((block, more)) = rest.split_first_chunk::<BLOCK_BYTES>()
                && !block.iter().fold(false, |found, byte| found | is_special(*byte))
            {
                rest = more;
            }
        }
    }
    let end = rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len());
    bytes.len() - rest.len() + end
}

/// Whether a string cannot just have that byte.
const fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}

/// Eight bytes, of which the high bit is set in each that [`plain`] looks for, and perhaps in some
/// above such a one.
const fn marked(eight: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    // What is subtracted borrows from the next byte only where there is a mark already.
    let quote = (eight ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
    let backslash = (eight ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    let control = eight.wrapping_sub(ONES * 0x20);
    // Bytes of other characters than ASCII have the high bit themselves.
    (quote | backslash | control) & !eight & (ONES * 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_that_is_not_plain_is_found_wherever_it_stands() {
        for length in (0..40).chain([64, 71, 96, 105]) {
            for byte in 0..=u8::MAX {
                let is_plain = !matches!(byte, b'"' | b'\\' | 0..0x20);
                for at in 0..length {
                    for around in [b'a', 0x7f, 0x80, 0xff, b'!', b'#', b'[', b']', b' '] {
                        let mut bytes = vec![around; length];
                        bytes[at] = byte;
                        let expected = if is_plain { length } else { at };
                        assert_eq!(plain(&bytes), expected, "{byte} at {at} among {around}");
                    }
                }
            }
        }
    }

    #[test]
    fn values_end_where_they_end() {
        for (text, value) in [
            ("1,2", "1"),
            (" \t[1 , {\"a\":[]}] ]", "[1 , {\"a\":[]}]"),
            ("\"a\\\"\" \"", "\"a\\\"\""),
            ("-0.5e+10x", "-0.5e+10"),
            ("01", "0"),
            ("nullx", "null"),
            ("{}{}", "{}"),
        ] {
            assert_eq!(Scan::new(text).value(3), Some(value), "{text}");
        }
        for text in
            ["", " ", "[[[[]]]]", "[1}", "{]", "{\"a\"}", "-", "1.", "1e", "nul", "\"\\u12\""]
        {
            assert_eq!(Scan::new(text).value(3), None, "{text}");
        }
    }
}
