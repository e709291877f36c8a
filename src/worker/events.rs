//! Events, for the counters, the log and the user's observer.
//!
//! Events are recorded while the mutex of the [shared state](super::shared) is held, and dispatched
//! while it is free, because a log subscriber or an observer may do anything, for any time. They
//! are dispatched in order, by one thread at a time.

use std::error::Error as StdError;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::error::Error;
use crate::lease::Ended;
use crate::observer::{
    Acquired, Connected, Disconnected, Lost, Observer, Released, Retried, Waited,
};
use crate::session::others::OtherSession;
use crate::stats::Stats;
use crate::sync::thread::Thread;
use crate::table::late::{Late, Matter, Since, Waits};

pub(crate) enum Event {
    Waited(Waited),
    Acquired(Acquired),
    Released(Released),
    Disconnected {
        ended: Ended,
        cause: Error,
        /// Holds that were lost with the session.
        held: usize,
    },
    Connected {
        event: Connected,
        occasion: Occasion,
    },
    Retried {
        event: Retried,
        occasion: Occasion,
        /// True for the first failure of an outage.
        is_first: bool,
    },
    StillAway {
        cause: Error,
        lasted: Duration,
    },
    /// A wait or a hold has lasted long; `others` hold what is waited for.
    Late {
        late: Late,
        others: Vec<OtherSession>,
    },
    /// Threads wait for each other's locks.
    Cycle(Vec<Waits>),
}

/// Which connect an event is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    Start,
    Reconnect,
}

#[derive(Default)]
pub(crate) struct Events {
    /// The counters; the gauges come from the lock table.
    stats: Stats,
    /// True if there is an observer, which also receives the events of single locks.
    is_observed: bool,
    pending: Vec<Event>,
    is_dispatching: bool,
}

impl Events {
    pub(crate) fn new(observer: Option<&Arc<dyn Observer>>) -> Self {
        Events {
            is_observed: observer.is_some(),
            ..Events::default()
        }
    }

    pub(crate) fn record(&mut self, event: Event) {
        let stats = &mut self.stats;
        let is_logged = match &event {
            Event::Waited(_) => {
                stats.contended += 1;
                false
            }
            Event::Acquired(acquired) => {
                stats.acquired += 1;
                stats.hand_overs += u64::from(acquired.handed_over);
                false
            }
            Event::Released(_) => {
                stats.released += 1;
                false
            }
            Event::Disconnected { held, .. } => {
                stats.lost += *held as u64;
                true
            }
            Event::Connected { occasion, .. } => {
                stats.reconnects += u64::from(*occasion == Occasion::Reconnect);
                true
            }
            Event::Retried { .. }
            | Event::StillAway { .. }
            | Event::Late { .. }
            | Event::Cycle(_) => true,
        };
        if is_logged || self.is_observed {
            self.pending.push(event);
        }
    }

    /// Counts a batch of `size` operations.
    pub(crate) fn record_batch(&mut self, size: usize) {
        self.stats.batches += 1;
        self.stats.largest_batch = self.stats.largest_batch.max(size as u64);
    }

    pub(crate) fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// True if there is something to dispatch.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// True if the caller has to dispatch the pending events. False if there are none, or another
    /// thread is dispatching already, which will take these, too.
    pub(crate) fn begin_dispatch(&mut self) -> bool {
        self.is_pending() && !mem::replace(&mut self.is_dispatching, true)
    }

    /// Moves the pending events into `batch`, which must be empty. False if there are none left.
    pub(crate) fn next_to_dispatch(&mut self, batch: &mut Vec<Event>) -> bool {
        self.is_dispatching = self.is_pending();
        mem::swap(&mut self.pending, batch);
        self.is_dispatching
    }
}

/// Passes `event` to the log and the observer. A panic in either does not leave this call, nor does
/// it keep the event from the other.
pub(crate) fn dispatch(event: &Event, server: &postgres::Config, observer: Option<&dyn Observer>) {
    contain_panic(|| log(event, server));
    if let Some(observer) = observer {
        contain_panic(|| notify(event, observer));
    }
}

fn contain_panic(call: impl FnOnce()) {
    // The panic hook has reported it. What was thrown may panic when it is dropped.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(call)) {
        mem::forget(payload);
    }
}

fn notify(event: &Event, observer: &dyn Observer) {
    match event {
        Event::Waited(event) => observer.waited(event),
        Event::Acquired(event) => observer.acquired(event),
        Event::Released(event) => observer.released(event),
        &Event::Disconnected {
            ended,
            ref cause,
            held,
        } => {
            if held > 0 {
                observer.lost(&Lost {
                    holds: held,
                    ended,
                    cause: cause.clone(),
                });
            }
            let cause = cause.clone();
            observer.disconnected(&Disconnected { cause });
        }
        Event::Connected { event, .. } => observer.connected(event),
        Event::Retried { event, .. } => observer.retried(event),
        Event::StillAway { .. } | Event::Late { .. } | Event::Cycle(_) => {}
    }
}

fn log(event: &Event, server: &postgres::Config) {
    match event {
        Event::Waited(_) | Event::Acquired(_) | Event::Released(_) => {}
        Event::Disconnected {
            ended: Ended::Closed,
            held,
            ..
        } => debug!(held, "closing the database session"),
        Event::Disconnected { cause, held, .. } => {
            let error = cause as &dyn StdError;
            warn!(error, held, "lost the database session");
        }
        Event::Connected {
            event: Connected { session, after },
            occasion: Occasion::Reconnect,
        } => info!(generation = session, ?after, "reconnected"),
        Event::Connected {
            event: Connected { after, .. },
            occasion: Occasion::Start,
        } => {
            let (hosts, dbname) = (server.get_hosts(), server.get_dbname());
            info!(?hosts, dbname, ?after, "connected");
        }
        Event::Retried {
            event: Retried { error, pause },
            occasion,
            is_first,
        } => {
            let error = error as &dyn StdError;
            let what = match occasion {
                Occasion::Start => "cannot connect",
                Occasion::Reconnect => "cannot reconnect",
            };
            if *is_first {
                warn!(error, wait = ?pause, "{what}");
            } else {
                debug!(error, wait = ?pause, "{what}");
            }
        }
        Event::StillAway { cause, lasted } => {
            let error = cause as &dyn StdError;
            warn!(error, ?lasted, "the database is still away");
        }
        Event::Late { late, others } => log_late(late, others),
        Event::Cycle(waits) => {
            let waits: Vec<String> = waits
                .iter()
                .map(|Waits { thread, key }| format!("{} for {}", name(thread), key.described()))
                .collect();
            let waits = waits.join(", ");
            warn!(%waits, "threads wait for each other's locks, each for one that the next holds");
        }
    }
}

fn log_late(late: &Late, others: &[OtherSession]) {
    let Late {
        matter,
        key,
        mode,
        who: Since { thread, lasted },
        holders,
    } = late;
    let (key, thread) = (key.described(), name(thread));
    match matter {
        Matter::Hold => warn!(%key, ?mode, held = ?lasted, thread, "a lock is held for long"),
        Matter::Wait => {
            let here = holders
                .iter()
                .map(|holder| format!("{}, for {:?}", name(&holder.thread), holder.lasted));
            let holders: Vec<String> = here.chain(others.iter().map(ToString::to_string)).collect();
            let holders = holders.join("; ");
            warn!(%key, ?mode, waited = ?lasted, thread, %holders, "a thread waits long for a lock");
        }
    }
}

/// For the log.
fn name(thread: &Thread) -> String {
    match thread.name() {
        Some(name) => format!("thread {name:?}"),
        None => format!("{:?}", thread.id()),
    }
}
