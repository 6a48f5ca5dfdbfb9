//! Finds the last elements of a long list from its end, without scanning those before. Called by
//! the hub, whose lists are bounded.

/// Returns the last `max` raw elements of an array, in order. `raw` must be JSON; `None` if it is
/// not an array.
pub fn last_elements(raw: &str, max: usize) -> Option<Vec<&str>> {
    let inner = raw.trim_matches(is_space).strip_prefix('[')?.strip_suffix(']')?;
    let (mut elements, mut left) = (Vec::new(), inner);
    while elements.len() < max {
        let comma = last_comma(left);
        let element = left.get(comma.map_or(0, |comma| comma + 1)..)?.trim_matches(is_space);
        // Empty only in an empty list, between its brackets.
        if !element.is_empty() {
            elements.push(element);
        }
        let Some(comma) = comma else { break };
        left = left.get(..comma)?;
    }
    elements.reverse();
    Some(elements)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\n' | '\t' | '\r')
}

/// Finds the last comma outside all strings, arrays and objects that end after it.
fn last_comma(text: &str) -> Option<usize> {
    let (bytes, mut depth, mut at) = (text.as_bytes(), 0_usize, text.len());
    while let Some(before) = at.checked_sub(1) {
        at = before;
        match bytes.get(at)? {
            b'"' => at = beginning(text, at)?,
            b']' | b'}' => depth += 1,
            b'[' | b'{' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// Returns the start of the string that ends with the quote at `at`: the last quote before it that
/// is not escaped, that is, not preceded by an odd number of backslashes.
fn beginning(text: &str, mut at: usize) -> Option<usize> {
    loop {
        let before = text.get(..at)?;
        at = before.rfind('"')?;
        let backslashes = text.get(..at)?.bytes().rev().take_while(|byte| *byte == b'\\').count();
        if backslashes % 2 == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::each_element;
    use super::*;

    #[test]
    fn last_elements_agree_with_a_scan_from_the_beginning() {
        let elements = [
            "1",
            "-0.5e7",
            "null",
            "\"\"",
            "\"a,]\"",
            "\"\\\"\"",
            "\"\\\\\"",
            "\"\\\\\\\",[\"",
            "[]",
            "{}",
            "[[\"]\",1],{}]",
            "{\"a,\\\\\":[1,\"}\"],\"\":\"\\\"\"}",
            "\"\u{e9}\u{1f600}\"",
        ];
        let mut random = 7_u32;
        for round in 0..500 {
            let count = round % 9;
            let mut text = String::from("[");
            for number in 0..count {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let space = ["", " ", "\n\t"][(random >> 24) as usize % 3];
                let comma = if number > 0 { "," } else { "" };
                text += comma;
                text += space;
                text += elements[(random >> 8) as usize % elements.len()];
                text += space;
            }
            text += if count % 2 == 0 { "]" } else { " ] " };
            let mut all = Vec::new();
            each_element(&text, |element| {
                all.push(element);
                true
            })
            .unwrap();
            for max in [1, 3, 100] {
                let last = &all[all.len().saturating_sub(max)..];
                assert_eq!(last_elements(&text, max).unwrap(), last, "{text}");
            }
        }
        for (text, elements) in [("[ ]", 0), ("[]", 0), ("[ 1 ]", 1)] {
            assert_eq!(last_elements(text, 9).map(|all| all.len()), Some(elements), "{text}");
        }
        for text in ["{}", "\"[]\"", "1", "\"", "[", "]"] {
            assert_eq!(last_elements(text, 9), None, "{text}");
        }
    }
}
