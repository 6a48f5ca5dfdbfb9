//! What is installed: the package for Debian, made by `scripts/deb`.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::server::Dir;

mod common;

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A package of a program that is small and there on every machine: what it is does not matter.
fn packed(folder: &Path) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/deb");
    said(Command::new(script).arg("/bin/true").arg(folder)).trim_end().into()
}

#[test]
fn a_package_has_all_that_its_unit_and_its_scripts_speak_of() {
    let dir = Dir::new();
    let package = packed(&dir.file("packages"));
    let root = dir.file("root");
    said(Command::new("dpkg-deb").arg("--raw-extract").arg(&package).arg(&root));
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap();

    // The unit of the package is that of the repository, with its binary in another place.
    let unit = text("usr/lib/systemd/system/fws.service");
    let ours = include_str!("../packaging/fws.service");
    let ours = &ours[ours.find("[Unit]").unwrap()..];
    assert_eq!(unit, ours.replace("/usr/local/bin/fws", "/usr/bin/fws"));
    assert_eq!(fs::read(root.join("usr/bin/fws")).unwrap(), fs::read("/bin/true").unwrap());

    // Settings are a file that an upgrade leaves alone and others cannot read.
    assert_eq!(text("DEBIAN/conffiles"), "/etc/fws.json\n");
    assert!(unit.contains("--config /etc/fws.json"), "{unit}");
    assert_eq!(text("etc/fws.json"), "{}\n");
    let listed = said(Command::new("dpkg-deb").arg("--contents").arg(&package));
    let settings = listed.lines().find(|line| line.ends_with("./etc/fws.json")).unwrap();
    assert!(settings.starts_with("-rw------- root/root "), "{settings}");

    for script in ["postinst", "prerm", "postrm"] {
        said(Command::new("sh").arg("-n").arg(root.join("DEBIAN").join(script)));
        assert!(text(&format!("DEBIAN/{script}")).contains("fws.service"), "{script}");
    }
    let control = text("DEBIAN/control");
    assert!(control.contains(concat!("\nVersion: ", env!("CARGO_PKG_VERSION"), "\n")), "{control}");
    assert!(control.contains("\nDepends: libc6 (>= 2."), "{control}");
    for script in ["fws.js", "fws.mjs", "iframe.js"] {
        assert!(root.join("usr/share/fws/js").join(script).exists(), "{script}");
    }
}

#[test]
fn two_packages_of_one_tree_are_the_same() {
    let (one, other) = (Dir::new(), Dir::new());
    let (one, other) =
        (fs::read(packed(&one.file("packages"))), fs::read(packed(&other.file("packages"))));
    assert!(one.unwrap() == other.unwrap());
}
