//! A PgBouncer in front of a server.

use std::env;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::builder::free_port;
use crate::cluster::Cluster;
use crate::guardian::Guardian;
use crate::missing::missing;
use crate::server::Server;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// For how long a client of the pooler has a server's session (`pool_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// As long as it is connected.
    Session,
    /// For a transaction.
    Transaction,
    /// For a statement.
    Statement,
}

/// A running PgBouncer. Dropping it stops it.
#[derive(Debug)]
pub struct Pooler {
    cluster: Cluster,
    /// Its configuration without the pool's.
    config: String,
    port: u16,
    running: Option<Child>,
    guardian: Guardian,
}

impl Pooler {
    /// Starts one in front of `server`, with at most `size` sessions there.
    ///
    /// # Errors
    ///
    /// There is no PgBouncer, for which [`is_missing`](crate::is_missing) is true, or it does not
    /// start.
    pub fn before(server: &Server, mode: PoolMode, size: usize) -> io::Result<Pooler> {
        Pooler::with_settings(server, mode, size, &[])
    }

    /// Like [`before`](Pooler::before), with more `settings` of the section `pgbouncer`.
    ///
    /// # Errors
    ///
    /// As of [`before`](Pooler::before).
    pub fn with_settings(
        server: &Server,
        mode: PoolMode,
        size: usize,
        settings: &[(&str, &str)],
    ) -> io::Result<Pooler> {
        let cluster = Cluster::new()?;
        cluster.make_data_folder()?;
        let port = free_port()?;
        let more: String = settings
            .iter()
            .map(|(name, value)| format!("{name} = {value}\n"))
            .collect();
        let config = format!(
            "[databases]\n\
             * = host={} port={} user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             admin_users = pgbouncer\n\
             {more}",
            server.folder().display(),
            server.port(),
        );
        let mut pooler = Pooler {
            guardian: Guardian::of(cluster.folder(), cluster.account)?,
            cluster,
            config,
            port,
            running: None,
        };
        pooler.restart(mode, size)?;
        Ok(pooler)
    }

    /// Ends all its connections and starts it again as another kind of pool.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn restart(&mut self, mode: PoolMode, size: usize) -> io::Result<()> {
        self.stop();
        self.write_config(mode, size)?;
        let log = fs::File::create(self.cluster.log())?;
        let child = self
            .cluster
            .command(program()?)
            // Where the guardian finds the processes to end.
            .current_dir(self.cluster.data())
            .arg("pgbouncer.ini")
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let url = self.url();
        let child = self.running.insert(child);
        let deadline = Instant::now() + PATIENCE;
        while Client::connect(&url, NoTls).is_err() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.cluster.log()).unwrap_or_default();
                return Err(io::Error::other(format!("PgBouncer does not start: {log}")));
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Turns it into another kind of pool and keeps its connections (`RELOAD`).
    ///
    /// # Errors
    ///
    /// It does not accept the change.
    pub fn reload(&self, mode: PoolMode, size: usize) -> io::Result<()> {
        self.write_config(mode, size)?;
        let admin = format!(
            "host=127.0.0.1 port={} user=pgbouncer dbname=pgbouncer",
            self.port
        );
        let mut admin = Client::connect(&admin, NoTls).map_err(io::Error::other)?;
        admin.simple_query("RELOAD").map_err(io::Error::other)?;
        Ok(())
    }

    fn write_config(&self, mode: PoolMode, size: usize) -> io::Result<()> {
        let mode = match mode {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        };
        let pool = format!("pool_mode = {mode}\ndefault_pool_size = {size}\n");
        self.cluster
            .write("pgbouncer.ini", &(self.config.clone() + &pool))
    }

    /// Its loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string that goes through it.
    pub fn url(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres",
            self.port
        )
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.stop();
        self.guardian.finish();
    }
}

/// Finds PgBouncer: on the `PATH`, or where Debian installs it.
fn program() -> io::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.exists())
        .ok_or_else(|| {
            missing(
                io::ErrorKind::NotFound,
                "no PgBouncer found; install it with `apt-get install pgbouncer`".into(),
            )
        })
}
