//! The third-party crates of the release: how many, under which licences, from where, and none in
//! two versions. Needs no tool but cargo, and no network. `make deny` checks the same with
//! cargo-deny, and advisories too.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

use std::collections::BTreeSet;
use std::process::Command;

/// Crates of the default build without our own; never more than 40. Adding one needs a reason;
/// after removing one, lower this number.
const CRATES: usize = 40;

/// Licences that are acceptable; a crate must be available under one of them.
const LICENSES: [&str; 4] = ["MIT", "Apache-2.0", "BSD-3-Clause", "Zlib"];

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A crate that is compiled into the binary or run during its build; not one for tests.
struct Crate {
    name: String,
    /// As in `v1.2.3`; followed by the source if that is not the registry.
    version: String,
    license: String,
}

fn built() -> Vec<Crate> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--locked", "--edges", "normal,build", "--target", TARGET]);
    command.args(["--prefix", "none", "--no-dedupe", "--format", "{p}|{l}"]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("fws v"), "our own comes first");
    let lines: BTreeSet<&str> = lines.collect();
    let parse = |line: &str| {
        let (package, license) = line.split_once('|').unwrap();
        let (name, version) = package.split_once(' ').unwrap();
        let [name, version, license] = [name, version, license].map(str::to_owned);
        // Crates that only run at build time are marked.
        Crate { name, version: version.replace(" (proc-macro)", ""), license }
    };
    lines.into_iter().map(parse).collect()
}

#[test]
fn the_number_of_crates_does_not_grow() {
    let names: Vec<String> = built().into_iter().map(|one| one.name).collect();
    assert_eq!(names.len(), CRATES, "{names:?}");
}

#[test]
fn no_crate_comes_twice_and_all_come_from_the_registry() {
    let mut names = BTreeSet::new();
    for Crate { name, version, .. } in built() {
        assert!(!version.contains(' '), "{name} is from elsewhere: {version}");
        assert!(names.insert(name.clone()), "{name} comes twice");
    }
}

/// Whether each group has an acceptable licence: `(MIT OR Apache-2.0) AND Zlib`.
fn is_allowed(license: &str) -> bool {
    let plain = license.replace(['(', ')'], "");
    let is_good = |one: &str| LICENSES.contains(&one.trim());
    plain.split(" AND ").all(|group| group.split(" OR ").any(is_good))
}

#[test]
fn every_licence_is_allowed() {
    assert!(is_allowed("(MIT OR GPL-2.0) AND Zlib") && is_allowed("Unlicense OR MIT"));
    assert!(!is_allowed("GPL-3.0") && !is_allowed("MIT AND GPL-3.0"));
    for Crate { name, license, .. } in built() {
        assert!(is_allowed(&license), "{name}: {license}");
    }
}
