//! A running server: starting, stopping and connecting to it.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, NoTls};
use rustix::process::Signal;

use crate::account::Account;
use crate::builder::Builder;
use crate::cluster::Cluster;
use crate::guardian::Guardian;
use crate::process::signal;

/// How long a start or a stop may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the server may take after SIGQUIT. It kills its own children after 5 s.
const QUIT: Duration = Duration::from_secs(10);

/// How often to check whether it is done. PostgreSQL sends no event for it.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The ways to stop a server (`pg_ctl stop -m`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Waits for the clients to disconnect.
    Smart,
    /// Ends the sessions.
    Fast,
    /// Drops everything, as a crash would.
    Immediate,
}

impl Shutdown {
    fn signal(self) -> Signal {
        match self {
            Shutdown::Smart => Signal::TERM,
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        }
    }
}

/// A running server. All methods may be called from any thread.
#[derive(Debug)]
pub struct Server {
    pub(crate) cluster: Cluster,
    pub(crate) port: u16,
    running: Mutex<Option<Child>>,
    guardian: Guardian,
}

impl Server {
    /// Starts a server with default settings.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::start`].
    pub fn start() -> io::Result<Server> {
        Server::builder().start()
    }

    /// Settings for a server.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A server that is not started yet, with its guardian, which runs as `account` or else as
    /// this user.
    pub(crate) fn stopped(cluster: Cluster, account: Option<Account>) -> io::Result<Server> {
        let guardian = Guardian::of(cluster.folder(), account)?;
        Ok(Server {
            cluster,
            port: 0,
            running: Mutex::new(None),
            guardian,
        })
    }

    /// Starts a stopped server, on the same port with the same data, and waits until
    /// it accepts connections.
    ///
    /// # Errors
    ///
    /// It does not start; the error has its log.
    pub fn start_again(&self) -> io::Result<()> {
        let mut running = self.running();
        if running.is_some() {
            return Ok(());
        }
        let logged = self.log().len();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.cluster.log())?;
        let mut child = self
            .cluster
            .command("postgres")
            .arg("-D")
            .arg(self.cluster.data())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C ends only the owner.
            .process_group(0)
            .spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                return Err(failed_start(self.log().get(logged..).unwrap_or_default()));
            }
            thread::sleep(POLL_INTERVAL);
        }
        *running = Some(child);
        Ok(())
    }

    /// True if it accepts connections, or refuses one for a reason of its own: a test's
    /// settings may refuse even the superuser.
    fn answers(&self) -> bool {
        match Client::connect(&self.url(), NoTls) {
            Ok(_) => true,
            Err(error) => error
                .code()
                .is_some_and(|code| *code != SqlState::CANNOT_CONNECT_NOW),
        }
    }

    /// Stops the server and waits until it has ended. A stopped one stays stopped.
    ///
    /// # Errors
    ///
    /// It did not stop within a minute, such as in a smart shutdown whose clients stay
    /// connected, and was forced to.
    pub fn stop(&self, shutdown: Shutdown) -> io::Result<()> {
        let mut running = self.running();
        let Some(mut child) = running.take() else {
            return Ok(());
        };
        if ends(&mut child, shutdown.signal(), PATIENCE)? {
            return Ok(());
        }
        if !ends(&mut child, Signal::QUIT, QUIT)? {
            child.kill()?;
            child.wait()?;
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the server did not stop and was forced to",
        ))
    }

    /// Stops and starts the server.
    ///
    /// # Errors
    ///
    /// Those of [`stop`](Server::stop) and [`start_again`](Server::start_again).
    pub fn restart(&self, shutdown: Shutdown) -> io::Result<()> {
        self.stop(shutdown)?;
        self.start_again()
    }

    /// Makes every commit wait for the standby from now on. On return the standby also has all
    /// earlier commits.
    ///
    /// # Panics
    ///
    /// No standby follows.
    pub fn await_standby(&self) {
        self.client()
            .batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            .and_then(|()| self.client().batch_execute("SELECT pg_reload_conf()"))
            .unwrap_or_else(|error| panic!("no synchronous standby: {error}"));
        let deadline = Instant::now() + PATIENCE;
        let follows = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        while self
            .client()
            .query_one(follows, &[])
            .is_ok_and(|row| row.get::<_, i64>(0) == 0)
        {
            assert!(Instant::now() < deadline, "the standby does not follow");
            thread::sleep(POLL_INTERVAL);
        }
        // A commit that waits for all WAL before it.
        self.client()
            .batch_execute("SELECT txid_current()")
            .unwrap_or_else(|error| panic!("no commit at the standby: {error}"));
    }

    /// Promotes a standby to a primary, and waits until it accepts writes.
    ///
    /// # Panics
    ///
    /// It is not a standby, or is not promoted within a minute.
    pub fn promote(&self) {
        let promoted = self
            .client()
            .query_one("SELECT pg_promote(true, 60)", &[])
            .and_then(|row| row.try_get(0));
        assert!(matches!(promoted, Ok(true)), "not promoted: {promoted:?}");
    }

    /// True if the server is running.
    pub fn is_running(&self) -> bool {
        self.running().is_some()
    }

    /// The postmaster's process; `None` while it is stopped.
    pub fn pid(&self) -> Option<i32> {
        self.running()
            .as_ref()
            .map(|child| child.id().cast_signed())
    }

    /// A connection string through the unix socket.
    pub fn url(&self) -> String {
        format!(
            "host={} port={} user=postgres dbname=postgres",
            self.folder().display(),
            self.port
        )
    }

    /// A connection string through the loopback port.
    pub fn tcp_url(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres",
            self.port
        )
    }

    /// The loopback port, the same for the server's whole life.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder with the data, the socket and the log.
    pub fn folder(&self) -> &Path {
        self.cluster.folder()
    }

    /// A connection as the superuser.
    ///
    /// # Panics
    ///
    /// The server is stopped or refuses it.
    pub fn client(&self) -> Client {
        Client::connect(&self.url(), NoTls)
            .unwrap_or_else(|error| panic!("no connection to the throwaway server: {error}"))
    }

    /// Makes an empty database.
    ///
    /// # Panics
    ///
    /// A database of that name exists, or there is no connection.
    pub fn create_database(&self, name: &str) {
        let name = name.replace('"', "\"\"");
        self.client()
            .batch_execute(&format!("CREATE DATABASE \"{name}\""))
            .unwrap_or_else(|error| panic!("no new database in the throwaway server: {error}"));
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.cluster.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The postmaster, unless it has ended, even by itself.
    fn running(&self) -> MutexGuard<'_, Option<Child>> {
        // A panic while it is locked does not affect the child process.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.take_if(|child| matches!(child.try_wait(), Ok(Some(_))));
        running
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.guardian.finish();
        // In case the guardian has been killed; then the folder's own destructor removes
        // it.
        if let Some(mut child) = self.running().take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Sends `child` a signal; true if it ends in time.
fn ends(child: &mut Child, with: Signal, patience: Duration) -> io::Result<bool> {
    signal(child.id().cast_signed(), with)?;
    let deadline = Instant::now() + patience;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(true)
}

fn failed_start(log: &str) -> io::Error {
    let kind = if log.contains("Address already in use") {
        io::ErrorKind::AddrInUse
    } else {
        io::ErrorKind::Other
    };
    io::Error::new(kind, format!("PostgreSQL does not start: {log}"))
}
