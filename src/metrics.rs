//! Metrics of a manager, for the [facade](::metrics) of that name: any of its exporters shows them.
//!
//! A [`Metrics`] is an [`Observer`]. It counts what happens as it is told of it, and reads the rest
//! when it is asked to, before each scrape or every few seconds:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use distlock::Manager;
//! use distlock::metrics::Metrics;
//!
//! # fn main() -> Result<(), distlock::Error> {
//! let metrics = Arc::new(Metrics::new("main"));
//! let mgr = Manager::builder("host=localhost user=app")
//!     .observer(metrics.clone())
//!     .connect()?;
//! metrics.read(&mgr); // as often as they are scraped
//! # Ok(())
//! # }
//! ```
//!
//! All have the label `manager`, the name given to [`Metrics::new`]. Those of locks have `class`,
//! if [`Metrics::classes`] gives one: there is nothing per key, because each label value is a time
//! series of its own. Times are in seconds, `mode` is `exclusive` or `shared`.
//!
//! | counter | labels | what is counted |
//! |---|---|---|
//! | `distlock_acquired_total` | `class`, `mode`, `handed_over` (`true`, `false`) | acquires that got their lock |
//! | `distlock_contended_total` | `class`, `mode` | acquires that found it held |
//! | `distlock_lost_total` | `cause` (`session_lost`, `lease_expired`, `closed`) | holds that were lost |
//! | `distlock_connects_total`, `distlock_disconnects_total` | | sessions made, and ended |
//! | `distlock_connect_failures_total` | | connects that failed and are tried again |
//! | `distlock_round_trips_total`, `distlock_batches_total` | | as in [`Stats`](crate::Stats), when [`read`](Metrics::read) |
//!
//! | histogram | labels | |
//! |---|---|---|
//! | `distlock_wait_seconds` | `class`, `mode` | from the request to the grant |
//! | `distlock_hold_seconds` | `class`, `mode` | from the grant to the release, or the loss |
//! | `distlock_away_seconds` | | how long there was no session, when there is one again |
//!
//! | gauge, when [`read`](Metrics::read) | |
//! |---|---|
//! | `distlock_connected` | 1 or 0 |
//! | `distlock_held`, `distlock_waiting` | locks held, acquires without an answer |
//! | `distlock_lease_left_seconds` | how long the holds still count if the server does not answer any more; absent while there is no lease |
//! | `distlock_unanswered_seconds` | since when the server owes an answer; 0 if it does not |
//! | `distlock_largest_batch` | operations in the largest batch |
//!
//! A hold's time is measured between the observer's calls, each of which may come one exchange with
//! the server late.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::metrics::{Label, Unit, gauge, histogram};
use ::metrics::{SharedString, counter, describe_counter, describe_gauge, describe_histogram};

use crate::key::Key;
use crate::lease::Ended;
use crate::manager::Manager;
use crate::observer::{
    Acquired, Connected, Disconnected, Lost, Observer, Released, Retried, Waited,
};

type Classify = dyn Fn(&Key) -> &'static str + Send + Sync;

/// Counts what a manager does, for the recorder that the program has installed.
pub struct Metrics {
    manager: SharedString,
    classify: Option<Box<Classify>>,
    next: Option<Arc<dyn Observer>>,
    holds: Mutex<HashMap<u64, Hold>>,
}

/// A hold whose end is to be told.
struct Hold {
    since: Instant,
    labels: Vec<Label>,
}

impl Metrics {
    /// The metrics of a manager that the label `manager` calls `name`. Describes them to the
    /// recorder, which has to be installed before.
    pub fn new(name: impl Into<String>) -> Metrics {
        describe();
        Metrics {
            manager: SharedString::from(name.into()),
            classify: None,
            next: None,
            holds: Mutex::default(),
        }
    }

    /// Labels the metrics of locks with a `class`, which `classify` tells of each key: such as what
    /// its name begins with. It should have few values, and be quick: it is called by the manager's
    /// worker.
    ///
    /// ```
    /// use distlock::Key;
    /// use distlock::metrics::Metrics;
    ///
    /// let nightly = Key::from("nightly-report");
    /// let metrics = Metrics::new("main").classes(move |key| match *key == nightly {
    ///     true => "nightly",
    ///     false => "tenant",
    /// });
    /// # drop(metrics);
    /// ```
    #[must_use]
    pub fn classes(
        mut self,
        classify: impl Fn(&Key) -> &'static str + Send + Sync + 'static,
    ) -> Metrics {
        self.classify = Some(Box::new(classify));
        self
    }

    /// Passes each event on to `observer` as well: a manager has one.
    #[must_use]
    pub fn and(mut self, observer: Arc<dyn Observer>) -> Metrics {
        self.next = Some(observer);
        self
    }

    /// Sets the gauges, and the counters that have no event, from the manager's
    /// [`stats`](Manager::stats) and [`health`](Manager::health). No round trip and no waiting.
    pub fn read(&self, mgr: &Manager) {
        let (stats, health) = (mgr.stats(), mgr.health());
        let manager = || vec![self.label()];
        counter!("distlock_round_trips_total", manager()).absolute(stats.round_trips);
        counter!("distlock_batches_total", manager()).absolute(stats.batches);
        gauge!("distlock_connected", manager()).set(f64::from(u8::from(health.connected)));
        gauge!("distlock_held", manager()).set(float(stats.held));
        gauge!("distlock_waiting", manager()).set(float(stats.waiting));
        gauge!("distlock_largest_batch", manager()).set(float(stats.largest_batch));
        let unanswered = health.unanswered_for.unwrap_or(Duration::ZERO);
        gauge!("distlock_unanswered_seconds", manager()).set(unanswered.as_secs_f64());
        if let Some(left) = health.lease_left {
            gauge!("distlock_lease_left_seconds", manager()).set(left.as_secs_f64());
        }
    }

    fn label(&self) -> Label {
        Label::new("manager", self.manager.clone())
    }

    fn labels(&self, key: &Key, shared: bool) -> Vec<Label> {
        let mode = if shared { "shared" } else { "exclusive" };
        let mut labels = vec![self.label(), Label::from_static_parts("mode", mode)];
        if let Some(classify) = &self.classify {
            labels.push(Label::from_static_parts("class", classify(key)));
        }
        labels
    }

    fn holds(&self) -> MutexGuard<'_, HashMap<u64, Hold>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, tell: impl FnOnce(&dyn Observer)) {
        if let Some(next) = &self.next {
            tell(&**next);
        }
    }
}

fn ended(hold: Hold) {
    histogram!("distlock_hold_seconds", hold.labels).record(hold.since.elapsed().as_secs_f64());
}

#[expect(clippy::cast_precision_loss, reason = "no counter comes near 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

impl Observer for Metrics {
    fn waited(&self, event: &Waited) {
        let labels = self.labels(&event.key, event.shared);
        counter!("distlock_contended_total", labels).increment(1);
        self.tell(|next| next.waited(event));
    }

    fn acquired(&self, event: &Acquired) {
        let labels = self.labels(&event.key, event.shared);
        histogram!("distlock_wait_seconds", labels.clone()).record(event.waited.as_secs_f64());
        let handed_over = if event.handed_over { "true" } else { "false" };
        let mut counted = labels.clone();
        counted.push(Label::from_static_parts("handed_over", handed_over));
        counter!("distlock_acquired_total", counted).increment(1);
        let since = Instant::now();
        self.holds().insert(event.hold, Hold { since, labels });
        self.tell(|next| next.acquired(event));
    }

    fn released(&self, event: &Released) {
        let hold = self.holds().remove(&event.hold);
        hold.into_iter().for_each(ended);
        self.tell(|next| next.released(event));
    }

    fn lost(&self, event: &Lost) {
        let cause = match event.ended {
            Ended::LeaseExpired => "lease_expired",
            Ended::Closed => "closed",
            _ => "session_lost",
        };
        let labels = vec![self.label(), Label::from_static_parts("cause", cause)];
        counter!("distlock_lost_total", labels).increment(event.holds as u64);
        let holds = std::mem::take(&mut *self.holds());
        holds.into_values().for_each(ended);
        self.tell(|next| next.lost(event));
    }

    fn connected(&self, event: &Connected) {
        let labels = vec![self.label()];
        counter!("distlock_connects_total", labels.clone()).increment(1);
        histogram!("distlock_away_seconds", labels).record(event.after.as_secs_f64());
        self.tell(|next| next.connected(event));
    }

    fn disconnected(&self, event: &Disconnected) {
        counter!("distlock_disconnects_total", vec![self.label()]).increment(1);
        self.tell(|next| next.disconnected(event));
    }

    fn retried(&self, event: &Retried) {
        counter!("distlock_connect_failures_total", vec![self.label()]).increment(1);
        self.tell(|next| next.retried(event));
    }
}

fn describe() {
    for (name, what) in [
        ("distlock_acquired_total", "Acquires that got their lock"),
        (
            "distlock_contended_total",
            "Acquires that found their lock held",
        ),
        ("distlock_lost_total", "Holds that were lost"),
        ("distlock_connects_total", "Sessions that were made"),
        ("distlock_disconnects_total", "Sessions that have ended"),
        (
            "distlock_connect_failures_total",
            "Connects that have failed",
        ),
        (
            "distlock_round_trips_total",
            "Times the worker waited for the server",
        ),
        (
            "distlock_batches_total",
            "Batches of lock and unlock operations",
        ),
    ] {
        describe_counter!(name, what);
    }
    for (name, what) in [
        (
            "distlock_wait_seconds",
            "From the request of a lock to its grant",
        ),
        (
            "distlock_hold_seconds",
            "From the grant of a lock to its release or loss",
        ),
        (
            "distlock_away_seconds",
            "Without a session, until there was one again",
        ),
    ] {
        describe_histogram!(name, Unit::Seconds, what);
    }
    for (name, unit, what) in [
        ("distlock_connected", Unit::Count, "1 if there is a session"),
        ("distlock_held", Unit::Count, "Locks that are held"),
        (
            "distlock_waiting",
            Unit::Count,
            "Acquires without an answer",
        ),
        (
            "distlock_largest_batch",
            Unit::Count,
            "Operations in the largest batch",
        ),
        (
            "distlock_lease_left_seconds",
            Unit::Seconds,
            "How long holds still count if the server does not answer any more",
        ),
        (
            "distlock_unanswered_seconds",
            Unit::Seconds,
            "Since when the server owes an answer",
        ),
    ] {
        describe_gauge!(name, unit, what);
    }
}
