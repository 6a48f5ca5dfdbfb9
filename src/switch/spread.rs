//! An `emit` to many channels that has more to hand out than one turn has room for. It goes on
//! channel by channel, some in each turn, as if it had been several, one right behind the other.
//! Its back end has the reply when the last of them has gone out, and is not heard before; others
//! are. Called where such a command comes, and at the end of each turn.

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

/// What is left of an emit.
#[derive(Debug)]
pub(super) struct Spread {
    /// Who waits for the reply, if it is still there.
    conn: ConnId,
    ns: NsId,
    /// The names of all channels, one behind the other, and where each ends.
    names: String,
    ends: Vec<usize>,
    /// So many of them have been handed out to.
    pub done: usize,
    data: Box<str>,
    user: Option<Box<str>>,
    except: Option<Uuid>,
    /// Who has been reached, if that is asked for.
    pub reached: Option<HashSet<Route>>,
    /// What the command has reserved it keeps for as long as it is here.
    pub room: Option<Room>,
}

impl Spread {
    fn name(&self, number: usize) -> Option<&str> {
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before));
        self.names.get(start.copied().unwrap_or(0)..*self.ends.get(number)?)
    }

    /// The emit to the channels up to that one to which it has not gone out.
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
    /// Whether one turn has no room for all of an emit.
    pub(super) fn is_long(&self, ns: NsId, channels: &[Cow<'_, str>], user: Option<&str>) -> bool {
        if channels.len() < 2 {
            return false;
        }
        let audience = |channel: &Cow<'_, str>| self.hub.audience_max(ns, channel, user);
        let count = match user {
            // As many in each.
            Some(_) => channels.len() * channels.first().map_or(0, audience),
            None => channels.iter().map(audience).sum(),
        };
        count > self.limits.deliveries_per_turn
    }

    /// Begins with an emit that is long: the end of this turn has the first part of it.
    pub(super) fn begin_spread(
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
        controller.is_spreading = true;
        controller.counts = *count;
        self.spreads.push_back(Spread {
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
        Answer::Later
    }

    /// Goes on with what has been begun, in turn, as far as there is room in this turn: with one
    /// channel at least.
    pub(super) fn spread(&mut self, net: &mut impl Net) {
        let mut is_first = true;
        while (std::mem::take(&mut is_first) || !self.has_worked_enough())
            && !self.is_flooded(net)
            && let Some(spread) = self.spreads.pop_front()
        {
            self.spread_some(net, spread);
        }
    }

    fn spread_some(&mut self, net: &mut impl Net, mut spread: Spread) {
        let room = self.limits.deliveries_per_turn.saturating_sub(self.work);
        let (mut upto, mut count) = (spread.done, 0);
        while let Some(name) = spread.name(upto) {
            count += self.hub.audience_max(spread.ns, name, spread.user.as_deref());
            if upto > spread.done && count > room {
                break;
            }
            upto += 1;
        }
        let (at, mut reached) = (self.at(net.now()), spread.reached.take());
        let (is_first, part) = (spread.done == 0, spread.part(upto));
        let mut ticket = None;
        let result = match self.hub.check(&part, at).map(|_| self.journal.propose(at, &part)) {
            Ok(Proposal::Now(_)) => {
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
        (spread.done, spread.reached) = (upto, reached);
        if let Some(ticket) = ticket {
            self.waiting.insert(ticket, Waiter::Spread(Box::new(spread), is_first));
            return;
        }
        self.spread_on(net, spread, result, Mark::default());
    }

    /// A part has been handed out, or will never be: the rest comes later, or there is none, and
    /// that is the reply.
    pub(super) fn spread_on(
        &mut self,
        net: &mut impl Net,
        spread: Spread,
        result: Option<Result<Outcome, Refusal>>,
        mark: Mark,
    ) {
        let result = match result {
            Some(Ok(_)) if spread.done < spread.ends.len() => {
                return self.spreads.push_back(spread);
            }
            Some(Ok(_)) => Some(Ok(Outcome::Reached(spread.reached.map_or(0, |all| all.len())))),
            failed => failed,
        };
        self.answer_late(net, spread.conn, result, mark);
    }
}
