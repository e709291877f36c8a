//! Gets the locks: connects and waits, for as long as is wanted.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select, unbounded};
use distlock::observer::{self, Observer};
use distlock::{Builder, CancelToken, Error, ErrorKind, Guard, GuardSet, Key, Manager};
use sd_notify::NotifyState;

use super::options::RunOptions;
use crate::connection::{Connection, answered};
use crate::exit::{Exit, Failure};
use crate::signals::Arrived;

/// What is held.
pub(super) struct Locks {
    pub(super) set: GuardSet,
    /// What each of the guards was asked for by.
    pub(super) names: Vec<String>,
}

pub(super) enum Obtained {
    Locks(Locks),
    /// Somebody else has one of them.
    Busy,
    /// A signal ended the wait.
    Interrupted(i32),
}

/// A cancelled acquire returns within this time; a connect may not.
const CANCELLING: Duration = Duration::from_millis(500);

/// Connects and acquires in a thread of its own, so that a signal ends it at any time.
pub(super) fn obtain(
    connection: &Connection,
    options: &RunOptions,
    signals: &Receiver<Arrived>,
) -> Result<Obtained, Failure> {
    let (report, database) = unbounded();
    let (sender, outcome) = bounded(1);
    let acquire = Acquire::new(connection, options, Report(report))?;
    let cancel = acquire.cancel.clone();
    let waiting = format!("waiting for {}", options.keys.join(", "));
    tracing::info!("{waiting}");
    super::notify(&[NotifyState::Status(&waiting)]);
    thread::Builder::new()
        .name("acquire".into())
        .spawn(move || sender.send(acquire.run()).ok())
        .map_err(|error| Failure::own("no thread", error))?;
    let mut outage = Outage::new(options.wait_for_db());
    loop {
        select! {
            recv(outcome) -> outcome => {
                let panicked = |_| Failure::own("the acquire", "it has panicked");
                return Ok(match outcome.map_err(panicked)?? {
                    Some(locks) => Obtained::Locks(locks),
                    None => Obtained::Busy,
                });
            }
            recv(signals) -> signal => {
                if let Ok(signal) = signal && signal.is_ending() {
                    cancel.cancel();
                    // What it has got meanwhile is given back.
                    drop(outcome.recv_timeout(CANCELLING));
                    return Ok(Obtained::Interrupted(signal.number));
                }
            }
            recv(database) -> news => outage.learn(news.unwrap_or(Database::Back))?,
            recv(outage.limit()) -> _ => {
                if let Some((_, error)) = outage.now.take() {
                    return Err(error.into());
                }
            }
        }
    }
}

/// An acquire of all locks, as the options describe it.
struct Acquire {
    builder: Builder,
    keys: Vec<Key>,
    options: RunOptions,
    cancel: CancelToken,
}

impl Acquire {
    fn new(
        connection: &Connection,
        options: &RunOptions,
        report: Report,
    ) -> Result<Acquire, Failure> {
        let mut builder = connection.builder()?.observer(Arc::new(report));
        if let Some(sequence) = &options.fencing {
            builder = builder.fencing(sequence);
        }
        if options.permits.is_some() && options.keys.len() > 1 {
            let what = "--permits takes one KEY, the name of the semaphore";
            return Err(Failure::new(Exit::USAGE, what));
        }
        let keys = options.keys.iter().map(|name| options.how.key(name));
        Ok(Acquire {
            builder,
            keys: keys.collect::<Result<_, _>>()?,
            options: options.clone(),
            cancel: CancelToken::new(),
        })
    }

    /// `None`: somebody else has one of them.
    fn run(self) -> Result<Option<Locks>, Failure> {
        let mgr = match self.options.wait_for_db() {
            Duration::ZERO => self.builder.clone().connect()?,
            time => self.builder.clone().connect_within(time)?,
        };
        let set = match self.options.permits {
            Some(permits) => self.permit(&mgr, permits)?,
            None => self.locks(&mgr)?,
        };
        Ok(answered(&mgr, set)?.map(|set| Locks {
            names: self.names_of(&mgr, &set),
            set,
        }))
    }

    /// The guards are in an order of their own, and two names may have one number.
    fn names_of(&self, mgr: &Manager, set: &GuardSet) -> Vec<String> {
        let name = |guard: &Guard| {
            let mut asked = self.keys.iter().zip(&self.options.keys);
            let found = asked.find(|(key, _)| mgr.key(*key) == *guard.key());
            // A permit's key is not the semaphore's name.
            found.map_or_else(|| self.options.keys.join(" "), |(_, name)| name.clone())
        };
        set.guards().iter().map(name).collect()
    }

    fn locks(&self, mgr: &Manager) -> Result<Option<GuardSet>, Error> {
        let (exclusive, shared) = match self.options.shared {
            true => (&[][..], &self.keys[..]),
            false => (&self.keys[..], &[][..]),
        };
        let acquire = mgr
            .acquire_all(exclusive)
            .shared(shared)
            .cancel(&self.cancel)
            .hold_at_least(self.options.at_least.unwrap_or_default());
        match (self.options.nonblock, self.options.wait) {
            (true, _) => acquire.try_lock(),
            (false, Some(wait)) => acquire.timeout(wait).try_lock(),
            (false, None) => acquire.lock().map(Some),
        }
    }

    fn permit(&self, mgr: &Manager, permits: usize) -> Result<Option<GuardSet>, Error> {
        let semaphore = mgr.semaphore(&self.options.keys.join(" "), permits)?;
        let request = semaphore
            .request(1)
            .cancel(&self.cancel)
            .hold_at_least(self.options.at_least.unwrap_or_default());
        match (self.options.nonblock, self.options.wait) {
            (true, _) => request.try_acquire(),
            (false, Some(wait)) => request.timeout(wait).try_acquire(),
            (false, None) => request.acquire().map(Some),
        }
    }
}

/// Whether the database is there, as the manager notices it.
enum Database {
    /// A session has ended.
    Lost(Error),
    /// A connect has failed.
    Away(Error),
    Back,
}

struct Report(Sender<Database>);

impl Observer for Report {
    fn connected(&self, _: &observer::Connected) {
        self.0.send(Database::Back).ok();
    }

    fn disconnected(&self, disconnected: &observer::Disconnected) {
        let cause = &disconnected.cause;
        // A manager that has not obtained the lock is closed.
        if cause.kind() != ErrorKind::Closed {
            self.0.send(Database::Lost(cause.clone())).ok();
        }
    }

    fn retried(&self, retried: &observer::Retried) {
        self.0.send(Database::Away(retried.error.clone())).ok();
    }
}

/// How long the database has been away.
struct Outage {
    longest: Duration,
    /// Since when, and why.
    now: Option<(Instant, Error)>,
}

impl Outage {
    fn new(longest: Duration) -> Outage {
        Outage { longest, now: None }
    }

    /// A failure if waiting does not help.
    fn learn(&mut self, news: Database) -> Result<(), Failure> {
        self.now = match news {
            Database::Back => None,
            Database::Away(error) if !error.is_transient() => return Err(error.into()),
            Database::Lost(error) | Database::Away(error) => {
                let now = &self.now;
                let since = now.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                Some((since, error))
            }
        };
        Ok(())
    }

    /// Ready when it has lasted for too long.
    fn limit(&self) -> Receiver<Instant> {
        let end = |(since, _): &(Instant, Error)| since.checked_add(self.longest);
        let end = self.now.as_ref().and_then(end);
        end.map_or_else(never, crossbeam_channel::at)
    }
}
