//! A hung disk with a full queue of changes, and back ends that send commands meanwhile.

use super::World;
use crate::codec::control;
use crate::edge::Door;
use crate::reason::CloseReason;
use crate::sim::client::Client;
use crate::sim::intent::{Command, Intent, Store};
use crate::sim::judge::Role;
use crate::sim::storage::Storage;

/// More changes than may wait for the disk.
const CHANGES: usize = 26;

impl<G: Storage> World<G> {
    /// Hangs the disk, lets one back end fill the queue of changes, and lets all of them, and
    /// sometimes a new one, send all kinds of commands meanwhile.
    pub(super) fn disk_wait(&mut self) {
        let now = self.net.now.mono;
        let Some(i) = self.settled_controller() else { return };
        let Some(store) = self.storage.store() else { return };
        let is_easy = store.wait_ms().is_some();
        let Some(ms) = store.hang(&mut self.net.prng, now) else { return };
        self.note(|| format!("the disk hangs for {ms} ms, and there is much to be kept"));
        if self.net.prng.one_in(2) {
            // Some of these commands are half there when the others come.
            self.ask();
        }
        let mut writer = self.clients.remove(i);
        self.fill(&mut writer, is_easy);
        self.clients.push(writer);
        if self.net.prng.one_in(2) {
            self.drive();
        }
        if self.net.prng.one_in(4) {
            let unauthenticated = Client::new(Door::Control, &mut self.net.prng);
            self.clients.push(unauthenticated);
        }
        for _ in 0..=self.net.prng.below(3) {
            self.ask();
        }
    }

    /// Fills the queue of changes from one back end: with grants only if `is_easy`, where states
    /// are acknowledged before they are durable and so do not wait.
    fn fill(&mut self, client: &mut Client, is_easy: bool) {
        let line = client.conn.and_then(|conn| self.judge.lines.get(&conn));
        let Some(Role::Controller(controller)) = line.map(|line| &line.role) else { return };
        let space = controller.auth.as_ref().and_then(|it| self.judge.record.spaces.get(&it.0));
        let grant = space.and_then(|space| space.grants.iter().next().cloned());
        let is_there = grant.is_some();
        let (channel, user) = grant.unwrap_or_else(|| ("#p".into(), "1".into()));
        let is_of_grants = is_easy || self.net.prng.one_in(2);
        for number in 0..CHANGES + self.net.prng.below(8) {
            let (channel, user) = (channel.clone(), user.clone());
            let (command, body) = if is_of_grants {
                let is_withdrawn = (number % 2 == 0) == is_there;
                let action = if is_withdrawn { "unsubscribe" } else { "subscribe" };
                let body = serde_json::json!({"action": action, "channel": channel,
                    "params": {"userId": user}});
                (Command::Grant { channel, user, is_withdrawn }, body.to_string())
            } else {
                self.serial += 1;
                let data = self.serial.to_string();
                let body = format!(r#"{{"action":"set","channel":"b","data":{data}}}"#);
                let (is_push, is_emitted, user, ttl_seconds) = (false, false, None, None);
                let channel = "b".into();
                (
                    Command::Store(Store { is_push, channel, user, data, ttl_seconds, is_emitted }),
                    body,
                )
            };
            let frame = control::encode(body.as_bytes());
            client.write(&mut self.judge, &frame, Intent::Command(command));
        }
    }

    /// Lets each back end send something, now and then an invalid command.
    fn ask(&mut self) {
        for _ in 0..self.clients.len() {
            let mut client = self.clients.remove(0);
            match self.net.prng.below(16) {
                _ if client.door != Door::Control => {}
                0 => {
                    let frame = control::encode(b"{\"action\":");
                    client.write(&mut self.judge, &frame, Intent::NotJson);
                }
                1 => {
                    let length = *self.net.prng.pick(&[0_i32, -1, i32::MIN, i32::MAX]);
                    let intent = Intent::Violation(CloseReason::ControlFraming);
                    client.write(&mut self.judge, &length.to_le_bytes(), intent);
                }
                _ => self.controller_speaks(&mut client),
            }
            self.clients.push(client);
        }
    }
}
