//! Rust text as the rules see it: what is code, what is a test, where a function ends. Understands
//! only the Rust that rustfmt produces.

/// One file.
pub struct Source<'a> {
    /// Its path, relative to the root of the project.
    pub path: &'a str,
    /// Its content.
    pub text: &'a str,
    /// The content, line for line, without comments and without the content of literals.
    pub code: String,
}

impl<'a> Source<'a> {
    pub fn new(path: &'a str, text: &'a str) -> Source<'a> {
        Source { path, text, code: blanked(text) }
    }

    /// Returns the crate's module that the file belongs to: `hub` for `src/hub/apply.rs`.
    pub fn module(&self) -> &'a str {
        let below = self.path.strip_prefix("src/").unwrap_or(self.path);
        let first = below.split('/').next().unwrap_or(below);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Returns the source without the items that are compiled only for tests.
    pub fn without_tests(&self) -> Source<'a> {
        let mut code = String::new();
        let is_test_file = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        let mut lines = if is_test_file { "" } else { &self.code }.lines();
        while let Some(line) = lines.next() {
            code.push('\n');
            if line.trim() != "#[cfg(test)]" {
                code.insert_str(code.len() - 1, line);
                continue;
            }
            let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
            let mut is_short = true;
            for line in lines.by_ref() {
                code.push('\n');
                is_short &= line.trim_start().starts_with('#') || line.ends_with(';');
                if line.starts_with(&end) || is_short && line.ends_with(';') {
                    break;
                }
            }
        }
        Source { path: self.path, text: self.text, code }
    }

    /// Returns the lines whose code has one of these words.
    pub fn with_words(&self, words: &[&str]) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (number, line) in (1..).zip(self.code.lines()) {
            let has =
                |word: &&&str| line.match_indices(**word).any(|(at, _)| is_word_at(line, at, word));
            found.extend(words.iter().find(has).map(|word| (number, (*word).to_owned())));
        }
        found
    }
}

/// Whether a word found there is not part of a longer one.
pub fn is_word_at(line: &str, at: usize, word: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    let before = line[..at].chars().next_back().filter(|_| word.starts_with(is_letter));
    let behind = line[at + word.len()..].chars().next().filter(|_| word.ends_with(is_letter));
    !before.is_some_and(is_letter) && !behind.is_some_and(is_letter)
}

/// Returns first line (from 1) and length of each function with a body, judged by indentation.
pub fn functions(code: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let item = line.trim_start();
        let is_function = item.starts_with("fn ")
            || item.match_indices(" fn ").any(|(at, _)| {
                item[..at].split(' ').all(|word| {
                    word.starts_with("pub") || ["const", "async", "extern", "in"].contains(&word)
                })
            });
        if !is_function {
            continue;
        }
        let indent = &line[..line.len() - item.len()];
        let head = lines[start..].iter().position(|line| line.ends_with(['{', ';', '}']));
        let Some(body) = head.map(|lines| start + lines) else { continue };
        if lines[body].ends_with('{') {
            let end = format!("{indent}}}");
            let lines = lines[body..].iter().position(|line| line.starts_with(&end));
            found.extend(lines.map(|lines| (start + 1, body - start + lines + 1)));
        }
    }
    found
}

/// Blanks out comments, strings and characters, and keeps every newline.
fn blanked(text: &str) -> String {
    let (mut code, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(first) = rest.chars().next() {
        let follows_letter = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment_length(rest),
            '"' => string_length(rest),
            '\'' => character_length(rest),
            'r' | 'b' if !follows_letter => raw_length(rest),
            _ => 0,
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (blank, behind) = rest.split_at(length);
        // A line that ended in code must still end in code, so a quote stands for each literal.
        code.push(if first == '/' { ' ' } else { '"' });
        code.extend(blank.chars().filter(|c| *c == '\n'));
        rest = behind;
    }
    code.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The length of a block comment, which may contain others.
fn comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        match rest {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a string, up to the next quote that is not escaped.
fn string_length(text: &str) -> usize {
    let mut bytes = text.bytes().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character; 0 for a lifetime.
fn character_length(text: &str) -> usize {
    let mut inside = text[1..].chars();
    match inside.next() {
        Some('\\') => text[3..].find('\'').map_or(0, |at| at + 4),
        Some(c) if inside.next() == Some('\'') => c.len_utf8() + 2,
        _ => 0,
    }
}

/// The length of `r"…"`, `br#"…"#` and the like; 0 for anything else with these letters.
fn raw_length(text: &str) -> usize {
    let behind = text.strip_prefix('b').unwrap_or(text);
    let Some(behind) = behind.strip_prefix('r') else { return 0 };
    let hashes = &behind[..behind.len() - behind.trim_start_matches('#').len()];
    let Some(inside) = behind[hashes.len()..].strip_prefix('"') else { return 0 };
    let start = text.len() - inside.len();
    let end = format!("\"{hashes}");
    inside.find(&end).map_or(text.len(), |at| start + at + end.len())
}

#[test]
fn comments_and_literals_are_blanked() {
    for (text, code) in [
        ("a // b \"\n\"c\" d\n", "a\n\" d\n"),
        ("a /* b /* c */\n d */ e\n", "a\n e\n"),
        ("\"\\\"//\" 'x' '\\'' '\"' &'a b\n", "\" \" \" \" &'a b\n"),
        ("r\"\\\" br#\"a\"\nb\"# c r#d for\"x\"\n", "\" \"\n c r#d for\"\n"),
        ("b\"a\" b'\\n' 'é' fn r() {}\n", "b\" b\" \" fn r() {}\n"),
    ] {
        assert_eq!(blanked(text), code, "{text}");
    }
}

#[test]
fn functions_are_found_by_their_braces() {
    let code = "trait T {\n    fn a(&self);\n    fn b() {}\n}\npub(super) const fn c(\n    d: u8,\n\
                )\nwhere\n    E: F,\n{\n    fn g() {\n        h\n    }\n}\nlet fn_like = i;\n";
    assert_eq!(functions(code), [(5, 10), (11, 3)]);
}
