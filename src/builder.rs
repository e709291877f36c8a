//! [`Builder`]: the settings of a manager, as its user makes them, and the calls that connect.

mod connect;
mod waiting;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use postgres::Socket;
use postgres::tls::{MakeTlsConnect, TlsConnect};

use crate::config::{Keepalives, SequenceName, Settings};
use crate::connect::target::ConnectConfig;
use crate::connect::tls::Connector;
use crate::credentials::{Credentials, Provider};
use crate::key::Namespace;
use crate::observer::Observer;

/// The settings of a [`Manager`](crate::Manager), from
/// [`Manager::builder`](crate::Manager::builder).
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
    server: ConnectConfig,
    reads_environment: bool,
    settings: Settings,
    tls: Option<Connector>,
    credentials: Option<Provider>,
}

impl Builder {
    pub(crate) fn new(server: ConnectConfig) -> Self {
        Builder {
            server,
            reads_environment: false,
            settings: Settings::default(),
            tls: None,
            credentials: None,
        }
    }

    /// Takes what the connection string or the [`postgres::Config`] leaves unset from the
    /// sources of libpq and `psql`, in this order:
    ///
    /// 1. the service that `PGSERVICE` names, from the file `PGSERVICEFILE` or
    ///    `~/.pg_service.conf`, then from `pg_service.conf` in `PGSYSCONFDIR` or the
    ///    system's directory;
    /// 2. the environment: `PGHOST`, `PGHOSTADDR`, `PGPORT`, `PGUSER`, `PGPASSWORD`,
    ///    `PGDATABASE`, `PGSSLMODE`, `PGSSLROOTCERT`, `PGOPTIONS`, `PGAPPNAME`,
    ///    `PGCONNECT_TIMEOUT`, `PGTARGETSESSIONATTRS` and the other variables of libpq's
    ///    parameters;
    /// 3. for the password, the file `PGPASSFILE` or `~/.pgpass`. One that its group or
    ///    others may access is ignored, with a warning in the log.
    ///
    /// All are read once, by [`connect`](Builder::connect). What is not supported, such as
    /// `PGSSLCERT`, is an error there, as it is in a connection string. The `ssl_mode`,
    /// `ssl_negotiation`, `channel_binding`, `load_balance_hosts`, `target_session_attrs` and
    /// `keepalives` of a [`postgres::Config`] always count as set.
    ///
    /// Default: the environment is not read. A connection string's own `service` and `passfile`
    /// take effect all the same.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// // As in `psql dbname=jobs`.
    /// let mgr = distlock::Manager::builder("dbname=jobs").env_defaults().connect()?;
    /// # drop(mgr);
    /// # Ok(())
    /// # }
    /// ```
    pub fn env_defaults(mut self) -> Builder {
        self.reads_environment = true;
        self
    }

    /// The name of the session in `pg_stat_activity`.
    ///
    /// Default: the connection string's `application_name`, else its
    /// `fallback_application_name`, or else `distlock PROGRAM@HOST:PID`, by which an owner of a lock
    /// can be found ([`Manager::holders`](crate::Manager::holders)).
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

    /// How many locks may be held at once, each guard counting as one. At the limit every
    /// acquire fails at once with [`LimitReached`](crate::ErrorKind::LimitReached), one that is
    /// waiting when it would be served. 0 is refused.
    ///
    /// Default: no limit.
    pub fn max_locks(mut self, max: usize) -> Builder {
        self.settings.max_locks = Some(max);
        self
    }

    /// How many requests the worker's queue holds. When it is full callers wait for room, the
    /// timed ones until their deadline. The memory for all of them is allocated by
    /// [`connect`](Builder::connect), about 100 bytes each. 0 and more than 2<sup>20</sup>
    /// (1,048,576) are refused.
    ///
    /// Default: 1024.
    pub fn queue_capacity(mut self, requests: usize) -> Builder {
        self.settings.queue_capacity = requests;
        self
    }

    /// How long the connection may be silent while a lock is held or awaited before the worker
    /// checks that it is alive. An idle manager sends nothing. It is also how late a lost
    /// session is noticed. Zero is refused.
    ///
    /// Default: 30 ms.
    pub fn heartbeat(mut self, interval: Duration) -> Builder {
        self.settings.heartbeat = interval;
        self
    }

    /// How long a connect may take, for each host that the connection string names: login
    /// and checks included, shared by the host's addresses. After that the next host is tried.
    /// The connection string's own `connect_timeout`, in seconds, takes precedence; there zero
    /// or less counts as unset, not as endless as in libpq. Here zero is refused.
    ///
    /// A connect that a server accepts and never answers occupies a thread and a socket of this
    /// process until the server or the network ends it.
    ///
    /// Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long the server may take to answer. After that the session is given up, its locks
    /// are lost, and the manager connects again. The lease is the limit where it is shorter.
    /// Zero is refused.
    ///
    /// Default: 10 s.
    pub fn response_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.response_timeout = timeout;
        self
    }

    /// How long to wait between two attempts to reconnect: `first`, then twice as long each
    /// time up to `longest`, each shortened by up to 25 % random jitter. After a session that had
    /// lasted, the first attempt is made at once. While abandoned connects remain unanswered the
    /// wait is longer, up to a minute. Zero is refused.
    ///
    /// Default: 50 ms to 5 s.
    pub fn reconnect_backoff(mut self, first: Duration, longest: Duration) -> Builder {
        self.settings.reconnect_min = first;
        self.settings.reconnect_max = longest;
        self
    }

    /// How long the holder of a lock may be silent, frozen or cut off from the server, in whole
    /// milliseconds. After that the server ends its session ([`idle_session_timeout`]) and its
    /// locks are free. By the holder's own clock they count as lost a tenth of the lease earlier
    /// ([`Ended::LeaseExpired`](crate::Ended::LeaseExpired)). Less than four heartbeats is
    /// refused. `None` turns it off. A manager that has held or awaited nothing for a quarter of
    /// the lease turns the server's timeout off, in one round trip, and may then be silent for
    /// any time.
    ///
    /// Default: 10 s.
    ///
    /// [`idle_session_timeout`]: https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-SESSION-TIMEOUT
    pub fn lease(mut self, lease: impl Into<Option<Duration>>) -> Builder {
        self.settings.lease = lease.into();
        self
    }

    /// Gives every hold a token that is greater than those of all earlier holders in the
    /// whole database ([`Guard::token`](crate::Guard::token)): across processes, threads,
    /// reconnects, a crash of the server, and a fail-over to a synchronous standby. A store
    /// that refuses writes with a smaller token than it has seen is safe even from a holder
    /// that does not know yet that it has lost its lock (Kleppmann, [How to do distributed
    /// locking], 2016).
    ///
    /// Tokens are drawn from `sequence`, which the first connect creates if it is missing and
    /// the role has the right to. The name must include the schema, is taken literally, and
    /// needs no quotes. All clients that write to one store must draw from one sequence. A token
    /// is drawn in the same round trip as its lock, and one for a hand-over inside the process
    /// also takes a round trip; each such round trip writes a message to the WAL
    /// (`pg_logical_emit_message`, with the prefix `distlock`) and waits until the WAL is
    /// durable, and with many locks held it costs more than without fencing. A token costs a
    /// transaction id and about 107 bytes of WAL; tools for change data capture (logical
    /// decoding) may see the message.
    ///
    /// A failed draw (a revoked privilege, an exhausted sequence, a full disk) is an error of
    /// the acquires that need a token, and the server is not asked again before a pause: 50 ms
    /// at first, one second at most. A sequence that was dropped is not created again: there are
    /// no tokens until an administrator creates it, starting above all tokens that were given.
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

    /// How long sent data may remain unacknowledged before the connection counts as broken, at
    /// both of its ends. The connection string's own `tcp_user_timeout`, in milliseconds, takes
    /// precedence at this end. Zero: the system's default. Rounded up to milliseconds and limited
    /// to a day; it has no effect on unix sockets, nor where the system does not support it.
    ///
    /// Default: 10 s.
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.tcp_user_timeout = timeout;
        self
    }

    /// When to probe a silent connection, at both of its ends: first after `idle`, then
    /// every `interval`; after `retries` unanswered probes it counts as broken. Each that is
    /// zero: the system's default. Times are rounded up to seconds and limited to 32,767 of
    /// them, retries to 127: what Linux accepts. The connection string's own `keepalives…` take
    /// precedence at this end.
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

    /// How often the server checks, while a statement runs, whether the client is still
    /// connected ([`client_connection_check_interval`]). Zero: never.
    ///
    /// Default: 1 s.
    ///
    /// [`client_connection_check_interval`]: https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-CLIENT-CONNECTION-CHECK-INTERVAL
    pub fn client_connection_check_interval(mut self, interval: Duration) -> Builder {
        self.settings.client_check_interval = interval;
        self
    }

    /// Notifies `observer` of each lock that is waited for, acquired, released or lost, and of
    /// each session, as it happens. See [`observer`](crate::observer).
    ///
    /// Default: none.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Builder {
        self.settings.observer = Some(observer);
        self
    }

    /// Encrypts the connection with `tls`, any connector for the `postgres` crate, such as
    /// those of `postgres-native-tls`, `postgres-openssl` and `tokio-postgres-rustls`. For
    /// client certificates, custom root certificates and the like; with the feature `tls` the
    /// connection string alone is enough ([TLS](crate#tls)).
    ///
    /// The connector verifies the server. The connection string's `sslmode` says when it is
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

    /// Calls `credentials` for user and password before every login, at the first connect and
    /// at each reconnect: for a token that expires, or a secret that is rotated. What it
    /// returns replaces the connection string's. A connect may need more than one login.
    ///
    /// It is called on a thread of the manager, within the
    /// [`connect_timeout`](Builder::connect_timeout); a call that takes longer is abandoned, and
    /// calls may overlap. If it fails or panics, the connect fails with
    /// [`Login`](crate::ErrorKind::Login); its error is the
    /// [`source`](std::error::Error::source), and is logged with it. That is
    /// [transient](crate::Error::is_transient): a secret store may become available again.
    ///
    /// Default: the connection string's login.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// use distlock::Credentials;
    ///
    /// let mgr = distlock::Manager::builder("host=db dbname=app")
    ///     .credentials(|| {
    ///         let password = std::fs::read_to_string("/run/secrets/db")?;
    ///         Ok::<_, std::io::Error>(Credentials::new("app", password.trim_end()))
    ///     })
    ///     .connect()?;
    /// # drop(mgr);
    /// # Ok(())
    /// # }
    /// ```
    pub fn credentials<E>(
        mut self,
        credentials: impl Fn() -> Result<Credentials, E> + Send + Sync + 'static,
    ) -> Builder
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.credentials = Some(Provider::new(credentials));
        self
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The connection string may hold a password.
        f.debug_struct("Builder").finish_non_exhaustive()
    }
}
