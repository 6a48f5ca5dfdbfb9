//! Invalid tokens of every kind beside valid ones: none is accepted, and each gets the right close.

use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Sha256, Sha512};

use fws::codec::ws::Opcode;

use crate::crowd::{Crowd, ReadMode};
use crate::report::{Bounds, Findings};
use crate::stage::Field;
use crate::words::{self, AUTHENTICATED, CROWD, CROWD_KEY, HEALTHY_KEY, UPGRADE, close_of};
use crate::{Attack, Outcome, Run};

/// The attacks of this file.
pub const ATTACKS: &[Attack] = &[Attack {
    name: "tokens",
    about: "more than 100 bad tokens: none is accepted, each gets the right close code",
    run: Run::Beside(tokens, Bounds::DEFAULT),
}];

/// The usual header.
const HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

fn encoded(text: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A validly signed token with any header and payload.
fn signed(header: &str, payload: &str, key: &str) -> String {
    signed_bytes(header.as_bytes(), payload.as_bytes(), key)
}

fn signed_bytes(header: &[u8], payload: &[u8], key: &str) -> String {
    sign(&format!("{}.{}", encoded(header), encoded(payload)), key)
}

fn sign(text: &str, key: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else { return text.into() };
    mac.update(text.as_bytes());
    format!("{text}.{}", encoded(&mac.finalize().into_bytes()))
}

/// A token signed with SHA-512, under a header that says so.
fn signed_512(header: &str) -> String {
    let text = format!("{}.{}", encoded(header.as_bytes()), encoded(br#"{"i":"mallory"}"#));
    let Ok(mut mac) = Hmac::<Sha512>::new_from_slice(CROWD_KEY.as_bytes()) else { return text };
    mac.update(text.as_bytes());
    format!("{text}.{}", encoded(&mac.finalize().into_bytes()))
}

/// Headers that must be refused despite a valid signature.
const HEADERS: &[&str] = &[
    r#"{"typ":"JWT","alg":"none"}"#,
    r#"{"typ":"JWT","alg":"None"}"#,
    r#"{"typ":"JWT","alg":"NONE"}"#,
    r#"{"typ":"JWT","alg":""}"#,
    r#"{"typ":"JWT","alg":"hs256"}"#,
    r#"{"typ":"JWT","alg":"HS384"}"#,
    r#"{"typ":"JWT","alg":"HS512"}"#,
    r#"{"typ":"JWT","alg":"RS256"}"#,
    r#"{"typ":"JWT","alg":"ES256"}"#,
    r#"{"typ":"JWT","alg":"constructor"}"#,
    r#"{"typ":"JWT","alg":"HS256 "}"#,
    r#"{"typ":"JWT","alg":["HS256"]}"#,
    r#"{"typ":"JWT","alg":null}"#,
    r#"{"typ":"JWT","alg":256}"#,
    r#"{"typ":"JWT","alg":true}"#,
    r#"{"typ":"JWT"}"#,
    r#"{"alg":"HS256","alg":"none"}"#,
    r#"{"alg":"HS256","crit":["exp"]}"#,
    r#"{"alg":"HS256","crit":[]}"#,
    "null",
    "[]",
    r#""HS256""#,
    "{",
    "",
];

/// Payloads that must be refused despite a valid signature.
const PAYLOADS: &[&str] = &[
    "null",
    "[]",
    "5",
    r#""mallory""#,
    "{}",
    "{",
    "",
    r#"{"i":"mallory"} x"#,
    r#"{"i":null}"#,
    r#"{"i":""}"#,
    r#"{"i":0}"#,
    r#"{"i":true}"#,
    r#"{"i":["mallory"]}"#,
    r#"{"i":{"i":"mallory"}}"#,
    r#"{"I":"mallory"}"#,
    r#"{"i":1e400}"#,
    r#"{"i":"mallory","exp":1}"#,
    r#"{"i":"mallory","exp":0}"#,
    r#"{"i":"mallory","exp":-1}"#,
    r#"{"i":"mallory","exp":"9999999999"}"#,
    r#"{"i":"mallory","exp":null}"#,
    r#"{"i":"mallory","exp":[9999999999]}"#,
    r#"{"i":"mallory","exp":true}"#,
    r#"{"i":"mallory","nbf":9999999999}"#,
    r#"{"i":"mallory","nbf":"0"}"#,
    r#"{"i":"mallory","nbf":{}}"#,
    r#"{"i":"mallory","exp":9999999999,"exp":1}"#,
    r#"{"i":"mallory","i":null}"#,
];

/// Invalid tokens that are strings.
fn strings() -> Vec<String> {
    let good = signed(HEADER, r#"{"i":"mallory"}"#, CROWD_KEY);
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { return Vec::new() };
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
    bytes.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    let other = encoded(br#"{"i":"admin"}"#);
    let mut tokens = vec![
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        header.into(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{good}="),
        format!("{good}\0"),
        good[..good.len() - 1].into(),
        format!("{header}.{payload}.{}", encoded(&bytes)),
        format!("{header}.{payload}.{}", encoded(&bytes[..16])),
        format!("{header}.{payload}.{}", STANDARD.encode([0xfb; 32])),
        format!("{header}.{other}.{signature}"),
        format!("{}.{payload}.{signature}", encoded(br#"{"alg":"HS256"}"#)),
        sign(&format!("{}.{payload}", URL_SAFE.encode(HEADER)), CROWD_KEY) + "=",
        good.replace('.', ","),
        good.to_uppercase(),
        "a".repeat(3000),
        format!("{header}.{}.{signature}", "A".repeat(3000)),
        ".".repeat(3000),
        signed(HEADER, r#"{"i":"mallory"}"#, HEALTHY_KEY),
        signed(HEADER, r#"{"i":"mallory"}"#, ""),
        signed(HEADER, r#"{"i":"mallory"}"#, CROWD),
        signed(HEADER, r#"{"i":"mallory"}"#, &CROWD_KEY.to_uppercase().replace('4', "5")),
        signed(HEADER, &json!({ "i": "m".repeat(256) }).to_string(), CROWD_KEY),
        signed(HEADER, &format!("{}1{}", "[".repeat(500), "]".repeat(500)), CROWD_KEY),
        signed_bytes(HEADER.as_bytes(), b"{\"i\":\"\xff\xfe\"}", CROWD_KEY),
        signed_512(r#"{"alg":"HS512"}"#),
        signed_512(HEADER),
    ];
    tokens.extend(HEADERS.iter().map(|header| signed(header, r#"{"i":"mallory"}"#, CROWD_KEY)));
    let unsigned = HEADERS.iter().take(4);
    tokens.extend(unsigned.map(|header| format!("{}.{payload}.", encoded(header.as_bytes()))));
    tokens.extend(PAYLOADS.iter().map(|payload| signed(HEADER, payload, CROWD_KEY)));
    tokens
}

/// Invalid data for `auth`, and the expected close code.
fn others(good: &str) -> Vec<(Value, u16)> {
    let mut others: Vec<(Value, u16)> =
        [json!(5), json!(null), json!([good]), json!({}), json!(true)]
            .into_iter()
            .map(|token| (json!({ "i": CROWD, "s": token }), 3404))
            .collect();
    others.extend([
        (json!({ "i": CROWD }), 3002),
        (json!({ "s": good }), 3002),
        (json!({}), 3002),
        (json!([]), 3002),
        (json!(good), 3002),
        (json!({ "i": "nobody", "s": good }), 3404),
        (json!({ "i": "healthy", "s": good }), 3404),
        (json!({ "i": [CROWD], "s": good }), 3404),
        (json!({ "i": {}, "s": good }), 3404),
        (json!({ "i": "", "s": good }), 3404),
    ]);
    others
}

fn tokens(field: &Field) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let good = signed(HEADER, r#"{"i":"mallory"}"#, CROWD_KEY);
    let mut cases: Vec<(Value, u16)> =
        strings().into_iter().map(|token| (json!({ "i": CROWD, "s": token }), 3404)).collect();
    cases.extend(others(&good));
    let mut crowd = Crowd::new(field.web)?;
    for (data, _) in &cases {
        let message = json!({ "event": "auth", "data": data }).to_string();
        let mut first = UPGRADE.to_vec();
        first.extend(words::frame(Opcode::Text, message.as_bytes()));
        // If the token were accepted, the answers to `auth` and to this would arrive.
        first.extend(words::subscribe("inside", true));
        crowd.join(ReadMode::KeepLast(4096), &first.into())?;
    }
    crowd.pump_until(Duration::from_secs(8), |crowd| crowd.open() == 0)?;
    let inside = crowd.heard(AUTHENTICATED) + crowd.heard(words::SUBSCRIBED);
    findings.expect(inside == 0, format!("{inside} of {} bad tokens were accepted", cases.len()));
    let mut wrong = 0;
    for (member, (data, code)) in crowd.members.iter().zip(&cases) {
        let close = close_of(&member.got);
        if close.as_ref().is_none_or(|(told, _)| told != code) {
            wrong += 1;
            let mut text = data.to_string();
            text.truncate(150);
            findings.faults.push(format!("{text} got {close:?}, not {code}"));
        }
    }
    findings.expect(wrong == 0, format!("{wrong} of {} got a wrong close code", cases.len()));
    let mut known = Crowd::new(field.web)?;
    let first: Rc<[u8]> = Rc::from(words::auth_with(CROWD, &good));
    known.gather(1, ReadMode::KeepLast(512), Some(AUTHENTICATED), |_| Rc::clone(&first))?;
    findings.expect(known.open() == 1, "the good token is accepted".into());
    known.close_all();
    crowd.close_all();
    Ok(findings)
}
