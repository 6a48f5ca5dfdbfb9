//! The owner of the data folder. Root may not write into another user's folder, whose server could
//! not open the files; and a command that cannot open a file says who owns it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};

use super::{Call, Stop};

const ROOT: u32 = 0;

/// Refuses to write into the data folder as root if it belongs to another user.
pub(super) fn refuse_root(call: &Call, data: &Path) -> Result<(), Stop> {
    let Ok(folder) = fs::metadata(data) else { return Ok(()) };
    let (user, group) = (folder.uid(), folder.gid());
    if geteuid().as_raw() != ROOT || user == ROOT {
        return Ok(());
    }
    Err(Stop::Failed(format!(
        "the data folder {} belongs to user {user}, whose server could not open what root writes \
         there: run it as that user: \
         setpriv --reuid={user} --regid={group} --clear-groups fws {} …",
        data.display(),
        call.command.name
    )))
}

/// What to append to the error of a server that cannot write to its data folder: the cause and the
/// fix. Empty if the file system is writable and everything in the folder is this user's.
pub(super) fn advice(error: &std::io::Error, data: &Path) -> String {
    if error.kind() == ErrorKind::ReadOnlyFilesystem {
        let what = "a store, and a server key that is made, want a folder that can be written";
        let instead = "--store none keeps nothing, and FWS_SECRETKEY gives it a server key";
        return format!("; {what} (--data): {instead}");
    }
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    if error.kind() != ErrorKind::PermissionDenied || user == ROOT {
        return String::new();
    }
    if !data.exists() {
        let data = data.display();
        return format!("; make it for user {user}: install -d -m 700 -o {user} -g {group} {data}");
    }
    let Some((path, owner)) = not_of(user, data) else { return String::new() };
    format!(
        "; {} belongs to user {owner}, and this is user {user}: chown -R {user}:{group} {}",
        path.display(),
        data.display()
    )
}

/// The error of a command that cannot read the data folder, with its owner.
pub(super) fn unreadable(call: &Call, data: &Path, error: &std::io::Error) -> Stop {
    let advice = advice_to_reader(geteuid().as_raw(), call.command.name, data, error.kind());
    Stop::Failed(format!("{error}{advice}"))
}

fn advice_to_reader(user: u32, command: &str, data: &Path, kind: ErrorKind) -> String {
    match not_of(user, data).filter(|_| kind == ErrorKind::PermissionDenied) {
        None => String::new(),
        Some((path, owner)) => format!(
            "; {} belongs to user {owner}, and this is user {user}: \
             sudo -u '#{owner}' fws {command} …",
            path.display()
        ),
    }
}

/// The first path, of the folder and its entries, that `user` does not own, and its owner.
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
    fn files_of_another_user_are_named_with_advice() {
        let data = std::env::temp_dir().join(format!("fws-owner-{}", std::process::id()));
        fs::create_dir_all(&data).unwrap();
        let us = geteuid().as_raw();
        assert_eq!(not_of(us, &data), None);
        assert_eq!(not_of(us + 1, &data), Some((data.clone(), us)));
        let (denied, missing) = (ErrorKind::PermissionDenied, ErrorKind::NotFound);
        let advice_to = |user, kind| advice_to_reader(user, "emit", &data, kind);
        assert_eq!(
            (advice_to(us, denied), advice_to(us + 1, missing)),
            (String::new(), String::new())
        );
        let told = format!(": sudo -u '#{us}' fws emit …");
        assert!(advice_to(us + 1, denied).ends_with(&told), "{}", advice_to(us + 1, denied));
        fs::remove_dir(&data).unwrap();
        assert_eq!(not_of(us + 1, &data), None);
        assert_eq!(advice(&ErrorKind::NotFound.into(), &data), "");
        let told = advice(&ErrorKind::ReadOnlyFilesystem.into(), &data);
        assert!(told.contains("--data") && told.contains("--store none"), "{told}");
    }
}
