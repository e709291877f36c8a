//! One process that acquires and releases locks, and records when each counted as held.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use distlock::Manager;
use postgres::{Client, NoTls};

use crate::fenced;
use crate::history::How;
use crate::locker::{Locker, Work};

pub const LEASE: Duration = Duration::from_secs(2);
pub const HEARTBEAT: Duration = Duration::from_millis(30);
/// The first half of all keys.
pub(crate) const SPACE: i32 = 7700;
/// Held for seconds by the first thread of each process: the targets of the faults.
pub(crate) const LASTING: Range<i32> = 100..102;
/// How long it may take until all locks are released.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a process that ends looks whether its locks are released.
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
                let work = if number == 0 { lasting() } else { brief() };
                scope.spawn(move || Locker::new(role, number, mgr, work)?.work(over))
            })
            .chain([
                scope.spawn(|| Locker::new(role, role.threads, &standby, leading())?.work(over))
            ])
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

/// Most threads hold locks briefly, again and again.
fn brief() -> Work {
    Work {
        keys: 0..5,
        hows: &[
            How::One,
            How::One,
            How::One,
            How::All,
            How::All,
            How::Some,
            How::Permit,
        ],
        millis: 0..15,
        rare_millis: 0..2000,
    }
}

fn lasting() -> Work {
    Work {
        keys: LASTING,
        hows: &[How::One, How::One, How::All],
        millis: 3000..8000,
        rare_millis: 3000..8000,
    }
}

/// The manager that stands by for a lock asks for that alone.
fn leading() -> Work {
    Work {
        keys: LASTING.end..LASTING.end + 1,
        hows: &[How::One],
        millis: 200..2000,
        rare_millis: 200..2000,
    }
}

pub(crate) fn store_path(folder: &Path) -> PathBuf {
    folder.join("store")
}
