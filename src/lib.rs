//! Locks that the threads and processes of a synchronous program share through
//! PostgreSQL, with no other infrastructure.
//!
//! ```no_run
//! # fn main() -> Result<(), distlock::Error> {
//! let mgr = distlock::Manager::connect("postgres://app@db.example.com/app")?;
//! {
//!     let _guard = mgr.lock("nightly-report")?; // with a name: `let _ =` would drop it at once
//!     // only one of us, on all machines, is here
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Manager`] owns one database connection and one worker thread, however many
//! locks and threads it serves. [`Manager::lock`] waits, [`Manager::try_lock`] does
//! not, [`Manager::try_lock_for`] waits for so long. The [`Guard`] releases on drop;
//! its [`Watch`] trips the moment the lock is lost. [`Manager::with_lock`] is all of it around
//! a closure, and says whether the lock lasted.
//!
//! # The protocol
//!
//! *Who decides.* A lock is a session-level [advisory lock] of the manager's one
//! database session, by the number of its [`Key`]. Between processes the server
//! decides. Between the threads of a process the manager decides, because to the
//! server they are one session.
//!
//! *What ends a hold.* Its guard is dropped or unlocked; its [`CancelToken`] is
//! cancelled; the manager is closed; or the session ends: the connection breaks, the
//! server ends it, or the holder has been silent for the length of the
//! [lease](Builder::lease). [`Ended`] says which. A cancelled token ends the hold, for its
//! watch, and not the lock: that stays until the guard goes, unless it was asked for
//! otherwise ([`Acquire::release_on`]).
//!
//! *How a loss is noticed.* While anything is held or awaited the worker makes a round
//! trip at least every [heartbeat](Builder::heartbeat) (30 ms). One that fails trips
//! every watch of the session. If the worker cannot run or the server does not answer,
//! the clock trips them: a hold is believed in for nine tenths of the lease after the
//! start of the last successful round trip, and the server keeps it for at least the
//! whole.
//!
//! *What is not promised.* A lock can be lost while its holder works, and the holder
//! learns of it only afterwards: up to a heartbeat and a round trip later if the
//! server ended the session, before anybody else can have the lock if the holder was
//! cut off or frozen and has a lease. Work that must not be done twice even then needs
//! a last line of defence of its own: a transaction, or the [token](Guard::token) of
//! [`Builder::fencing`]. A child after a `fork` without `exec` has none of the manager's
//! threads; make managers after the fork. [Guarantees](guarantees) goes through all faults,
//! one by one, with the test that shows each promise.
//!
//! *Waiting.* Threads of one process are served first in, first out. A released lock
//! goes to the next of them without the server for up to 20 ms on end; then this process
//! leaves it alone for long enough that any other that waits gets its turn. A lock that
//! another process has is tried again at intervals that stay below a tenth of the time
//! waited and, by default, below 50 ms, for all waiters of a process in one statement. With the
//! heartbeats between them that is about 45 statements a second for each process that waits.
//!
//! # Recipes
//!
//! A cron job that must not overlap with itself, wherever it starts. It runs twice if it is
//! over in one place before it starts in another, as when their clocks differ by a little:
//!
//! ```no_run
//! # fn report() {}
//! # fn main() -> Result<(), distlock::Error> {
//! # let mgr = distlock::Manager::connect("host=localhost user=app")?;
//! match mgr.try_lock("nightly-report")? {
//!     Some(_guard) => report(),
//!     None => println!("somebody else is at it"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A cron job that must run once each time, though every host starts it. The lock is held for
//! longer than the starts can lie apart, by the hosts' clocks and by what else delays them:
//!
//! ```no_run
//! # fn report() {}
//! # fn main() -> Result<(), distlock::Error> {
//! # let mgr = distlock::Manager::connect("host=localhost user=app")?;
//! use std::time::Duration;
//!
//! let apart = Duration::from_secs(60);
//! let nightly = mgr.acquire("nightly-report").hold_at_least(apart);
//! if nightly.try_with_lock(|_guard| report())?.is_some() {
//!     // The lock goes with the process: one that would end now has to stay for the minute.
//!     std::thread::sleep(apart);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! It still runs twice if the session is lost within that time, which the error tells only
//! while the job runs. Where that matters, write down with the job's own work, in its
//! transaction, for which night it is done.
//!
//! Work where not doing it is no tragedy but an outage of the database should not go
//! unnoticed:
//!
//! ```no_run
//! # fn sweep() {}
//! # fn main() -> Result<(), distlock::Error> {
//! # let mgr = distlock::Manager::connect("host=localhost user=app")?;
//! match mgr.try_lock("sweep") {
//!     Ok(Some(_guard)) => sweep(),
//!     Ok(None) => {}
//!     Err(error) if error.is_transient() => eprintln!("not now: {error}"),
//!     Err(error) => return Err(error), // somebody has to mend something
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A program that starts together with its database, and says how it stands with it
//! ([`Builder::connect_lazy`] does not even wait):
//!
//! ```no_run
//! # fn main() -> Result<(), distlock::Error> {
//! use std::time::Duration;
//!
//! let mgr = distlock::Manager::builder("host=db user=app")
//!     .connect_within(Duration::from_secs(60))?;
//! let health = mgr.health();
//! println!("ready: {}, for {:?}", health.connected, health.age());
//! # Ok(())
//! # }
//! ```
//!
//! A password that is rotated, or a token that expires: [`Builder::credentials`].
//!
//! Work in steps that stops when the lock is lost:
//!
//! ```no_run
//! # fn steps() -> std::vec::IntoIter<fn()> { Vec::new().into_iter() }
//! # fn main() -> Result<(), distlock::Error> {
//! # let mgr = distlock::Manager::connect("host=localhost user=app")?;
//! let guard = mgr.lock("import")?;
//! for step in steps() {
//!     if guard.is_lost() {
//!         break;
//!     }
//!     step();
//! }
//! guard.unlock()?; // an error if the lock did not last to the end
//! # Ok(())
//! # }
//! ```
//!
//! A store that refuses whoever has lost the lock and does not know it yet:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut store = postgres::Client::connect("host=localhost user=app", postgres::NoTls)?;
//! let mgr = distlock::Manager::builder("host=localhost user=app")
//!     .fencing("public.distlock_token")
//!     .connect()?;
//! let guard = mgr.lock("report")?;
//! let token = guard.token().expect("with fencing every guard has one");
//! let taken = store.execute(
//!     "UPDATE report SET text = $1, token = $2 WHERE token <= $2",
//!     &[&"the report", &token],
//! )?;
//! assert_eq!(taken, 1, "somebody has had the lock since");
//! # Ok(())
//! # }
//! ```
//!
//! A shutdown: one [`CancelToken`] ends all waits and tells all holders to stop, and each
//! lock goes when its holder has stopped:
//!
//! ```no_run
//! # fn steps() -> std::vec::IntoIter<fn()> { Vec::new().into_iter() }
//! # fn main() -> Result<(), distlock::Error> {
//! # let mgr = distlock::Manager::connect("host=localhost user=app")?;
//! use distlock::{CancelToken, ErrorKind};
//!
//! let shutdown = CancelToken::new(); // cancelled by a signal handler's thread
//! let guard = match mgr.acquire("import").cancel(&shutdown).lock() {
//!     Ok(guard) => guard,
//!     Err(error) if error.kind() == ErrorKind::Cancelled => return Ok(()),
//!     Err(error) => return Err(error),
//! };
//! for step in steps() {
//!     if guard.is_lost() {
//!         break; // told to stop, or the lock is lost
//!     }
//!     step();
//! }
//! guard.unlock()?; // nobody else was inside until here, cancelled or not
//! # Ok(())
//! # }
//! ```
//!
//! Many readers, one writer: [`Manager::lock_shared`] and [`Manager::lock`] of one key.
//!
//!
//! Work that stops *before* the lock can be lost: [`Guard::time_left`] and
//! [`Watch::wait_at_risk`].
//!
//! # Pitfalls
//!
//! A guard that is dropped at once is a lock that was never had. [`Manager::with_lock`] and
//! [`Manager::try_with_lock`] cannot be held wrong in this way. With the guards themselves,
//! all of these compile, no lint speaks up, and whatever follows runs without the lock:
//!
//! ```no_run
//! # fn main() -> Result<(), distlock::Error> {
//! # let mgr = distlock::Manager::connect("host=localhost user=app")?;
//! let _ = mgr.lock("key")?;                               // `_` keeps nothing
//! mgr.try_lock("key")?;                                   // nor does a statement
//! let Some(_) = mgr.try_lock("key")? else { return Ok(()) };
//! if mgr.try_lock("key")?.is_some() { /* not locked */ }
//! if mgr.try_lock("key")?.is_none() { return Ok(()) }
//! if mgr.lock("key").is_ok() { /* not locked */ }
//! match mgr.try_lock("key")? { Some(_) => {} None => return Ok(()) }
//! let watch = mgr.lock("key")?.watch();                   // a watch keeps no lock
//! # drop(watch);
//! # Ok(())
//! # }
//! ```
//!
//! Give the guard a name, if only `_guard`, and it lives to the end of the block:
//!
//! ```no_run
//! # fn main() -> Result<(), distlock::Error> {
//! # let mgr = distlock::Manager::connect("host=localhost user=app")?;
//! let _guard = mgr.lock("key")?;
//! let Some(_other) = mgr.try_lock("other")? else { return Ok(()) };
//! # Ok(())
//! # }
//! ```
//!
//! The compiler sees the plainest case, a guard of [`Manager::lock`] that nothing takes:
//!
//! ```compile_fail
//! # #![deny(unused_must_use)]
//! # fn main() -> Result<(), distlock::Error> {
//! # let mgr = distlock::Manager::connect("host=localhost user=app")?;
//! mgr.lock("key")?; // unused `Guard` that must be used
//! # Ok(())
//! # }
//! ```
//!
//! It then also advises `let _ =`, which is the first line above: do not follow it. An
//! `Option` cannot be marked in this way, and clippy turns an `if let Some(_) =`, which works,
//! into the `is_some()` that does not.
//!
//! # Inside an async program
//!
//! Every call works on the threads of an async runtime, but most of them block theirs:
//!
//! | Call | Blocks for |
//! |---|---|
//! | dropping a [`Guard`] or a [`Manager`]; [`Guard::is_lost`], [`time_left`](Guard::time_left), [`watch`](Guard::watch); [`Watch::ended`]; [`CancelToken::cancel`]; [`Manager::stats`] | nothing: call them anywhere |
//! | [`Manager::try_lock`], shared or not, [`Guard::unlock`] | a round trip, or until the server is given up |
//! | [`Manager::lock`], shared or not, and the timed calls, [`Manager::with_lock`], all waits of a [`Watch`] | as long as it takes |
//! | [`Builder::connect`] and [`connect_within`](Builder::connect_within), [`Manager::close`] | seconds, if the server does not answer |
//!
//! So all but the first go through the runtime's threads for blocking calls, such as those of
//! `tokio::task::spawn_blocking`. A guard may be held across an `.await` and go to another
//! thread:
//!
//! ```no_run
//! use distlock::{Guard, Manager};
//! use tokio::task::spawn_blocking;
//!
//! async fn lock(mgr: &Manager, key: &'static str) -> Result<Guard, Box<dyn std::error::Error>> {
//!     let mgr = mgr.clone();
//!     Ok(spawn_blocking(move || mgr.lock(key)).await??)
//! }
//!
//! # async fn report() {}
//! # async fn run(mgr: Manager) -> Result<(), Box<dyn std::error::Error>> {
//! let guard = lock(&mgr, "nightly-report").await?;
//! report().await;
//! spawn_blocking(move || guard.unlock()).await??;
//! # Ok(())
//! # }
//! ```
//!
//! A blocking call on the runtime's own thread stops every task of that thread. On a
//! current-thread runtime a [`Manager::lock`] of a key that another of its tasks holds waits for
//! itself: that task never gets to give it back. A future that is dropped does not end the
//! blocking call behind it: give that a timeout or a [`CancelToken`]; a guard that nobody takes
//! any more is dropped, and its lock is free. The repository's `examples/in_async.rs` also
//! stops its work when the lock is lost.
//!
//! # Connection strings
//!
//! Both of libpq's [forms], `host=db1,db2 user=app` and `postgres://app@db1,db2/app`, mean
//! what they mean to `psql`: the later of two values replaces the earlier, one that is empty
//! is not given, the user is by default the operating system's, the database the user's
//! namesake. Without a host it is the local server's unix socket, in `/var/run/postgresql`
//! if there is that folder, else in `/tmp`. Blanks and newlines around the string do not
//! matter. `service` and `passfile` name files as for libpq;
//! [`Manager::from_env`] and [`Builder::env_defaults`] read the environment, too.
//!
//! What differs: `connect_timeout=0` is the [builder's](Builder::connect_timeout) and not
//! endless; `keepalives_idle`, `keepalives_interval` and `keepalives_count` are cut to what
//! Linux takes, and zero is the system's default; of `target_session_attrs` there are `any`,
//! `read-write` and `primary`, and all mean a server that takes writes; if a host refuses the
//! login, the next one is tried. What would not be done as asked is a
//! [`Config`](ErrorKind::Config) error that names the keyword, such as `sslcert`, `sslcrl`,
//! `requirepeer`, `require_auth` or `gssencmode=require`; what asks for nothing, such as
//! `client_encoding=UTF8`, is taken. No error shows a value.
//!
//! A [`postgres::Config`] does instead of a string ([`Manager::builder`]).
//!
//! [forms]: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
//!
//! # TLS
//!
//! With the feature `tls`, off by default, the connection string alone is enough. Its
//! `sslmode` and `sslrootcert` have the meaning of [libpq]'s:
//!
//! | `sslmode` | encrypted | the server's certificate |
//! |---|---|---|
//! | `disable` | never | |
//! | `prefer`, the default | if the server has TLS | not checked without `sslrootcert` |
//! | `require` | always | not checked without `sslrootcert` |
//! | `verify-ca` | always | signed by a trusted authority |
//! | `verify-full` | always | that, and for this host |
//!
//! `sslrootcert` names a PEM file with the trusted authorities; given that, the signature is
//! checked in every mode. Without it the `verify-…` modes trust the system's authorities;
//! `~/.postgresql/root.crt`, which libpq would use then, is not read. `sslrootcert=system` is
//! the system's authorities and `verify-full`, and goes with no weaker mode. The authorities
//! are read again at each connect, so they can be replaced while the manager lives. If they
//! cannot be read, that is a [`Config`](ErrorKind::Config) error of [`Builder::connect`], and
//! later a [`Tls`](ErrorKind::Tls) error until a reconnect can read them. Only `verify-full`
//! keeps a man in the middle from reading along:
//!
//! ```no_run
//! # fn main() -> Result<(), distlock::Error> {
//! let mgr = distlock::Manager::connect(
//!     "postgres://app@db.example.com/app?sslmode=verify-full&sslrootcert=/etc/db/ca.pem",
//! )?;
//! # drop(mgr);
//! # Ok(())
//! # }
//! ```
//!
//! Where the certificate is not checked, any will do, also one of X.509 version 1, which
//! `openssl x509 -req` makes unless it is given extensions; the server must have its key in
//! any case. Where it is checked it has to be of version 3. The key can be RSA of 2048 to
//! 8192 bits, ECDSA on P-256 or P-384, or Ed25519, and so can the authority's. P-521, RSA-PSS
//! and Ed448 are not supported: the error says so, and [`Builder::tls`] with another
//! implementation, such as OpenSSL, is the way out.
//!
//! What differs: host names count only as subject alternative names, not as the
//! certificate's common name; a certificate authority's own certificate does not do for a
//! server; `prefer` does not try again without TLS after a handshake that failed;
//! `sslmode=allow`, client certificates and revocation lists are missing. There is no TLS
//! on unix sockets; but if one stands in a list beside other hosts, it is refused where
//! TLS is required.
//!
//! [`Builder::tls`] takes any other implementation, with the feature or without. It then
//! is what verifies, and `sslmode` only says when it is used. Where neither is there, a
//! connection string that asks for TLS is a [`Config`](ErrorKind::Config) error. What goes
//! wrong with TLS later is of the kind [`Tls`](ErrorKind::Tls).
//!
//! [libpq]: https://www.postgresql.org/docs/current/libpq-ssl.html
//!
//! # Logs
//!
//! Through [`tracing`], whose `log` feature is on, so that they reach `log` as well:
//! connects and reconnects at `info`, with how long there was no session; at `warn` lost
//! sessions, a connection that is given up, the first failed reconnect, every minute an outage
//! that lasts, with its cause and age, a password file that others may read, and a setting that
//! a server does not take; later failed reconnects and closing at `debug`. A
//! [`Builder::connect`] that fails returns its error and logs nothing.
//! Nothing is logged for a single lock.
//!
//! # When to use something else
//!
//! * A lock for the length of one transaction: `SELECT pg_advisory_xact_lock(…)` in it. It
//!   cannot outlive the work that it protects.
//! * Rows that one worker at a time is to take: `SELECT … FOR UPDATE SKIP LOCKED`.
//! * A lock that must outlive its process, or be seen with its owner's name: a row in a
//!   table.
//! * An asynchronous program that wants no blocking threads: sqlx's `PgAdvisoryLock`, which
//!   costs a connection for each lock held, has no lease and no watch. Or this crate
//!   [from `spawn_blocking`](crate#inside-an-async-program).
//! * No Postgres, or locks across databases: etcd or consul, which have leases too.
//!
//! # Limits
//!
//! * Locks are not reentrant: a thread that has one and asks for it again waits for itself.
//! * Deadlocks are not detected: take several locks in one order everywhere, and see
//!   [`Builder::wait_limit`].
//! * All parties must use the same *database*: advisory locks of two databases of a
//!   server are two different locks, and a standby has its own.
//! * The connection must be a session of its own. A pooler in transaction or statement mode
//!   lends one to many. That is found out at the connect and at every reconnect by trying
//!   whether a lock goes with its client and stays with it, and is [refused](ErrorKind::Pooler);
//!   so is a pool in session mode that does not reset its sessions, and a
//!   [standby](ErrorKind::Standby).
//! * Two processes that wait are served by chance, not in order. Readers of one process whose
//!   shares overlap without a gap keep a writer of another process waiting.
//! * From 256 locks on the session is `idle in transaction`, in a transaction that is renewed
//!   every second or two. A statement's snapshot stays with it until the next statement or
//!   heartbeat, so it holds VACUUM back for a heartbeat at most (30 ms by default). CREATE
//!   INDEX CONCURRENTLY waits for the end of each transaction that it meets with a snapshot, so
//!   for two seconds at most. Not with fencing.
//! * The server's lock table is finite: about
//!   `max_locks_per_transaction × (max_connections + max_prepared_transactions)` locks
//!   of all kinds and sessions together.
//!
//! # Questions
//!
//! *Which lock is it in `pg_locks`?* [`Key::as_i64`] is the number: `classid` and `objid` are
//! its upper and lower 32 bits, `objsubid` is 1 (2 for a pair of numbers).
//!
//! *Does a lock survive a restart of the server?* No: it ends with the session, and its watch
//! trips. The manager connects again by itself; whoever wants the lock asks again.
//!
//! *What may the role be allowed to do?* To connect. With fencing, to draw from the sequence,
//! or to make it.
//!
//! *How many managers does a program need?* One for each database. It serves all threads.
//!
//! *What does it cost when nothing is locked?* A connection that is silent, and two threads
//! that sleep.
//!
//! [advisory lock]: https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS

mod acquire;
mod backoff;
mod builder;
mod cancel;
mod clock;
mod config;
mod connect;
mod credentials;
mod error;
mod guard;
mod health;
mod key;
mod lease;
mod manager;
pub mod observer;
mod op;
mod session;
mod stats;
mod sync;
mod table;
mod watch;
mod with_lock;
mod worker;

pub use crate::acquire::Acquire;
pub use crate::builder::Builder;
pub use crate::cancel::CancelToken;
pub use crate::connect::target::ConnectConfig;
pub use crate::credentials::Credentials;
pub use crate::error::{Error, ErrorKind};
pub use crate::guard::Guard;
pub use crate::health::Health;
pub use crate::key::Key;
pub use crate::lease::Ended;
pub use crate::manager::Manager;
pub use crate::stats::Stats;
pub use crate::watch::Watch;
pub use crate::with_lock::WithLockError;

#[cfg(doc)]
#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}

/// Compiles the README's examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
