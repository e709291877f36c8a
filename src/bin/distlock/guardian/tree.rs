//! All processes that descend from this one.
//!
//! As a subreaper the guardian becomes the parent of every descendant whose own parent has ended,
//! also of one in another process group or session. So none leaves the tree.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

/// Sends `signal` to all of them.
pub(crate) fn signal(signal: Signal) {
    for pid in descendants() {
        kill_process(pid, signal).ok();
        // One that is stopped cannot act on it.
        if signal != Signal::KILL {
            kill_process(pid, Signal::CONT).ok();
        }
    }
}

/// Ends all of them, and reaps them.
pub(crate) fn kill_all() {
    loop {
        signal(Signal::KILL);
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            Err(_) => return,
        }
    }
}

fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    for folder in folders {
        let name = folder.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok())
            && let Ok(stat) = fs::read_to_string(folder.path().join("stat"))
            && let Some(parent) = parent(&stat)
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![getpid().as_raw_nonzero().get()];
    let mut place = 0;
    while let Some(pid) = found.get(place) {
        found.extend(children.remove(pid).unwrap_or_default());
        place += 1;
    }
    found.drain(1..).filter_map(Pid::from_raw).collect()
}

/// The parent's id: the second field after the name, which may have spaces and parentheses.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent("17 (a) R) (x) S 4 17 17 0 -1"), Some(4));
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
        let found: Vec<_> = descendants()
            .iter()
            .map(|pid| pid.as_raw_nonzero().get())
            .collect();
        kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
        shell.wait().unwrap();
        assert!(found.contains(&pid) && found.contains(&child), "{found:?}");
    }
}
