//! How much of what is there for all one of many may have. No fixed part, which would be too little
//! for one alone and too much for many: as much as stands in proportion to what is left, so that
//! something is left for whoever comes next (the dynamic thresholds of Choudhury and Hahne, 1998,
//! by which the queues of a switch share its memory).

use super::{Denied, Hub, Namespace, Refusal};

/// A namespace gets more while what it has is not more than so many times what is left: eight
/// ninths of all, if it is alone.
const NAMESPACE: usize = 8;
/// A connection gets one more channel while those that it has are not more than one in so many of
/// what its namespace may still get.
const CONNECTION: usize = 64;

/// How much more of a total of `most` somebody gets who has `own` of the `taken`: one after the
/// other, as long as what it has then is not more than so many times what is left then.
fn room(most: usize, taken: usize, own: usize) -> usize {
    let left = most.saturating_sub(taken);
    let spare = left.saturating_mul(NAMESPACE).checked_sub(own);
    spare.map_or(0, |spare| (spare / (NAMESPACE + 1) + 1).min(left))
}

/// Something that all namespaces together have a limit of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Total {
    pub what: &'static str,
    pub most: usize,
    /// What all have, and what the namespace has that wants more.
    pub taken: usize,
    pub own: usize,
}

impl Total {
    /// Whether the namespace gets so much more.
    pub fn check(&self, more: usize) -> Result<(), Refusal> {
        let Total { what, most, taken, own } = *self;
        if more > most.saturating_sub(taken) {
            return Err(Refusal::TooMany(what, most));
        }
        if more > room(most, taken, own) { Err(Refusal::Share(what, most)) } else { Ok(()) }
    }
}

impl Hub {
    /// Whether a peer of that namespace that has so many channels may have one more.
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
        // The first of a crowd do not take all that the others need. Of so few that the part of
        // one is nothing it is first come, first served.
        let is_fair = room > 0 && (max < CONNECTION || channels <= room / CONNECTION);
        if is_fair { Ok(()) } else { Err(Denied::Share(max)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of so many has of a total, when each in turn has taken all that it gets.
    fn taken(most: usize, count: usize) -> Vec<usize> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(room(most, all.iter().sum(), 0));
        }
        all
    }

    #[test]
    fn somebody_always_leaves_something() {
        assert_eq!(taken(9000, 4), [8001, 889, 98, 11]);
        assert_eq!(taken(2, 3), [2, 0, 0], "of very little the first may take all");
        assert_eq!((room(0, 0, 0), room(1, 0, 0), room(1, 1, 0), room(1, 9, 5)), (0, 1, 0, 0));
        assert_eq!(room(usize::MAX, 1, 1), usize::MAX / 9 + 1, "no product runs over");
    }

    #[test]
    fn as_much_is_given_at_once_as_one_after_the_other() {
        for (most, taken, own) in [(100, 0, 0), (100, 30, 10), (100, 90, 80), (1000, 888, 888)] {
            let fits = |i: &usize| own + i <= NAMESPACE * (most - taken - i);
            let one_by_one = (0..most - taken).take_while(fits).count();
            assert_eq!(room(most, taken, own), one_by_one, "{most}, {taken}, {own}");
        }
    }
}
