//! Messages in flight, by their numbers.

use std::collections::VecDeque;

/// A message in flight.
#[derive(Debug)]
pub(super) struct Flight {
    /// Number of subscribers that have not received it.
    pub left: u32,
    /// In unicast, the recipient.
    pub to: u32,
    /// When its latency starts, in microseconds.
    pub since_us: u64,
    /// In unicast, the number of the message before it to the same recipient, plus one; 0 if none.
    pub behind: u64,
}

/// The messages from the oldest in flight on; later ones may have arrived.
#[derive(Debug, Default)]
pub(super) struct Flights {
    queue: VecDeque<Flight>,
    first: u64,
    /// Number of messages that some subscriber has not received.
    pub under_way: usize,
}

impl Flights {
    /// Adds a message.
    pub fn push(&mut self, flight: Flight) {
        self.under_way += 1;
        self.queue.push_back(flight);
    }

    /// The number of the next message.
    pub fn next(&self) -> u64 {
        self.first + self.queue.len() as u64
    }

    /// The number of messages kept.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// A message by number; `None` if it was forgotten or does not exist.
    pub fn get(&self, number: u64) -> Option<&Flight> {
        self.queue.get(self.place(number)?)
    }

    /// The oldest message in flight and its number, right after [`Flights::forget`].
    pub fn oldest(&self) -> Option<(u64, &Flight)> {
        Some((self.first, self.queue.front()?))
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }

    /// Notes a delivery. Returns when the latency starts, and whether that was the last delivery;
    /// `None` if all recipients already had it.
    pub fn deliver(&mut self, number: u64) -> Option<(u64, bool)> {
        let place = self.place(number)?;
        let flight = self.queue.get_mut(place).filter(|flight| flight.left > 0)?;
        flight.left -= 1;
        self.under_way -= usize::from(flight.left == 0);
        Some((flight.since_us, flight.left == 0))
    }

    /// Forgets the messages before the oldest in flight.
    pub fn forget(&mut self) {
        while self.queue.front().is_some_and(|flight| flight.left == 0) {
            self.queue.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_delivered_as_often_as_it_has_recipients() {
        let mut flights = Flights::default();
        for left in [1, 2] {
            flights.push(Flight { left, to: 0, since_us: 7, behind: 0 });
        }
        assert_eq!(
            (flights.next(), flights.deliver(1), flights.under_way),
            (2, Some((7, false)), 2)
        );
        assert_eq!((flights.deliver(0), flights.deliver(0)), (Some((7, true)), None));
        flights.forget();
        assert_eq!((flights.next(), flights.len(), flights.under_way), (2, 1, 1));
        assert_eq!(flights.oldest().map(|(number, flight)| (number, flight.left)), Some((1, 1)));
        assert!(flights.get(0).is_none() && flights.get(2).is_none());
        assert_eq!((flights.deliver(0), flights.deliver(1)), (None, Some((7, true))));
    }
}
