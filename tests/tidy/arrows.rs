//! Which module may use which: the modules of the crate in their order, and the check that no path
//! in a file leads upward.

use super::Finding;
use super::code::{Source, is_word_at};

/// Each module uses only those after it in this list, and the leaves.
const ORDER: [&str; 12] = [
    "main",
    "cli",
    "server",
    "demo",
    "sim",
    "admin",
    "switch",
    "journal",
    "hub",
    "web",
    "publication",
    "codec",
];

/// Modules that all others may use; leaves use only each other.
const LEAVES: [&str; 14] = [
    "address", "arena", "durable", "edge", "frame", "limits", "log", "mailbox", "metrics",
    "reason", "slow", "time", "uuid", "wheel",
];

/// Modules outside the order, and which modules use them: the reactor, for the server and the load
/// generator, and what a process needs before and beside the server.
const ASIDE: [(&str, &[&str]); 7] = [
    ("main", &["config", "keys", "client"]),
    ("cli", &["config", "keys", "client", "load"]),
    ("load", &["codec", "reactor"]),
    ("server", &["config", "keys", "reactor"]),
    ("demo", &["config", "keys"]),
    ("client", &["codec", "keys"]),
    ("keys", &["config"]),
];

fn is_known(module: &str) -> bool {
    let is_aside = ["config", "keys", "client", "load", "reactor"].contains(&module);
    is_aside || ORDER.contains(&module) || LEAVES.contains(&module)
}

fn may_use(from: &str, to: &str) -> bool {
    let place = |module| ORDER.iter().position(|other| *other == module);
    let is_downward = place(from).is_some_and(|from| place(to).is_some_and(|to| from < to));
    let is_aside = ASIDE.iter().any(|(module, uses)| *module == from && uses.contains(&to));
    from == to || LEAVES.contains(&to) || is_downward || is_aside
}

/// Finds paths that lead upward or aside, and modules without a place. `lib.rs` may name them all.
pub fn check(source: &Source) -> Vec<Finding> {
    let from = source.module();
    if from == "lib" {
        return Vec::new();
    }
    if !is_known(from) {
        return vec![(1, format!("{from} has no place in the order of modules"))];
    }
    let uses = uses(source).into_iter();
    uses.filter(|(_, to)| !may_use(from, to))
        .map(|(line, to)| (line, format!("{from} must not use {to}")))
        .collect()
}

/// Returns the crate's modules that a file names, each with its line.
fn uses(source: &Source) -> Vec<(usize, String)> {
    let code = &source.code;
    let mut found = Vec::new();
    let line_of = |at: usize| 1 + code[..at].matches('\n').count();
    for root in ["crate::", "fws::"] {
        for (at, _) in code.match_indices(root).filter(|(at, _)| is_word_at(code, *at, root)) {
            let names = names_behind(&code[at + root.len()..]);
            found.extend(names.into_iter().map(|name| (line_of(at), name)));
        }
    }
    for (at, _) in code.match_indices("super::") {
        if !is_word_at(code, at, "super::") || code[..at].ends_with("super::") {
            continue;
        }
        let chain = &code[at..];
        let below = chain.trim_start_matches("super::");
        let steps = (chain.len() - below.len()) / "super::".len();
        if steps == depth(source.path) + depth_within(&code[..at]) {
            found.extend(names_behind(below).into_iter().map(|name| (line_of(at), name)));
        }
    }
    found.sort();
    found
}

/// How many modules enclose the file's own code.
fn depth(path: &str) -> usize {
    let below = path.strip_prefix("src/").unwrap_or(path);
    let is_named_by_folder = below.ends_with("/mod.rs");
    below.matches('/').count() + usize::from(!is_named_by_folder)
}

/// 1 if the text ends inside an inline module, otherwise 0.
fn depth_within(code: &str) -> usize {
    let last = code.lines().rev().find(|line| !line.is_empty() && !line.starts_with(' '));
    usize::from(last.is_some_and(|line| line.contains("mod ") && line.ends_with('{')))
}

/// Returns the first names of a path, or of a group of paths.
fn names_behind(path: &str) -> Vec<String> {
    let name = |path: &str| {
        let is_letter = |c: &char| c.is_alphanumeric() || *c == '_';
        Some(path.trim_start().chars().take_while(is_letter).collect()).filter(|name: &String| {
            // Types and macros in the root of the crate are not modules.
            name.starts_with(|c: char| c.is_lowercase()) && name != "super" && name != "self"
        })
    };
    let Some(group) = path.strip_prefix('{') else { return name(path).into_iter().collect() };
    let (mut depth, mut names, mut start) = (1, Vec::new(), 0);
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || depth == 1 && byte == b',' {
            names.extend(name(&group[start..at]));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    names
}

#[test]
fn upward_dependencies_are_found() {
    let found = |path: &str, text: &str| -> Vec<(usize, String)> {
        let cut = |(line, what): Finding| (line, what.replace(" must not use ", ">"));
        check(&Source::new(path, text)).into_iter().map(cut).collect()
    };
    let one = |line, what: &str| vec![(line, what.to_owned())];
    assert_eq!(found("src/hub/apply.rs", "\nuse crate::switch::Switch;\n"), one(2, "hub>switch"));
    assert_eq!(found("src/hub/mod.rs", "use crate::codec::json;\nuse crate::hub::A;\n"), []);
    assert_eq!(found("src/time.rs", "fn a() { crate::codec::b() }\n"), one(1, "time>codec"));
    assert_eq!(found("src/time.rs", "use crate::wheel::Wheel;\n"), []);
    let group = "use crate::{\n    codec::{json, ws},\n    edge::Net, journal::Journal,\n};\n";
    assert_eq!(found("src/hub/mod.rs", group), one(1, "hub>journal"));
    assert_eq!(found("src/codec/ws/tests.rs", "use super::super::super::hub::A;\n").len(), 1);
    assert_eq!(found("src/codec/ws/tests.rs", "use super::super::hub::A;\n"), []);
    assert_eq!(found("src/frame.rs", "use super::hub::A;\n"), one(1, "frame>hub"));
    assert_eq!(found("src/hub/mod.rs", "use super::switch::A;\n"), one(1, "hub>switch"));
    let inside = "mod tests {\n    use super::hub;\n    use super::super::hub;\n}\n";
    assert_eq!(found("src/frame.rs", inside), one(3, "frame>hub"));
    assert_eq!(found("src/frame.rs", "mod tests {\n}\nuse super::hub;\n"), one(3, "frame>hub"));
}

#[test]
fn modules_outside_the_order_are_used_only_where_listed() {
    let is_clean = |path: &str, text: &str| check(&Source::new(path, text)).is_empty();
    assert!(is_clean("src/server.rs", "use crate::reactor::Reactor;\n"));
    assert!(is_clean("src/load/mod.rs", "use crate::reactor::Reactor;\n"));
    assert!(!is_clean("src/load/mod.rs", "use crate::switch::Switch;\n"));
    assert!(!is_clean("src/server.rs", "use crate::load::Plan;\n"));
    assert!(!is_clean("src/switch/mod.rs", "use crate::reactor::Reactor;\n"));
    assert!(!is_clean("src/reactor/mod.rs", "use crate::codec::http;\n"));
    assert!(is_clean("src/reactor/mod.rs", "use crate::edge::Net;\n"));
    assert!(is_clean("src/keys.rs", "use crate::config::Config;\n"));
    assert!(!is_clean("src/config.rs", "use crate::keys;\n"));
    assert!(!is_clean("src/switch/mod.rs", "use crate::config::Config;\n"));
    assert!(!is_clean("src/server.rs", "use crate::client::Address;\n"));
    assert!(is_clean("src/main.rs", "fn main() { fws::cli::main() }\n"));
    assert!(!is_clean("src/cli/mod.rs", "use fws::main;\nuse crate::main;\n"));
    assert!(!is_clean("src/shed.rs", "//! Something new.\n"));
    assert!(is_clean("src/lib.rs", "pub use crate::switch::Switch;\n"));
}
