//! Tells who waits for any of several locks that one was released in this process.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::key::Key;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// What one listens for, and where it hears of it.
type Listening = (Arc<[Key]>, Sender<()>);

#[derive(Default)]
pub(crate) struct Bell {
    /// How many listen: usually nobody, and then a release looks no further.
    count: AtomicUsize,
    listeners: Mutex<Vec<Listening>>,
}

impl Bell {
    pub(super) fn listen(&self, keys: Arc<[Key]>) -> Listener<'_> {
        let (sender, rings) = bounded(1);
        let mut listeners = self.listeners.lock();
        listeners.push((Arc::clone(&keys), sender));
        self.count.store(listeners.len(), Ordering::SeqCst);
        Listener {
            bell: self,
            keys,
            rings,
        }
    }

    /// Locks of `keys` are released, or about to be.
    pub(super) fn ring(&self, keys: impl IntoIterator<Item = Key>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let released: Vec<Key> = keys.into_iter().collect();
        for (keys, sender) in self.listeners.lock().iter() {
            if keys.iter().any(|key| released.contains(key)) {
                // If it is full, the listener has not heard the last one yet.
                sender.try_send(()).ok();
            }
        }
    }
}

pub(crate) struct Listener<'a> {
    bell: &'a Bell,
    keys: Arc<[Key]>,
    rings: Receiver<()>,
}

impl Listener<'_> {
    pub(crate) fn rings(&self) -> &Receiver<()> {
        &self.rings
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let mut listeners = self.bell.listeners.lock();
        let own = |(keys, _): &Listening| Arc::ptr_eq(keys, &self.keys);
        if let Some(place) = listeners.iter().position(own) {
            listeners.swap_remove(place);
        }
        self.bell.count.store(listeners.len(), Ordering::SeqCst);
    }
}
