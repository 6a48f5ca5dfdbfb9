//! Creates folders and temporary files, and makes names durable: syncing a file keeps its contents,
//! but not its name, which is in the folder around it. Called by all code that creates files.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Beginning of the name of a file that is not complete yet.
pub const TEMPORARY: &str = ".new-";

/// How many random hexadecimal digits follow.
pub const TEMPORARY_DIGITS: usize = 16;

/// Creates a temporary file in a folder, mode 0600: `.new-`, random digits, and this ending.
///
/// # Errors
/// Those of the file system and of the random source.
pub fn temporary(folder: &Path, ending: &OsStr) -> Result<(File, PathBuf)> {
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
