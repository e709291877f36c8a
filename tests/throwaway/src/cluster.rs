//! The files of a server.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::account::Account;
use crate::binaries;

/// A temporary folder for the data, the socket and the log, and who may use it.
#[derive(Debug)]
pub(crate) struct Cluster {
    binaries: PathBuf,
    pub(crate) account: Option<Account>,
    folder: TempDir,
}

impl Cluster {
    /// The folder alone; [`initdb`](Cluster::initdb) fills it.
    pub(crate) fn new() -> io::Result<Cluster> {
        let binaries = binaries::folder()?;
        let account = Account::for_server()?;
        // In /tmp, whatever TMPDIR says: a socket's path has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("pg-").tempdir_in("/tmp")?;
        if let Some(account) = account {
            account.own(folder.path())?;
        }
        Ok(Cluster {
            binaries,
            account,
            folder,
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder().join("log")
    }

    /// One of PostgreSQL's programs, to be run as the server's user.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        // Not the folder this process is in, which the other user may not enter; and
        // the guardian tells the server's processes by it.
        command.current_dir(self.folder()).stdin(Stdio::null());
        if let Some(account) = self.account {
            account.apply(&mut command);
        }
        command
    }

    pub(crate) fn initdb(&self) -> io::Result<()> {
        let output = self
            .command("initdb")
            .arg("--pgdata")
            .arg(self.data())
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync"])
            .output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("initdb failed: {text}")));
        }
        Ok(())
    }

    /// Puts `lines` before those that trust everybody: the first that matches counts.
    pub(crate) fn write_hba(&self, lines: &[String]) -> io::Result<()> {
        let file = self.data().join("pg_hba.conf");
        let trust = fs::read_to_string(&file)?;
        fs::write(&file, format!("{}\n{trust}", lines.join("\n")))
    }

    /// Writes a file of the server's, which takes no private key that others may read.
    pub(crate) fn write_file(&self, name: &str, contents: &str) -> io::Result<()> {
        let path = self.data().join(name);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(contents.as_bytes())?;
        match self.account {
            Some(account) => account.own(&path),
            None => Ok(()),
        }
    }

    pub(crate) fn write_settings(
        &self,
        settings: &[(String, String)],
        port: u16,
    ) -> io::Result<()> {
        let defaults = [
            ("listen_addresses", "127.0.0.1"),
            ("fsync", "off"),
            ("full_page_writes", "off"),
        ];
        let port = port.to_string();
        let folder = self.folder().display().to_string();
        // Of two lines for one setting the later counts; the connection strings say these.
        let fixed = [("port", &*port), ("unix_socket_directories", &*folder)];
        let text: String = defaults
            .into_iter()
            .chain(settings.iter().map(|(name, value)| (&**name, &**value)))
            .chain(fixed)
            .map(|(name, value)| {
                let value = value.replace('\\', r"\\").replace('\'', "''");
                format!("{name} = '{value}'\n")
            })
            .collect();
        // Read after postgresql.conf, which so keeps what initdb found fit.
        fs::write(self.data().join("postgresql.auto.conf"), text)
    }
}
