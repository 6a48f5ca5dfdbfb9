//! Grants that are withdrawn while connections of the user are in the channel: these hear nothing
//! there from then on, but leave only when the withdrawal is final. Until then it may be undone,
//! and the user may have been granted access again. Part of the hub.

use std::collections::{BTreeMap, VecDeque};

use super::super::grants::GrantRef;
use super::super::{ChannelId, Hub, NsId, PeerId, User};
use super::Leaving;
use crate::arena::Id;

/// Pending withdrawals for one channel and user: they become final from the front, and are undone
/// from the back. Only connections that subscribed again after the last one hear the channel.
#[derive(Debug, Default)]
pub(super) struct Withdrawals {
    /// Number and mark of each, oldest first.
    all: VecDeque<(u64, u64)>,
    /// Connections that subscribed by a later grant, each with the number of the last withdrawal
    /// before that, and whether it was still listed in the channel.
    pub readmitted: BTreeMap<(PeerId, u64), bool>,
}

impl Withdrawals {
    /// The number of the last withdrawal.
    fn last(&self) -> u64 {
        self.all.back().map_or(0, |(number, _)| *number)
    }

    /// Whether the first withdrawal has this number.
    fn begin_with(&self, number: u64) -> bool {
        self.all.front().is_some_and(|(first, _)| *first == number)
    }

    /// A connection has subscribed to the channel again.
    pub fn readmit(&mut self, id: PeerId, was_in: bool) {
        self.readmitted.insert((id, self.last()), was_in);
    }

    pub fn is_readmitted(&self, id: PeerId) -> bool {
        self.readmitted.contains_key(&(id, self.last()))
    }

    /// Withdrawal `number` is final. Returns whether the connection subscribed again after it, even
    /// if that was withdrawn too; it then counts as one that was not in the channel before.
    fn has_come_back(&mut self, id: PeerId, number: u64) -> bool {
        self.forget(id, number);
        let first = self.readmitted.range_mut((id, number)..=(id, u64::MAX)).next();
        first.map(|(_, was_in)| *was_in = false).is_some()
    }

    /// Forgets that a connection subscribed again before withdrawal `before`.
    pub fn forget(&mut self, id: PeerId, before: u64) {
        while let Some((&key, _)) = self.readmitted.range((id, 0)..(id, before)).next() {
            self.readmitted.remove(&key);
        }
    }
}

/// A user that has to leave a channel once a withdrawal is final.
#[derive(Debug)]
pub(super) struct Exit {
    of: (ChannelId, Id<User>),
    number: u64,
    pub mark: u64,
    /// How many of the user's connections, counted from the first, are still to be looked at.
    left: usize,
}

impl Hub {
    /// Allocates the number of the next withdrawal.
    pub(in crate::hub) fn next_withdrawal(&mut self) -> u64 {
        self.leaving.withdrawals += 1;
        self.leaving.withdrawals
    }

    /// Withdraws a grant: the user's connections hear nothing more in the channel, and leave it
    /// when the change with that mark can no longer be undone.
    pub(in crate::hub) fn withdraw(
        &mut self,
        ns: NsId,
        grant: GrantRef<'_>,
        (number, mark): (u64, u64),
    ) {
        let Some(of) = self.find_grantee(ns, grant) else { return };
        let heard = self.hearing(of).count();
        if heard == 0 {
            return;
        }
        self.count_subscriptions(ns, 0, heard);
        self.leaving.withdrawn.entry(of).or_default().all.push_back((number, mark));
        self.leaving.exits.push_back(Exit { of, number, mark, left: usize::MAX });
        self.forget_withdrawn();
    }

    /// Undoes the last withdrawal of a grant: connections that heard the channel before hear it
    /// again, even if the limits have no room for that.
    pub(in crate::hub) fn undo_withdrawal(&mut self, ns: NsId, grant: GrantRef<'_>, number: u64) {
        let Some(of) = self.find_grantee(ns, grant) else { return };
        if self.leaving.withdrawn.get(&of).is_none_or(|withdrawn| withdrawn.last() != number) {
            return;
        }
        self.drop_withdrawal(of, number);
        let heard = self.hearing(of).count();
        self.count_subscriptions(ns, heard, 0);
    }

    /// Undoes a grant: a connection that subscribed by it leaves the channel, or is as an earlier
    /// withdrawal left it, if that one may still be undone as well.
    pub(in crate::hub) fn undo_grant(&mut self, ns: NsId, grant: GrantRef<'_>) {
        self.drop_grant(ns, grant);
        let Some(of) = self.find_grantee(ns, grant) else { return };
        let heard: Vec<PeerId> = self.hearing(of).collect();
        let kept = self.leaving.kept;
        for id in heard {
            if let Some(withdrawn) = self.leaving.withdrawn.get_mut(&of)
                && let Some((last, _)) = withdrawn.all.back().filter(|(_, mark)| *mark > kept)
                && withdrawn.readmitted.get(&(id, *last)) == Some(&true)
            {
                withdrawn.readmitted.remove(&(id, *last));
                self.count_subscriptions(ns, 0, 1);
            } else {
                self.leave(id, of.0);
            }
        }
    }

    /// Finds channel and user of a grant, if the channel has members and the user connections.
    fn find_grantee(&self, ns: NsId, grant: GrantRef<'_>) -> Option<(ChannelId, Id<User>)> {
        let (channel, _) = self.find_channel(ns, grant.channel)?;
        let (user, _) = self.find_user(ns, grant.user)?;
        Some((channel, user))
    }

    /// The user's connections that hear a channel.
    fn hearing(&self, (channel, user): (ChannelId, Id<User>)) -> impl Iterator<Item = PeerId> {
        let peers = self.users.get(user).map_or(&[][..], |user| &user.peers);
        let hears = move |id: &PeerId| self.is_member(*id, channel) && self.hears(*id, channel);
        peers.iter().copied().filter(hears)
    }

    /// Ends the withdrawal of this number, if it is the first or the last.
    fn drop_withdrawal(&mut self, of: (ChannelId, Id<User>), number: u64) {
        let Some(withdrawn) = self.leaving.withdrawn.get_mut(&of) else { return };
        if withdrawn.begin_with(number) {
            withdrawn.all.pop_front();
        } else if withdrawn.last() == number {
            withdrawn.all.pop_back();
        }
        if withdrawn.all.is_empty() {
            self.leaving.withdrawn.remove(&of);
        }
    }

    /// Checks that readmissions are kept only for members of the channel; for tests.
    pub(in crate::hub) fn check_withdrawn(&self) {
        for ((channel, _), withdrawn) in &self.leaving.withdrawn {
            let mut readmitted = withdrawn.readmitted.keys();
            assert!(readmitted.all(|(id, _)| self.is_member(*id, *channel)), "one has gone");
        }
    }

    /// Takes connections out of channels whose grant is finally withdrawn, while steps are left.
    pub(super) fn forget_withdrawn(&mut self) {
        while self.leaving.has_exits()
            && self.leaving.spend(1)
            && let Leaving { exits, withdrawn, .. } = &mut self.leaving
            && let Some(exit) = exits.front_mut()
        {
            let (of, number) = (exit.of, exit.number);
            let peers = self.users.get(of.1).map_or(&[][..], |user| &user.peers);
            // A connection that leaves in between shortens the list; the last one fills its gap.
            let at = exit.left.min(peers.len());
            let id = at.checked_sub(1).and_then(|at| peers.get(at)).copied();
            // The withdrawal may have been undone.
            let withdrawn = withdrawn.get_mut(&of).filter(|it| it.begin_with(number));
            let Some((id, withdrawn)) = id.zip(withdrawn) else {
                exits.pop_front();
                self.drop_withdrawal(of, number);
                continue;
            };
            exit.left = at - 1;
            if !withdrawn.has_come_back(id, number) {
                self.leave(id, of.0);
            }
        }
    }
}
