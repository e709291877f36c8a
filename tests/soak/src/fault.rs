//! The kinds of faults that are injected.

use serde::{Deserialize, Serialize};

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `pg_terminate_backend` of a process's session.
    Terminate,
    /// `pg_cancel_backend` of a process's session, again and again.
    Cancel,
    /// The server drops everything and starts again.
    Crash,
    /// The server ends its sessions and starts again.
    Restart,
    /// The server crashes, and its synchronous standby takes its place and address.
    FailOver,
    /// SIGKILL of a process; a new one replaces it.
    Kill,
    /// SIGSTOP of a process for longer than its lease.
    FreezeProcess,
    /// SIGSTOP of a process's session at the server for longer than the lease.
    FreezeBackend,
    /// SIGSTOP, for longer than the lease, of a process's session at the server while that waits in
    /// the queue of a lock.
    FreezeParked,
    /// The network between a process and the server forwards nothing for longer than
    /// the lease.
    Partition,
    /// The network between a process and the server is slow.
    Slow,
    /// The network closes a process's connection.
    Cut,
    /// The network resets a process's connection.
    Reset,
    /// The network breaks a process's connection in the middle of a response.
    Tear,
}

impl Kind {
    pub const ALL: [Kind; 14] = [
        Kind::Terminate,
        Kind::Cancel,
        Kind::Crash,
        Kind::Restart,
        Kind::FailOver,
        Kind::Kill,
        Kind::FreezeProcess,
        Kind::FreezeBackend,
        Kind::FreezeParked,
        Kind::Partition,
        Kind::Slow,
        Kind::Cut,
        Kind::Reset,
        Kind::Tear,
    ];

    /// True if the server ends the session at once, so that its locks are free before their
    /// holder can know. A killed holder no longer counts as one.
    pub fn ends_sessions(self) -> bool {
        matches!(
            self,
            Kind::Terminate
                | Kind::Crash
                | Kind::Restart
                | Kind::FailOver
                | Kind::Cut
                | Kind::Reset
                | Kind::Tear
        )
    }
}

/// What happened, to which process (`None`: all), and when.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub process: Option<u32>,
    pub from: u64,
    pub until: u64,
}

impl Fault {
    pub fn concerns(&self, process: u32) -> bool {
        self.process.is_none_or(|concerned| concerned == process)
    }
}
