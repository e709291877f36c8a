//! From a connection string to a session: hosts are tried one after the other, none for longer
//! than the connect timeout.
//!
//! The driver's own timeout covers the TCP connect alone. A host that accepts and then stays
//! silent would hang it forever and keep it from the hosts that follow, so each attempt has a
//! thread of its own, which is abandoned when its time is up.

pub(crate) mod abandoned;
mod canceller;
mod client;
mod descriptors;
pub(crate) mod dsn;
mod errors;
mod login;
mod preflight;
mod probe;
mod setup;
pub(crate) mod target;
pub(crate) mod tls;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use postgres::Client;
use postgres::config::{Host, LoadBalanceHosts};

use self::abandoned::Abandoned;
pub(crate) use self::canceller::Canceller;
use self::target::Target;
use self::tls::Connector;
use crate::config::Settings;
use crate::error::{Error, ErrorKind};
use crate::session::Session;
use crate::session::sequence::Missing;

/// What a connect needs: the target, the settings, and the count of abandoned threads.
#[derive(Clone)]
pub(crate) struct Dialer {
    target: Target,
    settings: Settings,
    abandoned: Abandoned,
}

impl Dialer {
    pub(crate) fn new(target: Target, settings: Settings) -> Self {
        Dialer {
            target,
            settings,
            abandoned: Abandoned::default(),
        }
    }

    /// For a manager without a server: no connect succeeds.
    #[cfg(test)]
    pub(crate) fn nowhere(settings: Settings) -> Self {
        let target = Target::parse("host=/nowhere", &settings, None);
        Dialer::new(target.expect("it is well-formed"), settings)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The threads that are no longer waited for.
    pub(crate) fn abandoned(&self) -> &Abandoned {
        &self.abandoned
    }

    /// Where it connects to, and as whom.
    pub(crate) fn server(&self) -> &postgres::Config {
        &self.target.config
    }

    pub(crate) fn connector(&self) -> Connector {
        self.target.connector.clone()
    }

    /// How long to wait before another connection, so that abandoned ones do not pile up.
    pub(crate) fn pause(&self) -> Duration {
        self.abandoned.pause(self.target.connect_timeout())
    }

    /// Connects on a thread of its own. The outcome comes through the channel, which
    /// disconnects without one if that thread panics. If the receiver has been dropped, the
    /// session is closed on that thread. With fencing, `missing` says what to do about a
    /// missing sequence.
    pub(crate) fn spawn(
        self,
        generation: u64,
        missing: Missing,
    ) -> Result<Receiver<Result<Session, Error>>, Error> {
        let (sender, outcome) = bounded(1);
        thread::Builder::new()
            .name("distlock-dial".into())
            .spawn(move || sender.send(self.connect(generation, missing)).ok())
            .map_err(|error| Error::unavailable("no thread for the connect").caused_by(error))?;
        Ok(outcome)
    }

    fn connect(&self, generation: u64, missing: Missing) -> Result<Session, Error> {
        let settings = self.settings.clone();
        self.connect_first(move |target| {
            setup::connect_once(target, &settings, missing, generation)
        })
    }

    /// An ordinary client of the primary.
    pub(crate) fn client(&self) -> Result<Client, Error> {
        self.connect_first(client::connect)
    }

    /// Connects with `once` to the first suitable host. If there is none, returns the last error;
    /// but a standby does not replace `Unavailable`: the primary may be starting.
    fn connect_first<T: Send + 'static>(
        &self,
        once: impl Fn(&Target) -> Result<T, Error> + Clone + Send + 'static,
    ) -> Result<T, Error> {
        let mut outcome = Err(Error::config("the connection string names no host"));
        for host in shuffled(self.target.hosts(), &self.target) {
            let kind = |outcome: &Result<T, Error>| outcome.as_ref().err().map(Error::kind);
            let next = self.connect_host(&host, &once);
            let (before, now) = (kind(&outcome), kind(&next));
            if (before, now) != (Some(ErrorKind::Unavailable), Some(ErrorKind::Standby)) {
                outcome = next;
            }
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// The addresses of a host share its connect timeout.
    fn connect_host<T: Send + 'static>(
        &self,
        host: &Target,
        once: &(impl Fn(&Target) -> Result<T, Error> + Clone + Send + 'static),
    ) -> Result<T, Error> {
        // Without file descriptors the name lookup fails as well, but its error does not say why.
        descriptors::check()?;
        let deadline = Instant::now() + host.connect_timeout();
        let addresses = shuffled(addresses(host, &self.abandoned)?, host);
        let mut outcome = Err(Error::unavailable("the host has no address"));
        for (tried, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            let (address, once) = (address.within(share), once.clone());
            let connect = move || once(&address);
            outcome = within(share, &self.abandoned, connect).and_then(|outcome| outcome);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

/// `host`, once for each of its addresses.
fn addresses(host: &Target, abandoned: &Abandoned) -> Result<Vec<Target>, Error> {
    let ([Host::Tcp(name)], []) = (host.config.get_hosts(), host.config.get_hostaddrs()) else {
        return Ok(vec![host.clone()]);
    };
    let found: Vec<SocketAddr> = match name.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, host.port())],
        Err(_) => {
            let (name, port) = (name.clone(), host.port());
            // This may ask a name server, which may be silent, too.
            let look_up = move || Ok((name.as_str(), port).to_socket_addrs()?.collect());
            within(host.connect_timeout(), abandoned, look_up)?.map_err(|error: io::Error| {
                Error::unavailable("the database's host name cannot be looked up").caused_by(error)
            })?
        }
    };
    let is_scoped =
        |address: &SocketAddr| matches!(address, SocketAddr::V6(v6) if v6.scope_id() > 0);
    if found.iter().any(is_scoped) {
        // The driver accepts no scope with an address, but finds it itself by the name.
        return Ok(vec![host.clone()]);
    }
    Ok(found.iter().map(|address| host.at(address.ip())).collect())
}

/// In random order, if the connection string says so.
fn shuffled(mut targets: Vec<Target>, target: &Target) -> Vec<Target> {
    if target.config.get_load_balance_hosts() == LoadBalanceHosts::Random {
        targets.sort_by_cached_key(|_| RandomState::new().hash_one(()));
    }
    targets
}

/// What `work` returns within `limit`. What it returns later is dropped on its thread: the
/// channel has no buffer, so a value is either received or stays on the thread that made it.
fn within<T: Send + 'static>(
    limit: Duration,
    abandoned: &Abandoned,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (sender, result) = bounded(0);
    let (waiting, working) = abandoned.work();
    thread::Builder::new()
        .name("distlock-connect".into())
        .spawn(move || {
            let result = work();
            drop(working);
            sender.send(result).ok();
        })
        .map_err(|error| Error::unavailable("no thread for the connect").caused_by(error))?;
    result.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => {
            waiting.leave();
            Error::unavailable("the database did not answer within the connect timeout")
        }
        RecvTimeoutError::Disconnected => Error::unavailable("the connect has panicked"),
    })
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    use crossbeam_channel::{Sender, unbounded};

    use super::*;

    /// Reports on which thread it is dropped.
    struct Late(Sender<thread::ThreadId>);

    impl Drop for Late {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).ok();
        }
    }

    /// Results that come around the end of the wait, many of them at the very moment.
    #[test]
    fn a_late_answer_is_dropped_where_it_was_made() {
        let here = thread::current().id();
        let (dropped, drops) = unbounded();
        let mut late = 0;
        for n in 0..20_000_u64 {
            let limit = Duration::from_micros(100);
            // The wait begins once the thread has started.
            let until = Instant::now() + limit + Duration::from_nanos(n % 200 * 500);
            let dropped = dropped.clone();
            let work = move || {
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                Late(dropped)
            };
            match within(limit, &Abandoned::default(), work) {
                Ok(in_time) => drop(in_time),
                Err(_) => late += 1,
            }
        }
        drop(dropped);
        let elsewhere = drops.iter().filter(|thread| *thread != here).count();
        assert_eq!(elsewhere, late);
    }

    #[test]
    fn what_is_left_behind_counts_until_it_has_its_answer() {
        let abandoned = Abandoned::default();
        let (answer, answered) = bounded::<()>(0);
        let work = move || answered.recv().ok();
        assert!(within(Duration::from_millis(1), &abandoned, work).is_err());
        assert_eq!(abandoned.count(), 1);
        drop(answer);
        while abandoned.count() > 0 {
            thread::yield_now();
        }
    }
}
