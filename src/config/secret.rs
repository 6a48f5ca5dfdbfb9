//! A key that does not show itself. Owns the text; prints it nowhere.

use std::fmt;

use subtle::ConstantTimeEq;

/// The key of the sample configuration of the original server: known to everybody.
const SAMPLE: &str = "asd82nvakadfs";

/// The server key or the key of a namespace. Its `Debug` is `***`, it has no `Display`, and two
/// are compared in constant time.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a key.
    ///
    /// # Errors
    /// What is wrong with it, if it is empty. The text of the error does not hold the key.
    pub fn new(key: impl Into<String>) -> Result<Secret, &'static str> {
        let key = key.into();
        if key.is_empty() { Err("the key is empty") } else { Ok(Secret(key)) }
    }

    /// Wraps a key that is to open the whole server.
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

    /// The key itself: for a signature, a comparison or the wire; never for a log or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is the key; takes the same time wherever the two differ.
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
    fn a_secret_does_not_show_itself() {
        let secret = Secret::new("abc").unwrap();
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "*** Some(\n    ***,\n)");
        assert!(secret.matches("abc") && !secret.matches("abd") && !secret.matches("abcd"));
    }

    #[test]
    fn b19_the_sample_key_opens_nothing() {
        assert!(Secret::server("asd82nvakadfs").is_err());
        assert!(Secret::server("").is_err());
        assert!(Secret::new("").is_err());
        assert!(Secret::server("asd82nvakadfs2").is_ok());
    }
}
