//! Version 4 UUIDs (RFC 9562, 5.4), used as connection ids and namespace keys. Made from random
//! bytes that the caller provides.

use std::fmt;

/// 128 bits, of which 122 are random in version 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// Makes a UUID of sixteen random bytes: sets version and variant.
    pub const fn from_random(mut bytes: [u8; 16]) -> Uuid {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Uuid(bytes)
    }

    /// Parses the 36 characters that [`fmt::Display`] writes, in either case; else `None`.
    pub fn parse(text: &str) -> Option<Uuid> {
        let text: &[u8; 36] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0; 16];
        let mut at = 0;
        for (i, byte) in bytes.iter_mut().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                if text[at] != b'-' {
                    return None;
                }
                at += 1;
            }
            let digit = |c: u8| char::from(c).to_digit(16);
            *byte = (digit(text[at])? << 4 | digit(text[at + 1])?) as u8;
            at += 2;
        }
        Some(Uuid(bytes))
    }
}

impl Uuid {
    /// The 36 characters of its text form.
    pub fn text(&self) -> [u8; 36] {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let (mut text, mut at) = ([b'-'; 36], 0);
        for (i, byte) in self.0.iter().enumerate() {
            at += usize::from(matches!(i, 4 | 6 | 8 | 10));
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 15)];
            at += 2;
        }
        text
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_formatted_and_parsed() {
        let uuid = Uuid::from_random([0xff; 16]);
        assert_eq!(uuid.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(Uuid::parse(&uuid.to_string()), Some(uuid));
        assert_eq!(Uuid::parse(&uuid.to_string().to_uppercase()), Some(uuid));
        for bad in
            ["", "ffffffff-ffff-4fff-bfff-fffffffffff", "ffffffff+ffff-4fff-bfff-ffffffffffff"]
        {
            assert_eq!(Uuid::parse(bad), None);
        }
        assert_eq!(Uuid::parse("fffffff\u{e9}-ffff-4fff-bfff-fffffffffff"), None);
    }
}
