//! All processes that descend from this one.
//!
//! As a subreaper the guardian becomes the parent of every descendant whose own parent has ended,
//! also of one in another process group or session. So none leaves the tree.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
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

/// Kills all of them. The id of one that is not ours to kill, as one of another user.
pub(super) fn kill() -> io::Result<Option<Pid>> {
    kill_except(&[])
}

fn kill_except(spared: &[Pid]) -> io::Result<Option<Pid>> {
    // None of them can start another one while it is looked for them.
    let mut found = HashSet::new();
    loop {
        let mut new = descendants(spared)?;
        new.retain(|pid| found.insert(*pid));
        if new.is_empty() {
            break;
        }
        for pid in new {
            kill_process(pid, Signal::STOP).ok();
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

/// Ends all but the trees of the `spared`, and waits for that.
pub(super) fn end_all_but(spared: &[Pid]) {
    while !descendants(spared).is_ok_and(|found| found.is_empty()) {
        kill_except(spared).ok();
        orphans::reap();
        thread::sleep(Duration::from_millis(10));
    }
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
