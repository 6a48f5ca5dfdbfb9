//! The places of authenticated back ends, of which each namespace has a fair share: where there are
//! no more, the namespace with the most makes room. `control` asks for one at each `auth`.

use std::collections::BTreeMap;

use super::Switch;
use super::command::Refused;
use super::control::Controller;
use super::replies::refused;
use crate::edge::{ConnId, Net};
use crate::hub::{NsId, Refusal};
use crate::reason::CloseReason;

/// Connections reserved for others: one in `PLACES_PART`, at most `PLACES_MAX`, so that a
/// namespace whose back ends have taken all others keeps nobody from authenticating.
const PLACES_PART: usize = 32;
const PLACES_MAX: usize = 32;

/// How many of so many connections may be authenticated. If there are few, all of them: then a
/// newcomer waits for one to leave.
fn authenticated_max(connections: usize) -> usize {
    match (connections / PLACES_PART).min(PLACES_MAX) {
        0 => usize::MAX,
        places => connections - places,
    }
}

/// The back ends of one namespace: how many, and the first to go, which is busy (a request, a reply
/// or part of a frame is pending) only if all are.
type Share = (usize, (bool, ConnId));

impl Switch {
    /// Makes sure that one more back end of that namespace may authenticate. If all places are
    /// taken, one of the namespace with the most is closed, preferably one that is not busy,
    /// provided that the newcomer's has fewer even with the newcomer.
    ///
    /// # Errors
    /// 313: no namespace has enough more.
    pub(super) fn find_place(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        ns: NsId,
    ) -> Result<(), Refused> {
        let max = authenticated_max(self.limits.control_connections);
        if self.authenticated() < max || !self.unauthenticated.has(conn) {
            return Ok(());
        }
        let shares = self.shares();
        if shares.values().map(|(count, _)| count).sum::<usize>() < max {
            // The others are being closed.
            return Ok(());
        }
        let own = shares.get(&ns).map_or(0, |(count, _)| *count);
        let largest = shares.values().max_by_key(|(count, _)| *count);
        let offender = largest.filter(|(count, _)| own + 1 < *count);
        let Some((_, (_, offender))) = offender else {
            return Err(refused(Refusal::Share("back ends in all", max)));
        };
        if let Some(controller) = self.connections.controller(*offender) {
            controller.let_go(net, *offender, CloseReason::Full);
            self.may_be_ended = true;
        }
        Ok(())
    }

    fn authenticated(&self) -> usize {
        self.connections.controllers() - self.unauthenticated.len()
    }

    /// Counts the authenticated back ends of each namespace, without those that are being closed.
    fn shares(&mut self) -> BTreeMap<NsId, Share> {
        let mut shares = BTreeMap::<NsId, Share>::new();
        for conn in self.connections.all_controllers() {
            let is_there = |it: &&Controller| !it.is_ended && !self.unauthenticated.has(conn);
            let controller = self.connections.look_at(conn).filter(is_there);
            if let Some((of, it)) = controller.and_then(|it| Some((it.namespace()?, it))) {
                let candidate = (it.is_busy(), conn);
                let (count, first) = shares.entry(of).or_insert((0, candidate));
                (*count, *first) = (*count + 1, candidate.min(*first));
            }
        }
        // All of them were examined.
        self.work += self.authenticated();
        shares
    }
}
