//! A queue from one thread to another. What the standard library has for that is compiled three
//! times over for each kind of message, 50 KB in all, and this is what is needed of it. Used by the
//! store's helper and by the blocking clients of the command line.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The end that messages are put in at. When it is dropped, no more come.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// The end that they are taken out at. When it is dropped, no more are taken in.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<Queue<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Queue<T> {
    messages: VecDeque<T>,
    is_open: bool,
}

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// None has come in that time.
    Yet,
    /// None will come.
    More,
}

/// The two ends of a queue.
pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let queue = Mutex::new(Queue { messages: VecDeque::new(), is_open: true });
    let shared = Arc::new(Shared { queue, changed: Condvar::new() });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // Whoever panicked here had nothing half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().is_open = false;
        self.changed.notify_all();
    }

    /// Puts a message in, if somebody can take it out.
    fn put(&self, mut queue: MutexGuard<'_, Queue<T>>, message: T) -> bool {
        let is_open = queue.is_open;
        if is_open {
            queue.messages.push_back(message);
            drop(queue);
            self.changed.notify_all();
        }
        is_open
    }
}

impl<T> Sender<T> {
    /// Sends a message; `false` if nobody is there any more.
    pub fn send(&self, message: T) -> bool {
        self.0.put(self.0.lock(), message)
    }

    /// The same, unless so many wait already: then it waits until one is taken out.
    pub fn send_within(&self, most: usize, message: T) -> bool {
        let is_full = |queue: &mut Queue<T>| queue.is_open && queue.messages.len() >= most;
        let queue = self.0.changed.wait_while(self.0.lock(), is_full);
        self.0.put(queue.unwrap_or_else(PoisonError::into_inner), message)
    }
}

impl<T> Receiver<T> {
    /// A message that is there.
    pub fn try_recv(&self) -> Option<T> {
        let message = self.0.lock().messages.pop_front();
        // To tell of it is a system call, whether anybody waits or not.
        if message.is_some() {
            self.0.changed.notify_all();
        }
        message
    }

    /// The next message, waited for no longer than that; `None`: for as long as it takes.
    ///
    /// # Errors
    /// [`Nothing`]
    pub fn recv(&self, time: Option<Duration>) -> Result<T, Nothing> {
        let is_empty = |queue: &mut Queue<T>| queue.is_open && queue.messages.is_empty();
        let queue = self.0.lock();
        let queue = match time {
            None => {
                let queue = self.0.changed.wait_while(queue, is_empty);
                queue.unwrap_or_else(PoisonError::into_inner)
            }
            Some(time) => {
                let queue = self.0.changed.wait_timeout_while(queue, time, is_empty);
                queue.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        let is_open = queue.is_open;
        drop(queue);
        self.try_recv().ok_or(if is_open { Nothing::Yet } else { Nothing::More })
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_comes_in_its_order_and_then_nothing_more() {
        let (sender, receiver) = mailbox();
        assert_eq!(receiver.recv(Some(Duration::ZERO)), Err(Nothing::Yet));
        let sending = std::thread::spawn(move || (0..1000).all(|n| sender.send_within(2, n)));
        let came: Vec<u32> = std::iter::from_fn(|| receiver.recv(None).ok()).collect();
        assert_eq!(came, Vec::from_iter(0..1000));
        assert_eq!(receiver.recv(None), Err(Nothing::More));
        assert!(sending.join().unwrap());
    }

    #[test]
    fn whoever_sends_to_nobody_is_told_so() {
        let (sender, receiver) = mailbox();
        assert!(sender.send(1) && sender.send(2));
        let waiting = std::thread::spawn(move || sender.send_within(2, 3) || sender.send(4));
        drop(receiver);
        assert!(!waiting.join().unwrap());
    }
}
