//! All processes that descend from this one.
//!
//! As a subreaper the guardian becomes the parent of every descendant whose own parent has ended,
//! also of one in another process group or session. So none leaves the tree.
//!
//! To look at all processes takes milliseconds. Of a chain, where each process starts the next one and
//! ends, all that is seen may be gone by then; but the living one is nearly always a child of ours, and
//! the kernel has a list of these.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::mem;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpid, kill_process};

use crate::orphans;

/// An error if they could not be found.
pub(super) fn check() -> io::Result<()> {
    match fs::read_link("/proc/self")?.to_str() == Some(&getpid().to_string()) {
        true => Ok(()),
        false => Err(io::Error::other(
            "/proc is that of another PID namespace; mount this one's, as `unshare --mount-proc` does",
        )),
    }
}

/// Sends `signal` to all of them.
pub(super) fn signal(signal: Signal) -> io::Result<()> {
    for pid in descendants(&[])? {
        kill_process(pid, signal).ok();
    }
    Ok(())
}

/// Kills all of them, again and again: some cannot be killed.
pub(super) struct Killing {
    pause: Duration,
    is_refusal_told: bool,
}

impl Default for Killing {
    fn default() -> Killing {
        Killing {
            pause: Duration::from_millis(10),
            is_refusal_told: false,
        }
    }
}

impl Killing {
    const LONGEST_PAUSE: Duration = Duration::from_secs(1);

    /// Kills all but the trees of the `spared`. Once, the id of one that is not ours to kill, as one of
    /// another user.
    pub(super) fn kill(&mut self, spared: &[Pid]) -> io::Result<Option<Pid>> {
        let refusing = kill_except(spared)?;
        Ok(refusing.filter(|_| !mem::replace(&mut self.is_refusal_told, true)))
    }

    /// How long to wait for their ends before the next time.
    pub(super) fn pause(&mut self) -> Duration {
        let longer = (self.pause * 2).min(Killing::LONGEST_PAUSE);
        mem::replace(&mut self.pause, longer)
    }
}

fn kill_except(spared: &[Pid]) -> io::Result<Option<Pid>> {
    // None of them can start another one while it is looked for them.
    let mut found = HashSet::new();
    let mut stop_new = |mut pids: Vec<Pid>| {
        pids.retain(|pid| found.insert(*pid));
        for pid in &pids {
            kill_process(*pid, Signal::STOP).ok();
        }
        !pids.is_empty()
    };
    loop {
        while stop_new(own_children(spared)) {}
        if !stop_new(descendants(spared)?) {
            break;
        }
    }
    let refuses = |pid: &Pid| kill_process(*pid, Signal::KILL) == Err(Errno::PERM);
    Ok(found.into_iter().filter(refuses).last())
}

/// Our children now: not the guardian's.
pub(super) fn children() -> io::Result<Vec<Pid>> {
    // As nearly always. To look at all processes takes milliseconds.
    if orphans::ended() == Err(nix::errno::Errno::ECHILD) {
        return Ok(Vec::new());
    }
    let own = getpid();
    let is_child = |(pid, parent): &(Pid, Pid)| (*parent == own).then_some(*pid);
    Ok(processes()?.iter().filter_map(is_child).collect())
}

/// Ends all but the trees of the `spared`, and waits for that. `on_refusal` learns of one that is not ours
/// to kill.
pub(super) fn end_all_but(spared: &[Pid], on_refusal: impl Fn(Pid)) {
    let mut killing = Killing::default();
    while !descendants(spared).is_ok_and(|found| found.is_empty()) {
        if let Ok(Some(pid)) = killing.kill(spared) {
            on_refusal(pid);
        }
        orphans::reap();
        thread::sleep(killing.pause());
    }
}

/// Our children but for the `spared`, as the kernel lists them (proc_pid_task_children(5)), also those that
/// have ended and are not reaped. None if it has no such list.
fn own_children(spared: &[Pid]) -> Vec<Pid> {
    let list = format!("/proc/self/task/{}/children", getpid().as_raw_nonzero());
    let list = fs::read_to_string(list).unwrap_or_default();
    let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(Pid::from_raw)
        .filter(|pid| !spared.contains(pid))
        .collect()
}

/// All that descend from this process, but for the trees of the `spared`.
fn descendants(spared: &[Pid]) -> io::Result<Vec<Pid>> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for (pid, parent) in processes()? {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = vec![getpid()];
    let mut place = 0;
    while let Some(pid) = found.get(place) {
        let its = children.remove(pid).unwrap_or_default();
        found.extend(its.into_iter().filter(|pid| !spared.contains(pid)));
        place += 1;
    }
    Ok(found.split_off(1))
}

/// All processes that have not ended, with their parents. An error if they cannot be looked at, as
/// without a free file descriptor.
fn processes() -> io::Result<Vec<(Pid, Pid)>> {
    let mut found = Vec::new();
    for folder in fs::read_dir("/proc")? {
        let folder = folder?;
        let Some(pid) = folder.file_name().to_str().and_then(|it| it.parse().ok()) else {
            continue;
        };
        match fs::read_to_string(folder.path().join("stat")) {
            Ok(stat) => found.extend(Pid::from_raw(pid).zip(parent(&stat))),
            Err(error) if is_out_of_descriptors(&error) => return Err(error),
            // It has gone, or is another user's and hidden.
            Err(_) => {}
        }
    }
    Ok(found)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno == Some(Errno::MFILE) || errno == Some(Errno::NFILE)
}

/// The parent's id, of the fields that proc_pid_stat(5) lists. `None` of a process that has ended, and
/// is only not reaped.
fn parent(stat: &str) -> Option<Pid> {
    // The name before them may have spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let [state, parent, ..] = fields[..] else {
        return None;
    };
    // The first thread may have ended before the others: the process lives on with these.
    let threads = fields.get(17).and_then(|threads| threads.parse().ok());
    if state == "Z" && threads.unwrap_or(0) <= 1 {
        return None;
    }
    Pid::from_raw(parent.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent("17 (a) R) (x) S 4 17 17 0 -1"), Pid::from_raw(4));
        assert_eq!(parent("17"), None);
    }

    #[test]
    fn a_process_has_not_ended_before_its_last_thread() {
        let stat = |state, threads| {
            format!("17 (a) {state} 4 17 9 0 -1 4 2 0 0 0 3 1 0 0 20 0 {threads} 0 8 0 0")
        };
        assert_eq!(parent(&stat("R", 1)), Pid::from_raw(4));
        assert_eq!(parent(&stat("Z", 2)), Pid::from_raw(4));
        assert_eq!(parent(&stat("Z", 1)), None);
        assert_eq!(parent(&stat("Z", 0)), None);
    }

    #[test]
    fn children_and_grandchildren_are_found() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .unwrap();
        let pid = i32::try_from(shell.id()).unwrap();
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let children = || {
            let path = format!("/proc/{pid}/task/{pid}/children");
            fs::read_to_string(path).unwrap_or_default()
        };
        while children().is_empty() {
            assert!(std::time::Instant::now() < limit);
        }
        let child: i32 = children().trim().parse().unwrap();
        let found: Vec<_> = descendants(&[])
            .unwrap()
            .iter()
            .map(|pid| pid.as_raw_nonzero().get())
            .collect();
        kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
        shell.wait().unwrap();
        assert!(found.contains(&pid) && found.contains(&child), "{found:?}");
    }
}
