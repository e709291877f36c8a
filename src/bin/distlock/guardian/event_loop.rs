//! [`Guardian`]: the one thread of the guardian's process.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use rustix::process::{
    Pid, Signal, getpgid, getpid, getppid, kill_process, kill_process_group, set_child_subreaper,
};
use rustix::thread::set_name;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use signal_hook::consts as signals;

use super::EXEC;
use super::exec::NAME;
use super::protocol::{LENGTH, Linger, Message, Order, Report, Terms};
use super::tree::{self, Killing};
use crate::clock::BootTime;
use crate::exit::{Exit, Failure};
use crate::{orphans, signals as our_signals};

/// Where the command is.
enum Leader {
    Running(Pid),
    Ended,
}

pub(super) struct Guardian {
    terms: Terms,
    /// `None`: the supervisor has gone.
    control: Option<UnixStream>,
    /// Readable when a child has changed its state.
    changed: UnixStream,
    timer: OwnedFd,
    leader: Leader,
    /// Until then the lock counts as held.
    trusted_until: BootTime,
    /// SIGTERM has been sent for this time.
    warned_for: Option<BootTime>,
    /// When to kill what has been told to end, or is to be told.
    kill_at: BootTime,
    sigterm_is_due: bool,
    killing: Killing,
    /// The duplicates of the supervisor's connections, which are open for as long as we live.
    connections: Vec<OwnedFd>,
}

impl Guardian {
    /// Waits for the order to start, and starts the command. `None`: there is no supervisor any
    /// more, or the lock does not count as held any more.
    pub(super) fn start(
        mut args: impl Iterator<Item = OsString>,
    ) -> Result<Option<Guardian>, Failure> {
        let failed = |error: io::Error| Failure::own("the guardian cannot start", error);
        let Some(terms) = Terms::from_args(&mut args) else {
            let what = "this is started by `distlock run` only";
            return Err(Failure::new(Exit::USAGE, what));
        };
        let changed = prepare().map_err(failed)?;
        let control = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        let control = UnixStream::from(control);
        let Some((trusted_until, mut descriptors)) = await_start(&control).map_err(failed)? else {
            return Ok(None);
        };
        if descriptors.is_empty() {
            return Ok(None);
        }
        if BootTime::now() >= trusted_until {
            send(&control, Report::Warned);
            return Ok(None);
        }
        let stdin = descriptors.remove(0);
        let guardian = getpid().as_raw_nonzero().to_string();
        let process = Command::new("/proc/self/exe")
            .args([EXEC, &guardian])
            .args(args)
            .stdin(Stdio::from(stdin))
            .process_group(group(terms))
            .spawn()
            .map_err(failed)?;
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let leader = pid.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let clock = TimerfdClockId::Boottime;
        let timer = timerfd_create(clock, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK);
        Ok(Some(Guardian {
            terms,
            control: Some(control),
            changed,
            timer: timer.map_err(|error| failed(error.into()))?,
            leader: Leader::Running(leader),
            trusted_until,
            warned_for: None,
            kill_at: BootTime::NEVER,
            sigterm_is_due: false,
            killing: Killing::default(),
            connections: descriptors,
        }))
    }

    /// Until none of the command's processes is left.
    pub(super) fn run(mut self) {
        while self.has_children() && !self.is_released() {
            let next = self.keep_to_the_time();
            self.wait(next);
            self.obey();
        }
        self.report(Report::Gone);
    }

    fn is_released(&self) -> bool {
        matches!(self.leader, Leader::Ended) && self.terms.linger == Linger::Release
    }

    /// Reaps those that have ended. False if there are no children any more, and so no
    /// descendants.
    fn has_children(&mut self) -> bool {
        loop {
            let status = match orphans::ended() {
                Ok(status) => status,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return false,
            };
            let Some(pid) = status.pid() else {
                return true;
            };
            if let Leader::Running(leader) = self.leader
                && leader.as_raw_nonzero().get() == pid.as_raw()
            {
                self.on_leader_ended(leader, status);
            }
            waitpid(pid, None).ok();
        }
    }

    /// Reports the end of the leader, which is not reaped yet: its process id, and so its group's,
    /// may then be given to others.
    fn on_leader_ended(&mut self, leader: Pid, status: WaitStatus) {
        let report = match status {
            WaitStatus::Exited(_, code) if is_not_started(leader) => Report::NotStarted(code),
            WaitStatus::Exited(_, code) => Report::Exited(code),
            WaitStatus::Signaled(_, signal, _) => Report::Killed(signal as i32),
            _ => return,
        };
        self.leader = Leader::Ended;
        self.report(report);
        if self.terms.linger == Linger::End {
            self.end(BootTime::now().after(self.terms.grace));
        }
    }

    /// Sends the signals that are due. When the next one is.
    fn keep_to_the_time(&mut self) -> BootTime {
        if mem::take(&mut self.sigterm_is_due) {
            self.terminate();
        }
        let now = BootTime::now();
        let warn_at = self.trusted_until.before(self.terms.notice);
        let is_near = now >= warn_at;
        let is_new = is_near && self.warn();
        let last = self.trusted_until.min(self.kill_at);
        if now >= last {
            self.kill();
            return now.after(self.killing.pause());
        }
        // A command that is told to end already is not told again.
        if is_new && self.kill_at == BootTime::NEVER {
            self.terminate();
        }
        match is_near {
            true => last,
            false => last.min(warn_at),
        }
    }

    /// SIGTERM as soon as it is known that there still are processes, SIGKILL then.
    fn end(&mut self, kill_at: BootTime) {
        self.kill_at = self.kill_at.min(kill_at);
        self.sigterm_is_due = true;
    }

    /// Reports that the time of the lease is over, or nearly so. False if that is said already.
    fn warn(&mut self) -> bool {
        let is_new = self.warned_for != Some(self.trusted_until);
        if is_new {
            self.warned_for = Some(self.trusted_until);
            self.report(Report::Warned);
        }
        is_new
    }

    /// Asks all of them to end. One that is stopped could not act on it.
    fn terminate(&self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if tree::signal(signal).is_err() {
            self.signal_leader(signal);
        }
    }

    fn kill(&mut self) {
        match self.killing.kill(&[]) {
            Ok(Some(pid)) => self.report(Report::NotOurs(pid.as_raw_nonzero().get())),
            Ok(None) => {}
            Err(_) => self.signal_leader(Signal::KILL),
        }
    }

    /// For when the others cannot be found.
    fn signal_leader(&self, signal: Signal) {
        if let Leader::Running(leader) = self.leader {
            kill_process(leader, signal).ok();
            if self.terms.has_own_group {
                kill_process_group(leader, signal).ok();
            }
        }
    }

    /// Waits for an order, a change of a child, or that time.
    fn wait(&self, until: BootTime) {
        let value = match until {
            // Disarmed.
            BootTime::NEVER => Duration::ZERO,
            // Zero would disarm it, too.
            BootTime(at) => at.max(Duration::from_nanos(1)),
        };
        let timer = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(value),
        };
        // By the clock that runs on while the machine is suspended, which the timeout of `poll` does
        // not do.
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &timer).ok();
        let mut wanted = vec![
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::new(&self.changed, PollFlags::IN),
        ];
        if let Some(control) = &self.control {
            wanted.push(PollFd::new(control, PollFlags::IN));
        }
        poll(&mut wanted, None).ok();
        drop(wanted);
        io::copy(&mut &self.changed, &mut io::sink()).ok();
    }

    /// Does what the supervisor has ordered meanwhile.
    fn obey(&mut self) {
        while let Some(control) = &self.control {
            match Order::read(control) {
                Ok(Some(Order::Start(until) | Order::Trust(until))) => self.trusted_until = until,
                Ok(Some(Order::Signal(signal))) => self.pass_on(signal),
                Ok(Some(Order::End(at))) => self.end(at),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(None) | Err(_) => {
                    self.control = None;
                    self.on_supervisor_gone();
                }
            }
        }
    }

    fn pass_on(&self, signal: i32) {
        let Some(signal) = Signal::from_named_raw(signal) else {
            return;
        };
        match self.leader {
            Leader::Running(leader) if self.terms.has_own_group => {
                kill_process_group(leader, signal).ok();
            }
            _ => self.signal(signal),
        }
    }

    /// With its connections, its lock lives on here for a while.
    fn on_supervisor_gone(&mut self) {
        let grace = match self.connections.is_empty() {
            true => Duration::ZERO,
            false => self.terms.grace,
        };
        self.end(BootTime::now().after(grace));
    }

    fn report(&self, report: Report) {
        if let Some(control) = &self.control {
            send(control, report);
        }
    }
}

/// If there is no room for it, nobody has read the ones before.
fn send(mut control: &UnixStream, report: Report) {
    control.write_all(&report.encode()).ok();
}

/// What is to be so before there is a command. The end of a pipe that tells of children.
fn prepare() -> io::Result<UnixStream> {
    set_name(c"lock-guardian").ok();
    set_child_subreaper(Some(getpid()))?;
    // Signals are for the command, and come by the supervisor; only it ends the guardian.
    our_signals::ignore()?;
    let (changed, changes) = UnixStream::pair()?;
    changed.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signals::SIGCHLD, changes)?;
    Ok(changed)
}

/// The first order, and the descriptors that come with it. `None`: the supervisor has gone.
fn await_start(control: &UnixStream) -> io::Result<Option<(BootTime, Vec<OwnedFd>)>> {
    let mut bytes = [0; LENGTH];
    let mut space = vec![mem::MaybeUninit::uninit(); 4096];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let into = &mut [io::IoSliceMut::new(&mut bytes)];
        match recvmsg(control, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    if received.flags.contains(ReturnFlags::CTRUNC) {
        // The connection may be missing.
        return Err(io::Error::other("too many open file descriptors"));
    }
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    control.set_nonblocking(true)?;
    if received.bytes < LENGTH {
        return Ok(None);
    }
    match Order::decode(bytes)? {
        Order::Start(until) => Ok(Some((until, descriptors))),
        _ => Ok(None),
    }
}

/// True if the process, which has ended and is not reaped, never became the command.
fn is_not_started(pid: Pid) -> bool {
    let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    name.is_ok_and(|name| NAME.to_str() == Ok(name.trim_end()))
}

/// The process group of the command: its own, or the supervisor's.
fn group(terms: Terms) -> i32 {
    let supervisors = || getpgid(getppid()).ok();
    let shared = (!terms.has_own_group).then(supervisors).flatten();
    // Zero: its own.
    shared.map_or(0, |group| group.as_raw_nonzero().get())
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}
