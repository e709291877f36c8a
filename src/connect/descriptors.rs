//! Checks that the process has file descriptors left for a connection.
//!
//! The driver makes a runtime for each connection and panics if there is no descriptor for it;
//! with `panic = "abort"` that ends the process. So the descriptors are opened and closed before
//! the driver is called. Another thread may take them in the microseconds between: then the
//! driver panics after all, on a thread of the manager's that survives unless panics abort.

use crate::error::Error;

/// What a connection needs: four (the runtime's two for `epoll` and one to wake it, and the
/// socket), and as many again for other threads that open some at the same time.
#[cfg(unix)]
const NEEDED: usize = 8;

/// Fails if there are not enough descriptors for a connection.
#[cfg(unix)]
pub(crate) fn check() -> Result<(), Error> {
    use std::os::unix::net::UnixDatagram;

    // Unbound, so that neither a file nor a port is needed.
    let held: Result<Vec<UnixDatagram>, _> = (0..NEEDED).map(|_| UnixDatagram::unbound()).collect();
    held.map(drop).map_err(|error| {
        Error::unavailable("too many open files: no descriptor left for a connection")
            .caused_by(error)
    })
}

/// Elsewhere sockets do not count as files.
#[cfg(not(unix))]
pub(crate) fn check() -> Result<(), Error> {
    Ok(())
}
