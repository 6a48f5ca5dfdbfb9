//! JSON as text. Finds the members of an object and leaves their values as they were written:
//! digit for digit, no tree, nothing allocated but decoded strings. Never decides what a member
//! means. Called by the switch for commands and browser messages, and by [`jwt`](super::jwt).
//!
//! *Raw* is everywhere one JSON value without white space around it, as [`members`] and
//! [`elements`] hand it out. Whatever else is given as raw yields `None` or an arbitrary `bool`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

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
    if is_too_deep(text, depth_max) {
        return Err(JsonError::Depth { max: depth_max });
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let found = if text.trim_ascii_start().starts_with('{') {
        reader.deserialize_map(Members(names)).map(Some)
    } else {
        <&RawValue as serde::Deserialize>::deserialize(&mut reader).map(|_| None)
    };
    found.and_then(|found| reader.end().map(|()| found)).map_err(|_| JsonError::Syntax)
}

/// The raw elements of an array; `None` for anything else.
pub fn elements(raw: &str) -> Option<Vec<&str>> {
    let mut reader = serde_json::Deserializer::from_str(raw);
    let found = reader.deserialize_seq(Elements).ok()?;
    reader.end().is_ok().then_some(found)
}

/// A string, decoded; `None` for anything else, and for one with half of a surrogate pair, which
/// is no text.
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    // A string without escapes is borrowed as it lies.
    let plain = serde_json::from_str::<&str>(raw).map(Cow::Borrowed);
    plain.or_else(|_| serde_json::from_str::<String>(raw).map(Cow::Owned)).ok()
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
    // RawValue knows the grammar, the standard library rounds correctly; serde_json, as we
    // configure it, does not, and refuses what is too large.
    serde_json::from_str::<&RawValue>(raw).ok()?.get().parse().ok()
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

/// For the fuzzer: compares [`members`] with a parser that builds trees.
///
/// # Panics
/// If they disagree.
pub fn fuzz_members(data: &[u8]) {
    const NAMES: [&str; 3] = ["action", "data", "i"];
    let Ok(text) = std::str::from_utf8(data) else { return };
    let found = members(text, &NAMES);
    for raw in found.iter().flatten().flatten().flatten() {
        fuzz_value(raw);
    }
    // The tree refuses some JSON that we pass on (surrogates, 1e400), and takes one name for a
    // sign of its own.
    let tree = serde_json::from_str::<serde_json::Value>(text);
    let (Ok(tree), false) = (tree, text.contains("$serde_json")) else { return };
    match found {
        Ok(None) => assert!(!tree.is_object()),
        Ok(Some(found)) => {
            for (raw, name) in found.iter().zip(NAMES) {
                let value = raw.map(|raw| serde_json::from_str(raw).expect("a raw value is JSON"));
                assert_eq!(value.as_ref(), tree.get(name));
            }
        }
        Err(error) => {
            assert_ne!(error, JsonError::Syntax);
            assert!(error.to_string().contains("deep"));
        }
    }
}

/// What holds for every raw value.
fn fuzz_value(raw: &str) {
    assert!(members(raw, &[]).is_ok(), "a raw value is JSON");
    assert_eq!(raw.trim(), raw);
    if let Some(text) = string(raw) {
        let mut quoted = Vec::new();
        quote_into(&mut quoted, &text);
        assert_eq!(string(&String::from_utf8_lossy(&quoted)), Some(text));
    }
    if let Some(number) = integer(raw) {
        assert!(integer(&format!("{number}.0")).is_none_or(|again| again == number));
    }
    assert!(!is_null(raw) || !is_truthy(raw));
    assert!(text(raw).is_none_or(|text| number(raw).is_none() || number(&text).is_some()));
    elements(raw).into_iter().flatten().for_each(fuzz_value);
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

struct Members<'n, const N: usize>(&'n [&'n str; N]);

impl<'a, const N: usize> Visitor<'a> for Members<'_, N> {
    type Value = [Option<&'a str>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        // Keys are taken raw too: one that is no text cannot be a name, but is no error either.
        while let Some((key, value)) = map.next_entry::<&'a RawValue, &'a RawValue>()? {
            let Some(key) = string(key.get()) else { continue };
            if let Some(index) = self.0.iter().position(|name| *name == key) {
                found[index] = Some(value.get());
            }
        }
        Ok(found)
    }
}

struct Elements;

impl<'a> Visitor<'a> for Elements {
    type Value = Vec<&'a str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(element) = sequence.next_element::<&'a RawValue>()? {
            found.push(element.get());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        members(text, &[name]).unwrap().unwrap()[0]
    }

    #[test]
    fn values_stay_as_they_were_written() {
        let text = " {\"data\" :\t{ \"n\": 1.0e+2, \"big\": 12345678901234567890123 } ,\"x\":1 }\n";
        let [x, data, absent] = members(text, &["x", "data", "absent"]).unwrap().unwrap();
        assert_eq!(data, Some("{ \"n\": 1.0e+2, \"big\": 12345678901234567890123 }"));
        assert_eq!((x, absent), (Some("1"), None));
        assert_eq!(member(r#"{"a": "\ud800" }"#, "a"), Some(r#""\ud800""#));
        assert_eq!(member(r#"{"a": 1e400 }"#, "a"), Some("1e400"));
        assert_eq!(member(r#"{"a":null}"#, "a"), Some("null"));
    }

    #[test]
    fn names_are_compared_decoded_and_the_last_one_counts() {
        assert_eq!(member(r#"{"a":1,"\u0061":2}"#, "a"), Some("2"));
        assert_eq!(member(r#"{"\u0061":2,"a":1}"#, "a"), Some("1"));
        assert_eq!(member(r#"{"A":1,"a ":2,"":3}"#, "a"), None);
        assert_eq!(member(r#"{"ключ":1}"#, "ключ"), Some("1"));
    }

    #[test]
    fn other_members_are_skipped_whatever_their_name() {
        for name in ["hasOwnProperty", "__proto__", r"\ud800", "$serde_json::private::RawValue"] {
            let text = format!(r#"{{"{name}":{{"a":1}},"a":2,"{name}":[]}}"#);
            assert_eq!(member(&text, "a"), Some("2"), "{name}");
        }
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for text in ["null", " 5 ", "1e400", r#""\ud800""#, r#""{""#, "true", "[{}]", "[]"] {
            assert_eq!(members(text, &["a"]), Ok(None), "{text}");
        }
        assert_eq!(members("{}", &["a"]), Ok(Some([None])));
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        for text in [
            "",
            " ",
            "{",
            "}",
            "{}}",
            "{} x",
            "{}\0",
            "\u{feff}{}",
            "{a:1}",
            "{'a':1}",
            "nul",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":+1}"#,
            r#"{"a":.5}"#,
            r#"{"a":NaN}"#,
            r#"{"a":"\x"}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":"}"#,
            "[1,]",
            r#"{1:1}"#,
            r#"{"a":[}"#,
            "\u{a0}{}",
            "-",
            "\"",
        ] {
            assert_eq!(members(text, &["a"]), Err(JsonError::Syntax), "{text}");
        }
    }

    #[test]
    fn depth_has_a_limit_and_costs_no_stack() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let deep = Err(JsonError::Depth { max: DEPTH_MAX });
        assert_eq!(members(&nested(DEPTH_MAX), &["a"]), Ok(None));
        assert_eq!(members(&nested(DEPTH_MAX + 1), &["a"]), deep);
        assert_eq!(members(&"[".repeat(4_000_000), &["a"]), deep);
        assert_eq!(members(&"{\"a\":".repeat(1_000_000), &["a"]), deep);
        // Neither many beside each other nor those in strings count.
        let wide = format!("{{\"a\":[{}0]}}", "[{}],".repeat(1000));
        assert!(member(&wide, "a").is_some());
        for escape in ["", r"\n", r#"\""#, r"\\"] {
            let brackets = "[".repeat(1000);
            let quoted = format!(r#"{{"a":"{escape}{brackets}{escape}","b":"{brackets}"}}"#);
            assert!(member(&quoted, "a").is_some(), "{escape}");
            let hidden = format!(r#"{{"a":"{escape}","b":{brackets}}}"#);
            assert_eq!(members(&hidden, &["a"]), deep, "{escape}");
        }
        // Raw values from elsewhere may be deep; they cost no stack either.
        assert_eq!(elements(&nested(1_000_000)).unwrap().len(), 1);
    }

    #[test]
    fn strings_are_decoded() {
        assert!(matches!(string(r#""plain é""#), Some(Cow::Borrowed("plain é"))));
        assert_eq!(string(r#""\u0041\/\n\ud83d\ude00""#).as_deref(), Some("A/\n😀"));
        assert_eq!(string(r#""""#).as_deref(), Some(""));
        for raw in [r#""\ud800""#, r#""\ude00x""#, "5", "null", "[]", r#""a"b""#, "\"", ""] {
            assert_eq!(string(raw), None, "{raw}");
        }
    }

    #[test]
    fn numbers_become_text_as_in_javascript() {
        for (raw, as_text) in [
            ("5", "5"),
            ("-7", "-7"),
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0e9", "0"),
            ("12345678901234567890123", "12345678901234567890123"),
            ("1.0", "1"),
            ("1e3", "1000"),
            ("1.5E1", "15"),
            ("-2.50", "-2.5"),
            ("0.1", "0.1"),
            ("1e20", "100000000000000000000"),
            ("1.2345678901234567891e20", "123456789012345680000"),
            ("9007199254740993.0", "9007199254740992"),
            ("1e-6", "0.000001"),
            ("0.0000015", "0.0000015"),
            ("123.456789012345678", "123.45678901234568"),
            (r#""007""#, "007"),
            (r#""""#, ""),
        ] {
            assert_eq!(text(raw).as_deref(), Some(as_text), "{raw}");
        }
        for raw in ["1e21", "9e-7", "1e400", "-1e22", "null", "true", "[5]", "{}", "01", "+1", ".5"]
        {
            assert_eq!(text(raw), None, "{raw}");
        }
        assert!(matches!(text("5"), Some(Cow::Borrowed("5"))));
    }

    #[test]
    fn integers_have_many_spellings() {
        for (raw, value) in [
            ("10", 10),
            ("10.0", 10),
            ("1e1", 10),
            ("-3", -3),
            ("-0", 0),
            (r#""10""#, 10),
            (r#""007""#, 7),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("9007199254740991.0", (1 << 53) - 1),
            ("0.0", 0),
        ] {
            assert_eq!(integer(raw), Some(value), "{raw}");
        }
        for raw in [
            "1.5",
            "1e-1",
            "9223372036854775808",
            "1e17",
            "9007199254740993.0",
            "1e400",
            r#""""#,
            r#""-1""#,
            r#""1.0""#,
            r#"" 1""#,
            r#""x""#,
            "null",
            "true",
            "[1]",
            "01",
            r#""99999999999999999999""#,
            "",
        ] {
            assert_eq!(integer(raw), None, "{raw}");
        }
    }

    #[test]
    fn truth_is_javascript_s() {
        for raw in ["null", "false", r#""""#, "0", "-0", "0.00", "0e10", "-0E-3", "1e-400"] {
            assert!(!is_truthy(raw), "{raw}");
        }
        for raw in ["true", "1", "-1", "0.1", r#""0""#, r#""false""#, "[]", "{}", "1e400"] {
            assert!(is_truthy(raw), "{raw}");
        }
        assert!(is_null("null") && !is_null("0") && !is_null(r#""null""#));
    }

    #[test]
    fn arrays_fall_into_their_elements() {
        assert_eq!(elements("[]"), Some(vec![]));
        assert_eq!(elements(r#"[ 1.0 , "a,b",[2, 3] ]"#), Some(vec!["1.0", r#""a,b""#, "[2, 3]"]));
        for raw in ["{}", "null", "5", r#""[]""#, "[1", "[1,]", "[] []", ""] {
            assert_eq!(elements(raw), None, "{raw}");
        }
    }

    #[test]
    fn only_what_json_demands_is_escaped() {
        let mut out = b"x".to_vec();
        quote_into(&mut out, "\"\\/\n\t\u{1}\u{7f}é😀\u{2028}");
        let expected = "x\"\\\"\\\\/\\n\\t\\u0001\u{7f}é😀\u{2028}\"";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn the_fuzz_target_takes_anything() {
        for text in [
            r#"{"action":"emit","data":[1,-0.0,"\u00e9\n",{"i":null}],"i":1e2,"i":"x"}"#,
            r#"{"data":"\ud800","i":1e400}"#,
            "[1]",
            "{",
            "\u{feff}{}",
            r#"{"i":-9e15}"#,
        ] {
            fuzz_members(text.as_bytes());
        }
        fuzz_members(b"\xff");
    }
}
