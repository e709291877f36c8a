//! [`Handle`]: the supervisor's end of the guardian.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};
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
use crate::orphans;

pub(crate) struct Handle {
    process: Child,
    pid: Pid,
    control: UnixStream,
    reports: Receiver<Report>,
    /// Orders that there was no room for.
    pending: VecDeque<Order>,
    /// Children that we had before.
    others: Vec<Pid>,
}

impl Handle {
    /// Starts the guardian, which then waits for [`start`](Handle::start).
    pub(crate) fn spawn(
        terms: Terms,
        command: &[OsString],
        environment: &[(&str, Option<String>)],
    ) -> io::Result<Handle> {
        // Whom a guardian that was killed leaves behind can still be found.
        set_child_subreaper(Some(getpid()))?;
        let others = tree::children()?;
        let (control, theirs) = UnixStream::pair()?;
        let mut guardian = Command::new("/proc/self/exe");
        for (name, value) in environment {
            match value {
                Some(value) => guardian.env(name, value),
                None => guardian.env_remove(name),
            };
        }
        let process = guardian
            .arg(GUARD)
            .args(terms.to_args())
            .args(command)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // Not stopped or ended together with us.
            .process_group(0)
            .spawn()?;
        let number = i32::try_from(process.id()).unwrap_or_default();
        orphans::leave(number);
        let pid = Pid::from_raw(number).ok_or(io::ErrorKind::InvalidData)?;
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
            pid,
            control,
            reports,
            pending: VecDeque::new(),
            others,
        })
    }

    /// Has the command started. The guardian keeps the connections open that this process has now, but
    /// for those that it has `inherited`: there may be very many.
    pub(crate) fn start(&self, trusted_until: BootTime, inherited: &[RawFd]) -> io::Result<()> {
        let order = Order::Start(trusted_until).encode();
        let connections = sockets::send(&self.control, &order, inherited)?;
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

    /// Gives an order that must arrive: again, until there is room for it.
    pub(crate) fn order(&mut self, order: Order) {
        self.pending.push_back(order);
        // Somebody may have stopped the guardian: it has to act now.
        kill_process(self.pid, Signal::CONT).ok();
        self.send_pending();
    }

    /// Says until when the locks count as held. The next time will do, too.
    pub(crate) fn trust(&mut self, until: BootTime) {
        if self.send_pending() {
            self.send(Order::Trust(until));
        }
    }

    /// True if none is left.
    pub(crate) fn send_pending(&mut self) -> bool {
        while let Some(order) = self.pending.front() {
            if !self.send(*order) {
                return false;
            }
            self.pending.pop_front();
        }
        true
    }

    /// False if there is no room for it: the guardian is stopped.
    fn send(&self, order: Order) -> bool {
        (&self.control).write_all(&order.encode()).is_ok()
    }

    /// Ends the guardian itself, and all that it has left to us. `on_refusal` learns of a process that is
    /// another user's.
    pub(crate) fn end_all(mut self, on_refusal: impl Fn(i32)) {
        self.process.kill().ok();
        self.process.wait().ok();
        tree::end_all_but(&self.others, |pid| on_refusal(pid.as_raw_nonzero().get()));
    }

    /// Reaps it once it has reported that all are gone.
    pub(crate) fn reap(mut self) {
        self.process.wait().ok();
    }
}
