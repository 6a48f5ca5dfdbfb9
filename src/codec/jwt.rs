//! The browser's auth string: a JSON Web Token (RFC 7515, 7519; protocol part 8), signed with a
//! namespace key by HMAC-SHA256 and nothing else. Owns the rules for a valid token; never reads a
//! clock, and never chooses an algorithm because a token names it. Called by the switch at `auth`,
//! and by the command line.

use std::fmt;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::{DecodeSliceError, Engine as _};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::json;

/// The header of every token we sign; identical to the PHP client's.
const HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;
/// The encoded form of this header and of the one most others send: these need no decoding.
const USUAL_HEADERS: [&str; 2] =
    ["eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"];
/// Buffer size for a signature, which has 32 bytes.
const SIGNATURE_ROOM: usize = 48;

/// The claims of a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The user, never empty; a number has been converted to text.
    pub user: String,
    /// The moment from which the token is no longer valid, in seconds since 1970; may be as far
    /// away as `u64::MAX`.
    pub expires: Option<u64>,
    /// Index of the key that signed it.
    pub key_index: usize,
}

/// Why a token is rejected. A browser is told `invalid JWT` in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Not three parts with dots between them.
    Parts,
    /// A part is not base64url without padding (RFC 7515, 2) in its canonical encoding.
    Encoding,
    /// The header is not a JSON object.
    Header,
    /// `alg` is not `HS256`.
    Algorithm,
    /// The header has `crit`: it requires an extension, and we implement none (RFC 7515, 4.1.11).
    Critical,
    /// No key matches the signature.
    Signature,
    /// The payload is not a JSON object.
    Payload,
    /// `i` is neither a non-empty string nor a non-zero number that can be written without
    /// exponent.
    User,
    /// `exp` is present but not a number.
    ExpiryType,
    /// `nbf` is present but not a number.
    NotBeforeType,
    /// `exp` has passed.
    Expired {
        /// `exp`, in seconds since 1970.
        at: u64,
    },
    /// `nbf` has not been reached.
    NotYet {
        /// `nbf`, in seconds since 1970.
        at: u64,
    },
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TokenError::Parts => "a token has three parts with dots between them",
            TokenError::Encoding => "a part is not base64url without padding",
            TokenError::Header => "the header is not a JSON object",
            TokenError::Algorithm => "the header's alg is not HS256",
            TokenError::Critical => "the header's crit demands an extension, and there is none",
            TokenError::Signature => "signature does not match the key",
            TokenError::Payload => "the payload is not a JSON object",
            TokenError::User => {
                "i is no name: a string that is not empty, or a number but 0 without exponent"
            }
            TokenError::ExpiryType => "exp is not a number",
            TokenError::NotBeforeType => "nbf is not a number",
            TokenError::Expired { at } => return write!(f, "expired at {at} (seconds since 1970)"),
            TokenError::NotYet { at } => {
                return write!(f, "not good before {at} (seconds since 1970)");
            }
        })
    }
}

impl std::error::Error for TokenError {}

/// Verifies a token against all keys of its namespace; an empty key matches nothing. The payload is
/// not read before the signature has been verified.
///
/// # Errors
/// The first [`TokenError`] found; the payload is checked last.
pub fn verify(
    token: &str,
    keys: impl IntoIterator<Item: AsRef<str>>,
    now_seconds: u64,
) -> Result<Claims, TokenError> {
    let parts = Parts::of(token).ok_or(TokenError::Parts)?;
    if !USUAL_HEADERS.contains(&parts.header) {
        check_header(&decode_text(parts.header, TokenError::Header)?)?;
    }
    let mut room = [0; SIGNATURE_ROOM];
    let signature = decode_signature(parts.signature, &mut room)?;
    let is_signed_with =
        |key: &str| !key.is_empty() && mac(key, parts.signed).verify_slice(signature).is_ok();
    let key_index = keys.into_iter().position(|key| is_signed_with(key.as_ref()));
    let key_index = key_index.ok_or(TokenError::Signature)?;

    let payload = decode_text(parts.payload, TokenError::Payload)?;
    let names = &["i", "exp", "nbf"];
    let Ok(Some([user, expiry, not_before])) = json::members(&payload, names) else {
        return Err(TokenError::Payload);
    };
    let user = user.filter(|raw| json::is_truthy(raw)).and_then(json::text);
    let user = user.ok_or(TokenError::User)?.into_owned();
    // Rounded so that a token is never valid for longer than it says.
    let expires = moment(expiry, f64::floor, TokenError::ExpiryType)?;
    let begins = moment(not_before, f64::ceil, TokenError::NotBeforeType)?;
    match (expires, begins) {
        (Some(at), _) if at <= now_seconds => Err(TokenError::Expired { at }),
        (_, Some(at)) if at > now_seconds => Err(TokenError::NotYet { at }),
        _ => Ok(Claims { user, expires, key_index }),
    }
}

/// Returns a token for a user, valid until `expires` (seconds since 1970), or for ever if `None`.
pub fn sign(user: &str, key: &str, expires: Option<u64>) -> String {
    let mut payload = br#"{"i":"#.to_vec();
    json::quote_into(&mut payload, user);
    if let Some(expires) = expires {
        payload.extend_from_slice(format!(r#","exp":{expires}"#).as_bytes());
    }
    payload.push(b'}');
    seal(HEADER.as_bytes(), &payload, key)
}

/// Returns the header and payload of a token as unverified JSON text, for display. `None` if they
/// are not two JSON objects.
pub fn inspect(token: &str) -> Option<(String, String)> {
    let parts = Parts::of(token)?;
    let object = |part| {
        let text = decode_text(part, TokenError::Encoding).ok()?;
        let is_object = matches!(json::members(&text, &[]), Ok(Some([])));
        is_object.then_some(text)
    };
    Some((object(parts.header)?, object(parts.payload)?))
}

/// Compares two keys in a time that depends only on their lengths.
pub fn same_key(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// Fuzz target: uses `data` as a token, as a signed header, as a signed payload and as a user.
///
/// # Panics
/// If an invalid token is accepted, or a valid one rejected.
pub fn fuzz_token(data: &[u8]) {
    const KEY: &str = "11111111-1111-4111-8111-111111111111";
    if let Ok(text) = std::str::from_utf8(data) {
        let known = inspect(text);
        assert!(verify(text, &[KEY], 0).is_err() || known.is_some());
        let claims = verify(&sign(text, KEY, Some(1)), &["other", KEY], 0);
        let expected = Claims { user: text.to_owned(), expires: Some(1), key_index: 1 };
        assert_eq!(claims, if text.is_empty() { Err(TokenError::User) } else { Ok(expected) });
    }
    for token in [seal(HEADER.as_bytes(), data, KEY), seal(data, br#"{"i":1}"#, KEY)] {
        match verify(&token, &[KEY], 0) {
            Ok(_) => {
                assert_eq!(verify(&token, &["other"], 0), Err(TokenError::Signature));
                assert!(inspect(&token).is_some());
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// A token split at its dots.
struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    /// Header, dot and payload: what the signature covers.
    signed: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Option<Parts<'a>> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        (!payload.contains('.')).then_some(Parts { header, payload, signature, signed })
    }
}

/// Rejects padding and stray trailing bits: each text has exactly one encoding.
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Encoding)
}

/// Like [`decode`]; anything too long for a signature is not one.
fn decode_signature<'a>(
    part: &str,
    room: &'a mut [u8; SIGNATURE_ROOM],
) -> Result<&'a [u8], TokenError> {
    let length = URL_SAFE_NO_PAD.decode_slice(part, room).map_err(|error| match error {
        DecodeSliceError::DecodeError(_) => TokenError::Encoding,
        DecodeSliceError::OutputSliceTooSmall => TokenError::Signature,
    })?;
    Ok(&room[..length])
}

fn decode_text(part: &str, error: TokenError) -> Result<String, TokenError> {
    String::from_utf8(decode(part)?).map_err(|_| error)
}

/// Checks for the one supported algorithm; `typ` and other members are ignored.
fn check_header(header: &str) -> Result<(), TokenError> {
    let Ok(Some([algorithm, critical])) = json::members(header, &["alg", "crit"]) else {
        return Err(TokenError::Header);
    };
    if algorithm.and_then(json::string).as_deref() != Some("HS256") {
        return Err(TokenError::Algorithm);
    }
    if critical.is_some() { Err(TokenError::Critical) } else { Ok(()) }
}

/// Converts a claim to whole seconds since 1970, rounded by `round` and clamped to the range of
/// `u64`.
fn moment(
    raw: Option<&str>,
    round: fn(f64) -> f64,
    error: TokenError,
) -> Result<Option<u64>, TokenError> {
    raw.map(|raw| json::number(raw).map(|at| round(at) as u64).ok_or(error)).transpose()
}

/// HMAC-SHA256 (RFC 7518, 3.2) with the bytes of the key as they are.
fn mac(key: &str, signed: &str) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes());
    mac.expect("HMAC takes a key of any length").chain_update(signed)
}

/// Returns header and payload as a signed token.
fn seal(header: &[u8], payload: &[u8], key: &str) -> String {
    let mut token = URL_SAFE_NO_PAD.encode(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    let signature = mac(key, &token).finalize().into_bytes();
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and the tokens of the example in part 8 of the protocol.
    const KEY: &str = "11111111-1111-4111-8111-111111111111";
    const FIVE: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJpIjo1fQ\
        .BsVmAps30-7oGl8PYtIAsS8peRM9tSh7NlkcjVaNVnc";
    const BOB: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJpIjoiYm9iIn0\
        ._uYdDuz987-d2j1AC0ttpgbIe7wQ9xjRQc8eEGj54Mw";
    const NOW: u64 = 1_795_472_348;

    fn check(token: &str) -> Result<Claims, TokenError> {
        verify(token, &[KEY], NOW)
    }

    fn payload(text: &str) -> Result<Claims, TokenError> {
        check(&seal(HEADER.as_bytes(), text.as_bytes(), KEY))
    }

    fn header(text: &str) -> Result<Claims, TokenError> {
        check(&seal(text.as_bytes(), br#"{"i":5}"#, KEY))
    }

    fn valid_for(user: &str) -> Result<Claims, TokenError> {
        Ok(Claims { user: user.into(), expires: None, key_index: 0 })
    }

    #[test]
    fn tokens_of_the_php_client_are_accepted() {
        assert_eq!(check(FIVE), valid_for("5"));
        assert_eq!(check(BOB), valid_for("bob"));
        assert_eq!(sign("bob", KEY, None), BOB);
    }

    #[test]
    fn a_signed_token_is_valid_until_it_expires() {
        let token = sign("b\"о\\b", KEY, Some(NOW + 1));
        let claims = Claims { user: "b\"о\\b".into(), expires: Some(NOW + 1), key_index: 0 };
        assert_eq!(check(&token), Ok(claims));
        let expired = Err(TokenError::Expired { at: NOW + 1 });
        assert_eq!(verify(&token, &[KEY], NOW + 1), expired);
        let (header, payload) = inspect(&sign("bob", KEY, Some(7))).unwrap();
        assert_eq!((header.as_str(), payload.as_str()), (HEADER, r#"{"i":"bob","exp":7}"#));
    }

    #[test]
    fn a_token_is_verified_with_any_of_the_keys() {
        assert_eq!(verify(BOB, &["other", KEY, KEY], NOW).unwrap().key_index, 1);
        assert_eq!(verify(BOB, &["other", &KEY[1..]], NOW), Err(TokenError::Signature));
        assert_eq!(verify(BOB, &[""; 0], NOW), Err(TokenError::Signature));
        assert_eq!(verify(&sign("bob", "", None), &[""], NOW), Err(TokenError::Signature));
    }

    #[test]
    fn a_token_has_exactly_three_parts() {
        let (signed, signature) = BOB.rsplit_once('.').unwrap();
        for token in ["", "x", "a.b", signed, &format!("{BOB}."), &format!("{BOB}.{signature}")] {
            assert_eq!(check(token), Err(TokenError::Parts), "{token}");
        }
        assert_eq!(check(".."), Err(TokenError::Header));
        assert_eq!(check(&format!("{signed}.")), Err(TokenError::Signature));
    }

    #[test]
    fn changing_any_character_invalidates_a_token() {
        for index in (0..BOB.len()).filter(|index| BOB.as_bytes()[*index] != b'.') {
            for other in ["A", "z", "0", "_", "-", "=", "+", "/", " ", "\n", "é"] {
                let mut token = BOB.to_owned();
                token.replace_range(index..=index, other);
                assert!(token == BOB || check(&token).is_err(), "{token}");
            }
        }
    }

    #[test]
    fn only_canonical_base64url_is_accepted() {
        let (signed, signature) = BOB.rsplit_once('.').unwrap();
        // The last character of 32 bytes has two unused bits: `w`, `x`, `y`, `z` are equal.
        let stray = signature.strip_suffix('w').unwrap().to_owned() + "x";
        for signature in [format!("{signature}="), format!("{signature}=="), stray] {
            assert_eq!(check(&format!("{signed}.{signature}")), Err(TokenError::Encoding));
        }
        let long = "A".repeat(400);
        assert_eq!(check(&format!("{signed}.{long}")), Err(TokenError::Signature));
        assert_eq!(check(&BOB.replace('-', "+")), Err(TokenError::Encoding));
        assert_eq!(check(&BOB.replace('_', "/")), Err(TokenError::Encoding));
    }

    #[test]
    fn the_header_must_name_hs256_and_selects_no_algorithm() {
        for text in [
            r#"{"alg":"HS256"}"#,
            r#" {"kid":1,"typ":"x","\u0061lg":"HS256"}"#,
            r#"{"typ":null,"alg":"none","alg":"HS256"}"#,
        ] {
            assert_eq!(header(text), valid_for("5"), "{text}");
        }
        for alg in [
            r#""none""#,
            r#""None""#,
            r#""""#,
            r#""hs256""#,
            r#""HS384""#,
            r#""HS512""#,
            r#""RS256""#,
            r#""constructor""#,
            r#""HS256 ""#,
            r#"["HS256"]"#,
            "null",
            "256",
            "{}",
        ] {
            let text = format!(r#"{{"typ":"JWT","alg":{alg}}}"#);
            assert_eq!(header(&text), Err(TokenError::Algorithm), "{alg}");
        }
        for usual in USUAL_HEADERS {
            let decoded = decode_text(usual, TokenError::Header).unwrap();
            assert_eq!(check_header(&decoded), Ok(()), "{decoded}");
            assert_eq!(header(&decoded), valid_for("5"), "{decoded}");
        }
        assert_eq!(URL_SAFE_NO_PAD.encode(HEADER), USUAL_HEADERS[0]);
        assert_eq!(header("{}"), Err(TokenError::Algorithm));
        for text in ["null", "5", "[]", r#""HS256""#, "", "{", "\u{feff}{}"] {
            assert_eq!(header(text), Err(TokenError::Header), "{text}");
        }
        for critical in [r#"["exp"]"#, "[]", "null"] {
            let text = format!(r#"{{"alg":"HS256","crit":{critical}}}"#);
            assert_eq!(header(&text), Err(TokenError::Critical), "{critical}");
        }
    }

    #[test]
    fn an_unsigned_token_is_refused_before_its_payload_is_read() {
        let none = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"none"}"#);
        assert_eq!(check(&format!("{none}.eyJpIjo1fQ.")), Err(TokenError::Algorithm));
        let garbage = format!("{}.%%%.{}", URL_SAFE_NO_PAD.encode(HEADER), "A".repeat(43));
        assert_eq!(check(&garbage), Err(TokenError::Signature));
    }

    #[test]
    fn the_user_is_a_nonempty_string_or_a_nonzero_number() {
        for (i, user) in [
            ("5", "5"),
            ("-1", "-1"),
            (r#""0""#, "0"),
            ("1.5", "1.5"),
            ("1e3", "1000"),
            ("12345678901234567890", "12345678901234567890"),
            (r#""\u0062ob""#, "bob"),
            (r#"" ""#, " "),
        ] {
            assert_eq!(payload(&format!(r#"{{"i":{i}}}"#)), valid_for(user), "{i}");
        }
        for i in [
            "0",
            "-0",
            "0.0",
            "0e5",
            r#""""#,
            "null",
            "true",
            "false",
            "[1]",
            r#"["bob"]"#,
            r#"{"a":1}"#,
            "1e400",
            "1e22",
            r#""\ud800""#,
        ] {
            assert_eq!(payload(&format!(r#"{{"i":{i}}}"#)), Err(TokenError::User), "{i}");
        }
        assert_eq!(payload(r#"{"I":"bob"}"#), Err(TokenError::User));
        for text in ["null", "5", "[]", r#""bob""#, "", "x", r#"{"i":5}x"#, r#"{"i":05}"#] {
            assert_eq!(payload(text), Err(TokenError::Payload), "{text}");
        }
        assert_eq!(check(&seal(HEADER.as_bytes(), b"\xff", KEY)), Err(TokenError::Payload));
    }

    #[test]
    fn a_token_is_valid_only_between_nbf_and_exp() {
        let with = |claim: &str| payload(&format!(r#"{{"i":5,{claim},"iat":"x","aud":[]}}"#));
        let until = |at| Ok(Claims { user: "5".into(), expires: Some(at), key_index: 0 });
        for (exp, at) in [
            ("1795472349", NOW + 1),
            ("1795472349.9", NOW + 1),
            ("1.795472349e9", NOW + 1),
            ("1e400", u64::MAX),
        ] {
            assert_eq!(with(&format!(r#""exp":{exp}"#)), until(at), "{exp}");
        }
        for (exp, at) in [("1795472348", NOW), ("1795472348.9", NOW), ("0", 0), ("-5", 0)] {
            let expired = Err(TokenError::Expired { at });
            assert_eq!(with(&format!(r#""exp":{exp}"#)), expired, "{exp}");
        }
        for nbf in ["1795472348", "1795472347.1", "0", "-1e9", "-1e400"] {
            assert_eq!(with(&format!(r#""nbf":{nbf}"#)), valid_for("5"), "{nbf}");
        }
        for (nbf, at) in [("1795472349", NOW + 1), ("1795472348.1", NOW + 1), ("1e400", u64::MAX)] {
            assert_eq!(with(&format!(r#""nbf":{nbf}"#)), Err(TokenError::NotYet { at }), "{nbf}");
        }
        for other in ["null", "true", "false", r#""1795472349""#, "[1795472349]", "{}"] {
            let expiry = with(&format!(r#""exp":{other}"#));
            assert_eq!(expiry, Err(TokenError::ExpiryType), "{other}");
            let not_before = with(&format!(r#""nbf":{other}"#));
            assert_eq!(not_before, Err(TokenError::NotBeforeType), "{other}");
        }
    }

    #[test]
    fn only_well_formed_tokens_can_be_inspected() {
        assert!(inspect(FIVE).is_some());
        let (signed, _) = FIVE.rsplit_once('.').unwrap();
        assert!(inspect(&format!("{signed}.not-the-signature")).is_some());
        for token in ["", "a.b.c", signed, &seal(b"null", b"{}", KEY), &seal(b"{}", b"\x1b", KEY)] {
            assert_eq!(inspect(token), None, "{token}");
        }
    }

    #[test]
    fn keys_are_compared_by_all_their_bytes() {
        assert!(same_key(b"", b"") && same_key(KEY.as_bytes(), KEY.as_bytes()));
        assert!(!same_key(b"a", b"b") && !same_key(b"a", b"ab") && !same_key(b"a", b""));
    }

    #[test]
    fn the_fuzz_target_accepts_any_input() {
        for data in ["", BOB, HEADER, r#"{"i":"bob","exp":1e9}"#, r#"{"alg":"HS256"}"#, "bob"] {
            fuzz_token(data.as_bytes());
        }
        fuzz_token(b"\xff");
    }
}
