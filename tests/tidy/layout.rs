//! `layout.ld` names modules as symbols spell them, and the linker does not report a name that
//! matches nothing: a renamed module, or a new one that is missing, would show only in memory use.

use std::fs;
use std::path::Path;

/// Modules of the command line that a running server uses.
const SERVER_RUNS: [&str; 4] = ["flags", "mod", "owner", "serve"];

/// Returns the modules that a layout names, as `cli::bench`, in its order.
fn named(layout: &str) -> Vec<String> {
    layout.split("*3fws").skip(1).filter_map(path).collect()
}

/// Decodes names with their lengths in front, one after the other: `3cli5bench* …`.
fn path(mut symbols: &str) -> Option<String> {
    let mut names = Vec::new();
    while let Some(end) = symbols.find(|letter: char| !letter.is_ascii_digit()).filter(|at| *at > 0)
    {
        let length: usize = symbols[..end].parse().ok()?;
        names.push(symbols.get(end..end + length)?);
        symbols = &symbols[end + length..];
    }
    (symbols.starts_with('*')).then(|| names.join("::"))
}

fn is_module(name: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name.replace("::", "/"));
    path.join("mod.rs").exists() || path.with_extension("rs").exists()
}

#[test]
fn every_module_in_the_layout_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let layout = fs::read_to_string(root.join("layout.ld")).unwrap();
    let named = named(&layout);
    assert_eq!(named.len(), layout.matches("3fws").count(), "a name is not as symbols have it");
    let gone: Vec<_> = named.iter().filter(|name| !is_module(name)).collect();
    assert!(gone.is_empty(), "no modules: {gone:?}");

    for entry in fs::read_dir(root.join("src/cli")).unwrap() {
        let path = entry.unwrap().path();
        let command = path.file_stem().unwrap().to_str().unwrap();
        let name = format!("cli::{command}");
        let is_aside = named.contains(&name);
        assert_eq!(is_aside, !SERVER_RUNS.contains(&command), "{name} aside: {is_aside}");
    }
}

#[test]
fn mangled_symbol_names_are_decoded() {
    assert_eq!(named("*(.text.*3fws3cli5bench* .text.*3fws5codec*)"), ["cli::bench", "codec"]);
    assert_eq!(named(".text.*3fws3cli9bench*"), [""; 0]);
    assert!(!is_module("cli::nothing") && is_module("cli::bench") && is_module("hub"));
}
