//! What happens when publications queued for browsers take too much memory: back ends are not read
//! until there is room, and browsers that take nothing are closed, the largest queue first. Called
//! by the switch at the end of each turn, and before each command.

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

/// The state while queued publications take too much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublishPressure {
    since: Millis,
    /// When to scan again.
    pub look_at: Millis,
}

impl Switch {
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
