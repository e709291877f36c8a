//! This process's connections to the database, for the guardian to keep open.

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{
    ControlMessage, MsgFlags, SockaddrLike, SockaddrStorage, getpeername, sendmsg,
};

/// The most descriptors of one message: `SCM_MAX_FD` of the kernel.
const MOST: usize = 253;

/// Sends `bytes` with the standard input and all connections but the `inherited` ones. The number of
/// connections.
///
/// The driver owns its connection and does not give it away; but the kernel duplicates a descriptor
/// for another process by its number alone.
pub(super) fn send(to: &UnixStream, bytes: &[u8], inherited: &[RawFd]) -> io::Result<usize> {
    let mut descriptors = vec![io::stdin().as_raw_fd()];
    let mut connections = connections()?;
    connections.retain(|descriptor| !inherited.contains(descriptor));
    descriptors.extend(connections);
    if descriptors.len() > MOST {
        return Err(io::Error::other("too many connections"));
    }
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(bytes)], &rights, flags, None)?;
    Ok(descriptors.len() - 1)
}

/// Sockets with a peer that has an address: not the pairs that threads and processes talk by.
pub(super) fn connections() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(descriptor) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if descriptor > 2 && has_peer(descriptor) {
            found.push(descriptor);
        }
    }
    Ok(found)
}

fn has_peer(descriptor: RawFd) -> bool {
    let Ok(peer) = getpeername::<SockaddrStorage>(descriptor) else {
        return false;
    };
    match peer.as_unix_addr() {
        Some(unix) => unix.path().is_some() || unix.as_abstract().is_some(),
        None => peer.family().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_found_and_a_pair_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (pair, _other) = UnixStream::pair().unwrap();
        let found = connections().unwrap();
        assert!(found.contains(&connection.as_raw_fd()));
        assert!(!found.contains(&pair.as_raw_fd()));
        assert!(!found.contains(&listener.as_raw_fd()));
    }
}
