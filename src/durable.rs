//! Creates folders and temporary files, and makes names durable: syncing a file keeps its contents,
//! but not its name, which is in the folder around it. Called by all code that creates files.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, Metadata, OpenOptions, read_dir, remove_file};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

/// Beginning of the name of a file that is not complete yet.
const TEMPORARY: &str = ".new-";

/// How many random hexadecimal digits follow.
const TEMPORARY_DIGITS: usize = 16;

/// How many such files are made before a sweep leaves one alone.
const TEMPORARY_TRIES: usize = 8;

/// Creates a temporary file in a folder, mode 0600: `.new-`, random digits, and this ending. It is
/// locked as long as it is open, unlike those left by processes that were killed.
///
/// # Errors
/// Those of the file system and of the random source.
pub fn temporary(folder: &Path, ending: &OsStr) -> Result<(File, PathBuf)> {
    for _ in 0..TEMPORARY_TRIES {
        let (file, path) = unlocked(folder, ending)?;
        // On a file system without locks a sweep gets none either.
        let _ = flock(&file, FlockOperation::LockExclusive);
        // A sweep may have come between the file and its lock.
        if path.symlink_metadata().is_ok() {
            return Ok((file, path));
        }
    }
    Err(Error::other(format!("{}: new files do not stay", folder.display())))
}

/// Removes what processes that were killed have left incomplete, of a name whose ending `is_ours`,
/// and nothing else; if a time is given (Unix seconds), only what was last written before it.
/// Errors are ignored: such a file does no harm, and the next sweep tries again.
pub fn sweep(folder: &Path, is_ours: impl Fn(&str) -> bool, before: Option<i64>) {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let is_old = |it: &Metadata| before.is_none_or(|at| it.mtime() < at);
    let is_left = |it: &Metadata| it.is_file() && it.uid() == geteuid().as_raw() && is_old(it);
    for entry in read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().and_then(ending).is_some_and(&is_ours)
            && entry.metadata().is_ok_and(|it| is_left(&it))
            && let Ok(file) = File::open(entry.path())
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = remove_file(entry.path());
        }
    }
}

/// What follows the digits in the name of a temporary file.
fn ending(name: &str) -> Option<&str> {
    let (digits, ending) = name.strip_prefix(TEMPORARY)?.split_at_checked(TEMPORARY_DIGITS)?;
    digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(ending)
}

fn unlocked(folder: &Path, ending: &OsStr) -> Result<(File, PathBuf)> {
    let mut bytes = [0; TEMPORARY_DIGITS / 2];
    getrandom::fill(&mut bytes).map_err(|e| Error::other(format!("no random numbers: {e}")))?;
    let digits = u64::from_be_bytes(bytes);
    let mut name = OsString::from(format!("{TEMPORARY}{digits:0TEMPORARY_DIGITS$x}"));
    name.push(ending);
    let path = folder.join(name);
    let mut how = OpenOptions::new();
    let file = how.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((file, path))
}

/// Creates a folder, mode 0700, and its missing parents, durably.
///
/// # Errors
/// Those of the file system, with the path in front.
pub fn make_folder(path: &Path) -> Result<()> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let made: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => at(path, Error::new(e.kind(), "it is no folder")),
        _ => at(path, e),
    })?;
    made.into_iter().try_for_each(sync_name).map_err(|e| at(path, e))
}

/// Makes it durable that a file or folder is in its parent folder, or no longer is.
///
/// # Errors
/// Those of the file system.
pub fn sync_name(path: &Path) -> Result<()> {
    let around = path.parent().filter(|around| !around.as_os_str().is_empty());
    match File::open(around.unwrap_or(Path::new("."))) {
        Ok(folder) => folder.sync_all(),
        // A folder that can be written to but not read cannot be synced.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(e) => Err(e),
    }
}

/// The same error, with the path in front.
pub fn at(path: &Path, e: Error) -> Error {
    Error::new(e.kind(), format!("{}: {e}", path.display()))
}
