//! What must be true of a server, and of the path to it, for locks to mean anything.
//!
//! A lock depends on two properties of the path:
//!
//! * **P1**: when a client disconnects, its locks are released;
//! * **P2**: while a client stays connected, its session and its locks stay.
//!
//! The path may contain anything: one or more poolers, load balancers. So neither property is
//! inferred from what the path looks like; both are tested, on every connect, and only what was
//! observed is accepted:
//!
//! ```text
//! first connection    takes a lock that no other process uses, the probe, and disconnects
//! second connection   sees that the probe is released                         P1
//!                     takes the marker, a lock that it keeps until it ends
//!                     finds the marker, in the same server process, later on  P2
//! ```
//!
//! A pooler that shares its sessions among clients keeps the probe in one of them, however many
//! poolers there are, and so does a session pool that does not reset its sessions. A pooler that
//! resets them after each transaction loses the marker. The two connections are made one after
//! the other: one free slot is enough, of a pool, a role or a server.
//!
//! Both connections must also have taken the same kind of path: they must reach the same server,
//! and if one session is older than the connection to it, which means that it is a pool's, the
//! first one's session must have outlived its client.
//!
//! In a session that a pool shares, another client can release the probe and the marker. So the
//! session of a pool is checked more often here, and [verified](crate::session::marker) with
//! every batch and heartbeat afterwards.
//!
//! No setting of a session is changed before both properties are proven.

use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::errors::{is_full, not_locking, refused_check};
use super::login::login;
use super::probe;
use crate::connect::target::Target;
use crate::error::{Error, ErrorKind};
use crate::session::errors::{ATTEMPTS, retry_if_cancelled};
use crate::session::parked::WaitNotice;

/// The first version with the lease (`idle_session_timeout`), and the oldest maintained.
const FIRST: i32 = 140_000;

pub(super) const STANDBY: &str = "the server is a standby: its locks exclude no session of the \
     primary; connect to the primary, or name all hosts in the connection string";

/// How long the server may still show a client that has disconnected: its process needs a
/// moment to end. At most half the time for the connect.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pauses between two checks for it.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How often the marker is checked in the session of a pool.
const POOLED_CHECKS: u32 = 4;

/// A connection whose server and path are proven.
pub(super) struct Proven {
    pub(super) client: Client,
    /// Where the session's notices come to.
    pub(super) wait_notice: WaitNotice,
    /// The server's process.
    pub(super) pid: i32,
    /// True if the session is older than the connection to it: it belongs to a pool.
    pub(super) is_pooled: bool,
    /// The server's, such as 150004.
    pub(super) version: i32,
    /// The second half of the [marker](crate::session::marker::MARKER_CLASS) that its session
    /// holds.
    pub(super) marker: i32,
}

/// Connects to the only host of `target`, and proves that locks mean something there.
pub(super) fn connect(target: &Target) -> Result<Proven, Error> {
    for _ in 0..ATTEMPTS {
        let first = leave_probe(target)?;
        let (login, started) = second_login(target)?;
        if let Some(proven) = prove(login, started, &first, target)? {
            return Ok(proven);
        }
    }
    Err(Error::unavailable(
        "the path to the server cannot be verified now: two successive connections reached \
         different servers or took different paths",
    ))
}

/// The first connection, after it has disconnected.
struct First {
    probe: i64,
    pid: i32,
    version: i32,
    /// When its server was started, and when its session began, by the server's clock.
    server: i64,
    born: i64,
    is_pooled: bool,
}

fn leave_probe(target: &Target) -> Result<First, Error> {
    let started = Instant::now();
    let (mut client, _) = login(target)?;
    let probe = RandomState::new()
        .hash_one("a lock for nobody")
        .cast_signed();
    let before = *target.kept_probe.lock();
    let answer = ask(&mut client, &probe::leave(probe, before))?;
    let version = answer.number("version")?;
    if version < FIRST {
        return Err(Error::new(
            ErrorKind::ServerTooOld,
            format!("the server's version {version} is too old: PostgreSQL 14 or later is needed"),
        ));
    }
    if !answer.is_true("primary") {
        return Err(Error::new(ErrorKind::Standby, STANDBY));
    }
    if let Some(functions) = answer.text("forbidden") {
        return Err(Error::new(
            ErrorKind::Database,
            format!(
                "this role may not call all lock functions: have an administrator run GRANT \
                 EXECUTE ON FUNCTION {functions} TO <role>"
            ),
        ));
    }
    if answer.is_true("kept") {
        // The pooler of the last connect is still there: do not leave another lock behind.
        return Err(pooler());
    }
    if !answer.is_true("locked") || !answer.is_true("shown") {
        return Err(not_locking());
    }
    Ok(First {
        probe,
        version,
        pid: answer.number("pid")?,
        server: answer.number("server")?,
        born: answer.number("born")?,
        is_pooled: is_pooled(&answer, started)?,
    })
}

/// True if the session that gave `answer` is older than the connection to it, which was
/// `started` then. Each age is measured by a single clock, so the clocks need not agree.
fn is_pooled(answer: &Answer, started: Instant) -> Result<bool, Error> {
    // Two clocks do not run at the same rate.
    let elapsed = started.elapsed();
    let longest = elapsed + elapsed / 100 + Duration::from_millis(1);
    let age = answer.number::<i64>("time")? - answer.number::<i64>("born")?;
    let age = u64::try_from(age).map(Duration::from_micros);
    // If the clock was set back, the session counts as pooled.
    Ok(!age.is_ok_and(|age| age <= longest))
}

/// The second login, and when it began. If there is only one slot, the first connection's
/// process may still occupy it.
fn second_login(target: &Target) -> Result<((Client, WaitNotice), Instant), Error> {
    let mut waiting = Waiting::new(target);
    loop {
        let started = Instant::now();
        match login(target) {
            Err(error) if is_full(&error) && waiting.goes_on() => {}
            outcome => return Ok((outcome?, started)),
        }
    }
}

/// `None` if the two connections are not comparable, which proves nothing.
fn prove(
    (mut client, wait_notice): (Client, WaitNotice),
    started: Instant,
    first: &First,
    target: &Target,
) -> Result<Option<Proven>, Error> {
    let mut waiting = Waiting::new(target);
    let (marker, pid, is_pooled) = loop {
        let marker = (RandomState::new().hash_one("a marker") >> 32) as u32;
        let marker = marker.cast_signed();
        let answer = ask(&mut client, &probe::mark(first.probe, marker))?;
        let pid: i32 = answer.number("pid")?;
        if !answer.is_true("primary") {
            return Err(Error::new(ErrorKind::Standby, STANDBY));
        }
        if let Some(keeper) = answer.text("keeper") {
            // Another process may be that of the first connection, about to end.
            if keeper == pid.to_string() || !waiting.goes_on() {
                return Err(refuse(&mut client, target, first.probe, None));
            }
            continue;
        }
        if !answer.is_true("marked") {
            // Another session may hold a marker of this number: try another one.
            if !waiting.goes_on() {
                return Err(not_locking());
            }
            continue;
        }
        if answer.number::<i64>("server")? != first.server {
            release(&mut client, &probe::unmark(marker, pid));
            return Ok(None);
        }
        break (marker, pid, is_pooled(&answer, started)?);
    };
    let is_any_pooled = is_pooled || first.is_pooled;
    for _ in 0..if is_any_pooled { POOLED_CHECKS } else { 1 } {
        let answer = ask(&mut client, &probe::find(marker, first.pid, first.born))?;
        let is_same = answer.number::<i32>("pid")? == pid && answer.is_true("marked");
        if !is_same || answer.number::<i64>("locks")? != 1 {
            let marked = probe::unmark(marker, pid);
            return Err(refuse(&mut client, target, first.probe, Some(marked)));
        }
        if is_any_pooled && !answer.is_true("survived") {
            release(&mut client, &probe::unmark(marker, pid));
            return Ok(None);
        }
    }
    *target.kept_probe.lock() = None;
    Ok(Some(Proven {
        client,
        wait_notice,
        pid,
        is_pooled,
        version: first.version,
        marker,
    }))
}

/// Waits, in growing pauses, for what the server is about to release.
struct Waiting {
    deadline: Instant,
    pause: Duration,
}

impl Waiting {
    fn new(target: &Target) -> Self {
        Waiting {
            deadline: Instant::now() + PATIENCE.min(target.connect_timeout() / 2),
            pause: FIRST_PAUSE,
        }
    }

    /// Pauses and returns true, or false if the deadline has passed.
    fn goes_on(&mut self) -> bool {
        if Instant::now() >= self.deadline {
            return false;
        }
        thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// The error of a pooler: releases what can be reached of the locks that were left behind, and
/// remembers the probe, so that later connects leave no more.
fn refuse(client: &mut Client, target: &Target, probe: i64, marked: Option<String>) -> Error {
    *target.kept_probe.lock() = Some(probe);
    if let Some(marked) = marked {
        release(client, &marked);
    }
    release(client, &probe::release(probe));
    pooler()
}

/// Releases a lock that may be in another session than the one that runs this statement.
fn release(client: &mut Client, statement: &str) {
    for _ in 0..ATTEMPTS {
        match ask(client, statement) {
            Ok(answer) if !answer.is_true("done") => {}
            Ok(_) | Err(_) => return,
        }
    }
}

fn pooler() -> Error {
    Error::new(
        ErrorKind::Pooler,
        "the server keeps the locks of a client that has disconnected, or releases those of one \
         that is connected: a pooler shares one session among clients (transaction or statement \
         mode), or does not reset its sessions; connect to the server itself, or to a pool in \
         session mode with `server_reset_query = DISCARD ALL`",
    )
}

/// Runs `statements`, and retries if they are cancelled.
fn ask(client: &mut Client, statements: &str) -> Result<Answer, Error> {
    let messages = retry_if_cancelled(|| client.simple_query(statements)).map_err(refused_check)?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(Answer(messages.into_iter().filter_map(row).collect()))
}

/// The rows of several statements: one row each, with distinct columns.
struct Answer(Vec<SimpleQueryRow>);

impl Answer {
    /// `None` for NULL.
    fn text(&self, column: &str) -> Option<&str> {
        self.0.iter().find_map(|row| row.try_get(column).ok()?)
    }

    fn is_true(&self, column: &str) -> bool {
        self.text(column) == Some("t")
    }

    fn number<T: FromStr>(&self, column: &str) -> Result<T, Error> {
        let number = self.text(column).and_then(|number| number.parse().ok());
        number.ok_or_else(|| {
            Error::new(
                ErrorKind::Database,
                format!("the server does not report its {column}, which locks need"),
            )
        })
    }
}
