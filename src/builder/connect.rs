//! The calls that connect: those of [`Builder`], and their short forms on [`Manager`].

use std::env;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use postgres::Client;

use super::Builder;
use crate::connect::Dialer;
use crate::connect::dsn::Environment;
use crate::connect::target::{ConnectConfig, Target};
use crate::error::Error;
use crate::key::names;
use crate::manager::Manager;
use crate::worker::handle::Handle;
use crate::worker::{self, Starting};

impl Builder {
    /// Connects and starts the worker.
    ///
    /// A connection is accepted only if locks are proven to work on it: the server is a
    /// primary, is recent enough and really keeps locks; when a client disconnects its locks are
    /// released; and while it is connected its session and its locks stay. This takes two
    /// connections, one after the other, so that one free slot is enough: the first leaves a lock
    /// behind, and the second checks that it is gone. A pooler that lends one session to many
    /// clients, in transaction or statement mode, or that does not reset its sessions, is refused.
    /// The same is done at every reconnect. It takes 12 round trips in all, one after the other,
    /// with a password (SCRAM) and without TLS, where a login alone takes four; one more for each
    /// check that finds the first connection's process not yet gone from the server, three more
    /// behind a pool, and three more with fencing.
    ///
    /// The session keeps one advisory lock for its life, on a key of two numbers: the first is
    /// 1684824939 (`dlck` in ASCII), the second is random. So `pg_locks` shows which sessions are
    /// managers'.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) for a malformed connection string or a
    /// setting that cannot work; [`Unavailable`](crate::ErrorKind::Unavailable) if the
    /// server cannot be reached, has no connection slot or does not answer within the
    /// [`connect_timeout`](Builder::connect_timeout), and if this process has no file
    /// descriptors or threads left;
    /// [`Login`](crate::ErrorKind::Login) if it refuses the login or does not have the
    /// database;
    /// [`Standby`](crate::ErrorKind::Standby), [`Pooler`](crate::ErrorKind::Pooler),
    /// [`NotLocking`](crate::ErrorKind::NotLocking) and
    /// [`ServerTooOld`](crate::ErrorKind::ServerTooOld) if locks would not exclude there;
    /// [`LockTableFull`](crate::ErrorKind::LockTableFull) if not even one lock fits in;
    /// [`Fencing`](crate::ErrorKind::Fencing) if tokens cannot be drawn;
    /// [`Tls`](crate::ErrorKind::Tls) if TLS fails or the server's certificate is refused;
    /// [`Database`](crate::ErrorKind::Database) for any other error of the server.
    /// [`Error::is_transient`] says which may pass.
    pub fn connect(self) -> Result<Manager, Error> {
        let (outcome, first) = bounded(1);
        let handle = self.start(Some(Starting {
            outcome,
            persistent: false,
        }))?;
        first.recv().map_err(|_| panicked())??;
        Ok(Manager::new(handle))
    }

    /// Like [`connect`](Builder::connect), for a program that may start before its database
    /// does: retries while the errors are [transient](Error::is_transient), spaced by the
    /// [`reconnect_backoff`](Builder::reconnect_backoff), until `patience` has passed. An
    /// attempt that is then in progress is abandoned.
    ///
    /// # Errors
    ///
    /// The first error that is not transient, at once, or the last one that was: those of
    /// [`connect`](Builder::connect).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// use std::time::Duration;
    ///
    /// let mgr = distlock::Manager::builder("host=db user=app")
    ///     .connect_within(Duration::from_secs(60))?;
    /// # drop(mgr);
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect_within(self, patience: Duration) -> Result<Manager, Error> {
        let deadline = Instant::now().checked_add(patience);
        let (outcome, first) = bounded(1);
        let handle = self.start(Some(Starting {
            outcome,
            persistent: true,
        }))?;
        let connected = match deadline {
            Some(deadline) => first.recv_deadline(deadline),
            None => first.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match connected {
            Ok(outcome) => outcome?,
            Err(RecvTimeoutError::Disconnected) => return Err(panicked()),
            Err(RecvTimeoutError::Timeout) => {
                let failed = handle.failed_start();
                handle.close().ok();
                return Err(failed.unwrap_or_else(|| {
                    Error::unavailable("the database did not answer within the time given")
                }));
            }
        }
        Ok(Manager::new(handle))
    }

    /// Creates the manager at once and connects in the background, with retries, for a program
    /// that is to run whether or not its database does. Until it is connected the manager behaves
    /// as in an outage: acquires wait for the outcome of the first connect, and after that they
    /// fail or keep waiting, as [`wait_while_unavailable`](Builder::wait_while_unavailable) says.
    /// [`Manager::health`] reports the state.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) for a malformed connection string or a setting
    /// that cannot work; [`Unavailable`](crate::ErrorKind::Unavailable) if no thread can be
    /// started. All other errors are returned by the acquires.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// let mgr = distlock::Manager::builder("host=db user=app").connect_lazy()?;
    /// if let Some(cause) = mgr.health().cause {
    ///     eprintln!("not connected yet: {cause}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect_lazy(self) -> Result<Manager, Error> {
        self.start(None).map(Manager::new)
    }

    /// An ordinary client of the database, connected as a manager with these settings would be: to
    /// the first host that is a primary, with the same TLS, login and timeouts, from the same
    /// connection string, service and password file. For transactions that are to be
    /// [fenced](crate::Guard::fence), and whatever else a program does there.
    ///
    /// The manager has no part in it: the session has the server's own settings, no lease and no
    /// locks, and a pooler in transaction mode will do. As with any [`postgres::Client`], neither
    /// this call nor the client may be used on a thread of an asynchronous runtime.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Builder::connect) that concern the configuration, the login and the host;
    /// [`Standby`](crate::ErrorKind::Standby) if no host is a primary.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = distlock::Manager::builder("service=jobs sslmode=verify-full");
    /// let mut client = builder.clone().client()?;
    /// let mgr = builder.connect()?;
    ///
    /// let guard = mgr.lock("tenant-17")?;
    /// let mut transaction = client.transaction()?;
    /// guard.fence(&mut transaction)?;
    /// transaction.execute("UPDATE tenants SET imported = now() WHERE id = 17", &[])?;
    /// transaction.commit()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn client(self) -> Result<Client, Error> {
        self.dialer()?.client()
    }

    /// Starts the threads. The worker connects, so that a session is never dropped on the
    /// caller's thread, where the driver may panic (in an asynchronous runtime).
    fn start(self, starting: Option<Starting>) -> Result<Arc<Handle>, Error> {
        let dialer = self.dialer()?;
        if dialer.settings().warn_after.is_some() {
            names::keep();
        }
        worker::start(dialer, starting)
    }

    fn dialer(self) -> Result<Dialer, Error> {
        let settings = self.settings.checked()?;
        let variable = |name: &str| env::var_os(name);
        let variables: Environment<'_> = &variable;
        let environment = self.reads_environment.then_some(variables);
        let mut target = Target::new(&self.server, environment, &settings, self.tls)?;
        target.credentials = self.credentials;
        Ok(Dialer::new(target, settings))
    }
}

fn panicked() -> Error {
    Error::unavailable("the lock manager's worker has panicked")
}

/// How a manager is made.
impl Manager {
    /// Connects to `dsn`, a [connection string](crate#connection-strings), with the default
    /// settings. See [`Builder::connect`].
    ///
    /// Unlike [`from_env`](Manager::from_env) it reads no environment variables, except `HOME`
    /// for a service file in the home directory.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::connect`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// let mgr = distlock::Manager::connect("postgres://app@db.example.com/app")?;
    /// let _guard = mgr.lock("nightly-report")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect(dsn: &str) -> Result<Manager, Error> {
        Manager::builder(dsn).connect()
    }

    /// Connects to where `psql` without arguments would, by the environment (`PGHOST`,
    /// `PGUSER`, `PGSERVICE`, `~/.pgpass`, …: [`Builder::env_defaults`] has the list), with
    /// the default settings. If none of these is set, that is the local server's unix socket and
    /// the operating system's user.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::connect`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// let mgr = distlock::Manager::from_env()?;
    /// let _guard = mgr.lock("nightly-report")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_env() -> Result<Manager, Error> {
        Manager::builder("").env_defaults().connect()
    }

    /// The settings of a manager that is to connect to `server`: a [connection
    /// string](crate#connection-strings), or a [`postgres::Config`], whose `ssl_mode` is
    /// used as it is.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// let mut config = postgres::Config::new();
    /// config.host("db.example.com").user("app").password(std::fs::read("/run/secrets/db").unwrap());
    /// let mgr = distlock::Manager::builder(config).namespace("billing").connect()?;
    /// # drop(mgr);
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(server: impl Into<ConnectConfig>) -> Builder {
        Builder::new(server.into())
    }
}
