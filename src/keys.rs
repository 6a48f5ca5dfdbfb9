//! Keys on disk: the server key (`DATA/server.key`) and those of namespaces (`DATA/keys/NAME`), for
//! commands on the same machine. Owns the format of these files; prints and logs nothing. Called by
//! the server, at its start and at a reload, and by the command line.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::config::{Config, ConfigFile, Secret};
use crate::durable::{self, at, make_folder, sync_name};

/// A file name longer than this (in bytes) is cut, and ends in a hash of the whole name. Most file
/// systems allow 255.
const FILE_NAME_BYTES: usize = 180;

/// Random bytes of a new server key: 192 bits.
const KEY_BYTES: usize = 24;

/// Where the server key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// From the configuration.
    Configured,
    /// From this file, made at an earlier start.
    Read(PathBuf),
    /// Made now, and kept in this file.
    Made(PathBuf),
}

/// Returns the server key: the configured one, or the one in the data folder, or a new one, which
/// is stored there first (mode 0600, folder 0700). For starts: also removes incomplete files.
///
/// # Errors
/// Those of the file system and of the random source; `InvalidData` for a file without a key, and
/// for one with that of a namespace.
pub fn server_key(config: &Config) -> io::Result<(Secret, KeyOrigin)> {
    durable::sweep(&config.data, str::is_empty, None);
    durable::sweep(&config.data.join("keys"), str::is_empty, None);
    if let Some(key) = &config.secret_key {
        return Ok((key.clone(), KeyOrigin::Configured));
    }
    let path = server_key_path(&config.data);
    if let Some(key) = checked_server_key(config)? {
        return Ok((key, KeyOrigin::Read(path)));
    }
    let mut bytes = [0; KEY_BYTES];
    random(&mut bytes)?;
    let key = secret(hex(&bytes), &path)?;
    make_folder(&config.data)?;
    write(&config.data, "server.key", &key)?;
    Ok((key, KeyOrigin::Made(path)))
}

/// Returns warnings about a server key that is not configured but read from its file: others than
/// its owner may read it, or the key may be guessed.
pub fn server_key_warnings(config: &Config, key: &Secret) -> Vec<String> {
    if config.secret_key.is_some() {
        return Vec::new();
    }
    let path = server_key_path(&config.data);
    let is_open = fs::metadata(&path).is_ok_and(|it| it.permissions().mode() & 0o044 != 0);
    let path = path.display();
    let open = is_open
        .then(|| format!("{path} holds the server key and others may read it: chmod 600 {path}"));
    let weak = key.weakness().map(|why| format!("{path}: the server key {why}"));
    open.into_iter().chain(weak).collect()
}

/// Returns the server key, if it is configured or an earlier start has made one.
///
/// # Errors
/// As [`server_key`].
pub fn known_server_key(config: &Config) -> io::Result<Option<Secret>> {
    match &config.secret_key {
        Some(key) => Ok(Some(key.clone())),
        None => read(&server_key_path(&config.data)),
    }
}

/// As [`known_server_key`], for a configuration to be checked: no namespace may have this key.
///
/// # Errors
/// As [`known_server_key`]; `InvalidData` for the key of a namespace.
pub fn checked_server_key(config: &Config) -> io::Result<Option<Secret>> {
    let key = known_server_key(config)?;
    match key.as_ref().and_then(|key| config.opens_too_much(key)) {
        Some(wrong) => Err(io::Error::new(ErrorKind::InvalidData, wrong)),
        None => Ok(key),
    }
}

/// Returns where a start without a configured server key keeps it.
pub fn server_key_path(data: &Path) -> PathBuf {
    data.join("server.key")
}

/// Takes the lock for a command that has the server make or revoke a key and then stores the
/// outcome; held while the returned file is open. If another command has it, calls `wait` and
/// blocks, so that the last key made is the one stored. `None` if no keys are kept.
pub fn lock(data: &Path, wait: impl FnOnce()) -> Option<File> {
    let folder = data.join("keys");
    if data.is_dir() {
        // If it cannot be made, no key is kept in it either.
        let _ = make_folder(&folder);
    }
    let folder = File::open(folder).ok()?;
    // On a file system without locks, commands do not wait for each other.
    if let Err(Errno::WOULDBLOCK) = flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        wait();
        let _ = flock(&folder, FlockOperation::LockExclusive);
    }
    Some(folder)
}

/// Stores the key of a namespace, in place of an earlier one (mode 0600, folders 0700), and returns
/// its path.
///
/// # Errors
/// Those of the file system.
pub fn store(data: &Path, name: &str, key: &Secret) -> io::Result<PathBuf> {
    let folder = data.join("keys");
    make_folder(&folder)?;
    write(&folder, &file_name(name), key)?;
    Ok(path(data, name))
}

/// Returns the key of a namespace, if it is kept here.
///
/// # Errors
/// Those of the file system; `InvalidData` for a file without a key.
pub fn load(data: &Path, name: &str) -> io::Result<Option<Secret>> {
    read(&path(data, name))
}

/// Removes the key of a namespace; returns `false` if none is kept here.
///
/// # Errors
/// Those of the file system.
pub fn forget(data: &Path, name: &str) -> io::Result<bool> {
    let path = path(data, name);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(at(&path, e)),
    }
}

/// Returns where the key of a namespace is kept.
pub fn path(data: &Path, name: &str) -> PathBuf {
    data.join("keys").join(file_name(name))
}

/// Fills the slice from the system's random source.
pub(crate) fn random(out: &mut [u8]) -> io::Result<()> {
    getrandom::fill(out).map_err(|e| io::Error::other(format!("no random numbers: {e}")))
}

/// Encodes letters, digits, `_` and `-` as they are, all other bytes as `%2F`. Two names never
/// share a file: `+`, which stands before the hash of a long name, is in no other.
fn file_name(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"_-".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    if encoded.is_empty() {
        return "%".into();
    }
    if encoded.len() > FILE_NAME_BYTES {
        encoded.truncate(FILE_NAME_BYTES - 65);
        encoded.push('+');
        encoded.push_str(&hex(&Sha256::digest(name.as_bytes())));
    }
    encoded
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> io::Result<Option<Secret>> {
    // A reload reads it too, and must not wait for the writer of a pipe.
    match ConfigFile::read_again(path).map(|file| file.text) {
        Ok(text) => {
            // Some editors write a byte order mark, which is invisible.
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            secret(text.trim_end_matches(['\r', '\n']).to_string(), path).map(Some)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at(path, e)),
    }
}

fn secret(key: String, path: &Path) -> io::Result<Secret> {
    Secret::server(key).map_err(|wrong| at(path, io::Error::new(ErrorKind::InvalidData, wrong)))
}

/// Writes atomically, even if the machine stops half-way: a new file, synced, then renamed.
fn write(folder: &Path, name: &str, key: &Secret) -> io::Result<()> {
    durable::sweep(folder, str::is_empty, None);
    let path = folder.join(name);
    let replace = || {
        let (mut file, temporary) = durable::temporary(folder, "".as_ref())?;
        let written = (|| {
            file.write_all(format!("{}\n", key.expose()).as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            sync_name(&path)
        })();
        written.inspect_err(|_| drop(fs::remove_file(&temporary)))
    };
    replace().map_err(|e| at(&path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that exists for one test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            let mut bytes = [0; 8];
            random(&mut bytes).unwrap();
            Folder(std::env::temp_dir().join(format!("fws-keys-{}", hex(&bytes))))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_server_key_is_generated_once() {
        let folder = Folder::new();
        let mut config = Config::default();
        config.data = folder.0.join("data");
        assert_eq!(known_server_key(&config).unwrap(), None);
        let (made, origin) = server_key(&config).unwrap();
        let path = config.data.join("server.key");
        assert_eq!(origin, KeyOrigin::Made(path.clone()));
        assert_eq!((made.expose().len(), mode(&path), mode(&config.data)), (48, 0o600, 0o700));
        let (read, origin) = server_key(&config).unwrap();
        assert_eq!((&read, origin), (&made, KeyOrigin::Read(path.clone())));
        assert_eq!(fs::read_dir(&config.data).unwrap().count(), 1, "no temporary file is left");

        config.secret_key = Some(Secret::new("configured").unwrap());
        assert_eq!(server_key(&config).unwrap().1, KeyOrigin::Configured);
        config.secret_key = None;
        for bad in ["", "\n", "asd82nvakadfs\n"] {
            fs::write(&path, bad).unwrap();
            assert_eq!(server_key(&config).unwrap_err().kind(), ErrorKind::InvalidData, "{bad:?}");
        }
        // As left by an editor that writes a byte order mark and Windows line ends.
        fs::write(&path, format!("\u{feff}{}\r\n", made.expose())).unwrap();
        assert_eq!(known_server_key(&config).unwrap(), Some(made));
        // Reading a pipe without a writer must not block.
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(known_server_key(&config).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn every_namespace_name_has_its_own_key_file() {
        let folder = Folder::new();
        let long = ["é".repeat(127), "é".repeat(126) + "e", "x".repeat(255)];
        let names = ["", ".", "..", "/etc/passwd", "a b", "a%20b", "shop", "Shop", "\0", "+", "é"];
        let names: Vec<&str> = names.into_iter().chain(long.iter().map(String::as_str)).collect();
        for name in &names {
            assert_eq!(load(&folder.0, name).unwrap(), None);
            let path = store(&folder.0, name, &Secret::new(format!("k{name}")).unwrap()).unwrap();
            assert_eq!((mode(&path), path.parent()), (0o600, Some(&*folder.0.join("keys"))));
        }
        for name in &names {
            assert!(load(&folder.0, name).unwrap().unwrap().matches(&format!("k{name}")));
        }
        assert_eq!(mode(&folder.0.join("keys")), 0o700);
        let other = Secret::new("other").unwrap();
        store(&folder.0, "shop", &other).unwrap();
        assert_eq!(load(&folder.0, "shop").unwrap(), Some(other));
        assert_eq!([0, 1].map(|_| forget(&folder.0, "shop").unwrap()), [true, false]);
        assert_eq!(load(&folder.0, "shop").unwrap(), None);
    }
}
