//! Reads the sources, and fails where they break a rule that the compiler does not check
//! (`docs/architecture.md`: who may call whom, and the writing rules). Each rule is a function over
//! the text of one file, and is shown below to fail.

use std::fs;
use std::path::Path;

#[path = "tidy/arrows.rs"]
mod arrows;
#[path = "tidy/code.rs"]
mod code;
#[path = "tidy/layout.rs"]
mod layout;

use code::{Source, functions};

/// Maximum length of a line, in characters.
const COLUMNS: usize = 100;
/// Maximum length of a function, in lines, from its `fn` to its closing brace.
const FUNCTION_LINES: usize = 70;
/// Maximum length of a file, in lines.
const FILE_LINES: usize = 600;

/// A line (from 1), and what is wrong there.
type Finding = (usize, String);

/// A rule, and the folders that it applies to.
type Rule = (fn(&Source) -> Vec<Finding>, &'static [&'static str]);

const EVERYWHERE: &[&str] = &["src", "tests", "benches", "examples", "fuzz/fuzz_targets"];

const RULES: [Rule; 11] = [
    (arrows::check, &["src"]),
    (clocks, &["src"]),
    (sockets, &["src"]),
    (unwraps, &["src"]),
    (prints, &["src"]),
    (unsafes, EVERYWHERE),
    (skipped_and_slept, &["src", "tests"]),
    (headers, EVERYWHERE),
    (long_lines, EVERYWHERE),
    (long_functions, EVERYWHERE),
    (long_files, EVERYWHERE),
];

/// Only `time.rs` reads a clock.
fn clocks(source: &Source) -> Vec<Finding> {
    let is_clock = source.path == "src/time.rs";
    if is_clock { Vec::new() } else { source.with_words(&["Instant::now", "SystemTime"]) }
}

/// Only the reactor uses sockets, and the server, which gives it the listeners.
fn sockets(source: &Source) -> Vec<Finding> {
    let is_theirs = source.path == "src/server.rs" || source.module() == "reactor";
    if is_theirs { Vec::new() } else { source.with_words(&["mio::"]) }
}

/// No panic on input: `unwrap` is for tests.
fn unwraps(source: &Source) -> Vec<Finding> {
    source.without_tests().with_words(&[".unwrap()", ".unwrap_err()"])
}

/// Only the log and the command line write, each in its own way; and nothing is left unfinished.
fn prints(source: &Source) -> Vec<Finding> {
    source.with_words(&[
        "println!",
        "eprintln!",
        "print!",
        "eprint!",
        "dbg!",
        "todo!",
        "unimplemented!",
    ])
}

/// The lint name `unsafe_code` does not count as the word.
fn unsafes(source: &Source) -> Vec<Finding> {
    let mut found = source.with_words(&["unsafe"]);
    if source.path == "src/lib.rs" && !source.code.contains("#![forbid(unsafe_code)]") {
        found.push((1, "does not forbid unsafe code".to_owned()));
    }
    found
}

/// A skipped test proves nothing, and one that sleeps is slow or wrong.
fn skipped_and_slept(source: &Source) -> Vec<Finding> {
    source.with_words(&["#[ignore", "thread::sleep"])
}

fn headers(source: &Source) -> Vec<Finding> {
    let has_header = source.text.starts_with("//!");
    if has_header { Vec::new() } else { vec![(1, "has no //! header".to_owned())] }
}

fn long_lines(source: &Source) -> Vec<Finding> {
    let lengths = source.text.lines().map(|line| line.chars().count());
    let too_long = (1..).zip(lengths).filter(|(_, length)| *length > COLUMNS);
    too_long.map(|(line, length)| (line, format!("{length} columns"))).collect()
}

fn long_functions(source: &Source) -> Vec<Finding> {
    let too_long = functions(&source.code).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES);
    too_long.map(|(line, lines)| (line, format!("a function of {lines} lines"))).collect()
}

fn long_files(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    if lines > FILE_LINES { vec![(lines, format!("a file of {lines} lines"))] } else { Vec::new() }
}

/// Collects all Rust files under a folder, sorted by name; none if the folder does not exist.
fn files_under(folder: &Path, files: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            files_under(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path.to_string_lossy().into_owned());
        }
    }
}

#[test]
fn the_source_tree_obeys_every_rule() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let (mut report, mut count) = (Vec::new(), 0);
    for folder in EVERYWHERE {
        let mut files = Vec::new();
        files_under(&Path::new(root).join(folder), &mut files);
        for file in files {
            count += 1;
            let text = fs::read_to_string(&file).unwrap();
            let source = Source::new(file.strip_prefix(root).unwrap(), &text);
            for (rule, folders) in RULES {
                let findings = if folders.contains(folder) { rule(&source) } else { Vec::new() };
                let path = source.path;
                report.extend(findings.iter().map(|(line, what)| format!("{path}:{line}: {what}")));
            }
        }
    }
    assert!(count > 50, "only {count} files were found");
    assert!(report.is_empty(), "{} findings:\n{}", report.len(), report.join("\n"));
}

/// Returns the lines in which a rule finds something.
fn lines(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).into_iter().map(|(line, _)| line).collect()
}

#[test]
fn each_rule_finds_its_violations() {
    let none: [usize; 0] = [];
    let clock = "use std::time::Instant;\nlet t = Instant::now(); // Instant::now\nSystemTime;\n";
    assert_eq!(lines(clocks, "src/hub/mod.rs", clock), [2, 3]);
    assert_eq!(lines(clocks, "src/time.rs", clock), none);

    let socket = "use mio::Poll;\n/// mio::Poll\nlet x = \"mio::Poll\";\n";
    assert_eq!(lines(sockets, "src/switch/mod.rs", socket), [1]);
    assert_eq!(lines(sockets, "src/reactor/io.rs", socket), none);
    assert_eq!(lines(sockets, "src/server.rs", socket), none);

    let unwrap = "fn a() {\n    b().unwrap();\n}\n#[cfg(test)]\nmod tests {\nx;\n    \
                  a().unwrap();\n}\nc.unwrap();\n#[cfg(test)]\n#[a]\nuse b;\nc.unwrap_err();\n";
    assert_eq!(lines(unwraps, "src/hub/mod.rs", unwrap), [2, 9, 13]);
    assert_eq!(lines(unwraps, "src/hub/tests.rs", unwrap), none);
    assert_eq!(lines(unwraps, "src/hub/mod.rs", "x.unwrap_or(1); // .unwrap()\n"), none);

    let print = "println!(\"x\");\nlet a = dbg!(1);\ntodo!()\nmy_print!(1);\nwriteln!(f)\n";
    assert_eq!(lines(prints, "src/log.rs", print), [1, 2, 3]);
    assert_eq!(lines(prints, "src/log.rs", "eprint!();\nprint!();\nunimplemented!();\n").len(), 3);

    assert_eq!(lines(unsafes, "src/hub/mod.rs", "let x = unsafe { y };\n"), [1]);
    assert_eq!(lines(unsafes, "src/lib.rs", "pub mod hub;\n"), [1]);
    assert_eq!(lines(unsafes, "src/lib.rs", "#![forbid(unsafe_code)] // unsafe\n"), none);

    let skipped = "#[test]\n#[ignore = \"slow\"]\nfn t() { std::thread::sleep(x) }\n";
    assert_eq!(lines(skipped_and_slept, "tests/a.rs", skipped), [2, 3]);

    assert_eq!(lines(headers, "src/hub/mod.rs", "/// x\nfn a() {}\n"), [1]);
    assert_eq!(lines(headers, "src/hub/mod.rs", "//! The hub.\n"), none);

    let line = |columns: usize| format!("\n// {}\n", "é".repeat(columns - 3));
    assert_eq!(lines(long_lines, "src/hub/mod.rs", &line(COLUMNS + 1)), [2]);
    assert_eq!(lines(long_lines, "src/hub/mod.rs", &line(COLUMNS)), none);

    let function = |lines: usize| {
        let body = "        b('{', \"}\");\n".repeat(lines - 2);
        format!("impl A {{\n    pub fn a(\n    {body}    }}\n}}\n").replacen("(\n", "() {\n", 1)
    };
    assert_eq!(lines(long_functions, "src/a.rs", &function(FUNCTION_LINES + 1)), [2]);
    assert_eq!(lines(long_functions, "src/a.rs", &function(FUNCTION_LINES)), none);

    let file = |lines: usize| "\n".repeat(lines);
    assert_eq!(lines(long_files, "src/a.rs", &file(FILE_LINES + 1)), [FILE_LINES + 1]);
    assert_eq!(lines(long_files, "src/a.rs", &file(FILE_LINES)), none);
}
