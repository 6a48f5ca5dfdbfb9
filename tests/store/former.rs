//! Stores of the previous format, whose tables redb made of tuples: a start reads everything in
//! them and converts them to the current format, completely or not at all.

use std::fs;
use std::os::unix::fs::DirBuilderExt;

use crate::common::server::{Dir, Options, Server};
use fws::hub::{Hub, Key, Row, StateKey};
use fws::journal::store::{
    Content, FORMAT, Home, Lost, Opened, Salvage, Seal, SealState, snapshot,
};
use fws::limits::{Limits, SyncPolicy};
use fws::sim::disk::{SimFile, SimFolder};
use fws::time::{Millis, Now, UnixMillis};
use hmac::{Hmac, KeyInit, Mac};
use redb::{Database, TableDefinition};
use sha2::Sha256;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const NAMESPACES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("namespaces");
const GRANTS: TableDefinition<'_, (u64, &str, &str), &[u8]> = TableDefinition::new("grants");
const STATES: TableDefinition<'_, (u64, &str, Option<&str>), &[u8]> =
    TableDefinition::new("states");

const KEY: [u8; 32] = [7; 32];
const AT: UnixMillis = UnixMillis(1_800_000_000_000);
const NOW: Now = Now { mono: Millis(0), unix: AT };

/// The body of a value with its seal, as stored after the tag.
fn sealed(table: u8, ns: u64, names: [Option<&str>; 2], body: &[u8]) -> Vec<u8> {
    let mut mac: Hmac<Sha256> = Hmac::new_from_slice(&KEY).unwrap();
    mac.update(&[table]);
    mac.update(&ns.to_le_bytes());
    for name in names {
        mac.update(&name.map_or(u64::MAX, |name| name.len() as u64).to_le_bytes());
        mac.update(name.unwrap_or_default().as_bytes());
    }
    mac.update(body);
    [&mac.finalize().into_bytes()[..16], body].concat()
}

/// Channels whose lengths need one byte, and three; users of states, or none.
fn places() -> Vec<(String, Option<String>)> {
    let mut places = Vec::new();
    for i in 0..200 {
        let channel = format!("channel {i:03} {}", "é".repeat(i));
        places.extend([(channel.clone(), None), (channel, Some(format!("user {i}")))]);
    }
    places.push(("@c".into(), Some(String::new())));
    places
}

/// A file as the previous version wrote it, cleanly closed or as a kill leaves it.
fn former(is_clean: bool) -> Vec<u8> {
    let file = SimFile::new(Vec::new());
    let db = Database::builder().create_with_backend(file.clone()).unwrap();
    let txn = db.begin_write().unwrap();
    {
        let mut meta = txn.open_table(META).unwrap();
        meta.insert("key", &KEY[..]).unwrap();
        let clock = [AT.0.to_le_bytes(), AT.0.to_le_bytes()].concat();
        let number = |number: u64| number.to_le_bytes().to_vec();
        for (name, body) in
            [("format", number(1)), ("term", number(3)), ("batch", number(9)), ("clock", clock)]
        {
            let value = sealed(0, 0, [Some(name), None], &body);
            meta.insert(name, &*value).unwrap();
        }
        let mut namespaces = txn.open_table(NAMESPACES).unwrap();
        for ns in [1, 300] {
            let name = format!("site {ns}");
            let mut body = (name.len() as u32).to_le_bytes().to_vec();
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(&[0xFF; 12]);
            body.extend_from_slice(&0_u64.to_le_bytes());
            namespaces.insert(ns, &*sealed(1, ns, [None, None], &body)).unwrap();
        }
        let mut grants = txn.open_table(GRANTS).unwrap();
        let mut states = txn.open_table(STATES).unwrap();
        for (channel, user) in &places() {
            let user = user.as_deref();
            let body = [&0_u64.to_le_bytes()[..], b"[1]"].concat();
            let value = sealed(3, 300, [Some(channel), user], &body);
            states.insert((300, &**channel, user), &*value).unwrap();
            if let Some(user) = user {
                let value = sealed(2, 1, [Some(channel), Some(user)], &[]);
                grants.insert((1, &**channel, user), &*value).unwrap();
            }
        }
    }
    txn.commit().unwrap();
    if is_clean {
        drop(db);
        return file.bytes();
    }
    file.bytes()
}

fn rows() -> Vec<(Key, Row<'static>)> {
    let namespace = |ns| {
        let name = format!("site {ns}").into();
        let row = Row::Namespace { name, key: None, replaces: None, old_key: None };
        (Key::Namespace { ns }, row)
    };
    let mut rows = vec![namespace(1), namespace(300)];
    for (channel, user) in places() {
        let state_key = StateKey {
            channel: channel.clone().into(),
            user: user.as_ref().map(|user| user.clone().into()),
        };
        let row = Row::State { text: "[1]".into(), expires: None };
        rows.push((Key::State { ns: 300, state_key }, row));
        if let Some(user) = user {
            let key = Key::Grant { ns: 1, channel: channel.into(), user: user.into() };
            rows.push((key, Row::Grant));
        }
    }
    rows.sort_by(|(one, _), (two, _)| one.cmp(two));
    rows
}

fn rows_in(content: &Content) -> Vec<(Key, Row<'static>)> {
    let mut rows = Vec::new();
    let owned = |row: Row<'_>| match row {
        Row::Namespace { name, .. } => {
            let name = name.into_owned().into();
            Row::Namespace { name, key: None, replaces: None, old_key: None }
        }
        Row::Grant => Row::Grant,
        Row::State { text, expires } => Row::State { text: text.into_owned().into(), expires },
    };
    content.each(&mut |key, row| rows.push((key, owned(row)))).unwrap();
    rows.sort_by(|(one, _), (two, _)| one.cmp(two));
    rows
}

fn folder(bytes: Vec<u8>) -> SimFolder {
    SimFolder::with(Some(bytes), SealState::Seal(Seal { key: KEY, batch: 9 }))
}

fn start(folder: &SimFolder) -> Option<Hub> {
    let mut hub = Hub::new(Limits::default(), AT);
    let opened = Opened::verify(folder.clone(), NOW).ok()?;
    opened.start_stepped(&mut hub, NOW, SyncPolicy::Always, &Limits::default()).ok()?;
    Some(hub)
}

#[test]
fn a_start_converts_all_rows_to_the_current_format() {
    for is_clean in [true, false] {
        let folder = folder(former(is_clean));
        let content = Content::read(folder.read().unwrap()).unwrap();
        assert!(content.format() == 1 && rows_in(&content) == rows());
        assert_eq!((content.meta.term, content.meta.batch), (3, 9));
        let hub = start(&folder).unwrap();
        let (states, grants) = (places().len(), places().len() / 2 + 1);
        assert_eq!(hub.sizes()[0], 2);
        let content = Content::read(folder.read().unwrap()).unwrap();
        assert!(content.format() == FORMAT && rows_in(&content) == rows());
        assert_eq!(content.counts, [2, grants as u64, states as u64]);
        assert_eq!((content.meta.term, content.meta.batch), (4, 9));
        assert_eq!(content.meta.key, KEY, "the seal still knows it");
    }
}

#[test]
fn a_snapshot_has_all_rows_too() {
    for is_clean in [true, false] {
        let file = SimFile::new(former(is_clean));
        let batch = Content::read(file.clone()).unwrap().meta.batch;
        let seal = || Ok(SealState::Seal(Seal { key: KEY, batch }));
        let taken = snapshot(|| Ok(file.clone()), seal, SimFile::default(), || ());
        let content = taken.unwrap_or_else(|why| panic!("{why:?}"));
        assert_eq!((content.format(), rows_in(&content)), (1, rows()), "clean: {is_clean}");
    }
}

#[test]
fn the_log_says_that_the_conversion_is_irreversible() {
    let dir = Dir::new();
    let data = dir.file("data");
    fs::DirBuilder::new().mode(0o700).create(&data).unwrap();
    fs::write(data.join("store.redb"), former(true)).unwrap();
    let options = Options::default();
    let server = Server::start_in(dir, &options);
    let line = server.told("store: converted from format 1 to ");
    assert!(line.ends_with("; earlier versions cannot read it"), "{line}");
    let again = Server::start_in(server.stop(), &options);
    assert!(!again.log().iter().any(|line| line.contains("converted")));
}

#[test]
fn a_kill_at_any_call_of_the_conversion_loses_nothing() {
    let bytes = former(true);
    let (mut kills, mut renewed) = (0, 0);
    for after in 0.. {
        let folder = folder(bytes.clone());
        folder.halt(after);
        let _ = start(&folder);
        if !folder.is_halted() {
            break;
        }
        kills += 1;
        let left = folder.killed();
        let content = Content::read(left.read().unwrap()).unwrap();
        assert!(rows_in(&content) == rows(), "killed after {after} calls");
        renewed += usize::from(content.format() == FORMAT);
        assert!(start(&left).is_some(), "killed after {after} calls");
    }
    assert!(kills > 20 && renewed > 0 && renewed < kills, "{renewed} of {kills}");
}

#[test]
fn a_damaged_former_store_can_be_salvaged() {
    let read = |bytes: &[u8]| {
        let salvage = Salvage::open(|| Ok(SimFile::new(bytes.to_vec())), Some(KEY)).unwrap();
        let mut keys = Vec::new();
        let lost = salvage.each(&mut |key, _| keys.push(key));
        (keys.len(), lost)
    };
    let bytes = former(false);
    assert_eq!(read(&bytes), (rows().len(), Lost::default()));
    let mut bad = bytes.clone();
    // A leaf page with rows, not a branch page.
    let mut pages = (0..bytes.len()).step_by(4096).filter(|at| bytes[*at] == 1).rev();
    let has_row = |at: &usize| bytes[*at..][..4096].windows(11).any(|part| part == b"channel 150");
    let page = pages.find(has_row).unwrap();
    bad[page..][..4096].fill(0);
    let (found, lost) = read(&bad);
    assert!(found * 10 > rows().len() * 8 && lost != Lost::default(), "{found}, {lost:?}");
}
