//! The parent's handle of a worker process.

use std::io;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use anyhow::Context;

use crate::Plan;

/// A worker process, which outlives neither this handle nor the demo.
pub(crate) struct Process {
    child: Child,
    /// Closes when this process ends for any reason; then the worker ends too. Kept
    /// out of `child`, which would close it when it is waited for.
    _lifeline: Option<ChildStdin>,
}

impl Process {
    pub(crate) fn start(
        plan: &Plan,
        folder: &Path,
        url: &str,
        number: u16,
    ) -> anyhow::Result<Process> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--processes", &plan.processes.to_string()])
            .args(["--threads", &plan.threads.to_string()])
            .args(["--jobs", &plan.jobs.to_string()])
            .args(plan.lawless.then_some("--lawless"))
            .arg("worker")
            .arg(folder)
            .arg(number.to_string())
            // It may hold a password, and any user can read a process's arguments.
            .env("DATABASE_URL", url)
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start a worker process")?;
        Ok(Process {
            _lifeline: child.stdin.take(),
            child,
        })
    }

    pub(crate) fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// SIGKILL: it gets no chance to release anything.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// How it ended; one that still runs is killed.
    pub(crate) fn end(mut self) -> io::Result<ExitStatus> {
        self.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        self.kill().ok();
    }
}
