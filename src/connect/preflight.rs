//! What must be true of a server, and of the path to it, for locks to mean anything.
//!
//! A lock rests on two properties of the path:
//!
//! * **P1**: when a client goes, its locks go;
//! * **P2**: while a client stays, its session and its locks stay.
//!
//! What stands between may be anything: poolers, several of them, balancers. So neither is
//! inferred from what the path looks like; both are tried, on every connect, and only what
//! was seen to hold is accepted:
//!
//! ```text
//! first connection    takes a lock that nobody else wants, the probe, and goes
//! second connection   sees the probe gone                                     P1
//!                     takes the marker, a lock that it keeps for its life
//!                     finds the marker, in the same server process, later on  P2
//! ```
//!
//! A pooler that lends its sessions out keeps the probe in one of them, however many poolers
//! there are, and so does a session pool that does not reset its sessions. One that resets
//! them after each transaction loses the marker. The two connections follow each other: one
//! free slot is enough, of a pool, a role or a server.
//!
//! That both connections took the same kind of path is checked as well: they must reach the
//! same server, and a session that is older than the connection to it is a pool's, so the first
//! one's session must have outlived its client then.
//!
//! What a pool lends out, another client can take the probe from, and the marker. So the
//! session of a pool is looked for more often, and goes on to be [verified](crate::session::marker)
//! with all that it does.
//!
//! Nothing of a session is changed before both are proven.

use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::errors::refused;
use super::login::login;
use super::probe;
use crate::connect::target::Target;
use crate::error::{Error, ErrorKind};
use crate::session::errors::{ATTEMPTS, is_cancelled, sqlstate};

/// The first version with the lease (`idle_session_timeout`), and the oldest maintained.
const FIRST: i32 = 140_000;

pub(super) const STANDBY: &str = "the server is a standby: its locks exclude nobody on the \
     primary; connect to the primary, or name all hosts in the connection string";

/// How long a client that has gone may be seen at the server, at most: its process needs a
/// moment to end. No longer than half the time for the connect.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pauses between two looks for it.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How often the marker is looked for in the session of a pool.
const POOLED_LOOKS: u32 = 4;

/// A connection whose server and path are proven.
pub(super) struct Proven {
    pub(super) client: Client,
    /// The server's process.
    pub(super) pid: i32,
    /// True if the session is older than the connection to it: there is a pool before it.
    pub(super) is_pooled: bool,
    /// The server's, such as 150004.
    pub(super) version: i32,
    /// The second half of the [marker](probe::MARKER_CLASS) that its session keeps.
    pub(super) marker: i32,
}

/// Connects to the only host of `target`, and proves that locks mean something there.
pub(super) fn connect(target: &Target) -> Result<Proven, Error> {
    for _ in 0..ATTEMPTS {
        let first = leave_probe(target)?;
        let (client, dialled) = login_behind(target)?;
        if let Some(proven) = prove(client, dialled, &first, target)? {
            return Ok(proven);
        }
    }
    Err(Error::unavailable(
        "it cannot be verified now that nothing stands between this client and its locks: two \
         connections, one after the other, went to different servers or by different paths",
    ))
}

/// The first connection, after it has gone.
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
    let dialled = Instant::now();
    let mut client = login(target)?;
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
        // As it was at the last connect: no need to leave another lock there.
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
        is_pooled: is_pooled(&answer, dialled)?,
    })
}

/// True if the session that gave `answer` is older than the connection to it, which was
/// `dialled` then. Both ages are of one clock each, so the clocks need not agree.
fn is_pooled(answer: &Answer, dialled: Instant) -> Result<bool, Error> {
    // Two clocks are not equally fast.
    let elapsed = dialled.elapsed();
    let longest = elapsed + elapsed / 100 + Duration::from_millis(1);
    let age = answer.number::<i64>("time")? - answer.number::<i64>("born")?;
    let age = u64::try_from(age).map(Duration::from_micros);
    // A clock that was set back proves nothing.
    Ok(!age.is_ok_and(|age| age <= longest))
}

/// The second login, and when it began. Where there is one slot, the first connection's process
/// may have it yet.
fn login_behind(target: &Target) -> Result<(Client, Instant), Error> {
    let mut waiting = Waiting::new(target);
    loop {
        let dialled = Instant::now();
        match login(target) {
            Err(error) if is_full(&error) && waiting.goes_on() => {}
            outcome => return Ok((outcome?, dialled)),
        }
    }
}

/// `None` if the two connections do not compare, and nothing is proven.
fn prove(
    mut client: Client,
    dialled: Instant,
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
            // Somebody else's for a moment may be a process that is about to end.
            if keeper == pid.to_string() || !waiting.goes_on() {
                return Err(refuse(&mut client, target, first.probe, None));
            }
            continue;
        }
        if !answer.is_true("marked") {
            // Another session may have this number; it has not all of them.
            if !waiting.goes_on() {
                return Err(not_locking());
            }
            continue;
        }
        if answer.number::<i64>("server")? != first.server {
            take_back(&mut client, &probe::unmark(marker, pid));
            return Ok(None);
        }
        break (marker, pid, is_pooled(&answer, dialled)?);
    };
    let is_any_pooled = is_pooled || first.is_pooled;
    for _ in 0..if is_any_pooled { POOLED_LOOKS } else { 1 } {
        let answer = ask(&mut client, &probe::find(marker, first.pid, first.born))?;
        let is_same = answer.number::<i32>("pid")? == pid && answer.is_true("marked");
        if !is_same || answer.number::<i64>("locks")? != 1 {
            let marked = probe::unmark(marker, pid);
            return Err(refuse(&mut client, target, first.probe, Some(marked)));
        }
        if is_any_pooled && !answer.is_true("survived") {
            take_back(&mut client, &probe::unmark(marker, pid));
            return Ok(None);
        }
    }
    *target.kept_probe.lock() = None;
    Ok(Some(Proven {
        client,
        pid,
        is_pooled,
        version: first.version,
        marker,
    }))
}

/// Waits for what must be gone in a moment, in growing pauses.
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

    /// False if it has been waited for long enough.
    fn goes_on(&mut self) -> bool {
        if Instant::now() >= self.deadline {
            return false;
        }
        thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// A pooler: gives back what can be reached of the locks that were left there, and remembers
/// the probe, so that later connects need not leave more.
fn refuse(client: &mut Client, target: &Target, probe: i64, marked: Option<String>) -> Error {
    *target.kept_probe.lock() = Some(probe);
    if let Some(marked) = marked {
        take_back(client, &marked);
    }
    take_back(client, &probe::give_back(probe));
    pooler()
}

/// Gives a lock back that may be in another session than the one that this statement gets.
fn take_back(client: &mut Client, statement: &str) {
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
        "the locks of a client that has gone stay at the server, or those of one that stays do \
         not: there is a pooler before the server that lends one session to many (transaction \
         or statement mode), or one that does not reset its sessions; connect to the server \
         itself, or to a pool in session mode with `server_reset_query = DISCARD ALL`",
    )
}

fn not_locking() -> Error {
    Error::new(
        ErrorKind::NotLocking,
        "the server accepts pg_try_advisory_lock, but the lock is not in pg_locks: it does \
         not keep advisory locks; use a PostgreSQL server",
    )
}

/// True if the error says that there is no slot for another connection.
fn is_full(error: &Error) -> bool {
    // PgBouncer has the second one for whatever it refuses; the kind tells more.
    let is_slot =
        |code| [SqlState::TOO_MANY_CONNECTIONS, SqlState::PROTOCOL_VIOLATION].contains(code);
    error.kind() == ErrorKind::Unavailable && sqlstate(error).is_some_and(is_slot)
}

/// Runs `statements`, again if they are cancelled.
fn ask(client: &mut Client, statements: &str) -> Result<Answer, Error> {
    let mut attempt = 1;
    let messages = loop {
        match client.simple_query(statements) {
            Err(error) if attempt < ATTEMPTS && is_cancelled(&error) => attempt += 1,
            outcome => break outcome.map_err(unfit)?,
        }
    };
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(Answer(messages.into_iter().filter_map(row).collect()))
}

/// The rows of some statements, each of which has one, with columns of its own.
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
                format!("the server has no {column} to tell, which locks need"),
            )
        })
    }
}

/// What an error of the checks says of the server.
fn unfit(error: postgres::Error) -> Error {
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Error::new(
            ErrorKind::Database,
            "this role may not call what a lock needs: the source names it; have an \
             administrator GRANT EXECUTE ON FUNCTION … TO <role>",
        )
        .caused_by(error),
        Some(&SqlState::UNDEFINED_FUNCTION | &SqlState::UNDEFINED_TABLE) => {
            not_locking().caused_by(error)
        }
        _ => refused(error),
    }
}
