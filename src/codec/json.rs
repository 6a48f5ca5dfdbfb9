//! JSON as text. Finds the members of an object and leaves their values as they were written:
//! digit for digit, no tree, nothing allocated but decoded strings. Never decides what a member
//! means. Called by the switch for commands and browser messages, and by [`jwt`](super::jwt).
//!
//! `Scan` is the grammar. What it makes of a text is what serde_json would: `oracle` compares
//! them in tests and for the fuzzer.
//!
//! *Raw* is everywhere one JSON value without white space around it, as [`members`] and
//! [`each_element`] hand it out. Whatever else is given as raw yields `None` or an arbitrary
//! `bool`.

mod oracle;
mod outline;
mod scan;
mod tail;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

#[doc(hidden)]
pub use oracle::fuzz_members;
pub use outline::Outline;
use scan::Scan;
pub use tail::last_elements;

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

/// A raw value, and what the scan that found it knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a> {
    text: &'a str,
    /// It is known to be a string without escapes, which need not be looked at again.
    is_plain: bool,
}

impl<'a> Raw<'a> {
    /// The value as it was written.
    pub fn get(self) -> &'a str {
        self.text
    }
}

impl<'a> From<&'a str> for Raw<'a> {
    fn from(text: &'a str) -> Raw<'a> {
        Raw { text, is_plain: false }
    }
}

/// The raw values of the members with these names, in the order of the names; `None` for the text
/// as a whole if it is JSON but no object. Of two equal keys the last one counts (protocol part
/// 2), a key may be written with escapes, and members with other names are skipped.
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
    let found = raw_members(text, names, depth_max)?;
    Ok(found.map(|found| found.map(|raw| raw.map(Raw::get))))
}

/// As [`members_within`], with what the scan knows of the values.
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
    // One scan for all numbers of names: each would be compiled for itself.
    let tell: &mut dyn FnMut(&[u8], Raw<'a>) = &mut tell;
    let is_object = each_member(text, depth_max, tell)?;
    Ok(is_object.then_some(found))
}

/// Tells of each member of an object its key, decoded, and its value, in the order in which they
/// are written; of two equal keys the last one counts. Whether the text is an object at all.
///
/// # Errors
/// [`JsonError`] as [`members`]; what has been told means nothing then.
#[inline]
pub fn each_member<'a>(
    text: &'a str,
    depth_max: usize,
    tell: impl FnMut(&[u8], Raw<'a>),
) -> Result<bool, JsonError> {
    told(text, depth_max, tell).ok_or_else(|| fault(text, depth_max))
}

/// What is wrong first with a text that [`Members`] or [`each_member`] has refused.
#[cold]
pub fn fault(text: &str, depth_max: usize) -> JsonError {
    let mut outline = Outline::new(&[], depth_max);
    outline.read(text.as_bytes());
    outline.members(text).err().unwrap_or(JsonError::Syntax)
}

/// As [`each_member`]; `None` if the text is not JSON, or nested too deep.
#[inline]
fn told<'a>(text: &'a str, depth_max: usize, mut tell: impl FnMut(&[u8], Raw<'a>)) -> Option<bool> {
    let mut members = Members::of(text, depth_max)?;
    while members.go_on()? {
        let key = members.key()?;
        let value = members.value()?;
        // A key that is no text cannot be one that is looked for, but is no error either.
        if let Some(key) = key {
            tell(&key, value);
        }
    }
    members.is_over().then_some(members.is_object)
}

/// The members of an object, one by one, for those who look for them in the text itself: as long
/// as [`Members::go_on`] says so, a key has to be taken, and then the value behind it; and then
/// [`Members::is_over`] says whether that was all. `None` is everywhere the answer to a text that
/// is not JSON, or nested too deep.
pub struct Members<'a> {
    scan: Scan<'a>,
    depth_max: usize,
    is_object: bool,
    is_first: bool,
}

impl<'a> Members<'a> {
    /// Those of a text; any other JSON has none.
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

    /// Whether there is another one.
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

    /// Whether nothing stands behind the last of them.
    #[inline(always)]
    pub fn is_over(&mut self) -> bool {
        self.scan.is_over()
    }

    /// Takes what is next if it is written just like this: a key with its quotes and its colon, or
    /// a value behind which no digit can stand.
    #[inline(always)]
    pub fn takes(&mut self, text: &[u8]) -> bool {
        self.scan.takes(text)
    }

    /// The key that is next, decoded, however it is written; `None` in there if it is no text.
    #[inline(always)]
    pub fn key(&mut self) -> Option<Option<Cow<'a, [u8]>>> {
        let (key, has_escapes) = self.scan.key()?;
        if !has_escapes {
            return Some(Some(Cow::Borrowed(key)));
        }
        let decoded = str::from_utf8(key).ok().and_then(unescaped);
        Some(decoded.map(|key| Cow::Owned(key.into_bytes())))
    }

    /// Its value.
    #[inline(always)]
    pub fn value(&mut self) -> Option<Raw<'a>> {
        self.scan.value(self.depth_max)
    }

    /// Its value, whose own members are handed to that; it goes through all of them.
    #[inline(always)]
    pub fn object(&mut self, read: impl FnOnce(&mut Members<'a>) -> Option<()>) -> Option<Raw<'a>> {
        self.scan.next()?;
        let mut members = Members::at(self.scan, self.depth_max)?;
        read(&mut members)?;
        let before = std::mem::replace(&mut self.scan, members.scan);
        self.scan.behind(before)
    }
}

/// Tells of each element of an array, raw, for as long as that wants more. `None` for anything
/// else, and for what is twice as deep as [`DEPTH_MAX`], as far as it was read.
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

/// A string, decoded; `None` for anything else, and for one with half of a surrogate pair, which
/// is no text.
#[inline]
pub fn string<'a>(raw: impl Into<Raw<'a>>) -> Option<Cow<'a, str>> {
    let Raw { text, is_plain } = raw.into();
    let is_plain = is_plain || is_plain_string(text)?;
    let inner = text.get(1..text.len().checked_sub(1)?)?;
    // A string without escapes is borrowed as it lies.
    if is_plain { Some(Cow::Borrowed(inner)) } else { unescaped(inner).map(Cow::Owned) }
}

/// Whether a string has no escapes; `None` for what is no string.
#[inline(never)]
fn is_plain_string(raw: &str) -> Option<bool> {
    let mut scan = Scan::new(raw);
    let found = scan.value(0).filter(|_| raw.starts_with('"') && scan.is_at_end())?;
    Some(found.is_plain)
}

/// What is between the quotes of a string with escapes, decoded.
#[cold]
fn unescaped(inner: &str) -> Option<String> {
    serde_json::from_str(&format!("\"{inner}\"")).ok()
}

/// A string or a number as text (protocol part 1, *Names*), so that 5 and "5" are one user. An
/// integer written plainly stays digit for digit, and `-0` is `0`. Another number becomes what
/// JavaScript prints, as far as that needs no exponent: from 10^-6 to below 10^21. `None` for
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

/// A number from 10^-6 to below 10^21 as JavaScript prints it (ECMA-262, `Number::toString`): in
/// the fewest digits that are read back as the same number. Of two such texts that are as near to
/// it JavaScript takes the even one, and the standard library the larger.
fn shortest(number: f64) -> String {
    let text = number.to_string();
    // In between lies what ends there with a 5: these are all of its digits.
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

/// A decimal number without the zeros at its end.
fn significant(text: &str) -> &str {
    let Some((integer, fraction)) = text.split_once('.') else {
        return text.trim_end_matches('0');
    };
    match fraction.trim_end_matches('0') {
        "" => integer.trim_end_matches('0'),
        _ => text.trim_end_matches('0'),
    }
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
    scan.value(0).filter(|_| scan.is_at_end())?;
    raw.parse().ok()
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
#[inline]
pub fn is_truthy(raw: &str) -> bool {
    match raw.starts_with('"') {
        true => raw != r#""""#,
        false => !matches!(raw, "null" | "false") && number(raw) != Some(0.0),
    }
}

/// A text as JSON.
pub fn quote(text: &str) -> String {
    let mut out = Vec::new();
    quote_into(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends a text as a JSON string, with only the escapes that JSON demands.
pub fn quote_into(out: &mut Vec<u8>, text: &str) {
    if text.bytes().any(scan::is_special) {
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
