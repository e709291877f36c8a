//! Who has a lock when several processes want it: each in its turn. To the server each manager is
//! a process.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Barrier, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use distlock::{Guard, Key, Manager};

use crate::support::*;

const MS: Duration = Duration::from_millis(1);

/// For how many milliseconds a process may pass a lock on among its threads while others wait.
const BUDGET: u32 = 20;

/// How many turns a process may have running in any case.
const RUN: u32 = 3;

/// How much more a process may have where the machine is busy: the other one may come late to its
/// next wait.
const SLACK: u32 = 4;

type Take = fn(&Manager) -> Option<Guard>;

fn wait(mgr: &Manager) -> Option<Guard> {
    Some(mgr.lock("turns").unwrap())
}

fn attempt(mgr: &Manager) -> Option<Guard> {
    mgr.try_lock("turns").unwrap()
}

fn wait_briefly(mgr: &Manager) -> Option<Guard> {
    // The server may not answer by then, which is an error that passes.
    match mgr.try_lock_for("turns", Duration::from_micros(200)) {
        Err(error) => {
            assert!(error.is_transient(), "{error:?}");
            None
        }
        taken => taken.unwrap(),
    }
}

/// Two processes take the lock by `takes` and hold it for `hold`, again and again. Returns whose
/// the first `count` turns were.
fn contend(takes: [Take; 2], hold: Duration, count: usize) -> Vec<usize> {
    let managers = [manager(), manager()];
    let together = Barrier::new(2);
    let turns = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for process in [0, 1] {
            let (mgr, take) = (&managers[process], takes[process]);
            let (together, turns) = (&together, &turns);
            scope.spawn(move || {
                together.wait();
                while turns.lock().unwrap().len() < count {
                    let Some(guard) = take(mgr) else {
                        continue;
                    };
                    turns.lock().unwrap().push(process);
                    thread::sleep(hold);
                    guard.unlock().unwrap();
                }
            });
        }
    });
    turns.into_inner().unwrap()
}

/// The longest run of each process, and the turns of the one with fewer in percent.
fn measure(turns: &[usize]) -> ([usize; 2], usize) {
    let mut longest = [0; 2];
    for run in turns.chunk_by(|one, next| one == next) {
        let longest = &mut longest[run[0]];
        *longest = run.len().max(*longest);
    }
    let of_first = turns.iter().filter(|process| **process == 0).count();
    let fewer = of_first.min(turns.len() - of_first);
    (longest, 100 * fewer / turns.len())
}

#[track_caller]
fn assert_turns(takes: [Take; 2], millis: u32) {
    // On a busy machine a process may not even get to ask for a while: the best of some attempts
    // counts.
    let told: Vec<String> = (0..5).map_while(|_| unfair_turns(takes, millis)).collect();
    assert!(told.len() < 5, "{told:#?}");
}

/// What was unfair, if anything was.
fn unfair_turns(takes: [Take; 2], millis: u32) -> Option<String> {
    let turns = contend(takes, MS * millis, (1500 / millis).clamp(60, 300) as usize);
    let (longest, percent) = measure(&turns);
    let most = (RUN.max(BUDGET / millis) * SLACK) as usize;
    let runs = turns.chunk_by(|one, next| one == next);
    let long = runs.filter(|run| run.len() > most).count();
    let is_fair = long <= 1 && percent >= 25;
    (!is_fair)
        .then(|| format!("{millis} ms: longest runs {longest:?}, the lesser share {percent} %"))
}

#[apply(isolated_test)]
fn two_processes_that_wait_for_a_lock_take_turns() {
    for millis in [1, 3, 10, 25] {
        assert_turns([wait, wait], millis);
    }
}

#[apply(isolated_test)]
fn a_process_that_tries_in_a_loop_and_one_that_waits_take_turns() {
    for millis in [1, 3, 10, 25] {
        assert_turns([wait, attempt], millis);
    }
}

#[apply(isolated_test)]
fn a_process_with_very_short_timeouts_and_one_that_waits_take_turns() {
    for millis in [1, 3, 10, 25] {
        assert_turns([wait, wait_briefly], millis);
    }
}

/// Without a hold a budget has as many turns as the machine allows, so it only counts how often the
/// lock goes to the other.
#[apply(isolated_test)]
fn a_lock_that_is_hardly_held_goes_to_and_fro() {
    for take in [wait as Take, attempt, wait_briefly] {
        let turns = contend([wait, take], Duration::ZERO, 3000);
        let changes = turns.windows(2).filter(|two| two[0] != two[1]).count();
        assert!(changes >= 4, "{changes}: {:?}", measure(&turns));
    }
}

/// Two readers, each of which keeps its share until the other has joined it.
#[derive(Default)]
struct Relay {
    /// How many shares each has had.
    shares: Mutex<[u64; 2]>,
    joined: Condvar,
    is_over: AtomicBool,
}

impl Relay {
    /// A reader whom the other cannot join gives up after this time, as real ones do whatever
    /// others do.
    const PATIENCE: Duration = Duration::from_millis(100);

    fn read(&self, mgr: &Manager, reader: usize) {
        let other = 1 - reader;
        while !self.is_over.load(SeqCst) {
            let guard = mgr.lock_shared("rw").unwrap();
            let mut shares = self.shares.lock().unwrap();
            shares[reader] += 1;
            let seen = shares[other];
            self.joined.notify_all();
            let alone = |shares: &mut [u64; 2]| shares[other] == seen;
            drop(
                self.joined
                    .wait_timeout_while(shares, Relay::PATIENCE, alone),
            );
            thread::sleep(MS);
            guard.unlock().unwrap();
        }
    }

    fn count(&self) -> u64 {
        self.shares.lock().unwrap().iter().sum()
    }
}

#[apply(isolated_test)]
fn a_writer_is_served_while_the_shares_of_two_other_processes_overlap() {
    const SHARES: u64 = 1000;
    let readers = [manager(), manager()];
    let (writer, relay) = (&manager(), &Relay::default());
    let later = thread::scope(|scope| {
        for (reader, mgr) in readers.iter().enumerate() {
            scope.spawn(move || relay.read(mgr, reader));
        }
        eventually(|| relay.count() >= 20);
        let before = relay.count();
        let write = scope.spawn(move || {
            let guard = writer.lock("rw").unwrap();
            let later = relay.count() - before;
            guard.unlock().unwrap();
            later
        });
        eventually(|| write.is_finished() || relay.count() >= before + SHARES);
        // If it has not been served by now, it is once the readers stop.
        relay.is_over.store(true, SeqCst);
        write.join().unwrap()
    });
    assert!(later < SHARES, "served only when the readers had stopped");
}

/// Processes that wait are served one after the other, also when each wants it again at once.
#[apply(isolated_test)]
fn of_ten_processes_that_wait_each_is_served_before_any_is_served_twice() {
    const PROCESSES: usize = 10;
    let number = Key::from("queue").as_i64();
    let (mut holder, mut admin) = (server().client(), server().client());
    holder
        .execute("SELECT pg_advisory_lock($1)", &[&number])
        .unwrap();
    let managers: Vec<Manager> = (0..PROCESSES).map(|_| manager()).collect();
    let served = Mutex::new(Vec::new());
    let all_waited = thread::scope(|scope| {
        let mut all_waited = true;
        for (process, mgr) in managers.iter().enumerate() {
            let served = &served;
            scope.spawn(move || {
                for _ in 0..2 {
                    let guard = mgr.lock("queue").unwrap();
                    served.lock().unwrap().push(process);
                    guard.unlock().unwrap();
                }
            });
            all_waited = all_waited && within(FOREVER / 6, || queued(&mut admin) == process + 1);
        }
        holder
            .execute("SELECT pg_advisory_unlock($1)", &[&number])
            .unwrap();
        all_waited
    });
    let served = served.into_inner().unwrap();
    assert!(all_waited, "not all wait in the server's queue");
    let mut first = served[..PROCESSES].to_vec();
    first.sort_unstable();
    assert_eq!(first, (0..PROCESSES).collect::<Vec<_>>(), "{served:?}");
}
