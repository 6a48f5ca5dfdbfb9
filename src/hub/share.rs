//! Fair shares of totals. A fixed part would be too little for a single user of the total and too
//! much for each of many; so a share depends on what is left, and something stays for the next one
//! (the dynamic thresholds of Choudhury and Hahne, 1998, by which the queues of a switch share its
//! memory).

use super::{Denied, Hub, Namespace, Refusal};

/// A namespace gets more while it has at most this many times what is left: eight ninths of all, if
/// it is alone.
const NAMESPACE: usize = 8;
/// A connection gets one more channel while it has at most one in this many of what its namespace
/// may still get.
const CONNECTION: usize = 64;

/// How many more of a total of `most` a namespace gets that has `own` of the `taken`: one by one,
/// while what it has then is at most [`NAMESPACE`] times what is left then.
fn room(most: usize, taken: usize, own: usize) -> usize {
    let left = most.saturating_sub(taken);
    let spare = left.saturating_mul(NAMESPACE).checked_sub(own);
    spare.map_or(0, |spare| (spare / (NAMESPACE + 1) + 1).min(left))
}

/// A limit that all namespaces share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Total {
    pub what: &'static str,
    pub most: usize,
    /// What all namespaces have, and the one that wants more.
    pub taken: usize,
    pub own: usize,
}

impl Total {
    /// Checks whether the namespace gets `more`.
    pub fn check(&self, more: usize) -> Result<(), Refusal> {
        let Total { what, most, taken, own } = *self;
        if more > most.saturating_sub(taken) {
            return Err(Refusal::TooMany(what, most));
        }
        if more > room(most, taken, own) { Err(Refusal::Share(what, most)) } else { Ok(()) }
    }
}

impl Hub {
    /// Checks whether a peer of that namespace, in `channels` channels, may join one more.
    pub(super) fn check_subscription(
        &self,
        space: &Namespace,
        channels: usize,
    ) -> Result<(), Denied> {
        let max = self.limits.channels_per_connection;
        if channels >= max {
            return Err(Denied::TooManyChannels(max));
        }
        let (max, taken) = (self.limits.subscriptions, self.present.subscriptions);
        if taken >= max {
            return Err(Denied::TooManySubscriptions(max));
        }
        let room = room(max, taken, space.subscriptions);
        // The first of a crowd must not take what the others need. Where the total is so small that
        // a connection's part would be nothing, it is first come, first served.
        let is_fair = room > 0 && (max < CONNECTION || channels <= room / CONNECTION);
        if is_fair { Ok(()) } else { Err(Denied::Share(max)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much each of `count` gets of a total, if each in turn takes all that it may.
    fn taken(most: usize, count: usize) -> Vec<usize> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(room(most, all.iter().sum(), 0));
        }
        all
    }

    #[test]
    fn each_namespace_leaves_room_for_others() {
        assert_eq!(taken(9000, 4), [8001, 889, 98, 11]);
        assert_eq!(taken(2, 3), [2, 0, 0], "the first may take all of a tiny total");
        assert_eq!((room(0, 0, 0), room(1, 0, 0), room(1, 1, 0), room(1, 9, 5)), (0, 1, 0, 0));
        assert_eq!(room(usize::MAX, 1, 1), usize::MAX / 9 + 1, "no product overflows");
    }

    #[test]
    fn room_taken_at_once_equals_room_taken_one_by_one() {
        for (most, taken, own) in [(100, 0, 0), (100, 30, 10), (100, 90, 80), (1000, 888, 888)] {
            let fits = |i: &usize| own + i <= NAMESPACE * (most - taken - i);
            let one_by_one = (0..most - taken).take_while(fits).count();
            assert_eq!(room(most, taken, own), one_by_one, "{most}, {taken}, {own}");
        }
    }
}
