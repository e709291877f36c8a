//! The files of a server.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::account::Account;
use crate::binaries;
use crate::missing::missing;

/// A temporary folder for the data, the socket and the log, and the user that owns it.
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

    /// A command that runs one of PostgreSQL's programs, or another one by its full path, as the
    /// server's user.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        // Not this process's folder, which the other user may lack access to; and the
        // guardian identifies the server's processes by it.
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

    /// Puts `lines` before those that trust all users: the first that matches counts.
    pub(crate) fn write_hba(&self, lines: &[String]) -> io::Result<()> {
        let file = self.data().join("pg_hba.conf");
        let trust = fs::read_to_string(&file)?;
        fs::write(&file, format!("{}\n{trust}", lines.join("\n")))
    }

    /// Gives the data a file system of its own, of that many megabytes.
    pub(crate) fn mount(&self, megabytes: u32) -> io::Result<()> {
        let Some(account) = self.account else {
            return Err(missing(
                io::ErrorKind::PermissionDenied,
                "only root can mount a small disk".into(),
            ));
        };
        fs::create_dir(self.data())?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={megabytes}m,mode=0700"))
            .arg("tmpfs")
            .arg(self.data())
            .output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(missing(io::ErrorKind::PermissionDenied, text));
        }
        account.own(&self.data())
    }

    /// Copies a running server's files, as its standby.
    pub(crate) fn copy(&self, primary: &str) -> io::Result<()> {
        if !self.binaries.join("pg_basebackup").exists() {
            return Err(missing(
                io::ErrorKind::NotFound,
                format!("no pg_basebackup in {}", self.binaries.display()),
            ));
        }
        let output = self
            .command("pg_basebackup")
            .arg("--pgdata")
            .arg(self.data())
            .args(["--checkpoint=fast", "--no-sync", "--dbname", primary])
            .output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("pg_basebackup failed: {text}")));
        }
        self.write("standby.signal", "")
    }

    /// Makes the folder of the data, for a program that is not PostgreSQL.
    pub(crate) fn make_data_folder(&self) -> io::Result<()> {
        fs::create_dir(self.data())?;
        match self.account {
            Some(account) => account.own(&self.data()),
            None => Ok(()),
        }
    }

    /// Puts a file into the folder of the data, with the owner and permissions that the server
    /// requires.
    pub(crate) fn write(&self, name: &str, contents: &str) -> io::Result<()> {
        let file = self.data().join(name);
        fs::write(&file, contents)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        match self.account {
            Some(account) => account.own(&file),
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
        // Of two lines for one setting the later counts; the connection strings have these.
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
        // Read after postgresql.conf, which keeps what initdb has determined.
        fs::write(self.data().join("postgresql.auto.conf"), text)
    }
}
