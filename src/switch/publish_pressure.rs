//! What happens when browsers do not take what is published. One whose queue is too long is closed.
//! When all queues together take too much memory, back ends are not read until there is room, and
//! browsers that take nothing are closed, the largest queue first. Called by the switch at the end
//! of each turn, and before each command.

use std::collections::VecDeque;

use super::Switch;
use crate::edge::Net;
use crate::reason::CloseReason;
use crate::time::Millis;

/// A browser that took something within this time is not closed to free memory.
const IDLE_MS: u64 = 1000;
/// If there is still no room after this time, the largest queue is closed even if its browser takes
/// something: else many that take a little could block all back ends for ever.
const PATIENCE_MS: u64 = 5000;
/// Interval between two scans while no browser may be closed.
const LOOK_MS: u64 = 100;
/// Browsers disconnected in one turn because too much waits for them. That takes ten microseconds
/// each, and a crowd of them exceeds its limit with the same publication.
const DISMISSED_MAX: usize = 32;

/// The state while queued publications take too much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublishPressure {
    since: Millis,
    /// When to scan again.
    pub look_at: Millis,
}

impl Switch {
    /// Disconnects browsers for which too much waits, a bounded number per turn. The others get no
    /// publication any more, and are disconnected in the next turns.
    #[inline]
    pub(super) fn dismiss_slow(&mut self, net: &mut impl Net) {
        if !self.too_slow.is_empty() {
            self.dismiss_some(net);
        }
    }

    fn dismiss_some(&mut self, net: &mut impl Net) {
        while self.dismissed_slow < DISMISSED_MAX
            && let Some(session) = self.too_slow.pop_front()
        {
            self.dismissed_slow += 1;
            let (web, mut site) = self.split();
            web.dismiss(net, &mut site, session, CloseReason::SlowConsumer.into());
        }
        if self.too_slow.is_empty() {
            self.too_slow = VecDeque::new();
        }
    }

    /// Whether back ends must wait. They are read again when a quarter of the room is free.
    #[inline]
    pub(super) fn has_publish_pressure(&mut self, net: &impl Net) -> bool {
        let (queued, max, now) =
            (net.queue_memory().bytes, self.limits.queued_bytes, net.now().mono);
        if self.publish_pressure.is_none() && queued > max {
            self.publish_pressure =
                Some(PublishPressure { since: now, look_at: now.plus(IDLE_MS) });
            self.metrics.floods += 1;
            self.report_soon(net.now());
        } else if self.has_eased(net) {
            self.publish_pressure = None;
        }
        self.publish_pressure.is_some()
    }

    /// Whether a command of that length may be handled all the same: a short one adds little, as
    /// long as no more than an eighth beyond the limit is queued. So what one back end publishes to
    /// slow readers does not silence all others.
    pub(super) fn is_short_enough(&self, net: &impl Net, bytes: usize) -> bool {
        let max = self.limits.queued_bytes;
        bytes <= self.limits.control_frame_unauthenticated_bytes
            && net.queue_memory().bytes <= max.saturating_add(max / 8)
    }

    fn has_eased(&self, net: &impl Net) -> bool {
        let max = self.limits.queued_bytes;
        net.queue_memory().bytes <= max - max / 4
    }

    /// When a turn is wanted at the latest: at once if the output of the last one has made room.
    pub(super) fn publish_pressure_due(&self, net: &impl Net) -> Option<Millis> {
        let publish_pressure = self.publish_pressure?;
        Some(if self.has_eased(net) { Millis(0) } else { publish_pressure.look_at })
    }

    /// Closes the browser with the largest queue, one per turn until there is room, because each
    /// search examines all browsers that do not take what is published.
    pub(super) fn relieve_publish_pressure(&mut self, net: &mut impl Net) {
        if !self.has_publish_pressure(net) {
            return;
        }
        let now = net.now().mono;
        let Some(publish_pressure) =
            self.publish_pressure.filter(|publish_pressure| publish_pressure.look_at <= now)
        else {
            return;
        };
        let is_patient = now < publish_pressure.since.plus(PATIENCE_MS);
        let idle_since = if is_patient { Millis(now.0.saturating_sub(IDLE_MS)) } else { now };
        let socket = net.largest(idle_since);
        let owed = socket.map_or(0, |(_, bytes)| bytes);
        // Searched only if one of them may be the largest.
        let inbox = if net.queue_memory().outside > owed { self.web.largest() } else { None };
        let (web, mut site) = self.split();
        match (socket, inbox.filter(|(_, bytes)| *bytes > owed)) {
            (_, Some((session, _))) => {
                web.dismiss(net, &mut site, session, CloseReason::Largest.into());
            }
            (Some((conn, _)), None) => web.too_slow(net, &mut site, conn, CloseReason::Largest),
            (None, None) => {
                if let Some(publish_pressure) = &mut self.publish_pressure {
                    publish_pressure.look_at = now.plus(LOOK_MS);
                }
            }
        }
        self.has_publish_pressure(net);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::replies::tests::Wire;
    use super::*;
    use crate::address::Address;
    use crate::codec::{control, json, jwt};
    use crate::edge::{ConnId, Door, Handler};
    use crate::journal::MemoryJournal;
    use crate::limits::Limits;

    const KEY: &str = "11111111-1111-4111-8111-111111111111";

    /// A switch whose input all arrives at once.
    struct World {
        switch: Switch,
        net: Wire,
    }

    impl World {
        fn new(limits: Limits) -> World {
            let net = Wire::default();
            let settings = Settings::new(limits, "server", net.now());
            let mut switch = Switch::new(settings, MemoryJournal::default());
            switch.declare("site", KEY).unwrap();
            World { switch, net }
        }

        fn send(&mut self, conn: ConnId, door: Door, input: &[u8]) {
            self.switch.opened(&mut self.net, conn, door, Address::Unix);
            let mut rest = input.to_vec();
            while !rest.is_empty() {
                let used = self.switch.received(&mut self.net, conn, &mut rest).unwrap();
                assert!(used > 0, "it is read at once");
                rest.drain(..used);
            }
        }

        /// Subscribes a browser to `news` that polls once and never again.
        fn subscribe(&mut self, number: usize) {
            let head = format!("POST /socket/0/{number}/xhr");
            let token = jwt::sign(&number.to_string(), KEY, None);
            let auth = format!(r#"{{"event":"auth","data":{{"i":"site","s":"{token}"}}}}"#);
            let subscribe = r#"{"event":"subscribe","data":"news"}"#;
            let body = format!("[{},{}]", json::quote(&auth), json::quote(subscribe));
            for (i, (end, body)) in [("", ""), ("_send", &*body)].into_iter().enumerate() {
                let length = body.len();
                let request = format!(
                    "{head}{end} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                self.send(ConnId::new((2 * number + i) as u32, 0), Door::Web, request.as_bytes());
                self.switch.settle(&mut self.net);
            }
        }
    }

    #[test]
    fn a_crowd_that_does_not_poll_is_ended_over_several_turns() {
        const CROWD: usize = 3 * DISMISSED_MAX + 1;
        let mut world = World::new(Limits { backlog_ms: 0, ..Limits::default() });
        (1..=CROWD).for_each(|number| world.subscribe(number));
        let site = world.switch.hub.namespace("site").unwrap();
        let mut input = Vec::new();
        let auth = format!(r#"{{"action":"auth","name":"site","sKey":"{KEY}"}}"#);
        control::encode_into(&mut input, auth.as_bytes());
        let data = "x".repeat(Limits::default().backlog_bytes / 4);
        let emit = format!(r#"{{"action":"emit","channel":"news","data":"{data}"}}"#);
        (0..5).for_each(|_| control::encode_into(&mut input, emit.as_bytes()));
        for turn in 1..=4 {
            world.switch.tick(&mut world.net);
            if turn == 1 {
                world.send(ConnId::new(0, 0), Door::Control, &input);
            }
            world.switch.settle(&mut world.net);
            let left = CROWD.saturating_sub(turn * DISMISSED_MAX);
            assert_eq!(world.switch.hub.users_in(site, "news").count(), left);
            let is_at_once = world.switch.due(&world.net) == Some(Millis(0));
            assert!(is_at_once || left == 0, "the next turn must not wait");
        }
        world.switch.check_invariants();
    }
}
