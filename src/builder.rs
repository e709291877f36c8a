//! The settings of a manager, as its user makes them, and the connect.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use postgres::Socket;
use postgres::tls::{MakeTlsConnect, TlsConnect};
use tracing::info;

use crate::config::{Keepalives, SequenceName, Settings};
use crate::core::Core;
use crate::dial::{self, Stuck};
use crate::error::Error;
use crate::handle::Handle;
use crate::key::Namespace;
use crate::manager::Manager;
use crate::target::Target;
use crate::tls::Connector;
use crate::{watchdog, worker};

/// The settings of a [`Manager`], from [`Manager::builder`].
///
/// ```no_run
/// # fn main() -> Result<(), distlock::Error> {
/// use std::time::Duration;
///
/// let mgr = distlock::Manager::builder("host=db1,db2 user=app")
///     .namespace("billing")
///     .max_locks(100)
///     .lease(Duration::from_secs(10))
///     .connect()?;
/// # drop(mgr);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `connect`"]
pub struct Builder {
    dsn: String,
    settings: Settings,
    tls: Option<Connector>,
}

impl Builder {
    pub(crate) fn new(dsn: &str) -> Self {
        Builder {
            dsn: dsn.to_owned(),
            settings: Settings::default(),
            tls: None,
        }
    }

    /// The name of the session in `pg_stat_activity`.
    ///
    /// Default: the connection string's `application_name`, or else `distlock`.
    pub fn application_name(mut self, name: &str) -> Builder {
        self.settings.application_name = Some(name.to_owned());
        self
    }

    /// Keeps this application's lock names apart from those of others on the same
    /// database. It applies to names, not to keys that are numbers (see [`Key`](crate::Key)).
    ///
    /// Default: none.
    pub fn namespace(mut self, name: &str) -> Builder {
        self.settings.namespace = Some(Namespace::new(name));
        self
    }

    /// How many guards may be out at once. At the limit every acquire answers
    /// [`LimitReached`](crate::ErrorKind::LimitReached) at once, one that waits when
    /// its turn comes. 0 is refused.
    ///
    /// Default: no limit.
    pub fn max_locks(mut self, max: usize) -> Builder {
        self.settings.max_locks = Some(max);
        self
    }

    /// How many requests may lie in the worker's queue. When it is full callers wait
    /// for room, the timed ones until their deadline. The memory for all of them is taken by
    /// [`connect`](Builder::connect), about 100 bytes each. 0 and more than 2<sup>20</sup>
    /// (1,048,576) are refused.
    ///
    /// Default: 1024.
    pub fn queue_capacity(mut self, requests: usize) -> Builder {
        self.settings.queue_capacity = requests;
        self
    }

    /// How long the connection may be silent while anything is held or awaited; then
    /// the worker looks whether it is alive. An idle manager sends nothing. It is
    /// also how late a lost session is noticed. Zero is refused.
    ///
    /// Default: 30 ms.
    pub fn heartbeat(mut self, interval: Duration) -> Builder {
        self.settings.heartbeat = interval;
        self
    }

    /// How long a connect may take, for each host that the connection string names: login
    /// and checks included, shared by the host's addresses. Then it is the next host's turn.
    /// The connection string's own `connect_timeout` goes first. Zero is refused.
    ///
    /// A connect that a server takes and never answers keeps a thread and a socket of this
    /// process until the server or the network ends it.
    ///
    /// Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long the server may take to answer. After that its session is given up,
    /// the manager makes another, and the locks are lost. The lease is the limit where
    /// it is shorter. Zero is refused.
    ///
    /// Default: 10 s.
    pub fn response_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.response_timeout = timeout;
        self
    }

    /// How long to wait between two attempts to reconnect: `first`, then twice as long
    /// each time up to `longest`, always up to a quarter less, by chance. After a
    /// session that had lasted, the first attempt is made at once. While connects are left
    /// without an answer the wait is longer, up to a minute. Zero is refused.
    ///
    /// Default: 50 ms to 5 s.
    pub fn reconnect_backoff(mut self, first: Duration, longest: Duration) -> Builder {
        self.settings.reconnect_min = first;
        self.settings.reconnect_max = longest;
        self
    }

    /// What an acquire does while the database is away: fail at once with
    /// [`Unavailable`](crate::ErrorKind::Unavailable) (`false`), or wait for it within
    /// its own deadline (`true`; `try_lock` has none to wait for and fails).
    ///
    /// In both cases requests that find the connection just broken wait for one
    /// reconnect, a second at most, before they fail.
    ///
    /// Default: `false`.
    pub fn wait_while_unavailable(mut self, wait: bool) -> Builder {
        self.settings.wait_while_unavailable = wait;
        self
    }

    /// How often to look again at a lock that another process has. The interval grows
    /// with the time already waited, of which it stays below a tenth, from `first` up
    /// to `longest`. Zero is refused.
    ///
    /// Default: 1 ms to 50 ms.
    pub fn retry_interval(mut self, first: Duration, longest: Duration) -> Builder {
        self.settings.retry_min = first;
        self.settings.retry_max = longest;
        self
    }

    /// How long the holder of a lock may be silent, in whole milliseconds: frozen,
    /// or cut off from the server. The server then ends its session
    /// ([`idle_session_timeout`], PostgreSQL 14 and later; on an older server there is
    /// no lease, with a warning logged) and its locks are free. The holder stops
    /// believing in them a tenth of the lease earlier, by its own clock
    /// ([`Ended::LeaseExpired`](crate::Ended::LeaseExpired)). At least four heartbeats.
    /// `None` turns it off. A manager that has held nothing for a quarter of the lease
    /// tells the server so, once, and may then be silent for ever.
    ///
    /// Default: 10 s.
    ///
    /// [`idle_session_timeout`]: https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-SESSION-TIMEOUT
    pub fn lease(mut self, lease: impl Into<Option<Duration>>) -> Builder {
        self.settings.lease = lease.into();
        self
    }

    /// Gives every hold a token that is greater than those of all holders before, in the
    /// whole database ([`Guard::token`](crate::Guard::token)): across processes, threads,
    /// reconnects, a crash of the server, and a fail-over to a synchronous standby. A store
    /// that refuses what comes with a smaller token than it has seen is safe even from a
    /// holder that does not know yet that it has lost its lock (Kleppmann, [How to do
    /// distributed locking], 2016).
    ///
    /// Tokens are drawn from `sequence`, which is made if it is missing and the role may.
    /// The name must have its schema, is taken as it is, and needs no quotes. All who
    /// write to one store must draw from one sequence. A token comes with the lock, in
    /// the same round trip, and so does that of a hand-over inside the process; each such
    /// round trip writes a message to the server's log (`pg_logical_emit_message`, with the
    /// prefix `distlock`) and waits for the log to be safe, and with many locks held it costs
    /// more than without fencing.
    ///
    /// Default: no tokens.
    ///
    /// [How to do distributed locking]: https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// let mgr = distlock::Manager::builder("host=localhost user=app")
    ///     .fencing("public.distlock_token")
    ///     .connect()?;
    /// let guard = mgr.lock("tenant-17")?;
    /// let token = guard.token().expect("with fencing every guard has one");
    /// // UPDATE report SET ..., token = $token WHERE id = 17 AND token <= $token
    /// # let _ = token;
    /// # Ok(())
    /// # }
    /// ```
    pub fn fencing(mut self, sequence: &str) -> Builder {
        self.settings.fencing = Some(SequenceName(sequence.to_owned()));
        self
    }

    /// How long the network may leave what was sent unacknowledged before the connection
    /// counts as broken, at both of its ends. The connection string's own
    /// `tcp_user_timeout` goes first at this end. Zero: the system's default. At most a
    /// day; it has no effect on unix sockets, nor where the system does not have it.
    ///
    /// Default: 10 s.
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.tcp_user_timeout = timeout;
        self
    }

    /// When to probe a silent connection, at both of its ends: first after `idle`, then
    /// every `interval`; after `retries` probes without an answer it counts as broken. In
    /// whole seconds, at most a day, at most 100 retries; zero is the system's default. The
    /// connection string's own `keepalives…` go first at this end.
    ///
    /// Default: 10 s, 2 s and 3.
    pub fn tcp_keepalives(mut self, idle: Duration, interval: Duration, retries: u32) -> Builder {
        self.settings.tcp_keepalives = Keepalives {
            idle,
            interval,
            retries,
        };
        self
    }

    /// How often the server looks, while a statement runs, whether this end is still
    /// there ([`client_connection_check_interval`], PostgreSQL 14 and later). Zero: never.
    ///
    /// Default: 1 s.
    ///
    /// [`client_connection_check_interval`]: https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-CLIENT-CONNECTION-CHECK-INTERVAL
    pub fn client_connection_check_interval(mut self, interval: Duration) -> Builder {
        self.settings.client_check_interval = interval;
        self
    }

    /// Encrypts the connection with `tls`, any connector for the `postgres` crate, such as
    /// those of `postgres-native-tls`, `postgres-openssl` and `tokio-postgres-rustls`. For
    /// client certificates, certificates of one's own choice and the like; with the feature
    /// `tls` the connection string alone is enough ([TLS](crate#tls)).
    ///
    /// It is the connector that verifies. The connection string's `sslmode` says when it is
    /// used: `disable` never, `prefer` if the server has TLS, `require` (the default here),
    /// `verify-ca` and `verify-full` always. `sslrootcert` is refused. Unix sockets have no
    /// TLS.
    ///
    /// Default: none.
    ///
    /// ```no_run
    /// # fn connect<T>(connector: T) -> Result<(), distlock::Error>
    /// # where
    /// #     T: postgres::tls::MakeTlsConnect<postgres::Socket> + Clone + Send + Sync + 'static,
    /// #     T::TlsConnect: Send,
    /// #     T::Stream: Send,
    /// #     <T::TlsConnect as postgres::tls::TlsConnect<postgres::Socket>>::Future: Send,
    /// # {
    /// let mgr = distlock::Manager::builder("host=db.example.com user=app")
    ///     .tls(connector) // such as postgres_native_tls::MakeTlsConnector
    ///     .connect()?;
    /// # drop(mgr);
    /// # Ok(())
    /// # }
    /// ```
    pub fn tls<T>(mut self, tls: T) -> Builder
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::TlsConnect: Send,
        T::Stream: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.tls = Some(Connector::new(tls));
        self
    }

    /// Connects and starts the worker.
    ///
    /// A connection is only taken if locks mean something on it: to a server that takes
    /// writes, is recent enough and really keeps them, and not through a pooler in
    /// transaction or statement mode. To tell the latter a second connection is made for a
    /// moment, unless the first one ends at the very address that was dialled. So it is at
    /// every reconnect, too.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) for a malformed connection string or a
    /// setting that cannot work; [`Unavailable`](crate::ErrorKind::Unavailable) if the
    /// server cannot be reached, has no connection slot or does not answer within the
    /// [`connect_timeout`](Builder::connect_timeout);
    /// [`Standby`](crate::ErrorKind::Standby), [`Pooler`](crate::ErrorKind::Pooler),
    /// [`NotLocking`](crate::ErrorKind::NotLocking) and
    /// [`ServerTooOld`](crate::ErrorKind::ServerTooOld) if locks would mean nothing there;
    /// [`Fencing`](crate::ErrorKind::Fencing) if there can be no tokens;
    /// [`Tls`](crate::ErrorKind::Tls) if there can be no TLS or the server's certificate is
    /// refused;
    /// [`Database`](crate::ErrorKind::Database) if it refuses the login or does not
    /// have the database.
    pub fn connect(self) -> Result<Manager, Error> {
        let settings = self.settings.checked()?;
        let target = Target::parse(&self.dsn, &settings, self.tls)?;
        let generation = 1;
        let session = dial::dial(&target, &settings, generation, &Stuck::default())?;
        info!(
            hosts = ?target.config.get_hosts(),
            dbname = target.config.get_dbname(),
            "connected"
        );
        let (queue, requests) = bounded(settings.queue_capacity);
        let (alarm, alarms) = bounded(1);
        let core = Core::new(target, settings, requests, alarm);
        let handle = Arc::new(Handle {
            core: Arc::clone(&core),
            queue,
        });
        watchdog::spawn(&core, alarms)?;
        {
            let mut state = core.state.lock();
            state.generation = generation;
            worker::spawn(&core, &mut state, Some(session), Duration::ZERO)?;
        }
        Ok(Manager::new(handle))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The connection string may hold a password.
        f.debug_struct("Builder").finish_non_exhaustive()
    }
}
