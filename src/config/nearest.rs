//! Suggests the correct name for a misspelt one. Pure. Called wherever a user's word is not a known
//! name.

/// Longer names are not compared: ours are shorter, and the comparison is quadratic.
const NAME_BYTES: usize = 64;

/// Returns the one of `names` that is most like `wrong`, or `None` if none is. Ignores case, `_`
/// and `-`; a third of the letters, or two, may differ.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    within(wrong, names, (wrong.len() / 3).max(2))
}

/// Returns the one of `names` that is most like `wrong`, if at most `most` letters are to be
/// inserted, dropped or replaced. Ignores case, `_` and `-`.
pub fn within<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
    most: usize,
) -> Option<&'a str> {
    let wrong = letters(wrong);
    if wrong.len() > NAME_BYTES {
        return None;
    }
    let (distance, name) = names
        .into_iter()
        .map(|name| (distance(&wrong, &letters(name)), name))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= most).then_some(name)
}

/// Returns ` (did you mean NAME?)`, or nothing.
pub fn hint(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}

fn letters(name: &str) -> Vec<u8> {
    name.bytes().filter(|b| !b"_-".contains(b)).map(|b| b.to_ascii_lowercase()).collect()
}

/// Edit distance (Levenshtein): one row of the matrix at a time.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edit_distance_is_symmetric() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("same", "same", 0),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
            assert_eq!(distance(b.as_bytes(), a.as_bytes()), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_similar_names_are_suggested() {
        let names = ["emit", "set", "get", "check"];
        assert_eq!(nearest("emti", names), Some("emit"));
        assert_eq!(nearest("CHEKC", names), Some("check"));
        assert_eq!(nearest("publish-everything", names), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), names), None);
        assert_eq!(nearest("x", []), None);
        assert_eq!(within("FWS_SECRET_KEY", ["FWS_SECRETKEY"], 0), Some("FWS_SECRETKEY"));
    }
}
