//! Auth tokens, implemented independently of the server's code (protocol part 8).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The header that the PHP client uses.
pub const HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

/// A token with any header and payload, signed with HMAC-SHA-256 whatever the header says.
pub fn odd(header: &str, payload: &str, key: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any key length is fine");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// A token with this payload, as the PHP client makes it.
pub fn token(payload: &str, key: &str) -> String {
    odd(HEADER, payload, key)
}
