//! `fws token`: makes and checks the tokens that authenticate browsers' users.

use hmac::{Hmac, KeyInit, Mac};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::Sha256;

use super::flags::{AT_CONFIG, AT_DATA, Flag, JSON, KEY};
use super::output::{out, printable, printable_json};
use super::session::{find_key, named, namespace_key, seconds};
use super::{Call, Command, Stop};
use crate::codec::json;
use crate::codec::jwt::{self, Claims, TokenError};
use crate::limits::Limits;
use crate::time::{Clock, UnixMillis};

const TTL: Flag = Flag { name: "ttl", value: "SECONDS", about: "how long it is valid (for ever)" };
const CHECK: Flag = Flag {
    name: "check",
    value: "TOKEN",
    about: "print what is in a token, and whether it is valid",
};
const JSON_CHECK: Flag = Flag { about: "with --check: the same as one JSON object", ..JSON };

pub(super) const COMMAND: Command = Command {
    name: "token",
    summary: "make or check the token of a user",
    usage: &["NAME USER [--ttl SECONDS] [OPTION…]", "--check TOKEN [NAME] [OPTION…]"],
    about: "\
A token proves to the server who the user of a browser is. It is signed with
the key of namespace NAME; normally the site's back end makes it. This command
does not contact the server.

With --check: prints header and payload of a token; exit code 0 if it is valid
and 1 if not. The signature is checked if there is a key: by --key, or the one
kept for NAME. Exit code 2 if there is none for NAME.",
    flags: &[TTL, CHECK, JSON_CHECK, KEY, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws token shop 5 --ttl 3600", "for user 5, for an hour"),
        ("fws token --check eyJ0… shop", "what is in it, and is it valid for `shop`?"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let config = call.client_config()?;
    let now = Clock::new().now().unix;
    if let Some(token) = call.flag(CHECK.name) {
        let name = match call.words.as_slice() {
            [] => None,
            [name] => Some(name.as_str()),
            _ => return Err(call.misused()),
        };
        if call.flag(TTL.name).is_some() {
            return Err(Stop::Usage("--ttl is for a new token, not with --check".into()));
        }
        let key = match find_key(call, &config, name)? {
            None if name.is_some_and(|name| !name.is_empty()) => {
                let key = namespace_key(call, &config, name.unwrap_or_default());
                // The token has not been checked, so the error must not say that it is invalid.
                Some(key.map_err(|stop| Stop::Usage(stop.to_string()))?)
            }
            key => key,
        };
        let checked =
            Checked::new(token, key.as_ref().map(|key| key.key.expose()), now, &config.limits);
        let is_json = call.flag(JSON.name).is_some();
        out(&if is_json { checked.to_json() } else { checked.to_text(now) })?;
        let wrong = |wrong| Stop::Failed(format!("not valid: {wrong}"));
        return checked.claims.map(drop).map_err(wrong);
    }
    if call.flag(JSON.name).is_some() {
        return Err(Stop::Usage("--json is for --check: a new token is printed alone".into()));
    }
    let [name, user] = call.words()?;
    if let Some(wrong) = too_long(named("user", user)?, &config.limits) {
        return Err(Stop::Usage(wrong));
    }
    let expires = seconds(call, TTL.name)?.map(|ttl| now.seconds().saturating_add(ttl));
    let key = namespace_key(call, &config, name)?;
    out(&(jwt::sign(user, key.key.expose(), expires) + "\n"))
}

/// Why the server would refuse a user name, if it is too long.
fn too_long(user: &str, limits: &Limits) -> Option<String> {
    let (bytes, most) = (user.len(), limits.name_bytes);
    let text = || format!("the user has {bytes} bytes, the most is {most} (limit name_bytes)");
    (bytes > most).then(text)
}

/// The result of checking a token.
struct Checked {
    /// Header and payload, if they can be decoded.
    parts: Option<(String, String)>,
    is_signature_checked: bool,
    /// The claims, or why the token is invalid.
    claims: Result<Claims, String>,
}

impl Checked {
    fn new(token: &str, key: Option<&str>, now: UnixMillis, limits: &Limits) -> Checked {
        let parts = jwt::inspect(token);
        let claims = match key {
            Some(key) => jwt::verify(token, &[key], now.seconds()),
            None => verify_unsigned(token, now),
        };
        let payload = parts.as_ref().map_or("", |(_, payload)| payload);
        let claims = claims
            .map_err(|e| describe(e, payload))
            .and_then(|claims| too_long(&claims.user, limits).map_or(Ok(()), Err).map(|()| claims));
        Checked { parts, is_signature_checked: key.is_some(), claims }
    }

    fn to_text(&self, now: UnixMillis) -> String {
        let mut text = String::new();
        if let Some((header, payload)) = &self.parts {
            let (header, payload) = (printable(header), printable(payload));
            text += &format!("header:  {header}\npayload: {payload}\n");
        }
        let Ok(claims) = &self.claims else { return text };
        text += &format!("user:    {}\n", printable(&claims.user));
        if let Some(expires) = claims.expires {
            let left = expires.saturating_sub(now.seconds());
            let hint = milliseconds(expires);
            text += &format!("expires: {}, in {left} s{hint}\n", date(expires));
        }
        text + match self.is_signature_checked {
            true => "valid\n",
            false => "valid, if the signature is: without the key it was not checked\n",
        }
    }

    fn to_json(&self) -> String {
        let null = || "null".to_owned();
        let claims = self.claims.as_ref();
        let (header, payload) = self.parts.clone().unwrap_or_else(|| (null(), null()));
        let object = format!(
            "{{\"valid\":{},\"wrong\":{},\"signature_checked\":{},\"user\":{},\"expires\":{},\
             \"header\":{header},\"payload\":{payload}}}",
            claims.is_ok(),
            claims.err().map_or_else(null, |wrong| json::quote(wrong)),
            self.is_signature_checked,
            claims.map_or_else(|_| null(), |claims| json::quote(&claims.user)),
            claims.ok().and_then(|claims| claims.expires).map_or_else(null, |at| at.to_string()),
        );
        printable_json(&object).replace('\n', " ") + "\n"
    }
}

/// Checks everything but the signature: signs the token anew with a fixed key and verifies that.
fn verify_unsigned(token: &str, now: UnixMillis) -> Result<Claims, TokenError> {
    const KEY: &str = "any";
    let (signed, _) = token.rsplit_once('.').ok_or(TokenError::Parts)?;
    let mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).map_err(|_| TokenError::Signature)?;
    let signature = URL_SAFE_NO_PAD.encode(mac.chain_update(signed).finalize().into_bytes());
    jwt::verify(&format!("{signed}.{signature}"), &[KEY], now.seconds())
}

fn describe(e: TokenError, payload: &str) -> String {
    match e {
        TokenError::Expired { at } => format!("it expired at {}", date(at)),
        TokenError::NotYet { at } => {
            format!("it is not good before {}{}", date(at), milliseconds(at))
        }
        TokenError::User if matches!(json::members(payload, &["i"]), Ok(Some([None]))) => {
            "the payload has no i, which is the user".into()
        }
        e => e.to_string(),
    }
}

/// A hint for a time that would be in this century if it were in milliseconds, as in JavaScript.
fn milliseconds(seconds: u64) -> &'static str {
    const YEAR_2001: u64 = 1_000_000_000_000;
    const YEAR_2100: u64 = 4_102_444_800_000;
    match seconds {
        YEAR_2001..YEAR_2100 => " (are these milliseconds? Here seconds count)",
        _ => "",
    }
}

/// A time in seconds since 1970 as a date; as a number from the year 10000 on.
fn date(seconds: u64) -> String {
    const YEAR_10000: u64 = 253_402_300_800;
    match seconds {
        0..YEAR_10000 => UnixMillis(seconds * 1000).to_rfc3339(),
        _ => format!("second {seconds} of the Unix epoch"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_key_everything_but_the_signature_is_verified() {
        let now = UnixMillis(1000);
        let good = jwt::sign("bob", "secret", Some(2));
        assert_eq!(verify_unsigned(&good, now).map(|claims| claims.user), Ok("bob".into()));
        let expired = verify_unsigned(&good, UnixMillis(2000)).unwrap_err();
        assert_eq!(describe(expired, ""), "it expired at 1970-01-01T00:00:02Z");
        assert_eq!(verify_unsigned("x", now), Err(TokenError::Parts));
        assert_eq!(verify_unsigned("a.b.c.d", now), Err(TokenError::Parts));
    }

    #[test]
    fn common_mistakes_are_named() {
        let now = UnixMillis(1_795_688_200_575);
        let far = verify_unsigned(&jwt::sign("5", "k", Some(now.0)), now).unwrap();
        assert!(milliseconds(far.expires.unwrap()).contains("milliseconds"));
        assert_eq!(milliseconds(now.seconds()), "");
        let missing = describe(TokenError::User, r#"{"user":5}"#);
        assert_eq!(missing, "the payload has no i, which is the user");
        assert!(describe(TokenError::User, r#"{"i":""}"#).starts_with("i is no name"));
    }

    #[test]
    fn dates_after_the_year_9999_are_shown_in_seconds() {
        assert_eq!(date(253_402_300_799), "9999-12-31T23:59:59Z");
        assert_eq!(date(u64::MAX), "second 18446744073709551615 of the Unix epoch");
    }
}
