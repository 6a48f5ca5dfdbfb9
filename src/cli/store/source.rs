//! What `check` and `export` read: the store of a folder that nobody uses, under its lock; beside a
//! server, a snapshot of it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{holder, unopened};
use crate::cli::{Call, Stop};
use crate::journal::store::{
    Beside, Content, DAMAGED_ADVICE, Damage, Disk, Folder, Home, NoSnapshot, Opened, snapshot,
};
use crate::time::Now;

/// Where the copy of a snapshot is written, unless `TMPDIR` says otherwise. Not `/tmp`, which is in
/// memory on many machines.
const SCRATCH: &str = "/var/tmp";
/// How long to wait for a server that is about to write something.
const PAUSE: Duration = Duration::from_millis(20);

/// Rows that do not change any more.
pub(super) struct Source {
    /// The file of the store.
    pub path: PathBuf,
    rows: Rows,
}

enum Rows {
    Stopped(Box<Opened>),
    Running(Box<Content>),
}

impl Source {
    /// Verifies the store of a folder without changing anything.
    pub fn open(call: &Call, data: &Path, now: Now) -> Result<Source, Stop> {
        let beside = Beside(data.into());
        let path = beside.store_path();
        let rows = match Folder::take_existing(data, &holder(call, now)) {
            Ok(folder) => {
                let opened = Opened::look(folder).map_err(|e| unopened(call, data, e))?;
                Rows::Stopped(Box::new(opened.map_err(|damage| damaged(&path, &damage))?))
            }
            Err(e) if e.kind() == ErrorKind::ResourceBusy => {
                let content = read_beside(call, data, &beside, &e.to_string())?;
                Rows::Running(Box::new(content))
            }
            Err(e) => return Err(unopened(call, data, e)),
        };
        Ok(Source { path, rows })
    }

    pub fn content(&self) -> &Content {
        match &self.rows {
            Rows::Stopped(opened) => opened.content(),
            Rows::Running(content) => content,
        }
    }

    /// Returns the path of the seal if it is damaged, which does no harm.
    pub fn damaged_seal(&self) -> Option<PathBuf> {
        match &self.rows {
            Rows::Stopped(opened) => opened.warning.as_ref().map(|_| opened.folder().seal_path()),
            Rows::Running(_) => None,
        }
    }

    /// The error for a store that is not as it was written.
    pub fn damaged(&self, damage: &Damage) -> Stop {
        damaged(&self.path, damage)
    }
}

/// Takes a snapshot of the store of a folder that another process, named in `busy`, has locked.
fn read_beside(call: &Call, data: &Path, beside: &Beside, busy: &str) -> Result<Content, Stop> {
    let folder = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
    let folder = PathBuf::from(folder.unwrap_or(SCRATCH.into()));
    let unwritten = |e: &std::io::Error| {
        let what = format!("its store cannot be copied to {}: {e}", folder.display());
        Stop::Failed(format!("{busy}. Meanwhile {what}; name a folder with room for it in TMPDIR"))
    };
    let scratch = Disk::unnamed(&folder).map_err(|e| unwritten(&e))?;
    let pause = || std::thread::park_timeout(PAUSE);
    let taken = snapshot(|| beside.read(), || beside.seal_state(), scratch, pause);
    taken.map_err(|why| match why {
        NoSnapshot::Unread(e) => unopened(call, data, e),
        NoSnapshot::Unwritten(e) => unwritten(&e),
        NoSnapshot::Damaged(damage) => damaged(&beside.store_path(), &damage),
        NoSnapshot::Busy(why) => Stop::Failed(format!(
            "{busy}. Meanwhile its store cannot be read: {why}. Try again, or stop it"
        )),
    })
}

fn damaged(path: &Path, damage: &Damage) -> Stop {
    let path = path.display();
    Stop::Failed(format!("the store {path} is damaged: {damage}. {DAMAGED_ADVICE}"))
}
