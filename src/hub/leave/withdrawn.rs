//! Grants that are withdrawn while their users are in the channels: those hear nothing there from
//! then on, and leave when it is certain. Until then it may be taken back, and they may have been
//! given another meanwhile. Part of the hub.

use std::collections::{BTreeMap, VecDeque};

use super::super::grants::GrantRef;
use super::super::{ChannelId, Hub, NsId, PeerId, User};
use super::Leaving;
use crate::arena::Id;

/// A user hears a channel no more, but for each connection that has come back since the last of
/// these. They become certain from the first on, and are taken back from the last on.
#[derive(Debug, Default)]
pub(super) struct Withdrawals {
    /// Their numbers and marks.
    all: VecDeque<(u64, u64)>,
    /// Who has subscribed by another grant, behind which of them, and whether it had been in the
    /// channel.
    pub readmitted: BTreeMap<(PeerId, u64), bool>,
}

impl Withdrawals {
    /// The number of the last one.
    fn last(&self) -> u64 {
        self.all.back().map_or(0, |(number, _)| *number)
    }

    /// Whether the first is that one.
    fn begin_with(&self, number: u64) -> bool {
        self.all.front().is_some_and(|(first, _)| *first == number)
    }

    /// A connection is in the channel again.
    pub fn readmit(&mut self, id: PeerId, was_in: bool) {
        self.readmitted.insert((id, self.last()), was_in);
    }

    pub fn is_readmitted(&self, id: PeerId) -> bool {
        self.readmitted.contains_key(&(id, self.last()))
    }

    /// That one is certain. Whether a connection has come back behind it, even if that was
    /// withdrawn as well: what it had been before is of no account any more.
    fn has_come_back(&mut self, id: PeerId, number: u64) -> bool {
        self.forget(id, number);
        let first = self.readmitted.range_mut((id, number)..=(id, u64::MAX)).next();
        first.map(|(_, was_in)| *was_in = false).is_some()
    }

    /// That a connection has come back before that one no longer matters.
    pub fn forget(&mut self, id: PeerId, before: u64) {
        while let Some((&key, _)) = self.readmitted.range((id, 0)..(id, before)).next() {
            self.readmitted.remove(&key);
        }
    }
}

/// A user is to leave a channel, when it is certain that the withdrawal is not taken back.
#[derive(Debug)]
pub(super) struct Exit {
    of: (ChannelId, Id<User>),
    number: u64,
    pub mark: u64,
    /// So many of the user's connections, from the first on, have not been looked at.
    left: usize,
}

impl Hub {
    /// The number of the next withdrawal.
    pub(in crate::hub) fn next_withdrawal(&mut self) -> u64 {
        self.leaving.withdrawals += 1;
        self.leaving.withdrawals
    }

    /// A grant has been withdrawn: the user's connections hear nothing more in the channel, and
    /// leave it when the change of that mark cannot be taken back any more.
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

    /// The last withdrawal of a grant is taken back: whoever heard the channel before hears it
    /// again, even if there would be no room for that.
    pub(in crate::hub) fn undo_withdrawal(&mut self, ns: NsId, grant: GrantRef<'_>, number: u64) {
        let Some(of) = self.find_grantee(ns, grant) else { return };
        if self.leaving.withdrawn.get(&of).is_none_or(|withdrawn| withdrawn.last() != number) {
            return;
        }
        self.drop_withdrawal(of, number);
        let heard = self.hearing(of).count();
        self.count_subscriptions(ns, heard, 0);
    }

    /// A grant that was given is taken back: whoever has come in by it is out of the channel, or
    /// where an earlier withdrawal, which may be taken back as well, has left it.
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

    /// A channel and a user, while somebody is in the one, and the other is here.
    fn find_grantee(&self, ns: NsId, grant: GrantRef<'_>) -> Option<(ChannelId, Id<User>)> {
        let (channel, _) = self.find_channel(ns, grant.channel)?;
        let (user, _) = self.find_user(ns, grant.user)?;
        Some((channel, user))
    }

    /// A user's connections that hear a channel.
    fn hearing(&self, (channel, user): (ChannelId, Id<User>)) -> impl Iterator<Item = PeerId> {
        let peers = self.users.get(user).map_or(&[][..], |user| &user.peers);
        let hears = move |id: &PeerId| self.is_member(*id, channel) && self.hears(*id, channel);
        peers.iter().copied().filter(hears)
    }

    /// The first of the withdrawals, or the last, is over, if it is that one.
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

    /// Checks that of nobody more is known than of those who are in the channel; for tests.
    pub(in crate::hub) fn check_withdrawn(&self) {
        for ((channel, _), withdrawn) in &self.leaving.withdrawn {
            let mut readmitted = withdrawn.readmitted.keys();
            assert!(readmitted.all(|(id, _)| self.is_member(*id, *channel)), "one has gone");
        }
    }

    /// Takes those out of channels to whom they were granted no longer.
    pub(super) fn forget_withdrawn(&mut self) {
        while self.leaving.has_exits()
            && self.leaving.spend(1)
            && let Leaving { exits, withdrawn, .. } = &mut self.leaving
            && let Some(exit) = exits.front_mut()
        {
            let (of, number) = (exit.of, exit.number);
            let peers = self.users.get(of.1).map_or(&[][..], |user| &user.peers);
            // Whoever leaves in between makes the list shorter, and fills the gap with the last.
            let at = exit.left.min(peers.len());
            let id = at.checked_sub(1).and_then(|at| peers.get(at)).copied();
            // It may have been taken back.
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
