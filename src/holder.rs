//! [`Holder`]: a session that has to do with a lock, as the server sees it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::key::Key;

/// What a [`Holder`] has to do with the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Claim {
    /// Its session has the lock.
    Holds,
    /// It waits for the lock.
    Waits,
    /// It has a [fenced transaction](crate::Guard::fence) open, which the next holder waits for.
    Fenced,
}

/// A session that holds a lock, waits for it or keeps others from it: from
/// [`Manager::holders`](crate::Manager::holders) and [`Manager::list`](crate::Manager::list).
///
/// A manager is one session, however many of its threads hold or wait. What the manager's role may
/// not see of other roles' sessions is `None`; with the privileges of `pg_read_all_stats` it sees
/// all ([Predefined Roles]).
///
/// [Predefined Roles]: https://www.postgresql.org/docs/current/predefined-roles.html
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// What is locked, the namespace applied.
    pub key: Key,
    /// What the session has to do with it.
    pub claim: Claim,
    /// True for a share, false for an exclusive lock. `None` where the server does not know: of a
    /// manager that waits and asks at intervals, and of a fenced transaction.
    pub shared: Option<bool>,
    /// Since when it waits in the server's queue, by the server's clock. A parked manager waits in
    /// slices of less than a second, so this is the last one's begin.
    pub since: Option<SystemTime>,
    /// The process id of the server's backend, as in `pg_stat_activity`.
    pub pid: i32,
    /// The session's `application_name`.
    pub application_name: Option<String>,
    /// The client's address. `None` for a unix socket, too.
    pub address: Option<IpAddr>,
    /// True if it is a manager of this crate, and not another program.
    pub is_manager: bool,
    /// The second half of a manager's marker.
    pub(crate) marker: Option<i32>,
    /// When the session began, in microseconds since 1970 by the server's clock.
    pub(crate) started: Option<i64>,
}

/// What is asked of the server about holders. The answer is a list of them.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    /// Who has to do with this lock?
    Of(Key),
    /// What have managers to do with which locks?
    OfManagers,
    /// Who holds any of these locks?
    Among(Arc<[Key]>),
    /// To end the session of this one. The answer is what it had to do with which locks; none if
    /// the session has ended already.
    Evict(Box<Holder>),
}
