//! The temporary folder for everything that the demo writes.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Retries, because workers that have lost their parent may still be ending.
const SCRIPT: &str = r#"
read -r _
for n in 1 2 3 4 5; do rm -rf "$0" && break; sleep 0.1; done
"#;

/// A temporary folder that is removed even if this process is killed: by a shell that
/// waits for its standard input, a pipe from this process, to close.
pub(crate) struct Folder {
    folder: TempDir,
    cleaner: Child,
}

impl Folder {
    pub(crate) fn new() -> io::Result<Folder> {
        let folder = tempfile::Builder::new()
            .prefix("batch-workers-")
            .tempdir()?;
        let cleaner = Command::new("sh")
            .args(["-c", SCRIPT])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C ends the demo, but not the shell that cleans up after it.
            .process_group(0)
            .spawn()?;
        Ok(Folder { folder, cleaner })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Waiting closes the pipe first. If it fails, the folder's own drop removes it.
        self.cleaner.wait().ok();
    }
}

/// The name of a run: two runs on one database share neither locks nor a table.
pub(crate) fn run_name(folder: &Path) -> String {
    folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
