//! Bodies of commands as text, whatever bytes they hold. Called by `control` for each command.

use std::borrow::Cow;

use super::command::{MemberScanner, Refused};

/// Bytes searched for invalid UTF-8 one by one, before the fast scan of all the rest.
const NEAR_BYTES: usize = 64;
/// The most invalid bytes that are replaced by one character.
const INVALID_BYTES_MAX: usize = 3;
/// The most replacements in one body: three milliseconds. Text in another encoding needs fewer,
/// unless it is long and not in Latin script.
const REPLACED_MAX: usize = 512 * 1024;

/// Returns a body as text. Bytes that are not UTF-8 become U+FFFD, as in the original server. The
/// scanner of a large body is adjusted to the new positions: invalid bytes are in strings, or the
/// body is not JSON, whatever they become.
///
/// # Errors
/// 300: too many bytes are invalid, or the text is longer than `body_max` (U+FFFD has three bytes).
#[inline]
pub(super) fn of_body<'a>(
    body: &'a [u8],
    scanner: Option<&mut MemberScanner>,
    body_max: usize,
) -> Result<Cow<'a, str>, Refused> {
    match str::from_utf8(body) {
        Ok(body) => Ok(Cow::Borrowed(body)),
        Err(_) => made_text(body, scanner, body_max).map(Cow::Owned),
    }
}

fn made_text(
    body: &[u8],
    scanner: Option<&mut MemberScanner>,
    body_max: usize,
) -> Result<String, Refused> {
    let places = scanner.map(|scanner| scanner.places()).unwrap_or_default();
    let (mut places, mut read, mut replaced) = (places.into_iter().peekable(), 0, 0);
    let mut text = String::with_capacity(body.len());
    while let Some(rest) = body.get(read..).filter(|rest| !rest.is_empty()) {
        let (valid, invalid_bytes) = next_chunk(rest);
        while let Some(place) = places.next_if(|place| **place <= read + valid.len()) {
            *place = text.len() + place.saturating_sub(read);
        }
        text.push_str(valid);
        if invalid_bytes > 0 {
            text.push('\u{fffd}');
            replaced += 1;
        }
        read += valid.len() + invalid_bytes;
        if text.len() > body_max {
            return Err(Refused::new(300, "Not UTF-8, and too long when it is made so"));
        }
        if replaced > REPLACED_MAX {
            let reason = format!("Not UTF-8 in too many places, at most {REPLACED_MAX}").into();
            return Err(Refused { code: 300, reason });
        }
    }
    Ok(text)
}

/// Returns the valid text at the start, and how many invalid bytes follow it.
fn next_chunk(bytes: &[u8]) -> (&str, usize) {
    // The fast scan pays only for long valid text; short runs are faster byte by byte.
    let (near, _) = bytes.split_at(bytes.len().min(NEAR_BYTES));
    if let Some(chunk) = near.utf8_chunks().next()
        && chunk.valid().len() + chunk.invalid().len() + INVALID_BYTES_MAX < near.len()
    {
        return (chunk.valid(), chunk.invalid().len());
    }
    match str::from_utf8(bytes) {
        Ok(text) => (text, 0),
        Err(error) => {
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            (str::from_utf8(valid).unwrap_or_default(), error.error_len().unwrap_or(rest.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::switch::command;

    #[test]
    fn invalid_utf_8_is_replaced_within_bounds() {
        let text = |body, max| of_body(body, None, max);
        assert!(matches!(text(b"plain", 0), Ok(Cow::Borrowed("plain"))));
        assert_eq!(text(b"a\xffb\xe2\x82c", 9).unwrap(), "a\u{fffd}b\u{fffd}c");
        assert_eq!(text(b"a\xffb\xe2\x82c", 8).unwrap_err().code, 300);
        let bytes = [&b"\xff"[..], b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3", b"ok", b"\xed\xa0\x80"];
        let (all, lossy) = (bytes.concat(), String::from_utf8_lossy(&bytes.concat()).len());
        assert!(text(&all, lossy).is_ok() && text(&all, lossy - 1).is_err());
        let most = b"x\xff".repeat(REPLACED_MAX);
        assert_eq!(text(&most, usize::MAX).unwrap(), String::from_utf8_lossy(&most));
        assert_eq!(text(&[&most[..], b"\xff"].concat(), usize::MAX).unwrap_err().code, 300);
        for count in 50..200 {
            let pieces = [&b"\xc3\xa9".repeat(count)[..], &all, &b"x".repeat(count), b"\xf0\x9f"];
            let body = [pieces.concat(), pieces.concat()].concat();
            let made = of_body(&body, None, usize::MAX).unwrap();
            assert_eq!(made, String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn scanned_fields_of_a_large_request_survive_utf_8_replacement() {
        let (data, limits) = ("[\"?a??\",1],".repeat(500), Limits::default());
        for body in [
            format!(
                r#"{{"action":"emit","channel":"c?","data":[{data}0],"params":{{"count":1}}}}"#
            ),
            format!(r#"{{"da?ta":5,"data":[{data}"?"],"channel":"?","action":"set"}} "#),
            format!(r#"{{"action":"emit","channel":"c","data":[{data}1],?"x":1}}"#),
            format!(r#"{{"action":"emit","channel":"c","data":[{data}1]}}?"#),
            format!(r#"?{{"action":"emit","channel":"c","data":[{data}1]}}"#),
        ] {
            let body: Vec<u8> = body.bytes().map(|b| if b == b'?' { 0xFF } else { b }).collect();
            let lossy = String::from_utf8_lossy(&body).into_owned();
            let mut scanner = command::scanner();
            scanner.read(&body);
            let text = of_body(&body, Some(&mut scanner), 1 << 20).unwrap();
            assert_eq!(text, lossy);
            let whole = command::parse(&lossy, None, true, &limits);
            assert_eq!(command::parse(&text, Some(&scanner), true, &limits), whole);
        }
    }
}
