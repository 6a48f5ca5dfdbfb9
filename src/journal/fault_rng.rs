//! Randomness for the test journals; the same seed gives the same behaviour.

/// A xorshift generator (Marsaglia, 2003) and a failure rate.
#[derive(Debug)]
pub(super) struct FaultRng {
    /// Never zero.
    state: u64,
    fails_one_in: u64,
}

impl FaultRng {
    /// `fails_one_in`: one operation in this many fails; 0 for none.
    pub fn new(seed: u64, fails_one_in: u64) -> FaultRng {
        FaultRng { state: seed | 1 << 63, fails_one_in }
    }

    /// Returns a number less than `below`, which must not be zero.
    pub fn draw(&mut self, below: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % below
    }

    /// Returns whether the next operation fails.
    pub fn fails(&mut self) -> bool {
        self.fails_one_in > 0 && self.draw(self.fails_one_in) == 0
    }
}
