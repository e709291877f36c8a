//! The user that the server runs as.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A user to run processes as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The unprivileged user to run PostgreSQL as; `None` if this process is not root.
    pub(crate) fn for_server() -> io::Result<Option<Account>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd")?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| Account::named(&passwd, name))
            .map(Some)
            .ok_or_else(|| io::Error::other("root needs a user `postgres` or `nobody`"))
    }

    fn named(passwd: &str, name: &str) -> Option<Account> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next()? != name {
                return None;
            }
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Account { uid, gid })
        })
    }

    pub(crate) fn own(self, path: &std::path::Path) -> io::Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
    }

    /// Makes `command` run as this user. The standard library then also drops root's
    /// supplementary groups.
    pub(crate) fn apply(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}
