//! Finds the last elements of a long list from its end, without scanning those before. Called by
//! the hub, whose lists are bounded in number; one element may be as long as a state, and a byte of
//! it takes about a nanosecond.

/// Bytes left out together if none of them counts: an element may be megabytes long.
const BLOCK_BYTES: usize = 32;
/// What a byte adds to the depth, read from the end; or [`QUOTE`].
const STEPS: [i8; 256] = {
    let mut steps = [0; 256];
    (steps[b']' as usize], steps[b'}' as usize]) = (1, 1);
    (steps[b'[' as usize], steps[b'{' as usize]) = (-1, -1);
    steps[b'"' as usize] = QUOTE;
    steps
};
const QUOTE: i8 = 2;

/// Returns the last `max` raw elements of an array, in order. `raw` must be JSON; `None` if it is
/// not an array.
pub fn last_elements(raw: &str, max: usize) -> Option<Vec<&str>> {
    let inner = raw.trim_ascii().strip_prefix('[')?.strip_suffix(']')?;
    let (mut elements, mut left) = (Vec::new(), inner);
    while elements.len() < max {
        let comma = last_comma(left.as_bytes());
        let element = left.get(comma.map_or(0, |comma| comma + 1)..)?.trim_ascii();
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

/// Finds the last comma outside all strings, arrays and objects that end after it.
fn last_comma(mut left: &[u8]) -> Option<usize> {
    loop {
        let step = |byte: &u8| STEPS[usize::from(*byte)];
        let at = left.iter().rposition(|byte| *byte == b',' || step(byte) != 0)?;
        let (before, mark) = left.split_at_checked(at)?;
        left = match mark.first().map(step)? {
            0 => return Some(at),
            QUOTE => before_string(before)?,
            1 => before_nest(before)?,
            _ => return None,
        };
    }
}

/// Drops the rest of an array or object whose closing bracket stood behind. No branch depends on
/// where a bracket is, which the processor does not foresee.
fn before_nest(mut left: &[u8]) -> Option<&[u8]> {
    // All bits of `outside` are set outside strings, and none in one.
    let (mut depth, mut outside) = (1, !0);
    loop {
        // All brackets, and few others, are the same but for these three bits.
        left = without_blocks(left, |byte| (byte == b'"') | (byte | 0x26 == b'}' | 0x26));
        let (rest, block) = left.split_at(left.len().saturating_sub(BLOCK_BYTES));
        for (at, byte) in block.iter().enumerate().rev() {
            match STEPS[usize::from(*byte)] {
                QUOTE if is_escaped(left, rest.len() + at) => {}
                QUOTE => outside = !outside,
                step => depth += i32::from(step) & outside,
            }
            if depth == 0 {
                return left.get(..rest.len() + at);
            }
        }
        left = Some(rest).filter(|_| !block.is_empty())?;
    }
}

/// Drops the rest of a string whose closing quote stood behind: up to the last quote before it that
/// is not escaped.
fn before_string(mut left: &[u8]) -> Option<&[u8]> {
    loop {
        left = without_blocks(left, |byte| byte == b'"');
        let at = left.iter().rposition(|byte| *byte == b'"')?;
        if !is_escaped(left, at) {
            return left.get(..at);
        }
        left = left.get(..at)?;
    }
}

/// Drops blocks at the end in which nothing counts.
#[inline(always)]
fn without_blocks(mut left: &[u8], counts: impl Fn(u8) -> bool) -> &[u8] {
    while let Some((rest, block)) = left.split_last_chunk::<BLOCK_BYTES>()
        && !block.iter().fold(false, |found, byte| found | counts(*byte))
    {
        left = rest;
    }
    left
}

/// Whether an odd number of backslashes stands before this byte.
#[inline]
fn is_escaped(bytes: &[u8], at: usize) -> bool {
    let before = bytes.get(..at).unwrap_or_default();
    before.ends_with(b"\\") && before.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
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
            // Longer than a block, with what counts at different places.
            &format!("[{{\"a\":[[{0}],{0}]}},{0},{{\"b\":{0}}}]", "7".repeat(41)),
            &format!("[\"{0}[\\\"\",\"],{0}\\\\\"]", "x,".repeat(30)),
            &format!("\"{}\\\"]{}\"", "\\\\".repeat(33), "]}\u{e9}".repeat(20)),
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
