//! One process that acquires and releases locks, and records when each counted as held.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use distlock::{ErrorKind, Guard, Manager};
use postgres::{Client, NoTls};

use crate::fenced;
use crate::history::{Event, Journal, nanos, now};
use crate::store;

pub const LEASE: Duration = Duration::from_secs(2);
pub const HEARTBEAT: Duration = Duration::from_millis(30);
/// The first half of all keys.
pub(crate) const SPACE: i32 = 7700;
/// Held briefly by most threads, again and again.
const BRIEF: Range<i32> = 0..3;
/// Held for seconds by the first thread of each process: the targets of the faults.
pub(crate) const LASTING: Range<i32> = 100..102;
/// Held for seconds by the manager that stands by for it in each process.
const LEADER: Range<i32> = 102..103;
/// How long it may take until all locks are released.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a holder checks whether it has lost its lock.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A broken lock, to test that the checker detects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Broken {
    /// Each process locks keys of its own.
    NoExclusion,
    /// The holders never check whether they have lost it.
    WatchIgnored,
    /// Transactions are not fenced.
    FenceLeftOut,
}

#[derive(Args, Clone, Debug)]
pub struct Role {
    /// Where the journals are written, and the store listens
    pub folder: PathBuf,
    pub process: u32,
    /// How often this process has been started before
    pub life: u32,
    #[arg(long)]
    pub threads: usize,
    #[arg(long)]
    pub seed: u64,
    #[arg(long)]
    pub broken: Option<Broken>,
}

/// Works until standard input closes. `DATABASE_URL` names the database.
pub fn run(role: &Role) -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL is missing")?;
    let builder = || {
        Manager::builder(&url)
            .application_name(&application_name(role))
            .heartbeat(HEARTBEAT)
            .lease(LEASE)
            .reconnect_backoff(Duration::from_millis(20), Duration::from_millis(200))
    };
    let mgr = builder().fencing("public.distlock_token").connect()?;
    // It holds nothing else and has no tokens, and so waits in the server's queue.
    let standby = builder().connect()?;
    let writing = builder().connect()?;
    let mut writer = fenced::Writer::new(role, &writing)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        let threads: Vec<_> = (0..role.threads)
            .map(|number| {
                let mgr = &mgr;
                let keys = if number == 0 { LASTING } else { BRIEF };
                scope.spawn(move || work(role, number, mgr, keys, over))
            })
            .chain([scope.spawn(|| work(role, role.threads, &standby, LEADER, over))])
            .chain([scope.spawn(|| writer.work(over))])
            .collect();
        // The driver closes its end when the worker is to end, or when it ends itself.
        let ended = std::io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::SeqCst);
        for thread in threads {
            thread.join().expect("a thread has panicked")?;
        }
        ended.map(drop).context("standard input")
    })?;
    let managers = [&mgr, &standby, &writing];
    await_released(&managers, &url, role)?;
    managers
        .iter()
        .try_for_each(|mgr| mgr.close().context("close"))
}

/// All guards are dropped, so all locks must be released before the session's end frees them.
fn await_released(managers: &[&Manager], url: &str, role: &Role) -> anyhow::Result<()> {
    let mut client = Client::connect(url, NoTls)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: i64 = client
            .query_one(
                "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
                 WHERE locktype = 'advisory' AND application_name = $1 \
                 AND NOT (objsubid = 2 AND classid::int8 = x'646c636b'::int8)",
                &[&application_name(role)],
            )?
            .get(0);
        let held: u64 = managers.iter().map(|mgr| mgr.stats().held).sum();
        if left == 0 && held == 0 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{left} locks were never released, {held} by the managers' count"
        );
        thread::sleep(POLL_INTERVAL);
    }
}

fn application_name(role: &Role) -> String {
    format!("soak-{}", role.process)
}

fn work(
    role: &Role,
    number: usize,
    mgr: &Manager,
    keys: Range<i32>,
    over: &AtomicBool,
) -> anyhow::Result<()> {
    let mut rng = fastrand::Rng::with_seed(
        role.seed ^ (u64::from(role.process) << 32 | u64::from(role.life) << 16 | number as u64),
    );
    let space = match role.broken {
        Some(Broken::NoExclusion) => SPACE + role.process.cast_signed(),
        _ => SPACE,
    };
    let mut journal = Journal::new(&role.folder, role.process, role.life, number)?;
    let mut store = store::Client::connect(&store_path(&role.folder))?;
    while !over.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(rng.u64(0..10)));
        let (key, shared) = (rng.i32(keys.clone()), rng.u8(0..5) == 0);
        let timeout = Duration::from_millis(rng.u64(0..1500));
        let acquire = mgr.acquire((space, key)).timeout(timeout);
        let acquire = if shared { acquire.shared() } else { acquire };
        let from = now();
        let outcome = acquire.try_lock();
        let until = now();
        called(&mut journal, from, from + nanos(timeout), until)?;
        match outcome {
            Ok(Some(guard)) => {
                // Without tokens the time is one: the processes have the same clock.
                let token = match guard.token() {
                    Some(token) => token,
                    None => i64::try_from(until)?,
                };
                journal.write(&Event::Taken {
                    key,
                    shared,
                    token,
                    at: until,
                })?;
                let length = match key {
                    key if LASTING.contains(&key) => rng.u64(3000..8000),
                    key if LEADER.contains(&key) => rng.u64(200..2000),
                    _ => rng.u64(0..15),
                };
                let length = Duration::from_millis(length);
                let (trusted, lost) = hold(role, length, &guard, || store.write(key, token))?;
                journal.write(&Event::Ended { trusted, lost })?;
                release(&mut journal, guard, rng.bool())?;
                if lost.is_some() {
                    // Too late: the store refuses it if a later holder has written.
                    store.write(key, token)?;
                }
            }
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Holds the lock for a while. Returns when it last counted as held, if ever, and when it
/// was found lost.
fn hold(
    role: &Role,
    length: Duration,
    guard: &Guard,
    mut write: impl FnMut() -> std::io::Result<bool>,
) -> anyhow::Result<(Option<u64>, Option<u64>)> {
    let end = Instant::now() + length;
    let mut trusted = None;
    loop {
        let before = now();
        if role.broken != Some(Broken::WatchIgnored) && guard.is_lost() {
            return Ok((trusted, Some(now())));
        }
        if trusted.is_none() {
            write()?;
        }
        trusted = Some(before);
        if Instant::now() >= end {
            return Ok((trusted, None));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// An unlock returns within the time of the lease; a drop never waits.
fn release(journal: &mut Journal, guard: Guard, wait: bool) -> anyhow::Result<()> {
    let from = now();
    let limit = if wait { nanos(LEASE) } else { 0 };
    if wait {
        // The lock may have been lost meanwhile.
        guard.unlock().ok();
    } else {
        drop(guard);
    }
    called(journal, from, from + limit, now())
}

/// Records a call only if it was late.
fn called(journal: &mut Journal, from: u64, deadline: u64, until: u64) -> anyhow::Result<()> {
    if until <= deadline {
        return Ok(());
    }
    Ok(journal.write(&Event::Called {
        from,
        deadline,
        until,
    })?)
}

pub(crate) fn store_path(folder: &Path) -> PathBuf {
    folder.join("store")
}
