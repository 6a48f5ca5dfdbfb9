//! A key that is never printed. Owns the text.

use std::fmt;

use subtle::ConstantTimeEq;

/// The key of the sample configuration of the original server: known to everybody.
const SAMPLE: &str = "asd82nvakadfs";

/// A key shorter than this (in bytes) is warned of, and so is one with fewer different bytes than
/// this. Keys that the server makes have 36 and 48, and hardly ever fewer than ten different ones.
const GOOD_BYTES: usize = 16;
const DIFFERENT_BYTES: usize = 6;

/// The server key or the key of a namespace. Its `Debug` is `***`, it has no `Display`, and it is
/// compared in constant time.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a key.
    ///
    /// # Errors
    /// What is wrong with it, if it is empty. The message does not contain the key.
    pub fn new(key: impl Into<String>) -> Result<Secret, &'static str> {
        let key = key.into();
        if key.is_empty() { Err("the key is empty") } else { Ok(Secret(key)) }
    }

    /// Wraps the key of the whole server.
    ///
    /// # Errors
    /// What is wrong with it: it is empty, or the sample key of the original server.
    pub fn server(key: impl Into<String>) -> Result<Secret, &'static str> {
        let key = Secret::new(key)?;
        if key.matches(SAMPLE) {
            return Err("this is the sample key of the original server, which everybody knows: \
                        choose another one");
        }
        Ok(key)
    }

    /// Returns the key itself: for a signature, a comparison or the wire, never a log or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns why the key is easy to guess, if it is; the text does not contain the key.
    pub fn weakness(&self) -> Option<String> {
        let key = self.0.as_bytes();
        if key.len() < GOOD_BYTES {
            return Some(format!("is shorter than {GOOD_BYTES} characters and may be guessed"));
        }
        let different = (0..=u8::MAX).filter(|byte| key.contains(byte)).count();
        let text = || format!("has {different} different characters only and may be guessed");
        (different < DIFFERENT_BYTES).then(text)
    }

    /// Returns whether this is the key; takes the same time wherever the two differ.
    pub fn matches(&self, key: &str) -> bool {
        self.0.as_bytes().ct_eq(key.as_bytes()).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_a_secret() {
        let secret = Secret::new("abc").unwrap();
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "*** Some(\n    ***,\n)");
        assert!(secret.matches("abc") && !secret.matches("abd") && !secret.matches("abcd"));
    }

    #[test]
    fn short_and_simple_keys_are_weak() {
        let weakness = |key: &str| Secret::new(key).unwrap().weakness();
        for short in ["short", "0123456789abcde"] {
            assert!(weakness(short).unwrap().contains("shorter than 16"), "{short}");
        }
        let simple = weakness("11111111-1111-4111-8111-111111111111").unwrap();
        assert_eq!(simple, "has 4 different characters only and may be guessed");
        for good in ["0123456789abcdef", "744099b2-3fcf-4f3b-8364-9ad57c178c0b"] {
            assert_eq!(weakness(good), None);
        }
    }

    #[test]
    fn b19_the_sample_key_is_refused() {
        assert!(Secret::server("asd82nvakadfs").is_err());
        assert!(Secret::server("").is_err());
        assert!(Secret::new("").is_err());
        assert!(Secret::server("asd82nvakadfs2").is_ok());
    }
}
