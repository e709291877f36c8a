//! The guardian: a shell that ends a server when its owner cannot.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::account::Account;

/// Waits for the pipe to close, ends all processes that work in the folder `$0`, and
/// removes it.
///
/// - The processes are identified by their working folder, not by the pid file: this also
///   finds a server that has yet to write that file, and sessions whose postmaster was
///   killed. A process that has exited has no working folder, reaped or not.
/// - Only `initdb` and `pg_basebackup` work in the folder itself. They may finish, because the
///   parts of `initdb` leave their shared memory behind when they are interrupted.
/// - SIGQUIT before SIGKILL, because a server that is killed leaves its shared memory behind, too.
/// - A small disk of the server's own is mounted on the folder of its data.
/// - SIGCONT, because a paused process does not handle SIGQUIT.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
working() { find /proc/[0-9]*/cwd -prune -lname "$1" 2>/dev/null | cut -d / -f 3; }
read -r _
round=0
while [ -n "$(working "$0")" ] && [ $round -lt 500 ]; do
    round=$((round + 1))
    sleep 0.02
done
round=0
while pids=$(working "$0*"); [ -n "$pids" ] && [ $round -lt 1000 ]; do
    if [ $round -lt 500 ]; then kill -QUIT $pids; else kill -KILL $pids; fi
    kill -CONT $pids
    round=$((round + 1))
    sleep 0.02
done
umount "$0/data" 2>/dev/null
rm -rf "$0"
"#;

/// A shell that outlives this process until it has cleaned up.
#[derive(Debug)]
pub(crate) struct Guardian(Child);

impl Guardian {
    /// It runs as the server's user, which owns the folder: where root may not inspect other
    /// users' processes, as in most containers, that user still may.
    pub(crate) fn of(folder: &Path, account: Option<Account>) -> io::Result<Guardian> {
        let mut command = Command::new("sh");
        command
            .args(["-c", SCRIPT])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C ends the owner, but not the shell that cleans up after it.
            .process_group(0);
        if let Some(account) = account {
            account.apply(&mut command);
        }
        Ok(Guardian(command.spawn()?))
    }

    /// Makes it clean up now, and waits for it.
    pub(crate) fn finish(&mut self) {
        // Waiting closes the pipe first.
        self.0.wait().ok();
    }
}
