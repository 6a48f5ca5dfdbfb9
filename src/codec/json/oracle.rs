//! Compares with serde_json, for the fuzzer and for tests: no text may be accepted by one of the
//! two and rejected by the other.

use std::fmt;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::*;

/// Fuzz target: compares [`members`] with a parser that builds trees.
///
/// # Panics
/// If the two disagree.
pub fn fuzz_members(data: &[u8]) {
    const NAMES: [&str; 3] = ["action", "data", "i"];
    let Ok(text) = std::str::from_utf8(data) else { return };
    let found = members(text, &NAMES);
    let by_serde = members_by_serde(text, &NAMES);
    match found {
        Ok(_) => assert_eq!(found, by_serde, "{text:?}"),
        Err(JsonError::Syntax) => assert_eq!(by_serde, Err(JsonError::Syntax), "{text:?}"),
        Err(JsonError::Depth { .. }) => assert!(is_too_deep(text, DEPTH_MAX), "{text:?}"),
    }
    // The result must not depend on how the text is split.
    for piece in [1, 7, text.len().max(1)] {
        let mut scanner = MemberScanner::new(&NAMES, DEPTH_MAX);
        (0..text.len()).step_by(piece).for_each(|end| scanner.read(&data[..end]));
        scanner.read(data);
        let scanned = scanner.members(text);
        let scanned = scanned.map(|found| found.map(|found| found.map(|raw| raw.map(Raw::get))));
        assert_eq!(scanned, found, "{text:?}");
    }
    let raw = raw_members(text, &NAMES, DEPTH_MAX);
    for raw in raw.into_iter().flatten().flatten().flatten() {
        assert_eq!(string(raw), string(raw.get()), "what is known of it is true");
        fuzz_value(raw.get());
    }
    // The tree rejects some JSON that we pass on (lone surrogates, 1e400), and gives one name a
    // special meaning.
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

/// Returns the raw elements of an array.
pub(super) fn elements(raw: &str) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    each_element(raw, |element| {
        found.push(element);
        true
    })?;
    Some(found)
}

/// Checks properties of every raw value.
fn fuzz_value(raw: &str) {
    assert!(members(raw, &[]).is_ok(), "a raw value is JSON");
    assert_eq!(raw.trim(), raw);
    let by_serde = serde_json::from_str::<String>(raw).ok();
    assert_eq!(string(raw).as_deref(), by_serde.as_deref());
    let by_serde = serde_json::from_str::<Vec<&RawValue>>(raw).ok();
    let by_serde = by_serde.map(|found| found.into_iter().map(RawValue::get).collect());
    assert_eq!(elements(raw), by_serde);
    if let Some(text) = string(raw) {
        let mut quoted = Vec::new();
        quote_into(&mut quoted, &text);
        assert_eq!(string(&*String::from_utf8_lossy(&quoted)), Some(text));
    }
    if let Some(number) = integer(raw) {
        assert!(integer(&format!("{number}.0")).is_none_or(|again| again == number));
    }
    assert!(!is_null(raw) || !is_truthy(raw));
    assert!(text(raw).is_none_or(|text| number(raw).is_none() || number(&text).is_some()));
    elements(raw).into_iter().flatten().for_each(fuzz_value);
}

/// Finds [`members`] with serde_json.
fn members_by_serde<'a, const N: usize>(
    text: &'a str,
    names: &[&str; N],
) -> Result<Option<[Option<&'a str>; N]>, JsonError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let found = if text.trim_ascii_start().starts_with('{') {
        reader.deserialize_map(Members(names)).map(Some)
    } else {
        <&RawValue as serde::Deserialize>::deserialize(&mut reader).map(|_| None)
    };
    found.and_then(|found| reader.end().map(|()| found)).map_err(|_| JsonError::Syntax)
}

struct Members<'n, const N: usize>(&'n [&'n str; N]);

impl<'a, const N: usize> Visitor<'a> for Members<'_, N> {
    type Value = [Option<&'a str>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        // Keys are taken raw too: one with a lone surrogate cannot match, but is not an error.
        while let Some((key, value)) = map.next_entry::<&'a RawValue, &'a RawValue>()? {
            let Ok(key) = serde_json::from_str::<String>(key.get()) else { continue };
            if let Some(index) = self.0.iter().position(|name| *name == key) {
                found[index] = Some(value.get());
            }
        }
        Ok(found)
    }
}

/// Returns whether a text, if it is JSON, is nested too deep: serde_json does not check the depth
/// of what it skips.
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

/// Skips the rest of a string whose opening quote has been read.
fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}
