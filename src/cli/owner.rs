//! Whose the data folder is. What root puts into the folder of another user, that user's server
//! could not open: so it is not put there. And a server that cannot open a file says whose it is.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};

use super::{Call, Stop};

const ROOT: u32 = 0;

/// Refuses to write into the data folder as root, if it is another user's.
pub(super) fn refuse_root(call: &Call, data: &Path) -> Result<(), Stop> {
    let Ok(folder) = fs::metadata(data) else { return Ok(()) };
    let (user, group) = (folder.uid(), folder.gid());
    if geteuid().as_raw() != ROOT || user == ROOT {
        return Ok(());
    }
    Err(Stop::Failed(format!(
        "the data folder {} belongs to user {user}, whose server could not open what root writes \
         there: say it as that user, \
         setpriv --reuid={user} --regid={group} --clear-groups fws {} …",
        data.display(),
        call.command.name
    )))
}

/// What is to be said, and done, if a server does not start for want of a permission in its data
/// folder: nothing if all in it is its own.
pub(super) fn advice(error: &std::io::Error, data: &Path) -> String {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    if error.kind() != ErrorKind::PermissionDenied || user == ROOT {
        return String::new();
    }
    let Some((path, owner)) = not_of(user, data) else { return String::new() };
    format!(
        "; {} belongs to user {owner}, and this is user {user}: chown -R {user}:{group} {}",
        path.display(),
        data.display()
    )
}

/// The folder, or the first thing in it, that is not that user's, and whose it is.
fn not_of(user: u32, data: &Path) -> Option<(PathBuf, u32)> {
    let inside = fs::read_dir(data).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(data.to_owned()).chain(inside).find_map(|path| {
        let owner = fs::symlink_metadata(&path).ok()?.uid();
        (owner != user).then_some((path, owner))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_named() {
        let data = std::env::temp_dir().join(format!("fws-owner-{}", std::process::id()));
        fs::create_dir_all(&data).unwrap();
        let us = geteuid().as_raw();
        assert_eq!(not_of(us, &data), None);
        assert_eq!(not_of(us + 1, &data), Some((data.clone(), us)));
        fs::remove_dir(&data).unwrap();
        assert_eq!(not_of(us + 1, &data), None);
        assert_eq!(advice(&ErrorKind::NotFound.into(), &data), "");
    }
}
