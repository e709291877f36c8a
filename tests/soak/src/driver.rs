//! Starts the server and the processes, injects faults by the schedule, and collects the
//! journals.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use throwaway_postgres::{Proxy, Server, Shutdown, pause, resume};

use crate::check::Rules;
use crate::fault::{Fault, Kind};
use crate::fenced::{self, WRITERS_URL};
use crate::history::{History, now};
use crate::request::permits;
use crate::schedule::Schedule;
use crate::store::Store;
use crate::worker::{Broken, HEARTBEAT, LASTING, LEASE, SPACE, store_path};

/// How long the processes may take to work again after a fault.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two faults.
const CALM: Duration = Duration::from_millis(1200);

/// How long it takes at most until locks were acquired and changed in all ways.
const COMPLETE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Each line of the server's log begins with it.
const SQLSTATE: &str = "%e ";

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program to start as a worker, with the subcommand `worker`.
    pub program: PathBuf,
    pub processes: u32,
    pub threads: usize,
    /// How long it runs; every kind of fault occurs at least once in any case.
    pub length: Duration,
    pub seed: u64,
    pub broken: Option<Broken>,
}

/// What distlock promises with the settings of the workers. On a busy machine a thread may wait
/// for a processor for as long as the slack; the report has the measured times.
pub fn rules(plan: &Plan) -> Rules {
    let slack = Duration::from_secs(1);
    Rules {
        detection: HEARTBEAT + slack,
        aftermath: CALM - Duration::from_millis(200),
        slack,
        permits: permits(),
        is_complete: plan.length >= COMPLETE,
    }
}

/// Runs the plan. `report` is called with each fault.
pub fn run(plan: &Plan, mut report: impl FnMut(&str)) -> anyhow::Result<History> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::builder()
        .setting("log_line_prefix", SQLSTATE)
        .start()?;
    fenced::make_table(&mut server.client())?;
    let store = Store::open(&store_path(folder.path()))?;
    let mut history = History::default();
    let mut processes = (0..plan.processes)
        .map(|number| Process::start(plan, folder.path(), &server, number))
        .collect::<anyhow::Result<Vec<_>>>()?;
    await_work(folder.path(), &mut processes)?;
    let end = Instant::now() + plan.length;
    let mut schedule = Schedule::new(plan.seed);
    while Instant::now() < end || !schedule.has_had_all() {
        let kind = schedule.next();
        let holders = holders(&server)?;
        let all_workers: Vec<u32> = (0..plan.processes).collect();
        let target = schedule.one_of(if holders.is_empty() {
            &all_workers
        } else {
            &holders
        });
        let process = match kind {
            Kind::Crash | Kind::Restart | Kind::FailOver => None,
            _ => Some(target),
        };
        report(&format!("{kind:?} {process:?}"));
        let from = strike(kind, target, &mut processes, &mut server, &mut schedule)?;
        if kind == Kind::Kill {
            let process = &mut processes[target as usize];
            history.killed.insert((target, process.life), from);
            process.restart(plan, folder.path())?;
        }
        history.faults.push(Fault {
            kind,
            process,
            from,
            until: now(),
        });
        thread::sleep(CALM);
        await_work(folder.path(), &mut processes).with_context(|| format!("after {kind:?}"))?;
    }
    // All of them first: who waits for a lock without a limit gets it once the others are done.
    processes.iter_mut().for_each(Process::tell_to_end);
    for process in processes {
        process.end()?;
    }
    assert_released(&server)?;
    assert_understood(&server)?;
    history.writes = store.close();
    history.fenced = fenced::read(&mut server.client())?;
    history.read(folder.path())?;
    Ok(history)
}

/// A synchronous standby of the server.
fn standby_of(server: &Server) -> anyhow::Result<Server> {
    let standby = Server::builder()
        .standby_of(server)
        .setting("log_line_prefix", SQLSTATE)
        .start()?;
    server.await_standby();
    Ok(standby)
}

/// Injects a fault and repairs it. Returns when it was injected.
fn strike(
    kind: Kind,
    target: u32,
    processes: &mut [Process],
    server: &mut Server,
    schedule: &mut Schedule,
) -> anyhow::Result<u64> {
    let past_the_lease = LEASE + Duration::from_secs(1);
    let process = &mut processes[target as usize];
    let mut from = now();
    match kind {
        Kind::Terminate => signal_backends(server, "pg_terminate_backend", target)?,
        Kind::Cancel => {
            for _ in 0..50 {
                signal_backends(server, "pg_cancel_backend", target)?;
                thread::sleep(schedule.millis(0..30));
            }
        }
        Kind::Crash => server.restart(Shutdown::Immediate)?,
        Kind::Restart => server.restart(Shutdown::Fast)?,
        Kind::FailOver => {
            let standby = standby_of(server)?;
            from = now();
            server.stop(Shutdown::Immediate)?;
            standby.promote();
            for process in processes {
                process.proxy.retarget(&standby);
                process.writers.retarget(&standby);
            }
            assert_understood(server)?;
            *server = standby;
        }
        Kind::Kill => {
            process.child.kill()?;
            process.child.wait()?;
        }
        Kind::FreezeProcess => freeze(&[process.child.id().cast_signed()], past_the_lease),
        Kind::FreezeBackend => freeze(&backends(server, target)?, past_the_lease),
        Kind::FreezeParked => {
            let parked = await_parked(server, target)?;
            from = now();
            freeze(&parked, past_the_lease);
        }
        Kind::Partition => {
            process.proxy.silence(true);
            thread::sleep(past_the_lease);
            process.proxy.silence(false);
        }
        Kind::Slow => {
            process.proxy.delay_data(schedule.millis(20..150));
            thread::sleep(Duration::from_secs(2));
            process.proxy.delay_data(Duration::ZERO);
        }
        Kind::Cut => process.proxy.cut(),
        Kind::Reset => process.proxy.reset(),
        Kind::Tear => process.proxy.tear(),
    }
    Ok(from)
}

fn freeze(pids: &[i32], length: Duration) {
    pids.iter().for_each(|&pid| pause(pid));
    thread::sleep(length);
    pids.iter().for_each(|&pid| resume(pid));
}

fn signal_backends(server: &Server, function: &str, process: u32) -> anyhow::Result<()> {
    server.client().execute(
        &format!("SELECT {function}(pid) FROM pg_stat_activity WHERE application_name = $1"),
        &[&format!("soak-{process}")],
    )?;
    Ok(())
}

fn backends(server: &Server, process: u32) -> anyhow::Result<Vec<i32>> {
    let rows = server.client().query(
        "SELECT pid FROM pg_stat_activity WHERE application_name = $1",
        &[&format!("soak-{process}")],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The sessions of `process` that wait in the queue of a lock: at most times there is one.
fn await_parked(server: &Server, process: u32) -> anyhow::Result<Vec<i32>> {
    let mut client = server.client();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rows = client.query(
            "SELECT pid FROM pg_stat_activity JOIN pg_locks USING (pid) \
             WHERE application_name = $1 AND locktype = 'advisory' AND NOT granted",
            &[&format!("soak-{process}")],
        )?;
        if !rows.is_empty() || Instant::now() >= deadline {
            return Ok(rows.iter().map(|row| row.get(0)).collect());
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// The processes that hold one of the lasting locks.
fn holders(server: &Server) -> anyhow::Result<Vec<u32>> {
    let rows = server.client().query(
        "SELECT DISTINCT application_name FROM pg_stat_activity JOIN pg_locks USING (pid) \
         WHERE locktype = 'advisory' AND granted AND application_name LIKE 'soak-%' \
         AND objsubid = 2 AND classid::int8 = $1 AND objid::int8 >= $2",
        &[&i64::from(SPACE), &i64::from(LASTING.start)],
    )?;
    rows.iter()
        .map(|row| Ok(row.get::<_, &str>(0).trim_start_matches("soak-").parse()?))
        .collect()
}

/// Waits until every process has written something new.
fn await_work(folder: &Path, processes: &mut [Process]) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for process in processes {
        let before = process.written(folder)?;
        while process.written(folder)? == before {
            if let Some(status) = process.child.try_wait()? {
                bail!("process {} has ended: {status}", process.number);
            }
            let number = process.number;
            ensure!(Instant::now() < deadline, "process {number} does no work");
            thread::sleep(POLL_INTERVAL);
        }
    }
    Ok(())
}

/// Fails if locks or sessions of processes that have ended are left at the server.
fn assert_released(server: &Server) -> anyhow::Result<()> {
    let mut client = server.client();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: i64 = client
            .query_one(
                "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') + \
                 (SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'soak-%')",
                &[],
            )?
            .get(0);
        if left == 0 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{left} locks or sessions are left"
        );
        thread::sleep(POLL_INTERVAL);
    }
}

/// Fails if the server has not understood a statement (class 42: syntax, types, names): the manager
/// recovers from that, and so it would not be missed.
fn assert_understood(server: &Server) -> anyhow::Result<()> {
    let log = server.log();
    match log.lines().find(|line| line.starts_with("42")) {
        Some(line) => bail!("the server did not understand a statement: {line}"),
        None => Ok(()),
    }
}

/// A worker process and its proxy to the server.
struct Process {
    number: u32,
    life: u32,
    proxy: Proxy,
    /// For the connections that write, which no fault is meant for.
    writers: Proxy,
    child: Child,
    /// Closes when this process ends for any reason; then the worker ends too.
    lifeline: Option<ChildStdin>,
}

impl Process {
    fn start(plan: &Plan, folder: &Path, server: &Server, number: u32) -> anyhow::Result<Process> {
        let proxy = Proxy::to(server)?;
        let writers = Proxy::to(server)?;
        let (child, lifeline) = spawn(plan, folder, [&proxy, &writers], number, 0)?;
        Ok(Process {
            number,
            life: 0,
            proxy,
            writers,
            child,
            lifeline,
        })
    }

    /// Starts it again after its end.
    fn restart(&mut self, plan: &Plan, folder: &Path) -> anyhow::Result<()> {
        self.life += 1;
        let proxies = [&self.proxy, &self.writers];
        (self.child, self.lifeline) = spawn(plan, folder, proxies, self.number, self.life)?;
        Ok(())
    }

    /// How many bytes this life has written.
    fn written(&self, folder: &Path) -> anyhow::Result<u64> {
        let prefix = format!("{}-{}-", self.number, self.life);
        let mut bytes = 0;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                bytes += entry.metadata()?.len();
            }
        }
        Ok(bytes)
    }

    /// Has it begin no more work.
    fn tell_to_end(&mut self) {
        self.lifeline = None;
    }

    /// Waits until it has ended by itself.
    fn end(mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "process {}: {status}", self.number);
                return Ok(());
            }
            let number = self.number;
            ensure!(Instant::now() < deadline, "process {number} does not end");
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(
    plan: &Plan,
    folder: &Path,
    [proxy, writers]: [&Proxy; 2],
    number: u32,
    life: u32,
) -> anyhow::Result<(Child, Option<ChildStdin>)> {
    let mut command = Command::new(&plan.program);
    command
        .arg("worker")
        .arg(folder)
        .args([number, life].map(|number| number.to_string()))
        .args(["--threads", &plan.threads.to_string()])
        .args(["--seed", &plan.seed.to_string()]);
    if let Some(broken) = plan.broken.and_then(|broken| broken.to_possible_value()) {
        command.args(["--broken", broken.get_name()]);
    }
    let mut child = command
        .env("DATABASE_URL", proxy.url())
        .env(WRITERS_URL, writers.url())
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start a worker")?;
    let lifeline = child.stdin.take();
    Ok((child, lifeline))
}
