//! Distributed locks for the threads and processes of synchronous programs, on the advisory
//! locks of PostgreSQL, with no other infrastructure.
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
//! A [`Manager`] owns one database connection and one worker thread, however many locks and
//! threads it serves. [`Manager::lock`] waits, [`Manager::try_lock`] does not,
//! [`Manager::try_lock_for`] waits up to a timeout. The [`Guard`] releases on drop; its [`Watch`]
//! trips the moment the lock is lost. [`Manager::with_lock`] runs a closure under the lock and
//! reports whether the lock lasted.
//!
//! # The protocol
//!
//! *Who decides.* A lock is a session-level [advisory lock] of the manager's one database
//! session, on the number of its [`Key`]. Between processes the server arbitrates. Between the
//! threads that share a manager the manager arbitrates, because to the server they are one
//! session.
//!
//! *What ends a hold.* Its guard is dropped or unlocked; its [`CancelToken`] is cancelled; the
//! manager is closed; or the session ends: the connection breaks, the server ends it, or the
//! holder has been silent for the length of the [lease](Builder::lease). [`Ended`] says which. A
//! cancelled token ends the hold for its watch, but does not release the lock: the guard keeps it
//! until it is dropped or unlocked, unless the token was given to [`Acquire::release_on`].
//!
//! *How a loss is noticed.* While a lock is held or awaited the worker makes a round trip at
//! least every [heartbeat](Builder::heartbeat) (30 ms). One that fails trips every watch of the
//! session. If the worker cannot run or the server does not answer, the clock trips them: a lock
//! counts as held for nine tenths of the lease after the start of the last successful round trip,
//! and the server keeps it for at least the whole lease.
//!
//! *What is not promised.* A lock can be lost while its holder works, and the holder learns of it
//! only afterwards: up to a heartbeat and a round trip later if the server ended the session; if
//! the holder was cut off or frozen and has a lease, before another holder can have the lock. Work
//! in the same database never overlaps with the next holder's if its transactions are
//! [fenced](Guard::fence). Work elsewhere that must not be done twice even then needs the
//! [token](Guard::token) of [`Builder::fencing`]. A child after a `fork` without `exec` has none
//! of the manager's threads; create managers after the fork. [Guarantees](guarantees) goes through
//! the faults one by one, with the test that shows each promise.
//!
//! *Waiting.* Threads of one manager are served first in, first out. A released lock is handed to
//! the next of them without the server for up to 20 ms at a stretch; then the server is asked
//! whether another process waits, which is then let have it before this one has it again. A manager
//! that holds nothing and waits for one lock waits in the server's queue, which costs about one
//! statement a second. Otherwise it asks again at intervals that stay below a tenth of the time
//! waited and, by default, below 500 ms, for all its waiters in one statement. [Capacity](capacity)
//! has what a manager costs the server, and how many it can have.
//!
//! # Recipes
//!
//! A cron job that must not overlap with itself, on any host. It runs twice if it ends on one
//! host before it starts on another, as when their clocks differ slightly:
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
//! longer than the starts can be apart, because of clock differences and other delays:
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
//! It still runs twice if the session is lost within that time, which the error reports only
//! while the job runs. Where that matters, record in the transaction of the job's own work for
//! which night it is done.
//!
//! Work that may be skipped, but where an outage of the database should not go unnoticed:
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
//! A program that starts together with its database, and reports the state of its connection
//! ([`Builder::connect_lazy`] does not wait for the database at all):
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
//! Writes to the same database, which nobody else's work under the lock can come before, whatever
//! happens to the lock meanwhile:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mgr = distlock::Manager::connect("host=localhost user=app")?;
//! # let mut client = postgres::Client::connect("host=localhost user=app", postgres::NoTls)?;
//! let guard = mgr.lock("report")?;
//! let mut transaction = client.transaction()?; // of any connection to the database
//! guard.fence(&mut transaction)?; // an error if the lock is lost
//! transaction.execute("UPDATE report SET text = $1", &[&"the report"])?;
//! transaction.commit()?; // until here nobody else gets the lock
//! # Ok(())
//! # }
//! ```
//!
//! A store elsewhere that refuses writes of a holder that has lost the lock and does not know it
//! yet:
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
//! A shutdown: one [`CancelToken`] ends all waits and tells all holders to stop, and each lock
//! is released when its holder has stopped:
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
//! Work that stops *before* the lock can be lost: [`Guard::time_left`] and
//! [`Watch::wait_at_risk`].
//!
//! # Pitfalls
//!
//! A guard that is dropped at once releases its lock at once. [`Manager::with_lock`] and
//! [`Manager::try_with_lock`] cannot be misused in this way. With the guards themselves, all of
//! these compile, no lint warns, and what follows runs without the lock:
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
//! Bind the guard to a name, such as `_guard`, and it lives to the end of the block:
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
//! The compiler warns in the simplest case, an unused guard of [`Manager::lock`]:
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
//! It then also suggests `let _ =`, which is the first line above: do not follow that. An
//! `Option` cannot be marked in this way, and clippy turns an `if let Some(_) =`, which works,
//! into the `is_some()` that does not.
//!
//! # Inside an async program
//!
//! Every call but [`Builder::client`] works on the threads of an async runtime, but most block the
//! calling thread:
//!
//! | Call | Blocks for |
//! |---|---|
//! | dropping a [`Guard`] or a [`Manager`]; [`Guard::is_lost`], [`time_left`](Guard::time_left), [`watch`](Guard::watch); [`Watch::ended`]; [`CancelToken::cancel`]; [`Manager::stats`] | no time: call them anywhere |
//! | [`Manager::try_lock`], shared or not, [`try_lock_all`](Manager::try_lock_all), [`try_lock_some`](Manager::try_lock_some), [`Guard::unlock`], [`try_upgrade`](Guard::try_upgrade), [`downgrade`](Guard::downgrade), [`fence`](Guard::fence), [`fence_sql`](Guard::fence_sql) | a round trip, or until the session is given up |
//! | [`Manager::lock`], shared or not, [`lock_all`](Manager::lock_all), [`Semaphore::acquire`], and the timed calls, [`Manager::with_lock`], all waits of a [`Watch`] | as long as it takes |
//! | [`Builder::connect`] and [`connect_within`](Builder::connect_within), [`Manager::close`] | seconds, if the server does not answer |
//!
//! So all but the first row belong on the runtime's threads for blocking calls, such as those of
//! `tokio::task::spawn_blocking`. A guard may be held across an `.await` and moved to another
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
//! A blocking call on a runtime's own thread stops every task of that thread. On a
//! current-thread runtime a [`Manager::lock`] of a key that another of its tasks holds never
//! returns: that task cannot run to release it. Dropping a future does not end the blocking call
//! behind it: give that call a timeout or a [`CancelToken`]; a guard that it still returns is
//! dropped, which releases the lock. The repository's `examples/in_async.rs` also stops its work
//! when the lock is lost.
//!
//! # Connection strings
//!
//! Both of libpq's [forms], `host=db1,db2 user=app` and `postgres://app@db1,db2/app`, mean what
//! they mean to `psql`: a later value replaces an earlier one, an empty value counts as unset, the
//! user defaults to the operating system's, the database to the user's name. Without a host the
//! local server's unix socket is used, in `/var/run/postgresql` if that directory exists, else in
//! `/tmp`. Blanks and newlines around the string are ignored. `service` and `passfile` name files
//! as for libpq; [`Manager::from_env`] and [`Builder::env_defaults`] also read the environment.
//!
//! Differences: `connect_timeout=0` selects the [builder's](Builder::connect_timeout) timeout and
//! is not endless; `keepalives_idle`, `keepalives_interval` and `keepalives_count` are limited to
//! what Linux accepts, and zero is the system's default; `target_session_attrs` may be `any`,
//! `read-write` or `primary`, and all three require a server that accepts writes; if a host
//! refuses the login, the next one is tried. A keyword that would not have its effect, such as
//! `sslcert`, `sslcrl`, `requirepeer`, `require_auth` or `gssencmode=require`, is a
//! [`Config`](ErrorKind::Config) error that names it; one that changes nothing, such as
//! `client_encoding=UTF8`, is accepted. No error shows a value.
//!
//! A [`postgres::Config`] may be given instead of a string ([`Manager::builder`]).
//!
//! [forms]: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
//!
//! # TLS
//!
//! With the feature `tls`, off by default, the connection string alone is enough. Its `sslmode`
//! and `sslrootcert` mean what they mean in [libpq]:
//!
//! | `sslmode` | encrypted | the server's certificate |
//! |---|---|---|
//! | `disable` | never | |
//! | `prefer`, the default | if the server has TLS | not checked without `sslrootcert` |
//! | `require` | always | not checked without `sslrootcert` |
//! | `verify-ca` | always | signed by a trusted root certificate |
//! | `verify-full` | always | as above, and issued for this host |
//!
//! `sslrootcert` names a PEM file with the trusted root certificates; if it is given, the
//! signature is checked in every mode. Without it the `verify-…` modes trust the system's root
//! certificates; `~/.postgresql/root.crt`, which libpq would use then, is not read.
//! `sslrootcert=system` selects the system's root certificates and `verify-full`, and is refused
//! with a weaker mode. Root certificates are read again at each connect, so they can be replaced
//! while the manager lives. If they cannot be read, that is a [`Config`](ErrorKind::Config) error
//! of [`Builder::connect`], and later a [`Tls`](ErrorKind::Tls) error until a reconnect can read
//! them. Only `verify-full` protects against a man in the middle:
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
//! Where the certificate is not checked, any is accepted, also one of X.509 version 1, which
//! `openssl x509 -req` makes unless it is given extensions; the server must have its private key
//! in any case. Where it is checked it must be of version 3. Its key can be RSA of 2048 to 8192
//! bits, ECDSA on P-256 or P-384, or Ed25519, and so can that of the certificate authority. P-521,
//! RSA-PSS and Ed448 are not supported: the error says so; use [`Builder::tls`] with another
//! implementation, such as OpenSSL, for them.
//!
//! Differences: host names are matched against subject alternative names only, not against the
//! certificate's common name; a certificate authority's own certificate is not accepted as a
//! server's; `prefer` does not retry without TLS after a failed handshake; `sslmode=allow`,
//! client certificates and revocation lists are not supported. There is no TLS on unix sockets;
//! but a unix socket in a list with other hosts is refused where TLS is required.
//!
//! [`Builder::tls`] takes any other implementation, with the feature or without. That then
//! verifies the certificate, and `sslmode` only says when TLS is used. Without either, a
//! connection string that asks for TLS is a [`Config`](ErrorKind::Config) error. Later failures
//! of TLS are of the kind [`Tls`](ErrorKind::Tls).
//!
//! [libpq]: https://www.postgresql.org/docs/current/libpq-ssl.html
//!
//! # Logs
//!
//! Through [`tracing`], whose `log` feature is on, so that they reach `log` as well. At `info`:
//! connects and reconnects, with how long there was no session. At `warn`: lost sessions, also
//! one that does not answer, a connection left behind by a close, the first failed attempt to connect or reconnect, once a minute
//! an outage that lasts, with its cause and age, a password file that others may read, and a
//! setting that a server does not accept. At `debug`: later failed attempts, and closing. A
//! [`Builder::connect`] that fails returns its error and does not log it. Nothing is logged for a
//! single lock.
//!
//! # When to use something else
//!
//! * A lock for the length of one transaction: `SELECT pg_advisory_xact_lock(…)` in it. It
//!   cannot outlive the work that it protects.
//! * Rows to be processed by one worker at a time: `SELECT … FOR UPDATE SKIP LOCKED`.
//! * A lock that must outlive its process, or be seen with its owner's name: a row in a
//!   table.
//! * An asynchronous program that wants no blocking threads: sqlx's `PgAdvisoryLock`, which
//!   costs a connection for each lock held, has no lease and no watch. Or this crate
//!   [from `spawn_blocking`](crate#inside-an-async-program).
//! * No Postgres, or locks across databases: etcd or Consul, which have leases too.
//!
//! # Limits
//!
//! * Locks are not reentrant: a thread that requests a lock it holds waits for itself.
//! * Deadlocks are not resolved: take several locks in one order everywhere, and see
//!   [`Builder::wait_limit`]. Those between threads of one manager are
//!   [logged](Builder::warn_after).
//! * All clients must use the same *database*: advisory locks of two databases of a server are
//!   different locks, and a standby has its own.
//! * The connection must be a session of its own. A pooler in transaction or statement mode lends
//!   one session to many clients. Every connect and reconnect detects that by testing whether
//!   locks are released when their client disconnects and stay while it is connected. It is
//!   [refused](ErrorKind::Pooler), as are a pool in session mode that does not reset its sessions
//!   and a [standby](ErrorKind::Standby).
//! * Processes that wait in the server's queue are served first in, first out; between those that
//!   ask at intervals it is chance who is the next.
//! * From 256 locks on the session is `idle in transaction`, in a transaction that is renewed
//!   every second or two. A statement's snapshot stays with it until the next statement or
//!   heartbeat, so it holds VACUUM back for a heartbeat at most (30 ms by default). CREATE
//!   INDEX CONCURRENTLY waits for the end of each transaction that it finds with a snapshot, so
//!   for two seconds at most. Not with fencing. The same goes for as long as a lock's
//!   transactions are [fenced](Guard::fence), and up to two seconds longer.
//! * A [fenced transaction](Guard::fence) keeps the next holder out as long as it is open: end it
//!   soon. It excludes managers of this crate; other programs have to
//!   [drain](Key#companions) the locks that they take.
//! * The server's lock table is finite: about
//!   `max_locks_per_transaction × (max_connections + max_prepared_transactions)` locks
//!   of all kinds and sessions together.
//!
//! # Questions
//!
//! *Which row of `pg_locks` is a lock?* [`Key::as_i64`] is the number: `classid` and `objid` are
//! its upper and lower 32 bits, `objsubid` is 1 (2 for a pair of numbers).
//!
//! *Does a lock survive a restart of the server?* No: it ends with the session, and its watch
//! trips. The manager reconnects by itself; a caller that still wants the lock acquires it again.
//!
//! *Which privileges does the role need?* To connect. With fencing, also to draw from the sequence
//! (`USAGE`), or to create it.
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
mod fence;
mod guard;
mod health;
mod holder;
mod key;
mod lease;
mod manager;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod observer;
mod op;
mod semaphore;
mod session;
mod stats;
mod sync;
mod table;
mod watch;
mod with_lock;
mod worker;

pub use crate::acquire::Acquire;
pub use crate::acquire::all::AcquireAll;
pub use crate::builder::Builder;
pub use crate::cancel::CancelToken;
pub use crate::connect::target::ConnectConfig;
pub use crate::credentials::Credentials;
pub use crate::error::{Error, ErrorKind};
pub use crate::guard::Guard;
pub use crate::guard::set::GuardSet;
pub use crate::health::Health;
pub use crate::holder::{Claim, Holder};
pub use crate::key::Key;
pub use crate::lease::Ended;
pub use crate::manager::Manager;
pub use crate::semaphore::{Permits, Semaphore};
pub use crate::stats::Stats;
pub use crate::watch::Watch;
pub use crate::with_lock::WithLockError;

#[cfg(doc)]
#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}

#[cfg(doc)]
#[doc = include_str!("../docs/capacity.md")]
pub mod capacity {}

/// Compiles the README's examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
