//! JSON as text. Finds the members of an object and leaves their values as they were written:
//! digit for digit, no tree, nothing allocated but decoded strings. Never decides what a member
//! means. Called by the switch for commands and browser messages, and by [`jwt`](super::jwt).
//!
//! [`Scan`] is the grammar. What it makes of a text is what serde_json would: `oracle` compares
//! them in tests and for the fuzzer.
//!
//! *Raw* is everywhere one JSON value without white space around it, as [`members`] and
//! [`elements`] hand it out. Whatever else is given as raw yields `None` or an arbitrary `bool`.

mod oracle;
mod scan;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

#[doc(hidden)]
pub use oracle::fuzz_members;
use scan::Scan;

/// How deep arrays and objects may lie in each other; `[]` is one deep. Nothing here recurses,
/// so this is for those who read what we pass on.
pub const DEPTH_MAX: usize = 64;

/// Why a text was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// It is not one JSON value (RFC 8259).
    Syntax,
    /// Arrays and objects lie deeper in each other than this.
    Depth {
        /// [`DEPTH_MAX`], or what was asked for.
        max: usize,
    },
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonError::Syntax => f.write_str("not JSON"),
            JsonError::Depth { max } => write!(f, "JSON nested deeper than {max}"),
        }
    }
}

impl std::error::Error for JsonError {}

/// The raw values of the members with these names, in the order of the names; `None` for the text
/// as a whole if it is JSON but no object. Of two equal keys the last one counts (protocol part
/// 3), a key may be written with escapes, and members with other names are skipped.
///
/// # Errors
/// [`JsonError`] if the text is not JSON, or nested deeper than [`DEPTH_MAX`].
pub fn members<'a, const N: usize>(
    text: &'a str,
    names: &[&str; N],
) -> Result<Option<[Option<&'a str>; N]>, JsonError> {
    members_within(text, names, DEPTH_MAX)
}

/// As [`members`], for those who put something around a value that may be as deep as it may.
///
/// # Errors
/// [`JsonError`] if the text is not JSON, or nested deeper than that.
pub fn members_within<'a, const N: usize>(
    text: &'a str,
    names: &[&str; N],
    depth_max: usize,
) -> Result<Option<[Option<&'a str>; N]>, JsonError> {
    found(text, names, depth_max).ok_or_else(|| match is_too_deep(text, depth_max) {
        true => JsonError::Depth { max: depth_max },
        false => JsonError::Syntax,
    })
}

/// As [`members_within`]; `None` if the text is not JSON, or nested too deep.
fn found<'a, const N: usize>(
    text: &'a str,
    names: &[&str; N],
    depth_max: usize,
) -> Option<Option<[Option<&'a str>; N]>> {
    let mut scan = Scan::new(text);
    if scan.next()? != b'{' {
        scan.value(depth_max)?;
        return scan.is_over().then_some(None);
    }
    scan.take(b'{')?;
    let (mut found, depth_max) = ([None; N], depth_max.checked_sub(1)?);
    let mut is_open = scan.take(b'}').is_none();
    while is_open {
        let (key, has_escapes) = scan.key()?;
        let value = scan.value(depth_max)?;
        // A key that is no text cannot be one of the names, but is no error either.
        let key = if has_escapes { unescaped(key) } else { Some(Cow::Borrowed(key)) };
        let index = key.and_then(|key| names.iter().position(|name| is_same(name, &key)));
        if let Some(place) = index.and_then(|index| found.get_mut(index)) {
            *place = Some(value);
        }
        is_open = scan.take(b',').is_some();
        if !is_open {
            scan.take(b'}')?;
        }
    }
    scan.is_over().then_some(Some(found))
}

/// Whether two names are the same, which the first letter mostly says.
fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.as_bytes().first() == other.as_bytes().first() && one == other
}

/// Hands out the raw elements of an array, of which there may be half as many as it has bytes: who
/// collects them bounds how many. `None` for anything else, and for what is twice as deep as
/// [`DEPTH_MAX`]; what has been handed out by then counts for nothing.
pub fn elements<'a>(raw: &'a str, mut each: impl FnMut(&'a str)) -> Option<()> {
    let mut scan = Scan::new(raw);
    scan.take(b'[')?;
    let mut is_open = scan.take(b']').is_none();
    while is_open {
        each(scan.value(2 * DEPTH_MAX)?);
        is_open = scan.take(b',').is_some();
        if !is_open {
            scan.take(b']')?;
        }
    }
    scan.is_over().then_some(())
}

/// A string, decoded; `None` for anything else, and for one with half of a surrogate pair, which
/// is no text.
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    let mut scan = Scan::new(raw);
    let (inner, has_escapes) = scan.string().filter(|_| scan.is_at_end())?;
    // A string without escapes is borrowed as it lies.
    if has_escapes { unescaped(inner) } else { Some(Cow::Borrowed(inner)) }
}

/// What is between the quotes of a string with escapes, decoded.
fn unescaped(inner: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str(&format!("\"{inner}\"")).map(Cow::Owned).ok()
}

/// A string or a number as text (protocol part 4, "Text from other types", of which we keep these
/// two), so that 5 and "5" are one user. An integer written plainly stays digit for digit, and
/// `-0` is `0`. Another number becomes what JavaScript prints, as far as that needs no exponent:
/// from 10^-6 to below 10^21. `None` for everything else.
pub fn text(raw: &str) -> Option<Cow<'_, str>> {
    if raw.starts_with('"') {
        return string(raw);
    }
    let number = number(raw)?;
    if number == 0.0 {
        return Some(Cow::Borrowed("0"));
    }
    if is_plain_integer(raw) {
        return Some(Cow::Borrowed(raw));
    }
    // Both languages print the shortest digits that are read back as the same number.
    (1e-6..1e21).contains(&number.abs()).then(|| Cow::Owned(number.to_string()))
}

/// A number as the nearest `f64`, which is infinite from about 1.8 · 10^308 on; `None` for
/// anything else.
pub fn number(raw: &str) -> Option<f64> {
    if !raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    // The scan knows the grammar, the standard library rounds correctly; serde_json, as we
    // configure it, does not, and refuses what is too large.
    let mut scan = Scan::new(raw);
    scan.value(0).filter(|_| scan.is_at_end())?.parse().ok()
}

/// A number of integral value however written (`10`, `10.0`, `1e1`), or a string of nothing but
/// digits (`"10"`), since PHP sends both. `None` beyond `i64`, and from 2^53 on for a number
/// that is not written plainly: there a neighbour may have been rounded to it.
pub fn integer(raw: &str) -> Option<i64> {
    if raw.starts_with('"') {
        let digits = string(raw)?;
        return digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?;
    }
    let number = number(raw)?;
    if is_plain_integer(raw) {
        return raw.parse().ok();
    }
    let is_exact = number.fract() == 0.0 && number.abs() < (1_u64 << 53) as f64;
    is_exact.then_some(number as i64)
}

/// Whether this is `null`.
pub fn is_null(raw: &str) -> bool {
    raw == "null"
}

/// Whether JavaScript takes the value for true: everything but `null`, `false`, `""` and zero,
/// however that is written.
pub fn is_truthy(raw: &str) -> bool {
    !matches!(raw, "null" | "false" | r#""""#) && number(raw) != Some(0.0)
}

/// Appends a text as a JSON string, with only the escapes that JSON demands.
pub fn quote_into(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("memory takes every byte");
}

/// `-?(0|[1-9][0-9]*)`, given that it is a number.
fn is_plain_integer(number: &str) -> bool {
    number.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit())
}

/// Whether arrays and objects lie deeper in each other than that, if it is JSON at all.
fn is_too_deep(text: &str, depth_max: usize) -> bool {
    let (mut depth, mut bytes) = (0_usize, text.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' if depth == depth_max => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    false
}

/// Skips the rest of a string, whose opening quote has been read.
fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}
