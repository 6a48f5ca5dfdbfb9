//! The Debian package that `scripts/deb` builds.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::server::Dir;

fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Builds a package around `/bin/true`, which is small and on every machine.
fn build_package(folder: &Path) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/deb");
    output_of(Command::new(script).arg("/bin/true").arg(folder)).trim_end().into()
}

#[test]
fn a_package_contains_all_that_its_unit_and_scripts_name() {
    let dir = Dir::new();
    let package = build_package(&dir.file("packages"));
    let root = dir.file("root");
    output_of(Command::new("dpkg-deb").arg("--raw-extract").arg(&package).arg(&root));
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap();

    // The package's unit is the repository's, except for the path of the binary.
    let unit = text("usr/lib/systemd/system/fws.service");
    let ours = include_str!("../../packaging/fws.service");
    let ours = &ours[ours.find("[Unit]").unwrap()..];
    assert_eq!(unit, ours.replace("/usr/local/bin/fws", "/usr/bin/fws"));
    assert_eq!(fs::read(root.join("usr/bin/fws")).unwrap(), fs::read("/bin/true").unwrap());

    // The settings file is kept by upgrades, and other users cannot read it.
    assert_eq!(text("DEBIAN/conffiles"), "/etc/fws.json\n");
    assert!(unit.contains("--config /etc/fws.json"), "{unit}");
    assert_eq!(text("etc/fws.json"), "{}\n");
    let listed = output_of(Command::new("dpkg-deb").arg("--contents").arg(&package));
    let settings = listed.lines().find(|line| line.ends_with("./etc/fws.json")).unwrap();
    assert!(settings.starts_with("-rw------- root/root "), "{settings}");

    for script in ["postinst", "prerm", "postrm"] {
        output_of(Command::new("sh").arg("-n").arg(root.join("DEBIAN").join(script)));
        assert!(text(&format!("DEBIAN/{script}")).contains("fws.service"), "{script}");
    }
    let control = text("DEBIAN/control");
    assert!(control.contains(concat!("\nVersion: ", env!("CARGO_PKG_VERSION"), "\n")), "{control}");
    assert!(control.contains("\nDepends: libc6 (>= 2."), "{control}");
    for script in ["fws.js", "fws.mjs", "iframe.js"] {
        assert!(root.join("usr/share/fws/js").join(script).exists(), "{script}");
    }
}

/// Runs the script that follows an installation with programs that only note how they are called,
/// and returns the calls of `chown`.
fn owners_changed(dir: &Dir, arguments: &[&str], has_user: bool) -> String {
    let (folder, notes) = (dir.file("programs"), dir.file("notes"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(&notes, "").unwrap();
    let programs = ["useradd", "deb-systemd-helper", "deb-systemd-invoke", "systemctl"];
    let note = format!("#!/bin/sh\necho \"$@\" >>{}\n", notes.display());
    let getent = format!("#!/bin/sh\n{has_user}\n");
    let silent = programs.map(|name| (name, "#!/bin/sh\n"));
    for (name, text) in silent.into_iter().chain([("chown", &*note), ("getent", &*getent)]) {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/deb/postinst");
    let path = format!("{}:/usr/bin:/bin", folder.display());
    output_of(Command::new("sh").arg(script).args(arguments).env("PATH", path));
    fs::read_to_string(notes).unwrap()
}

/// An administrator may give the file to another user, or have none.
#[test]
fn an_upgrade_leaves_the_owner_of_the_settings_file() {
    let (dir, is_there) = (Dir::new(), Path::new("/etc/fws.json").exists());
    assert_eq!(owners_changed(&dir, &["configure", "0.1.0"], true), "");
    let given = if is_there { "fws:fws /etc/fws.json\n" } else { "" };
    for (arguments, has_user) in
        [(&["configure"][..], true), (&["configure", ""], false), (&["configure", "0.1.0"], false)]
    {
        assert_eq!(owners_changed(&dir, arguments, has_user), given, "{arguments:?}");
    }
}

#[test]
fn package_builds_are_reproducible() {
    let (one, other) = (Dir::new(), Dir::new());
    let (one, other) = (
        fs::read(build_package(&one.file("packages"))),
        fs::read(build_package(&other.file("packages"))),
    );
    assert!(one.unwrap() == other.unwrap());
}
