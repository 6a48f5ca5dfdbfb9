//! What has changed and is not durable yet: row by row, and as the batch that is on its way.

use hashbrown::HashMap;

use crate::hub::Key;
use crate::journal::Mark;
use crate::limits::Limits;
use crate::time::Millis;

/// A row that has changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    /// The last change that somebody waits for; the default if nobody does.
    pub mark: Mark,
    pub bytes: usize,
}

/// What is on its way to the disk.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub upto: Mark,
    /// When the oldest of its changes came.
    pub since: Option<Millis>,
    pub rows: HashMap<Key, Changed>,
    /// States that have ended, and leave with it.
    pub ended: Vec<Key>,
    pub removals: usize,
}

/// How many states are among what has changed and what is on its way.
pub(super) fn states_in(changed: &HashMap<Key, Changed>, flight: Option<&Flight>) -> usize {
    let flying = flight.into_iter().flat_map(|flight| flight.rows.keys());
    let keys = changed.keys().chain(flying.filter(|key| !changed.contains_key(*key)));
    keys.filter(|key| matches!(key, Key::State { .. })).count()
}

/// Limits of what waits for the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub bytes: usize,
    pub changes: usize,
}

impl Bounds {
    pub fn new(limits: &Limits) -> Bounds {
        Bounds { bytes: limits.store_pending_bytes, changes: limits.store_pending_changes }
    }
}
