//! All processes that descend from this one.
//!
//! As a subreaper the guardian becomes the parent of every descendant whose own parent has ended,
//! also of one in another process group or session. So none leaves the tree.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpid, kill_process};

use crate::orphans;

/// Sends `signal` to all of them.
pub(super) fn signal(signal: Signal) {
    for pid in descendants(&[]) {
        kill_process(pid, signal).ok();
    }
}

/// Asks all of them to end. One that is stopped could not act on it.
pub(super) fn terminate() {
    signal(Signal::TERM);
    signal(Signal::CONT);
}

/// Kills all of them. The id of one that is not ours to kill, as one of another user.
pub(super) fn kill() -> Option<Pid> {
    kill_except(&[])
}

fn kill_except(spared: &[Pid]) -> Option<Pid> {
    // None of them can start another one while it is looked for them.
    let mut found = HashSet::new();
    loop {
        let mut new = descendants(spared);
        new.retain(|pid| found.insert(*pid));
        if new.is_empty() {
            break;
        }
        for pid in new {
            kill_process(pid, Signal::STOP).ok();
        }
    }
    let refuses = |pid: &Pid| kill_process(*pid, Signal::KILL) == Err(Errno::PERM);
    found.into_iter().filter(refuses).last()
}

/// Our children now: not the guardian's.
pub(super) fn children() -> Vec<Pid> {
    // As nearly always. To look at all processes takes milliseconds.
    if orphans::ended() == Err(nix::errno::Errno::ECHILD) {
        return Vec::new();
    }
    let own = getpid();
    let is_child = |(pid, parent): &(Pid, Pid)| (*parent == own).then_some(*pid);
    processes().iter().filter_map(is_child).collect()
}

/// Ends all but the trees of the `spared`, and waits for that.
pub(super) fn end_all_but(spared: &[Pid]) {
    while !descendants(spared).is_empty() {
        kill_except(spared);
        orphans::reap();
        thread::sleep(Duration::from_millis(10));
    }
}

/// All that descend from this process, but for the trees of the `spared`.
fn descendants(spared: &[Pid]) -> Vec<Pid> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for (pid, parent) in processes() {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = vec![getpid()];
    let mut place = 0;
    while let Some(pid) = found.get(place) {
        let its = children.remove(pid).unwrap_or_default();
        found.extend(its.into_iter().filter(|pid| !spared.contains(pid)));
        place += 1;
    }
    found.split_off(1)
}

/// All processes that have not ended, with their parents.
fn processes() -> Vec<(Pid, Pid)> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let process = |folder: fs::DirEntry| {
        let pid = folder.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(folder.path().join("stat")).ok()?;
        Some((Pid::from_raw(pid)?, parent(&stat)?))
    };
    folders.filter_map(process).collect()
}

/// The parent's id: the second field after the name, which may have spaces and parentheses. `None` of
/// a process that has ended, and is only not reaped.
fn parent(stat: &str) -> Option<Pid> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    fields.next().filter(|state| *state != "Z")?;
    Pid::from_raw(fields.next()?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent("17 (a) R) (x) S 4 17 17 0 -1"), Pid::from_raw(4));
        assert_eq!(parent("17 (a) Z 4 17 17 0 -1"), None);
        assert_eq!(parent("17"), None);
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
            .iter()
            .map(|pid| pid.as_raw_nonzero().get())
            .collect();
        kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
        shell.wait().unwrap();
        assert!(found.contains(&pid) && found.contains(&child), "{found:?}");
    }
}
