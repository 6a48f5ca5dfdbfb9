//! Long emits: an `emit` to several channels that delivers more than one turn has room for. It
//! continues channel by channel, some in each turn, as if it had been several commands in a row.
//! Its back end gets the reply after the last channel and is not read before; others are. Called
//! where such a command arrives, and at the end of each turn.

use std::borrow::Cow;

use hashbrown::HashSet;

use super::command::{Channels, EmitOptions};
use super::control::{Answer, Controller};
use super::intake::Room;
use super::{Part, Switch, Waiter};
use crate::edge::{ConnId, Net};
use crate::hub::{Change, NsId, Outcome, Refusal, Route};
use crate::journal::{Mark, Proposal};
use crate::uuid::Uuid;

/// All emits together remember the reached routes of one part in so many of the limit on
/// subscriptions; beyond that they are finished one after the other.
const REACHED_PART: usize = 4;

/// The rest of an emit.
#[derive(Debug)]
pub(super) struct LongEmit {
    /// The connection that waits for the reply; it may be gone.
    conn: ConnId,
    pub ns: NsId,
    /// The names of all channels, concatenated, and where each ends.
    names: String,
    ends: Vec<usize>,
    /// How many of the channels are done.
    pub done: usize,
    data: Box<str>,
    user: Option<Box<str>>,
    except: Option<Uuid>,
    /// The routes reached, if the command asks for their number.
    pub reached: Option<HashSet<Route>>,
    /// The memory that the command's frame has reserved, held until the emit is done.
    pub room: Option<Room>,
}

impl LongEmit {
    fn name(&self, number: usize) -> Option<&str> {
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before));
        self.names.get(start.copied().unwrap_or(0)..*self.ends.get(number)?)
    }

    /// The emit to the channels from `done` up to `upto`, which is excluded.
    fn part(&self, upto: usize) -> Change<'_> {
        let names = (self.done..upto).filter_map(|number| self.name(number));
        Change::Emit {
            ns: self.ns,
            channels: names.map(Cow::Borrowed).collect::<Vec<_>>().into(),
            data: Cow::Borrowed(&self.data),
            user: self.user.as_deref().map(Cow::Borrowed),
            except: self.except,
        }
    }
}

impl Switch {
    /// Whether the commands of this turn have used up its budget.
    pub(super) fn has_worked_enough(&self) -> bool {
        self.work >= self.limits.deliveries_per_turn
    }

    /// Whether an emit to several channels exceeds the budget of one turn.
    pub(super) fn is_long(&self, ns: NsId, channels: &[Cow<'_, str>], user: Option<&str>) -> bool {
        if channels.len() < 2 {
            return false;
        }
        let audience = |channel: &Cow<'_, str>| self.hub.audience_max(ns, channel, user);
        let count = match user {
            // The bound is the same for each channel.
            Some(_) => channels.len() * channels.first().map_or(0, audience),
            None => channels.iter().map(audience).sum(),
        };
        count > self.limits.deliveries_per_turn
    }

    /// Begins a long emit: its first part goes out at the end of this turn.
    pub(super) fn begin_long(
        &mut self,
        conn: ConnId,
        controller: &mut Controller,
        (ns, channels, data): (NsId, &Channels<'_>, &str),
        EmitOptions { user, except, count }: &EmitOptions<'_>,
    ) -> Answer {
        let mut end = 0;
        let end_of = |name: &Cow<'_, str>| {
            end += name.len();
            end
        };
        self.metrics.long_emits += 1;
        controller.has_long_emit = true;
        controller.counts = *count;
        self.long_emits.push_back(LongEmit {
            conn,
            ns,
            names: channels.concat(),
            ends: channels.iter().map(end_of).collect(),
            done: 0,
            data: data.into(),
            user: user.as_deref().map(Into::into),
            except: *except,
            reached: count.then(HashSet::new),
            room: controller.room.take(),
        });
        None
    }

    /// Continues long emits, round-robin, within the budget of this turn, but with one channel at
    /// least; not while publications take too much memory.
    pub(super) fn continue_long_emits(&mut self, net: &mut impl Net) {
        let mut is_first = true;
        while (std::mem::take(&mut is_first) || !self.has_worked_enough())
            && !self.has_publish_pressure(net)
            && let Some(long_emit) = self.long_emits.pop_front()
        {
            self.continue_some(net, long_emit);
        }
    }

    fn continue_some(&mut self, net: &mut impl Net, mut long_emit: LongEmit) {
        let room = self.limits.deliveries_per_turn.saturating_sub(self.work);
        let (mut upto, mut count) = (long_emit.done, 0);
        while let Some(name) = long_emit.name(upto) {
            count += self.hub.audience_max(long_emit.ns, name, long_emit.user.as_deref());
            if upto > long_emit.done && count > room {
                break;
            }
            upto += 1;
        }
        let (at, mut reached) = (self.at(net.now()), long_emit.reached.take());
        let (is_first, part) = (long_emit.done == 0, long_emit.part(upto));
        let mut ticket = None;
        let result = match self.hub.check(&part, at).map(|_| self.journal.propose(at, &part)) {
            Ok(Proposal::Now) => {
                let whom = Part { is_first, reached: reached.as_mut() };
                Some(self.apply(net, (at, &part), None, whom))
            }
            Ok(Proposal::Later(later)) => {
                ticket = Some(later);
                None
            }
            Ok(Proposal::Refused) => None,
            Err(refusal) => Some(Err(refusal)),
        };
        (long_emit.done, long_emit.reached) = (upto, reached);
        if let Some(ticket) = ticket {
            self.waiting.insert(ticket, Waiter::LongEmit(Box::new(long_emit), is_first));
            return;
        }
        self.continue_long_emit(net, long_emit, result, Mark::default());
    }

    /// How many routes all queued emits remember as reached.
    fn reached(&self) -> usize {
        self.long_emits
            .iter()
            .filter_map(|long_emit| long_emit.reached.as_ref())
            .map(HashSet::len)
            .sum()
    }

    /// Continues after a part that was delivered or failed: queues the rest, or replies if there is
    /// none or the part failed.
    pub(super) fn continue_long_emit(
        &mut self,
        net: &mut impl Net,
        long_emit: LongEmit,
        result: Option<Result<Outcome, Refusal>>,
        mark: Mark,
    ) {
        let result = match result {
            Some(Ok(_)) if long_emit.done < long_emit.ends.len() => {
                let reached = self.reached() + long_emit.reached.as_ref().map_or(0, HashSet::len);
                return match reached > self.limits.subscriptions / REACHED_PART {
                    // One emit after the other until there is less to remember.
                    true => self.long_emits.push_front(long_emit),
                    false => self.long_emits.push_back(long_emit),
                };
            }
            Some(Ok(_)) => Some(Ok(Outcome::Reached(long_emit.reached.map_or(0, |all| all.len())))),
            failed => failed,
        };
        self.answer_late(net, long_emit.conn, result, mark);
    }
}

#[cfg(test)]
mod tests {
    use super::super::replies::tests::Wire;
    use super::super::{Settings, WHOLE};
    use super::*;
    use crate::address::ClientPrefix;
    use crate::hub::PeerId;
    use crate::journal::MemoryJournal;
    use crate::limits::Limits;
    use crate::publication::Form;
    use crate::time::{Millis, Now, UnixMillis};

    const NOW: Now = Now { mono: Millis(0), unix: UnixMillis(0) };

    /// A switch with one namespace and small limits.
    fn switch(subscriptions: usize) -> (Switch, NsId) {
        let limits = Limits { subscriptions, deliveries_per_turn: 10, ..Limits::default() };
        let settings = Settings::new(limits, "server", NOW);
        let mut switch = Switch::new(settings, MemoryJournal::default());
        switch.declare("site", "key").unwrap();
        let ns = switch.hub.namespace("site").unwrap();
        (switch, ns)
    }

    type Small = (Switch, NsId);

    /// Connects `count` peers of a user, each subscribed to these channels.
    fn come((switch, ns): &mut Small, count: u32, user: &str, channels: &[&str]) -> Vec<PeerId> {
        let one = |number| {
            let route = Route::of_socket(ConnId::new(number, 0), Form::Raw);
            let cid = Uuid::from_random([number as u8; 16]);
            let peer = switch.hub.connect(*ns, user, cid, route).unwrap();
            for channel in channels {
                switch.hub.subscribe(peer, channel, NOW.unix).unwrap();
            }
            peer
        };
        (0..count).map(one).collect()
    }

    /// Lets `count` back ends emit to these channels. Returns their replies and how many turns it
    /// took.
    fn emit(
        (switch, ns): &mut Small,
        count: u32,
        channels: &[&str],
        options: &EmitOptions<'_>,
        mut each: impl FnMut(&Switch),
    ) -> (Vec<Vec<u8>>, usize) {
        let channels = Channels::Many(channels.iter().map(|name| (*name).into()).collect());
        for slot in 100..100 + count {
            let (conn, mut controller) =
                (ConnId::new(slot, 0), Controller::new(ClientPrefix::Unix));
            assert!(switch.is_long(*ns, &channels, options.user.as_deref()));
            switch.begin_long(conn, &mut controller, (*ns, &channels, "1"), options);
            switch.connections.add_controller(conn, controller);
        }
        let (mut net, mut turns) = (Wire::default(), 0);
        while !switch.long_emits.is_empty() {
            switch.work = 0;
            switch.continue_long_emits(&mut net);
            each(switch);
            turns += 1;
        }
        (net.sent.into_values().collect(), turns)
    }

    #[test]
    fn recipients_remembered_by_long_emits_are_bounded() {
        const REMEMBERED: usize = 100;
        let mut small = switch(REMEMBERED * REACHED_PART);
        come(&mut small, 60, "one", &["a", "b"]);
        let options = EmitOptions { count: true, ..EmitOptions::default() };
        let (said, turns) = emit(&mut small, 10, &["a", "b"], &options, |switch| {
            assert!(switch.reached() <= REMEMBERED + 60, "{}", switch.reached());
        });
        assert_eq!((turns, said.len()), (20, 10));
        assert!(said.iter().all(|said| said.ends_with(b"\"count\":60}\0")));
    }

    #[test]
    fn members_examined_count_as_work_even_if_none_is_reached() {
        let mut small = switch(10_000);
        let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        come(&mut small, 1, "other", &names);
        come(&mut small, 5, "one", &["elsewhere"]);
        let options = EmitOptions { user: Some("one".into()), ..EmitOptions::default() };
        let (said, turns) = emit(&mut small, 3, &names, &options, |_| {});
        assert_eq!((said.len(), turns), (3, 3 * 50 * 5 / 10));
        // Peers that have left and are still in the channel count as well.
        let crowd = come(&mut small, 50, "crowd", &["a"]);
        let (switch, ns) = &mut small;
        crowd.into_iter().for_each(|peer| switch.hub.disconnect(peer));
        // Channels without any subscriber count, too.
        for names in [vec!["a"], vec!["x"; 50]] {
            let channels: Vec<Cow<'_, str>> = names.into_iter().map(Cow::Borrowed).collect();
            let (channels, data) = (channels.into(), "1".into());
            let change = Change::Emit { ns: *ns, channels, data, user: None, except: None };
            switch.work = 0;
            let done = switch.apply(&mut Wire::default(), (NOW.unix, &change), None, WHOLE);
            assert_eq!(done, Ok(Outcome::Reached(0)));
            assert!(switch.work >= 50, "{}", switch.work);
        }
    }
}
