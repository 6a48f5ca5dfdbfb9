//! A queue from one thread to another. The channel of the standard library is compiled three times
//! over for each type of message, 50 KB in all; this is the part of it that is needed. Used by the
//! store's worker thread and by the blocking clients of the command line.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The sending end. Once it is dropped, no more messages come.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving end. Once it is dropped, no more messages are accepted.
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
pub enum RecvError {
    /// None came within the time.
    Timeout,
    /// None will come.
    Closed,
}

/// Creates a queue, and returns its two ends.
pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let queue = Mutex::new(Queue { messages: VecDeque::new(), is_open: true });
    let shared = Arc::new(Shared { queue, changed: Condvar::new() });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // A thread that panicked here has left nothing half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().is_open = false;
        self.changed.notify_all();
    }

    /// Appends a message if the queue is open; returns whether it was.
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
    /// Sends a message; `false` if the receiver is gone.
    pub fn send(&self, message: T) -> bool {
        self.0.put(self.0.lock(), message)
    }

    /// The same, but waits while `most` messages are queued.
    pub fn send_within(&self, most: usize, message: T) -> bool {
        let is_full = |queue: &mut Queue<T>| queue.is_open && queue.messages.len() >= most;
        let queue = self.0.changed.wait_while(self.0.lock(), is_full);
        self.0.put(queue.unwrap_or_else(PoisonError::into_inner), message)
    }
}

impl<T> Receiver<T> {
    /// Takes the next message, if there is one.
    pub fn try_recv(&self) -> Option<T> {
        let message = self.0.lock().messages.pop_front();
        // Notifying is a system call, whether anybody waits or not.
        if message.is_some() {
            self.0.changed.notify_all();
        }
        message
    }

    /// Waits for the next message, at most for `time`; `None`: without limit.
    ///
    /// # Errors
    /// [`RecvError`]
    pub fn recv(&self, time: Option<Duration>) -> Result<T, RecvError> {
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
        self.try_recv().ok_or(if is_open { RecvError::Timeout } else { RecvError::Closed })
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
    fn messages_arrive_in_order_until_the_sender_is_gone() {
        let (sender, receiver) = mailbox();
        assert_eq!(receiver.recv(Some(Duration::ZERO)), Err(RecvError::Timeout));
        let sending = std::thread::spawn(move || (0..1000).all(|n| sender.send_within(2, n)));
        let received: Vec<u32> = std::iter::from_fn(|| receiver.recv(None).ok()).collect();
        assert_eq!(received, Vec::from_iter(0..1000));
        assert_eq!(receiver.recv(None), Err(RecvError::Closed));
        assert!(sending.join().unwrap());
    }

    #[test]
    fn sending_fails_once_the_receiver_is_gone() {
        let (sender, receiver) = mailbox();
        assert!(sender.send(1) && sender.send(2));
        let waiting = std::thread::spawn(move || sender.send_within(2, 3) || sender.send(4));
        drop(receiver);
        assert!(!waiting.join().unwrap());
    }
}
