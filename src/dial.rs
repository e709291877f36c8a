//! Reaching a server: each host in its turn, and none for longer than the connect timeout.
//!
//! The driver's own timeout is for the TCP connect alone. A host that accepts and then says
//! nothing would hang it for good and keep it from the hosts that follow, so each attempt
//! has a thread of its own, which is left behind when its time is over.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use postgres::config::{Host, LoadBalanceHosts};

use crate::config::Settings;
use crate::error::{Error, ErrorKind};
use crate::session::Session;
use crate::target::Target;

/// The longest pause before another connection.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Threads of a manager that are left behind and still wait for an answer, each with a
/// connection: attempts, and workers that were replaced. Nothing can end them but the
/// network or the server.
#[derive(Clone, Default)]
pub(crate) struct Stuck(Arc<AtomicU32>);

impl Stuck {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn enter(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn leave(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    /// How long to wait before there is another connection, so that they do not pile up:
    /// twice as long for each that `count` says is stuck.
    pub(crate) fn pause(count: u32, target: &Target) -> Duration {
        match count {
            0 => Duration::ZERO,
            _ => target
                .connect_timeout()
                .saturating_mul(1_u32.checked_shl(count).unwrap_or(u32::MAX))
                .min(LONGEST_PAUSE),
        }
    }
}

/// Connects on a thread of its own and sends the outcome. If nobody waits for it any
/// more, the session is closed on that thread.
pub(crate) fn spawn(
    target: &Target,
    settings: &Settings,
    generation: u64,
    stuck: &Stuck,
    outcomes: Sender<Result<Session, Error>>,
) -> Result<(), Error> {
    let (target, settings, stuck) = (target.clone(), settings.clone(), stuck.clone());
    thread::Builder::new()
        .name("distlock-dial".into())
        .spawn(move || {
            let outcome = dial(&target, &settings, generation, &stuck);
            outcomes.send(outcome).ok();
        })
        .map(drop)
        .map_err(|error| Error::unavailable("no thread for the connect").caused_by(error))
}

/// Connects to the first host that will do. If none does, the last one's error counts; but
/// a standby says nothing while the primary may be on its way.
pub(crate) fn dial(
    target: &Target,
    settings: &Settings,
    generation: u64,
    stuck: &Stuck,
) -> Result<Session, Error> {
    let mut outcome = Err(Error::config("the connection string names no host"));
    for host in shuffled(target.hosts(), target) {
        let kind = |outcome: &Result<Session, Error>| outcome.as_ref().err().map(Error::kind);
        let next = dial_host(&host, settings, generation, stuck);
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

/// The addresses of a host share its time.
fn dial_host(
    host: &Target,
    settings: &Settings,
    generation: u64,
    stuck: &Stuck,
) -> Result<Session, Error> {
    let deadline = Instant::now() + host.connect_timeout();
    let addresses = shuffled(addresses(host, stuck)?, host);
    let mut outcome = Err(Error::unavailable("the host has no address"));
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        let (address, settings) = (address.within(share), settings.clone());
        let connect = move || Session::connect(&address, &settings, generation);
        outcome = within(share, stuck, connect).and_then(|outcome| outcome);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// `host`, once for each of its addresses.
fn addresses(host: &Target, stuck: &Stuck) -> Result<Vec<Target>, Error> {
    let ([Host::Tcp(name)], []) = (host.config.get_hosts(), host.config.get_hostaddrs()) else {
        return Ok(vec![host.clone()]);
    };
    let found: Vec<SocketAddr> = match name.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, host.port())],
        Err(_) => {
            let (name, port) = (name.clone(), host.port());
            // Which may ask a name server, and that may be silent, too.
            let look_up = move || Ok((name.as_str(), port).to_socket_addrs()?.collect());
            within(host.connect_timeout(), stuck, look_up)?.map_err(|error: io::Error| {
                Error::unavailable("the database's host name cannot be looked up").caused_by(error)
            })?
        }
    };
    let is_scoped =
        |address: &SocketAddr| matches!(address, SocketAddr::V6(v6) if v6.scope_id() > 0);
    if found.iter().any(is_scoped) {
        // The driver takes no scope with an address; by the name it finds it itself.
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

/// What `work` returns within `limit`. What it returns later is dropped on its thread.
fn within<T: Send + 'static>(
    limit: Duration,
    stuck: &Stuck,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (sender, result) = bounded(1);
    let waits = Waits(stuck.clone());
    stuck.enter();
    thread::Builder::new()
        .name("distlock-connect".into())
        .spawn(move || {
            let result = work();
            drop(waits);
            sender.send(result).ok();
        })
        .map_err(|error| Error::unavailable("no thread for the connect").caused_by(error))?;
    result.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => {
            Error::unavailable("the database did not answer within the connect timeout")
        }
        RecvTimeoutError::Disconnected => Error::unavailable("the connect has panicked"),
    })
}

/// Counts an attempt for as long as it has no answer.
struct Waits(Stuck);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.leave();
    }
}
