//! Whether the process has file descriptors left for a connection.
//!
//! The driver makes a runtime for each connection and panics where there is no descriptor
//! for it; with `panic = "abort"` that is the end of the process. So they are tried before
//! the driver is called. Another thread may take them between the two, a matter of
//! microseconds: then the driver panics after all, on a thread of ours that survives it
//! unless panics abort.

use crate::error::Error;

/// What a connection needs at once: four (the runtime's two of `epoll` and one to wake it,
/// and the socket), and as many again for other threads that are about to take one.
#[cfg(unix)]
const NEEDED: usize = 8;

/// Fails if a connection could not be made for want of descriptors.
#[cfg(unix)]
pub(crate) fn check() -> Result<(), Error> {
    use std::os::unix::net::UnixDatagram;

    // Bound to nothing, so that neither a file nor a port is needed.
    let held: Result<Vec<UnixDatagram>, _> = (0..NEEDED).map(|_| UnixDatagram::unbound()).collect();
    held.map(drop).map_err(|error| {
        Error::unavailable("too many open files: there is none left for a connection")
            .caused_by(error)
    })
}

/// Elsewhere sockets are not counted with files.
#[cfg(not(unix))]
pub(crate) fn check() -> Result<(), Error> {
    Ok(())
}
