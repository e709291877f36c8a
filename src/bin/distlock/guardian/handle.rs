//! [`Handle`]: the supervisor's end of the guardian.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};

use super::protocol::{Message, Order, Report, Terms};
use super::{GUARD, sockets, tree};
use crate::clock::BootTime;

pub(crate) struct Handle {
    process: Child,
    control: UnixStream,
    reports: Receiver<Report>,
}

impl Handle {
    /// Starts the guardian, which then waits for [`start`](Handle::start).
    pub(crate) fn spawn(
        terms: Terms,
        command: &[OsString],
        environment: &[(&str, String)],
    ) -> io::Result<Handle> {
        // Whom a guardian that was killed leaves behind can still be found.
        set_child_subreaper(Some(getpid()))?;
        let (control, theirs) = UnixStream::pair()?;
        let process = Command::new("/proc/self/exe")
            .arg(GUARD)
            .args(terms.to_args())
            .args(command)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // Not stopped or ended together with us.
            .process_group(0)
            .spawn()?;
        let (sender, reports) = unbounded();
        let from = control.try_clone()?;
        thread::Builder::new()
            .name("reports".into())
            .spawn(move || {
                while let Ok(Some(report)) = Report::read(&from) {
                    if sender.send(report).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Handle {
            process,
            control,
            reports,
        })
    }

    /// Has the command started. The guardian keeps the connections open that this process has now.
    pub(crate) fn start(&self, trusted_until: BootTime) -> io::Result<()> {
        let connections = sockets::send(&self.control, &Order::Start(trusted_until).encode())?;
        if connections == 0 {
            tracing::info!("no connection was found to be kept for the guardian");
        }
        // From now on: a guardian that is stopped must not stop us.
        self.control
            .set_write_timeout(Some(Duration::from_millis(10)))
    }

    /// What it reports; disconnects when it has gone.
    pub(crate) fn reports(&self) -> &Receiver<Report> {
        &self.reports
    }

    pub(crate) fn order(&self, order: Order) {
        // If there is no room, it is stopped.
        (&self.control).write_all(&order.encode()).ok();
        // Somebody may have stopped it: it has to act now.
        if let Order::End(_) = order
            && let Ok(pid) = i32::try_from(self.process.id())
            && let Some(pid) = Pid::from_raw(pid)
        {
            kill_process(pid, Signal::CONT).ok();
        }
    }

    /// Ends the guardian itself and all that it has left.
    pub(crate) fn kill(mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        tree::kill_all();
    }

    /// Reaps it once it has reported that all are gone.
    pub(crate) fn wait(mut self) {
        self.process.wait().ok();
    }
}
