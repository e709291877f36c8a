//! The settings of a server.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::TcpListener;

use crate::cluster::Cluster;
use crate::server::Server;

/// How many ports a start tries when another process takes them meanwhile.
const PORTS: u32 = 5;

/// The settings of a [`Server`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    /// The connection string of the server to follow.
    primary: Option<String>,
    files: Vec<(String, String)>,
    disk: Option<u32>,
}

impl Builder {
    /// A setting of postgresql.conf. By default the server listens on 127.0.0.1 and does not
    /// protect its data against crashes of the machine (`fsync`, `full_page_writes`). Its port
    /// and the folder of its socket cannot be set.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A line for pg_hba.conf, before the default, which trusts all users.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// Makes it a streaming standby of `primary`, with the name `standby`, until it is
    /// [promoted](Server::promote).
    #[must_use]
    pub fn standby_of(mut self, primary: &Server) -> Self {
        let primary = primary.url();
        self.primary = Some(primary.clone());
        let primary = primary.replace(" dbname=postgres", "");
        self.setting(
            "primary_conninfo",
            &format!("{primary} application_name=standby"),
        )
    }

    /// A file in the data folder, such as a certificate, that only the server may read.
    #[must_use]
    pub fn file(mut self, name: &str, contents: &str) -> Self {
        self.files.push((name.to_owned(), contents.to_owned()));
        self
    }

    /// Gives it a disk of its own, in memory, of that many megabytes. Only root can do that, and
    /// not in every container.
    #[must_use]
    pub fn disk(mut self, megabytes: u32) -> Self {
        self.disk = Some(megabytes);
        self
    }

    /// Makes the cluster and starts the server.
    ///
    /// # Errors
    ///
    /// There is no PostgreSQL, or it does not start; then the error has its log. For the error
    /// [`is_missing`](crate::is_missing) is true if there can be no disk, or no standby
    /// because `pg_basebackup` is not among the server's programs.
    pub fn start(self) -> io::Result<Server> {
        let cluster = Cluster::new()?;
        // The user that mounts a disk has to unmount it.
        let guard = cluster.account.filter(|_| self.disk.is_none());
        let mut server = Server::stopped(cluster, guard)?;
        if let Some(megabytes) = self.disk {
            server.cluster.mount(megabytes)?;
        }
        match &self.primary {
            Some(primary) => server.cluster.copy(primary)?,
            None => server.cluster.initdb()?,
        }
        server.cluster.write_hba(&self.hba)?;
        for (name, contents) in &self.files {
            server.cluster.write(name, contents)?;
        }
        for attempt in 1.. {
            server.port = free_port()?;
            server.cluster.write_settings(&self.settings, server.port)?;
            match server.start_again() {
                Ok(()) => break,
                Err(error) if attempt < PORTS && error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Ok(server)
    }
}

/// A port that no process listens on at the moment.
///
/// Not one of those that the kernel assigns to outgoing connections, by default from 32768 on:
/// such a connection could take the port while the server is stopped, and a client that
/// tries to reconnect meanwhile could even connect to itself.
pub(crate) fn free_port() -> io::Result<u16> {
    let random = RandomState::new();
    (0..1000)
        .map(|n| {
            let [high, low, ..] = random.hash_one(n).to_be_bytes();
            20_000 + u16::from_be_bytes([high, low]) % 12_000
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "no free loopback port"))
}
