//! Reaching a server: each host in its turn, and none for longer than the connect timeout.
//!
//! The driver's own timeout is for the TCP connect alone. A host that accepts and then says
//! nothing would hang it for good and keep it from the hosts that follow, so each attempt
//! has a thread of its own, which is left behind when its time is over.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use postgres::config::{Host, LoadBalanceHosts};

use crate::config::Settings;
use crate::error::Error;
use crate::session::Session;
use crate::target::Target;

/// Attempts that are left behind and still wait for an answer. Nothing can end them but
/// the network or the server.
#[derive(Clone, Default)]
pub(crate) struct Stuck(Arc<AtomicU32>);

impl Stuck {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
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

/// Connects to the first host that will do. If none does, the last one's error counts.
pub(crate) fn dial(
    target: &Target,
    settings: &Settings,
    generation: u64,
    stuck: &Stuck,
) -> Result<Session, Error> {
    let mut outcome = Err(Error::config("the connection string names no host"));
    for host in shuffled(target.hosts(), target) {
        outcome = dial_host(&host, settings, generation, stuck);
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
        let (address, settings) = (address.clone(), settings.clone());
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
    let found = match name.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => {
            let (name, port) = (name.clone(), host.port());
            // Which may ask a name server, and that may be silent, too.
            let look_up = move || Ok((name.as_str(), port).to_socket_addrs()?.collect());
            within(host.connect_timeout(), stuck, look_up)?
                .map(|found: Vec<_>| found.iter().map(|address| address.ip()).collect())
                .map_err(|error: std::io::Error| {
                    Error::unavailable("the database's host name cannot be looked up")
                        .caused_by(error)
                })?
        }
    };
    Ok(found.iter().map(|address| host.at(*address)).collect())
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
    stuck.0.fetch_add(1, Ordering::SeqCst);
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
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}
