//! What the linker is asked for: addresses that the loader has to move are listed in the packed form,
//! which takes 70 KB less of the file and of memory. The C library must know it, which it does
//! since 2.36; where it is older, or is not known, nothing is asked for.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|is| is == value);
    let is_ours = env::var("HOST").is_ok_and(|host| is("TARGET", &host));
    if is_ours && is("CARGO_CFG_TARGET_ENV", "gnu") && is("CARGO_CFG_TARGET_OS", "linux") {
        let library = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
        if library.is_ok_and(|said| is_new(&String::from_utf8_lossy(&said.stdout))) {
            println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        }
    }
}

/// As in `glibc 2.36`.
fn is_new(version: &str) -> bool {
    let mut numbers = version.trim().trim_start_matches("glibc ").split('.').map(str::parse::<u32>);
    let (first, second) = (numbers.next(), numbers.next());
    matches!((first, second), (Some(Ok(first)), Some(Ok(second))) if (first, second) >= (2, 36))
}
