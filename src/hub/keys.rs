//! Keys of namespaces: which open something now, which the configuration gives, and by which
//! `rotateKey` has replaced them.
//!
//! The store does not keep a current key that is the configured one, except a key that `rotateKey`
//! made and the configuration then adopted, while there is an old key: a start has to compare it
//! with the configuration, because the old key is valid only beside the key that replaced it.

use std::borrow::Cow;

use super::record::{Before, Key, KeyRef, Row, Undo};
use super::{Hub, Namespace, NsId, Outbox};
use crate::time::UnixMillis;

/// What [`Hub::declare`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// It existed, with this key, or with one by which `rotateKey` has replaced it.
    AsBefore,
    /// It did not exist.
    New,
    /// It existed with another key.
    OtherKey,
    /// It existed, but no key opened it: the configuration had stopped naming it, or the server is
    /// starting.
    Opened,
}

impl Hub {
    /// The keys that open the namespace at the time `at`, the current one first.
    pub fn keys(&self, ns: NsId, at: UnixMillis) -> impl Iterator<Item = &str> {
        let ns = self.namespaces.get(ns);
        let old = ns.and_then(Namespace::old_key).filter(|(_, until)| at < *until);
        let key = ns.and_then(Namespace::current_key);
        key.into_iter().chain(old.map(|(key, _)| key))
    }

    /// A number that stands for the current key of the namespace; `None` if that is gone.
    pub fn key_epoch(&self, ns: NsId) -> Option<u32> {
        self.namespaces.get(ns).map(|ns| ns.key_epoch)
    }

    /// Until when the key that was current at `epoch` opens the namespace: for ever, for a time, or
    /// no longer (0).
    #[inline]
    pub fn key_until(&self, ns: NsId, epoch: u32) -> UnixMillis {
        let Some(space) = self.namespaces.get(ns) else { return UnixMillis(0) };
        match space.key_epoch.wrapping_sub(epoch) {
            0 if space.current_key().is_some() => UnixMillis(u64::MAX),
            1 => space.old_key().map_or(UnixMillis(0), |(_, until)| until),
            _ => UnixMillis(0),
        }
    }

    /// Rises whenever the keys that open an existing namespace may have changed.
    #[inline]
    pub fn key_changes(&self) -> u64 {
        self.key_changes
    }

    /// Declares a namespace that the configuration names, with its configured key. One that exists
    /// is kept, and so is a key by which `rotateKey` has replaced this one, until the configuration
    /// gives another. If that is the very key that `rotateKey` made, the previous one stays valid
    /// for its time. `None` if there is no room for a new namespace.
    pub fn declare(&mut self, name: &str, key: &str, out: &mut impl Outbox) -> Option<Declared> {
        let there = self.namespace(name);
        if let Some(ns) = there.and_then(|ns| self.number(ns)) {
            self.show(KeyRef::Namespace { ns }, out);
        }
        if let Some(space) = there.and_then(|ns| self.namespaces.get_mut(ns)) {
            let was_closed = space.current_key().is_none();
            let was_recorded = space.key.is_some();
            let was_named = std::mem::replace(&mut space.is_named, true);
            self.key_changes += u64::from(!was_named);
            let declared = match space.key.as_deref() {
                _ if was_closed => Declared::Opened,
                Some(before) if before == key => Declared::AsBefore,
                Some(_) if space.configured.as_deref() == Some(key) => Declared::AsBefore,
                _ => Declared::OtherKey,
            };
            if space.configured.as_deref() == Some(key) && was_recorded {
                return Some(declared);
            }
            if space.key.as_deref() != Some(key) {
                (space.key, space.old_key) = (Some(key.into()), None);
                // Connections that came with any other key lose access.
                space.key_epoch = space.key_epoch.wrapping_add(1);
                self.key_changes += 1;
            }
            space.configured = space.key.clone();
            if was_recorded {
                let key = Key::Namespace { ns: space.number };
                out.after_change(Undo::new(key, 0, Before::Kept));
            }
            return Some(declared);
        }
        if self.namespaces.len() >= self.limits.namespaces {
            return None;
        }
        let number = self.take_number();
        let space = Namespace::new(number, name.into(), Some(key.into()));
        let configured = Some(key.into());
        self.insert_namespace(Namespace { configured, is_named: true, ..space });
        out.after_change(Undo::new(Key::Namespace { ns: number }, 0, Before::Kept));
        Some(Declared::New)
    }

    /// Whether [`Hub::declare`] with these arguments would record something: the namespace does not
    /// exist, or has a recorded key that did not replace this one.
    pub fn would_record(&self, name: &str, key: &str) -> bool {
        let space = self.namespace(name).and_then(|ns| self.namespaces.get(ns));
        space.is_none_or(|it| it.key.is_some() && it.configured.as_deref() != Some(key))
    }

    /// The configuration no longer names a namespace: the key that it gave opens nothing, not even
    /// as an old key in its grace period. A key by which `rotateKey` replaced it stays valid, and
    /// all contents stay. Returns whether the namespace has lost its last valid key.
    pub fn undeclare(&mut self, name: &str) -> bool {
        let space = self.namespace(name).and_then(|ns| self.namespaces.get_mut(ns));
        let Some(space) = space else { return false };
        let was_open = space.current_key().is_some();
        // Not recorded: the next start finds out by itself.
        self.key_changes += u64::from(std::mem::replace(&mut space.is_named, false));
        was_open && space.current_key().is_none()
    }

    /// Restores the previous keys of a namespace, unless the configuration has meanwhile given it
    /// another key, or adopted the current one.
    pub(super) fn undo_keys(&mut self, ns: NsId, before: Keys) {
        let is_last = |space: &&mut Namespace| {
            let is_next = space.key_epoch == before.epoch.wrapping_add(1);
            is_next && space.key != space.configured
        };
        if let Some(space) = self.namespaces.get_mut(ns).filter(is_last) {
            (space.key, space.old_key, space.key_epoch) =
                (before.key, before.old_key, before.epoch);
            space.configured = before.configured;
            self.key_changes += 1;
        }
    }
}

/// Former keys of a namespace.
#[derive(Debug)]
pub(super) struct Keys {
    key: Option<Box<str>>,
    old_key: Option<(Box<str>, UnixMillis)>,
    configured: Option<Box<str>>,
    epoch: u32,
}

impl Namespace {
    /// Whether `key`, one of its own, is valid: a configured one only while `is_named`.
    fn opens(&self, key: &str) -> bool {
        self.is_named || self.configured.as_deref() != Some(key)
    }

    /// The key that opens it now, if there is one.
    pub(super) fn current_key(&self) -> Option<&str> {
        self.key.as_deref().filter(|key| self.opens(key))
    }

    /// The previous key, and until when it is valid beside the current one.
    fn old_key(&self) -> Option<(&str, UnixMillis)> {
        let (key, until) = self.old_key.as_ref().filter(|_| self.current_key().is_some())?;
        self.opens(key).then_some((key, *until))
    }

    /// The row to be recorded.
    pub(super) fn row(&self) -> Row<'_> {
        let is_kept = self.key != self.configured || self.old_key.is_some();
        let key = self.key.as_deref().filter(|_| is_kept);
        let replaces = self.configured.as_deref().filter(|_| is_kept);
        Row::Namespace {
            name: Cow::Borrowed(&self.name),
            key: key.map(Cow::Borrowed),
            replaces: replaces.map(Cow::Borrowed),
            old_key: self.old_key.as_ref().map(|(key, until)| (Cow::Borrowed(&**key), *until)),
        }
    }

    /// An undo that restores its present keys.
    pub(super) fn undo(&self) -> Undo {
        let (key, old_key, epoch) = (self.key.clone(), self.old_key.clone(), self.key_epoch);
        let before =
            Before::Keys(Keys { key, old_key, configured: self.configured.clone(), epoch });
        Undo::new(Key::Namespace { ns: self.number }, 0, before)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Outcome};
    use super::*;
    use crate::limits::Limits;

    const AT: UnixMillis = UnixMillis(5);

    #[derive(Default)]
    struct Undos(Vec<Undo>);

    impl Outbox for Undos {
        fn after_change(&mut self, undo: Undo) {
            self.0.push(undo);
        }
    }

    struct World {
        hub: Hub,
        ns: NsId,
        out: Undos,
    }

    impl World {
        /// A namespace that the configuration names, with the key `file`.
        fn new() -> World {
            let (mut hub, mut out) = (Hub::new(Limits::default(), AT), Undos::default());
            assert_eq!(hub.declare("a", "file", &mut out), Some(Declared::New));
            let ns = hub.namespace("a").unwrap();
            World { hub, ns, out }
        }

        fn rotate(&mut self, key: &str, grace_ms: u64) {
            let change = Change::Rotate { ns: self.ns, key: key.into(), grace_ms };
            let done = self.hub.apply(AT, &change, None, &mut self.out);
            assert_eq!(done, Ok(Outcome::Key(key.into())));
        }

        fn undo(&mut self) {
            let undo = self.out.0.pop().unwrap();
            self.hub.undo(undo, &mut Undos::default());
        }

        fn declare(&mut self, key: &str) -> Declared {
            let (is_recorded, mut out) = (self.hub.would_record("a", key), Undos::default());
            let declared = self.hub.declare("a", key, &mut out).unwrap();
            assert_eq!(is_recorded, !out.0.is_empty());
            assert!(!self.hub.would_record("a", key), "it is recorded once");
            declared
        }

        fn keys(&self) -> Vec<&str> {
            self.hub.keys(self.ns, AT).collect()
        }

        /// The hub that a start restores from the store.
        fn restart(&self) -> World {
            let number = self.hub.number(self.ns).unwrap();
            let row = self.hub.row(KeyRef::Namespace { ns: number }).unwrap();
            let mut hub = Hub::new(Limits::default(), AT);
            assert!(hub.restore(Key::Namespace { ns: number }, row));
            let ns = hub.namespace("a").unwrap();
            World { hub, ns, out: Undos::default() }
        }
    }

    #[test]
    fn configuring_a_rotated_key_keeps_the_old_one_valid() {
        let mut world = World::new();
        world.rotate("new", 10);
        let epoch = world.hub.key_epoch(world.ns).unwrap();
        assert_eq!(world.declare("new"), Declared::AsBefore);
        assert_eq!(world.keys(), ["new", "file"]);
        assert_eq!(world.hub.key_until(world.ns, epoch), UnixMillis(u64::MAX));
        assert_eq!(world.hub.key_until(world.ns, epoch - 1), AT.plus(10));
        let mut again = world.restart();
        assert!(again.keys().is_empty(), "it is not configured yet");
        assert_eq!(again.declare("new"), Declared::Opened);
        assert_eq!(again.keys(), ["new", "file"]);
        // Another key ends both, in the same run or after a start.
        for mut world in [world.restart(), again] {
            world.declare("third");
            assert_eq!(world.keys(), ["third"]);
        }
    }

    #[test]
    fn a_key_removed_from_the_configuration_stays_invalid_after_an_undo() {
        let mut world = World::new();
        world.rotate("new", 10);
        assert!(!world.hub.undeclare("a"), "the rotated key still opens it");
        assert_eq!(world.keys(), ["new"]);
        assert_eq!(world.restart().keys(), ["new"]);
        let epoch = world.hub.key_epoch(world.ns).unwrap();
        assert_eq!(world.hub.key_until(world.ns, epoch - 1), UnixMillis(0));
        world.undo();
        assert!(world.keys().is_empty());
        assert_eq!(world.hub.key_until(world.ns, epoch - 1), UnixMillis(0));
        assert_eq!(world.declare("file"), Declared::Opened);
        assert_eq!(world.keys(), ["file"]);
    }

    #[test]
    fn rotating_a_namespace_without_keys_leaves_no_old_key_valid() {
        for has_restarted in [false, true] {
            let mut world = World::new();
            assert!(world.hub.undeclare("a"));
            if has_restarted {
                world = world.restart();
            }
            world.rotate("new", 10);
            assert_eq!(world.keys(), ["new"]);
            world.undo();
            assert!(world.keys().is_empty(), "nor does the undo restore one");
            world.rotate("new", 10);
            assert_eq!(world.declare("file"), Declared::OtherKey);
            assert_eq!(world.keys(), ["file"]);
        }
    }

    #[test]
    fn a_configured_key_that_replaces_one_set_by_a_command_is_recorded() {
        let mut world = World::new();
        assert!(world.hub.would_record("b", "file"), "there is no such namespace");
        world.declare("file");
        // The configuration may still give it the key that it had.
        world.hub.apply(AT, &Change::Remove { ns: world.ns }, None, &mut world.out).unwrap();
        assert!(world.hub.would_record("a", "file"));
        let register = Change::Register { name: "a".into(), key: "new".into() };
        world.hub.apply(AT, &register, None, &mut world.out).unwrap();
        world.ns = world.hub.namespace("a").unwrap();
        assert!(world.hub.would_record("a", "file"));
        assert_eq!(world.declare("file"), Declared::OtherKey);
    }

    #[test]
    fn undoing_a_rotation_keeps_a_key_configured_since() {
        for key in ["new", "third"] {
            let mut world = World::new();
            world.rotate("new", 10);
            world.declare(key);
            world.undo();
            assert_eq!(world.keys()[0], key);
        }
    }
}
