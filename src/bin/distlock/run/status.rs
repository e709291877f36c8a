//! The status file: what became of a run, for programs.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use distlock::Guard;
use nix::fcntl::OFlag;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::obtain::Locks;
use super::outcome::{Ending, Outcome};
use crate::exit::{Exit, Failure};
use crate::keys::number;
use crate::messages;

/// Where it is written to.
enum Place {
    /// A file that is there only when all is known, and is whole then. It has the owner and the rights
    /// of the one before.
    File {
        path: PathBuf,
        before: Option<Metadata>,
    },
    /// Something else of this name, as a pipe or `/dev/fd/3`.
    Stream { path: PathBuf, stream: File },
}

impl Place {
    fn at(path: &Path) -> io::Result<Place> {
        let there = match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            there => Some(there?),
        };
        if is_descriptor(path) || there.as_ref().is_some_and(|there| !there.is_file()) {
            let stream = OpenOptions::new()
                .append(true)
                // A pipe that nobody reads is an error, and not waited for.
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(path)?;
            let path = path.to_owned();
            return Ok(Place::Stream { path, stream });
        }
        // The file that a link leads to is replaced, and not the link.
        let path = match (fs::canonicalize(path), fs::read_link(path)) {
            (Ok(path), _) => path,
            (Err(_), Ok(target)) => path.with_file_name(target),
            (Err(_), Err(_)) => path.to_owned(),
        };
        // One can be made.
        new_file(&path, there.as_ref())?;
        // It would tell of an earlier run if this one is killed.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Place::File {
            path,
            before: there,
        })
    }

    fn path(&self) -> &Path {
        match self {
            Place::File { path, .. } | Place::Stream { path, .. } => path,
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        match self {
            Place::File { path, before } => {
                let mut file = new_file(path, before.as_ref())?;
                file.write_all(text.as_bytes())?;
                file.persist(path)?;
                Ok(())
            }
            Place::Stream { stream, .. } => (&*stream).write_all(text.as_bytes()),
        }
    }
}

/// True if it is a name of an open file, as `/dev/fd/3` and `/dev/stdout` are.
fn is_descriptor(path: &Path) -> bool {
    const MOST_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        if fs::canonicalize(folder(&path)).is_ok_and(|folder| folder.starts_with("/proc")) {
            return true;
        }
        match fs::read_link(&path) {
            Ok(target) => path = folder(&path).join(target),
            Err(_) => return false,
        }
    }
    false
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// An empty file that is to become `path`, of a name that nobody else knows before.
fn new_file(path: &Path, before: Option<&Metadata>) -> io::Result<NamedTempFile> {
    let file = tempfile::Builder::new()
        // Less the umask, as of any new file.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder(path))?;
    if let Some(before) = before {
        // As far as this user may.
        fchown(&file, Some(before.uid()), Some(before.gid())).ok();
        file.as_file().set_permissions(before.permissions())?;
    }
    Ok(file)
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::config(format!("{} of --status-file: {error}", path.display()))
}

/// What the status file tells.
pub(super) struct Status {
    to: Option<Place>,
    locks: Vec<Value>,
    waited: Option<Duration>,
    held: Option<Duration>,
}

impl Status {
    /// Makes sure that it can be written later.
    pub(super) fn new(path: Option<&Path>) -> Result<Status, Failure> {
        let place = |path| Place::at(path).map_err(|error| unwritable(path, &error));
        Ok(Status {
            to: path.map(place).transpose()?,
            locks: Vec::new(),
            waited: None,
            held: None,
        })
    }

    pub(super) fn obtained(&mut self, locks: &Locks, waited: Duration) {
        let lock = |(guard, name): (&Guard, &String)| {
            json!({
                "key": name,
                "number": number(*guard.key()),
                "token": guard.token(),
            })
        };
        self.locks = locks
            .set
            .guards()
            .iter()
            .zip(&locks.names)
            .map(lock)
            .collect();
        self.waited = Some(waited);
    }

    pub(super) fn held_for(&mut self, held: Duration) {
        self.held = Some(held);
    }

    pub(super) fn write(&self, done: &Result<Outcome, Failure>, exit: Exit) {
        let Some(place) = &self.to else {
            return;
        };
        if let Err(error) = place.write(&self.text(done, exit)) {
            // The exit code is that of what happened, all the same.
            messages::error(&unwritable(place.path(), &error));
        }
    }

    fn text(&self, done: &Result<Outcome, Failure>, exit: Exit) -> String {
        let ending = done.as_ref().ok().and_then(|outcome| outcome.ending());
        let (code, signal) = match ending {
            Some(Ending::Exited(code)) => (Some(code), None),
            Some(Ending::Killed(signal)) => (None, Some(signal)),
            Some(Ending::NotStarted(_)) | None => (None, None),
        };
        let text = json!({
            "outcome": done.as_ref().map_or("failed", |outcome| outcome.name()),
            "exit_code": exit.0,
            "command_exit_code": code,
            "command_signal": signal,
            "message": done.as_ref().err().map(ToString::to_string),
            "locks": self.locks,
            "waited_seconds": self.waited.map(|time| time.as_secs_f64()),
            "held_seconds": self.held.map(|time| time.as_secs_f64()),
        });
        format!("{text}\n")
    }
}
