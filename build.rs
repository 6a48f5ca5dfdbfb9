//! What the linker is asked for, where it does it: each thing is tried on a small program first.
//!
//! Addresses that the loader has to move are listed in the packed form, which takes 70 KB less of
//! the file and of memory. What a server does not run stands apart (`layout.ld`). And unwinding is
//! linked in: it is small, and a library of its own takes 100 KB of memory.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=layout.ld");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|is| is == value);
    let is_ours = env::var("HOST").is_ok_and(|host| is("TARGET", &host));
    if !is_ours || !is("CARGO_CFG_TARGET_ENV", "gnu") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    let layout = Path::new(env!("CARGO_MANIFEST_DIR")).join("layout.ld");
    let packed = "-Wl,-z,pack-relative-relocs".to_owned();
    for argument in [packed, format!("-Wl,-T,{}", layout.display())] {
        if works(&["-C", &format!("link-arg={argument}")]) {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
    if let Some(folder) = folder_of("libgcc_eh.a")
        && works(&["-l", "static:-bundle=gcc_eh", "-L", &format!("native={}", folder.display())])
    {
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
    }
}

/// Whether a program that catches a panic can be built with these arguments, and runs: an old C
/// library may not know what the linker knows.
fn works(arguments: &[&str]) -> bool {
    let variable = |name| env::var(name).unwrap_or_default();
    let (source, program) = ("trial.rs", "./trial");
    let text = "fn main() { std::panic::catch_unwind(|| panic!()).unwrap_err(); }";
    let folder = variable("OUT_DIR");
    if std::fs::write(Path::new(&folder).join(source), text).is_err() {
        return false;
    }
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.current_dir(&folder).args([source, "-o", program]).args(arguments);
    rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    let is_done = |command: &mut Command| command.output().is_ok_and(|it| it.status.success());
    is_done(&mut rustc) && is_done(Command::new(program).current_dir(&folder))
}

/// The folder in which the C compiler has that library.
fn folder_of(library: &str) -> Option<PathBuf> {
    let said = Command::new("cc").arg(format!("-print-file-name={library}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(said.stdout).ok()?.trim());
    path.is_absolute().then(|| path.parent().map(Path::to_path_buf))?
}
