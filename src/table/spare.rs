//! Memory that is used again.

use super::entry::Entry;
use super::wait_queue::WaitQueue;

/// So many entries are kept at most.
const MOST_ENTRIES: usize = 1024;

/// Boxes that are not in use, so that a lock and its unlock allocate nothing.
#[allow(clippy::vec_box)] // the boxes are what is kept
pub(super) struct Spare<W> {
    entries: Vec<Box<Entry<W>>>,
    /// Each is empty.
    pub(super) queues: Vec<Box<WaitQueue<W>>>,
}

impl<W> Default for Spare<W> {
    fn default() -> Self {
        Spare {
            entries: Vec::new(),
            queues: Vec::new(),
        }
    }
}

impl<W> Spare<W> {
    /// A new entry.
    pub(super) fn entry(&mut self) -> Box<Entry<W>> {
        self.entries.pop().unwrap_or_else(|| Box::new(Entry::new()))
    }

    /// An empty queue.
    pub(super) fn queue(&mut self) -> Box<WaitQueue<W>> {
        let mut queue = self.queues.pop().unwrap_or_else(WaitQueue::new);
        queue.reset();
        queue
    }

    /// Keeps an entry that has no waiters any more.
    pub(super) fn keep(&mut self, mut entry: Box<Entry<W>>) {
        self.queues.extend(entry.queue.take());
        if self.entries.len() < MOST_ENTRIES {
            *entry = Entry::new();
            self.entries.push(entry);
        }
    }
}
