//! JSON as text. Finds the members of an object and returns their values as they were written,
//! digit for digit: no tree, and nothing allocated but decoded strings. Never decides what a member
//! means. Called by the switch for commands and browser messages, and by [`jwt`](super::jwt).
//!
//! `Scan` is the grammar. It accepts what serde_json accepts: `oracle` compares the two in tests
//! and under the fuzzer.
//!
//! *Raw* means one JSON value without white space around it, as returned by [`members`] and
//! [`each_element`]. For any other text passed as raw, functions return `None` or an arbitrary
//! `bool`.

mod member_scanner;
mod oracle;
mod scan;
mod tail;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

pub use member_scanner::MemberScanner;
#[doc(hidden)]
pub use oracle::fuzz_members;
use scan::Scan;
pub use tail::last_elements;

/// Maximum nesting of arrays and objects; `[]` has depth 1. Nothing here recurses: the limit
/// protects the clients that parse what we pass on.
pub const DEPTH_MAX: usize = 64;

/// Why a text was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not exactly one JSON value (RFC 8259).
    Syntax,
    /// Arrays and objects are nested deeper than this.
    Depth {
        /// [`DEPTH_MAX`], or the limit that was given.
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

/// A raw value, and what the scan learned about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a> {
    text: &'a str,
    /// Known to be a string without escapes, which need not be scanned again.
    is_plain: bool,
}

impl<'a> Raw<'a> {
    /// Returns the value as it was written.
    pub fn get(self) -> &'a str {
        self.text
    }
}

impl<'a> From<&'a str> for Raw<'a> {
    fn from(text: &'a str) -> Raw<'a> {
        Raw { text, is_plain: false }
    }
}

/// Returns the raw values of the members with these names, in the order of the names, or `None` if
/// the text is JSON but not an object. Of duplicate keys the last one counts (protocol part 2),
/// keys may be written with escapes, and other members are skipped.
///
/// # Errors
/// [`JsonError`] if the text is not JSON, or is nested deeper than [`DEPTH_MAX`].
pub fn members<'a, const N: usize>(
    text: &'a str,
    names: &[&str; N],
) -> Result<Option<[Option<&'a str>; N]>, JsonError> {
    members_within(text, names, DEPTH_MAX)
}

/// Like [`members`] with another limit, for callers whose text wraps a value that may itself be
/// [`DEPTH_MAX`] deep.
///
/// # Errors
/// [`JsonError`] if the text is not JSON, or is nested deeper than `depth_max`.
pub fn members_within<'a, const N: usize>(
    text: &'a str,
    names: &[&str; N],
    depth_max: usize,
) -> Result<Option<[Option<&'a str>; N]>, JsonError> {
    let found = raw_members(text, names, depth_max)?;
    Ok(found.map(|found| found.map(|raw| raw.map(Raw::get))))
}

/// Like [`members_within`], with what the scan learned about the values.
fn raw_members<'a, const N: usize>(
    text: &'a str,
    names: &[&str; N],
    depth_max: usize,
) -> Result<Option<[Option<Raw<'a>>; N]>, JsonError> {
    let mut found = [None; N];
    let mut tell = |key: &[u8], value: Raw<'a>| {
        let index = names.iter().position(|name| name.as_bytes() == key);
        if let Some(place) = index.and_then(|index| found.get_mut(index)) {
            *place = Some(value);
        }
    };
    // One scan for every `N`: as a generic it would be compiled for each.
    let tell: &mut dyn FnMut(&[u8], Raw<'a>) = &mut tell;
    let is_object = each_member(text, depth_max, tell)?;
    Ok(is_object.then_some(found))
}

/// Calls `tell` with the decoded key and the value of each member of an object, in text order,
/// duplicates included; callers let the last one count. Returns whether the text is an object.
///
/// # Errors
/// As for [`members`]; what `tell` was called with is then void.
#[inline]
pub fn each_member<'a>(
    text: &'a str,
    depth_max: usize,
    tell: impl FnMut(&[u8], Raw<'a>),
) -> Result<bool, JsonError> {
    told(text, depth_max, tell).ok_or_else(|| fault(text, depth_max))
}

/// Returns the first error in a text that [`Members`] or [`each_member`] has rejected.
#[cold]
pub fn fault(text: &str, depth_max: usize) -> JsonError {
    let mut scanner = MemberScanner::new(&[], depth_max);
    scanner.read(text.as_bytes());
    scanner.members(text).err().unwrap_or(JsonError::Syntax)
}

/// Like [`each_member`]; `None` if the text is not JSON or is nested too deep.
#[inline]
fn told<'a>(text: &'a str, depth_max: usize, mut tell: impl FnMut(&[u8], Raw<'a>)) -> Option<bool> {
    let mut members = Members::of(text, depth_max)?;
    while members.go_on()? {
        let key = members.key()?;
        let value = members.value()?;
        // A key with a lone surrogate cannot match any name, but is not an error.
        if let Some(key) = key {
            tell(&key, value);
        }
    }
    members.is_over().then_some(members.is_object)
}

/// Iterates over the members of an object, for callers that match them in the text itself. While
/// [`Members::go_on`] returns true, take a key and then its value; afterwards [`Members::is_over`]
/// tells whether the text ends there. All methods return `None` if the text is not JSON or is
/// nested too deep.
pub struct Members<'a> {
    scan: Scan<'a>,
    depth_max: usize,
    is_object: bool,
    is_first: bool,
}

impl<'a> Members<'a> {
    /// Starts at the beginning of a text. JSON other than an object has no members.
    #[inline(always)]
    pub fn of(text: &'a str, depth_max: usize) -> Option<Members<'a>> {
        Members::at(Scan::new(text), depth_max)
    }

    #[inline(always)]
    fn at(mut scan: Scan<'a>, depth_max: usize) -> Option<Members<'a>> {
        let is_object = scan.take(b'{').is_some();
        let depth_max = if is_object { depth_max.checked_sub(1)? } else { depth_max };
        Some(Members { scan, depth_max, is_object, is_first: true })
    }

    /// Returns whether there is another member.
    #[inline(always)]
    pub fn go_on(&mut self) -> Option<bool> {
        if !self.is_object {
            return self.scan.value(self.depth_max).map(|_| false);
        }
        let is_first = std::mem::take(&mut self.is_first);
        match self.scan.next()? {
            b',' if !is_first => self.scan.skip(),
            b'}' => {
                self.scan.skip();
                return Some(false);
            }
            _ if is_first => {}
            _ => return None,
        }
        Some(true)
    }

    /// Returns whether nothing follows the object.
    #[inline(always)]
    pub fn is_over(&mut self) -> bool {
        self.scan.is_over()
    }

    /// Returns the first letter of the next key. If white space or anything but a key follows, it
    /// may be any byte: for a guess at what [`Members::takes`] will take.
    #[inline(always)]
    pub fn initial(&self) -> Option<u8> {
        self.scan.second()
    }

    /// Takes the next bytes if they are exactly these: a key with its quotes and colon, or a value
    /// that no further digit could extend.
    #[inline(always)]
    pub fn takes(&mut self, text: &[u8]) -> bool {
        self.scan.takes(text)
    }

    /// Takes the next key and decodes it; the inner `None` is a key with a lone surrogate.
    #[inline(always)]
    pub fn key(&mut self) -> Option<Option<Cow<'a, [u8]>>> {
        let (key, has_escapes) = self.scan.key()?;
        if !has_escapes {
            return Some(Some(Cow::Borrowed(key)));
        }
        let decoded = str::from_utf8(key).ok().and_then(unescaped);
        Some(decoded.map(|key| Cow::Owned(key.into_bytes())))
    }

    /// Takes the value of the member.
    #[inline(always)]
    pub fn value(&mut self) -> Option<Raw<'a>> {
        self.scan.value(self.depth_max)
    }

    /// Takes the value and calls `read` with its members, all of which it must take.
    #[inline(always)]
    pub fn object(&mut self, read: impl FnOnce(&mut Members<'a>) -> Option<()>) -> Option<Raw<'a>> {
        self.scan.next()?;
        let mut members = Members::at(self.scan, self.depth_max)?;
        read(&mut members)?;
        let before = std::mem::replace(&mut self.scan, members.scan);
        self.scan.behind(before)
    }
}

/// Calls `tell` with each raw element of an array until it returns `false`. Returns `None` if `raw`
/// is not an array, or if an element that was read is deeper than twice [`DEPTH_MAX`].
pub fn each_element<'a>(raw: &'a str, mut tell: impl FnMut(&'a str) -> bool) -> Option<()> {
    let mut scan = Scan::new(raw);
    scan.take(b'[')?;
    let mut is_open = scan.take(b']').is_none();
    while is_open {
        if !tell(scan.value(2 * DEPTH_MAX)?.get()) {
            return Some(());
        }
        is_open = scan.take(b',').is_some();
        if !is_open {
            scan.take(b']')?;
        }
    }
    scan.is_over().then_some(())
}

/// Decodes a string; `None` if `raw` is not a string, or has a lone surrogate and thus is not text.
#[inline]
pub fn string<'a>(raw: impl Into<Raw<'a>>) -> Option<Cow<'a, str>> {
    let Raw { text, is_plain } = raw.into();
    let is_plain = is_plain || is_plain_string(text)?;
    let inner = text.get(1..text.len().checked_sub(1)?)?;
    // A string without escapes is borrowed.
    if is_plain { Some(Cow::Borrowed(inner)) } else { unescaped(inner).map(Cow::Owned) }
}

/// Returns whether a string has no escapes; `None` if `raw` is not a string.
#[inline(never)]
fn is_plain_string(raw: &str) -> Option<bool> {
    let mut scan = Scan::new(raw);
    let found = scan.value(0).filter(|_| raw.starts_with('"') && scan.is_at_end())?;
    Some(found.is_plain)
}

/// Decodes what is between the quotes of a string with escapes.
#[cold]
fn unescaped(inner: &str) -> Option<String> {
    serde_json::from_str(&format!("\"{inner}\"")).ok()
}

/// Returns a string or a number as text (protocol part 1, *Names*), so that 5 and "5" are the same
/// user. A plain integer is kept digit for digit, but `-0` becomes `0`. Any other number becomes
/// what JavaScript prints, if that needs no exponent: from 10^-6 to below 10^21. `None` for
/// everything else.
#[inline]
pub fn text<'a>(raw: impl Into<Raw<'a>>) -> Option<Cow<'a, str>> {
    let raw = raw.into();
    if raw.text.starts_with('"') { string(raw) } else { number_text(raw.text) }
}

/// [`text`] of a number.
#[inline(never)]
fn number_text(raw: &str) -> Option<Cow<'_, str>> {
    let number = number(raw)?;
    if number == 0.0 {
        return Some(Cow::Borrowed("0"));
    }
    if is_plain_integer(raw) {
        return Some(Cow::Borrowed(raw));
    }
    (1e-6..1e21).contains(&number.abs()).then(|| Cow::Owned(shortest(number)))
}

/// Formats a number from 10^-6 to below 10^21 as JavaScript does (ECMA-262, `Number::toString`):
/// with the fewest digits that parse back to the same number. If two such texts are equally near,
/// JavaScript takes the even one, the standard library the larger one.
fn shortest(number: f64) -> String {
    let text = number.to_string();
    // In a tie the exact value ends in a 5 after those digits; this text has all its digits.
    let exact = format!("{number:.72}");
    let is_even = |down: &&str| down.ends_with(['0', '2', '4', '6', '8']);
    let down = significant(&exact).strip_suffix('5').filter(is_even);
    match down.filter(|down| down.len() == significant(&text).len()) {
        Some(down) => {
            let even = format!("{down:0<0$}", text.len());
            if even.parse() == Ok(number) { even } else { text }
        }
        None => text,
    }
}

/// Removes the trailing zeros of a decimal number.
fn significant(text: &str) -> &str {
    let Some((integer, fraction)) = text.split_once('.') else {
        return text.trim_end_matches('0');
    };
    match fraction.trim_end_matches('0') {
        "" => integer.trim_end_matches('0'),
        _ => text.trim_end_matches('0'),
    }
}

/// Parses a number to the nearest `f64`, infinite from about 1.8 · 10^308 on; `None` if it is not a
/// number.
pub fn number(raw: &str) -> Option<f64> {
    if !raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    // The scan checks the grammar, and the standard library rounds correctly. serde_json as we
    // configure it does not, and rejects numbers that are too large.
    let mut scan = Scan::new(raw);
    scan.value(0).filter(|_| scan.is_at_end())?;
    raw.parse().ok()
}

/// Parses a number of integral value however written (`10`, `10.0`, `1e1`), or a string of digits
/// only (`"10"`): PHP sends both. `None` outside `i64`, and from 2^53 on unless the number is a
/// plain integer, since a neighbouring number may have been rounded to it.
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

/// Returns whether this is `null`.
pub fn is_null(raw: &str) -> bool {
    raw == "null"
}

/// Returns whether JavaScript treats the value as true: everything but `null`, `false`, `""` and
/// zero, however it is written.
#[inline]
pub fn is_truthy(raw: &str) -> bool {
    match raw.starts_with('"') {
        true => raw != r#""""#,
        false => !matches!(raw, "null" | "false") && number(raw) != Some(0.0),
    }
}

/// Encodes a text as a JSON string.
pub fn quote(text: &str) -> String {
    let mut out = Vec::new();
    quote_into(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends a text as a JSON string, with only the escapes that JSON requires.
pub fn quote_into(out: &mut Vec<u8>, text: &str) {
    if scan::plain(text.as_bytes(), 0) < text.len() {
        return serde_json::to_writer(out, text).expect("memory takes every byte");
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// `-?(0|[1-9][0-9]*)`, given that it is a number.
fn is_plain_integer(number: &str) -> bool {
    number.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit())
}
