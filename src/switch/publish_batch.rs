//! Gathers what a back end publishes to all of one channel, one message right after the other: the
//! members are walked once for all of it, and each gets one frame. Nothing may happen to the
//! channel in between: [`Switch::hand_out`] runs before anything else is carried out, and at the
//! end of each read from the back end.

use super::Switch;
use super::command::Refused;
use super::replies::WORK_BYTES;
use crate::codec::sockjs::EncodedLen;
use crate::edge::Net;
use crate::hub::{Change, ChannelId, NsId, StateKeyRef};
use crate::publication::{Publication, Run, Ways};
use crate::time::UnixMillis;

/// Messages gathered for all members of one channel.
#[derive(Debug, Default)]
pub(super) struct PublishBatch {
    /// The channel, while messages are gathered for it.
    channel: Option<ChannelId>,
    /// Its namespace and name, as commands give them.
    ns: Option<NsId>,
    name: String,
    run: Run,
}

impl PublishBatch {
    /// Whether nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.channel.is_none()
    }

    /// Whether this change may be carried out before the gathered messages are delivered: only if
    /// it is one more message to the same channel, and there is room for it.
    fn goes_on_with(&self, change: &Change) -> bool {
        let is_more = |(ns, name, data): (NsId, &str, &str)| {
            self.ns == Some(ns) && self.name == name && self.run.has_room(data)
        };
        self.is_empty() || change.is_for_all_in().is_some_and(is_more)
    }

    /// Takes a message to all of a channel. Refuses a long one: gathering gains nothing, and would
    /// copy it once more.
    pub fn gather(&mut self, ns: NsId, channel: ChannelId, name: &str, data: &str) -> bool {
        if self.is_empty() {
            self.run.begin(name);
            if !self.run.has_room(data) {
                return false;
            }
            (self.channel, self.ns) = (Some(channel), Some(ns));
            self.name.clear();
            self.name.push_str(name);
        }
        debug_assert!(self.channel == Some(channel) && self.run.has_room(data));
        self.run.push(data);
        true
    }
}

impl Switch {
    /// Refuses a publication that would take too much memory in all wire forms in use. A bound from
    /// its length is checked first; only above that are the escapes counted.
    #[inline]
    pub(super) fn check_publication(&self, channels: usize, data: &str) -> Result<(), Refused> {
        let bytes_max = Ways::bytes_max(data.len()).saturating_mul(channels);
        if bytes_max <= self.limits.publication_bytes {
            return Ok(());
        }
        self.check_forms(channels, data)
    }

    fn check_forms(&self, channels: usize, data: &str) -> Result<(), Refused> {
        let max = self.limits.publication_bytes;
        if self.web.ways().bytes(data).saturating_mul(channels) <= max {
            return Ok(());
        }
        Err(self.too_much())
    }

    /// Refuses a state that would take too much memory for a single browser that subscribes, over
    /// any transport. A push adds to the state that is there.
    pub(super) fn check_state(
        &mut self,
        (ns, state_key): (NsId, StateKeyRef<'_>),
        data: &str,
        is_push: bool,
        at: UnixMillis,
    ) -> Result<(), Refused> {
        let max = self.limits.publication_bytes;
        if self.limits.state_bytes.saturating_mul(2 * EncodedLen::FACTOR_MAX) <= max {
            return Ok(());
        }
        let held =
            is_push.then(|| self.hub.state(ns, state_key.channel, state_key.user, at)).flatten();
        let parts = [held.unwrap_or_default(), data];
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length.saturating_mul(2 * EncodedLen::FACTOR_MAX) <= max {
            return Ok(());
        }
        let bytes: usize = parts.iter().map(|part| EncodedLen::of(part).on_its_way()).sum();
        // Counting the escapes of a long state takes time.
        self.work += length / WORK_BYTES;
        if bytes <= max { Ok(()) } else { Err(self.too_much()) }
    }

    fn too_much(&self) -> Refused {
        let max = self.limits.publication_bytes;
        let reason = format!("Too much data as browsers take it, at most {max} bytes in all forms");
        Refused { code: 300, reason: reason.into() }
    }

    /// Delivers the gathered messages, unless this change adds to them.
    pub(super) fn hand_out_before(&mut self, net: &mut impl Net, change: &Change) {
        if !self.publish_batch.goes_on_with(change) {
            self.hand_out(net);
        }
    }

    /// Delivers the gathered messages.
    pub(super) fn hand_out(&mut self, net: &mut impl Net) {
        let Some(channel) = self.publish_batch.channel.take() else { return };
        let publication = Publication::of(&self.publish_batch.run);
        self.hub.audience(channel).for_each(|route| {
            self.work += 1;
            if self.web.publish(net, route, &publication) {
                self.too_slow.push_back(route);
            }
        });
        self.publish_batch.run.clear();
        self.dismiss_slow(net);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publication::{Form, RUN_BYTES_MAX};

    fn emit<'a>(ns: NsId, channel: &'a str, data: &'a str, user: Option<&'a str>) -> Change<'a> {
        let (channels, user) = (vec![channel.into()].into(), user.map(Into::into));
        Change::Emit { ns, channels, data: data.into(), user, except: None }
    }

    #[test]
    fn only_emits_to_the_same_channel_join_a_batch() {
        let (here, there) = (NsId::new(0, 0), NsId::new(0, 1));
        let mut batch = PublishBatch::default();
        let long = "1".repeat(RUN_BYTES_MAX);
        assert!(!batch.gather(here, ChannelId::new(7, 7), "news", &long), "too long to gain by it");
        assert!(batch.is_empty() && batch.goes_on_with(&emit(there, "other", "1", None)));
        assert!(batch.gather(here, ChannelId::new(7, 7), "news", "1"));
        assert!(batch.goes_on_with(&emit(here, "news", "2", None)));
        assert!(!batch.goes_on_with(&emit(here, "other", "2", None)));
        assert!(!batch.goes_on_with(&emit(there, "news", "2", None)));
        assert!(!batch.goes_on_with(&emit(here, "news", "2", Some("one"))));
        assert!(!batch.goes_on_with(&emit(here, "news", &long, None)), "there is no room");
        assert!(!batch.goes_on_with(&Change::Disconnect { ns: here, user: "one".into() }));
        assert!(batch.gather(here, ChannelId::new(7, 7), "news", "2"));
        let frame = Publication::of(&batch.run).frame(Form::Raw).clone();
        let each = ["1", "2"].map(|data| Publication::new("news", data).frame(Form::Raw).clone());
        assert_eq!(*frame, *[&*each[0], &*each[1]].concat());
    }
}
